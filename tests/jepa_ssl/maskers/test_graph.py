"""Maskers of graphs of two and of three types: how much, which, what gives it away, and nothing else touched."""

from collections import deque
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import oracles
import pytest
import torch
from builders import GraphEncoder, LinearEncoder, offsets, seeded
from hypothesis import example, given
from hypothesis import strategies as st
from random_graphs import (
    BATCHES,
    FLOATS,
    RATIOS,
    SEEDS,
    SIZES,
    Sizes,
    edges_at,
    ends_of,
    per_graph,
    sizes_of,
    three_types,
    two_types,
)
from scipy.stats import chi2_contingency, chisquare
from torch import Tensor, nn

from jepa_ssl import (
    BipartiteGraph,
    BlockMasker,
    ComposeMaskers,
    EdgeMasker,
    Graph,
    JEPAObjective,
    MLPPredictor,
    NodeMasker,
    StopGradTeacher,
)
from jepa_ssl.instances.streams import Edges, Nodes
from jepa_ssl.maskers.blocks import grow, seed_ranks
from jepa_ssl.segments import segment_sums

KINDS = ("constraint", "variable")
DERIVED = {"constraint": [1], "variable": [0]}, {"row": [1, 2], "column": [0], "goal": [0]}
WIDTHS = {"row": 3, "column": 2, "goal": 1}  # of three types
BOTH_WAYS = {"back": "has"}
COEFFICIENTS = {"has": 0.5, "near": 0.4, "prices": 0}

MASKERS: dict[str, tuple[Any, Callable[..., Graph]]] = {
    "two: nodes": (NodeMasker(0.5), two_types),
    "two: nodes, edges, derived": (NodeMasker(0.5, hide_edges=True, derived=DERIVED[0]), two_types),
    "two: one kind": (NodeMasker({"constraint": 0, "variable": 0.5}, hide_edges=True), two_types),
    "two: edges": (EdgeMasker(0.5), two_types),
    "two: edges, derived": (EdgeMasker(0.5, derived={"constraint": [1, 2]}), two_types),
    "two: blocks": (BlockMasker(0.5), two_types),
    "two: blocks, edges, derived": (BlockMasker(0.5, 1, 2, hide_edges=True, derived={"variable": [1]}), two_types),
    "three: nodes": (NodeMasker(0.5), three_types),
    "three: nodes, edges, derived": (NodeMasker(0.5, hide_edges=True, derived=DERIVED[1]), three_types),
    "three: two types": (NodeMasker({"row": 0, "column": 0.5}, hide_edges=True, derived=DERIVED[1]), three_types),
    "three: edges": (EdgeMasker(COEFFICIENTS, reverse=BOTH_WAYS), three_types),
    "three: edges, derived": (EdgeMasker(COEFFICIENTS, derived=DERIVED[1], reverse=BOTH_WAYS), three_types),
    "three: blocks": (BlockMasker({"row": 0.5, "column": 0.5, "goal": 0}), three_types),
    "three: blocks, edges, derived": (
        BlockMasker({"row": 0.5, "column": 0.3}, 1, 2, hide_edges=True, derived=DERIVED[1]), three_types,
    ),
}  # fmt: skip
EVERY = pytest.mark.parametrize(("masker", "batch"), MASKERS.values(), ids=MASKERS)
BOTH = pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)


def cycles(length: int, copies: int) -> BipartiteGraph:
    """Constraint i between the variables i and i + 1, round and round: all constraints are alike, and all variables."""
    i = torch.arange(length)
    edges = torch.stack([i.repeat(2), torch.cat([i, (i + 1) % length])], dim=0)
    index = torch.cat([edges + copy * length for copy in range(copies)], dim=1)
    ends = torch.arange(copies + 1) * length
    nodes = torch.ones(length * copies, 1)
    return BipartiteGraph(nodes, index, torch.ones(index.size(1), 1), nodes, ends, ends)


# How many


