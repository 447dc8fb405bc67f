"""Adversarial graphs, for every masker of graphs and for solver states.

A plain reading of offsets and edges tells whether a graph is in order. If it is, the masker must hide exactly what it
promises. If not, the masker must refuse it.
"""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from jepa_ssl import BipartiteGraph, BlockMasker, ComposeMaskers, EdgeMasker, MultiView, NodeMasker, Seeds
from jepa_ssl.lp import SolverState, SparseLP
from jepa_ssl.maskers import GaussianNoise, LearnedToken, Shuffled, Zeros

from ..judging import Input
from .pool import Draw, below, chance, made_by, odd_tensor, one, refusal, seeded, unwritten

KINDS = ("constraint", "variable")
SIZES = st.sampled_from((0, 0, 1, 1, 1, 2, 2, 3, 5, 8, 13, 40))
HUGE = 10**6  # nodes of one graph, beside a hundred graphs of one node of each kind
WIDTHS = {"constraint": 3, "variable": 2, "edge": 1}
FILLS = (Zeros(), GaussianNoise(0.5), Shuffled(), LearnedToken(WIDTHS), LearnedToken(dict.fromkeys(WIDTHS, 1)))


def inputs() -> st.SearchStrategy[Input]:
    return made_by(_input)


def _input(draw: Draw) -> Input:
    g = seeded(draw)
    said: list[Any] = []
    huge = below(draw, 1000) == 999
    graph = _huge(g) if huge else _batch(draw, g, said)
    spoilt = graph
    if chance(draw, 40):
        try:
            spoilt = _spoilt(draw, graph, said)
        except ValueError as error:
            return refusal(error, said)
    name, ratio, masker, generator = _masker(draw, graph, g, said)
    return Input(said, lambda: _use(spoilt, name, ratio, masker, generator, huge))


def _batch(draw: Draw, g: torch.Generator, said: list[Any]) -> BipartiteGraph:
    sizes = draw(st.lists(st.tuples(SIZES, SIZES), max_size=7))
    kind = one(draw, ("none", "star", "complete", "twice", "random", "chain", "one edge"))
    offsets = [torch.tensor([0, *(size[i] for size in sizes)]).cumsum(0) for i in range(2)]
    edges = [_edges(kind, m, n, g) for m, n in sizes]
    moved = [index + torch.stack([o[i] for o in offsets]).unsqueeze(1) for i, index in enumerate(edges)]
    index = torch.cat([torch.zeros(2, 0, dtype=torch.int64), *moved], dim=1)
    if draw(st.booleans()):
        index = index[:, torch.randperm(index.size(1), generator=g)]
    dtype = one(draw, (torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16))
    said += [kind, sizes, dtype]
    return _graph(index, offsets, g, dtype)


def _graph(index: Tensor, offsets: list[Tensor], g: torch.Generator, dtype: torch.dtype) -> BipartiteGraph:
    counts = (int(offsets[0][-1]), index.size(1), int(offsets[1][-1]))
    c, e, v = (torch.randn(count, w, generator=g).to(dtype) for count, w in zip(counts, (3, 1, 2), strict=True))
    return BipartiteGraph(c, index, e, v, *offsets)


def _edges(kind: str, m: int, n: int, g: torch.Generator) -> Tensor:
    if not m or not n or kind == "none":
        return torch.zeros(2, 0, dtype=torch.int64)
    if kind == "random":
        return torch.stack([torch.randint(size, (m + n,), generator=g) for size in (m, n)])
    ends = {
        "complete": [(i, j) for i in range(m) for j in range(n)],
        "star": [(0, j) for j in range(n)] + [(i, 0) for i in range(1, m)],
        "chain": [(i, j) for i in range(m) for j in (i, i + 1) if j < n],
        "one edge": [(m - 1, n - 1)],
        "twice": [(0, 0)] * 5 + [(m - 1, n - 1)] * 2,
    }[kind]
    return torch.tensor(ends, dtype=torch.int64).reshape(-1, 2).T


def _huge(g: torch.Generator) -> BipartiteGraph:
    sizes = torch.ones(101, dtype=torch.int64)
    sizes[50] = HUGE // 2
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    return _graph(torch.arange(int(offsets[-1])).repeat(2, 1), [offsets, offsets], g, torch.float32)


def _spoilt(draw: Draw, graph: BipartiteGraph, said: list[Any]) -> BipartiteGraph:
    """Change offsets, edges or features."""
    offsets, features = ([f"{kind}_{part}" for kind in KINDS] for part in ("offsets", "features"))
    field = one(draw, [*offsets, *offsets, "edge_index", "edge_index", "edge_attr", *features])
    values: Tensor = getattr(graph, field)
    way = below(draw, 5)
    if way == 0 or values.dtype != torch.int64 or not values.numel():
        values = odd_tensor(draw, values)
    elif way == 1:
        values = values.clone()
        values.view(-1)[below(draw, values.numel())] += one(draw, (-1, 1, 2, 100, 2**40, -(2**62)))
    else:
        last = values.size(-1)
        values = values.flip(-1) if way == 2 else values.flip(0) if way == 3 else values[..., : below(draw, last + 1)]
    numbers = values.flatten()[:20].tolist() if values.device.type == "cpu" else "on meta"
    said.append(f"{field} of {values.dtype} {list(values.shape)}: {numbers}")
    return replace(graph, **{field: values})


