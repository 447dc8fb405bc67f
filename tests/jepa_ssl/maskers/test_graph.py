"""Maskers of edges and neighbourhoods, ratios by kind, and what gives hidden things away."""

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import oracles
import pytest
import torch
from builders import GraphEncoder, offsets, ragged_graphs, seeded
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, chisquare
from torch import Tensor

from jepa_ssl import (
    BipartiteGraph,
    BlockMasker,
    ComposeMaskers,
    EdgeMasker,
    JEPAObjective,
    MLPPredictor,
    NodeMasker,
    StopGradTeacher,
)
from jepa_ssl.maskers.blocks import grow, nearest_seeds, seed_ranks
from jepa_ssl.maskers.draw import _segments_by_repair, _segments_by_sort, draw_in_groups
from jepa_ssl.segments import segment_of, segment_sums

KINDS = ("constraint", "variable")
RATIOS = st.floats(0.0, 1.0, exclude_min=True, exclude_max=True)
SEEDS = st.integers(0, 99)
SIZES = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(0, 20)), max_size=6)
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def random_graphs(
    sizes: list[tuple[int, int, int]], seed: int = 0, dtype: torch.dtype = torch.float32
) -> BipartiteGraph:
    """Graphs of so many constraints, variables and edges: some edges twice, all in random order over the batch."""
    g = seeded(seed)
    rows, columns = offsets([m for m, _, _ in sizes]), offsets([n for _, n, _ in sizes])
    edges = [
        torch.stack(
            [
                rows[i] + torch.randint(m, (count,), generator=g),
                columns[i] + torch.randint(n, (count,), generator=g),
            ]
        )
        for i, (m, n, count) in enumerate(sizes)
        if m and n
    ]
    index = torch.cat([torch.zeros(2, 0, dtype=torch.int64), *edges], dim=1)
    index = index[:, torch.randperm(index.size(1), generator=g)]

    def features(items: int, width: int) -> Tensor:
        return 1.0 + torch.rand(items, width, generator=g, dtype=torch.float64).to(dtype)

    nodes = features(int(rows[-1]), 3), features(int(columns[-1]), 2)
    graph = BipartiteGraph(nodes[0], index, features(index.size(1), 2), nodes[1], rows, columns)
    return graph.check_values()


def cycles(length: int, copies: int) -> BipartiteGraph:
    """Constraint i between the variables i and i + 1, round and round: all constraints are alike, and all variables."""
    i = torch.arange(length)
    edges = torch.stack([i.repeat(2), torch.cat([i, (i + 1) % length])], dim=0)
    index = torch.cat([edges + copy * length for copy in range(copies)], dim=1)
    ends = torch.arange(copies + 1) * length
    nodes = torch.ones(length * copies, 1)
    return BipartiteGraph(nodes, index, torch.ones(index.size(1), 1), nodes, ends, ends)


def owners(graph: BipartiteGraph) -> Tensor:
    return graph.graph_of("constraint")[graph.edge_index[0]]


def per_graph(marks: Tensor, ends: Tensor) -> list[int]:
    return [int(marks[first:last].sum()) for first, last in pairwise(ends.tolist())]


# How many


@given(SIZES, RATIOS, SEEDS)
def test_each_graph_hides_exactly_its_share_of_edges_in_any_order(
    sizes: list[tuple[int, int, int]], ratio: float, seed: int
):
    graph = random_graphs(sizes, seed)
    hidden = EdgeMasker(ratio).draw(graph, generator=seeded(seed))
    counts = Counter(owners(graph).tolist())
    lost = Counter(owners(graph)[hidden].tolist())
    assert [lost[i] for i in range(len(sizes))] == [oracles.hidden_count(counts[i], ratio) for i in range(len(sizes))]


@given(SIZES, RATIOS, st.integers(1, 3), st.integers(1, 4), SEEDS)
def test_blocks_are_disjoint_equal_and_together_exactly_the_share(
    sizes: list[tuple[int, int, int]], ratio: float, hops: int, blocks: int, seed: int
):
    graph = random_graphs(sizes, seed)
    masker = BlockMasker(ratio, hops=hops, blocks=blocks)
    labels = masker.draw_blocks(graph, generator=seeded(seed))
    hidden = masker(graph, generator=seeded(seed)).hidden
    for position, kind in enumerate(KINDS):
        mark = hidden[kind]
        assert mark is not None
        assert torch.equal(mark, labels[kind] >= 0)
        assert set(labels[kind].tolist()) <= {-1, *range(blocks)}
        wanted = [oracles.hidden_count(size[position], ratio) for size in sizes]
        assert per_graph(mark, graph.offsets(kind)) == wanted
        by_block = [per_graph(labels[kind] == block, graph.offsets(kind)) for block in range(blocks)]
        for i in range(len(sizes)):
            of_graph = [block[i] for block in by_block]
            assert max(of_graph) - min(of_graph) <= 1


