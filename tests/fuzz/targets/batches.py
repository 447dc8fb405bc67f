"""PyG data and batches that lack something, or have it wrong, for `integrations.pyg.bipartite_graph`."""

import random
from typing import Any

import torch
from torch_geometric.data import Batch, Data

from jepa_ssl import NodeMasker
from jepa_ssl.integrations.pyg import bipartite_graph

from ..judging import Input, Target
from .pool import OTHERS, odd_tensor, seeded

FIELDS = ("constraint_features", "edge_index", "edge_attr", "variable_features")
FOLLOWED = ["constraint_features", "variable_features"]


class LPData(Data):
    """Counts constraints and variables apart, as a collate should."""

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        if key == "edge_index":
            return torch.tensor([[len(self.constraint_features)], [len(self.variable_features)]])
        return super().__inc__(key, value, *args, **kwargs)


def target() -> Target:
    def make(rng: random.Random) -> Input:
        g = seeded(rng)
        kind = rng.choice((LPData, LPData, LPData, Data))  # the last adds up wrong increments
        follow = rng.choice((FOLLOWED, FOLLOWED, FOLLOWED, [], FOLLOWED[:1]))
        data: Any = [_data(rng, g, kind) for _ in range(rng.choice((1, 1, 2, 3)))]
        alone = len(data) == 1 and rng.random() < 0.5
        data = data[0] if alone else Batch.from_data_list(data, follow_batch=follow)
        said: list[str] = [type(data).__name__, kind.__name__, str(follow)]
        mistyped = rng.random() < 0.1
        for _ in range(rng.choice((0, 1, 1, 2))):
            _spoil(rng, data, said, mistyped)
        return Input(said, lambda: _use(data, g), mistyped=mistyped)

    return make


def _data(rng: random.Random, g: torch.Generator, kind: type[Data]) -> Data:
    m, n = rng.choice((0, 1, 2, 5)), rng.choice((0, 1, 3, 6))
    edges = [(i, j) for i in range(m) for j in range(n) if rng.random() < 0.5]
    return kind(
        constraint_features=torch.randn(m, 3, generator=g),
        edge_index=torch.tensor(edges, dtype=torch.int64).reshape(-1, 2).T,
        edge_attr=torch.randn(len(edges), 1, generator=g),
        variable_features=torch.randn(n, 2, generator=g),
        num_nodes=m + n,
    )


def _spoil(rng: random.Random, data: Any, said: list[str], mistyped: bool) -> None:
    pointers = [name for name in (f"{name}_ptr" for name in FOLLOWED) if name in data]
    name = rng.choice([*FIELDS, *pointers, *pointers])
    way = rng.randrange(5)
    values = data.to_dict().get(name)
    if values is None:  # an earlier fault
        return
    if way == 0:
        del data[name]
        said.append(f"without {name}")
        return
    transposed = way == 1 and not mistyped and values.ndim == 2
    changed = values.T if transposed else rng.choice(OTHERS) if mistyped else odd_tensor(rng, values)
    data[name] = changed
    said.append(f"{name} {changed!r}"[:300])


def _use(data: Any, g: torch.Generator) -> None:
    graph = bipartite_graph(data)
    views = NodeMasker(0.5)(graph, generator=g)
    graph.check_values()
    for kind in ("constraint", "variable"):
        assert graph.offsets(kind)[-1] == len(graph.features(kind)), "offsets do not span the nodes"
        assert views.hidden[kind].shape == (len(graph.features(kind)),), "hidden has another shape"
