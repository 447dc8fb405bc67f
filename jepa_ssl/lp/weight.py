"""The weight between primal and dual steps: how far lam has to go, relative to x.

The weight is `max |c_j| / max |b_i|`; PDLP takes Euclidean norms. But a side that never binds, such as a bound of 1e10
or the side of a big-M row, dominates any norm. Then x hardly moves. So the weight is kept within a factor `WIDE` of the
weight of the sides that act:

- If x = 0 violates a row, a variable must go at least `|b_i| / max_j |a_ij|` far.
- A row stops the variables that their costs push towards it, at `b_i / |a_ij|`, or at 0 if x = 0 violates it. Only
  the nearest row or bound stops a variable.

The largest of these is the distance of x, and the largest `|c_j| / max_i |a_ij|` that of lam. A weight that is further
away than `WIDE` is replaced by theirs.
"""

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from jepa_ssl.lp.matrices import Matrix

WIDE = 16.0  # between the ratios of ordinary LPs, at most 11 in those tried, and of big-M models, from 45 on
LEAST_WEIGHT = 1e-6  # the weight stays between this and its inverse, so that steps stay in the range of float32

Pair: TypeAlias = tuple[Tensor, Tensor]
"""Numbers of rows and of columns."""


class PerLP(Protocol):
    """The rows and columns of each LP of a batch."""

    def largest(self, of_rows: Tensor, of_columns: Tensor) -> Tensor:
        """The largest number of each LP, at least 0."""
        ...

    def spread(self, per_lp: Tensor) -> Pair:
        """A number per LP, as it broadcasts to rows and to columns."""
        ...


@dataclass(frozen=True)
class Distances:
    """How far x and lam have to go, by the rows and columns of each LP. No distance is negative."""

    sides: Tensor  # per row: |b_i| / max_j |a_ij|
    costs: Tensor  # per column: |c_j| / max_i |a_ij|
    asked: Tensor  # per row: its side, if x = 0 violates it
    reached: Tensor  # per column: where x_j is stopped, or where its bounds let it begin
    furthest: Tensor  # per column: its furthest finite bound
    unit: Tensor  # per LP: the largest |a_ij|
    plain: Tensor  # per LP: max |c_j| / max |b_i|

    def weight(self, per_lp: PerLP) -> Tensor:
        """The weight of each LP."""
        x, lam = per_lp.largest(self.asked, self.reached), per_lp.largest(torch.zeros_like(self.sides), self.costs)
        acting = torch.where(lam > 0, lam, 1 / self.unit) / x
        far = (self.plain > WIDE * acting) | (self.plain * WIDE < acting)
        return torch.where((x > 0) & far, acting, self.plain).clamp(LEAST_WEIGHT, 1 / LEAST_WEIGHT)


@torch.no_grad()
def distances(
    matrix: Matrix, b: Tensor, c: Tensor, equality: Tensor, lower: Tensor, upper: Tensor, per_lp: PerLP
) -> Distances:
    """Compute the distances.

    Scaling b and the bounds scales those of x, and scaling c those of lam. Scaling A and b divides those of lam, and
    scaling A and c and dividing the bounds divides those of x. None depends on the order of rows and columns, or on the
    sign of a variable or an equality.
    """
    size, pull = matrix.values.abs(), matrix.values * matrix.at_columns(c.sign())
    sides, costs, unit = _relative(matrix, b, c, per_lp)
    violated = equality | (b < 0)
    # How far a row lets a variable go where its cost pushes it; an equality stops it on both sides.
    back = torch.where(matrix.at_rows(equality) & (pull > 0), matrix.at_rows((-b).clamp(min=0)), torch.inf)
    nearest = matrix.column_minima(torch.where(pull < 0, matrix.at_rows(b.clamp(min=0)), back) / size)
    end = torch.where(c < 0, upper, torch.where(c > 0, -lower, torch.inf))  # where its cost pushes x
    reached = torch.maximum(_positive(torch.minimum(nearest, end)), _positive(torch.maximum(lower, -upper)))
    furthest = torch.maximum(_positive(lower.abs()), _positive(upper.abs()))
    plain = _plain(matrix, b, c, furthest, per_lp)
    return Distances(sides, costs, torch.where(violated, sides, 0), reached, furthest, unit, plain)


def _plain(matrix: Matrix, b: Tensor, c: Tensor, furthest: Tensor, per_lp: PerLP) -> Tensor:
    """max |c_j| / max |b_i|, where a maximum of 0 counts as 1.

    Where b is 0, only the bounds give x its scale: in the units of b, the largest product of a coefficient and a bound.
    """
    no_rows, no_columns = torch.zeros_like(b), torch.zeros_like(c)
    reach = _positive(-matrix.row_minima(-(matrix.values * matrix.at_columns(furthest)).abs()))
    largest_b, largest_c = per_lp.largest(b.abs(), no_columns), per_lp.largest(no_rows, c.abs())
    rhs = torch.where(largest_b > 0, largest_b, per_lp.largest(reach, no_columns))
    return torch.where(largest_c > 0, largest_c, 1) / torch.where(rhs > 0, rhs, 1)


def _relative(matrix: Matrix, b: Tensor, c: Tensor, per_lp: PerLP) -> tuple[Tensor, Tensor, Tensor]:
    """`|b_i| / max_j |a_ij|`, `|c_j| / max_i |a_ij|`, and max |a_ij|, which divides where a row has no coefficients."""
    size = -matrix.values.abs()
    of_rows, of_columns = _positive(-matrix.row_minima(size)), _positive(-matrix.column_minima(size))
    largest = per_lp.largest(of_rows, of_columns)
    unit = torch.where(largest > 0, largest, 1)
    of_rows, of_columns = (
        torch.where(own > 0, own, whole) for own, whole in zip((of_rows, of_columns), per_lp.spread(unit), strict=True)
    )
    return _positive(b.abs() / of_rows), _positive(c.abs() / of_columns), unit


def _positive(numbers: Tensor) -> Tensor:
    """The numbers, where one that is negative, infinite or NaN becomes 0."""
    return numbers.nan_to_num(0.0, 0.0, 0.0).clamp(min=0)