@given(st.lists(st.integers(0, 3000), max_size=5), RATIOS, SEEDS)
def test_segments_of_any_size_hide_exactly_their_share_by_repair_and_by_sort(sizes: list[int], ratio: float, seed: int):
    ends = offsets(sizes)
    wanted = [oracles.hidden_count(size, ratio) for size in sizes]
    assert per_graph(_segments_by_repair(ends, sum(sizes), ratio, seeded(seed)), ends) == wanted
    assert per_graph(_segments_by_sort(segment_of(ends, sum(sizes)), ends, ratio, seeded(seed)), ends) == wanted


@given(st.lists(st.integers(0, 9), max_size=6), SEEDS)
def test_segment_sums_count_marks(sizes: list[int], seed: int):
    marks = torch.rand(sum(sizes), generator=seeded(seed)) < 0.5
    assert segment_sums(marks, offsets(sizes)).tolist() == per_graph(marks, offsets(sizes))


@pytest.mark.parametrize("masker", [NodeMasker, BlockMasker])
def test_kinds_have_ratios_of_their_own_and_a_kind_with_none_is_shared(
    masker: type[NodeMasker] | type[BlockMasker],
):
    graph = random_graphs([(8, 8, 20), (6, 4, 9)])
    views = masker({"constraint": 0.25, "variable": 0.75})(graph, generator=seeded())
    hidden = {kind: mark for kind, mark in views.hidden.items() if mark is not None}
    assert per_graph(hidden["constraint"], graph.constraint_offsets) == [2, 1]
    assert per_graph(hidden["variable"], graph.variable_offsets) == [6, 3]

    views = masker({"constraint": 0, "variable": 0.5})(graph, generator=seeded())
    hidden = {kind: mark for kind, mark in views.hidden.items() if mark is not None}
    assert not hidden["constraint"].any()
    assert not views.weight["constraint"].any()
    assert per_graph(hidden["variable"], graph.variable_offsets) == [4, 2]
    assert views.context.constraint_features is graph.constraint_features


def test_nothing_at_all_is_masked_without_complaint():
    empty = random_graphs([])
    lonely = random_graphs([(1, 1, 1), (0, 3, 0), (2, 0, 0), (0, 0, 0)])
    for graph in (empty, lonely):
        for masker in (NodeMasker(0.5, hide_edges=True), EdgeMasker(0.5), BlockMasker(0.5, blocks=2, hide_edges=True)):
            views = masker(graph, generator=seeded())
            for kind in KINDS:
                assert views.context.features(kind).shape == graph.features(kind).shape
                assert views.weight[kind].isfinite().all()


def test_every_masker_gives_every_graph_the_weight_one():
    graph = random_graphs([(8, 8, 40), (2, 2, 2), (5, 7, 9)])
    for masker in (EdgeMasker(0.4), BlockMasker(0.4, blocks=2)):
        views = masker(graph, generator=seeded())
        for kind in KINDS:
            ends, mark = graph.offsets(kind).tolist(), views.hidden[kind]
            assert mark is not None
            assert [float(views.weight[kind][a:b].sum()) for a, b in pairwise(ends)] == pytest.approx([1.0] * 3)
            assert torch.equal(views.weight[kind] > 0, mark)


def test_a_million_nodes_and_three_million_edges_take_no_loop():
    graphs, size, edges = 20_000, 25, 150
    ends = torch.arange(graphs + 1) * size
    owner = torch.arange(graphs).repeat_interleave(edges)
    index = owner * size + torch.randint(size, (2, graphs * edges), generator=seeded())
    nodes = torch.ones(graphs * size, 1)
    graph = BipartiteGraph(nodes, index, torch.ones(graphs * edges, 1), nodes, ends, ends)
    start = time.perf_counter()
    blocks = BlockMasker(0.3)(graph, generator=seeded())
    lost = EdgeMasker(0.3).draw(graph, generator=seeded())
    assert time.perf_counter() - start < 20.0  # a loop over 20,000 graphs takes minutes
    mark = blocks.hidden["variable"]
    assert mark is not None
    assert int(mark.sum()) == graphs * 7
    assert int(lost.sum()) == graphs * 45


