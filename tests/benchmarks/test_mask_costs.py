"""What masking costs, side by side with loops, copies and training steps. Run with `make bench`; read the ratios."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1])]

import pytest
import torch
from benchmarks.timing import least_seconds
from torch import Tensor, nn

from jepa_ssl import BipartiteGraph, BlockMasker, EdgeMasker, EntryMasker, NodeMasker
from jepa_ssl.maskers import Seeds
from jepa_ssl.maskers.draw import draw_in_rows, draw_in_segments, hidden_counts

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


@pytest.mark.parametrize("edges", [10**4, 10**5, 10**6, 10**7])
@pytest.mark.parametrize("size", [50, 500, None], ids=["50 a kind", "500 a kind", "one graph"])
@pytest.mark.parametrize("way", ["clone", *WAYS])
def test_graph_masking(benchmark, edges, size, way):
    if benchmark.disabled and edges > 10**5:
        pytest.skip("a larger batch shows nothing unless it is measured")
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


def masked_by_a_loop(values: Tensor) -> Tensor:
    """Half of the entries of each vector, by one permutation a vector, in a Python loop."""
    context = values.clone()
    for row in context:
        row[torch.randperm(len(row))[: len(row) // 2]] = 0.0
    return context


def training_step(entries: int) -> Callable[[Tensor], None]:
    """A step of a network of two hidden layers of 256, as small as one would train on such vectors."""
    net = nn.Sequential(nn.Linear(entries, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 1))
    optimizer = torch.optim.Adam(net.parameters())

    def step(values: Tensor) -> None:
        optimizer.zero_grad()
        net(values).square().mean().backward()
        optimizer.step()

    return step


SHAPES = [(8, 2600), (256, 2600), (64, 20_000)]


def flat_ways(batch: int, entries: int) -> dict[str, Callable[[], object]]:
    values, names = torch.randn(batch, entries), torch.arange(batch)
    half, step = EntryMasker(0.5), training_step(entries)
    return {
        "loop": lambda: masked_by_a_loop(values),
        "EntryMasker(0.5)": lambda: half(values),
        "EntryMasker(0.3)": lambda: EntryMasker(0.3)(values),
        "with Seeds": lambda: half(values, generator=Seeds(names)),
        "draw alone": lambda: draw_in_rows(values.shape, None, 0.5, None, values.device),
        "coins, not exact": lambda: torch.rand(batch, entries) < 0.5,
        "clone": lambda: values.clone(),
        "training step": lambda: step(values),
    }


@pytest.mark.parametrize(("batch", "entries"), SHAPES)
@pytest.mark.parametrize("way", flat_ways(1, 8))
def test_flat_masking(benchmark, batch, entries, way):
    benchmark.group = f"hide half of {batch} x {entries:,} entries"
    benchmark(flat_ways(batch, entries)[way])


def print_ratios_of_flat_masking(batch: int, entries: int) -> None:
    best = least_seconds(flat_ways(batch, entries))
    ours = best["EntryMasker(0.5)"]
    print(
        f"{batch} x {entries}: loop / ours {best['loop'] / ours:.1f}, "
        f"coins / our draw {best['coins, not exact'] / best['draw alone']:.1f}, "
        f"ours / training step {ours / best['training step']:.3f}, ours / clone {ours / best['clone']:.1f}, "
        f"with Seeds / ours {best['with Seeds'] / ours:.1f}"
    )


def print_costs_per_edge() -> None:
    """Of one graph of 10^4 to 10^7 edges: whether they are linear."""
    ways = {"clone": lambda graph: [tensor.clone() for tensor in tensors(graph)], **WAYS}
    per_edge: dict[str, list[float]] = {name: [] for name in ways}
    for edges in (10**4, 10**5, 10**6, 10**7):
        graph = graphs(edges, edges // 20)
        least = least_seconds({name: partial(way, graph) for name, way in ways.items()}, rounds=3)
        for name, seconds in least.items():
            per_edge[name].append(seconds / edges * 1e9)
    for name, costs in per_edge.items():
        print(f"{name:25s} ns an edge: {', '.join(f'{cost:.1f}' for cost in costs)}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for shape in SHAPES:
        print_ratios_of_flat_masking(*shape)
    print_costs_per_edge()
