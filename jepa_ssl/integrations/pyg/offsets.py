"""Where each graph of a batch begins."""

from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch  # pyright: ignore[reportMissingTypeStubs]


def offsets_of(batch: Any, store: Any, name: str, key: tuple[str, ...], pointer: str) -> Tensor:
    """Where the rows of `store[name]` of each graph begin: int64 `[graphs + 1]`.

    From the attribute `pointer`, if there is one; else from the batch's own slices, found there by `key`. Those live on
    the host. Anything else than a batch is one graph.
    """
    if pointer in store:
        return store[pointer]
    rows: Tensor = store[name]
    if not isinstance(batch, Batch):
        # Not len(), of which a tensor without dimensions has none; it is refused by name where it is used.
        return torch.tensor([0, rows.shape[:1].numel()], device=rows.device)
    slices: Any = getattr(batch, "_slice_dict", {})
    for part in key:
        slices = slices.get(part, {})
    if not isinstance(slices, Tensor):
        raise ValueError(
            f"data is a Batch that knows neither {pointer!r} nor slices of {name!r}, so its graphs cannot be told "
            f"apart; build it with Batch.from_data_list(graphs, follow_batch=[{name!r}])."
        )
    return slices.to(rows.device, non_blocking=True)
