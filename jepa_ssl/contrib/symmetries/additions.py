"""Symmetries that add rows or columns, at the end of each LP.

The sparse form counts the coefficients it adds, which waits for the device. The dense form never waits.
"""

from dataclasses import replace

import torch
from torch import Tensor

from jepa_ssl.checks import non_negative, whole_number
from jepa_ssl.contrib.symmetries.axes import Axis, Growth
from jepa_ssl.contrib.symmetries.draws import log_uniform, uniform_per_lp
from jepa_ssl.contrib.symmetries.forms import (
    LPT,
    add_bound_rows,
    add_column,
    add_opposites,
    add_row,
    columns,
    product,
    rows,
    transposed_product,
)
from jepa_ssl.contrib.symmetries.scales import FactorSymmetry
from jepa_ssl.contrib.symmetries.transformed import SolutionMap, Symmetry, TransformedLP
from jepa_ssl.lp.instances import DenseLP, SparseLP
from jepa_ssl.seeds import Randomness


class RedundantRow(Symmetry):
    """Add a nonnegative combination of its rows, with a slack, to each LP; the new row's lam is 0.

    Back, a multiplier that a solver gave to the new row (where the slack is 0) goes to the rows it is made of.

    Args:
        terms: how many rows are drawn, with replacement, and added up, each scaled by a number in [1/2, 2].
        slack: the right-hand side exceeds that of the combination by a number between 0 and this.
    """

    def __init__(self, terms: int = 2, slack: float = 1.0) -> None:
        self.terms = whole_number("terms", terms, 1, "2 adds up two rows.")
        self.slack = non_negative("slack", slack)

    def _draw(self, instance: LPT, generator: Randomness) -> TransformedLP[LPT]:
        axis, b = rows(instance), instance.b
        weight = torch.zeros_like(b)
        for _ in range(self.terms):
            scale = log_uniform(uniform_per_lp(axis, generator, b.dtype), 2.0)
            weight = weight + axis.spread(scale) * _picked(axis, generator)
        rhs = axis.total(b * weight) + self.slack * uniform_per_lp(axis, generator, b.dtype)
        never = torch.zeros_like(rhs, dtype=torch.bool)
        grown, growth = add_row(instance, transposed_product(instance, weight), rhs, never)
        lam = SolutionMap(
            lambda lam: growth.put(lam, torch.zeros_like(rhs)),
            lambda lam: growth.old(lam) + weight * axis.spread(growth.new(lam).flatten()),
        )
        return TransformedLP(instance, grown, lam=lam, rows=_moved(instance, growth))


class DuplicateRow(Symmetry):
    """Repeat a random row of each LP: both copies take half of its lam, and the way back adds them.

    An LP without rows gets `0 <= 0`.
    """

    def _draw(self, instance: LPT, generator: Randomness) -> TransformedLP[LPT]:
        axis = rows(instance)
        which = _picked(axis, generator)
        grown, growth = add_row(
            instance,
            transposed_product(instance, which.to(instance.b.dtype)),
            axis.total(instance.b.masked_fill(~which, 0)),
            axis.total((which & instance.equality).int()) > 0,
        )
        lam = SolutionMap(
            lambda lam: growth.put(torch.where(which, lam / 2, lam), axis.total(lam.masked_fill(~which, 0)) / 2),
            lambda lam: growth.old(lam) + axis.spread(growth.new(lam).flatten()).masked_fill(~which, 0),
        )
        return TransformedLP(instance, grown, lam=lam, rows=_moved(instance, growth))


