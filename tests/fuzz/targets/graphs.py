"""Adversarial graphs, for every masker of graphs and for solver states.

A plain reading of the offsets and edges says whether a graph is in order; if it is, the masker has to hide what it
promises, exactly, and if not, it has to refuse it.
"""

import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from jepa_ssl import BipartiteGraph, BlockMasker, ComposeMaskers, EdgeMasker, MultiView, NodeMasker, Seeds
from jepa_ssl.lp import SolverState, SparseLP
from jepa_ssl.maskers import GaussianNoise, LearnedToken, Shuffled, Zeros

from ..judging import Input, Target
from .pool import odd_tensor, seeded, unwritten

KINDS = ("constraint", "variable")
SIZES = (0, 0, 1, 1, 1, 2, 2, 3, 5, 8, 13, 40)
HUGE = 10**6  # nodes of one graph, beside a hundred of size 1
HUGE_EVERY = 1000  # inputs


def target() -> Target:
    def make(rng: random.Random) -> Input:
        g = seeded(rng)
        graph, shape = _huge(g) if rng.randrange(HUGE_EVERY) == 0 else _batch(rng, g)
        said = _Said(shape)
        state = rng.getstate()

        def run() -> None:
            rng.setstate(state)
            seen = graph
            if rng.random() < 0.4:
                seen = _spoilt(rng, graph, said)
            _use(rng, seen, g, said)

        return Input(said, run)

    return make


class _Said:
    def __init__(self, *parts: object) -> None:
        self.parts = list(parts)

    def __str__(self) -> str:
        return ", ".join(map(str, self.parts))


def _batch(rng: random.Random, g: torch.Generator) -> tuple[BipartiteGraph, str]:
    sizes = [(rng.choice(SIZES), rng.choice(SIZES)) for _ in range(rng.choice((0, 1, 1, 2, 3, 7)))]
    kind = rng.choice(("none", "star", "complete", "twice", "random", "chain", "one edge"))
    first, edges = (0, 0), [torch.zeros(2, 0, dtype=torch.int64)]
    for m, n in sizes:
        edges.append(_edges(rng, kind, m, n) + torch.tensor(first).unsqueeze(1))
        first = (first[0] + m, first[1] + n)
    offsets = [torch.tensor([0, *[size[i] for size in sizes]]).cumsum(0) for i in range(2)]
    index = torch.cat(edges, dim=1)
    if rng.random() < 0.5:
        index = index[:, torch.randperm(index.size(1), generator=g)]
    dtype = rng.choice((torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16))
    parts = [torch.randn(k, w, generator=g).to(dtype) for k, w in ((first[0], 3), (index.size(1), 1), (first[1], 2))]
    return BipartiteGraph(parts[0], index, parts[1], parts[2], *offsets), f"{kind} {sizes} {dtype}"


def _edges(rng: random.Random, kind: str, m: int, n: int) -> Tensor:
    if not m or not n or kind == "none":
        return torch.zeros(2, 0, dtype=torch.int64)
    if kind == "complete":
        return torch.cartesian_prod(torch.arange(m), torch.arange(n)).T
    ends = {
        "star": [(0, j) for j in range(n)] + [(i, 0) for i in range(1, m)],
        "chain": [(i, j) for i in range(m) for j in (i, i + 1) if j < n],
        "one edge": [(m - 1, n - 1)],
        "twice": [(0, 0)] * 5 + [(m - 1, n - 1)] * 2,
        "random": [(rng.randrange(m), rng.randrange(n)) for _ in range(rng.randint(0, 3 * (m + n)))],
    }[kind]
    return torch.tensor(ends, dtype=torch.int64).reshape(-1, 2).T


