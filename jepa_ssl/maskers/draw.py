"""Exact draws: which items of each instance are hidden, so many and no more."""

import torch
from torch import Tensor
from torch.nn import functional

from jepa_ssl.seeds import Randomness, Seeds, random_keys
from jepa_ssl.segments import places_in, segment_of, segment_sums


def hidden_counts(sizes: Tensor, ratio: float) -> Tensor:
    """How many of `sizes` (int64, any shape) items to hide: `int(ratio * size)`, but at least one and never all.

    An instance with fewer than two items hides none: it could not show one and hide one.
    """
    counts = (sizes.double() * ratio).long()  # in double, as Python's own int(ratio * size) computes it
    return counts.clamp(min=1).minimum(sizes - 1).clamp(min=0)


def draw_in_rows(
    shape: torch.Size, valid: Tensor | None, ratio: float, generator: Randomness, device: torch.device
) -> Tensor:
    """Hides `hidden_counts` of each row's valid entries, uniformly at random: bool `[batch, entries]`."""
    on_cpu = device.type == "cpu" and not torch.compiler.is_compiling()
    # To mend takes some sixty operations, however few the entries are.
    if not isinstance(generator, Seeds) and on_cpu and shape.numel() >= 30_000:
        return _draw_by_repair(shape, valid, ratio, generator)
    return _draw_by_topk(shape, valid, ratio, generator, device)


def _draw_by_topk(
    shape: torch.Size, valid: Tensor | None, ratio: float, generator: Randomness, device: torch.device
) -> Tensor:
    """The entries with the smallest of random keys. Fixed in its steps: a GPU need not be waited for."""
    batch, entries = shape
    most = int(hidden_counts(torch.tensor(entries), ratio))
    rows, columns = torch.arange(batch, device=device).unsqueeze(1), torch.arange(entries, device=device)
    keys = random_keys(generator, rows.expand(shape), lambda: columns if valid is None else real_places(valid))
    if valid is not None:
        # topk takes the same number from every row. So that a padded row ends with fewer, the surplus is drawn from its
        # padding: those keys come first, the rest of the padding last. There is always enough of it, for a row that is
        # shorter by d entries hides at most d fewer.
        surplus = most - hidden_counts(valid.sum(-1, keepdim=True), ratio)
        padding = ~valid
        keys = keys.masked_fill(padding, 2**62).masked_fill(padding & (padding.cumsum(-1) <= surplus), -1)
    chosen = keys.topk(most, largest=False, sorted=False).indices
    hidden = torch.zeros(batch, entries, dtype=torch.bool, device=device).scatter_(-1, chosen, True)
    return hidden if valid is None else hidden & valid


def real_places(valid: Tensor) -> Tensor:
    """How many valid entries come before each valid one in its row: int64 `[batch, entries]`, at least 0.

    This is an entry's place in its instance: the column depends on how far the batch is padded.
    """
    return (valid.cumsum(-1) - 1).clamp(min=0)


def _draw_by_repair(shape: torch.Size, valid: Tensor | None, ratio: float, generator: torch.Generator | None) -> Tensor:
    """A coin for each entry, then random entries more or fewer until every row's count is exact.

    Random numbers are what a draw costs on a CPU; this takes a bit an entry where half are hidden, a byte at most, and
    then mends about sqrt(entries). It is uniform: each step treats all entries of a row alike, so that all sets of the
    final size are equally likely.
    """
    batch, entries = shape
    sizes = torch.full((batch,), entries) if valid is None else valid.sum(1)
    wanted, choose_visible = _fewer_half(sizes, ratio)
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