# Which


def p_value_of_subsets(draws: Tensor, hidden: int) -> float:
    """Chi-square over all subsets of `hidden` of the columns, from `[draws, columns]` bool."""
    subsets = len(torch.combinations(torch.arange(draws.size(1)), hidden))
    seen = Counter(map(tuple, draws.tolist()))
    return float(chisquare(list(seen.values()) + [0] * (subsets - len(seen))).pvalue)


def by_repair(draws: int, size: int, ratio: float) -> Tensor:
    return _segments_by_repair(torch.arange(draws + 1) * size, draws * size, ratio, seeded()).view(draws, size)


def by_sort(draws: int, size: int, ratio: float) -> Tensor:
    ends = torch.arange(draws + 1) * size
    return _segments_by_sort(segment_of(ends, draws * size), ends, ratio, seeded()).view(draws, size)


@pytest.mark.parametrize("draw", [by_repair, by_sort])
@pytest.mark.parametrize("ratio", [0.2, 0.34, 0.5, 0.67])
def test_every_subset_of_a_segment_is_equally_likely(draw: Callable[[int, int, float], Tensor], ratio: float):
    assert p_value_of_subsets(draw(8000, 6, ratio), oracles.hidden_count(6, ratio)) > 1e-3


@pytest.mark.parametrize("ratio", [0.3, 0.6])
def test_segments_that_are_repaired_many_times_stay_uniform(ratio: float):
    draws, size = 2000, 300  # most rows need a dozen repairs
    counts = by_repair(draws, size, ratio).sum(0)
    # Exact counts make the columns' totals vary less than independent ones, by a factor of 1 - ratio.
    statistic = float(((counts - draws * ratio) ** 2 / (draws * ratio * (1 - ratio))).sum())
    assert abs(statistic - (size - 1)) < 5 * (2 * size) ** 0.5


def test_every_subset_of_a_graphs_edges_is_equally_likely_in_any_order():
    copies, edges = 6000, 5
    group = torch.arange(copies).repeat(edges)  # each graph's edges far apart
    hidden = draw_in_groups(group, copies, 0.4, seeded()).view(edges, copies).t()
    assert p_value_of_subsets(hidden, 2) > 1e-3
    graph = cycles(3, copies)  # and in order
    hidden = EdgeMasker(0.5).draw(graph, generator=seeded()).view(copies, 6)
    assert p_value_of_subsets(hidden, 3) > 1e-3


def test_the_same_test_finds_a_biased_draw():
    keys = torch.rand(8000, 6, generator=seeded()) + 0.05 * torch.arange(6)
    biased = torch.zeros(8000, 6, dtype=torch.bool).scatter_(1, keys.argsort()[:, :3], True)
    assert p_value_of_subsets(biased, 3) < 1e-6
    mended = by_repair(8000, 6, 0.34)
    mended[:800] = torch.arange(6) < 2  # as if one in ten were mended at the first free items
    assert p_value_of_subsets(mended, 2) < 1e-6


