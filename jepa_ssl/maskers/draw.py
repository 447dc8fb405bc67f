"""Draw an exact number of items to hide in each instance. `repair` makes large draws on a CPU."""

import torch
from torch import Tensor

from jepa_ssl.checks import can_read_without_sync
from jepa_ssl.maskers.repair import repaired_rows, repaired_segments, smallest_in_rows, smallest_short_keys
from jepa_ssl.seeds import Randomness, Seeds, random_keys, short_keys
from jepa_ssl.segments import any_in_groups, first_in_segments, group_sizes, inverse, offsets_of, places_in, segment_of


def hidden_counts(sizes: Tensor, ratio: float) -> Tensor:
    """How many items to hide of `sizes` (int64, any shape): `int(ratio * size)`, at least one and never all.

    An instance with fewer than two items hides none: it could not show one and hide one.
    """
    counts = (sizes.double() * ratio).long()  # in double, as Python's own int(ratio * size) computes it
    return counts.clamp(min=1).minimum(sizes - 1).clamp(min=0)


def hidden_count(size: int, ratio: float) -> int:
    """`hidden_counts` of one number, without a tensor: a tensor would slow small draws down.

    >>> [hidden_count(size, 0.5) for size in range(6)]
    [0, 0, 1, 1, 2, 2]
    """
    return min(max(int(ratio * size), 1), max(size - 1, 0))


def draw_in_rows(
    shape: torch.Size, valid: Tensor | None, ratio: float, generator: Randomness, device: torch.device
) -> Tensor:
    """Hide `hidden_counts` of each row's valid entries, uniformly at random: bool `[batch, entries]`."""
    if isinstance(generator, Seeds) and device.type == "cpu" and torch.compiler.is_compiling():
        return _seeded_rows(*generator.next_draw(), valid, shape[1], ratio)
    if device.type != "cpu" or torch.compiler.is_compiling():
        return rows_by_topk(shape, valid, ratio, generator, device)
    batch, entries = shape
    # A repair takes about sixty operations, even for few entries.
    if isinstance(generator, Seeds) or shape.numel() < 80_000:
        if valid is None or bool(valid.all()):
            return smallest_short_keys(*short_keys(generator, batch, entries), entries, hidden_count(entries, ratio))
        return rows_by_topk(shape, valid, ratio, generator, device)
    sizes = torch.full((batch,), entries) if valid is None else valid.sum(1)
    return repaired_rows(valid, sizes, hidden_counts(sizes, ratio), entries, ratio, generator)


# A compiler makes no faster code of a draw than there is on a CPU, where it may look at numbers.
@torch.library.custom_op("jepa_ssl::seeded_rows", mutates_args=())
def _seeded_rows(keys: Tensor, draw: int, valid: Tensor | None, entries: int, ratio: float) -> Tensor:
    return draw_in_rows(torch.Size((len(keys), entries)), valid, ratio, Seeds.of_draw(keys, draw), keys.device)


@_seeded_rows.register_fake  # pyright: ignore[reportUnknownMemberType]
def _seeded_rows_shaped(keys: Tensor, draw: int, valid: Tensor | None, entries: int, ratio: float) -> Tensor:  # pyright: ignore[reportUnusedFunction]
    return keys.new_empty((len(keys), entries), dtype=torch.bool)


def rows_by_topk(
    shape: torch.Size, valid: Tensor | None, ratio: float, generator: Randomness, device: torch.device
) -> Tensor:
    """`draw_in_rows` by the smallest of random keys. Its steps are fixed, so it never waits for a GPU."""
    entries = shape[1]
    most = hidden_count(entries, ratio)
    if isinstance(generator, Seeds):
        keys = _long_keys(shape, valid, generator, device)
    else:
        keys = _keys_in_rows(shape, valid, generator, device)
    if valid is not None:
        # topk takes the same number from every row. A padded row hides fewer, so the surplus is taken from its padding:
        # those keys come first, the rest of the padding last. There is always enough padding, because a row that is
        # shorter by d entries hides at most d fewer.
        surplus = most - hidden_counts(valid.sum(-1, keepdim=True), ratio)
        padding = ~valid
        keys = keys.masked_fill(padding, 2**62).masked_fill(padding & (padding.cumsum(-1) <= surplus), -1)
    hidden = _smallest(keys, most)
    return hidden if valid is None else hidden & valid


def _smallest(keys: Tensor, most: int) -> Tensor:
    """Mark the `most` smallest numbers of each row: bool, in the shape of `keys`."""
    if most and can_read_without_sync(keys):
        return smallest_in_rows(keys, most)
    chosen = keys.topk(most, largest=False, sorted=False).indices
    return torch.zeros_like(keys, dtype=torch.bool).scatter_(-1, chosen, True)


def _long_keys(shape: torch.Size, valid: Tensor | None, seeds: Seeds, device: torch.device) -> Tensor:
    """Keys as int64 in [0, 2^62): in the order of `short_keys`, and of the longer keys where these tie."""
    rows, place = torch.arange(shape[0], device=device).unsqueeze(1), torch.arange(shape[1], device=device)
    keys, tie_break = short_keys(seeds, *shape)
    keys = ((keys[:, : shape[1]].long() + 2**15) << 46) + tie_break(rows, place)
    return keys if valid is None else keys.gather(1, real_places(valid))


