"""What masking graphs costs, side by side with copying them. Run with `make bench`; read the ratios."""

import pytest
import torch

from jepa_ssl import BipartiteGraph, BlockMasker, EdgeMasker, NodeMasker
from jepa_ssl.maskers.draw import draw_in_segments, hidden_counts

WAYS = {
    "NodeMasker": NodeMasker(0.3),
    "NodeMasker, hide_edges": NodeMasker(0.3, hide_edges=True, derived={"variable": [0]}),
    "EdgeMasker": EdgeMasker(0.3),
    "BlockMasker": BlockMasker(0.3),
}


def graphs(edges: int, size: int) -> BipartiteGraph:
    """Graphs of `size` constraints, `size` variables and `20 * size` edges, `edges` in all."""
    count = edges // (20 * size)
    first = torch.arange(count).repeat_interleave(20 * size) * size
    index = first + torch.randint(size, (2, len(first)))
    ends = torch.arange(count + 1) * size
    constraint, variable = torch.randn(2, size * count, 4)
    return BipartiteGraph(constraint, index, torch.randn(len(first), 1), variable, ends, ends)


def tensors(graph: BipartiteGraph) -> tuple[torch.Tensor, ...]:
    return graph.constraint_features, graph.edge_index, graph.edge_attr, graph.variable_features


@pytest.mark.parametrize("edges", [10**4, 10**5, 10**6, pytest.param(10**7, marks=pytest.mark.slow)])
@pytest.mark.parametrize("size", [50, 500, None], ids=["50 a kind", "500 a kind", "one graph"])
@pytest.mark.parametrize("way", ["clone", *WAYS])
def test_graph_masking(benchmark, edges, size, way):
    size = size or edges // 20
    benchmark.group = f"hide 30% of {edges // 20 // size} graphs of {2 * size:,} nodes, {edges:,} edges in all"
    graph = graphs(edges, size)
    if way == "clone":
        benchmark(lambda: [tensor.clone() for tensor in tensors(graph)])
    else:
        benchmark(lambda: WAYS[way](graph))


def one_sort(ends: torch.Tensor, items: int) -> torch.Tensor:
    """A random key an item, and one sort of (graph, key)."""
    owner = torch.repeat_interleave(ends.diff(), output_size=items)
    order = (owner << 32 | torch.randint(2**32, (items,))).argsort()
    hidden = torch.empty(items, dtype=torch.bool)
    hidden[order] = torch.arange(items) - ends[owner] < hidden_counts(ends.diff(), 0.3)[owner]
    return hidden


def loop(ends: torch.Tensor, items: int) -> torch.Tensor:
    """One permutation a graph, in a Python loop."""
    hidden = torch.zeros(items, dtype=torch.bool)
    for first, last in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        hidden[first + torch.randperm(last - first)[: int(0.3 * (last - first))]] = True
    return hidden


@pytest.mark.parametrize(("count", "size"), [(32, 80), (10_000, 100), (100, 10_000), (1, 1_000_000)])
@pytest.mark.parametrize("way", ["loop", "one sort", "draw_in_segments", "clone of a feature"])
def test_node_draws(benchmark, count, size, way):
    benchmark.group = f"draw 30% of the nodes of {count:,} graphs of {size:,}"
    ends, features = torch.arange(count + 1) * size, torch.randn(count * size)
    ways = {
        "loop": lambda: loop(ends, count * size),
        "one sort": lambda: one_sort(ends, count * size),
        "draw_in_segments": lambda: draw_in_segments(ends, count * size, 0.3, None),
        "clone of a feature": lambda: features.clone(),
    }
    benchmark(ways[way])