@pytest.mark.parametrize(("hops", "blocks"), [(1, 1), (2, 1), (3, 1), (2, 2), (1, 3)])
def test_on_a_cycle_every_node_is_equally_likely_in_every_block(hops: int, blocks: int):
    length, copies = 8, 3000
    labels = BlockMasker(0.5, hops, blocks).draw_blocks(cycles(length, copies), generator=seeded())
    for kind in KINDS:
        for block in range(blocks):
            counts = (labels[kind] == block).view(copies, length).sum(0)
            # Neighbours are hidden together, so that totals vary more than those of single nodes: a stricter test.
            assert chisquare(counts.tolist()).pvalue > 1e-3
    # The same test finds it if one graph in five hides its first nodes.
    biased = labels["variable"].view(copies, length).clone() >= 0
    biased[: copies // 5] = torch.arange(length) < 4
    assert chisquare(biased.sum(0).tolist()).pvalue < 1e-6


def test_the_place_of_a_graph_in_the_batch_does_not_matter():
    copies = 3000
    path = ragged_graphs([4], [4]).check_values()
    edges = torch.tensor([[0, 0, 1, 1, 2, 2, 3], [0, 1, 1, 2, 2, 3, 3]])
    path = replace(path, edge_index=edges, edge_attr=torch.ones(7, 1))
    both = BipartiteGraph(
        torch.ones(5, 1), torch.cat([edges, torch.tensor([[4], [4]])], 1), torch.ones(8, 1), torch.ones(5, 1),
        torch.tensor([0, 4, 5]), torch.tensor([0, 4, 5]),
    )  # fmt: skip
    alone, first = torch.zeros(4), torch.zeros(4)
    generator = seeded()
    for _ in range(copies // 10):
        alone += BlockMasker(0.5).draw(path, generator=generator)["variable"]
        first += BlockMasker(0.5).draw(both, generator=generator)["variable"][:4]
    p_value = float(chi2_contingency(torch.stack([alone, first]).tolist())[1])  # pyright: ignore[reportArgumentType]
    assert p_value > 1e-3


def test_graphs_of_a_batch_are_drawn_independently():
    copies = 8000
    labels = BlockMasker(0.5, hops=1).draw(cycles(4, copies), generator=seeded())["constraint"].view(copies // 2, 8)
    together = labels[:, 0].int() * 2 + labels[:, 4].int()
    assert chisquare(torch.bincount(together, minlength=4).tolist()).pvalue > 1e-3


# Neighbourhoods


def distances(neighbours: list[set[int]], seed: int, hops: int) -> dict[int, int]:
    """Node -> how many edges it is away from `seed`, up to `hops`: breadth first."""
    away, queue = {seed: 0}, deque([seed])
    while queue:
        node = queue.popleft()
        if away[node] < hops:
            for other in neighbours[node] - away.keys():
                away[other] = away[node] + 1
                queue.append(other)
    return away


def plain_block(
    graph: BipartiteGraph, rank: list[int], taken: list[bool], hops: int, wanted: dict[str, list[int]]
) -> list[bool]:
    """Seed by seed and graph by graph, what the seed's ball adds, the nearest first, until each kind has its share."""
    constraints, nodes = len(graph.constraint_features), len(rank)
    neighbours: list[set[int]] = [set() for _ in range(nodes)]
    for row, column in graph.edge_index.t().tolist():
        neighbours[row].add(constraints + column)
        neighbours[constraints + column].add(row)
    owner = torch.cat([graph.graph_of(kind) for kind in KINDS]).tolist()
    left = {(kind, i): count for kind in KINDS for i, count in enumerate(wanted[kind])}
    chosen = [False] * nodes
    for seed in sorted((node for node in range(nodes) if not taken[node]), key=rank.__getitem__):
        away = distances(neighbours, seed, hops)
        for node in sorted(away, key=lambda node: (away[node], rank[node])):
            kind = KINDS[node >= constraints]
            if not taken[node] and not chosen[node] and left[kind, owner[node]]:
                chosen[node] = True
                left[kind, owner[node]] -= 1
    return chosen


@given(SIZES, st.integers(1, 3), SEEDS, st.floats(0.0, 0.5))
def test_a_block_is_what_growing_balls_seed_by_seed_gives(
    sizes: list[tuple[int, int, int]], hops: int, seed: int, taken_share: float
):
    graph = random_graphs(sizes, seed)
    owner = torch.cat([graph.graph_of(kind) for kind in KINDS])
    taken = torch.rand(len(owner), generator=seeded(seed)) < taken_share
    free = dict(zip(KINDS, taken.logical_not().split([len(graph.features(kind)) for kind in KINDS]), strict=True))
    wanted = {kind: segment_sums(free[kind], graph.offsets(kind)) // 2 for kind in KINDS}
    block = grow(graph, owner, taken, hops, wanted, seeded(seed))
    rank = seed_ranks(owner, taken, seeded(seed)).tolist()
    counts = {kind: wanted[kind].tolist() for kind in KINDS}
    assert block.tolist() == plain_block(graph, rank, taken.tolist(), hops, counts)


def test_seeds_and_distances_are_found_through_both_kinds():
    edges = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 2]])  # v0 - c0 - v1 - c1 - v2
    path = BipartiteGraph.single(torch.ones(2, 1), edges, torch.ones(4, 1), torch.ones(3, 1))
    rank = torch.tensor([3, 4, 0, 2, 1])  # c0, c1, v0, v1, v2
    assert nearest_seeds(path, rank, 2).tolist() == [0 * 3 + 1, 1 * 3 + 1, 0 * 3 + 0, 0 * 3 + 2, 1 * 3 + 0]


def test_hidden_neighbourhoods_have_more_hidden_neighbours_than_scattered_nodes():
    graph = cycles(200, 1)

    def boundary(masker: NodeMasker | BlockMasker) -> int:
        hidden = masker.draw(graph, generator=seeded())
        row, column = graph.edge_index
        return int((hidden["constraint"][row] != hidden["variable"][column]).sum())

    assert boundary(BlockMasker(0.3, hops=8)) < boundary(BlockMasker(0.3, hops=1)) < boundary(NodeMasker(0.3))


# Nothing else touched, nothing given away

MASKERS = {
    "nodes": NodeMasker(0.5),
    "nodes, edges, derived": NodeMasker(0.5, hide_edges=True, derived={"constraint": [1], "variable": [0]}),
    "edges": EdgeMasker(0.5),
    "edges, derived": EdgeMasker(0.5, derived={"constraint": [1, 2]}),
    "blocks": BlockMasker(0.5),
    "blocks, edges, derived": BlockMasker(0.5, hops=1, blocks=2, hide_edges=True, derived={"variable": [1]}),
}
AnyMasker = NodeMasker | EdgeMasker | BlockMasker


def lost_by(masker: AnyMasker, graph: BipartiteGraph, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Which edges lose their coefficients and which nodes' features, `[nodes, features]`, said with loops."""
    if isinstance(masker, EdgeMasker):
        edges = masker.draw(graph, generator=seeded(seed))
        nodes = {kind: torch.zeros(len(graph.features(kind)), dtype=torch.bool) for kind in KINDS}
    else:
        nodes = masker.draw(graph, generator=seeded(seed))
        ends = graph.edge_index.t().tolist()
        at_hidden = [bool(nodes["constraint"][c] or nodes["variable"][v]) for c, v in ends]
        edges = torch.tensor(at_hidden, dtype=torch.bool) & masker.hide_edges
    lost = {kind: nodes[kind].unsqueeze(1).repeat(1, graph.features(kind).size(1)) for kind in KINDS}
    for row, kind in enumerate(KINDS):
        for edge in edges.nonzero().flatten().tolist():
            for column in masker.derived.get(kind, ()):
                lost[kind][int(graph.edge_index[row, edge]), column] = True
    return edges, lost


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("masker", MASKERS.values(), ids=MASKERS)
def test_what_is_hidden_changes_and_nothing_else(masker: AnyMasker, dtype: torch.dtype):
    graph = random_graphs([(4, 3, 9), (1, 1, 1), (0, 2, 0), (7, 8, 20)], dtype=dtype)
    before = [x.clone() for x in (graph.constraint_features, graph.edge_attr, graph.variable_features)]
    views = masker(graph, generator=seeded(3))
    edges, lost = lost_by(masker, graph, 3)
    assert torch.equal(views.context.edge_attr == 0, edges.unsqueeze(1).expand_as(graph.edge_attr))
    assert torch.equal(views.context.edge_attr[~edges], graph.edge_attr[~edges])
    for kind in KINDS:
        assert torch.equal(views.context.features(kind) == 0, lost[kind])
        assert torch.equal(views.context.features(kind)[~lost[kind]], graph.features(kind)[~lost[kind]])
        assert views.context.features(kind).dtype == dtype
        assert views.context.offsets(kind) is graph.offsets(kind)
    assert views.target is graph
    assert views.context.edge_index is graph.edge_index
    after = (graph.constraint_features, graph.edge_attr, graph.variable_features)
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))


