"""Symmetries that add rows or columns: each LP gets them at its own end.

The sparse form counts the coefficients it adds, which waits for the device; the dense form never does.
"""

from dataclasses import replace

import torch
from torch import Tensor

from jepa_ssl.checks import non_negative, whole_number
from jepa_ssl.contrib.symmetries.forms import (
    LPT,
    add_bound_rows,
    add_column,
    add_opposites,
    add_row,
    columns,
    rows,
    times,
    transposed_times,
)
from jepa_ssl.contrib.symmetries.scales import log_uniform, scale_factor
from jepa_ssl.contrib.symmetries.transformed import SolutionMap, Symmetry, TransformedLP
from jepa_ssl.lp.instances import DenseLP, SparseLP


def combine_rows(lp: LPT, weight: Tensor, slack: Tensor) -> TransformedLP[LPT]:
    """The redundant row `(A'w)'x <= b'w + slack` for `weight >= 0` (as b) and `slack >= 0` (`[LPs]`); its lam is 0.

    Back, a multiplier that a solver gave it (slack 0) goes to the rows it is made of.
    """
    axis = rows(lp)
    side = axis.total(lp.b * weight) + slack
    image, growth = add_row(lp, transposed_times(lp, weight), side, torch.zeros_like(side, dtype=torch.bool))
    lam = SolutionMap(
        lambda lam: growth.put(lam, torch.zeros_like(side)),
        lambda lam: growth.old(lam) + weight * axis.spread(growth.only_new(lam)),
    )
    return TransformedLP(lp, image, lam=lam, rows=growth.positions)


def duplicate_rows(lp: LPT, which: Tensor) -> TransformedLP[LPT]:
    """The row `which` of each LP (bool, as b, True once at most) once more: both take half of its lam.

    An LP without a row to duplicate gets `0 <= 0`.
    """
    axis = rows(lp)
    image, growth = add_row(
        lp,
        transposed_times(lp, which.to(lp.b.dtype)),
        axis.total(lp.b.masked_fill(~which, 0)),
        axis.total((which & lp.equality).int()) > 0,
    )
    lam = SolutionMap(
        lambda lam: growth.put(torch.where(which, lam / 2, lam), axis.total(lam.masked_fill(~which, 0)) / 2),
        lambda lam: growth.old(lam) + axis.spread(growth.only_new(lam)).masked_fill(~which, 0),
    )
    return TransformedLP(lp, image, lam=lam, rows=growth.positions)


def split_columns(lp: LPT, which: Tensor, share: Tensor) -> TransformedLP[LPT]:
    """`x1 + x2` in the place of `which` x of each LP (bool, as c, True once at most), with `x1 = share x`.

    The finite bounds are shared out alike, the infinite ones stay infinite; `share` (`[LPs]`) is between 0 and 1. An LP
    without a column to split gets an empty one, fixed at 0.
    """
    axis = columns(lp)

    def only(values: Tensor) -> Tensor:
        return axis.total(values.masked_fill(~which, 0))

    def first(values: Tensor) -> Tensor:
        return torch.where(which, values * axis.spread(share), values)

    def second(values: Tensor) -> Tensor:
        whole = only(values)
        return torch.where(whole.isfinite(), whole - share * whole, whole)  # exact on the bounds

    image, growth = add_column(
        replace(lp, lower=first(lp.lower), upper=first(lp.upper)),
        times(lp, which.to(lp.c.dtype)),
        only(lp.c),
        second(lp.lower),
        second(lp.upper),
    )
    x = SolutionMap(
        lambda x: growth.put(first(x), second(x)),
        lambda x: growth.old(x) + axis.spread(growth.only_new(x)).masked_fill(~which, 0),
    )
    return TransformedLP(lp, image, x=x, columns=growth.positions)


def add_idle_variables(lp: LPT, cost: Tensor, upper: Tensor) -> TransformedLP[LPT]:
    """A variable in no row, of `cost >= 0` and between 0 and `upper` (`[LPs]`): 0 is best for it."""
    image, growth = add_column(lp, None, cost, torch.zeros_like(cost), upper)
    x = SolutionMap(lambda x: growth.put(x, torch.zeros_like(cost)), growth.old)
    return TransformedLP(lp, image, x=x, columns=growth.positions)


