"""A symmetry, and what it makes of an LP: an equivalent LP and the maps between the solutions of both."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, cast

import torch
from torch import Tensor

from jepa_ssl.checks import can_read_without_sync, generator_fits
from jepa_ssl.contrib.symmetries.forms import LPT
from jepa_ssl.lp.checks import check_shapes, check_values
from jepa_ssl.lp.instances import DenseLP, SparseLP
from jepa_ssl.protocols import CONSTRAINT, VARIABLE, Views


def _same(values: Tensor) -> Tensor:
    return values


@dataclass(frozen=True)
class SolutionMap:
    """A function of a tensor and what takes its value back; the identity by default."""

    forward: Callable[[Tensor], Tensor] = _same
    backward: Callable[[Tensor], Tensor] = _same

    def then(self, following: "SolutionMap") -> "SolutionMap":
        return SolutionMap(
            lambda values: following.forward(self.forward(values)),
            lambda values: self.backward(following.backward(values)),
        )


def times(factor: Tensor) -> SolutionMap:
    return SolutionMap(lambda values: values * factor, lambda values: values / factor)


def plus(shift: Tensor) -> SolutionMap:
    return SolutionMap(lambda values: values + shift, lambda values: values - shift)


@dataclass(frozen=True)
class TransformedLP(Generic[LPT]):
    """An LP that is equivalent to `source`, and how the solutions of the two correspond.

    `x` and `lam` are as c and b: `[batch, n]`, `[batch, m]` of a `DenseLP` (what stands in padding is arbitrary),
    `[N]`, `[M]` of a `SparseLP`; objective values are `[LPs]`. `map_solution` takes an optimal pair of the source to
    one of `instance`, `unmap_solution` the other way; to unmap what was mapped gives it back, up to rounding.

    `rows` and `columns` say where the source's rows and columns stand in `instance`, by indices of b's and c's shape
    (slots of the own LP in a `DenseLP`, of the whole batch in a `SparseLP`); None where each is in its old place.
    """

    source: LPT
    instance: LPT
    x: SolutionMap = SolutionMap()
    lam: SolutionMap = SolutionMap()
    objective: SolutionMap = SolutionMap()
    rows: Tensor | None = None
    columns: Tensor | None = None

    def map_solution(self, x: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
        """From a primal and dual solution of the source to one of `instance`."""
        _check_solution(self.source, x, lam)
        return self.x.forward(x), self.lam.forward(lam)

    def unmap_solution(self, x: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
        """From a primal and dual solution of `instance` to one of the source."""
        _check_solution(self.instance, x, lam)
        return self.x.backward(x), self.lam.backward(lam)

    def map_objective(self, value: Tensor) -> Tensor:
        """From `c'x` of the source to that of `instance`, `[LPs]`."""
        return self.objective.forward(value)

    def unmap_objective(self, value: Tensor) -> Tensor:
        """From `c'x` of `instance` to that of the source, `[LPs]`."""
        return self.objective.backward(value)


@dataclass(frozen=True, kw_only=True)
class SymmetryViews(Views[LPT, LPT]):
    """The image as the context and the source as the target, with the `image` that links them.

    Each LP of a `SparseLP` weighs the same. Where the symmetry moves or adds rows or columns of one, `items` says where
    the source's are in the image.
    """

    image: TransformedLP[LPT]


class Symmetry(ABC):
    """Draws an equivalent LP. Called, it is a view maker; `apply` gives the solution maps too.

    All draws come from `generator`; the same one gives the same image. The source is not written to, and what does not
    change is shared with it.
    """

    def apply(self, instance: LPT, *, generator: torch.Generator | None = None) -> TransformedLP[LPT]:
        """An image of `instance`, drawn for each of its LPs by itself.

        Raises:
            TypeError: `instance` is neither a `DenseLP` nor a `SparseLP`.
            ValueError: the instance's tensors do not fit each other, or, on a CPU, its numbers are not in order, for
                to look at them elsewhere is to wait; `generator` is on another device.
        """
        if not isinstance(instance, (DenseLP, SparseLP)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"instance is a {type(instance).__name__}, but a symmetry needs to know A, b, c and the bounds; "
                f"give a DenseLP or a SparseLP (jepa_ssl.lp.instances), and flatten the image instead."
            )
        check = check_values if can_read_without_sync(instance.c) else check_shapes
        check(instance)
        generator_fits(generator, instance.c.device)
        return self._draw(instance, generator)

    def __call__(self, instance: LPT, *, generator: torch.Generator | None = None) -> SymmetryViews[LPT]:
        image = self.apply(instance, generator=generator)
        if isinstance(instance, DenseLP):
            return SymmetryViews(context=image.instance, target=instance, image=image)
        places = {CONSTRAINT: image.rows, VARIABLE: image.columns}
        items = {kind: place for kind, place in places.items() if place is not None}
        weight = instance.equal_weights()
        return SymmetryViews(context=image.instance, target=instance, weight=weight, items=items, image=image)

    @abstractmethod
    def _draw(self, instance: LPT, generator: torch.Generator | None) -> TransformedLP[LPT]: ...


class Compose(Symmetry):
    """One symmetry after the other; the maps are chained.

    >>> lp = DenseLP.inequalities(torch.ones(1, 1, 1), torch.ones(1, 1), -torch.ones(1, 1), *2 * [torch.ones(1, 1)])
    >>> from jepa_ssl.contrib.symmetries import ColumnSplit, RowScale
    >>> image = Compose([RowScale(), ColumnSplit()]).apply(lp)
    >>> x, lam = image.map_solution(torch.ones(1, 1), torch.ones(1, 1))
    >>> x.sum(), image.unmap_solution(x, lam)
    (tensor(1.), (tensor([[1.]]), tensor([[1.]])))
    """

    def __init__(self, symmetries: Sequence[Symmetry]) -> None:
        given: Any = symmetries
        if not (isinstance(given, Sequence) and all(isinstance(each, Symmetry) for each in cast(Sequence[Any], given))):
            raise TypeError(
                f"symmetries is {given!r}, but must be a list of symmetries; write Compose([RowScale(), Negation()])."
            )
        self.symmetries = tuple(symmetries)

    def _draw(self, instance: LPT, generator: torch.Generator | None) -> TransformedLP[LPT]:
        image = TransformedLP(instance, instance)
        for symmetry in self.symmetries:
            image = _chained(image, symmetry._draw(image.instance, generator))
        return image


def _chained(first: TransformedLP[LPT], second: TransformedLP[LPT]) -> TransformedLP[LPT]:
    return TransformedLP(
        first.source,
        second.instance,
        first.x.then(second.x),
        first.lam.then(second.lam),
        first.objective.then(second.objective),
        rows=_positions(first.rows, second.rows, first.source.b),
        columns=_positions(first.columns, second.columns, first.source.c),
    )


def _positions(first: Tensor | None, second: Tensor | None, source: Tensor) -> Tensor | None:
    """Where two steps take the items of `source`."""
    if second is None:
        return first
    if source.ndim == 1:
        return second if first is None else second[first]
    return second[:, : source.size(1)] if first is None else second.gather(1, first)


def _check_solution(lp: DenseLP | SparseLP, x: Tensor, lam: Tensor) -> None:
    for name, values, like in (("x", x, lp.c), ("lam", lam, lp.b)):
        if values.shape != like.shape:
            raise ValueError(
                f"{name} is {list(values.shape)}, but this LP has {list(like.shape)}; map_solution takes solutions of "
                f"the source, unmap_solution those of the image, one value a {'column' if name == 'x' else 'row'}."
            )
