"""The rows, or the columns, of a batch of LPs: padded or ragged, behind the same few operations.

Values of an axis are `[batch, slots]` where it is dense, `[items]` where it is sparse; values of the LPs are `[LPs]`
in both. What is written in these operations is written once for both forms.
"""

import torch
from torch import Tensor

from jepa_ssl.segments import segment_of


class DenseAxis:
    """The rows or columns of padded LPs; `real [batch, slots]` is False on padding."""

    def __init__(self, real: Tensor) -> None:
        self.real = real

    @property
    def lps(self) -> int:
        return len(self.real)

    def spread(self, per_lp: Tensor) -> Tensor:
        """Each item gets the value of its LP."""
        return per_lp.unsqueeze(1).expand(self.real.shape)

    def total(self, values: Tensor) -> Tensor:
        """The sum over the items of each LP."""
        return values.masked_fill(~self.real, 0).sum(1)

    def pick(self, share: Tensor) -> Tensor:
        """The item that stands `share` (`[LPs]`, in [0, 1)) of the way through its LP; none in an empty LP."""
        rank = self.real.cumsum(1) - 1
        return self.real & (rank == _place(share, self.real.sum(1)).unsqueeze(1))

    def order(self, keys: Tensor) -> Tensor:
        """Which item comes to each place when the items of each LP are sorted by `keys`; padding keeps its place."""
        items = keys.masked_fill(~self.real, torch.inf).argsort(dim=1, stable=True)
        places = (~self.real).int().argsort(dim=1, stable=True)
        return torch.empty_like(places).scatter_(1, places, items)

    def take(self, values: Tensor, order: Tensor) -> Tensor:
        return values.gather(1, order)

    def give(self, values: Tensor, items: Tensor) -> Tensor:
        """Each of `items` (all different) gets its value, the others 0."""
        return values.new_zeros(self.real.shape).scatter(1, items, values)

    def inverse(self, order: Tensor) -> Tensor:
        return order.argsort(1)

    def grown_by_one(self) -> "DenseGrowth":
        """One more item at the end of each LP."""
        return DenseGrowth(self.real.size(1))


class SparseAxis:
    """The rows or columns of ragged LPs, one LP after the other; `owner [items]` is the LP of each item."""

    def __init__(self, offsets: Tensor, items: int) -> None:
        self.offsets = offsets
        self.items = items
        self.owner = segment_of(offsets, items)

    @property
    def lps(self) -> int:
        return len(self.offsets) - 1

    def spread(self, per_lp: Tensor) -> Tensor:
        """Each item gets the value of its LP."""
        return per_lp[self.owner]

    def total(self, values: Tensor) -> Tensor:
        """The sum over the items of each LP."""
        return values.new_zeros(self.lps).index_add_(0, self.owner, values)

    def pick(self, share: Tensor) -> Tensor:
        """The item that stands `share` (`[LPs]`, in [0, 1)) of the way through its LP; none in an empty LP."""
        chosen = self.offsets[:-1] + _place(share, self.offsets.diff())
        return torch.arange(self.items, device=share.device) == chosen[self.owner]

    def order(self, keys: Tensor) -> Tensor:
        """Which item comes to each place when the items of each LP are sorted by `keys`."""
        by_key = keys.argsort()
        return by_key[self.owner[by_key].argsort(stable=True)]

    def take(self, values: Tensor, order: Tensor) -> Tensor:
        return values[order]

    def give(self, values: Tensor, items: Tensor) -> Tensor:
        """Each of `items` (all different) gets its value, the others 0."""
        return values.new_zeros(self.items).scatter(0, items, values)

    def inverse(self, order: Tensor) -> Tensor:
        return torch.empty_like(order).scatter_(0, order, torch.arange(self.items, device=order.device))

    def grown_by_one(self) -> "SparseGrowth":
        """One more item at the end of each LP."""
        return SparseGrowth(self, torch.arange(self.lps, device=self.offsets.device))


class DenseGrowth:
    """New items in slots behind the old ones."""

    positions: Tensor | None = None  # old items stay in their slots

    def __init__(self, slots: int) -> None:
        self.slots = slots

    def put(self, old: Tensor, new: Tensor) -> Tensor:
        """Values of all items; `new` is `[batch, new slots]`, or `[batch]` if there is one."""
        return torch.cat([old, new if new.ndim == 2 else new.unsqueeze(1)], dim=1)

    def old(self, values: Tensor) -> Tensor:
        return values[:, : self.slots]

    def new(self, values: Tensor) -> Tensor:
        return values[:, self.slots :]

    def only_new(self, values: Tensor) -> Tensor:
        """The value of the one new item of each LP, `[batch]`."""
        return values[:, self.slots]


class SparseGrowth:
    """New items at the end of the LP that owns them; `owner` `[new items]`, rising."""

    def __init__(self, axis: SparseAxis, owner: Tensor) -> None:
        grown = torch.zeros_like(axis.offsets)
        grown[1:] = torch.zeros_like(axis.offsets[1:]).index_add_(0, owner, torch.ones_like(owner)).cumsum(0)
        self.offsets = axis.offsets + grown
        # An item moves by the number of new ones before it: of earlier LPs, if it is old.
        self.positions = torch.arange(axis.items, device=owner.device) + grown[axis.owner]
        self.new_positions = torch.arange(len(owner), device=owner.device) + axis.offsets[owner + 1]
        self.source = torch.cat([self.positions, self.new_positions]).argsort()

    def put(self, old: Tensor, new: Tensor) -> Tensor:
        """Values of all items."""
        return torch.cat([old, new])[self.source]

    def old(self, values: Tensor) -> Tensor:
        return values[self.positions]

    def new(self, values: Tensor) -> Tensor:
        return values[self.new_positions]

    def only_new(self, values: Tensor) -> Tensor:
        """The value of the one new item of each LP, `[LPs]`."""
        return self.new(values)


def _place(share: Tensor, sizes: Tensor) -> Tensor:
    """`floor(share * size)`, -1 in an empty LP."""
    return (share * sizes).long().minimum(sizes - 1)