@pytest.mark.parametrize("make", [NodeMasker, BlockMasker, EdgeMasker])
@BOTH
@given(SIZES, RATIOS, SEEDS)
def test_each_graph_hides_exactly_its_share_of_each_stream(
    make: Any, batch: Callable[..., Graph], sizes: Sizes, ratio: float, seed: int
):
    graph = batch(sizes, seed)
    edges = [stream for stream in ("edge", "has", "near", "prices") if stream in graph.edges]
    drawn = edges if make is EdgeMasker else [*graph.nodes]
    hidden = make(dict.fromkeys(drawn, ratio) if make is EdgeMasker else ratio).draw(graph, generator=seeded(seed))
    assert [*hidden] == drawn
    for stream, marks in hidden.items():
        expected = [oracles.hidden_count(size, ratio) for size in sizes_of(graph, stream)]
        assert per_graph(marks, graph, stream) == expected


@BOTH
@given(SIZES, RATIOS, st.integers(1, 3), st.integers(1, 4), SEEDS)
def test_blocks_are_disjoint_equal_and_together_exactly_the_share(
    batch: Callable[..., Graph], sizes: Sizes, ratio: float, hops: int, blocks: int, seed: int
):
    graph, masker = batch(sizes, seed), BlockMasker(ratio, hops=hops, blocks=blocks)
    labels = masker.draw_blocks(graph, generator=seeded(seed))
    hidden = masker(graph, generator=seeded(seed)).hidden
    for stream, label in labels.items():
        assert torch.equal(hidden[stream], label >= 0)
        assert set(label.tolist()) <= {-1, *range(blocks)}
        by_block = [per_graph(label == block, graph, stream) for block in range(blocks)]
        for of_graph in zip(*by_block, strict=True):
            assert max(of_graph) - min(of_graph) <= 1


@pytest.mark.parametrize("make", [NodeMasker, BlockMasker])
def test_streams_have_ratios_of_their_own_and_one_with_none_is_shared(make: Any):
    graph = two_types([(8, 8, 20), (6, 4, 9)])
    hidden = make({"constraint": 0.25, "variable": 0.75})(graph, generator=seeded()).hidden
    assert [per_graph(hidden[kind], graph, kind) for kind in KINDS] == [[2, 1], [6, 3]]

    views = make({"constraint": 0, "variable": 0.5})(graph, generator=seeded())
    assert not views.hidden["constraint"].any()
    assert not views.weight["constraint"].any()
    assert per_graph(views.hidden["variable"], graph, "variable") == [4, 2]
    assert views.context.constraint_features is graph.constraint_features

    views = make({"variable": 0.5})(graph, generator=seeded())
    assert views.hidden.keys() == views.weight.keys() == {"variable"}
    assert views.context.constraint_features is graph.constraint_features


@EVERY
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_graph_weighs_one_where_it_is_predicted(masker: Any, batch: Callable[..., Graph], dtype: torch.dtype):
    graph = batch([(9, 9, 40), (2, 2, 2), (0, 1, 0), (5, 7, 9), (1, 900, 9)], dtype=dtype)
    views = masker(graph, generator=seeded())
    assert views.weight.keys() == views.hidden.keys()
    for stream, weight in views.weight.items():
        assert weight.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert torch.equal(weight > 0, views.hidden[stream])
        totals = [float(weight[a:b].sum()) for a, b in pairwise(graph.offsets(stream).tolist())]
        counts = per_graph(views.hidden[stream], graph, stream)
        assert totals == pytest.approx([float(count > 0) for count in counts], rel=1e-5)


# Which: neighbourhoods


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


