"""Exact draws: which items of each instance are hidden, so many and no more."""

import torch
from torch import Tensor
from torch.nn import functional

from jepa_ssl.instances import segment_of


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
    width = 8 * max(-(-entries // 8), 1)  # whole words a row; their last bytes are never chosen
    sizes = torch.full((batch,), entries) if valid is None else valid.sum(1)
    wanted, choose_visible = _fewer_half(sizes, ratio)
    threshold = _coin(sizes, wanted).unsqueeze(1).expand(batch, width).contiguous()  # broadcasting is slower
    threshold[:, entries:] = 0
    chosen = _random_words((batch, width // 8), generator).view(torch.uint8) < threshold
    if valid is not None:
        chosen[:, :entries] &= valid
        valid = valid.reshape(-1)

    lacking = wanted - _row_sums(chosen)
    while len(short := lacking.nonzero().squeeze(1)):
        missing, add = lacking[short].abs(), lacking[short] > 0
        count = wanted[short] - lacking[short]
        suitable = torch.where(add, sizes[short] - count, count) / entries
        tries = ((missing + 2 * missing.sqrt() + 1) / suitable).long().clamp(max=4096)
        first = tries.cumsum(0) - tries
        row = torch.repeat_interleave(tries)
        place = torch.randint(entries, row.shape, generator=generator)
        index = short[row] * width + place
        fits = chosen.view(-1)[index] != add[row]
        if valid is not None:
            fits &= valid[short[row] * entries + place]
        # An entry that was tried twice counts twice here, so that a row may end a little short, but never beyond.
        nth = functional.pad(fits.cumsum(0), (1, 0))
        taken = (fits & (nth[1:] - nth[first][row] <= missing[row])).nonzero().squeeze(1)
        chosen.view(-1)[index[taken]] = add[row[taken]]
        lacking[short] = wanted[short] - _row_sums(chosen[short])
    chosen = chosen[:, :entries].contiguous()
    if not choose_visible:
        return chosen
    return ~chosen if valid is None else valid.view(shape) & ~chosen


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


def _coin(sizes: Tensor, wanted: Tensor) -> Tensor:
    """The uint8 below which a random byte has to lie for its item to be chosen, so that about `wanted` are."""
    share = wanted / sizes.clamp(min=1).double()
    # Rather too few than too many where few are chosen: to find one of a few chosen ones by chance takes long.
    deviation = (sizes * share * (1 - share)).sqrt()
    coin = share - 3 * deviation * (1 - 2 * share) / sizes.clamp(min=1)
    return (256 * coin.clamp(min=0)).round().to(torch.uint8)


def _random_words(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Random int64; eight random bytes cost as much as one."""
    return torch.empty(shape, dtype=torch.int64).random_(-(2**63), None, generator=generator)


def draw_in_segments(offsets: Tensor, items: int, ratio: float, generator: torch.Generator | None) -> Tensor:
    """Hides `hidden_counts` of each segment's items, uniformly at random: bool `[items]`.

    Segment s has the items from `offsets[s]` to `offsets[s + 1]`, int64 `[segments + 1]`.
    """
    on_cpu = offsets.device.type == "cpu" and not torch.compiler.is_compiling()
    # In small segments there is as much to mend as to draw, and a small sort is over before the first mend.
    if on_cpu and items >= max(32 * len(offsets), 50_000):
        return _segments_by_repair(offsets, items, ratio, generator)
    return _segments_by_sort(segment_of(offsets, items), offsets, ratio, generator)


def draw_in_groups(group: Tensor, groups: int, ratio: float, generator: torch.Generator | None) -> Tensor:
    """Hides `hidden_counts` of each group's items, uniformly at random: bool `[items]`.

    `group [items]` int64 is the group number of each item, in any order, below `groups`.
    """
    sizes = group.new_zeros(groups).index_add_(0, group, group.new_ones(()).expand(len(group)))
    offsets = functional.pad(sizes.cumsum(0), (1, 0))
    on_cpu = group.device.type == "cpu" and not torch.compiler.is_compiling()
    if on_cpu and bool((group[1:] >= group[:-1]).all()):  # elsewhere the question costs more than the answer saves
        return draw_in_segments(offsets, len(group), ratio, generator)
    return _segments_by_sort(group, offsets, ratio, generator)


def segment_sums(marks: Tensor, offsets: Tensor) -> Tensor:
    """How many of each segment's `marks`, bool `[items]`, are True: int64 `[segments]`."""
    if not len(marks):
        return torch.zeros_like(offsets[1:])
    # A zero put before a large cumsum would copy it.
    return marks.cumsum(0)[(offsets - 1).clamp(min=0)].where(offsets > 0, 0).diff()


def _segments_by_sort(segment: Tensor, offsets: Tensor, ratio: float, generator: torch.Generator | None) -> Tensor:
    """The items with the smallest of random keys. One sort for all segments, whatever the items' order."""
    # The segment number in the high bits, a random number in the low ones.
    lottery = torch.randint(2**32, segment.shape, generator=generator, device=segment.device)
    keys, order = (segment << 32 | lottery).sort()
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
    chosen = words.view(torch.uint8)[:items] < _coin(sizes, wanted).repeat_interleave(sizes, output_size=items)

    lacking = wanted - segment_sums(chosen, offsets)
    stamp = torch.empty(items, dtype=torch.int64)  # costs nothing but where it is written
    while len(short := lacking.nonzero().squeeze(1)):
        size, missing, add = sizes[short], lacking[short].abs(), lacking[short] > 0
        count = wanted[short] - lacking[short]
        suitable = torch.where(add, size - count, count) / size
        tries = ((missing + missing.sqrt()) / suitable).long().clamp(min=1)
        ends = tries.cumsum(0)
        row = torch.repeat_interleave(tries)
        place = offsets[short][row] + torch.randint(2**62, row.shape, generator=generator) % size[row]
        fits = chosen[place] != add[row]
        nth = functional.pad(fits.cumsum(0), (1, 0))
        taken = fits & (nth[1:] - nth[ends - tries][row] <= missing[row])
        place, row = place[taken], row[taken]
        # An item that was tried twice counts once: the last stamp stays, whichever that is.
        number = torch.arange(len(place))
        stamp[place] = number
        once = stamp[place] == number
        chosen[place] = add[row]
        mended = torch.bincount(row[once], minlength=len(short))
        lacking[short] -= torch.where(add, mended, -mended)
    return ~chosen if choose_visible else chosen


def other_in_rows(
    shape: torch.Size, valid: Tensor | None, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """For each valid entry, another valid one of its row, uniformly at random: int64 `[batch, entries]`, by column.

    An entry without another has itself; what padding has means nothing.
    """
    batch, entries = shape
    jump = torch.randint(2**62, (batch, entries), generator=generator, device=device)
    if valid is None:
        here = torch.arange(entries, device=device)
        return (here + 1 + jump % max(entries - 1, 1)) % max(entries, 1)
    sizes = valid.sum(1, keepdim=True)
    rank = valid.cumsum(1) - 1
    order = valid.to(torch.uint8).argsort(dim=1, descending=True, stable=True)  # valid entries first, in their order
    return order.gather(1, (rank + 1 + jump % (sizes - 1).clamp(min=1)).clamp(min=0) % sizes.clamp(min=1))


def other_in_segments(segment: Tensor, segments: int, generator: torch.Generator | None) -> Tensor:
    """For each item, another one of its segment, uniformly at random: int64 `[items]`; itself, if it is alone.

    `segment [items]` int64 is the segment number of each item, in any order, below `segments`.
    """
    sizes = segment.new_zeros(segments).index_add_(0, segment, torch.ones_like(segment))
    order = segment.argsort(stable=True)
    first = (sizes.cumsum(0) - sizes)[segment]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    jump = torch.randint(2**62, segment.shape, generator=generator, device=segment.device)
    sizes = sizes[segment]
    return order[first + (rank - first + 1 + jump % (sizes - 1).clamp(min=1)) % sizes]


def spare_one(drawn: Tensor, visible: Tensor, group: Tensor, groups: int, generator: torch.Generator | None) -> Tensor:
    """`drawn`, less one item in each group whose `visible` items it has all; which one is drawn uniformly.

    All of one shape: `drawn` and `visible` are bool, `group` is int64, the group number of each item, in any order,
    below `groups`.
    """
    group_of = group.reshape(-1)
    kept, last = (visible & ~drawn).reshape(-1), (visible & drawn).reshape(-1)
    # Items that are not kept mark a group too many: a GPU would have to be asked how many are.
    keeps = torch.zeros(groups + 1, dtype=torch.bool, device=group.device)
    last &= ~keeps.scatter_(0, group_of.where(kept, groups), True)[group_of]
    if group.device.type == "cpu" and not torch.compiler.is_compiling() and not bool(last.any()):
        return drawn
    lottery = torch.randint(2**62, last.shape, generator=generator, device=group.device).masked_fill(~last, -1)
    winner = lottery.new_full((groups,), -1).scatter_reduce(0, group_of, lottery, "amax")
    return drawn & ~(last & (lottery == winner[group_of])).view_as(drawn)
