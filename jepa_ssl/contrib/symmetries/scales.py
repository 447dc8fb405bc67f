"""Symmetries that keep every row and column in its place: scales, shifts and signs."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from jepa_ssl.checks import non_negative
from jepa_ssl.contrib.symmetries.forms import LPT, columns, rows, scale_coefficients
from jepa_ssl.contrib.symmetries.forms import times as product
from jepa_ssl.contrib.symmetries.transformed import Symmetry, TransformedLP, plus, times


def scale_rows(lp: LPT, scale: Tensor) -> TransformedLP[LPT]:
    """Row i of A and b times `scale[i] > 0`: x stays, lam is divided. `scale` as b."""
    image = replace(scale_coefficients(lp, row=scale), b=lp.b * scale)
    return TransformedLP(lp, image, lam=times(scale.reciprocal()))


def scale_columns(lp: LPT, scale: Tensor) -> TransformedLP[LPT]:
    """Column j of A and c times `scale[j]`, not 0, its bounds divided: x is divided, lam stays. `scale` as c.

    Where the scale is negative, the bounds change places.
    """
    ends, turned = (lp.lower / scale, lp.upper / scale), scale < 0
    image = replace(
        scale_coefficients(lp, column=scale),
        c=lp.c * scale,
        lower=torch.where(turned, ends[1], ends[0]),
        upper=torch.where(turned, ends[0], ends[1]),
    )
    return TransformedLP(lp, image, x=times(scale.reciprocal()))


def scale_objective(lp: LPT, scale: Tensor) -> TransformedLP[LPT]:
    """c times `scale > 0` (`[LPs]`): x stays, lam and the objective scale."""
    image = replace(lp, c=lp.c * columns(lp).spread(scale))
    return TransformedLP(lp, image, lam=times(rows(lp).spread(scale)), objective=times(scale))


def scale_rhs(lp: LPT, scale: Tensor) -> TransformedLP[LPT]:
    """b and the bounds times `scale > 0` (`[LPs]`): x and the objective scale, lam stays."""
    by_column = columns(lp).spread(scale)
    image = replace(lp, b=lp.b * rows(lp).spread(scale), lower=lp.lower * by_column, upper=lp.upper * by_column)
    return TransformedLP(lp, image, x=times(by_column), objective=times(scale))


def translate(lp: LPT, shift: Tensor) -> TransformedLP[LPT]:
    """`x + shift` in the place of x, `shift` as c: `A shift` is added to b, `c'shift` to the objective; lam stays."""
    image = replace(lp, b=lp.b + product(lp, shift), lower=lp.lower + shift, upper=lp.upper + shift)
    return TransformedLP(lp, image, x=plus(shift), objective=plus(columns(lp).total(lp.c * shift)))


class RowScale(Symmetry):
    """Each row of A and b times a number of its own: x stays, lam is divided by it.

    Args:
        factor: the scales are drawn from [1 / factor, factor], log-uniformly.
    """

    def __init__(self, factor: float = 4.0) -> None:
        self.factor = scale_factor(factor)

    def _draw(self, instance: LPT, generator: torch.Generator | None) -> TransformedLP[LPT]:
        return scale_rows(instance, log_uniform(instance.b.shape, instance.b, self.factor, generator))


class ColumnScale(Symmetry):
    """Each column of A and c times a number of its own, its bounds divided by it: so is x, lam stays.

    Args:
        factor: the scales are drawn from [1 / factor, factor], log-uniformly.
    """

    def __init__(self, factor: float = 4.0) -> None:
        self.factor = scale_factor(factor)

    def _draw(self, instance: LPT, generator: torch.Generator | None) -> TransformedLP[LPT]:
        return scale_columns(instance, log_uniform(instance.c.shape, instance.c, self.factor, generator))


class ObjectiveScale(Symmetry):
    """The c of each LP times a number: x stays, lam and the objective scale.

    Args:
        factor: the scales are drawn from [1 / factor, factor], log-uniformly.
    """

    def __init__(self, factor: float = 4.0) -> None:
        self.factor = scale_factor(factor)

    def _draw(self, instance: LPT, generator: torch.Generator | None) -> TransformedLP[LPT]:
        return scale_objective(instance, log_uniform([rows(instance).lps], instance.c, self.factor, generator))


class RHSScale(Symmetry):
    """The right-hand sides and bounds of each LP times a number: x and the objective scale, lam stays.

    Args:
        factor: the scales are drawn from [1 / factor, factor], log-uniformly.
    """

    def __init__(self, factor: float = 4.0) -> None:
        self.factor = scale_factor(factor)

    def _draw(self, instance: LPT, generator: torch.Generator | None) -> TransformedLP[LPT]:
        return scale_rhs(instance, log_uniform([rows(instance).lps], instance.b, self.factor, generator))


class Translation(Symmetry):
    """Moves the origin: x + s in the place of x, with b + A s and the bounds + s; lam stays.

    Args:
        std: s is normal with mean 0 and this standard deviation.
    """

    def __init__(self, std: float = 1.0) -> None:
        self.std = non_negative("std", std)

    def _draw(self, instance: LPT, generator: torch.Generator | None) -> TransformedLP[LPT]:
        return translate(instance, torch.empty_like(instance.c).normal_(0.0, self.std, generator=generator))


class Negation(Symmetry):
    """-x in the place of x, for each variable by the toss of a coin: its column is negated, its bounds swap."""

    def _draw(self, instance: LPT, generator: torch.Generator | None) -> TransformedLP[LPT]:
        heads = torch.rand(instance.c.shape, generator=generator, device=instance.c.device) < 0.5
        return scale_columns(instance, 1 - 2 * heads.to(instance.c.dtype))


def scale_factor(factor: float) -> float:
    """`factor`, if it is finite and greater than 1."""
    if not (math.isfinite(factor) and factor > 1.0):
        raise ValueError(
            f"factor is {factor}, but must be a finite number greater than 1: scales are drawn from "
            f"[1 / factor, factor]; 4 is usual."
        )
    return float(factor)


def log_uniform(shape: Sequence[int], like: Tensor, factor: float, generator: torch.Generator | None) -> Tensor:
    """Draws from `[1 / factor, factor]`, as many factors below 1 as above."""
    exponent = torch.rand(shape, generator=generator, dtype=like.dtype, device=like.device) * 2 - 1
    return torch.pow(factor, exponent)