def test_graphs_of_a_batch_are_drawn_independently_and_their_place_does_not_matter():
    copies = 8000
    labels = BlockMasker(0.5, hops=1).draw(cycles(4, copies), generator=seeded())["constraint"].view(copies // 2, 8)
    together = labels[:, 0].int() * 2 + labels[:, 4].int()
    assert chisquare(torch.bincount(together, minlength=4).tolist()).pvalue > 1e-3

    edges, ones = torch.tensor([[0, 0, 1, 1, 2, 2, 3], [0, 1, 1, 2, 2, 3, 3]]), torch.ones(8, 1)
    path = BipartiteGraph.single(ones[:4], edges, ones[:7], ones[:4])
    longer = torch.cat([edges, torch.tensor([[4], [4]])], 1)
    both = BipartiteGraph(ones[:5], longer, ones, ones[:5], torch.tensor([0, 4, 5]), torch.tensor([0, 4, 5]))
    alone, first, generator = torch.zeros(4), torch.zeros(4), seeded()
    for _ in range(300):
        alone += BlockMasker(0.5).draw(path, generator=generator)["variable"]
        first += BlockMasker(0.5).draw(both, generator=generator)["variable"][:4]
    p_value = float(chi2_contingency(torch.stack([alone, first]).tolist())[1])  # pyright: ignore[reportArgumentType]
    assert p_value > 1e-3


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
    graph: Graph, streams: list[str], rank: list[int], taken: list[bool], hops: int, wanted: Mapping[str, Tensor]
) -> list[bool]:
    """Seed by seed, what the seed's ball adds, the nearest first, until each graph and stream has its share."""
    nodes = [(stream, node) for stream in streams for node in range(len(graph.features(stream)))]
    number = {node: i for i, node in enumerate(nodes)}
    neighbours: list[set[int]] = [set() for _ in nodes]
    for ends, index, _ in graph.edges.values():
        if set(ends) <= set(streams):
            for pair in index.t().tolist():
                a, b = (number[end, node] for end, node in zip(ends, pair, strict=True))
                neighbours[a].add(b)
                neighbours[b].add(a)
    owner = [int(graph.graph_of(stream)[node]) for stream, node in nodes]
    left = {(stream, i): int(count) for stream in streams for i, count in enumerate(wanted[stream])}
    chosen = [False] * len(nodes)
    for seed in sorted((i for i in range(len(nodes)) if not taken[i]), key=rank.__getitem__):
        away = distances(neighbours, seed, hops)
        for node in sorted(away, key=lambda node: (away[node], rank[node])):
            place = nodes[node][0], owner[node]
            if not taken[node] and not chosen[node] and left[place]:
                chosen[node] = True
                left[place] -= 1
    return chosen


