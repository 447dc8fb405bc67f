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
    if device.type == "cpu" and not torch.compiler.is_compiling():
        return _draw_by_repair(shape, valid, ratio, generator)
    return _draw_by_topk(shape, valid, ratio, generator, device)


def _draw_by_topk(
    shape: torch.Size, valid: Tensor | None, ratio: float, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """The entries with the smallest of random keys. Fixed in its steps: a GPU need not be waited for."""
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


def _draw_by_repair(shape: torch.Size, valid: Tensor | None, ratio: float, generator: torch.Generator | None) -> Tensor:
    """A coin for each entry, then random entries more or fewer until every row's count is exact.

    Random numbers are what a draw costs on a CPU; this takes one byte an entry, and then mends about sqrt(entries).
    It is uniform: each step treats all entries of a row alike, so that all sets of the final size are equally likely.
    """
    batch, entries = shape
    sizes = torch.full((batch,), entries) if valid is None else _row_sums(valid)
    wanted = hidden_counts(sizes, ratio)
    if choose_visible := ratio > 0.5:  # so that fewer than half are chosen, and a free entry is always soon found
        wanted = sizes - wanted
    share = wanted / sizes.clamp(min=1).double()
    # Rather too few than too many where few are chosen: to find one of a few chosen ones by chance takes long.
    deviation = (sizes * share * (1 - share)).sqrt()
    coin = (share - 3 * deviation * (1 - 2 * share) / sizes.clamp(min=1)).clamp(min=0)
    threshold = (256 * coin).round().to(torch.uint8).unsqueeze(1).expand(shape).contiguous()  # broadcasting is slower
    words = torch.empty(batch, -(-entries // 8), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    chosen = words.view(torch.uint8)[:, :entries] < threshold
    if valid is not None:
        chosen &= valid

    lacking = wanted - _row_sums(chosen)
    while len(rows := lacking.nonzero().squeeze(1)):
        add, missing = (lacking[rows] > 0).unsqueeze(1), lacking[rows].abs().unsqueeze(1)
        counts = wanted[rows] - lacking[rows]
        suitable = torch.where(add.squeeze(1), sizes[rows] - counts, counts) / entries
        tries = int(((missing.squeeze(1) + 3 * missing.squeeze(1).sqrt() + 3) / suitable).max().clamp(max=4096))
        place = torch.randint(entries, (len(rows), tries), generator=generator)
        index = rows.unsqueeze(1) * entries + place
        fits = chosen.view(-1)[index] != add
        if valid is not None:
            fits &= valid.reshape(-1)[index]
        # An entry that was tried twice counts twice here, so that a row may end a little short, but never beyond.
        taken = fits & (fits.cumsum(1) <= missing)
        chosen.view(-1)[index[taken]] = add.expand_as(taken)[taken]
        lacking[rows] = wanted[rows] - _row_sums(chosen[rows])
    if not choose_visible:
        return chosen
    return ~chosen if valid is None else valid & ~chosen


def _row_sums(marks: Tensor) -> Tensor:
    return marks.view(torch.uint8).sum(1, dtype=torch.int64)  # twice as fast as the sum of bools


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
