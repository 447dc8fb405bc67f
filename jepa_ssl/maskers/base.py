"""What every masker has: a fill, an indicator, and "draw, then hide"."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn

from jepa_ssl.maskers.fill import Fill, fill_or_zeros
from jepa_ssl.protocols import Views
from jepa_ssl.seeds import Randomness

InstanceT = TypeVar("InstanceT")


class Items(NamedTuple):
    """The items of one stream: the number of each item's instance, how many instances there are, and what is real.

    `owner` is int64 in the shape of the stream's marks. `real` is bool of that shape, or None if all items are real.
    """

    owner: Tensor
    instances: int
    real: Tensor | None = None


class Masker(nn.Module, ABC):
    """Hides a part of each instance. The target view is the whole instance.

    A subclass says which items are hidden (`draw`) and what the views are then (`hide`). The other methods tell
    `ComposeMaskers` what it has to know of the instances. Most maskers subclass `FlatMasker` or `GraphMasker`.

    Args:
        fill: what hidden values become; zero by default.
        indicator: whether the views say what is hidden.
    """

    def __init__(self, fill: Fill | None = None, indicator: bool = False) -> None:
        super().__init__()
        self.fill = fill_or_zeros(fill)
        self.indicator = indicator

    def forward(self, instance: InstanceT, *, generator: Randomness = None) -> Views[InstanceT, InstanceT]:
        """The views of a batch of instances; `generator` decides all that is drawn.

        Raises:
            TypeError, ValueError: the instance is of a type that this masker does not take, or has numbers that are
                not finite (looked at on a CPU only); or the generator does not fit.
        """
        self.check_numbers(instance)
        return self.hide(instance, self.draw(instance, generator=generator), generator)

    @abstractmethod
    def draw(self, instance: Any, *, generator: Randomness = None) -> dict[str, Tensor]:
        """Which items to hide: stream -> bool, one mark per item."""

    @abstractmethod
    def hide(self, instance: Any, marks: Mapping[str, Tensor], generator: Randomness) -> Views[Any, Any]:
        """The views in which the marked items, as `draw` returns them, are filled."""

    @abstractmethod
    def check_numbers(self, instance: Any) -> None:
        """Raise a ValueError if a number is infinite or NaN, unless looking would wait for the device."""

    @abstractmethod
    def items(self, instance: Any, stream: str) -> Items:
        """Which instance each item of a stream belongs to."""

    def lost(self, instance: Any, marks: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """All that the context loses where `marks` are hidden, items of other streams included."""
        return marks

    def weights(self, instance: Any, hidden: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What each item counts in the loss where `hidden` is predicted; without an entry all count alike."""
        return {}
