"""PyTorch Geometric: from a `Batch` of custom `Data` to a `BipartiteGraph`. Needs the extra `jepa_ssl[graph]`."""

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data  # pyright: ignore[reportMissingTypeStubs]

from jepa_ssl.instances import BipartiteGraph


def bipartite_graph(data: Data | Batch) -> BipartiteGraph:
    """The tensors of `data` as a `BipartiteGraph`; nothing is copied.

    `data` is one `Data` with `constraint_features`, `edge_index`, `edge_attr` and `variable_features`, or a `Batch` of
    them that was built with `follow_batch=["constraint_features", "variable_features"]`.

    Raises:
        ValueError: an attribute is missing, or a batch does not say where its graphs begin.
    """
    required = ("constraint_features", "edge_index", "edge_attr", "variable_features")
    missing = [name for name in required if name not in data]
    if missing:
        raise ValueError(f"data lacks {missing}; a bipartite graph has the attributes {list(required)}.")
    return BipartiteGraph(*(data[name] for name in required), *(_offsets(data, name) for name in required[::3]))


def _offsets(data: Data | Batch, name: str) -> Tensor:
    pointer = f"{name}_ptr"
    if pointer in data:
        return data[pointer]
    if isinstance(data, Batch):
        raise ValueError(
            f"data is a Batch without {pointer!r}, so its graphs cannot be told apart; build it with "
            f"Batch.from_data_list(graphs, follow_batch=['constraint_features', 'variable_features'])."
        )
    # Not len(), of which a tensor without dimensions has none; `BipartiteGraph` refuses it by name.
    return torch.tensor([0, data[name].shape[:1].numel()], device=data[name].device)
