"""Nodes of SCIP's trees: their LPs as graphs, the gains of the branchings, and strong-branching scores of some."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from pyscipopt import Branchrule, Model
from pyscipopt.scip import PY_SCIP_RESULT

from jepa_ssl.files import write_atomically

from . import instances

COLUMNS = ("obj_coef", "sol_val", "sol_frac", "red_cost", "sol_at_lb", "sol_at_ub", "basis_lower", "basis_basic", "age")
ROWS = ("n_non_zeros", "obj_cosine", "norm", "sol_at_lhs", "sol_at_rhs", "dual_sol", "basis_basic", "age")
PRICED = ("obj_coef", "red_cost", "dual_sol")  # divided by the largest cost, so that gains do not depend on units
EPS = 1e-6


@dataclass(frozen=True)
class Tree:
    """What was seen of one instance. All its nodes have the same rows, columns and coefficients."""

    edges: np.ndarray  # [2, edges]: row, column
    coefficients: np.ndarray  # [edges]
    columns: np.ndarray  # [nodes, columns, COLUMNS]
    rows: np.ndarray  # [nodes, rows, ROWS]
    bounds: np.ndarray  # [nodes]: optimal value of the node's LP, in units of the largest cost
    branchings: np.ndarray  # [branchings, 4]: parent node, child node, column, 1 if up
    gains: np.ndarray  # [branchings]: how far the bound of the child's LP is above the parent's
    labelled: np.ndarray  # [candidates]: the node of each labelled candidate
    candidates: np.ndarray  # [candidates]: its column
    scores: np.ndarray  # [candidates]: strong-branching score, 1 for the best of the node


def node_graph(scip: Model) -> dict[str, np.ndarray]:
    """The current node's LP: columns, rows, edges and coefficients."""
    columns, edges, rows, places = scip.getBipartiteGraphRepresentation()
    table = {"columns": _taken(columns, places["col"], COLUMNS), "rows": _taken(rows, places["row"], ROWS)}
    scale = np.abs(table["columns"][:, COLUMNS.index("obj_coef")]).max()
    for name, kept in ("columns", COLUMNS), ("rows", ROWS):
        table[name][:, [kept.index(each) for each in PRICED if each in kept]] /= scale
    listed = np.array(edges, dtype=np.float32).T  # column, row, coefficient
    return {**table, "edges": listed[[1, 0]].astype(np.int64), "coefficients": listed[2], "scale": scale}


def _taken(listed: list[list[Any]], places: dict[str, int], kept: Sequence[str]) -> np.ndarray:
    order = [places[name] for name in kept]
    return np.array([[each[i] for i in order] for each in listed], dtype=np.float32)


def candidate_columns(scip: Model, graph: dict[str, np.ndarray]) -> tuple[list[Any], np.ndarray]:
    """The branching candidates and the places of their columns, whose LP values must be those of the candidates."""
    candidates, values, *_ = scip.getLPBranchCands()
    places = np.array([candidate.getCol().getLPPos() for candidate in candidates])
    there = graph["columns"][places, COLUMNS.index("sol_val")]
    assert np.allclose(there, values, atol=1e-5), "a candidate's LP value is not that of its column"
    return candidates, places


def strong_branching(scip: Model, candidates: Sequence[Any]) -> np.ndarray:
    """Product of the two gains of each candidate, square root, divided by the largest of the node.

    A child that is infeasible counts as the largest gain of the node.
    """
    bound, found = scip.getLPObjVal(), []
    scip.startStrongbranch()
    for candidate in candidates:
        down, up, _, _, no_down, no_up, *_ = scip.getVarStrongbranch(candidate, 10_000, idempotent=True)
        found.append([np.nan if no else max(value - bound, 0.0) for value, no in ((down, no_down), (up, no_up))])
    scip.endStrongbranch()
    gains = np.array(found)
    largest = np.nanmax(gains) if np.isfinite(gains).any() else 1.0
    scores = np.sqrt(np.maximum(np.where(np.isnan(gains), largest, gains), EPS * max(largest, EPS)).prod(1))
    return scores / scores.max()