def _coins(share: Tensor, entries: int, ratio: float, generator: torch.Generator | None) -> Tensor:
    """For each row a coin for each of its entries that is True with probability `share [rows]`, in [0, 1/2], or about:
    bool `[rows, at least entries]`, whole words a row.

    A coin is a random binary number below `share`, compared digit by digit, 64 coins at once; there are as many digits
    as `ratio` has, but at most eight.
    """
    digits = next((count for count in range(1, 8) if (ratio * 2**count).is_integer()), 8)
    below = (share * 2**digits).round().long().unsqueeze(1)
    words = -(-max(entries, 1) // 64)
    random = _random_words((digits, len(share), words), generator)
    coins = random[0] & -(below & 1)
    for digit in range(1, digits):  # from the last digit to the first, which decides where it differs
        one = -(below >> digit & 1)
        coins = (coins & random[digit]) | ((coins ^ random[digit]) & one)
    # Each bit of a word to the end of a byte of its own, eight of them in each of eight words.
    marks = (coins.unsqueeze(1) >> torch.arange(8).unsqueeze(1)).bitwise_and_(0x0101010101010101)
    return marks.view(len(share), 8 * words).view(torch.bool)


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
    """Chooses or releases random items, until each row has `wanted` of its `sizes` items in place of `count`.

    Row r has the `span[r]` places from `first[r]` in `chosen` and `valid`, both bool and flat.
    """
    count = count.clone()
    stamp = torch.empty(len(chosen), dtype=torch.int32)  # costs nothing but where it is written
    while len(short := (count != wanted).nonzero().squeeze(1)):
        have = count[short]
        missing, add = (wanted[short] - have).abs(), wanted[short] > have
        suitable = torch.where(add, sizes[short] - have, have) / span[short]
        # So many that the first round is nearly always the last; not more where one in thousands is suitable.
        tries = (missing + 4 * (missing * (1 - suitable)).sqrt() + 1) / suitable
        tries = tries.long().minimum(4096 + 8 * missing)
        ends = tries.cumsum(0)
        row = torch.repeat_interleave(tries)
        place = torch.rand(row.shape, dtype=torch.float64, generator=generator)
        place = (place * span[short].index_select(0, row)).long() + first[short].index_select(0, row)
        fits = chosen.index_select(0, place) != add.index_select(0, row)
        if valid is not None:
            fits &= valid.index_select(0, place)
        # An item that was tried twice counts once: the last stamp stays.
        number = torch.arange(len(place), dtype=torch.int32)
        fits &= stamp.scatter_(0, place, number).index_select(0, place) == number
        nth = functional.pad(fits.cumsum(0), (1, 0))
        before = nth.index_select(0, ends - tries)
        taken = (fits & (nth[1:] <= (before + missing).index_select(0, row))).nonzero().squeeze(1)
        chosen.scatter_(0, place.index_select(0, taken), add.index_select(0, row.index_select(0, taken)))
        mended = (nth.index_select(0, ends) - before).minimum(missing)
        count[short] = have + torch.where(add, mended, -mended)


def _row_sums(marks: Tensor) -> Tensor:
    """How many of each row's marks, bool `[rows, 8 * words]`, are True, from sums of eight bytes at once."""
    words = marks.view(torch.int64)
    # Up to 255 words no byte of a sum overflows into the next.
    sums = [words[:, first : first + 255].sum(1) for first in range(0, words.size(1), 255)]
    return torch.stack(sums, dim=1).view(torch.uint8).sum(1)


def _fewer_half(sizes: Tensor, ratio: float) -> tuple[Tensor, bool]:
    """How many items to choose, and whether as the visible ones: fewer than half, so that a free one is soon found."""
    wanted = hidden_counts(sizes, ratio)
    return (sizes - wanted, True) if ratio > 0.5 else (wanted, False)


def _share(sizes: Tensor, wanted: Tensor) -> Tensor:
    """The probability with which to choose each item, so that about `wanted` are."""
    share = wanted / sizes.clamp(min=1).double()
    # Rather too few than too many where few are chosen: to find one of a few chosen ones by chance takes long.
    deviation = (sizes * share * (1 - share)).sqrt()
    return (share - 3 * deviation * (1 - 2 * share) / sizes.clamp(min=1)).clamp(min=0)


def _random_words(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Random int64; eight random bytes cost as much as one."""
    return torch.empty(shape, dtype=torch.int64).random_(-(2**63), None, generator=generator)


def draw_in_segments(offsets: Tensor, items: int, ratio: float, generator: Randomness) -> Tensor:
    """Hides `hidden_counts` of each segment's items, uniformly at random: bool `[items]`.

    Segment s has the items from `offsets[s]` to `offsets[s + 1]`, int64 `[segments + 1]`.
    """
    on_cpu = offsets.device.type == "cpu" and not torch.compiler.is_compiling()
    # In small segments there is as much to mend as to draw, and a small sort is over before the first mend.
    if not isinstance(generator, Seeds) and on_cpu and items >= max(32 * len(offsets), 50_000):
        return _segments_by_repair(offsets, items, ratio, generator)
    return _segments_by_sort(segment_of(offsets, items), offsets, ratio, generator)


def draw_in_groups(group: Tensor, groups: int, ratio: float, generator: Randomness) -> Tensor:
    """Hides `hidden_counts` of each group's items, uniformly at random: bool `[items]`.

    `group [items]` int64 is the group number of each item, in any order, below `groups`.
    """
    sizes = group.new_zeros(groups).index_add_(0, group, group.new_ones(()).expand(len(group)))
    offsets = functional.pad(sizes.cumsum(0), (1, 0))
    on_cpu = group.device.type == "cpu" and not torch.compiler.is_compiling()
    if on_cpu and bool((group[1:] >= group[:-1]).all()):  # elsewhere the question costs more than the answer saves
        return draw_in_segments(offsets, len(group), ratio, generator)
    return _segments_by_sort(group, offsets, ratio, generator)


def _segments_by_sort(segment: Tensor, offsets: Tensor, ratio: float, generator: Randomness) -> Tensor:
    """The items with the smallest of random keys. One sort for all segments, whatever the items' order."""
    # The segment number in the high bits, a random number in the low ones.
    keys = segment << 32 | random_keys(generator, segment, lambda: places_in(segment)) >> 30
    keys, order = keys.sort(stable=True)  # stable, for a tie must not depend on what else is in the batch
    segment = keys >> 32
    rank = torch.arange(len(segment), device=segment.device) - offsets[segment]
    hidden = torch.empty(len(segment), dtype=torch.bool, device=segment.device)
    hidden[order] = rank < hidden_counts(offsets.diff(), ratio)[segment]
    return hidden


def _segments_by_repair(offsets: Tensor, items: int, ratio: float, generator: torch.Generator | None) -> Tensor:
    """`_draw_by_repair` for segments of any size: a coin for each item, then about sqrt(size) mends a segment."""
    sizes = offsets.diff()
    wanted, choose_visible = _fewer_half(sizes, ratio)
    words = _random_words((-(-items // 8),), generator)
    coin = (256 * _share(sizes, wanted)).round().to(torch.uint8)
    chosen = words.view(torch.uint8)[:items] < coin.repeat_interleave(sizes, output_size=items)
    _repair(chosen, None, offsets[:-1], sizes, sizes, wanted, segment_sums(chosen, offsets), generator)
    return ~chosen if choose_visible else chosen


def other_in_rows(shape: torch.Size, valid: Tensor | None, generator: Randomness, device: torch.device) -> Tensor:
    """For each valid entry, another valid one of its row, uniformly at random: int64 `[batch, entries]`, by column.

    An entry without another has itself; what padding has means nothing.
    """
    batch, entries = shape
    rows, here = torch.arange(batch, device=device).unsqueeze(1), torch.arange(entries, device=device)
    jump = random_keys(generator, rows.expand(shape), lambda: here if valid is None else real_places(valid))
    if valid is None:
        return (here + 1 + jump % max(entries - 1, 1)) % max(entries, 1)
    sizes = valid.sum(1, keepdim=True)
    order = valid.to(torch.uint8).argsort(dim=1, descending=True, stable=True)  # valid entries first, in their order
    return order.gather(1, (real_places(valid) + 1 + jump % (sizes - 1).clamp(min=1)) % sizes.clamp(min=1))


def other_in_segments(segment: Tensor, segments: int, generator: Randomness) -> Tensor:
    """For each item, another one of its segment, uniformly at random: int64 `[items]`; itself, if it is alone.

    `segment [items]` int64 is the segment number of each item, in any order, below `segments`.
    """
    sizes = segment.new_zeros(segments).index_add_(0, segment, torch.ones_like(segment))
    order = segment.argsort(stable=True)
    first = (sizes.cumsum(0) - sizes)[segment]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    jump = random_keys(generator, segment, lambda: rank - first)
    sizes = sizes[segment]
    return order[first + (rank - first + 1 + jump % (sizes - 1).clamp(min=1)) % sizes]


def spare_one(
    drawn: Tensor, visible: Tensor, group: Tensor, groups: int, generator: Randomness, valid: Tensor | None = None
) -> Tensor:
    """`drawn`, less one item in each group whose `visible` items it has all; which one is drawn uniformly.

    All of one shape: `drawn` and `visible` are bool, `group` is int64, the group number of each item, in any order,
    below `groups`. `valid`, bool, is False on the padding of rows.
    """
    group_of = group.reshape(-1)
    kept, last = (visible & ~drawn).reshape(-1), (visible & drawn).reshape(-1)
    # Items that are not kept mark a group too many: a GPU would have to be asked how many are.
    keeps = torch.zeros(groups + 1, dtype=torch.bool, device=group.device)
    last &= ~keeps.scatter_(0, group_of.where(kept, groups), True)[group_of]
    on_cpu = group.device.type == "cpu" and not torch.compiler.is_compiling()
    # Seeds draw in any case: what they draw next must not depend on what else is in the batch.
    if on_cpu and not isinstance(generator, Seeds) and not bool(last.any()):
        return drawn

    def place() -> Tensor:
        return places_in(group_of) if valid is None else real_places(valid).reshape(-1)

    tickets = random_keys(generator, group_of, place).masked_fill(~last, -1)
    winner = tickets.new_full((groups,), -1).scatter_reduce(0, group_of, tickets, "amax")
    return drawn & ~(last & (tickets == winner[group_of])).view_as(drawn)