def test_what_is_not_hidden_is_shared():
    graph = random_graphs([(4, 4, 9)])
    assert NodeMasker(0.5)(graph).context.edge_attr is graph.edge_attr
    assert BlockMasker(0.5)(graph).context.edge_attr is graph.edge_attr
    context = EdgeMasker(0.5, derived={"constraint": [0]})(graph).context
    assert context.variable_features is graph.variable_features
    assert context.constraint_features is not graph.constraint_features


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(0, 15)), min_size=1, max_size=3), SEEDS)
@pytest.mark.parametrize("make", [NodeMasker, BlockMasker])
def test_no_trace_of_a_hidden_node_is_left(
    make: type[NodeMasker] | type[BlockMasker], sizes: list[tuple[int, int, int]], seed: int
):
    def with_means(graph: BipartiteGraph) -> BipartiteGraph:
        """Feature 0 of every node is the sum of its coefficients."""
        changed = {}
        for row, kind in enumerate(KINDS):
            features = graph.features(kind).clone()
            features[:, 0] = 0
            changed[f"{kind}_features"] = features.index_put(
                (graph.edge_index[row], torch.tensor(0)), graph.edge_attr[:, 0], accumulate=True
            )
        return replace(graph, **changed)

    graph = with_means(random_graphs(sizes, seed))
    masker = make(0.4, hide_edges=True, derived={kind: [0] for kind in KINDS})
    hidden = masker.draw(graph, generator=seeded(seed))
    row, column = graph.edge_index
    at_hidden = hidden["constraint"][row] | hidden["variable"][column]
    other = replace(
        graph,
        edge_attr=torch.where(at_hidden.unsqueeze(1), 7.0, graph.edge_attr),
        **{f"{kind}_features": torch.where(hidden[kind].unsqueeze(1), 5.0, graph.features(kind)) for kind in KINDS},
    )
    other = with_means(other)

    def context(masker: NodeMasker | BlockMasker, graph: BipartiteGraph) -> Tensor:
        view = masker(graph, generator=seeded(seed)).context
        return torch.cat([view.edge_attr.flatten(), *(view.features(kind).flatten() for kind in KINDS)])

    assert torch.equal(context(masker, graph), context(masker, other))
    if at_hidden.any():  # and the plain masker leaves traces
        assert not torch.equal(context(make(0.4), graph), context(make(0.4), other))
        assert not torch.equal(context(make(0.4, hide_edges=True), graph), context(make(0.4), other))