class ColumnSplit(Symmetry):
    """Replace a random variable of each LP by the sum of two with the same column, which share its bounds.

    The first takes a share between 1/4 and 3/4 of x and of the finite bounds; infinite bounds stay infinite. An LP
    without variables gets one without coefficients, fixed at 0.
    """

    def _draw(self, instance: LPT, generator: Randomness) -> TransformedLP[LPT]:
        axis, c = columns(instance), instance.c
        which = _picked(axis, generator)
        share = 0.25 + 0.5 * uniform_per_lp(axis, generator, c.dtype)

        def only(values: Tensor) -> Tensor:
            return axis.total(values.masked_fill(~which, 0))

        def first(values: Tensor) -> Tensor:
            return torch.where(which, values * axis.spread(share), values)

        def second(values: Tensor) -> Tensor:
            whole = only(values)
            return torch.where(whole.isfinite(), whole - share * whole, whole)  # exact on the bounds

        halved = replace(instance, lower=first(instance.lower), upper=first(instance.upper))
        bounds = second(instance.lower), second(instance.upper)
        grown, growth = add_column(halved, product(instance, which.to(c.dtype)), only(c), *bounds)
        x = SolutionMap(
            lambda x: growth.put(first(x), second(x)),
            lambda x: growth.old(x) + axis.spread(growth.new(x).flatten()).masked_fill(~which, 0),
        )
        return TransformedLP(instance, grown, x=x, columns=_moved(instance, growth))


class IdleVariable(FactorSymmetry):
    """Add a variable to each LP that is in no row, has a cost, and stays at its lower bound 0.

    Its cost and its upper bound are drawn from [1 / factor, factor].
    """

    def _draw(self, instance: LPT, generator: Randomness) -> TransformedLP[LPT]:
        axis, dtype = columns(instance), instance.c.dtype
        cost, upper = (log_uniform(uniform_per_lp(axis, generator, dtype), self.factor) for _ in range(2))
        zero = torch.zeros_like(cost)
        grown, growth = add_column(instance, None, cost, zero, upper)
        x = SolutionMap(lambda x: growth.put(x, zero), growth.old)
        return TransformedLP(instance, grown, x=x, columns=_moved(instance, growth))


class EqualitiesAsInequalities(Symmetry):
    """Turn each `a'x = b` into `a'x <= b` and `-a'x <= -b`, which take the two signs of lam. Draws nothing."""

    def _draw(self, instance: LPT, generator: Randomness) -> TransformedLP[LPT]:
        which = instance.equality & instance.mask_m if isinstance(instance, DenseLP) else instance.equality
        grown, growth, row = add_opposites(replace(instance, equality=torch.zeros_like(which)), which)
        axis = rows(instance)

        def back(lam: Tensor) -> Tensor:
            old = growth.old(lam)
            return torch.where(which, old - axis.give(growth.new(lam), row), old)

        lam = SolutionMap(
            lambda lam: growth.put(torch.where(which, lam.clamp(min=0), lam), axis.take(lam, row).neg().clamp(min=0)),
            back,
        )
        return TransformedLP(instance, grown, lam=lam, rows=_moved(instance, growth))


class BoundsAsRows(Symmetry):
    """Turn each finite bound into a row, lower bounds first; lam is its part of the reduced cost. Draws nothing.

    After this and `EqualitiesAsInequalities`, `DenseLP.vectors` holds the whole LP.
    """

    def _draw(self, instance: LPT, generator: Randomness) -> TransformedLP[LPT]:
        free = torch.full_like(instance.c, torch.inf)
        unbounded = replace(instance, lower=-free, upper=free)
        grown, growth, column, sign = add_bound_rows(unbounded, instance.lower, instance.upper)
        axis = columns(instance)

        def forward(lam: Tensor) -> Tensor:
            reduced_cost = instance.c + transposed_product(instance, lam)
            return growth.put(lam, (-sign * axis.take(reduced_cost, column)).clamp(min=0))

        return TransformedLP(instance, grown, lam=SolutionMap(forward, growth.old), rows=_moved(instance, growth))


def _moved(lp: DenseLP | SparseLP, growth: Growth) -> Tensor | None:
    """Where the old items are; None on a dense axis, where they keep their slots."""
    return None if isinstance(lp, DenseLP) else growth.positions


def _picked(axis: Axis, generator: Randomness) -> Tensor:
    """Mark a random item of each LP; drawn in float64, so that a million items are equally likely."""
    return axis.pick(uniform_per_lp(axis, generator, torch.float64))
