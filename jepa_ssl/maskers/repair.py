"""Fast exact draws on a CPU: toss a coin for each item, then add or remove random items until each count is exact.

On a CPU a draw spends its time on random numbers. A coin takes at most one random byte, and about sqrt(items) items are
repaired afterwards. The draw is uniform: each step treats all items of a row alike, so all sets of the final size are
equally likely. It reads numbers on the host, so on a GPU it would have to wait.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from jepa_ssl.segments import segment_sums


def repaired_rows(
    valid: Tensor | None, sizes: Tensor, wanted: Tensor, entries: int, ratio: float, generator: torch.Generator | None
) -> Tensor:
    """Choose `wanted` of each row's `sizes` valid entries, about `ratio` of all: bool `[rows, entries]`.

    `sizes` and `wanted` are int64 `[rows]`.
    """
    batch = len(sizes)
    wanted, choose_visible = _fewer_half(sizes, wanted, ratio)
    chosen = _coins(_share(sizes, wanted), entries, ratio, generator)
    width = chosen.size(1)
    chosen[:, entries:] = False
    if valid is not None:
        chosen[:, :entries] &= valid
        valid = functional.pad(valid, (0, width - entries)).view(-1)
    first, span = torch.arange(batch) * width, torch.full((batch,), entries)
    _repair(chosen.view(-1), valid, first, span, sizes, wanted, _row_sums(chosen), generator)
    if choose_visible:
        chosen = chosen.logical_not_() if valid is None else chosen.logical_xor_(valid.view(batch, width))
    return chosen[:, :entries].contiguous()


def repaired_segments(
    offsets: Tensor, items: int, wanted: Tensor, ratio: float, generator: torch.Generator | None
) -> Tensor:
    """Choose `wanted`, int64 `[segments]`, of each segment's items: bool `[items]`; about `ratio` of all."""
    sizes = offsets.diff()
    wanted, choose_visible = _fewer_half(sizes, wanted, ratio)
    words = _random_words((-(-items // 8),), generator)
    coin = (256 * _share(sizes, wanted)).round().to(torch.uint8)
    chosen = words.view(torch.uint8)[:items] < coin.repeat_interleave(sizes, output_size=items)
    _repair(chosen, None, offsets[:-1], sizes, sizes, wanted, segment_sums(chosen, offsets), generator)
    return ~chosen if choose_visible else chosen


def smallest_short_keys(keys: Tensor, tie_break: Callable[[Tensor, Tensor], Tensor], entries: int, most: int) -> Tensor:
    """Mark the `most` smallest of the first `entries` keys of each row: bool `[rows, entries]`.

    `keys` and `tie_break` come from `jepa_ssl.seeds.short_keys`. Longer keys decide where keys tie with the last one.
    """
    if not len(keys) * most:
        return torch.zeros(len(keys), entries, dtype=torch.bool)
    keys[:, entries:] = 2**15 - 1
    last = _kth_in_rows(keys[:, :entries], most)
    hidden = keys <= last
    tied = (_row_sums(hidden) != most).nonzero().squeeze(1)
    if len(tied):
        keys, last = keys[tied, :entries], last[tied]
        row, place = (keys == last).nonzero(as_tuple=True)
        longer = (keys > last).long() << 62
        longer[row, place] = tie_break(tied[row], place) + 1
        hidden[tied, :entries] = smallest_in_rows(longer, most)
    return hidden[:, :entries].contiguous()


def smallest_in_rows(keys: Tensor, most: int) -> Tensor:
    """Mark the `most` smallest keys of each row, int64 `[rows, entries]`, if no two of them tie; at least 1."""
    return keys <= _kth_in_rows(keys, most)


def _kth_in_rows(keys: Tensor, k: int) -> Tensor:
    """The k-th smallest key of each row: `[rows, 1]`. NumPy's partition takes a fifth of the time of topk."""
    ordered = keys.clone(memory_format=torch.contiguous_format)
    ordered.numpy().partition(k - 1)
    return ordered[:, k - 1 : k]


def _fewer_half(sizes: Tensor, wanted: Tensor, ratio: float) -> tuple[Tensor, bool]:
    """Return how many items to choose, at most about half, and whether they are the visible ones instead."""
    return (sizes - wanted, True) if ratio > 0.5 else (wanted, False)


def _share(sizes: Tensor, wanted: Tensor) -> Tensor:
    """The probability of choosing each item, so that about `wanted` are chosen."""
    share = wanted / sizes.clamp(min=1).double()
    # Err low: adding items by rejection is cheaper than finding chosen ones to remove.
    deviation = (sizes * share * (1 - share)).sqrt()
    return (share - 3 * deviation * (1 - 2 * share) / sizes.clamp(min=1)).clamp(min=0)


def _coins(share: Tensor, entries: int, ratio: float, generator: torch.Generator | None) -> Tensor:
    """Toss a coin for each entry: True with a probability of about `share [rows]`, which is in [0, 1/2].

    Returns bool `[rows, at least entries]`, whole words per row. A coin is True if a random binary number is below
    `share`. The two are compared digit by digit, 64 coins at once, with as many digits as `ratio` has, at most eight.
    """
    digits = next((count for count in range(1, 8) if (ratio * 2**count).is_integer()), 8)
    below = (share * 2**digits).round().long().unsqueeze(1)
    words = -(-max(entries, 1) // 64)
    random = _random_words((digits, len(share), words), generator)
    coins = random[0] & -(below & 1)
    for digit in range(1, digits):  # from the last digit to the first, which decides where it differs
        one = -(below >> digit & 1)
        coins = (coins & random[digit]) | ((coins ^ random[digit]) & one)
    # Move each bit of a word to the lowest bit of its own byte: one word becomes eight.
    marks = (coins.unsqueeze(1) >> torch.arange(8).unsqueeze(1)).bitwise_and_(0x0101010101010101)
    return marks.view(len(share), 8 * words).view(torch.bool)


def _random_words(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Random int64; eight random bytes cost as much as one."""
    return torch.empty(shape, dtype=torch.int64).random_(-(2**63), None, generator=generator)


def _row_sums(marks: Tensor) -> Tensor:
    """Count the True marks of each row, bool `[rows, 8 * words]`, by adding eight bytes at once."""
    words = marks.view(torch.int64)
    # Up to 255 words no byte of a sum overflows into the next.
    sums = [words[:, first : first + 255].sum(1) for first in range(0, words.size(1), 255)]
    return torch.stack(sums, dim=1).view(torch.uint8).sum(1)


def _repair(
    chosen: Tensor,
    valid: Tensor | None,
    first: Tensor,
    span: Tensor,
    sizes: Tensor,
    wanted: Tensor,
    count: Tensor,
    generator: torch.Generator | None,
) -> None:
    """Choose or release random items, until each row has `wanted` of its `sizes` items in place of `count`.

    Row r has the `span[r]` places from `first[r]` in `chosen` and `valid`, both bool and flat.
    """
    count = count.clone()
    stamp = torch.empty(len(chosen), dtype=torch.int32)  # costs time only where it is written
    while len(short := (count != wanted).nonzero().squeeze(1)):
        have = count[short]
        missing, add = (wanted[short] - have).abs(), wanted[short] > have
        suitable = torch.where(add, sizes[short] - have, have) / span[short]
        # With this many tries one round nearly always suffices. The number is bounded in case few items are suitable.
        tries = (missing + 4 * (missing * (1 - suitable)).sqrt() + 1) / suitable
        tries = tries.long().minimum(4096 + 8 * missing)
        ends = tries.cumsum(0)
        row = torch.repeat_interleave(tries)
        place = torch.rand(row.shape, dtype=torch.float64, generator=generator)
        place = (place * span[short].index_select(0, row)).long() + first[short].index_select(0, row)
        fits = chosen.index_select(0, place) != add.index_select(0, row)
        if valid is not None:
            fits &= valid.index_select(0, place)
        # An item that was tried twice counts once, at its last try.
        number = torch.arange(len(place), dtype=torch.int32)
        fits &= stamp.scatter_(0, place, number).index_select(0, place) == number
        nth = functional.pad(fits.cumsum(0), (1, 0))
        before = nth.index_select(0, ends - tries)
        taken = (fits & (nth[1:] <= (before + missing).index_select(0, row))).nonzero().squeeze(1)
        chosen.scatter_(0, place.index_select(0, taken), add.index_select(0, row.index_select(0, taken)))
        repaired = (nth.index_select(0, ends) - before).minimum(missing)
        count[short] = have + torch.where(add, repaired, -repaired)
