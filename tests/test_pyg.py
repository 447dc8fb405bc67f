"""From PyG's batches of custom data to bipartite graphs."""

from typing import Any

import pytest
import torch

from jepa_ssl import NodeMasker

pytest.importorskip("torch_geometric")
from torch_geometric.data import Batch, Data

from jepa_ssl.integrations.pyg import bipartite_graph

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


def test_a_batch_that_lost_its_graphs_is_refused():
    with pytest.raises(ValueError, match=r"Batch without 'constraint_features_ptr'.*follow_batch"):
        bipartite_graph(Batch.from_data_list([lp(2, 2), lp(2, 2)]))


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