class Collector(Branchrule):
    """Looks at each node before SCIP's own rule branches on it."""

    def __init__(self, every: int, labels: int) -> None:
        self.every, self.labels = every, labels
        self.first: dict[str, np.ndarray] = {}
        self.number: dict[int, int] = {}  # of SCIP's node -> of ours
        self.kept: dict[str, list[Any]] = {field.name: [] for field in fields(Tree)}

    def branchexeclp(self, allowaddcons: bool) -> dict[str, Any]:
        graph, kept = node_graph(self.model), self.kept
        self.first = self.first or graph
        if np.array_equal(graph["edges"], self.first["edges"]) and np.isfinite(graph["columns"]).all():
            node, here = self.model.getCurrentNode(), len(kept["bounds"])
            if node.getNumber() not in self.number:  # SCIP may ask again, after it changed bounds
                self.number[node.getNumber()] = here
                for name in ("columns", "rows"):
                    kept[name].append(graph[name])
                kept["bounds"].append(self.model.getLPObjVal() / graph["scale"])
                self._log(node, here)
                self._label(graph, here)
        return {"result": PY_SCIP_RESULT.DIDNOTRUN}

    def _log(self, node: Any, here: int) -> None:
        branched = node.getParentBranchings()
        if branched is None or len(branched[0]) != 1 or node.getParent().getNumber() not in self.number:
            return
        parent = self.number[node.getParent().getNumber()]
        self.kept["branchings"].append([parent, here, branched[0][0].getCol().getLPPos(), int(branched[2][0] == 0)])
        self.kept["gains"].append(self.kept["bounds"][here] - self.kept["bounds"][parent])

    def _label(self, graph: dict[str, np.ndarray], here: int) -> None:
        if not self.every or here % self.every or len(set(self.kept["labelled"])) >= self.labels:
            return
        candidates, places = candidate_columns(self.model, graph)
        if len(candidates) > 1:
            self.kept["labelled"] += [here] * len(candidates)
            self.kept["candidates"] += places.tolist()
            self.kept["scores"] += strong_branching(self.model, candidates).tolist()

    def tree(self) -> dict[str, np.ndarray]:
        whole = {"branchings": np.int64, "labelled": np.int64, "candidates": np.int64}
        found = {name: np.array(some, dtype=whole.get(name, np.float32)) for name, some in self.kept.items()}
        found["branchings"] = found["branchings"].reshape(-1, 4)
        return {**found, "edges": self.first["edges"], "coefficients": self.first["coefficients"]}


def collect(
    inst: instances.Instance, seed: int, nodes: int, every: int = 0, labels: int = 0, rule: str = "pscost"
) -> dict[str, np.ndarray]:
    """Solve an instance for `nodes` nodes with one of SCIP's rules, and label every `every`-th, at most `labels`.

    Returns the arrays of a `Tree`; none if the tree has no branching.
    """
    scip, collector = instances.model(inst, seed), Collector(every, labels)
    scip.includeBranchrule(collector, "collector", "", priority=10**8, maxdepth=-1, maxbounddist=1.0)
    scip.setParams({"limits/nodes": nodes, f"branching/{rule}/priority": 10**7, "nodeselection/bfs/stdpriority": 10**8})
    scip.optimize()
    return collector.tree() if collector.kept["gains"] else {}


def stored(path: Path, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays in the file, which are computed and written, whole or not at all, if it is missing."""
    if not path.exists():
        arrays = compute()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: np.savez_compressed(file, **arrays))  # pyright: ignore[reportArgumentType]
    with np.load(path, allow_pickle=False) as held:
        return {name: held[name] for name in held.files}


def trees(folder: Path, family: str, role: str, size: int, count: int, **asked: Any) -> list[Tree]:
    """One tree per instance, each stored as a file when it is done, so that a killed run resumes."""
    found: list[dict[str, np.ndarray]] = []
    for number in range(count):
        settings = "-".join(f"{name}{value}" for name, value in asked.items())
        path = folder / f"{family}-{role}-size{size}-{settings}-{number:03}.npz"
        inst = instances.instance(family, role, number, size)
        found.append(stored(path, lambda inst=inst, number=number: collect(inst, number, **asked)))
    return [Tree(**arrays) for arrays in found if arrays]
