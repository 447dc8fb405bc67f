"""Views of heterogeneous graphs: what `HeteroNodeMasker` hides, and what it leaves alone."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from jepa_ssl import NodeMasker, Seeds
from jepa_ssl.maskers import GaussianNoise, LearnedToken, Shuffled

pytest.importorskip("torch_geometric")
from torch_geometric.data import Batch, Data, HeteroData

from jepa_ssl.integrations.pyg import HeteroNodeMasker, bipartite_graph, in_another_order

ROW, COLUMN, GOAL = "row", "column", "objective"
FORWARD, BACKWARD, COST = (ROW, "has", COLUMN), (COLUMN, "rev_has", ROW), (GOAL, "prices", COLUMN)


def lp(rows: int, columns: int, seed: int = 0) -> HeteroData:
    """Rows, columns and an objective node; coefficients are stored in both directions."""
    generator = torch.Generator().manual_seed(seed)
    data = HeteroData()
    for kind, nodes, width in ((ROW, rows, 2), (COLUMN, columns, 3), (GOAL, 1, 1)):
        data[kind].x = 1 + torch.rand(nodes, width, generator=generator)
    pairs = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).T
    data[FORWARD].edge_index, data[BACKWARD].edge_index = pairs, pairs.flip(0)
    data[FORWARD].edge_attr = data[BACKWARD].edge_attr = 1 + torch.rand(rows * columns, 1, generator=generator)
    data[COST].edge_index = torch.stack([torch.zeros(columns, dtype=torch.long), torch.arange(columns)])
    data[ROW].name = torch.arange(rows)
    return data


def batch(*sizes: tuple[int, int], **kwargs: Any) -> Any:
    return Batch.from_data_list([lp(*size, seed=i) for i, size in enumerate(sizes)], **kwargs)


def lost(views: Any, kind: Any, attribute: str = "x") -> Tensor:
    return (views.context[kind][attribute] != views.target[kind][attribute]).any(1)


sizes = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5)


@given(sizes, st.floats(0.05, 0.95), st.integers(0, 2**32), st.booleans())
def test_each_graph_loses_exactly_its_share_of_each_type(
    of_graphs: list[tuple[int, int]], ratio: float, seed: int, hide_edges: bool
):
    data = batch(*of_graphs)
    before = data.clone()
    masker = HeteroNodeMasker({ROW: ratio, COLUMN: ratio}, hide_edges=hide_edges)
    views = masker(data, generator=torch.Generator().manual_seed(seed))
    assert views.target is data
    assert views.hidden.keys() == views.weight.keys() == {ROW, COLUMN}
    for kind in (ROW, COLUMN):
        hidden = views.hidden[kind]
        assert torch.equal(hidden, lost(views, kind))
        for graph, of_graph in enumerate(of_graphs):
            nodes = of_graph[0] if kind == ROW else of_graph[1]
            here = hidden[data[kind].batch == graph]
            assert here.sum() == (min(max(int(ratio * nodes), 1), nodes - 1) if nodes > 1 else 0)
            weight = views.weight[kind][data[kind].batch == graph]
            assert weight.sum().isclose(torch.tensor(1.0 if nodes > 1 else 0.0))
            assert not weight[~here].any()
    for edge_type in (FORWARD, BACKWARD):
        source, _, target = edge_type
        ends = data[edge_type].edge_index
        at_hidden = views.hidden[source][ends[0]] | views.hidden[target][ends[1]]
        assert torch.equal(lost(views, edge_type, "edge_attr"), at_hidden & hide_edges)
    for part, was in zip(data.stores, before.stores, strict=True):  # nothing was written to
        assert all(torch.equal(part[name], was[name]) for name in part if isinstance(part[name], Tensor))


def test_what_is_not_hidden_is_shared():
    data = batch((4, 5), (3, 2))
    views = HeteroNodeMasker({ROW: 0.5})(data)
    assert views.context[COLUMN].x is data[COLUMN].x
    assert views.context[FORWARD].edge_attr is data[FORWARD].edge_attr
    assert views.context[ROW].name is data[ROW].name
    assert type(views.context) is type(data)


def test_both_directions_lose_the_same_coefficients():
    views = HeteroNodeMasker({ROW: 0.5, COLUMN: 0}, hide_edges=True)(batch((4, 5), (3, 2)))
    assert torch.equal(views.context[FORWARD].edge_attr, views.context[BACKWARD].edge_attr)
    assert lost(views, FORWARD, "edge_attr").any()
    assert not views.hidden[COLUMN].any()


def test_one_ratio_is_for_all_types_and_a_lone_node_stays():
    views = HeteroNodeMasker(0.5)(batch((4, 5), (3, 2)))
    assert views.hidden.keys() == {ROW, COLUMN, GOAL}
    assert not views.hidden[GOAL].any()
    assert not views.weight[GOAL].any()


def test_one_graph_and_a_batch_without_pointers_know_where_graphs_begin():
    single = HeteroNodeMasker({ROW: 0.5})(lp(4, 5))
    assert single.hidden[ROW].sum() == 2
    data = batch((4, 5), (2, 2))
    for kind in data.node_types:
        del data[kind].ptr
    assert HeteroNodeMasker({ROW: 0.5})(data).hidden[ROW].split([4, 2])[1].sum() == 1


def test_with_seeds_a_graph_loses_the_same_in_any_company():
    masker = HeteroNodeMasker({ROW: 0.5, COLUMN: 0.5}, Shuffled())
    both = masker(batch((6, 5), (7, 4)), generator=Seeds(torch.tensor([3, 8])))
    alone = masker(batch((6, 5)), generator=Seeds(torch.tensor([3])))
    for kind in (ROW, COLUMN):
        nodes = len(alone.hidden[kind])
        assert torch.equal(both.context[kind].x[:nodes], alone.context[kind].x)


def test_the_same_generator_gives_the_same_views_and_the_global_one_stays():
    data, masker = batch((6, 5), (7, 4)), HeteroNodeMasker(0.5, GaussianNoise(), hide_edges=True)
    state = torch.get_rng_state()
    made = [masker(data, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(state, torch.get_rng_state())
    first, again, other = (torch.cat([views.context[ROW].x, views.context[ROW].x]) for views in made)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_tokens_are_named_by_node_type():
    masker = HeteroNodeMasker({ROW: 0.5}, LearnedToken({ROW: 2, "edge": 1}), hide_edges=True)
    views = masker(batch((4, 5), (3, 2)))
    token = masker.fill.tokens[ROW]  # pyright: ignore
    assert torch.equal(views.context[ROW].x[views.hidden[ROW]], token.expand(3, 2))


@pytest.mark.parametrize(
    ("ratio", "message"),
    [
        (1.0, "ratio is 1.0, but must lie strictly between 0 and 1"),
        ({ROW: 0.0}, "hides nothing; give one type a ratio"),
        ({ROW: 0.5, COLUMN: 2.0}, r"ratio\['column'\] is 2.0"),
        ({"rows": 0.5}, r"node type 'rows', but data\['rows'\].x is None.*\['row', 'column', 'objective'\]"),
    ],
)
def test_wrong_ratios_are_refused(ratio: Any, message: str):
    with pytest.raises(ValueError, match=message):
        HeteroNodeMasker(ratio)(batch((4, 5)))


def test_other_instances_are_refused():
    with pytest.raises(TypeError, match=r"is a Data, but must be HeteroData.*BipartiteViews"):
        HeteroNodeMasker(0.5)(Data(x=torch.ones(2, 2)))
    data = batch((4, 5))
    data[ROW].x[1, 0] = torch.nan
    with pytest.raises(ValueError, match=r"data\['row'\]\.x\[1, 0\] is nan"):
        HeteroNodeMasker(0.5)(data)


def test_the_batch_in_another_order_is_the_same_batch():
    data = batch((4, 5), (3, 2))
    turned, items = in_another_order(data)
    for kind in data.node_types:
        assert torch.equal(turned[kind].x[items[kind]], data[kind].x)
        assert torch.equal(turned[kind].batch[items[kind]], 1 - data[kind].batch)
    for edge_type in data.edge_types:
        source, _, target = edge_type
        moved = torch.stack([items[kind][ends] for kind, ends in
                             zip((source, target), data[edge_type].edge_index, strict=True)])  # fmt: skip
        assert {tuple(edge) for edge in moved.T.tolist()} == {
            tuple(edge) for edge in turned[edge_type].edge_index.T.tolist()
        }


def test_the_draw_is_that_of_the_masker_of_bipartite_graphs():
    """Two types, drawn in the same order, are `NodeMasker` by another name."""
    data = batch((6, 5), (7, 4))
    plain = Data(constraint_features=data[ROW].x, edge_index=data[FORWARD].edge_index,
                 edge_attr=data[FORWARD].edge_attr, variable_features=data[COLUMN].x,
                 constraint_features_ptr=data[ROW].ptr, variable_features_ptr=data[COLUMN].ptr)  # fmt: skip
    ours = HeteroNodeMasker({ROW: 0.5, COLUMN: 0.5})(data, generator=torch.Generator().manual_seed(0))
    theirs = NodeMasker(0.5)(bipartite_graph(plain), generator=torch.Generator().manual_seed(0))
    for kind, stream in ((ROW, "constraint"), (COLUMN, "variable")):
        assert torch.equal(ours.hidden[kind], theirs.hidden[stream])
        assert torch.equal(ours.weight[kind], theirs.weight[stream])


def test_a_type_that_some_graphs_lack_is_refused():
    graphs: list[Any] = [lp(4, 5), lp(3, 2), lp(2, 2)]
    for graph in (graphs[0], graphs[2]):
        graph["quad"].x = torch.ones(2, 1)
    data = Batch.from_data_list(graphs)
    with pytest.raises(ValueError, match=r"2 of 3 graphs have nodes of type 'quad'.*give .* an empty x"):
        HeteroNodeMasker({ROW: 0.5, "quad": 0.5})(data)


def test_labels_of_edges_are_followed_into_the_other_order():
    graphs: list[Any] = [lp(4, 5), lp(3, 2)]
    for graph in graphs:
        graph[FORWARD].edge_label_index = torch.tensor([[0], [1]])
    turned, items = in_another_order(Batch.from_data_list(graphs, follow_batch=["x"]))
    assert "x_ptr" in turned[ROW]
    assert turned[FORWARD].edge_label_index[0].flip(0).tolist() == items[ROW][[0, 4]].tolist()
