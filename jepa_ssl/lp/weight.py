"""The weight between primal and dual steps: how far lam has to go, relative to x.

PDLP takes the Euclidean norms of c and b. One side that never binds, such as a bound of 1e10 or the side of a big-M
row, dominates any norm, and then x hardly moves. So a side that is more than `WIDE` times as far away as those that act
gives x no scale:

* A row that x = 0 violates asks for `|b_i| / max_j |a_ij|`: one variable must go at least that far.
* A row stops the variables that their costs push towards it, at `b_i / |a_ij|`, or at 0 if x = 0 violates it. Only the
  nearest row or bound stops a variable.

The largest side stands for x, but where it is wide, the largest that acts. The largest `|c_j| / max_i |a_ij|` stands
for lam.
"""

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from jepa_ssl.lp.matrices import Matrix

WIDE = (
    16.0  # of the public LPs tried, those with a larger ratio converge faster without the wide side, the others with it
)
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
    """How far the rows and the columns of a batch of LPs ask x and lam to go. None is negative; 0 asks for nothing."""

    sides: Tensor  # per row: |b_i| / max_j |a_ij|
    costs: Tensor  # per column: |c_j| / max_i |a_ij|
    asked: Tensor  # per row: its side, if x = 0 violates it
    reached: Tensor  # per column: where x_j is stopped, or where its bounds let it begin
    furthest: Tensor  # per column: its furthest finite bound
    unit: Tensor  # per LP: the largest |a_ij|

    def weight(self, per_lp: PerLP) -> Tensor:
        """The weight of each LP. Without any side or cost, 1 / max |a_ij| stands for it."""
        acting, x = per_lp.largest(self.asked, self.reached), per_lp.largest(self.sides, self.furthest)
        x = torch.where((acting > 0) & (x > WIDE * acting), acting, x)
        lam = per_lp.largest(torch.zeros_like(self.sides), self.costs)
        lam, x = (torch.where(part > 0, part, 1 / self.unit) for part in (lam, x))
        return (lam / x).clamp(LEAST_WEIGHT, 1 / LEAST_WEIGHT)


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
    return Distances(sides, costs, torch.where(violated, sides, 0), reached, furthest, unit)


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