class RedundantRow(Symmetry):
    """One more row for each LP that says nothing new, a nonnegative combination of its rows with a slack: its lam is 0.

    Args:
        terms: how many rows are drawn, with replacement, and added up; each is scaled by a number in [1/2, 2].
        slack: the right-hand side is larger than the combination's by a number in [0, slack).
    """

    def __init__(self, terms: int = 2, slack: float = 1.0) -> None:
        self.terms = whole_number("terms", terms, 1, "2 adds up two rows.")
        self.slack = non_negative("slack", slack)

    def _draw(self, instance: LPT, generator: torch.Generator | None) -> TransformedLP[LPT]:
        axis, b = rows(instance), instance.b
        weight = torch.zeros_like(b)
        for _ in range(self.terms):
            scale = log_uniform([axis.lps], b, 2.0, generator)
            weight = weight + axis.spread(scale) * axis.pick(_place_in(instance, generator))
        slack = self.slack * torch.rand(axis.lps, generator=generator, dtype=b.dtype, device=b.device)
        return combine_rows(instance, weight, slack)


class DuplicateRow(Symmetry):
    """A row of each LP, drawn at random, twice: both take half of its lam; back, the two are added."""

    def _draw(self, instance: LPT, generator: torch.Generator | None) -> TransformedLP[LPT]:
        return duplicate_rows(instance, rows(instance).pick(_place_in(instance, generator)))


class ColumnSplit(Symmetry):
    """A variable of each LP, drawn at random, as the sum of two with the same column, which share its bounds.

    The first takes a share in [1/4, 3/4) of the bounds and of x.
    """

    def _draw(self, instance: LPT, generator: torch.Generator | None) -> TransformedLP[LPT]:
        axis, c = columns(instance), instance.c
        which = axis.pick(_place_in(instance, generator))
        share = 0.25 + 0.5 * torch.rand(axis.lps, generator=generator, dtype=c.dtype, device=c.device)
        return split_columns(instance, which, share)


class IdleVariable(Symmetry):
    """One more variable for each LP, in no row, that costs something and may stay at its lower bound 0, as it does.

    Args:
        factor: its cost and its upper bound are drawn from [1 / factor, factor], log-uniformly.
    """

    def __init__(self, factor: float = 4.0) -> None:
        self.factor = scale_factor(factor)

    def _draw(self, instance: LPT, generator: torch.Generator | None) -> TransformedLP[LPT]:
        lps = [columns(instance).lps]
        cost, upper = (log_uniform(lps, instance.c, self.factor, generator) for _ in range(2))
        return add_idle_variables(instance, cost, upper)


class EqualitiesAsInequalities(Symmetry):
    """Each `a'x = b` becomes `a'x <= b`, with `-a'x <= -b` at the end: they take the two signs of its lam. No draw."""

    def _draw(self, instance: LPT, generator: torch.Generator | None) -> TransformedLP[LPT]:
        which = instance.equality & instance.mask_m if isinstance(instance, DenseLP) else instance.equality
        opened = replace(instance, equality=torch.zeros_like(which))
        image, growth, row = add_opposites(opened, which)
        axis = rows(instance)

        def back(lam: Tensor) -> Tensor:
            old = growth.old(lam)
            return torch.where(which, old - axis.give(growth.new(lam), row), old)

        lam = SolutionMap(
            lambda lam: growth.put(torch.where(which, lam.clamp(min=0), lam), axis.take(lam, row).neg().clamp(min=0)),
            back,
        )
        return TransformedLP(instance, image, lam=lam, rows=growth.positions)


class BoundsAsRows(Symmetry):
    """Each finite bound becomes a row, lower ones first: it takes its sign of the reduced cost as its lam. No draw.

    After this and `EqualitiesAsInequalities`, `DenseLP.vectors` holds the whole LP.
    """

    def _draw(self, instance: LPT, generator: torch.Generator | None) -> TransformedLP[LPT]:
        free = torch.full_like(instance.c, torch.inf)
        unbounded = replace(instance, lower=-free, upper=free)
        with_lower, lower_growth, of_lower = add_bound_rows(unbounded, instance.lower, -1)
        image, upper_growth, of_upper = add_bound_rows(with_lower, instance.upper, 1)
        axis = columns(instance)

        def forward(lam: Tensor) -> Tensor:
            reduced_cost = instance.c + transposed_times(instance, lam)
            at_lower = axis.take(reduced_cost, of_lower).clamp(min=0)
            at_upper = axis.take(reduced_cost, of_upper).neg().clamp(min=0)
            return upper_growth.put(lower_growth.put(lam, at_lower), at_upper)

        positions = lower_growth.positions
        if positions is not None and upper_growth.positions is not None:
            positions = upper_growth.positions[positions]
        lam = SolutionMap(forward, lambda lam: lower_growth.old(upper_growth.old(lam)))
        return TransformedLP(instance, image, lam=lam, rows=positions)


def _place_in(lp: DenseLP | SparseLP, generator: torch.Generator | None) -> Tensor:
    """A number in [0, 1) for each LP; in float64, so that it does not favour any of a million items."""
    return torch.rand(rows(lp).lps, generator=generator, dtype=torch.float64, device=lp.c.device)
