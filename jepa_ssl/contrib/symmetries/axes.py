"""The rows, or the columns, of a batch of LPs: one set of operations for padded and for ragged batches.

Values per item are `[batch, slots]` on a dense axis and `[items]` on a sparse one. Values per LP are `[LPs]` on both.
An item's number is its slot in its LP on a dense axis, and its place in the whole batch on a sparse one.
"""

import torch
from torch import Tensor

from jepa_ssl.segments import segment_of


class _Axis:
    """`owner` is the LP of each item, `place` its place among the `sizes [LPs]` real items there."""

    def __init__(self, owner: Tensor, place: Tensor, sizes: Tensor) -> None:
        self.owner = owner
        self.place = place
        self.sizes = sizes

    def spread(self, per_lp: Tensor) -> Tensor:
        """Give each item the value of its LP."""
        return per_lp[self.owner]

    def pick(self, share: Tensor) -> Tensor:
        """Mark the item that is `share` (`[LPs]`, in [0, 1]) of the way through its LP; none in an empty LP."""
        picked = (share * self.sizes).long().minimum(self.sizes - 1)
        return self.place == self.spread(picked)

    def take(self, values: Tensor, items: Tensor) -> Tensor:
        """The values of `items`."""
        return values.gather(-1, items)

    def give(self, values: Tensor, items: Tensor) -> Tensor:
        """Give each of `items`, which differ, its value, and the others 0."""
        return values.new_zeros(self.owner.shape).scatter(-1, items, values)

    def inverse(self, order: Tensor) -> Tensor:
        """The inverse of a permutation."""
        return self.give(torch.arange(order.size(-1), device=order.device).expand(order.shape), order)


class DenseAxis(_Axis):
    """The rows or columns of padded LPs; `real [batch, slots]` is False on padding."""

    def __init__(self, real: Tensor) -> None:
        owner = torch.arange(len(real), device=real.device).unsqueeze(1).expand(real.shape)
        super().__init__(owner, (real.cumsum(1) - 1).masked_fill(~real, -2), real.sum(1))
        self.real = real

    def total(self, values: Tensor) -> Tensor:
        """The sum over the items of each LP."""
        return values.masked_fill(~self.real, 0).sum(1)

    def order(self, keys: Tensor) -> Tensor:
        """The item that comes to each place when the items of each LP are sorted by `keys`; padding stays in place."""
        items = keys.masked_fill(~self.real, torch.inf).argsort(dim=1, stable=True)
        places = (~self.real).int().argsort(dim=1, stable=True)
        return torch.empty_like(places).scatter_(1, places, items)


class SparseAxis(_Axis):
    """The rows or columns of ragged LPs, one LP after the other; `offsets [LPs + 1]`."""

    def __init__(self, offsets: Tensor, items: int) -> None:
        owner = segment_of(offsets, items)
        super().__init__(owner, torch.arange(items, device=offsets.device) - offsets[owner], offsets.diff())

    def total(self, values: Tensor) -> Tensor:
        """The sum over the items of each LP."""
        return values.new_zeros(self.sizes.shape).index_add_(0, self.owner, values)

    def order(self, keys: Tensor) -> Tensor:
        """The item that comes to each place when the items of each LP are sorted by `keys`."""
        by_key = keys.argsort()
        return by_key[self.owner[by_key].argsort(stable=True)]


class Growth:
    """New items at the end of each LP; `positions` and `new_positions` are the places of the old and the new ones."""

    def __init__(self, positions: Tensor, new_positions: Tensor) -> None:
        self.positions = positions
        self.new_positions = new_positions
        self.source = torch.cat([positions, new_positions]).argsort()

    def put(self, old: Tensor, new: Tensor) -> Tensor:
        """The values of all items; `new` may be `[batch]` on a dense axis if each LP gains one."""
        new = new.unsqueeze(-1) if new.ndim < old.ndim else new
        return torch.cat([old, new], dim=-1).index_select(-1, self.source)

    def old(self, values: Tensor) -> Tensor:
        """The values of the old items."""
        return values.index_select(-1, self.positions)

    def new(self, values: Tensor) -> Tensor:
        """The values of the new items."""
        return values.index_select(-1, self.new_positions)


def dense_growth(like: Tensor, new: int) -> Growth:
    """The growth of each LP by `new` slots; `like [batch, slots]`."""
    slots = torch.arange(like.size(1) + new, device=like.device)
    return Growth(slots[: like.size(1)], slots[like.size(1) :])


def sparse_growth(offsets: Tensor, items: int, owner: Tensor) -> tuple[Growth, Tensor]:
    """The growth by one item for each entry of `owner`, which is sorted, and the new offsets."""
    grown = torch.zeros_like(offsets)
    grown[1:] = torch.zeros_like(offsets[1:]).index_add_(0, owner, torch.ones_like(owner)).cumsum(0)
    # An old item moves by the number of new items in earlier LPs.
    positions = torch.arange(items, device=owner.device) + grown[segment_of(offsets, items)]
    return Growth(positions, torch.arange(len(owner), device=owner.device) + offsets[owner + 1]), offsets + grown


Axis = DenseAxis | SparseAxis
