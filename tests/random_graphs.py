"""Random batches of graphs of two and of three types of nodes, and what they hold, said with loops."""

from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from builders import offsets, seeded
from hypothesis import strategies as st
from torch import Tensor

from jepa_ssl import BipartiteGraph, Graph
from jepa_ssl.instances.streams import Edges, Nodes

Sizes = list[tuple[int, int, int]]
SIZES: st.SearchStrategy[Sizes] = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(0, 20)), max_size=6
)
RATIOS = st.floats(0.0, 1.0, exclude_min=True, exclude_max=True)
SEEDS = st.integers(0, 99)
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def _values(items: int, width: int, g: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Numbers that no fill makes: between 1 and 2."""
    return 1.0 + torch.rand(items, width, generator=g, dtype=torch.float64).to(dtype)


def _edges(sources: list[int], targets: list[int], counts: list[int], g: torch.Generator) -> Tensor:
    """So many edges in each graph, some of them twice, in random order over the batch: int64 `[2, edges]`."""
    first, second = offsets(sources), offsets(targets)
    index = [
        torch.stack([start + torch.randint(size, (count,), generator=g) for start, size in ((a, m), (b, n))])
        for a, b, m, n, count in zip(first.tolist(), second.tolist(), sources, targets, counts, strict=False)
        if m and n
    ]
    joined = torch.cat([torch.zeros(2, 0, dtype=torch.int64), *index], dim=1)
    return joined[:, torch.randperm(joined.size(1), generator=g)]


def two_types(sizes: Sizes, seed: int = 0, dtype: torch.dtype = torch.float32) -> BipartiteGraph:
    """Graphs of so many constraints, variables and edges."""
    g = seeded(seed)
    rows, columns, counts = ([size[i] for size in sizes] for i in range(3))
    index = _edges(rows, columns, counts, g)
    features = (_values(sum(rows), 3, g, dtype), index, _values(index.size(1), 2, g, dtype))
    variables = _values(sum(columns), 2, g, dtype)
    return BipartiteGraph(*features, variables, offsets(rows), offsets(columns)).check_values()


def three_types(sizes: Sizes, seed: int = 0, dtype: torch.dtype = torch.float32) -> Graph:
    """Graphs of so many rows and columns, and of 0, 1 or 2 goals.

    "back" is "has" in the other direction, "near" joins columns (some to themselves), and "bare" has no attributes.
    """
    g = seeded(seed)
    rows, columns, counts = ([size[i] for size in sizes] for i in range(3))
    goals = [(m + n) % 3 for m, n, _ in sizes]
    has = _edges(rows, columns, counts, g)
    coefficients = _values(has.size(1), 2, g, dtype)
    edges = {
        "has": Edges(("row", "column"), has, coefficients),
        "back": Edges(("column", "row"), has.flip(0), coefficients),
    }
    for stream, ends, sources, targets in (
        ("near", ("column", "column"), columns, columns),
        ("prices", ("goal", "column"), goals, columns),
    ):
        index = _edges(sources, targets, [count // 2 for count in counts], g)
        edges[stream] = Edges(ends, index, _values(index.size(1), 1, g, dtype))
    edges["bare"] = Edges(("goal", "row"), _edges(goals, rows, counts, g))
    nodes = {
        kind: Nodes(_values(sum(number), width, g, dtype), offsets(number))
        for kind, number, width in (("row", rows, 3), ("column", columns, 2), ("goal", goals, 1))
    }
    return Graph(nodes, edges).check_values()


BATCHES: dict[str, Callable[..., Graph]] = {"two types": two_types, "three types": three_types}


def places(graph: Graph, stream: str) -> list[list[int]]:
    """Which items of a stream each graph has."""
    if stream in graph.nodes:
        return [list(range(a, b)) for a, b in pairwise(graph.offsets(stream).tolist())]
    ends, index, _ = graph.edges[stream]
    of_graph = [{*nodes} for nodes in places(graph, ends[0])]
    return [[edge for edge, node in enumerate(index[0].tolist()) if node in nodes] for nodes in of_graph]


def per_graph(marks: Tensor, graph: Graph, stream: str) -> list[int]:
    marked = {item for item, mark in enumerate(marks.tolist()) if mark}
    return [len(marked & {*items}) for items in places(graph, stream)]


def sizes_of(graph: Graph, stream: str) -> list[int]:
    return [len(items) for items in places(graph, stream)]


def edges_at(graph: Graph, stream: str, nodes: Mapping[str, Tensor]) -> Tensor:
    """Which edges of a stream have an end among `nodes`."""
    ends, index, _ = graph.edges[stream]
    found = [
        any(end in nodes and bool(nodes[end][i]) for end, i in zip(ends, pair, strict=True))
        for pair in index.t().tolist()
    ]
    return torch.tensor(found, dtype=torch.bool)


def ends_of(graph: Graph, edges: Mapping[str, Tensor], stream: str) -> Tensor:
    """Which nodes of a stream are an end of one of `edges`, stream -> bool."""
    found = torch.zeros(len(graph.features(stream)), dtype=torch.bool)
    for name, marks in edges.items():
        ends, index, _ = graph.edges[name]
        for edge in marks.nonzero().flatten().tolist():
            for end, node in zip(ends, index[:, edge].tolist(), strict=True):
                if end == stream:
                    found[node] = True
    return found