def test_edge_masker_predicts_the_ends_of_hidden_edges_and_nothing_else():
    graph = random_graphs([(6, 5, 8), (3, 9, 4)])
    masker = EdgeMasker(0.3)
    edges = masker.draw(graph, generator=seeded())
    views = masker(graph, generator=seeded())
    for row, kind in enumerate(KINDS):
        mark = views.hidden[kind]
        assert mark is not None
        assert set(mark.nonzero().flatten().tolist()) == set(graph.edge_index[row][edges].tolist())


def test_indicators_say_what_the_context_lost():
    graph = random_graphs([(6, 5, 8)])
    views = EdgeMasker(0.3, indicator=True)(graph, generator=seeded())
    edges = EdgeMasker(0.3).draw(graph, generator=seeded())
    assert torch.equal(views.context.edge_attr[:, -1], edges.float())
    assert not views.target.edge_attr[:, -1].any()
    assert torch.equal(views.target.edge_attr[:, :-1], graph.edge_attr)
    views = BlockMasker(0.3, indicator=True)(graph, generator=seeded())
    for kind in KINDS:
        mark = views.hidden[kind]
        assert mark is not None
        assert torch.equal(views.context.features(kind)[:, -1], mark.float())


@pytest.mark.parametrize("make", [NodeMasker, BlockMasker])
def test_hidden_coefficients_of_hidden_nodes_have_an_indicator_too(make: type[NodeMasker] | type[BlockMasker]):
    graph = random_graphs([(6, 5, 8), (3, 9, 4)])
    views = make(0.3, hide_edges=True, indicator=True)(graph, generator=seeded())
    hidden = {kind: mark for kind, mark in views.hidden.items() if mark is not None}
    row, column = graph.edge_index
    lost = hidden["constraint"][row] | hidden["variable"][column]
    assert torch.equal(views.context.edge_attr[:, -1], lost.float())
    assert torch.equal(views.context.edge_attr[:, :-1], graph.edge_attr.masked_fill(lost.unsqueeze(1), 0.0))
    assert torch.equal(views.target.edge_attr[:, :-1], graph.edge_attr)
    assert not views.target.edge_attr[:, -1].any()
    assert torch.equal(views.context.constraint_features[:, -1], hidden["constraint"].float())
    with pytest.raises(ValueError, match=r"edge_attr is \[12\].*\[edges, features\].*unsqueeze"):
        make(0.3, hide_edges=True, indicator=True)(replace(graph, edge_attr=torch.ones(12)))


@pytest.mark.parametrize("masker", MASKERS.values(), ids=MASKERS)
def test_the_generator_alone_decides(masker: AnyMasker):
    graph = random_graphs([(9, 9, 40), (9, 9, 40)])

    def context(seed: int) -> Tensor:
        view = masker(graph, generator=seeded(seed)).context
        return torch.cat([view.edge_attr.flatten(), *(view.features(kind).flatten() for kind in KINDS)])

    state = torch.get_rng_state()
    assert torch.equal(context(1), context(1))
    assert not torch.equal(context(1), context(2))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("masker", MASKERS.values(), ids=MASKERS)
