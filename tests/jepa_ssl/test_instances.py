"""Batches of vectors and of graphs: what they accept, and what they refuse by name."""

from dataclasses import fields, replace

import pytest
import torch
from builders import offsets, ragged_graphs
from hypothesis import given
from hypothesis import strategies as st

from jepa_ssl import BipartiteGraph, FlatVectors
from jepa_ssl.instances import check_finite
from jepa_ssl.segments import equal_shares

SIZES = st.lists(st.integers(0, 5), max_size=6)


@given(SIZES)
def test_graph_of_names_each_nodes_graph(sizes: list[int]):
    graph = ragged_graphs(sizes, sizes[::-1])
    for kind, counts in (("constraint", sizes), ("variable", sizes[::-1])):
        expected = [index for index, size in enumerate(counts) for _ in range(size)]
        assert graph.graph_of(kind).tolist() == expected
    assert graph.num_graphs == len(sizes)


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
    assert all(getattr(moved, field.name).is_meta for field in fields(moved))


GRAPH = ragged_graphs([2, 2], [1, 3])

SHAPE_ERRORS = {
    "integer features": (
        {"variable_features": torch.ones(4, 2, dtype=torch.int64)},
        r"variable_features is int64 \[4, 2\].*\.float\(\)",
    ),
    "flat features": ({"constraint_features": torch.ones(4)}, r"constraint_features is float32 \[4\].*unsqueeze"),
    "edges by row": ({"edge_index": torch.zeros(3, 2, dtype=torch.int64)}, r"edge_index is int64 \[3, 2\].*\.t\(\)"),
    "float edges": ({"edge_index": torch.zeros(2, 4)}, r"edge_index is float32.*\.long\(\)"),
    "attributes of other edges": (
        {"edge_attr": torch.ones(5, 1)},
        r"edge_attr is float32 \[5, 1\].* 4 edges.*per edge",
    ),
    "float offsets": ({"variable_offsets": torch.ones(3)}, r"variable_offsets is float32.*graphs \+ 1.*ptr"),
    "no offsets": ({"constraint_offsets": torch.ones(0, dtype=torch.int64)}, r"constraint_offsets is int64 \[0\]"),
    "offsets of two batches": (
        {"constraint_offsets": offsets([4])},
        r"counts 1 graphs and variable_offsets 2.*same batch",
    ),
}


@pytest.mark.parametrize(("change", "message"), SHAPE_ERRORS.values(), ids=SHAPE_ERRORS)
def test_graphs_of_the_wrong_shape_are_refused(change: dict[str, torch.Tensor], message: str):
    with pytest.raises(ValueError, match=message):
        replace(GRAPH, **change)


VALUE_ERRORS = {
    "offsets end early": (
        {"constraint_offsets": offsets([2, 1])},
        r"constraint_offsets goes from 0 to 3.* 4 constraint nodes.*cumulative",
    ),
    "offsets start late": ({"variable_offsets": 1 + offsets([1, 2])}, r"variable_offsets goes from 1 to 4"),
    "offsets fall": ({"variable_offsets": torch.tensor([0, 5, 4])}, r"variable_offsets .*must rise"),
    "an edge leaves": (
        {"edge_index": torch.tensor([[0, 1, 2, 4], [0, 0, 1, 1]])},
        r"edge_index\[0\] reaches from 0 to 4.* 4 constraint",
    ),
    "a negative edge": (
        {"edge_index": torch.tensor([[0, 1, 2, 3], [0, 0, 1, -1]])},
        r"edge_index\[1\] reaches from -1 to 1",
    ),
    "an edge crosses": (
        {"edge_index": torch.tensor([[0, 1, 2, 3], [0, 0, 1, 0]])},
        r"edge_index\[:, 3\] joins a constraint of graph 1 to a variable of graph 0.*collate",
    ),
}


@pytest.mark.parametrize(("change", "message"), VALUE_ERRORS.values(), ids=VALUE_ERRORS)
def test_graphs_with_wrong_numbers_are_refused_on_request(change: dict[str, torch.Tensor], message: str):
    graph = replace(GRAPH, **change)
    for check in (graph.check_values, graph.check_wiring):
        with pytest.raises(ValueError, match=message):
            check()


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


def test_a_feature_without_items_is_refused():
    edges, item = torch.zeros(2, 1, dtype=torch.int64), torch.ones(1, 1)
    with pytest.raises(ValueError, match="variable_features"):
        BipartiteGraph.single(item, edges, item, torch.tensor(1.0))
