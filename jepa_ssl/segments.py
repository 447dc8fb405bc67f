"""Operations on ragged groups: sums, shares and places of the items in each segment.

`offsets`, int64 `[segments + 1]`, rises from 0: segment s has the items from `offsets[s]` up to `offsets[s + 1]`.
`group`, int64 `[items]`, holds the group number of each item, in any order.
"""

import torch
from torch import Tensor
from torch.nn import functional


def offsets_of(sizes: Tensor) -> Tensor:
    """Where segments of `sizes`, int64 `[segments]`, begin: int64 `[segments + 1]`."""
    return functional.pad(sizes.cumsum(0), (1, 0))


def segment_of(offsets: Tensor, items: int) -> Tensor:
    """The number of each item's segment: int64 `[items]`."""
    segments = torch.arange(len(offsets) - 1, device=offsets.device)
    # With the output's size given, nothing waits for a GPU.
    return torch.repeat_interleave(segments, offsets.diff(), output_size=items)


def equal_shares(offsets: Tensor, items: int, dtype: torch.dtype, counts: Tensor | None = None) -> Tensor:
    """Weights `[items]` that sum to 1 in each segment, so that all segments count equally.

    `counts`, int64 `[segments]`, is the number of items of each segment that share the 1, by default all. The result
    has `dtype`, or float32 if that is wider, because the shares of a large segment are too small for float16.
    """
    sizes = offsets.diff()
    share = (sizes if counts is None else counts).clamp(min=1).to(torch.promote_types(dtype, torch.float32))
    return torch.repeat_interleave(share.reciprocal(), sizes, output_size=items)


def shares_of_marked(marks: Tensor, offsets: Tensor, dtype: torch.dtype) -> Tensor:
    """Like `equal_shares`, but among the marked items, bool `[items]`, of each segment; other items get 0."""
    return equal_shares(offsets, len(marks), dtype, segment_sums(marks, offsets)) * marks


def segment_sums(marks: Tensor, offsets: Tensor) -> Tensor:
    """Count the True `marks`, bool `[items]`, of each segment: int64 `[segments]`."""
    if not len(marks):
        return torch.zeros_like(offsets[1:])
    # Putting a zero before a large cumsum would copy it.
    return marks.cumsum(0)[(offsets - 1).clamp(min=0)].where(offsets > 0, 0).diff()


def group_sums(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """The sum of each group's `values [items]`: `[groups]`."""
    return values.new_zeros(groups).index_add_(0, group, values)


def group_sizes(group: Tensor, groups: int) -> Tensor:
    """The number of items in each group: int64 `[groups]`."""
    return group_sums(group.new_ones(()).expand(len(group)), group, groups)


def places_in(group: Tensor) -> Tensor:
    """For each item, the number of earlier items of its group: int64 `[items]`."""
    ordered, order = group.sort(stable=True)
    return inverse(order, torch.arange(len(order), device=order.device) - torch.searchsorted(ordered, ordered))


def inverse(order: Tensor, values: Tensor | None = None) -> Tensor:
    """The place of each item in `order`, a permutation `[items]`; or its value if `values` lists them in that order."""
    values = torch.arange(len(order), device=order.device) if values is None else values
    return torch.empty_like(values).scatter_(0, order, values)


def first_in_segments(order: Tensor, segment: Tensor, offsets: Tensor, counts: Tensor) -> Tensor:
    """Mark the first `counts`, int64 `[segments]`, items of each segment: bool `[items]`.

    `order`, int64 `[items]`, lists the items segment by segment. `segment`, int64 `[items]`, lists their segments in
    that order.
    """
    place = torch.arange(len(order), device=order.device) - offsets[segment]
    return inverse(order, place < counts[segment])


def any_in_groups(marks: Tensor, group: Tensor, groups: int) -> Tensor:
    """Whether any of a group's `marks`, bool `[items]`, is True: bool `[groups]`."""
    # Items that are not marked go into an extra group. Selecting the marked ones would wait for a GPU.
    found = torch.zeros(groups + 1, dtype=torch.bool, device=group.device)
    return found.scatter_(0, group.where(marks, groups), True)[:groups]