def test_the_objective_learns_from_every_masker(masker: AnyMasker):
    graph = random_graphs([(6, 6, 20), (4, 4, 9)])
    encoder = GraphEncoder()
    jepa = JEPAObjective(masker, MLPPredictor({"constraint": 4, "variable": 4}), StopGradTeacher())
    loss = jepa(encoder, graph, generator=seeded()).total
    loss.backward()
    assert loss > 0
    assert encoder.constraint.weight.grad is not None
    assert encoder.constraint.weight.grad.abs().sum() > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("masker", MASKERS.values(), ids=MASKERS)
def test_no_masker_waits_for_the_gpu(masker: AnyMasker):
    graph, generator = random_graphs([(6, 6, 20), (4, 4, 9)]).to("cuda"), torch.Generator("cuda").manual_seed(0)
    masker(graph, generator=generator)  # the first call loads kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        views = masker(graph, generator=generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert views.context.edge_attr.is_cuda


@pytest.mark.slow
def test_draws_of_edges_and_blocks_compile_without_a_graph_break():
    graph = random_graphs([(8, 8, 20), (6, 4, 10)])
    maskers = {
        "edges": (EdgeMasker(0.5, derived={"constraint": [0]}), None),
        "blocks": (BlockMasker(0.5, blocks=2, hide_edges=True, derived={"variable": [1]}), [4, 3]),
        "nodes": (NodeMasker({"constraint": 0.5, "variable": 0}, hide_edges=True), [4, 3]),
    }
    for masker, counts in maskers.values():

        def tensors(masker: AnyMasker = masker) -> tuple[Tensor, ...]:
            views = masker(graph)
            context, mark = views.context, views.hidden["constraint"]
            assert mark is not None
            return context.constraint_features, context.edge_attr, context.variable_features, mark

        *context, mark = torch.compile(tensors, fullgraph=True)()
        assert all(x.isfinite().all() for x in context)
        if counts:
            assert per_graph(mark, graph.constraint_offsets) == counts
        else:
            lost = (context[1] == 0).all(-1)
            assert torch.bincount(owners(graph)[lost]).tolist() == [10, 5]


# Bad input


@pytest.mark.parametrize("masker", [NodeMasker, BlockMasker])
def test_bad_ratios_of_kinds_are_refused(masker: type[NodeMasker] | type[BlockMasker]):
    with pytest.raises(ValueError, match=r"ratio names the kinds \['variable'\].*constraint.*give 0"):
        masker({"variable": 0.5})
    with pytest.raises(ValueError, match=r"ratio is \{.*hides nothing.*at least one kind"):
        masker({"constraint": 0, "variable": 0.0})
    for bad in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match=rf"ratio\['variable'\] is {bad}.*strictly between"):
            masker({"constraint": 0, "variable": bad})
        with pytest.raises(ValueError, match=rf"ratio is {bad}.*strictly between"):
            masker(bad)


def test_bad_arguments_are_refused():
    for bad in (0, -2, 1.5):
        with pytest.raises(ValueError, match=rf"hops is {bad}.*whole number.*at least 1"):
            BlockMasker(0.5, hops=bad)  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match=rf"blocks is {bad}.*whole number.*at least 1"):
            BlockMasker(0.5, blocks=bad)  # pyright: ignore[reportArgumentType]
    for bad in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match=rf"ratio is {bad}.*strictly between"):
            EdgeMasker(bad)
    with pytest.raises(ValueError, match=r"derived is .*hide_edges is False.*hide_edges=True"):
        NodeMasker(0.5, derived={"constraint": [0]})
    with pytest.raises(ValueError, match=r"derived names the kind 'row'.*'constraint', 'variable'"):
        EdgeMasker(0.5, derived={"row": [0]})
    with pytest.raises(ValueError, match=r"derived\['variable'\] is -1, but must be .*count from 0"):
        EdgeMasker(0.5, derived={"variable": [-1]})