def _huge(g: torch.Generator) -> tuple[BipartiteGraph, str]:
    """One graph of a million nodes beside a hundred of two, an edge for each constraint."""
    sizes = torch.cat([torch.ones(50, dtype=torch.int64), torch.tensor([HUGE // 2]), torch.ones(50, dtype=torch.int64)])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    nodes = int(offsets[-1])
    index = torch.arange(nodes).repeat(2, 1)
    parts = [torch.randn(nodes, 1, generator=g) for _ in range(3)]
    wide = [part.repeat(1, w) for part, w in zip(parts, (3, 1, 2), strict=True)]
    return BipartiteGraph(wide[0], index, wide[1], wide[2], offsets, offsets), "a million nodes beside a hundred of one"


def _spoilt(rng: random.Random, graph: BipartiteGraph, said: _Said) -> BipartiteGraph:
    """With other offsets, other edges, or other features."""
    field = rng.choice(("constraint_offsets", "variable_offsets", "edge_index", "edge_index", "edge_attr"))
    field = rng.choice((field, field, "constraint_features", "variable_features"))
    values: Tensor = getattr(graph, field)
    way = rng.randrange(5)
    if way == 0 or values.dtype != torch.int64 or not values.numel():
        values = odd_tensor(rng, values)
    elif way == 1:
        values = values.clone()
        values.view(-1)[rng.randrange(values.numel())] += rng.choice((-1, 1, 2, 100, 2**40, -(2**62)))
    elif way == 2:
        values = values.flip(-1)
    elif way == 3:
        values = values.flip(0)
    else:
        values = values[..., : rng.randint(0, values.size(-1))]
    numbers = values.flatten()[:20].tolist() if values.device.type == "cpu" else "on meta"
    said.parts.append(f"{field} of {values.dtype} {list(values.shape)}: {numbers}")
    return replace(graph, **{field: values})


def _is_in_order(graph: BipartiteGraph) -> bool:
    """Read plainly."""
    ends: list[list[int]] = []
    owners: list[list[int]] = []
    for kind in KINDS:
        offsets = graph.offsets(kind).tolist()
        if offsets[0] != 0 or offsets[-1] != len(graph.features(kind)) or offsets != sorted(offsets):
            return False
        owners.append([i for i, (a, b) in enumerate(pairwise(offsets)) for _ in range(b - a)])
    for row, owner in zip(graph.edge_index.tolist(), owners, strict=True):
        if any(not 0 <= node < len(owner) for node in row):
            return False
        ends.append([owner[node] for node in row])
    return ends[0] == ends[1]


def _use(rng: random.Random, graph: BipartiteGraph, g: torch.Generator, said: _Said) -> None:
    ratio = rng.choice((0.01, 0.3, 0.5, 0.7, 0.99, 1e-9, 1 - 1e-9))
    width = {"constraint": 3, "variable": 2, "edge": 1}
    fill = rng.choice(
        (Zeros(), GaussianNoise(0.5), Shuffled(), LearnedToken(width), LearnedToken(dict.fromkeys(width, 1)))
    )
    options: dict[str, Any] = {"indicator": rng.random() < 0.3, "hide_edges": rng.random() < 0.5}
    names = torch.arange(graph.num_graphs) if rng.random() < 0.9 else torch.zeros(graph.num_graphs, dtype=torch.int64)
    generator: Any = rng.choice((g, None, Seeds(names, epoch=rng.randint(0, 3))))
    makers: dict[str, Any] = {
        "nodes": lambda: NodeMasker(ratio, fill, **options),
        "nodes of a kind": lambda: NodeMasker({"constraint": ratio, "variable": 0}, fill, **options),
        "blocks": lambda: BlockMasker(ratio, hops=rng.randint(1, 4), blocks=rng.randint(1, 3), fill=fill, **options),
        "edges": lambda: EdgeMasker(ratio, fill, indicator=options["indicator"]),
        "compose": lambda: ComposeMaskers(NodeMasker(ratio, fill), EdgeMasker(0.5), BlockMasker(0.2)),
        "several": lambda: MultiView(NodeMasker(ratio, fill), BlockMasker(0.2)),
        "states": lambda: None,
    }
    name = rng.choice(list(makers))
    said.parts.append(f"{name} {ratio} {type(fill).__name__} {options} {type(generator).__name__}")
    try:
        in_order = len(graph.edge_attr) == HUGE // 2 + 100 or _is_in_order(graph)
        finite = all(part.isfinite().all() for part in vars(graph).values() if part.is_floating_point())
    except (RuntimeError, NotImplementedError):  # on the meta device
        in_order = finite = False
    if name == "states":
        _states(graph, in_order)
        return
    made: Any = unwritten(lambda: makers[name]()(graph, generator=generator), graph)
    assert in_order, "a graph that is not in order was accepted"
    assert finite, "a number that is not finite was accepted"
    for views in made if isinstance(made, tuple) else (made,):
        _check_shapes(views, graph)
    if name in ("nodes", "blocks", "nodes of a kind"):
        _check_counts(made, graph, {"constraint": ratio, "variable": 0 if name == "nodes of a kind" else ratio})
    if name == "edges":
        _check_edges(made, graph, ratio)


def _check_shapes(views: Any, graph: BipartiteGraph) -> None:
    for kind in KINDS:
        nodes = len(graph.features(kind))
        assert len(views.context.features(kind)) == nodes, f"{kind}: nodes were lost"
        assert views.hidden[kind].shape == (nodes,), f"{kind}: hidden has another shape"
        assert views.weight[kind].isfinite().all(), f"{kind}: a weight is not finite"
        changed = (views.context.features(kind)[:, : graph.features(kind).size(1)] != graph.features(kind)).any(1)
        assert not (changed & ~views.hidden[kind]).any(), f"{kind}: what was not hidden has changed"
        totals = torch.zeros(graph.num_graphs, dtype=torch.float64)
        totals.index_add_(0, graph.graph_of(kind), views.weight[kind].double())
        some = torch.zeros(graph.num_graphs, dtype=torch.int64).index_add_(
            0, graph.graph_of(kind), views.hidden[kind].long()
        )
        expected = (some > 0).double()
        assert torch.allclose(totals, expected, atol=1e-3), f"{kind}: graphs do not weigh the same: {totals}"


def _check_counts(views: Any, graph: BipartiteGraph, ratios: dict[str, float]) -> None:
    for kind, ratio in ratios.items():
        offsets, marks = graph.offsets(kind), views.hidden[kind]
        for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            size = end - begin
            wanted = max(min(max(int(ratio * size), 1), size - 1), 0) if ratio else 0
            found = int(marks[begin:end].sum())
            assert found == wanted, f"{kind}: {found} of {size} hidden, not {wanted}"


def _check_edges(views: Any, graph: BipartiteGraph, ratio: float) -> None:
    owner = graph.graph_of("constraint")[graph.edge_index[0]]
    sizes = torch.zeros(graph.num_graphs, dtype=torch.int64).index_add_(0, owner, torch.ones_like(owner))
    for number in range(min(graph.num_graphs, 200)):
        ends = graph.edge_index[:, owner == number]
        if ends.size(1) < 2:
            assert not views.hidden["constraint"][ends[0]].any(), "a lone edge was hidden"
        else:
            assert views.hidden["constraint"][ends[0]].any(), "no edge was hidden"
    before, after = (x.unsqueeze(1) if x.ndim == 1 else x for x in (graph.edge_attr, views.context.edge_attr))
    changed = (after[:, : before.size(1)] != before).flatten(1).any(1)
    limit = sum(max(min(max(int(ratio * size), 1), size - 1), 0) for size in sizes.tolist())
    assert int(changed.sum()) <= limit, "more edges were hidden than asked for"


def _states(graph: BipartiteGraph, in_order: bool) -> None:
    lp = SparseLP.inequalities_of(graph)
    states = SolverState((1, 3)).states(lp)
    assert in_order, "a graph that is not in order was accepted"
    for kind in KINDS:
        assert states[kind].shape == (len(graph.features(kind)), 4), f"{kind}: states have another shape"
