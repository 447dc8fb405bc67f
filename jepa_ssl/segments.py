"""Ragged groups: items that belong to segments, one segment after the other or in any order.

`offsets`, int64 `[segments + 1]`, rises from 0: segment s has the items from `offsets[s]` to `offsets[s + 1]`.
"""

import torch
from torch import Tensor


def segment_of(offsets: Tensor, items: int) -> Tensor:
    """The number of the segment that each item belongs to: int64 `[items]`.

    Segment s has the items from `offsets[s]` to `offsets[s + 1]`, int64 `[segments + 1]`.
    """
    segments = torch.arange(len(offsets) - 1, device=offsets.device)
    # The output's size is known, so that a GPU need not be asked for it.
    return torch.repeat_interleave(segments, offsets.diff(), output_size=items)


def equal_shares(offsets: Tensor, items: int, dtype: torch.dtype, counts: Tensor | None = None) -> Tensor:
    """Weights `[items]` that give each segment 1 in total, so that a large one does not outvote a small one.

    `counts`, int64 `[segments]`, says among how many of its items each segment shares it, if not among all. In `dtype`,
    but in float32 at least: the shares of a large segment are too small for float16.
    """
    sizes = offsets.diff()
    share = (sizes if counts is None else counts).clamp(min=1).to(torch.promote_types(dtype, torch.float32))
    return torch.repeat_interleave(share.reciprocal(), sizes, output_size=items)


def segment_sums(marks: Tensor, offsets: Tensor) -> Tensor:
    """How many of each segment's `marks`, bool `[items]`, are True: int64 `[segments]`."""
    if not len(marks):
        return torch.zeros_like(offsets[1:])
    # A zero put before a large cumsum would copy it.
    return marks.cumsum(0)[(offsets - 1).clamp(min=0)].where(offsets > 0, 0).diff()


def places_in(group: Tensor) -> Tensor:
    """How many items of its own group come before each item: int64 `[items]`, from `group [items]`, in any order."""
    ordered, order = group.sort(stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device) - torch.searchsorted(ordered, ordered)
    return place