@pytest.mark.parametrize("streams", [["row", "column", "goal"], ["row", "column"]], ids=str)
@BOTH
@given(SIZES, st.integers(1, 3), SEEDS, st.floats(0.0, 0.5))
@example([(4, 5, 9), (3, 2, 4)], 2**31 - 1, 0, 0.0)  # beyond every path
def test_a_block_is_what_growing_balls_seed_by_seed_gives(
    streams: list[str], batch: Callable[..., Graph], sizes: Sizes, hops: int, seed: int, taken_share: float
):
    graph = batch(sizes, seed)
    streams = [*KINDS] if "constraint" in graph.nodes else streams
    owners = {stream: graph.graph_of(stream) for stream in streams}
    owner = torch.cat([*owners.values()])
    taken = torch.rand(len(owner), generator=seeded(seed)) < taken_share
    free = dict(zip(streams, (~taken).split([len(owner) for owner in owners.values()]), strict=True))
    wanted = {stream: segment_sums(free[stream], graph.offsets(stream)) // 2 for stream in streams}
    block = grow(graph, owners, taken, hops, wanted, seeded(seed))
    rank = seed_ranks(owner, taken, seeded(seed)).tolist()
    assert block.tolist() == plain_block(graph, streams, rank, taken.tolist(), hops, wanted)


def test_hidden_neighbourhoods_have_more_hidden_neighbours_than_scattered_nodes():
    graph = cycles(200, 1)

    def boundary(masker: NodeMasker | BlockMasker) -> int:
        hidden = masker.draw(graph, generator=seeded())
        row, column = graph.edge_index
        return int((hidden["constraint"][row] != hidden["variable"][column]).sum())

    assert boundary(BlockMasker(0.3, hops=8)) < boundary(BlockMasker(0.3, hops=1)) < boundary(NodeMasker(0.3))


def test_no_block_grows_through_a_stream_that_is_not_named():
    """Of two paths that only a goal joins, a block that is large enough hides one."""
    edges = torch.stack([torch.arange(6), torch.arange(6) + 1])
    edges = torch.cat([edges, edges + 7], 1)
    nodes = {"item": Nodes(torch.ones(14, 1), offsets([14])), "goal": Nodes(torch.ones(1, 1), offsets([1]))}
    hub = Edges(("goal", "item"), torch.stack([torch.zeros(14, dtype=torch.int64), torch.arange(14)]))
    graph = Graph(nodes, {"next": Edges(("item", "item"), edges), "hub": hub})
    for seed in range(20):
        hidden = BlockMasker({"item": 0.5}, hops=6).draw(graph, generator=seeded(seed))["item"].view(2, 7)
        assert sorted(hidden.sum(1).tolist()) == [0, 7]
    through = [
        BlockMasker({"item": 0.5, "goal": 0}, hops=2).draw(graph, generator=seeded(i))["item"] for i in range(20)
    ]
    assert any(sorted(hidden.view(2, 7).sum(1).tolist()) != [0, 7] for hidden in through)


# Nothing else touched, nothing given away


def lost_by(masker: Any, graph: Graph, seed: int) -> dict[str, Tensor]:
    """Which values of each stream are lost, said with loops: stream -> bool in their shape."""
    marks = masker.draw(graph, generator=seeded(seed))
    if isinstance(masker, EdgeMasker):
        edges = {stream: mark for stream, mark in marks.items() if mark.any()}
        edges |= {back: edges[there] for back, there in masker.reverse.items() if there in edges}
        marks = {}
    else:
        coefficients = [s for s, part in graph.edges.items() if part.attr is not None and masker.hide_edges]
        edges = {stream: edges_at(graph, stream, marks) for stream in coefficients}
    lost = {stream: torch.zeros_like(values, dtype=torch.bool) for stream, values in graph.values().items()}
    for stream, mark in (marks | edges).items():
        lost[stream] |= mark.unsqueeze(1)
    for stream, columns in masker.derived.items():
        for column in columns:
            lost[stream][:, column] |= ends_of(graph, edges, stream)
    return lost


@EVERY
@given(SIZES, SEEDS)
def test_what_is_hidden_changes_and_nothing_else(masker: Any, batch: Callable[..., Graph], sizes: Sizes, seed: int):
    graph = batch(sizes, seed)
    before = {stream: values.clone() for stream, values in graph.values().items()}
    views = masker(graph, generator=seeded(seed))
    for stream, lost in lost_by(masker, graph, seed).items():
        assert torch.equal(views.context.values()[stream], before[stream].masked_fill(lost, 0.0))
        assert torch.equal(graph.values()[stream], before[stream])
    assert views.target is graph
    assert type(views.context) is type(graph)
    assert all(views.context.edges[stream].index is part.index for stream, part in graph.edges.items())
    assert all(views.context.offsets(stream) is part.offsets for stream, part in graph.nodes.items())


@EVERY
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_dtype_layout_and_leaf_is_read_and_none_is_written_to(
    masker: Any, batch: Callable[..., Graph], dtype: torch.dtype
):
    graph = batch([(4, 3, 9), (1, 1, 1), (0, 2, 0), (7, 8, 20)], dtype=dtype)
    layouts: dict[str, Callable[[Tensor], Tensor]] = {
        "strided": lambda x: x.repeat_interleave(2, 1)[:, ::2],
        "transposed": lambda x: x.t().contiguous().t(),
        "leaf": lambda x: x.clone().requires_grad_(),
    }
    expected = masker(graph, generator=seeded()).context.values()
    for name, change in layouts.items():
        same = graph.with_values({stream: change(values) for stream, values in graph.values().items()})
        found = masker(same, generator=seeded()).context.values()
        assert all(found[s].dtype == dtype and torch.equal(found[s], values) for s, values in expected.items())
        if name == "leaf":
            torch.stack([values.sum() for values in found.values()]).sum().backward()
            assert all(torch.equal(same.values()[s].grad != 0, values != 0) for s, values in expected.items())


def test_what_is_not_hidden_is_shared():
    graph = two_types([(4, 4, 9)])
    assert NodeMasker(0.5)(graph).context.edge_attr is graph.edge_attr
    assert BlockMasker(0.5)(graph).context.edge_attr is graph.edge_attr
    context = EdgeMasker(0.5, derived={"constraint": [0]})(graph).context
    assert context.variable_features is graph.variable_features
    assert context.constraint_features is not graph.constraint_features
    hetero = three_types([(4, 4, 9)])
    context = NodeMasker({"row": 0.5}, hide_edges=True)(hetero).context
    shared = {stream for stream, values in hetero.values().items() if context.values()[stream] is values}
    assert shared == {"column", "goal", "near", "prices"}


def with_sums(graph: Graph) -> Graph:
    """Feature 0 of every node is the sum of its coefficients."""
    changed: dict[str, Tensor] = {}
    for stream in graph.nodes:
        features = graph.features(stream).clone()
        features[:, 0] = 0
        for ends, index, attr in graph.edges.values():
            for end, nodes in zip(ends, index, strict=True):
                if end == stream and attr is not None:
                    features[:, 0] = features[:, 0].index_add(0, nodes, attr[:, 0])
        changed[stream] = features
    return graph.with_values(changed)


LEAKPROOF: dict[str, Callable[..., tuple[Any, Any]]] = {
    "nodes": lambda all_first: (NodeMasker(0.4, hide_edges=True, derived=all_first), NodeMasker(0.4)),
    "blocks": lambda all_first: (BlockMasker(0.4, hide_edges=True, derived=all_first), BlockMasker(0.4)),
    "edges": lambda all_first: (
        EdgeMasker({"has": 0.4, "near": 0.3}, derived=all_first, reverse=BOTH_WAYS)
        if "row" in all_first
        else EdgeMasker(0.4, derived=all_first),
        EdgeMasker({"has": 0.4, "near": 0.3} if "row" in all_first else 0.4),
    ),
}


@pytest.mark.parametrize("make", LEAKPROOF.values(), ids=LEAKPROOF)
@BOTH
@given(SIZES, SEEDS)
def test_no_trace_of_what_is_hidden_is_left(make: Any, batch: Callable[..., Graph], sizes: Sizes, seed: int):
    graph = with_sums(batch(sizes, seed))
    masker, leaky = make({stream: [0] for stream in graph.nodes})
    lost = lost_by(masker, graph, seed)
    without_derived = lost_by(leaky, graph, seed)
    hidden = {s: lost[s] if s in graph.edges else without_derived[s] for s in lost}
    other = with_sums(
        graph.with_values({s: torch.where(hidden[s], 7.0, values) for s, values in graph.values().items()})
    )

    def context(masker: Any, graph: Graph) -> Tensor:
        view = masker(graph, generator=seeded(seed)).context
        return torch.cat([values.flatten() for values in view.values().values()])

    assert torch.equal(context(masker, graph), context(masker, other))
    if any(lost[stream].any() for stream in graph.edges if stream in lost):  # and without the options traces are left
        assert not torch.equal(context(leaky, graph), context(leaky, other))


@BOTH
@given(SIZES, SEEDS)
def test_edge_masker_predicts_the_ends_of_hidden_edges_and_nothing_else(
    batch: Callable[..., Graph], sizes: Sizes, seed: int
):
    graph = batch(sizes, seed)
    masker = EdgeMasker(0.3) if "edge" in graph.edges else EdgeMasker(COEFFICIENTS, reverse=BOTH_WAYS)
    marks, views = masker.draw(graph, generator=seeded()), masker(graph, generator=seeded())
    # A ratio of 0 keeps the ends of "prices" as streams in which nothing is hidden by it.
    assert views.hidden.keys() == graph.nodes.keys()
    assert all(torch.equal(mark, ends_of(graph, marks, stream)) for stream, mark in views.hidden.items())
    named = EdgeMasker({"near": 0.3})(three_types(sizes, seed), generator=seeded())
    assert named.hidden.keys() == {"column"}


@EVERY
def test_indicators_say_what_the_context_lost(masker: Any, batch: Callable[..., Graph]):
    graph = batch([(6, 5, 8), (3, 9, 4)])
    plain = masker(graph, generator=seeded())
    marks = masker.draw(graph, generator=seeded())
    lost = {s: mark for s, mark in marks.items() if s in graph.nodes} | dict(masker.lost(graph, marks))
    masker.indicator = True
    try:
        views = masker(graph, generator=seeded())
    finally:
        masker.indicator = False
    for stream, values in graph.values().items():
        context, target = views.context.values()[stream], views.target.values()[stream]
        assert context.size(1) == target.size(1) == values.size(1) + (stream in lost)
        assert torch.equal(context[:, : values.size(1)], plain.context.values()[stream])
        assert torch.equal(target[:, : values.size(1)], values)
        if stream in lost:
            assert torch.equal(context[:, -1], lost[stream].float())
            assert not target[:, -1].any()


@EVERY
def test_the_objective_learns_from_every_masker(masker: Any, batch: Callable[..., Graph]):
    graph = batch([(6, 6, 20), (4, 4, 9)])
    streams = masker(graph).hidden
    torch.manual_seed(0)
    encoder = LinearEncoder({s: WIDTHS[s] for s in streams}) if "goal" in graph.nodes else GraphEncoder()
    predictor = MLPPredictor(dict.fromkeys(streams, 4), activation=nn.SELU)
    jepa = JEPAObjective(masker, predictor, StopGradTeacher())
    loss = jepa(encoder, graph, generator=seeded()).total
    loss.backward()
    assert loss > 0
    assert any(p.grad is not None and p.grad.any() for p in encoder.parameters())


def test_an_encoder_that_returns_a_stream_that_the_masker_does_not_name_is_refused():
    """Else it would be trained on nodes in plain view: no mark means that every item is predicted."""
    graph = three_types([(6, 6, 20), (4, 4, 9)])
    encoder, predictor = LinearEncoder(WIDTHS), MLPPredictor(dict.fromkeys(WIDTHS, 4))
    for masker, unnamed in (
        (NodeMasker({"row": 0.5, "column": 0}), "goal"),
        (EdgeMasker({"near": 0.5}), "goal', 'row"),
    ):
        jepa = JEPAObjective(masker, predictor, StopGradTeacher())
        with pytest.raises(ValueError, match=rf"encoder returns the streams \['{unnamed}'\].*ratio of 0"):
            jepa(encoder, graph)
    JEPAObjective(NodeMasker({"row": 0.5, "column": 0, "goal": 0}), predictor, StopGradTeacher())(encoder, graph)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@EVERY
def test_no_masker_waits_for_the_gpu(masker: Any, batch: Callable[..., Graph]):
    graph, generator = batch([(6, 6, 20), (4, 4, 9)]).to("cuda"), torch.Generator("cuda").manual_seed(0)
    masker(graph, generator=generator)  # the first call loads kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        views = masker(graph, generator=generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(values.is_cuda for values in views.context.values().values())


# Bad input


@pytest.mark.parametrize("make", [NodeMasker, BlockMasker, EdgeMasker])
def test_bad_ratios_are_refused(make: Any):
    with pytest.raises(ValueError, match=r"ratio is \{.*hides nothing.*at least one stream"):
        make({"constraint": 0, "variable": 0.0})
    for bad in (0.0, 1.0, -0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=rf"ratio is {bad}.*strictly between 0 and 1.*0\.3 to 0\.5"):
            make(bad)
    for bad in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match=rf"ratio\['variable'\] is {bad}.*strictly between"):
            make({"constraint": 0, "variable": bad})
    for graph, streams in ((two_types([(3, 3, 4)]), "constraint|edge"), (three_types([(3, 3, 4)]), "column|back")):
        with pytest.raises(ValueError, match=rf"ratio names the streams \['rows'\], but the graph has \['{streams}"):
            make({"rows": 0.5})(graph)