def _masker(draw: Draw, graph: BipartiteGraph, g: torch.Generator, said: list[Any]) -> tuple[str, float, Any, Any]:
    ratio, fill = one(draw, (0.01, 0.3, 0.5, 0.7, 0.99, 1e-9, 1 - 1e-9)), one(draw, FILLS)
    indicator = chance(draw, 30)
    options: dict[str, Any] = {"indicator": indicator, "hide_edges": draw(st.booleans()), "fill": fill}
    names = torch.arange(graph.num_graphs) * (not chance(draw, 10))
    generator: Any = one(draw, (g, None, Seeds(names, epoch=below(draw, 4))))
    hops, blocks = 1 + below(draw, 4), 1 + below(draw, 3)
    makers: dict[str, Any] = {
        "nodes": lambda: NodeMasker(ratio, **options),
        "nodes of a kind": lambda: NodeMasker({"constraint": ratio, "variable": 0}, **options),
        "blocks": lambda: BlockMasker(ratio, hops=hops, blocks=blocks, **options),
        "edges": lambda: EdgeMasker(ratio, fill, indicator=indicator),
        "compose": lambda: ComposeMaskers(NodeMasker(ratio, fill), EdgeMasker(0.5), BlockMasker(0.2)),
        "several": lambda: MultiView(NodeMasker(ratio, fill), BlockMasker(0.2)),
        "states": lambda: None,
    }
    name = one(draw, list(makers))
    said.append(f"{name} {ratio} {options} hops={hops} blocks={blocks} {type(generator).__name__}")
    return name, ratio, makers[name], generator


def _is_in_order(graph: BipartiteGraph) -> bool:
    """Read the graph plainly."""
    ends: list[list[int]] = []
    for kind, row in zip(KINDS, graph.edge_index.tolist(), strict=True):
        offsets = graph.offsets(kind).tolist()
        if offsets[0] != 0 or offsets[-1] != len(graph.features(kind)) or offsets != sorted(offsets):
            return False
        owner = [i for i, (a, b) in enumerate(pairwise(offsets)) for _ in range(b - a)]
        if any(not 0 <= node < len(owner) for node in row):
            return False
        ends.append([owner[node] for node in row])
    return ends[0] == ends[1]


def _use(graph: BipartiteGraph, name: str, ratio: float, masker: Any, generator: Any, huge: bool) -> None:
    try:
        in_order = huge or _is_in_order(graph)
        finite = all(part.isfinite().all() for part in graph.values().values())
    except (RuntimeError, NotImplementedError):  # on the meta device
        in_order = finite = False
    if name == "states":
        states = SolverState((1, 3)).states(SparseLP.inequalities_of(graph))
        assert in_order, "a graph that is not in order was accepted"
        for kind in KINDS:
            assert states[kind].shape == (len(graph.features(kind)), 4), f"{kind}: states have another shape"
        return
    made: Any = unwritten(lambda: masker()(graph, generator=generator), graph)
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
        nodes, owner, hidden = len(graph.features(kind)), graph.graph_of(kind), views.hidden[kind]
        assert len(views.context.features(kind)) == nodes, f"{kind}: nodes were lost"
        assert hidden.shape == (nodes,), f"{kind}: hidden has another shape"
        assert views.weight[kind].isfinite().all(), f"{kind}: a weight is not finite"
        changed = (views.context.features(kind)[:, : graph.features(kind).size(1)] != graph.features(kind)).any(1)
        assert not (changed & ~hidden).any(), f"{kind}: what was not hidden has changed"
        totals, some = torch.zeros(2, graph.num_graphs, dtype=torch.float64)
        totals.index_add_(0, owner, views.weight[kind].double())
        some.index_add_(0, owner, hidden.double())
        assert torch.allclose(totals, (some > 0).double(), atol=1e-3), f"{kind}: graphs do not weigh the same: {totals}"


def _wanted(size: int, ratio: float) -> int:
    return max(min(max(int(ratio * size), 1), size - 1), 0) if ratio else 0


def _check_counts(views: Any, graph: BipartiteGraph, ratios: dict[str, float]) -> None:
    for kind, ratio in ratios.items():
        for begin, end in pairwise(graph.offsets(kind).tolist()):
            found, wanted = int(views.hidden[kind][begin:end].sum()), _wanted(end - begin, ratio)
            assert found == wanted, f"{kind}: {found} of {end - begin} hidden, not {wanted}"


def _check_edges(views: Any, graph: BipartiteGraph, ratio: float) -> None:
    owner = graph.graph_of("constraint")[graph.edge_index[0]]
    sizes = owner.bincount(minlength=graph.num_graphs).tolist()
    for number, size in enumerate(sizes[:200]):
        ends = graph.edge_index[0, owner == number]
        assert views.hidden["constraint"][ends].any() == (size >= 2), "no edge was hidden, or a lone one"
    before, after = (x.unsqueeze(1) if x.ndim == 1 else x for x in (graph.edge_attr, views.context.edge_attr))
    changed = int((after[:, : before.size(1)] != before).flatten(1).any(1).sum())
    assert changed <= sum(_wanted(size, ratio) for size in sizes), "more edges were hidden than asked for"