def _keys_in_rows(shape: torch.Size, valid: Tensor | None, generator: Randomness, device: torch.device) -> Tensor:
    """Random keys, int64 `[batch, entries]`, from each entry's row and its place among the row's valid entries."""
    rows = torch.arange(shape[0], device=device).unsqueeze(1)

    def places() -> Tensor:
        return torch.arange(shape[1], device=device) if valid is None else real_places(valid)

    return random_keys(generator, rows, places, shape)


def real_places(valid: Tensor) -> Tensor:
    """How many valid entries come before each valid one in its row: int64 `[batch, entries]`, at least 0.

    This is an entry's place in its instance. Unlike the column, it does not depend on the padding of the batch.
    """
    return (valid.cumsum(-1) - 1).clamp(min=0)


def draw_in_segments(offsets: Tensor, items: int, ratio: float, generator: Randomness) -> Tensor:
    """Hide `hidden_counts` of each segment's items, uniformly at random: bool `[items]`."""
    # In small segments the repair takes as long as the draw, and a sort is faster.
    large = items >= max(32 * len(offsets), 50_000)
    if large and not isinstance(generator, Seeds) and can_read_without_sync(offsets):
        return repaired_segments(offsets, items, hidden_counts(offsets.diff(), ratio), ratio, generator)
    return groups_by_sort(segment_of(offsets, items), offsets, ratio, generator)


def draw_in_groups(group: Tensor, groups: int, ratio: float, generator: Randomness) -> Tensor:
    """Hide `hidden_counts` of each group's items, uniformly at random: bool `[items]`.

    `group [items]` int64 is the group number of each item, in any order, below `groups`.
    """
    offsets = offsets_of(group_sizes(group, groups))
    # On a GPU this check costs more than it saves.
    if can_read_without_sync(group) and bool((group[1:] >= group[:-1]).all()):
        return draw_in_segments(offsets, len(group), ratio, generator)
    return groups_by_sort(group, offsets, ratio, generator)


def groups_by_sort(group: Tensor, offsets: Tensor, ratio: float, generator: Randomness) -> Tensor:
    """`draw_in_groups` by the smallest of random keys: one sort for all groups. `offsets` are those of their sizes."""
    # The group number in the high bits, a random number in the low ones.
    keys = group << 32 | random_keys(generator, group, lambda: places_in(group)) >> 30
    keys, order = keys.sort(stable=True)  # stable, because a tie must not depend on what else is in the batch
    return first_in_segments(order, keys >> 32, offsets, hidden_counts(offsets.diff(), ratio))


def other_in_rows(shape: torch.Size, valid: Tensor | None, generator: Randomness, device: torch.device) -> Tensor:
    """For each valid entry, draw another valid one of its row uniformly: its column, int64 `[batch, entries]`.

    An entry without another one gets itself. Results in the padding have no meaning.
    """
    entries = shape[1]
    here, jump = torch.arange(entries, device=device), _keys_in_rows(shape, valid, generator, device)
    if valid is None:
        return (here + 1 + jump % max(entries - 1, 1)) % max(entries, 1)
    sizes = valid.sum(1, keepdim=True)
    order = valid.to(torch.uint8).argsort(dim=1, descending=True, stable=True)  # valid entries first, in their order
    return order.gather(1, (real_places(valid) + 1 + jump % (sizes - 1).clamp(min=1)) % sizes.clamp(min=1))


def other_in_groups(group: Tensor, groups: int, generator: Randomness) -> Tensor:
    """For each item, draw another one of its group uniformly: int64 `[items]`. An item that is alone gets itself.

    `group [items]` int64 is the group number of each item, in any order, below `groups`.
    """
    sizes = group_sizes(group, groups)
    order = group.argsort(stable=True)
    first = (sizes.cumsum(0) - sizes)[group]
    place = inverse(order) - first
    jump = random_keys(generator, group, lambda: place)
    sizes = sizes[group]
    return order[first + (place + 1 + jump % (sizes - 1).clamp(min=1)) % sizes]


def spare_one(
    drawn: Tensor, visible: Tensor, group: Tensor, groups: int, generator: Randomness, valid: Tensor | None = None
) -> Tensor:
    """Unmark one item, drawn uniformly, in each group in which `drawn` has all `visible` items.

    All tensors have the same shape. `drawn` and `visible` are bool. `group` is int64: the group number of each item, in
    any order, below `groups`. `valid`, bool, is False on the padding of rows.
    """
    group_of = group.reshape(-1)
    keeps = any_in_groups((visible & ~drawn).reshape(-1), group_of, groups)
    last = (visible & drawn).reshape(-1) & ~keeps[group_of]
    # Seeds always draw, because later draws must not depend on the rest of the batch.
    if can_read_without_sync(group) and not isinstance(generator, Seeds) and not bool(last.any()):
        return drawn

    def place() -> Tensor:
        return places_in(group_of) if valid is None else real_places(valid).reshape(-1)

    tickets = random_keys(generator, group_of, place).masked_fill(~last, -1)
    winner = tickets.new_full((groups,), -1).scatter_reduce(0, group_of, tickets, "amax")
    return drawn & ~(last & (tickets == winner[group_of])).view_as(drawn)
