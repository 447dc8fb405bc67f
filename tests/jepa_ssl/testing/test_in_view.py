"""`check_encoder` finds what PyG data hold of hidden nodes in attributes that the views leave in view."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jepa_ssl import BlockMasker, EdgeMasker, ModelEncoder, NodeMasker
from jepa_ssl.maskers import Shuffled
from jepa_ssl.testing import check_encoder

pytest.importorskip("torch_geometric")
from torch_geometric.data import Batch, Data, HeteroData

from jepa_ssl.integrations.pyg import PyGViews

HAS, OF = ("row", "has", "column"), ("column", "of", "row")
THERE, BACK = "row__has__column", "column__of__row"
KINDS = {"row": 3, "column": 2}


class Net(nn.Module):
    """Two rounds of messages; it reads `nodes` of nodes and `edges` of edges, 0 where a type lacks them."""

    def __init__(self, nodes: tuple[str, ...], edges: tuple[str, ...]) -> None:
        super().__init__()
        self.nodes, self.edges = nodes, edges
        self.own = nn.ModuleDict({kind: nn.LazyLinear(8) for kind in KINDS})

    def encode(self, data: Any) -> dict[str, Tensor]:
        h: dict[str, Tensor] = {}
        for kind in KINDS:
            read = [data[kind][name] for name in self.nodes if name in data[kind]]
            h[kind] = self.own[kind](torch.cat([torch.ones(data[kind].num_nodes, 1), *read], 1))
        for _ in range(2):
            new = dict(h)
            for kind in (HAS, OF):
                source, target = data[kind].edge_index
                weight = sum(data[kind][n].view(-1, 1) for n in self.edges if n in data[kind])
                new[kind[2]] = new[kind[2]].index_add(0, target, 0.3 * weight * h[kind[0]][source])
            h = {kind: x.tanh() for kind, x in new.items()}
        return h


def batch() -> Any:
    torch.manual_seed(0)
    graphs: list[Any] = []
    for m, n in ((4, 5), (3, 6)):
        data, edges = HeteroData(), torch.cartesian_prod(torch.arange(m), torch.arange(n)).T
        for kind, nodes in (("row", m), ("column", n)):
            data[kind].x, data[kind].feat = torch.randn(nodes, KINDS[kind]), torch.randn(nodes, 1)
            data[kind].y = torch.randn(nodes)  # a label, which nobody reads
        data[HAS].edge_index, data[OF].edge_index = edges, edges.flip(0)
        data[HAS].edge_attr = data[OF].edge_attr = torch.randn(m * n, 1)
        data[HAS].edge_weight = data[OF].edge_weight = torch.randn(m * n)
        graphs.append(data)
    return Batch.from_data_list(graphs)


def check(masker: Any, nodes: tuple[str, ...], edges: tuple[str, ...], data: Any = None, **kwargs: Any) -> None:
    data = batch() if data is None else data
    net = Net(nodes, edges)
    net.encode(data)
    encoder = ModelEncoder(net, dict.fromkeys(KINDS, 8), 4, run=lambda net, data: net.encode(data))
    check_encoder(encoder, data, views=PyGViews(masker), **kwargs)


ROWS = {"row": 0.5, "column": 0.5}
NODES, NODES_AND_EDGES = NodeMasker(ROWS), NodeMasker(ROWS, hide_edges=True)


@pytest.mark.parametrize(
    ("masker", "nodes", "edges"),
    [
        (NODES, ("x",), ("edge_attr", "edge_weight")),  # coefficients stay by intent
        (NODES_AND_EDGES, ("x",), ("edge_attr",)),
        (BlockMasker(ROWS, hide_edges=True), ("x",), ("edge_attr",)),
        (EdgeMasker({THERE: 0.3}, reverse={BACK: THERE}), ("x", "feat"), ("edge_attr",)),
        (NodeMasker(ROWS, Shuffled()), ("x",), ("edge_attr",)),
    ],
)  # fmt: skip
def test_what_is_hidden_or_stays_on_purpose_passes(masker: Any, nodes: tuple[str, ...], edges: tuple[str, ...]):
    check(masker, nodes, edges)


@pytest.mark.parametrize(
    ("masker", "nodes", "edges", "name"),
    [
        (NODES, ("x", "feat"), ("edge_attr",), "feat"),
        (NODES_AND_EDGES, ("x", "feat"), ("edge_attr",), "feat"),
        (NODES_AND_EDGES, ("x",), ("edge_attr", "edge_weight"), "edge_weight"),
        (BlockMasker(ROWS, hide_edges=True), ("x",), ("edge_attr", "edge_weight"), "edge_weight"),
    ],
)
def test_an_attribute_in_view_is_found(masker: Any, nodes: tuple[str, ...], edges: tuple[str, ...], name: str):
    with pytest.raises(AssertionError, match=rf"but '{name}' of the same items stays visible.*in_view=\['{name}'\]"):
        check(masker, nodes, edges)
    check(masker, nodes, edges, in_view=[name])


def test_features_of_nodes_without_x_and_coefficients_of_one_type_are_found():
    data = batch()
    del data["row"].x
    with pytest.raises(AssertionError, match="parts of row, but 'feat'"):
        check(NODES_AND_EDGES, ("x", "feat"), ("edge_attr",), data, in_view=[])
    data = batch()
    data[OF].coefficient = data[OF].edge_attr
    del data[OF].edge_attr, data[OF].edge_weight
    with pytest.raises(AssertionError, match=r"\('column', 'of', 'row'\), but 'coefficient'"):
        check(NODES_AND_EDGES, ("x",), ("edge_attr", "coefficient"), data)


def test_whole_numbers_in_view_are_found_and_the_graph_of_each_node_is_not():
    class Kinds(Net):
        def encode(self, data: Any) -> dict[str, Tensor]:
            mean = {kind: data[kind].batch.unsqueeze(1) for kind in KINDS}  # which graph a node is in is no secret
            return {kind: h + data[kind].degree.unsqueeze(1) + mean[kind] for kind, h in super().encode(data).items()}

    data = batch()
    for kind in KINDS:
        data[kind].degree = torch.randint(9, (data[kind].num_nodes,))
    net = Kinds(("x",), ("edge_attr",))
    net.encode(data)
    encoder = ModelEncoder(net, dict.fromkeys(KINDS, 8), 4, run=lambda net, data: net.encode(data))
    with pytest.raises(AssertionError, match="but 'degree' of the same items stays visible"):
        check_encoder(encoder, data, views=PyGViews(NODES))
    check_encoder(encoder, data, views=PyGViews(NODES), in_view="degree")


class LP(Data):
    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        if key == "edge_index":
            return torch.tensor([[len(self.constraint_features)], [len(self.variable_features)]])
        return super().__inc__(key, value, *args, **kwargs)


@pytest.mark.parametrize("extra", [False, True])
def test_an_attribute_of_custom_data_in_view_is_found(extra: bool):
    graphs: list[Any] = []
    for m, n in ((4, 5), (3, 6)):
        edges = torch.cartesian_prod(torch.arange(m), torch.arange(n)).T
        parts = {"constraint_features": torch.randn(m, 2), "variable_features": torch.randn(n, 2)}
        graphs.append(
            LP(**parts, edge_index=edges, edge_attr=torch.randn(m * n, 1), rhs=torch.randn(m, 1), num_nodes=m + n)
        )
    data = Batch.from_data_list(graphs)

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c, self.v = nn.Linear(3, 8), nn.Linear(2, 8)

        def forward(self, data: Any) -> tuple[Tensor, Tensor]:
            rhs = data.rhs if extra else torch.zeros_like(data.rhs)
            return self.c(torch.cat([data.constraint_features, rhs], 1)), self.v(data.variable_features)

    encoder = ModelEncoder(Own(), {"constraint": 8, "variable": 8}, 4)
    said = pytest.raises(AssertionError, match=r"streams \['constraint'\].*but 'rhs' of the same items stays visible")
    with said if extra else nullcontext():
        check_encoder(encoder, data, views=PyGViews(NodeMasker(0.5)))