def test_bad_arguments_are_refused():
    for bad in (0, -2, 1.5):
        with pytest.raises(ValueError, match=rf"hops is {bad}.*whole number.*at least 1"):
            BlockMasker(0.5, hops=bad)  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match=rf"blocks is {bad}.*whole number.*at least 1"):
            BlockMasker(0.5, blocks=bad)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"derived is .*hide_edges is False.*hide_edges=True"):
        NodeMasker(0.5, derived={"constraint": [0]})
    for column in (-1, True, 0.0):
        with pytest.raises((TypeError, ValueError), match=r"derived\['variable'\] is .*"):
            EdgeMasker(0.5, derived={"variable": [column]})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"ratio and reverse both name \['back'\].*leave it out of ratio"):
        EdgeMasker({"has": 0.5, "back": 0.5}, reverse=BOTH_WAYS)


GRAPH = two_types([(4, 4, 9), (3, 2, 4)])
HETERO = three_types([(4, 4, 9), (3, 2, 4)])
BACK = HETERO.edges["back"]


def moved(row: int, place: int, value: int) -> Graph:
    index = GRAPH.edge_index.clone()
    index[row, place] = value
    return GRAPH.with_streams(GRAPH.nodes, {"edge": Edges(GRAPH.edges["edge"].ends, index, GRAPH.edge_attr)})


