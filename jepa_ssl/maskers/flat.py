"""Maskers of flat vectors."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from jepa_ssl.checks import can_read_without_sync, open_fraction
from jepa_ssl.instances import FlatVectors, check_finite
from jepa_ssl.maskers.base import Items, Masker
from jepa_ssl.maskers.draw import draw_in_rows, other_in_rows, real_places
from jepa_ssl.maskers.fill import Fill
from jepa_ssl.protocols import INSTANCE, Views
from jepa_ssl.seeds import Randomness, check_randomness, normal_like


class FlatMasker(Masker):
    """Base class for maskers of vectors, `[batch, entries]` or `FlatVectors`; `_hidden` chooses the entries to hide."""

    @abstractmethod
    def _hidden(self, values: Tensor, valid: Tensor | None, generator: Randomness) -> Tensor:
        """Choose the entries to hide: bool `[batch, entries]`."""

    def draw(self, instance: Tensor | FlatVectors, *, generator: Randomness = None) -> dict[str, Tensor]:
        """Choose the entries to hide: `{"instance": bool [batch, entries]}`."""
        values, valid = parts(instance)
        check_randomness(generator, len(values), values.device)
        return {INSTANCE: self._hidden(values, valid, generator)}

    def hide(
        self, instance: Tensor | FlatVectors, marks: Mapping[str, Tensor], generator: Randomness
    ) -> Views[Any, Any]:
        values, valid = parts(instance)
        hidden = marks[INSTANCE]

        def others() -> Tensor:
            return values.gather(1, other_in_rows(values.shape, valid, generator, values.device))

        def noise() -> Tensor:
            drawn = normal_like(values, generator, lambda: torch.arange(len(values), device=values.device))
            return drawn if valid is None else drawn.gather(1, real_places(valid))

        context = self.fill(values, hidden, stream=INSTANCE, generator=generator, others=others, noise=noise)
        # amax of bytes, because any() takes 40 times as long on a CPU.
        lost = {INSTANCE: hidden.view(torch.uint8).amax(1) > 0 if hidden.size(1) else hidden.any(1)}
        target = values
        if self.indicator:
            context = torch.cat([context, hidden.to(values)], dim=1)
            target = torch.cat([values, torch.zeros_like(values)], dim=1)
            valid = None if valid is None else torch.cat([valid, valid], dim=1)
        if valid is None:
            return Views(context, target, lost)
        return Views(FlatVectors(context, valid), FlatVectors(target, valid) if self.indicator else instance, lost)

    def check_numbers(self, instance: Tensor | FlatVectors) -> None:
        values, _ = parts(instance)
        if can_read_without_sync(values):
            if isinstance(instance, FlatVectors):
                instance.check_values()
            else:
                check_finite("instance", values)

    def items(self, instance: Tensor | FlatVectors, stream: str) -> Items:
        values, valid = parts(instance)
        rows = torch.arange(len(values), device=values.device).unsqueeze(1)
        return Items(rows.expand_as(values), len(values), valid)


class EntryMasker(FlatMasker):
    """Hide `int(ratio * D)` of the `D` real entries of each vector: at least one, never all, and never padding.

    The target view is the whole vector. A vector has one embedding, so every instance with at least two real entries
    counts in the loss.

    Args:
        ratio: share of the entries to hide, in (0, 1).
        fill: what a hidden entry becomes, zero by default.
        indicator: append one number per entry to each vector. In the context it is 1 for hidden entries, in the target
            0.

    >>> views = EntryMasker(ratio=0.5)(torch.ones(2, 6), generator=torch.Generator().manual_seed(0))
    >>> views.context.sum(dim=1)
    tensor([3., 3.])
    """

    def __init__(self, ratio: float, fill: Fill | None = None, *, indicator: bool = False) -> None:
        super().__init__(fill, indicator)
        self.ratio = open_fraction("ratio", ratio)

    def _hidden(self, values: Tensor, valid: Tensor | None, generator: Randomness) -> Tensor:
        return draw_in_rows(values.shape, valid, self.ratio, generator, values.device)


class GroupMasker(FlatMasker):
    """Hide whole groups of entries: `int(ratio * groups)` of them in each vector, at least one, never all.

    For tables in which one column reveals others, so that they must be hidden together. All groups are equally likely,
    whatever their size. Entries in no group stay visible, and so does padding. In each vector, only groups with a real
    entry count.

    Args:
        groups: the columns of each group; a column is in one group at most.
        ratio: share of the groups to hide, in (0, 1).
        fill: what a hidden entry becomes, zero by default.
        indicator: as in `EntryMasker`.

    >>> views = GroupMasker([[0, 1], [2], [3, 4, 5]], ratio=0.4)(torch.ones(1, 6))
    >>> views.context.sum().item() in (4.0, 5.0, 3.0)
    True
    """

    group_of: Tensor  # the group of each grouped column, in the order of `columns`; moves with the module
    columns: Tensor

    def __init__(
        self, groups: Sequence[Sequence[int]], ratio: float, fill: Fill | None = None, *, indicator: bool = False
    ) -> None:
        super().__init__(fill, indicator)
        self.ratio = open_fraction("ratio", ratio)
        _check_groups(groups)
        self.groups = len(groups)
        self.least_entries = 1 + max(column for group in groups for column in group)
        columns = [column for group in groups for column in group]
        group_of = [number for number, group in enumerate(groups) for _ in group]
        # Not saved with the module, because the arguments determine them.
        self.register_buffer("columns", torch.tensor(columns), persistent=False)
        self.register_buffer("group_of", torch.tensor(group_of), persistent=False)

    def _hidden(self, values: Tensor, valid: Tensor | None, generator: Randomness) -> Tensor:
        batch, entries = values.shape
        if entries < self.least_entries:
            raise ValueError(
                f"instance has {entries} entries, but groups names column {self.least_entries - 1}; "
                f"give vectors of at least {self.least_entries} entries, or other groups."
            )
        columns, group_of = self.columns.to(values.device), self.group_of.to(values.device)
        present = None
        if valid is not None:
            present = values.new_zeros(batch, self.groups, dtype=torch.int32)
            present = present.index_add_(1, group_of, valid[:, columns].int()) > 0
        drawn = draw_in_rows(torch.Size([batch, self.groups]), present, self.ratio, generator, values.device)
        hidden = torch.zeros_like(values, dtype=torch.bool).index_copy_(1, columns, drawn[:, group_of])
        return hidden if valid is None else hidden & valid


def _check_groups(groups: Sequence[Sequence[int]]) -> None:
    if len(groups) < 2 or not all(len(group) for group in groups):
        raise ValueError(
            f"groups is {[list(group) for group in groups]}, but must be at least two groups of at least one column "
            f"each, so that one is hidden and one stays; leave out empty ones."
        )
    seen: set[int] = set()
    for number, group in enumerate(groups):
        for column in group:
            if not isinstance(column, Integral) or isinstance(column, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(
                    f"groups[{number}] has column {column!r}, a {type(column).__name__}, but columns are whole numbers "
                    f"from 0 on; use int()."
                )
            if column < 0 or column in seen:
                reason = "is negative" if column < 0 else "is named before"
                raise ValueError(
                    f"groups[{number}] has column {column}, which {reason}, but columns count from 0, and each "
                    f"is in at most one group; correct the groups."
                )
            seen.add(column)


def parts(instance: Tensor | FlatVectors) -> tuple[Tensor, Tensor | None]:
    """Return the values of `instance`, and which of them are real (None if all are)."""
    if isinstance(instance, FlatVectors):
        return instance.values, instance.valid
    if not isinstance(instance, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"instance is a {type(instance).__name__}, but must be a tensor [batch, entries] or FlatVectors; use "
            f"torch.as_tensor for an array, torch.stack for a list of vectors, and NodeMasker for graphs."
        )
    if instance.ndim != 2 or not instance.is_floating_point():
        raise ValueError(
            f"instance is {instance.dtype} {list(instance.shape)}, but must be floating point [batch, entries]; "
            f"flatten each instance first."
        )
    return instance, None
