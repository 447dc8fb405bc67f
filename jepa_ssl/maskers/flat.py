"""Maskers of flat vectors."""

from typing import overload

import torch
from torch import Tensor

from jepa_ssl.checks import generator_fits, open_fraction
from jepa_ssl.instances import FlatVectors
from jepa_ssl.maskers.draw import draw_in_rows
from jepa_ssl.maskers.fill import Fill, Zeros
from jepa_ssl.protocols import INSTANCE, Views


class EntryMasker:
    """Hides `int(ratio * D)` of the `D` real entries of each vector: at least one, never all, padding never.

    The target view is the whole vector. A vector has one embedding, so the loss is taken on every instance.

    Args:
        ratio: share of the entries to hide, in (0, 1).
        fill: what a hidden entry becomes, zero by default.

    >>> views = EntryMasker(ratio=0.5)(torch.ones(2, 6), generator=torch.Generator().manual_seed(0))
    >>> views.context.sum(dim=1)
    tensor([3., 3.])
    """

    def __init__(self, ratio: float, fill: Fill | None = None) -> None:
        self.ratio = open_fraction("ratio", ratio)
        self.fill = Zeros() if fill is None else fill

    @overload
    def __call__(self, instance: Tensor, *, generator: torch.Generator | None = None) -> Views[Tensor]: ...

    @overload
    def __call__(self, instance: FlatVectors, *, generator: torch.Generator | None = None) -> Views[FlatVectors]: ...

    def __call__(
        self, instance: Tensor | FlatVectors, *, generator: torch.Generator | None = None
    ) -> Views[Tensor] | Views[FlatVectors]:
        """The views of `instance`: `[batch, entries]`, or `FlatVectors` where some entries are padding."""
        hidden = self.draw(instance, generator=generator)
        if isinstance(instance, FlatVectors):
            filled = FlatVectors(self.fill(instance.values, hidden, generator), instance.valid)
            return Views(context=filled, target=instance, hidden={INSTANCE: None})
        return Views(context=self.fill(instance, hidden, generator), target=instance, hidden={INSTANCE: None})

    def draw(self, instance: Tensor | FlatVectors, *, generator: torch.Generator | None = None) -> Tensor:
        """Which entries to hide: bool `[batch, entries]`."""
        values, valid = (instance.values, instance.valid) if isinstance(instance, FlatVectors) else (instance, None)
        if values.ndim != 2 or not values.is_floating_point():
            raise ValueError(
                f"instance is {values.dtype} {list(values.shape)}, but must be floating point [batch, entries]; "
                f"flatten each instance first."
            )
        generator_fits(generator, values.device)
        return draw_in_rows(values.shape, valid, self.ratio, generator, values.device)
