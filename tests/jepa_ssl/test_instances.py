"""Batches of vectors and of graphs: what they accept, and what they refuse by name."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from builders import offsets, ragged_graphs, seeded
from hypothesis import given
from hypothesis import strategies as st
from random_graphs import BATCHES, SEEDS, Sizes, places, three_types
from random_graphs import SIZES as TRIPLES

from jepa_ssl import BipartiteGraph, FlatVectors, Graph
from jepa_ssl.instances import check_finite
from jepa_ssl.instances.streams import Edges, Nodes
from jepa_ssl.segments import equal_shares, segment_sums
from jepa_ssl.testing.batches import parts_of, same_contents

SIZES = st.lists(st.integers(0, 5), max_size=6)


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
@given(TRIPLES, SEEDS)
def test_graph_of_names_the_graph_of_each_node_and_edge(batch: Callable[..., Graph], sizes: Sizes, seed: int):
    graph = batch(sizes, seed)
    assert graph.num_graphs == len(sizes)
    for stream in (*graph.nodes, *graph.edges):
        owner = {item: number for number, items in enumerate(places(graph, stream)) for item in items}
        assert graph.graph_of(stream).tolist() == [owner[item] for item in range(len(owner))]
    assert type(graph.with_values({})) is type(graph)
    assert [*graph.values()] == [*graph.nodes, *(s for s, edges in graph.edges.items() if edges.attr is not None)]


def test_single_is_a_batch_of_one_graph():
    batch = ragged_graphs([3], [2])
    single = BipartiteGraph.single(
        batch.constraint_features, batch.edge_index, batch.edge_attr, batch.variable_features
    )
    assert single.constraint_features is batch.constraint_features
    for field in fields(batch):
        assert torch.equal(getattr(single, field.name), getattr(batch, field.name))


def test_to_moves_every_tensor():
    moved = ragged_graphs([3, 1], [2, 2]).to("meta")
    assert isinstance(moved, BipartiteGraph)
    assert all(getattr(moved, field.name).is_meta for field in fields(moved))
    assert all(tensor.is_meta for tensor in parts_of(three_types([(3, 2, 4)]).to("meta")).values())


def test_graphs_are_copied_and_pickled_whole():
    for graph in (ragged_graphs([3, 1], [2, 2]), three_types([(3, 2, 4), (1, 0, 2)])):
        for same in (copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):
            assert type(same) is type(graph)
            assert same_contents(same, graph)
            assert all(part.attr is graph.values().get(s) for s, part in graph.edges.items())


NODES = {"a": Nodes(torch.ones(2, 1), offsets([2])), "b": Nodes(torch.ones(3, 1), offsets([3]))}
TWO = torch.tensor([[0, 1], [2, 0]])
STREAM_ERRORS = {
    "no nodes": ({}, {}, r"nodes has the streams \[\] and edges \[\], but there must be nodes"),
    "a name twice": (NODES, {"a": Edges(("a", "b"), TWO)}, r"no name may be used twice; .*rename the edges"),
    "an unknown end": (NODES, {"e": Edges(("a", "c"), TWO)}, r"edges\['e'\]\.ends is \('a', 'c'\).*\['a', 'b'\]"),
    "attributes of other edges": (
        NODES, {"e": Edges(("a", "b"), TWO, torch.ones(3, 1))}, r"edges\['e'\]\.attr is float32 \[3, 1\].* 2 edges"
    ),
    "other graphs": (
        {**NODES, "b": Nodes(torch.ones(3, 1), offsets([1, 2]))}, {}, r"nodes\['a'\]\.offsets counts 1 graphs.*\['b'\]"
    ),
    "other devices": (
        NODES, {"e": Edges(("a", "b"), TWO.to("meta"))}, r"edges\['e'\]\.index is on meta, but nodes\['a'\].*on cpu"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("nodes", "edges", "message"), STREAM_ERRORS.values(), ids=STREAM_ERRORS)
def test_streams_that_do_not_fit_are_refused(nodes: Any, edges: Any, message: str):
    with pytest.raises(ValueError, match=message):
        Graph(nodes, edges)


def test_edges_between_two_nodes_of_one_stream_are_checked():
    nodes = {"a": Nodes(torch.ones(4, 1), offsets([2, 2]))}
    Graph(nodes, {"e": Edges(("a", "a"), torch.tensor([[0, 1, 3], [1, 1, 2]]))}).check_values()
    for index, message in (
        ([[0], [4]], r"\[1\] reaches from 4 to 4"),
        ([[1], [2]], r"joins a a of graph 0 to a a of graph 1"),
    ):
        with pytest.raises(ValueError, match=rf"edges\['e'\]\.index.*{message}"):
            Graph(nodes, {"e": Edges(("a", "a"), torch.tensor(index))}).check_values()


GRAPH = ragged_graphs([2, 2], [1, 3])

SHAPE_ERRORS = {
    "integer features": (
        {"variable_features": torch.ones(4, 2).long()}, r"variable_features is int64 \[4, 2\].*\.float\(\)"
    ),
    "flat features": ({"constraint_features": torch.ones(4)}, r"constraint_features is float32 \[4\].*unsqueeze"),
    "edges by row": ({"edge_index": torch.zeros(3, 2).long()}, r"edge_index is int64 \[3, 2\].*\.t\(\)"),
    "float edges": ({"edge_index": torch.zeros(2, 4)}, r"edge_index is float32.*\.long\(\)"),
    "attributes of other edges": (
        {"edge_attr": torch.ones(5, 1)}, r"edge_attr is float32 \[5, 1\].* 4 edges.*per edge"
    ),
    "float offsets": ({"variable_offsets": torch.ones(3)}, r"variable_offsets is float32.*graphs \+ 1.*ptr"),
    "no offsets": ({"constraint_offsets": torch.ones(0).long()}, r"constraint_offsets is int64 \[0\]"),
    "offsets of two batches": (
        {"constraint_offsets": offsets([4])}, r"counts 1 graphs and variable_offsets 2.*same batch"
    ),
    "a feature without items": ({"variable_features": torch.tensor(1.0)}, "variable_features"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), SHAPE_ERRORS.values(), ids=SHAPE_ERRORS)
def test_graphs_of_the_wrong_shape_are_refused(change: dict[str, torch.Tensor], message: str):
    with pytest.raises(ValueError, match=message):
        replace(GRAPH, **change)


def edges(*pairs: list[int]) -> dict[str, torch.Tensor]:
    return {"edge_index": torch.tensor(pairs)}


VALUE_ERRORS = {
    "offsets end early": (
        {"constraint_offsets": offsets([2, 1])},
        r"constraint_offsets goes from 0 to 3.* 4 constraint nodes.*cumulative",
    ),
    "offsets start late": ({"variable_offsets": 1 + offsets([1, 2])}, r"variable_offsets goes from 1 to 4"),
    "offsets fall": ({"variable_offsets": torch.tensor([0, 5, 4])}, r"variable_offsets .*must rise"),
    "an edge leaves": (edges([0, 1, 2, 4], [0, 0, 1, 1]), r"edge_index\[0\] reaches from 0 to 4.* 4 constraint"),
    "a negative edge": (edges([0, 1, 2, 3], [0, 0, 1, -1]), r"edge_index\[1\] reaches from -1 to 1"),
    "an edge crosses": (
        edges([0, 1, 2, 3], [0, 0, 1, 0]),
        r"edge_index\[:, 3\] joins a constraint of graph 1 to a variable of graph 0.*collate",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), VALUE_ERRORS.values(), ids=VALUE_ERRORS)
def test_graphs_with_wrong_numbers_are_refused_on_request(change: dict[str, torch.Tensor], message: str):
    graph = replace(GRAPH, **change)
    for check in (graph.check_values, graph.check_wiring):
        with pytest.raises(ValueError, match=message):
            check()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_are_found_on_request(value: float):
    values = torch.ones(2, 3)
    values[1, 2] = value
    valid = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=rf"values\[1, 2\] is {value}, but must be finite"):
        FlatVectors(values, valid).check_values()
    valid[1, 2] = False
    padded = FlatVectors(values, valid)
    assert padded.check_values() is padded
    for graph in (GRAPH, three_types([(3, 2, 4)])):
        for stream, part in graph.values().items():
            wrong = graph.with_values({stream: part.index_fill(0, torch.tensor(1), value)})
            with pytest.raises(ValueError, match=rf"{stream}\W?\W?[._]\w+\[1, 0\] is {value}, but must be finite"):
                wrong.check_values()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@given(st.lists(st.floats(width=16), max_size=30))
def test_numbers_are_finite_one_by_one_even_where_their_sum_is_not(dtype: torch.dtype, numbers: list[float]):
    values = torch.tensor([*numbers, 6e4, 6e4], dtype=torch.float64).to(dtype)
    wrong = [i for i, number in enumerate(numbers) if not -torch.inf < number < torch.inf]
    if not wrong:
        check_finite("b", values)
        return
    with pytest.raises(ValueError, match=rf"b\[{wrong[0]}\] is .*but must be finite"):
        check_finite("b", values)


@given(SIZES)
def test_segments_share_alike(sizes: list[int]):
    shares = equal_shares(offsets(sizes), sum(sizes), torch.float64)
    assert shares.tolist() == [1 / size for size in sizes for _ in range(size)]
    counts = torch.tensor([size // 2 for size in sizes], dtype=torch.int64)
    shares = equal_shares(offsets(sizes), sum(sizes), torch.float16, counts)
    assert shares.dtype == torch.float32
    expected = [1 / max(size // 2, 1) for size in sizes for _ in range(size)]
    torch.testing.assert_close(shares, torch.tensor(expected, dtype=torch.float32))


@given(SIZES, SEEDS)
def test_segment_sums_count_marks(sizes: list[int], seed: int):
    marks = torch.rand(sum(sizes), generator=seeded(seed)) < 0.5
    expected = [int(part.sum()) for part in marks.split(sizes)] if sizes else []
    assert segment_sums(marks, offsets(sizes)).tolist() == expected


def test_a_batch_without_graphs_nodes_or_edges_is_in_order():
    for sizes in ([], [0], [0, 0, 3]):
        graph = ragged_graphs(sizes, [0] * len(sizes))
        assert graph.edge_index.size(1) == 0


@pytest.mark.parametrize(
    ("values", "valid", "message"),
    [
        (torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.bool), r"values is int64 \[2, 3\].*flatten"),
        (torch.ones(6), torch.ones(6, dtype=torch.bool), r"values is float32 \[6\].*\[batch, entries\]"),
        (torch.ones(2, 3), torch.ones(2, 3), r"valid is float32 \[2, 3\].*bool.*valid_entries"),
        (torch.ones(2, 3), torch.tensor([3, 2]), r"valid is int64 \[2\].*\(2, 3\)"),
        (torch.ones(2, 3), torch.ones(2, 1, dtype=torch.bool), r"valid is bool \[2, 1\]"),
    ],
)
def test_vectors_whose_padding_mask_does_not_fit_are_refused(values: torch.Tensor, valid: torch.Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        FlatVectors(values, valid)
