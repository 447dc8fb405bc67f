"""The base class of symmetries, and their result: an equivalent LP with the maps between the solutions."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, cast

from torch import Tensor

from jepa_ssl.checks import can_read_without_sync
from jepa_ssl.contrib.symmetries.forms import LPT, rows
from jepa_ssl.lp.instances import DenseLP, SparseLP
from jepa_ssl.protocols import CONSTRAINT, VARIABLE, Views
from jepa_ssl.seeds import Randomness, check_randomness


def _same(values: Tensor) -> Tensor:
    return values


@dataclass(frozen=True)
class SolutionMap:
    """A function of a tensor and its inverse; the identity by default."""

    forward: Callable[[Tensor], Tensor] = _same
    backward: Callable[[Tensor], Tensor] = _same

    def then(self, following: "SolutionMap") -> "SolutionMap":
        """This map, followed by another."""
        return SolutionMap(
            lambda values: following.forward(self.forward(values)),
            lambda values: self.backward(following.backward(values)),
        )


def times(factor: Tensor) -> SolutionMap:
    """Multiplication by `factor`."""
    return SolutionMap(lambda values: values * factor, lambda values: values / factor)


def plus(shift: Tensor) -> SolutionMap:
    """Addition of `shift`."""
    return SolutionMap(lambda values: values + shift, lambda values: values - shift)


@dataclass(frozen=True)
class TransformedLP(Generic[LPT]):
    """`instance`, an LP that is equivalent to `source`, and the maps between the solutions of the two.

    `x` and `lam` have the shapes of c and b: `[batch, n]` and `[batch, m]` for a `DenseLP`, `[N]` and `[M]` for a
    `SparseLP`. Padding may hold anything. `objective` maps optimal values `c'x`, `[LPs]`. `map_solution` takes an
    optimal pair of the source to one of `instance`, and `unmap_solution` takes it back. Unmapping a mapped solution
    restores it, up to rounding.

    `rows` and `columns` are the places of the source's rows and columns in `instance`: indices in the shape of b and c.
    They count within each LP for a `DenseLP`, and over the whole batch for a `SparseLP`. None means that none has
    moved.
    """

    source: LPT
    instance: LPT
    x: SolutionMap = SolutionMap()
    lam: SolutionMap = SolutionMap()
    objective: SolutionMap = SolutionMap()
    rows: Tensor | None = None
    columns: Tensor | None = None

    def map_solution(self, x: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
        """From a primal and dual solution of the source to one of `instance`; a ValueError if the shapes differ."""
        _check_solution(self.source, x, lam)
        return self.x.forward(x), self.lam.forward(lam)

    def unmap_solution(self, x: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
        """From a primal and dual solution of `instance` to one of the source; a ValueError if the shapes differ."""
        _check_solution(self.instance, x, lam)
        return self.x.backward(x), self.lam.backward(lam)


@dataclass(frozen=True, kw_only=True)
class SymmetryViews(Views[LPT, LPT]):
    """Views with the equivalent LP as the context and its source as the target; `transformed` links the two.

    Each LP of a `SparseLP` has the same weight. If the symmetry moves or adds rows or columns of a `SparseLP`, `items`
    says where the source's are in the context.
    """

    transformed: TransformedLP[LPT]


class Symmetry(ABC):
    """Draw an equivalent LP. It is a view maker; `apply` also returns the solution maps.

    All draws come from `generator`, and the same generator draws the same. With `Seeds`, each LP's draw depends on its
    name and the epoch only. The source is not written to, and unchanged tensors are shared with it.
    """

    def apply(self, instance: LPT, *, generator: Randomness = None) -> TransformedLP[LPT]:
        """Draw an LP that is equivalent to each LP of `instance`.

        Raises:
            TypeError: `instance` is neither a `DenseLP` nor a `SparseLP`.
            ValueError: `generator` is on another device, or has names for another number of LPs. On a CPU also if
                numbers are out of order; elsewhere that check would wait.
        """
        if not isinstance(instance, (DenseLP, SparseLP)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"instance is a {type(instance).__name__}, but a symmetry needs to know A, b, c and the bounds; "
                f"give a DenseLP or a SparseLP (jepa_ssl.lp.instances), and flatten the transformed LP instead."
            )
        if can_read_without_sync(instance.c):
            instance.check_values()
        check_randomness(generator, len(rows(instance).sizes), instance.c.device)
        return self._draw(instance, generator)

    def __call__(self, instance: LPT, *, generator: Randomness = None) -> SymmetryViews[LPT]:
        """The views of a batch; raises as `apply` does."""
        found = self.apply(instance, generator=generator)
        if isinstance(instance, DenseLP):
            return SymmetryViews(context=found.instance, target=instance, transformed=found)
        places = {CONSTRAINT: found.rows, VARIABLE: found.columns}
        items = {kind: place for kind, place in places.items() if place is not None}
        weight = instance.equal_weights()
        return SymmetryViews(context=found.instance, target=instance, weight=weight, items=items, transformed=found)

    @abstractmethod
    def _draw(self, instance: LPT, generator: Randomness) -> TransformedLP[LPT]: ...


class Compose(Symmetry):
    """Apply one symmetry after the other; the maps are chained.

    Raises:
        TypeError: `symmetries` is not a sequence of symmetries.

    >>> import torch
    >>> lp = DenseLP.inequalities(torch.ones(1, 1, 1), torch.ones(1, 1), -torch.ones(1, 1), *2 * [torch.ones(1, 1)])
    >>> from jepa_ssl.contrib.symmetries import ColumnSplit, Compose, RowScale
    >>> transformed = Compose([RowScale(), ColumnSplit()]).apply(lp)
    >>> x, lam = transformed.map_solution(torch.ones(1, 1), torch.ones(1, 1))
    >>> x.sum(), transformed.unmap_solution(x, lam)
    (tensor(1.), (tensor([[1.]]), tensor([[1.]])))
    """

    def __init__(self, symmetries: Sequence[Symmetry]) -> None:
        given: Any = symmetries
        if not (isinstance(given, Sequence) and all(isinstance(each, Symmetry) for each in cast(Sequence[Any], given))):
            raise TypeError(
                f"symmetries is {given!r}, but must be a list of symmetries; write Compose([RowScale(), Negation()])."
            )
        self.symmetries = tuple(symmetries)

    def _draw(self, instance: LPT, generator: Randomness) -> TransformedLP[LPT]:
        found = TransformedLP(instance, instance)
        for symmetry in self.symmetries:
            found = _chained(found, symmetry._draw(found.instance, generator))
        return found


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
    return second[..., : source.size(-1)] if first is None else second.gather(-1, first)


def _check_solution(lp: DenseLP | SparseLP, x: Tensor, lam: Tensor) -> None:
    for name, values, like in (("x", x, lp.c), ("lam", lam, lp.b)):
        if values.shape != like.shape:
            raise ValueError(
                f"{name} is {list(values.shape)}, but this LP has {list(like.shape)}; give map_solution a solution of "
                f"the source and unmap_solution one of the transformed LP."
            )
