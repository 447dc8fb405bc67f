"""The recommended recipe on PyG batches: their LPs, early states as features, a later state as the target."""

from typing import Any

import pytest
import torch
from small_lps import SmallLP, random_lp, sparse
from torch import nn

pytest.importorskip("torch_geometric")
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.transforms import ToUndirected

from jepa_ssl import BipartiteGraph
from jepa_ssl.integrations.pyg import PyGLPs
from jepa_ssl.lp import SparseLP, StateFeatures
from jepa_ssl.recipes import later_state
from jepa_ssl.testing import check_lp

LPS = [random_lp(seed, 3 + seed, 4, equalities=False) for seed in range(3)]


class LPData(Data):
    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        return torch.tensor([[len(self.x_s)], [len(self.x_t)]]) if key == "edge_index" else 0


def parts(lp: SmallLP) -> tuple[torch.Tensor, ...]:
    """b and c stand in the second column."""
    edges = torch.tensor(lp.A).nonzero().T
    b, c = (torch.tensor(values)[:, None].repeat(1, 2).float() for values in (lp.b, lp.c))
    b[:, 0] = c[:, 0] = 0
    return b, c, edges, torch.tensor(lp.A[tuple(edges)])[:, None].float()


def custom(lp: SmallLP) -> Data:
    b, c, edges, coefficient = parts(lp)
    return LPData(x_s=b, x_t=c, edge_index=edges, edge_attr=coefficient, num_nodes=len(b) + len(c))


def hetero(lp: SmallLP, way: tuple[str, str, str] = ("row", "has", "column")) -> HeteroData:
    b, c, edges, coefficient = parts(lp)
    data = HeteroData()
    data["row"].x, data["column"].x = b, c
    data[way].edge_index, data[way].edge_attr = edges if way[0] == "row" else edges.flip(0), coefficient
    return data


def backwards(lp: SmallLP) -> HeteroData:
    return hetero(lp, ("column", "in", "row"))


def both_ways(lp: SmallLP) -> Any:
    return ToUndirected()(hetero(lp))


LPS_OF_DATA = PyGLPs(b=1, c=1, constraint_features="x_s", variable_features="x_t")
LPS_OF_HETERO = PyGLPs(b=1, c=1, types=("row", "column"))
KINDS = [(custom, LPS_OF_DATA), *((make, LPS_OF_HETERO) for make in (hetero, backwards, both_ways))]


def features(data: Any, kind: str) -> torch.Tensor:
    row, column = (data["row"].x, data["column"].x) if isinstance(data, HeteroData) else (data.x_s, data.x_t)
    return row if kind == "constraint" else column


class Encoder(nn.Module):
    """Each node by its own features."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.of = nn.ModuleDict({kind: nn.Linear(2 + numbers, 8) for kind in ("constraint", "variable")})

    def forward(self, data: Any) -> dict[str, torch.Tensor]:
        return {kind: nn.functional.normalize(self.of[kind](features(data, kind)), dim=1) for kind in self.of}


@pytest.mark.parametrize(("make", "lps"), KINDS)
def test_the_recipe_trains_on_pyg_batches(make: Any, lps: PyGLPs):
    batch: Any = Batch.from_data_list([make(lp) for lp in LPS])
    check_lp(lps, batch, [(lp.A, lp.b, lp.c) for lp in LPS])
    show = lps.show((3, 20))
    seen = show(batch)
    plain = sparse(LPS, torch.float32)
    parts = plain.b[:, None], plain.edge_index, plain.coefficient[:, None], plain.c[:, None]
    graph = BipartiteGraph(*parts, plain.constraint_offsets, plain.variable_offsets)
    expected = StateFeatures((3, 20), lp_of=SparseLP.inequalities_of)(graph)
    for kind in ("constraint", "variable"):
        assert torch.equal(features(seen, kind)[:, :2], features(batch, kind))
        torch.testing.assert_close(features(seen, kind)[:, 2:], expected.features(kind)[:, 1:])
        assert features(batch, kind).size(1) == 2  # what was given is left alone
    check_lp(lps, seen, [(lp.A, lp.b, lp.c) for lp in LPS])

    encoder, objective = Encoder(show.numbers), later_state({"constraint": 8, "variable": 8}, lp_of=lps)
    with pytest.raises(RuntimeError, match=r"before the first step call .*objective\.views\.fit\(batches\)"):
        objective(encoder, seen)
    views: Any = objective.views
    views.fit([seen])
    objective(encoder, seen).total.backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_types_that_no_edges_join_are_refused():
    data = hetero(LPS[0])
    with pytest.raises(ValueError, match=r"types is \('constraint', 'variable'\), but 0 of the edge types"):
        PyGLPs()(data)
    with pytest.raises(TypeError, match=r"instance is a HeteroData.*PyGLPs\(\.\.\.\)\.show"):
        StateFeatures(3, lp_of=SparseLP.inequalities_of)(data)  # pyright: ignore[reportArgumentType]