def begin(offsets: list[int]) -> Graph:
    nodes = {**GRAPH.nodes, "constraint": Nodes(GRAPH.constraint_features, torch.tensor(offsets))}
    return GRAPH.with_streams(nodes, GRAPH.edges)


WRONG: dict[str, tuple[Any, Graph, str]] = {
    **{
        f"offsets {wrong} of {type(masker).__name__}": (
            masker, begin(wrong), r"constraint_offsets goes from .*must rise from 0 to the 7 constraint"
        )
        for masker in (NodeMasker(0.5), EdgeMasker(0.5), BlockMasker(0.5))
        for wrong in ([0, 4, 9], [1, 4, 7], [0, 8, 7])
    },
    "an edge before": (EdgeMasker(0.5), moved(1, 2, -1), r"edge_index\[1\] reaches from .*there are 6 variable nodes"),
    "an edge behind": (NodeMasker(0.5, hide_edges=True), moved(1, 2, 6), r"edge_index\[1\] reaches from .*6 variable"),
    "an edge between": (
        BlockMasker(0.5),
        moved(1, int(GRAPH.edge_index[1].argmin()), 5),
        r"edge_index\[:, \d+\] joins a constraint of graph 0 to a variable of graph 1",
    ),
    "a column too far": (
        EdgeMasker(0.5, derived={"variable": [2]}), GRAPH, r"derived\['variable'\] names column 2.*has 2 columns"
    ),
    "derived of no stream": (
        EdgeMasker(0.5, derived={"row": [0]}), GRAPH, r"derived names the stream 'row'.*'constraint', 'variable'"
    ),
    "whole coefficients": (
        EdgeMasker(0.5), GRAPH.with_values({"edge": torch.ones(13, 1, dtype=torch.int64)}),
        r"edge_attr is torch\.int64.*floating point.*\.float\(\)",
    ),
    "whole coefficients at nodes": (
        NodeMasker(0.5, hide_edges=True), GRAPH.with_values({"edge": torch.ones(13, 1, dtype=torch.int64)}),
        r"edge_attr is torch\.int64.*floating point.*\.float\(\)",
    ),
    "an indicator beside single numbers": (
        BlockMasker(0.5, hide_edges=True, indicator=True), GRAPH.with_values({"edge": torch.ones(13)}),
        r"edge_attr is \[13\].*\[edges, features\].*unsqueeze",
    ),
    "edges without attributes": (EdgeMasker(0.5), HETERO, r"edges\['bare'\]\.attr is None.*leave their stream out of"),
    "edges that are not turned round": (
        EdgeMasker({"has": 0.5}, reverse={"near": "has"}), HETERO, r"'near' is 'has' in the other direction, but the g"
    ),
    "edges that differ": (
        EdgeMasker({"has": 0.5}, reverse=BOTH_WAYS),
        Graph(HETERO.nodes, {**HETERO.edges, "back": BACK._replace(index=BACK.index.flip(1))}),
        r"but their edges differ; store both in the same order",
    ),
    "no edges": (EdgeMasker(0.5), Graph(HETERO.nodes, {}), r"edges \[\], but none can be drawn"),
    "no features": (
        NodeMasker(0.5), GRAPH.with_values({"variable": torch.ones(6, 0)}), r"variable_features is \[6, 0\].*nothing"
    ),
    **{
        f"a number of {stream}": (
            masker,
            GRAPH.with_values({stream: GRAPH.values()[stream].index_fill(0, torch.tensor(1), torch.nan)}),
            rf"{stream}_\w+\[1, 0\] is nan, but must be finite",
        )
        for stream in ("constraint", "edge", "variable")
        for masker in (NodeMasker(0.5), ComposeMaskers(EdgeMasker(0.5)))
    },
}  # fmt: skip


@pytest.mark.parametrize(("masker", "graph", "said"), WRONG.values(), ids=WRONG)
def test_graphs_that_cannot_be_hidden_are_refused_before_a_draw(masker: Any, graph: Graph, said: str):
    generator = seeded()
    state = generator.get_state()
    with pytest.raises(ValueError, match=said):
        masker(graph, generator=generator)
    assert torch.equal(generator.get_state(), state)


def test_single_numbers_on_edges_and_missing_features_are_hidden_where_they_can_be():
    single = GRAPH.with_values({"edge": torch.ones(13)})
    assert int((EdgeMasker(0.5)(single).context.edge_attr == 0).sum()) == 4 + 2
    bare = GRAPH.with_values({"variable": torch.ones(6, 0)})
    assert NodeMasker(0.5, hide_edges=True)(bare).hidden["variable"].sum() == 2 + 1
