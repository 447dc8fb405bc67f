"""Exact draws: which items of each instance are hidden, so many and no more."""

import torch
from torch import Tensor


def hidden_counts(sizes: Tensor, ratio: float) -> Tensor:
    """How many of `sizes` (int64, any shape) items to hide: `int(ratio * size)`, but at least one and never all.

    An instance with fewer than two items hides none: it could not show one and hide one.
    """
    counts = (sizes.double() * ratio).long()  # in double, as Python's own int(ratio * size) computes it
    return counts.clamp(min=1).minimum(sizes - 1).clamp(min=0)


def draw_in_rows(
    shape: torch.Size, valid: Tensor | None, ratio: float, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Hides `hidden_counts` of each row's valid entries, uniformly at random: bool `[batch, entries]`."""
    batch, entries = shape
    most = int(hidden_counts(torch.tensor(entries), ratio))
    keys = torch.rand(batch, entries, generator=generator, device=device)
    if valid is not None:
        # topk takes the same number from every row. So that a padded row ends with fewer, the surplus is drawn from its
        # padding: those keys come first, the rest of the padding last. There is always enough of it, for a row that is
        # shorter by d entries hides at most d fewer.
        surplus = most - hidden_counts(valid.sum(-1, keepdim=True), ratio)
        padding = ~valid
        keys = keys.masked_fill(padding, 2.0).masked_fill(padding & (padding.cumsum(-1) <= surplus), -1.0)
    chosen = keys.topk(most, largest=False, sorted=False).indices
    hidden = torch.zeros(batch, entries, dtype=torch.bool, device=device).scatter_(-1, chosen, True)
    return hidden if valid is None else hidden & valid


def draw_in_segments(segment: Tensor, offsets: Tensor, ratio: float, generator: torch.Generator | None) -> Tensor:
    """Hides `hidden_counts` of each segment's items, uniformly at random: bool `[items]`.

    `segment [items]` int64 is the rising segment number of each item, `offsets [segments + 1]` where each begins.
    """
    # One sort for all segments: the segment number in the high bits, a random number in the low ones.
    lottery = torch.randint(2**32, segment.shape, generator=generator, device=segment.device)
    order = (segment << 32 | lottery).argsort()
    rank = torch.arange(len(segment), device=segment.device) - offsets[segment]
    hidden = torch.empty(len(segment), dtype=torch.bool, device=segment.device)
    hidden[order] = rank < hidden_counts(offsets.diff(), ratio)[segment]
    return hidden
