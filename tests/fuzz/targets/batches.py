"""PyG data and batches that lack something, or have it wrong, for `integrations.pyg.bipartite_graph`."""

from typing import Any

import torch
from hypothesis import strategies as st
from torch_geometric.data import Batch, Data

from jepa_ssl import NodeMasker
from jepa_ssl.integrations.pyg import bipartite_graph

from ..judging import Input
from .pool import OTHERS, Draw, chance, made_by, odd_tensor, one, seeded

KINDS = ("constraint", "variable")
FOLLOWED = [f"{kind}_features" for kind in KINDS]
FIELDS = (*FOLLOWED, "edge_index", "edge_attr")


class LPData(Data):
    """Counts constraints and variables apart, as a collate function should."""

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        if key == "edge_index":
            return torch.tensor([[len(self.constraint_features)], [len(self.variable_features)]])
        return super().__inc__(key, value, *args, **kwargs)


def inputs() -> st.SearchStrategy[Input]:
    return made_by(_input)


def _input(draw: Draw) -> Input:
    g = seeded(draw)
    kind = one(draw, (LPData, LPData, LPData, Data))  # `Data` adds up wrong increments
    follow = one(draw, (FOLLOWED, FOLLOWED, FOLLOWED, [], FOLLOWED[:1]))
    many: list[Any] = [_data(draw, g, kind) for _ in range(one(draw, (1, 1, 2, 3)))]
    data: Any = many[0] if len(many) == 1 and draw(st.booleans()) else Batch.from_data_list(many, follow_batch=follow)
    said, mistyped = [type(data).__name__, kind.__name__, str(follow)], chance(draw, 10)
    for _ in range(one(draw, (0, 1, 1, 2))):
        said.append(_spoil(draw, data, mistyped))
    return Input(said, lambda: _use(data, g), mistyped=mistyped)


def _data(draw: Draw, g: torch.Generator, kind: type[Data]) -> Data:
    m, n = one(draw, (0, 1, 2, 5)), one(draw, (0, 1, 3, 6))
    index = (torch.rand(m, n, generator=g) < 0.5).nonzero().T
    constraint, edge, variable = (torch.randn(k, w, generator=g) for k, w in ((m, 3), (index.size(1), 1), (n, 2)))
    return kind(
        constraint_features=constraint, edge_index=index, edge_attr=edge, variable_features=variable, num_nodes=m + n
    )


def _spoil(draw: Draw, data: Any, mistyped: bool) -> str:
    pointers = [name for name in (f"{name}_ptr" for name in FOLLOWED) if name in data]
    name, way = one(draw, [*FIELDS, *pointers, *pointers]), one(draw, ("delete", "transpose", "odd", "odd", "odd"))
    values = data.to_dict().get(name)
    if values is None:  # an earlier fault
        return ""
    if way == "delete":
        del data[name]
        return f"without {name}"
    transposed = way == "transpose" and not mistyped and values.ndim == 2
    data[name] = values.T if transposed else one(draw, OTHERS) if mistyped else odd_tensor(draw, values)
    return f"{name} {data.to_dict().get(name)!r}"[:300]  # None takes the attribute away


def _use(data: Any, g: torch.Generator) -> None:
    graph = bipartite_graph(data)
    views = NodeMasker(0.5)(graph, generator=g)
    graph.check_values()
    for kind in KINDS:
        nodes = len(graph.features(kind))
        assert graph.offsets(kind)[-1] == nodes, "offsets do not span the nodes"
        assert views.hidden[kind].shape == (nodes,), "hidden has another shape"
