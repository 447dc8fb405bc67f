"""The base class of all maskers: draw what to hide, then hide it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn

from jepa_ssl.maskers.fill import Fill, fill_or_zeros
from jepa_ssl.protocols import Views
from jepa_ssl.seeds import Randomness

InstanceT = TypeVar("InstanceT")


class Items(NamedTuple):
    """The items of one stream: the instance of each item, the number of instances, and which items are real.

    `owner` is int64 in the shape of the stream's marks. `real` is bool of that shape, or None if all items are real.
    """

    owner: Tensor
    instances: int
    real: Tensor | None = None


class Masker(nn.Module, ABC):
    """Hide a part of each instance. The target view is the whole instance.

    A subclass chooses the items to hide (`draw`) and makes the views (`hide`). `ComposeMaskers` uses the other methods.
    Most maskers subclass `FlatMasker` or `GraphMasker`.

    Args:
        fill: what hidden values become; zero by default.
        indicator: whether the views mark what is hidden.
    """

    def __init__(self, fill: Fill | None = None, indicator: bool = False) -> None:
        super().__init__()
        self.fill = fill_or_zeros(fill)
        self.indicator = indicator

    def forward(self, instance: InstanceT, *, generator: Randomness = None) -> Views[InstanceT, InstanceT]:
        """Return the views of a batch of instances. All random numbers come from `generator`.

        Raises:
            TypeError: this masker does not take instances of this type.
            ValueError: the instance has a number that is not finite (checked on a CPU only), or the generator does not
                fit.
        """
        self.check_numbers(instance)
        return self.hide(instance, self.draw(instance, generator=generator), generator)

    @abstractmethod
    def draw(self, instance: Any, *, generator: Randomness = None) -> dict[str, Tensor]:
        """Choose the items to hide: stream -> bool, one mark per item."""

    @abstractmethod
    def hide(self, instance: Any, marks: Mapping[str, Tensor], generator: Randomness) -> Views[Any, Any]:
        """Return the views in which the marked items are filled; `marks` is what `draw` returns."""

    @abstractmethod
    def check_numbers(self, instance: Any) -> None:
        """Raise a ValueError if a number is infinite or NaN. Skip this check if it would wait for the device."""

    @abstractmethod
    def items(self, instance: Any, stream: str) -> Items:
        """Return which instance each item of a stream belongs to."""

    def lost(self, instance: Any, marks: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return everything that the context loses if `marks` are hidden, including items of other streams."""
        return marks

    def weights(self, instance: Any, hidden: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the loss weights if `hidden` is predicted: stream -> `[items]`. Others count all items alike."""
        return {}
