"""The primal-dual hybrid gradient method (PDHG) on a batch of LPs, for a fixed number of steps.

One step is

    x'   = project(x - tau (c + A'lam), [lower, upper])
    lam' = project(lam + sigma (A(2x' - x) - b)), at least 0 where the row is an inequality

with `tau_j = step / (weight * sum_i |a_ij|)` and `sigma_i = step * weight / sum_j |a_ij|`.

Sources:

- The method: Chambolle and Pock, "A first-order primal-dual algorithm for convex problems with applications to
  imaging", JMIV 40, 2011.
- The diagonal steps: Pock and Chambolle, "Diagonal preconditioning for first order primal-dual algorithms in convex
  optimization", ICCV 2011, at alpha = 1.
- The weight and the restarts: Applegate et al., "Practical large-scale linear programming using primal-dual hybrid
  gradient" (PDLP), NeurIPS 2021.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jepa_ssl.lp.instances import DenseLP, SparseLP
from jepa_ssl.lp.matrices import Blocks, Edges, Matrix, Product
from jepa_ssl.lp.weight import Distances, Pair, distances
from jepa_ssl.segments import segment_of

STEP = 0.99  # below 1 the method converges whatever A is

Point = tuple[Tensor, Tensor]
"""x and lam, each in the shape of its LPs' c and b."""


@dataclass(frozen=True)
class Problem:
    """A batch of LPs in the form of the iteration: vectors of one shape for rows, of another for columns.

    `floor` and `ceiling` bound the multipliers: 0 or -inf, and inf. `row_weight` and `column_weight` hold the weight
    between primal and dual steps of each row's or column's LP, in a shape that broadcasts.
    """

    matrix: Matrix
    b: Tensor
    c: Tensor
    floor: Tensor
    ceiling: Tensor
    lower: Tensor
    upper: Tensor
    row_weight: Tensor
    column_weight: Tensor
    distances: Distances

    @classmethod
    def of(cls, lp: SparseLP | DenseLP) -> "Problem":
        """The LPs in float32, or in float64 if they are. On padding x and lam stay 0."""
        return _of_dense(lp) if isinstance(lp, DenseLP) else _of_sparse(lp)

    def projected(self, point: Point) -> Point:
        """The nearest point within the bounds."""
        x, lam = point
        return x.clamp(self.lower, self.upper), lam.clamp(self.floor, self.ceiling)

    def zero(self) -> Point:
        """Zeros, projected."""
        return self.projected((torch.zeros_like(self.c), torch.zeros_like(self.b)))


@torch.no_grad()
def iterate(problem: Problem, steps: Sequence[int], start: Point, *, restart_every: int | None = None) -> list[Point]:
    """The points reached after each of `steps`, in one run.

    Args:
        steps: rising numbers of steps.
        start: a point within the bounds.
        restart_every: after this many steps, continue from the mean of the points since the last restart.
    """
    add_descent, tau_c, add_ascent, sigma_b = _scaled_products(problem)
    (x, lam), x_next = (part.clone() for part in start), torch.empty_like(start[0])
    x_sum, lam_sum = torch.zeros_like(x), torch.zeros_like(lam)
    reached: list[Point] = []
    for step in range(1, steps[-1] + 1):
        torch.sub(x, tau_c, out=x_next)
        add_descent(x_next, lam)
        torch.clamp(x_next, problem.lower, problem.upper, out=x_next)
        torch.lerp(x, x_next, 2.0, out=x)  # 2x' - x; the old x is not needed any more
        lam.sub_(sigma_b)
        add_ascent(lam, x)
        torch.maximum(lam, problem.floor, out=lam)  # on padding lam does not move, so the ceiling holds
        x, x_next = x_next, x
        if step in steps:
            reached.append((x.clone(), lam.clone()))
        if restart_every is not None:
            for part, part_sum in ((x, x_sum), (lam, lam_sum)):
                part_sum.add_(part)
                if step % restart_every == 0:
                    torch.div(part_sum, restart_every, out=part)
                    part_sum.zero_()
    return reached


