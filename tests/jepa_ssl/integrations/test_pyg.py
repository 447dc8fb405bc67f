"""PyG data as graphs and back, and views of them: custom `Data` and `HeteroData` alike."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from jepa_ssl import BlockMasker, ComposeMaskers, EdgeMasker, MultiView, NodeMasker, Seeds
from jepa_ssl.maskers import GaussianNoise, LearnedToken, Shuffled
from jepa_ssl.testing.batches import same_bits

pytest.importorskip("torch_geometric")
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.transforms import ToUndirected

from jepa_ssl.integrations.pyg import PyGViews, bipartite_graph, graph_of, in_another_order, with_graph

KINDS = ["constraint_features", "variable_features"]
ROW, COLUMN, GOAL = "row", "column", "objective"
FORWARD, BACKWARD, COST = (ROW, "has", COLUMN), (COLUMN, "rev_has", ROW), (GOAL, "prices", COLUMN)
HAS, REV_HAS, PRICES = "row__has__column", "column__rev_has__row", "objective__prices__column"
NAMES = {"constraint_features": "x_s", "edge_index": "edges", "edge_attr": "weights", "variable_features": "x_t"}


class LPData(Data):
    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        if key == "edge_index":
            return torch.tensor([[len(self.constraint_features)], [len(self.variable_features)]])
        return super().__inc__(key, value, *args, **kwargs)


class Renamed(Data):
    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        if key == "edges":
            return torch.tensor([[len(self.x_s)], [len(self.x_t)]])
        return super().__inc__(key, value, *args, **kwargs)

    def __cat_dim__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        return 1 if key == "edges" else super().__cat_dim__(key, value, *args, **kwargs)


def lp(m: int, n: int) -> LPData:
    pairs = torch.cartesian_prod(torch.arange(m), torch.arange(n)).T
    return LPData(
        constraint_features=torch.randn(m, 1),
        edge_index=pairs,
        edge_attr=torch.randn(m * n, 1),
        variable_features=torch.randn(n, 1),
        num_nodes=m + n,  # PyG cannot infer it from features of these names
    )


def renamed(data: LPData) -> Renamed:
    of = {own: data[own] for own in NAMES}
    return Renamed(**{NAMES[own]: tensor for own, tensor in of.items()}, candidates=torch.arange(3), num_nodes=1)


def hetero(rows: int, columns: int, seed: int = 0) -> HeteroData:
    """Rows, columns and an objective node; coefficients are stored in both directions, prices have none."""
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
    return Batch.from_data_list([hetero(*size, seed=i) for i, size in enumerate(sizes)], **kwargs)


def several(views: Any) -> tuple[Any, ...]:
    return views if isinstance(views, tuple) else (views,)


# To graphs and back


def test_a_batch_shares_its_tensors_and_knows_its_graphs():
    sizes = [(2, 3), (4, 1), (1, 5)]
    graphs: list[Any] = [lp(m, n) for m, n in sizes]
    data = Batch.from_data_list(graphs, follow_batch=KINDS)
    graph, unfollowed = (
        bipartite_graph(data).check_values(),
        bipartite_graph(Batch.from_data_list(graphs)).check_values(),
    )
    for name in (*KINDS, "edge_index", "edge_attr"):
        assert getattr(graph, name) is data[name]
    assert graph.offsets("constraint").diff().tolist() == [m for m, _ in sizes]
    assert graph.offsets("variable").diff().tolist() == [n for _, n in sizes]
    assert graph.graph_of("constraint").tolist() == data["constraint_features_batch"].tolist()
    assert all(torch.equal(unfollowed.offsets(kind), graph.offsets(kind)) for kind in graph.nodes)
    single = bipartite_graph(graphs[1])
    assert (single.num_graphs, single.offsets("variable").tolist()) == (1, [0, 1])


def test_hetero_data_share_their_tensors_and_know_their_graphs():
    data = batch((4, 5), (3, 2))
    graph = graph_of(data).check_values()
    assert graph.num_graphs == 2
    assert {s: part.offsets.diff().tolist() for s, part in graph.nodes.items()} == {
        ROW: [4, 3], COLUMN: [5, 2], GOAL: [1, 1]
    }  # fmt: skip
    assert all(part.features is data[kind].x for kind, part in graph.nodes.items())
    assert [(s, part.ends) for s, part in graph.edges.items()] == [
        ("__".join(kind), kind[::2]) for kind in (FORWARD, BACKWARD, COST)
    ]
    assert graph.edges[HAS].index is data[FORWARD].edge_index
    assert graph.edges[HAS].attr is data[FORWARD].edge_attr
    assert graph.edges[PRICES].attr is None
    assert with_graph(data, graph) is data
    for kind in data.node_types:
        del data[kind].ptr
    assert all(torch.equal(part.offsets, graph.offsets(kind)) for kind, part in graph_of(data).nodes.items())
    assert graph_of(hetero(4, 5)).num_graphs == 1


def test_a_type_without_floating_point_x_has_no_features():
    data = batch((4, 5), (3, 2))
    data[GOAL].x = data[GOAL].x.long()
    del data[COLUMN].x
    graph = graph_of(data)
    assert {kind: list(part.features.shape) for kind, part in graph.nodes.items()} == {
        ROW: [7, 2],
        COLUMN: [7, 0],
        GOAL: [2, 0],
    }
    views = PyGViews(NodeMasker({ROW: 0.5}, hide_edges=True))(data)
    assert torch.equal(
        views.context[FORWARD].edge_attr == 0, views.hidden[ROW][data[FORWARD].edge_index[0]].unsqueeze(1)
    )
    assert views.context[GOAL].x is data[GOAL].x
    with pytest.raises(
        ValueError, match=r"nodes\['column'\]\.features is \[7, 0\].*nothing to hide.*leave the stream out"
    ):
        PyGViews(NodeMasker({ROW: 0.5, COLUMN: 0.5}))(data)


def test_data_that_are_no_graphs_are_refused():
    data: Any = Batch.from_data_list([lp(2, 2), lp(2, 2)])
    del data._slice_dict["variable_features"]
    with pytest.raises(ValueError, match=r"neither 'variable_features_ptr' nor slices.*follow_batch"):
        bipartite_graph(data)
    data = lp(2, 2)
    del data["edge_attr"]
    with pytest.raises(ValueError, match=r"data lacks \['edge_attr'\]"):
        bipartite_graph(data)
    for wrong in (torch.ones(2, 2), bipartite_graph(lp(2, 2))):
        with pytest.raises(TypeError, match=r"instance is a \w+, but must be Data or HeteroData"):
            PyGViews(NodeMasker(0.5))(wrong)
    with pytest.raises(TypeError, match=r"names gives a name to \['edges'\]"):
        bipartite_graph(lp(2, 2), edges="edges")
    with pytest.raises(TypeError, match=r"names gives a name to .*'edge_index'.*read by \['x', 'edge_attr'\]"):
        graph_of(hetero(2, 2), **NAMES)
    graphs: list[Any] = [hetero(4, 5), hetero(3, 2), hetero(2, 2)]
    for graph in (graphs[0], graphs[2]):
        graph["quad"].x = torch.ones(2, 1)
    with pytest.raises(ValueError, match=r"2 of 3 graphs have nodes of type 'quad'.*give .* an empty x"):
        graph_of(Batch.from_data_list(graphs))


def test_edges_wired_into_the_next_graph_are_found():
    data = Batch.from_data_list([lp(2, 2), lp(2, 2)], follow_batch=KINDS)
    data["edge_index"][1, -1] = 0
    with pytest.raises(ValueError, match="joins a constraint of graph 1 to a variable of graph 0"):
        bipartite_graph(data).check_values()


# Views

BOTH_WAYS = {REV_HAS: HAS}
SOME = {HAS: 0.4}
MASKERS: dict[str, tuple[Any, bool]] = {
    "nodes": (NodeMasker(0.3), False),
    "edges": (EdgeMasker(0.3), False),
    "several": (MultiView(NodeMasker(0.3, indicator=True), EdgeMasker(0.2)), False),
    "hetero, nodes": (NodeMasker(0.3, GaussianNoise(), hide_edges=True), True),
    "hetero, two types": (NodeMasker({ROW: 0.3, COLUMN: 0}, Shuffled(), hide_edges=True, indicator=True), True),
    "hetero, edges": (EdgeMasker(SOME, reverse=BOTH_WAYS, derived={COLUMN: [1]}), True),
    "hetero, blocks": (BlockMasker({ROW: 0.3, COLUMN: 0.3}), True),
    "hetero, several": (MultiView(NodeMasker(0.3), ComposeMaskers(EdgeMasker(SOME), NodeMasker({ROW: 0.2}))), True),
}


@pytest.mark.parametrize(("masker", "is_hetero"), MASKERS.values(), ids=MASKERS)
def test_views_of_data_are_those_of_their_graphs(masker: Any, is_hetero: bool):
    plain: list[Any] = [renamed(lp(3, 4)), renamed(lp(5, 2))]
    data: Any = batch((6, 5), (7, 4)) if is_hetero else Batch.from_data_list(plain)
    names = {} if is_hetero else NAMES
    before = data.clone()
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    of_data = PyGViews(masker, **names)(data, generator=generators[0])
    of_graph = masker(graph_of(data, **names), generator=generators[1])
    for ours, theirs in zip(several(of_data), several(of_graph), strict=True):
        for name in ("context", "target"):
            found, graph = getattr(ours, name), getattr(theirs, name)
            assert type(found) is type(data)
            values = graph_of(found, **names).values()
            assert all(same_bits(values[stream], tensor) for stream, tensor in graph.values().items())
            assert with_graph(data, graph_of(data, **names), **names) is data
        if not isinstance(masker, MultiView) and not masker.indicator:
            assert ours.target is data
        assert ours.hidden.keys() == ours.weight.keys() == theirs.hidden.keys()
        assert all(torch.equal(ours.hidden[stream], mark) for stream, mark in theirs.hidden.items())
        assert ours.context[ROW].name is data[ROW].name if is_hetero else ours.context.candidates is data.candidates
    for part, was in zip(data.stores, before.stores, strict=True):  # nothing was written to
        assert all(torch.equal(part[key], was[key]) for key in part if isinstance(part[key], Tensor))


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4), st.integers(0, 99))
def test_hidden_coefficients_are_hidden_in_both_directions(sizes: list[tuple[int, int]], seed: int):
    data = batch(*sizes)
    for masker in (
        NodeMasker({ROW: 0.5, COLUMN: 0}, hide_edges=True),
        EdgeMasker({HAS: 0.5}, reverse=BOTH_WAYS),
        BlockMasker({ROW: 0.5, COLUMN: 0.4}, hide_edges=True),
    ):
        context = PyGViews(masker)(data, generator=torch.Generator().manual_seed(seed)).context
        assert torch.equal(context[FORWARD].edge_attr, context[BACKWARD].edge_attr)
        assert any(m * n > 1 and (m > 1 or n > 1) for m, n in sizes) or not (context[FORWARD].edge_attr == 0).any()


def test_what_is_not_hidden_is_shared():
    data = batch((4, 5), (3, 2))
    context = PyGViews(NodeMasker({ROW: 0.5}))(data).context
    assert context[COLUMN].x is data[COLUMN].x
    assert context[FORWARD].edge_attr is data[FORWARD].edge_attr
    assert context[ROW].x is not data[ROW].x


def test_a_lone_node_has_a_stream_only_if_it_is_named():
    views = PyGViews(NodeMasker(0.5))(batch((4, 5), (3, 2)))
    assert views.hidden.keys() == {ROW, COLUMN, GOAL}
    assert not views.hidden[GOAL].any()
    assert not views.weight[GOAL].any()
    assert PyGViews(NodeMasker({ROW: 0.5}))(batch((4, 5))).hidden.keys() == {ROW}


def test_with_seeds_a_graph_loses_the_same_in_any_company():
    views = PyGViews(NodeMasker({ROW: 0.5, COLUMN: 0.5}, Shuffled()))
    both = views(batch((6, 5), (7, 4)), generator=Seeds(torch.tensor([3, 8])))
    alone = views(batch((6, 5)), generator=Seeds(torch.tensor([3])))
    for kind in (ROW, COLUMN):
        assert torch.equal(both.context[kind].x[: len(alone.hidden[kind])], alone.context[kind].x)


def test_tokens_are_named_by_stream_and_trained():
    views = PyGViews(NodeMasker({ROW: 0.5}, LearnedToken({ROW: 2, HAS: 1, REV_HAS: 1}), hide_edges=True))
    assert len(list(views.parameters())) == 3
    made = views(batch((4, 5), (3, 2)))
    token = views.masker.fill.tokens[ROW]  # pyright: ignore
    assert torch.equal(made.context[ROW].x[made.hidden[ROW]], token.expand(3, 2))


# The same batch in another order


def test_custom_data_in_another_order_are_the_same_batch():
    data = Batch.from_data_list([lp(3, 4), lp(5, 2), lp(1, 3)], follow_batch=KINDS)
    turned, items = in_another_order(data)
    before, after = bipartite_graph(data), bipartite_graph(turned).check_values()
    for kind in ("constraint", "variable"):
        assert torch.equal(after.features(kind)[items[kind]], before.features(kind))
        assert torch.equal(after.graph_of(kind)[items[kind]], 2 - before.graph_of(kind))


def test_hetero_data_in_another_order_are_the_same_batch():
    data = batch((4, 5), (3, 2))
    turned, items = in_another_order(data)
    for kind in data.node_types:
        assert torch.equal(turned[kind].x[items[kind]], data[kind].x)
        assert torch.equal(turned[kind].batch[items[kind]], 1 - data[kind].batch)
    for edge_type in data.edge_types:
        ends = zip(edge_type[::2], data[edge_type].edge_index, strict=True)
        moved = torch.stack([items[kind][nodes] for kind, nodes in ends])
        assert {*map(tuple, moved.T.tolist())} == {*map(tuple, turned[edge_type].edge_index.T.tolist())}


def test_labels_of_edges_are_followed_into_the_other_order():
    graphs: list[Any] = [hetero(4, 5), hetero(3, 2)]
    for graph in graphs:
        graph[FORWARD].edge_label_index = torch.tensor([[0], [1]])
    turned, items = in_another_order(Batch.from_data_list(graphs, follow_batch=["x"]))
    assert "x_ptr" in turned[ROW]
    assert turned[FORWARD].edge_label_index[0].flip(0).tolist() == items[ROW][[0, 4]].tolist()


class NeedsArguments(LPData):
    def __init__(self, sizes: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)


def test_data_of_a_class_that_needs_arguments_are_put_in_another_order():
    graphs: list[Any] = [NeedsArguments(None, **lp(m, n).to_dict()) for m, n in ((3, 4), (5, 2))]
    data = Batch.from_data_list(graphs)
    turned, items = in_another_order(data)
    assert type(turned) is type(data)
    for kind in ("constraint", "variable"):
        before, after = bipartite_graph(data), bipartite_graph(turned).check_values()
        assert torch.equal(after.features(kind)[items[kind]], before.features(kind))


# Coefficients and features under other names


def reweighted(data: HeteroData, name: str = "edge_weight") -> HeteroData:
    """The coefficients in an attribute `name`, a number for each edge."""
    for kind in (FORWARD, BACKWARD):
        data[kind][name] = data[kind].edge_attr.squeeze(1)
        del data[kind].edge_attr
    return data


@pytest.mark.parametrize(("name", "names"), [("edge_weight", {}), ("c", {"edge_attr": "c"})])
def test_coefficients_of_another_name_are_hidden(name: str, names: dict[str, str]):
    data = Batch.from_data_list([reweighted(hetero(4, 5), name), reweighted(hetero(3, 2), name)])
    views = PyGViews(NodeMasker({ROW: 0.5, COLUMN: 0}, hide_edges=True), **names)(data)
    for kind, row in ((FORWARD, 0), (BACKWARD, 1)):
        at_hidden = views.hidden[ROW][data[kind].edge_index[row]]
        assert torch.equal(views.context[kind][name] == 0, at_hidden)
        assert list(views.context[kind].keys()) == list(data[kind].keys())


def test_features_of_another_name_are_hidden():
    data: Any = batch((4, 5), (3, 2))
    for kind in data.node_types:
        del renamed_x(data)[kind].ptr  # the slices are those of x
    with pytest.raises(ValueError, match=r"Batch that knows neither 'ptr' nor slices of 'features'"):
        PyGViews(NodeMasker({ROW: 0.5}), x="features")(data)
    data = Batch.from_data_list([renamed_x(hetero(4, 5)), renamed_x(hetero(3, 2))])
    views = PyGViews(NodeMasker({ROW: 0.5}), x="features")(data)
    assert torch.equal((views.context[ROW].features == 0).all(1), views.hidden[ROW])
    with pytest.raises(ValueError, match=r"x is 'feats', but no type of the data has an attribute of that name"):
        PyGViews(NodeMasker({ROW: 0.5}), x="feats")(data)


def renamed_x(data: HeteroData) -> HeteroData:
    for store in data.node_stores:
        if "x" in store:
            store.num_nodes = len(store.x)  # PyG cannot infer it from features of this name
            store.features = store.pop("x")
    return data


def test_an_indicator_of_nodes_without_features_is_refused_or_shown():
    data = batch((4, 5), (3, 2))
    del data[COLUMN].x
    views = PyGViews(NodeMasker({ROW: 0.5, COLUMN: 0.5}, hide_edges=True, indicator=True))
    with pytest.raises(ValueError, match=r"1 columns for the nodes 'column'.*torch\.empty\(nodes, 0\), or leave indic"):
        views(data)
    data[COLUMN].x = torch.empty(7, 0)
    made = views(data)
    assert torch.equal(made.context[COLUMN].x, made.hidden[COLUMN].float().unsqueeze(1))


# HeteroData that are not in order


def odd(change: Any) -> Any:
    data = batch((4, 5), (3, 2)).clone()
    return change(data) or data


def put(kind: Any, name: str, value: Any) -> Any:
    def change(data: Any) -> None:
        data[kind][name] = value(data[kind][name])

    return change


def moved(row: int, edge: int, node: int) -> Any:
    place = (torch.tensor(row), torch.tensor(edge))
    return put(FORWARD, "edge_index", lambda index: index.index_put(place, torch.tensor(node)))


def lost(kind: Any, name: str) -> Any:
    def change(data: Any) -> None:
        del data[kind][name]

    return change


FIRST = (torch.tensor(0), torch.tensor(0))
NAN = torch.tensor(torch.nan)
ALIKE, NO_EDGES = (("a", "b__c", ROW), ("a__b", "c", ROW)), torch.zeros(2, 0, dtype=torch.long)
ODD = {
    "a subgraph of a batch": (
        lambda data: data.subgraph({ROW: torch.tensor([0, 1, 4])}), "take subgraphs before you batch"
    ),
    "an edge out of range": (moved(1, 0, 99), r"index\[1\] reaches from 0 to 99, but there are 7 column nodes"),
    "an edge across graphs": (moved(1, 0, 6), "joins a row of graph 0 to a column of graph 1"),
    "NaN features": (put(ROW, "x", lambda x: x.index_put(FIRST, NAN)), r"nodes\['row'\].features\[0, 0\] is nan"),
    "NaN coefficients": (
        put(FORWARD, "edge_attr", lambda x: x.index_put(FIRST, NAN)), r"\['row__has__column'\].attr\[0, 0\] is nan"
    ),
    "no edge_index": (lost(FORWARD, "edge_index"), r"edges \('row', 'has', 'column'\) have .*but need edge_index"),
    "a list of coefficients": (put(FORWARD, "edge_attr", lambda x: x.tolist()), "edge_attr of .* is a list.*as_tensor"),
    "an array of features": (put(ROW, "x", lambda x: x.numpy()), "x of the nodes 'row' is a ndarray.*as_tensor"),
    "sparse features": (put(ROW, "x", lambda x: x.to_sparse()), "x of the nodes 'row' is a sparse tensor.*to_dense"),
    "a list of pointers": (put(ROW, "ptr", lambda x: x.tolist()), "ptr of .* is a list.*as_tensor"),
    "two edge types of one name": (
        lambda data: [setattr(data[kind], "edge_index", NO_EDGES) for kind in ALIKE] and None,
        "joined by two underscores have 4 different names",
    ),
    "no coefficients": (
        lambda data: [lost(kind, "edge_attr")(data) for kind in (FORWARD, BACKWARD)] and None,
        r"hide_edges is True, but .*attr is None.*no coefficient to hide",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:There exist type names")  # PyG's own
@pytest.mark.parametrize(("change", "said"), ODD.values(), ids=ODD)
def test_hetero_data_that_are_not_in_order_are_refused_by_name(change: Any, said: str):
    data = odd(change)
    with pytest.raises((TypeError, ValueError), match=said):
        PyGViews(NodeMasker({ROW: 0.3, COLUMN: 0.3}, hide_edges=True))(data)


OUT_OF_ORDER = {
    "a BipartiteGraph": (lambda data: bipartite_graph(lp(2, 2)), "a BipartiteGraph.*check_encoder reorders this"),
    "a single graph": (lambda data: hetero(2, 2), "a HeteroData, but must be a Batch.*use Batch.from_data_list"),
    "a subgraph of a batch": ODD["a subgraph of a batch"],
    "an edge out of range": ODD["an edge out of range"],
    "an edge across graphs": ODD["an edge across graphs"],
    "reverse edges added after batching": (
        lambda data: ToUndirected()(data), r"edge_index of .*rev_.* was added after batching.*to each graph"
    ),
    "an attribute added after batching": (
        lambda data: setattr(data[ROW], "rank", torch.ones(7)), "rank of row was added"
    ),
    "an attribute taken out after batching": (lost(ROW, "name"), r"KeyError: 'name'\), because something"),
    "edges taken out after batching": (
        put(COST, "edge_index", lambda x: x[:, :2]), "edge_index of .* has 2 items, but 7 when"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "said"), OUT_OF_ORDER.values(), ids=OUT_OF_ORDER)
def test_what_cannot_be_put_in_another_order_is_refused_by_name(change: Any, said: str):
    data = odd(change)
    with pytest.raises((TypeError, ValueError), match=said):
        in_another_order(data)
