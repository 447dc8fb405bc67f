"""From PyG's batches of custom data to bipartite graphs."""

from typing import Any

import pytest
import torch

from jepa_ssl import EdgeMasker, MultiView, NodeMasker
from jepa_ssl.maskers import LearnedToken

pytest.importorskip("torch_geometric")
from torch_geometric.data import Batch, Data

from jepa_ssl.integrations.pyg import BipartiteViews, bipartite_graph, in_another_order

KINDS = ["constraint_features", "variable_features"]


class LPData(Data):
    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        if key == "edge_index":
            return torch.tensor([[len(self.constraint_features)], [len(self.variable_features)]])
        return super().__inc__(key, value, *args, **kwargs)


def lp(m: int, n: int) -> LPData:
    rows, columns = (x.flatten() for x in torch.meshgrid(torch.arange(m), torch.arange(n), indexing="ij"))
    return LPData(
        constraint_features=torch.randn(m, 1),
        edge_index=torch.stack([rows, columns]),
        edge_attr=torch.randn(m * n, 1),
        variable_features=torch.randn(n, 1),
        num_nodes=m + n,  # PyG cannot infer it from features of these names
    )


def test_a_batch_shares_its_tensors_and_knows_its_graphs():
    sizes = [(2, 3), (4, 1), (1, 5)]
    batch = Batch.from_data_list([lp(m, n) for m, n in sizes], follow_batch=KINDS)
    graph = bipartite_graph(batch).check_values()
    for name in (*KINDS, "edge_index", "edge_attr"):
        assert getattr(graph, name) is batch[name]
    assert graph.offsets("constraint").diff().tolist() == [m for m, _ in sizes]
    assert graph.offsets("variable").diff().tolist() == [n for _, n in sizes]
    assert graph.graph_of("constraint").tolist() == batch["constraint_features_batch"].tolist()


def test_one_graph_needs_no_batch():
    graph = bipartite_graph(lp(3, 2))
    assert (graph.num_graphs, graph.offsets("variable").tolist()) == (1, [0, 2])


def test_masks_are_drawn_per_graph_of_the_batch():
    batch = Batch.from_data_list([lp(2, 10), lp(20, 2)], follow_batch=KINDS)
    hidden = NodeMasker(0.3).draw(bipartite_graph(batch))
    assert [hidden["constraint"][:2].sum(), hidden["constraint"][2:].sum()] == [1, 6]
    assert [hidden["variable"][:10].sum(), hidden["variable"][10:].sum()] == [3, 1]


def test_a_batch_that_was_not_followed_knows_its_graphs_by_its_slices():
    graphs: list[Any] = [lp(2, 3), lp(4, 1), lp(1, 5)]
    followed = bipartite_graph(Batch.from_data_list(graphs, follow_batch=KINDS))
    plain = bipartite_graph(Batch.from_data_list(graphs)).check_values()
    for kind in ("constraint", "variable"):
        assert torch.equal(plain.offsets(kind), followed.offsets(kind))


def test_a_batch_that_lost_its_graphs_is_refused():
    batch: Any = Batch.from_data_list([lp(2, 2), lp(2, 2)])
    del batch._slice_dict["variable_features"]
    with pytest.raises(ValueError, match=r"neither 'variable_features_ptr' nor slices.*follow_batch"):
        bipartite_graph(batch)


class Renamed(Data):
    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        if key == "edges":
            return torch.tensor([[len(self.x_s)], [len(self.x_t)]])
        return super().__inc__(key, value, *args, **kwargs)

    def __cat_dim__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        return 1 if key == "edges" else super().__cat_dim__(key, value, *args, **kwargs)


NAMES = {"constraint_features": "x_s", "edge_index": "edges", "edge_attr": "weights", "variable_features": "x_t"}


def renamed(data: LPData) -> Renamed:
    of = {own: data[own] for own in NAMES}
    return Renamed(**{NAMES[own]: tensor for own, tensor in of.items()}, candidates=torch.arange(3), num_nodes=1)


def test_attributes_of_other_names_are_found():
    graphs: list[Any] = [lp(2, 3), lp(4, 1)]
    ours, theirs = Batch.from_data_list(graphs), Batch.from_data_list([renamed(graph) for graph in graphs])
    expected, found = bipartite_graph(ours), bipartite_graph(theirs, **NAMES).check_values()
    for name in (*KINDS, "edge_index", "edge_attr", "constraint_offsets", "variable_offsets"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    with pytest.raises(TypeError, match=r"names gives a name to \['edges'\]"):
        bipartite_graph(theirs, edges="edges")


@pytest.mark.parametrize("masker", [NodeMasker(0.3), EdgeMasker(0.3), MultiView(NodeMasker(0.3), EdgeMasker(0.2))])
def test_views_of_batches_are_those_of_their_graphs(masker: Any):
    batch: Any = Batch.from_data_list([renamed(lp(3, 4)), renamed(lp(5, 2))])
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    of_batch = BipartiteViews(masker, **NAMES)(batch, generator=generators[0])
    of_graph = masker(bipartite_graph(batch, **NAMES), generator=generators[1])
    for ours, theirs in zip(_several(of_batch), _several(of_graph), strict=True):
        assert ours.target is batch
        assert type(ours.context) is type(batch)
        for own, name in NAMES.items():
            assert torch.equal(ours.context[name], getattr(theirs.context, own))
        assert ours.context.candidates is batch.candidates
        assert ours.hidden.keys() == ours.weight.keys() == theirs.hidden.keys()


def _several(views: Any) -> tuple[Any, ...]:
    return views if isinstance(views, tuple) else (views,)


def test_tokens_of_the_masker_are_trained():
    views = BipartiteViews(NodeMasker(0.3, fill=LearnedToken({"constraint": 1, "variable": 1})))
    assert len(list(views.parameters())) == 2


def test_the_batch_in_another_order_is_the_same_batch():
    batch = Batch.from_data_list([lp(3, 4), lp(5, 2), lp(1, 3)], follow_batch=KINDS)
    turned, items = in_another_order(batch)
    before, after = bipartite_graph(batch), bipartite_graph(turned).check_values()
    for kind in ("constraint", "variable"):
        assert torch.equal(after.features(kind)[items[kind]], before.features(kind))
        assert torch.equal(after.graph_of(kind)[items[kind]], 2 - before.graph_of(kind))


def test_missing_attributes_are_named():
    data = lp(2, 2)
    del data["edge_attr"]
    with pytest.raises(ValueError, match=r"data lacks \['edge_attr'\]"):
        bipartite_graph(data)


def test_edges_wired_into_the_next_graph_are_found():
    batch = Batch.from_data_list([lp(2, 2), lp(2, 2)], follow_batch=KINDS)
    batch["edge_index"][1, -1] = 0
    with pytest.raises(ValueError, match="joins a constraint of graph 1 to a variable of graph 0"):
        bipartite_graph(batch).check_values()