def _scaled_products(problem: Problem) -> tuple[Product, Tensor, Product, Tensor]:
    """`-tau A'`, `tau c`, `sigma A` and `sigma b`, computed once for all steps."""
    matrix, transposed = problem.matrix, problem.matrix.transposed()
    row_sums, column_sums = (part.row_sums(part.values.abs()) for part in (matrix, transposed))
    # Any step is right for an empty row or column; theirs is that of a sum of 1.
    tau = STEP / (problem.column_weight * torch.where(column_sums > 0, column_sums, 1))
    sigma = STEP * problem.row_weight / torch.where(row_sums > 0, row_sums, 1)
    return transposed.product(-tau), tau * problem.c, matrix.product(sigma), sigma * problem.b


@torch.no_grad()
def residuals(problem: Problem, point: Point) -> Point:
    """The reduced costs `c + A'lam` and the slacks `b - Ax`."""
    x, lam = point
    reduced_cost, slack = problem.c.clone(), problem.b.clone()
    problem.matrix.transposed().product(torch.ones_like(x))(reduced_cost, lam)
    problem.matrix.product(-torch.ones_like(lam))(slack, x)
    return reduced_cost, slack


def _of_sparse(lp: SparseLP) -> Problem:
    coefficient, b, c, lower, upper = _promoted(lp.coefficient, lp.b, lp.c, lp.lower, lp.upper)
    row, column = lp.edge_index.unbind(0)
    matrix = Edges(row, column, coefficient, len(b), len(c))
    per_lp = _Ragged(segment_of(lp.constraint_offsets, len(b)), segment_of(lp.variable_offsets, len(c)), lp.num_graphs)
    found = distances(matrix, b, c, lp.equality, lower, upper, per_lp)
    ceiling = torch.full_like(b, torch.inf)
    weights = per_lp.spread(found.weight(per_lp))
    return Problem(matrix, b, c, _floor(lp.equality, b), ceiling, lower, upper, *weights, found)


def _of_dense(lp: DenseLP) -> Problem:
    blocks, b, c, lower, upper = _promoted(lp.A, lp.b, lp.c, lp.lower, lp.upper)
    matrix = Blocks(torch.where(lp.mask_m[:, :, None] & lp.mask_n[:, None, :], blocks, 0))
    b = torch.where(lp.mask_m, b, 0)
    c, lower, upper = (torch.where(lp.mask_n, part, 0) for part in (c, lower, upper))
    floor = torch.where(lp.mask_m, _floor(lp.equality, b), 0)
    ceiling = torch.where(lp.mask_m, torch.inf, torch.zeros_like(b))
    per_lp = _Padded()
    found = distances(matrix, b, c, lp.equality & lp.mask_m, lower, upper, per_lp)
    weights = per_lp.spread(found.weight(per_lp))
    return Problem(matrix, b, c, floor, ceiling, lower, upper, *weights, found)


class _Padded:
    """Rows and columns as `[batch, m]` and `[batch, n]`."""

    def largest(self, of_rows: Tensor, of_columns: Tensor) -> Tensor:
        # The column of zeros gives an LP without rows or columns a maximum too.
        return torch.nn.functional.pad(torch.cat((of_rows, of_columns), 1), (0, 1)).amax(1)

    def spread(self, per_lp: Tensor) -> Pair:
        return per_lp.unsqueeze(1), per_lp.unsqueeze(1)


@dataclass(frozen=True)
class _Ragged:
    """Rows and columns one LP after the other."""

    of_row: Tensor  # [M], the LP of each row
    of_column: Tensor  # [N]
    number: int

    def largest(self, of_rows: Tensor, of_columns: Tensor) -> Tensor:
        largest = of_rows.new_zeros(self.number).scatter_reduce_(0, self.of_row, of_rows, "amax")
        return largest.scatter_reduce_(0, self.of_column, of_columns, "amax")

    def spread(self, per_lp: Tensor) -> Pair:
        return per_lp[self.of_row], per_lp[self.of_column]


def _promoted(*parts: Tensor) -> list[Tensor]:
    """All parts in one type, float32 at least."""
    dtype = torch.float32
    for part in parts:
        dtype = torch.promote_types(dtype, part.dtype)
    return [part.to(dtype) for part in parts]


def _floor(equality: Tensor, b: Tensor) -> Tensor:
    return torch.where(equality, -torch.inf, torch.zeros_like(b))
