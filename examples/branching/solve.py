"""SCIP solves held-out instances with a learned rule or a built-in one: nodes and seconds."""

from typing import Any

import numpy as np
import torch
from pyscipopt import Branchrule
from pyscipopt.scip import PY_SCIP_RESULT

from . import instances
from .collect import Tree, candidate_columns, node_graph
from .trunk import Nodes, Rule, Scaling

SCIP_RULES = ("pscost", "relpscost", "random")
SECONDS = 30.0  # per instance


class Learned(Branchrule):
    """Branches on the candidate with the highest score."""

    def __init__(self, rule: Rule, scaling: Scaling) -> None:
        self.rule, self.scaling = rule, scaling

    @torch.no_grad()
    def branchexeclp(self, allowaddcons: bool) -> dict[str, Any]:
        graph = node_graph(self.model)
        candidates, places = candidate_columns(self.model, graph)
        batch = Nodes([_tree(graph)], self.scaling).batch([0], [places])
        encode, score = self.rule
        self.model.branchVar(candidates[int(score(encode(batch)).argmax())])
        return {"result": PY_SCIP_RESULT.BRANCHED}


def _tree(graph: dict[str, np.ndarray]) -> Tree:
    """A node's LP as a tree of one node."""
    none = np.zeros(0)
    here = graph["columns"][None], graph["rows"][None], np.zeros(1)
    return Tree(graph["edges"], graph["coefficients"], *here, none, none, none, none, none)


def solve(inst: instances.Instance, seed: int, rule: str | Rule, scaling: Scaling) -> dict[str, Any]:
    """Nodes, CPU seconds and the status of one run."""
    scip = instances.model(inst, seed)
    scip.setParam("limits/time", SECONDS)
    if isinstance(rule, str):
        scip.setParam(f"branching/{rule}/priority", 10**8)
    else:
        scip.includeBranchrule(Learned(rule, scaling), "learned", "", priority=10**8, maxdepth=-1, maxbounddist=1.0)
    scip.optimize()
    return {"nodes": scip.getNTotalNodes(), "seconds": scip.getSolvingTime(), "status": scip.getStatus()}


def shifted_mean(values: list[float], shift: float) -> float:
    """Geometric mean with a shift, so that instances of a few nodes do not decide it."""
    return float(np.exp(np.log(np.array(values) + shift).mean()) - shift)
