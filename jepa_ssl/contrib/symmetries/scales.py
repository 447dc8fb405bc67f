"""Symmetries that keep every row and column in its place: scales, shifts and signs."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from jepa_ssl.checks import non_negative
from jepa_ssl.contrib.symmetries.draws import log_uniform, normal_per_item, uniform_per_item, uniform_per_lp
from jepa_ssl.contrib.symmetries.forms import LPT, columns, product, rows, scale_coefficients
from jepa_ssl.contrib.symmetries.transformed import Symmetry, TransformedLP, plus, times
from jepa_ssl.seeds import Randomness


class FactorSymmetry(Symmetry):
    """A symmetry whose scales are drawn from `[1 / factor, factor]`, with a uniform logarithm.

    Args:
        factor: finite and greater than 1; 4 is usual.
    """

    def __init__(self, factor: float = 4.0) -> None:
        if not (math.isfinite(factor) and factor > 1.0):
            raise ValueError(
                f"factor is {factor}, but must be a finite number greater than 1: scales are drawn from "
                f"[1 / factor, factor]; 4 is usual."
            )
        self.factor = float(factor)


class RowScale(FactorSymmetry):
    """Multiply each row of A and b by a separate number: x stays, lam is divided by it."""

    def _draw(self, instance: LPT, generator: Randomness) -> TransformedLP[LPT]:
        scale = log_uniform(uniform_per_item(rows(instance), generator, instance.b.dtype), self.factor)
        scaled = replace(scale_coefficients(instance, row=scale), b=instance.b * scale)
        return TransformedLP(instance, scaled, lam=times(scale.reciprocal()))


class ColumnScale(FactorSymmetry):
    """Multiply each column of A and c by a separate number: x and its bounds are divided by it, lam stays."""

    def _draw(self, instance: LPT, generator: Randomness) -> TransformedLP[LPT]:
        uniform = uniform_per_item(columns(instance), generator, instance.c.dtype)
        return _scale_columns(instance, log_uniform(uniform, self.factor))


class Negation(Symmetry):
    """Replace each variable x by -x with probability 1/2: its column changes sign, its bounds change places."""

    def _draw(self, instance: LPT, generator: Randomness) -> TransformedLP[LPT]:
        negated = uniform_per_item(columns(instance), generator, torch.float32) < 0.5
        return _scale_columns(instance, 1 - 2 * negated.to(instance.c.dtype))


def _scale_columns(lp: LPT, scale: Tensor) -> TransformedLP[LPT]:
    ends, turned = (lp.lower / scale, lp.upper / scale), scale < 0
    scaled = replace(
        scale_coefficients(lp, column=scale),
        c=lp.c * scale,
        lower=torch.where(turned, ends[1], ends[0]),
        upper=torch.where(turned, ends[0], ends[1]),
    )
    return TransformedLP(lp, scaled, x=times(scale.reciprocal()))


class ObjectiveScale(FactorSymmetry):
    """Multiply the c of each LP by a number: x stays, lam and the objective scale."""

    def _draw(self, instance: LPT, generator: Randomness) -> TransformedLP[LPT]:
        row = rows(instance)
        scale = log_uniform(uniform_per_lp(row, generator, instance.c.dtype), self.factor)
        scaled = replace(instance, c=instance.c * columns(instance).spread(scale))
        return TransformedLP(instance, scaled, lam=times(row.spread(scale)), objective=times(scale))


class RHSScale(FactorSymmetry):
    """Multiply the right-hand sides and bounds of each LP by a number: x and the objective scale, lam stays."""

    def _draw(self, instance: LPT, generator: Randomness) -> TransformedLP[LPT]:
        row = rows(instance)
        scale = log_uniform(uniform_per_lp(row, generator, instance.b.dtype), self.factor)
        by_column = columns(instance).spread(scale)
        bounds = {"lower": instance.lower * by_column, "upper": instance.upper * by_column}
        scaled = replace(instance, b=instance.b * row.spread(scale), **bounds)
        return TransformedLP(instance, scaled, x=times(by_column), objective=times(scale))


class Translation(Symmetry):
    """Move the origin: x becomes x + s, b becomes b + A s, the bounds gain s and the objective c's; lam stays.

    Args:
        std: standard deviation of s, which is normal with mean 0.
    """

    def __init__(self, std: float = 1.0) -> None:
        self.std = non_negative("std", std)

    def _draw(self, instance: LPT, generator: Randomness) -> TransformedLP[LPT]:
        column = columns(instance)
        shift = self.std * normal_per_item(column, generator, instance.c)
        bounds = {"lower": instance.lower + shift, "upper": instance.upper + shift}
        moved = replace(instance, b=instance.b + product(instance, shift), **bounds)
        return TransformedLP(instance, moved, x=plus(shift), objective=plus(column.total(instance.c * shift)))