def test_offsets_and_edges_that_do_not_fit_are_named_before_a_draw():
    graph, generator = random_graphs([(4, 4, 9), (3, 2, 4)]), seeded()
    state = generator.get_state()
    offsets_of = [[0, 4, 9], [1, 4, 7], [0, 8, 7]]
    every = (NodeMasker(0.5), EdgeMasker(0.5), BlockMasker(0.5))
    for masker in every:
        for wrong in offsets_of:
            bad = replace(graph, constraint_offsets=torch.tensor(wrong))
            with pytest.raises(
                ValueError, match=r"constraint_offsets goes from .*must rise from 0 to the 7 constraint"
            ):
                masker(bad, generator=generator)
    for masker in (*every[1:], NodeMasker(0.5, hide_edges=True)):
        for value in (-1, 6):
            index = graph.edge_index.clone()
            index[1, 2] = value
            with pytest.raises(ValueError, match=r"edge_index\[1\] reaches from .*there are 6 variable nodes"):
                masker(replace(graph, edge_index=index), generator=generator)
    assert torch.equal(generator.get_state(), state)


def test_edges_that_cannot_be_hidden_are_named_before_a_draw():
    graph, generator = random_graphs([(4, 4, 9)]), seeded()
    state = generator.get_state()
    with pytest.raises(ValueError, match=r"edge_attr is \[9\].*unsqueeze"):
        EdgeMasker(0.5, indicator=True)(replace(graph, edge_attr=torch.ones(9)), generator=generator)
    for masker in (EdgeMasker(0.5), NodeMasker(0.5, hide_edges=True), BlockMasker(0.5, hide_edges=True)):
        with pytest.raises(ValueError, match=r"edge_attr is torch\.int64.*\.float\(\)"):
            masker(replace(graph, edge_attr=torch.ones(9, 1, dtype=torch.int64)), generator=generator)
    assert torch.equal(generator.get_state(), state)


def test_bad_instances_are_refused():
    graph = random_graphs([(4, 4, 9)])
    for masker in (NodeMasker(0.5), EdgeMasker(0.5), BlockMasker(0.5)):
        with pytest.raises(TypeError, match=r"instance is a Tensor.*BipartiteGraph.*bipartite_graph"):
            masker(graph.constraint_features)  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match=r"generator is on cpu.*instance is on meta"):
            masker(graph.to("meta"), generator=seeded())
    with pytest.raises(ValueError, match=r"derived\['variable'\] names column 2.*has 2 columns"):
        EdgeMasker(0.5, derived={"variable": [2]})(graph)
    whole = replace(graph, edge_attr=torch.ones(9, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"edge_attr is torch\.int64.*floating point.*\.float\(\)"):
        EdgeMasker(0.5)(whole)
    single = replace(graph, edge_attr=torch.ones(9))
    assert int((EdgeMasker(0.5)(single).context.edge_attr == 0).sum()) == 4
    with pytest.raises(ValueError, match=r"edge_attr is \[9\].*\[edges, features\].*unsqueeze"):
        EdgeMasker(0.5, indicator=True)(single)


@pytest.mark.parametrize("part", ["constraint_features", "edge_attr", "variable_features"])
@pytest.mark.parametrize("masker", [NodeMasker(0.5), EdgeMasker(0.5), ComposeMaskers(NodeMasker(0.5))])
def test_a_number_that_is_not_finite_is_refused(masker: Any, part: str):
    graph = ragged_graphs([3, 4], [2, 5])
    values = getattr(graph, part).clone()
    values[1, 0] = torch.nan
    with pytest.raises(ValueError, match=rf"{part}\[1, 0\] is nan, but must be finite"):
        masker(replace(graph, **{part: values}))


@pytest.mark.parametrize("masker", [NodeMasker(0.5), EdgeMasker(0.5), BlockMasker(0.5)])
def test_an_edge_between_two_graphs_is_refused(masker: Any):
    graph = ragged_graphs([3, 4], [2, 5])
    edges = graph.edge_index.clone()
    edges[1, 0] = 6
    with pytest.raises(ValueError, match=r"edge_index\[:, 0\] joins a constraint of graph 0 to a variable of graph 1"):
        masker(replace(graph, edge_index=edges))


def test_hops_beyond_every_path_are_as_many_as_there_are_nodes():
    graph = ragged_graphs([3, 2], [4, 2])
    far, whole = (BlockMasker(0.5, hops=hops)(graph, generator=seeded()) for hops in (2**31 - 1, 11))
    for kind in KINDS:
        assert torch.equal(far.hidden[kind], whole.hidden[kind])


@pytest.mark.parametrize("column", [True, 0.0, -1])
def test_derived_columns_that_are_no_numbers_of_columns_are_refused(column: Any):
    with pytest.raises((TypeError, ValueError), match=r"derived\['variable'\] is .*"):
        NodeMasker(0.5, hide_edges=True, derived={"variable": [column]})
