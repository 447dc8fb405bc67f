"""The primal-dual hybrid gradient method (PDHG) on a batch of LPs at once, for a fixed number of steps.

Chambolle and Pock, "A first-order primal-dual algorithm for convex problems with applications to imaging", JMIV 40,
2011; diagonal steps of Pock and Chambolle, "Diagonal preconditioning for first order primal-dual algorithms in convex
optimization", ICCV 2011, at alpha = 1; the weight between primal and dual steps, averages, restarts and the update of
the weight at a restart from Applegate et al., "Practical large-scale linear programming using primal-dual hybrid
gradient" (PDLP), NeurIPS 2021. One step is

    x'   = project(x - tau (c + A'lam), [lower, upper])
    lam' = project(lam + sigma (A(2x' - x) - b)), at least 0 where the row is an inequality

with `tau_j = step / (weight * sum_i |a_ij|)` and `sigma_i = step * weight / sum_j |a_ij|`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from jepa_ssl.lp.axes import DenseAxis, SparseAxis
from jepa_ssl.lp.instances import DenseLP, SparseLP

STEP = 0.99  # below 1 the method converges whatever A is
LEAST_WEIGHT = 1e-6  # the weight stays between this and its inverse, lest a step leave the range of float32

Point = tuple[Tensor, Tensor]
"""x and lam, each in the shape of its LPs' c and b."""

Product = Callable[[Tensor, Tensor], None]
"""`product(out, v)` adds a fixed matrix times v to out, in place."""


class Matrix(Protocol):
    """The A of all LPs of a batch."""

    def absolute_sums(self) -> tuple[Tensor, Tensor]:
        """The sums of |a_ij| over each row, and over each column."""
        ...

    def product(self, factor: Tensor) -> Product:
        """`diag(factor) A` times a vector; one factor a row."""
        ...

    def transposed_product(self, factor: Tensor) -> Product:
        """`diag(factor) A'` times a vector; one factor a column."""
        ...


@dataclass(frozen=True)
class Problem:
    """A batch of LPs as the iteration takes them: vectors of one shape for rows, of another for columns.

    `floor` and `ceiling` are the least and the greatest value of each multiplier: 0 or -inf, and inf. `weight` is the
    one between primal and dual steps that each LP begins with, `[LPs]`.
    """

    matrix: Matrix
    b: Tensor
    c: Tensor
    floor: Tensor
    ceiling: Tensor
    lower: Tensor
    upper: Tensor
    rows: DenseAxis | SparseAxis
    columns: DenseAxis | SparseAxis
    weight: Tensor

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
def iterate(
    problem: Problem,
    steps: Sequence[int],
    start: Point,
    *,
    average: bool = False,
    restart_every: int | None = None,
    rebalance: bool = False,
) -> list[Point]:
    """The points reached after each of `steps`, which rise, in one run from `start`, which is within the bounds.

    Args:
        average: return the mean of the iterates since the last restart, not the last iterate.
        restart_every: after so many steps, go on from the mean of the iterates since the last restart.
        rebalance: at each restart, move the weight towards how much further lam came than x since the last one.
    """
    row_sums, column_sums = problem.matrix.absolute_sums()
    weight, (x_start, lam_start) = problem.weight, start
    add_descent, tau_c, add_ascent, sigma_b = _steps(problem, weight, row_sums, column_sums)
    (x, lam), x_next = (part.clone() for part in start), torch.empty_like(start[0])
    averaging = average or restart_every is not None
    x_sum, lam_sum, since = torch.zeros_like(x), torch.zeros_like(lam), 0
    reached: list[Point] = []
    for step in range(1, steps[-1] + 1):
        torch.sub(x, tau_c, out=x_next)
        add_descent(x_next, lam)
        torch.clamp(x_next, problem.lower, problem.upper, out=x_next)
        torch.lerp(x, x_next, 2.0, out=x)  # 2x' - x, where the old x is needed no more
        lam.sub_(sigma_b)
        add_ascent(lam, x)
        torch.maximum(lam, problem.floor, out=lam)  # on padding lam does not move, so the ceiling holds
        x, x_next = x_next, x
        if averaging:
            x_sum.add_(x)
            lam_sum.add_(lam)
            since += 1
        if step in steps:
            reached.append((x_sum / since, lam_sum / since) if average else (x.clone(), lam.clone()))
        if since == restart_every:
            torch.div(x_sum, since, out=x)
            torch.div(lam_sum, since, out=lam)
            x_sum.zero_()
            lam_sum.zero_()
            since = 0
            if rebalance:
                x_way, x_moved = _squared_way(problem.columns, column_sums, x_start, x)
                lam_way, lam_moved = _squared_way(problem.rows, row_sums, lam_start, lam)
                weight = torch.where(x_moved & lam_moved, _balanced(weight, lam_way / x_way), weight)
                add_descent, tau_c, add_ascent, sigma_b = _steps(problem, weight, row_sums, column_sums)
                x_start, lam_start = x.clone(), lam.clone()
    return reached


def _steps(
    problem: Problem, weight: Tensor, row_sums: Tensor, column_sums: Tensor
) -> tuple[Product, Tensor, Product, Tensor]:
    """A' and c times each column's step, A and b times each row's: once, and not each iterate."""
    # An empty row or column steps as one whose sum is 1: any step is right for it.
    tau = STEP / (problem.columns.spread(weight) * torch.where(column_sums > 0, column_sums, 1))
    sigma = STEP * problem.rows.spread(weight) / torch.where(row_sums > 0, row_sums, 1)
    descent, ascent = problem.matrix.transposed_product(-tau), problem.matrix.product(sigma)
    return descent, tau * problem.c, ascent, sigma * problem.b


@torch.no_grad()
def residuals(problem: Problem, point: Point) -> Point:
    """`c + A'lam`, the reduced costs, and `b - Ax`, the slacks."""
    x, lam = point
    reduced_cost, slack = problem.c.clone(), problem.b.clone()
    problem.matrix.transposed_product(torch.ones_like(x))(reduced_cost, lam)
    problem.matrix.product(-torch.ones_like(lam))(slack, x)
    return reduced_cost, slack


@dataclass(frozen=True)
class _Edges:
    """A by its nonzero coefficients.

    Sums run over the edges in their order, so that on a CPU an LP's numbers do not depend on its neighbours in the
    batch, bit for bit. A CSR product of MKL is as fast at some 2,000 edges, and promises no order.
    """

    row: Tensor  # [E]
    column: Tensor  # [E]
    coefficient: Tensor  # [E]
    rows: int
    columns: int

    def absolute_sums(self) -> tuple[Tensor, Tensor]:
        size = self.coefficient.abs()
        row_sums, column_sums = size.new_zeros(self.rows), size.new_zeros(self.columns)
        return row_sums.index_add_(0, self.row, size), column_sums.index_add_(0, self.column, size)

    def product(self, factor: Tensor) -> Product:
        return _along_edges(self.column, self.row, factor[self.row] * self.coefficient)

    def transposed_product(self, factor: Tensor) -> Product:
        return _along_edges(self.row, self.column, factor[self.column] * self.coefficient)


def _along_edges(source: Tensor, target: Tensor, value: Tensor) -> Product:
    message = torch.empty_like(value)

    def add(out: Tensor, v: Tensor) -> None:
        torch.index_select(v, 0, source, out=message)
        message.mul_(value)
        out.index_add_(0, target, message)

    return add


@dataclass(frozen=True)
class _Blocks:
    """A as one dense block an LP, `[batch, m, n]`.

    A product and a sum, for `bmm` adds in another order when the batch has another size, and is slower than this in
    its column form.
    """

    A: Tensor

    def absolute_sums(self) -> tuple[Tensor, Tensor]:
        size = self.A.abs()
        return size.sum(2), size.sum(1)

    def product(self, factor: Tensor) -> Product:
        return _block_by_block((factor[:, :, None] * self.A).mT.contiguous())

    def transposed_product(self, factor: Tensor) -> Product:
        return _block_by_block(factor[:, None, :] * self.A)


def _block_by_block(matrix: Tensor) -> Product:
    """`matrix` is `[batch, entries of v, entries of out]`."""
    message, received = torch.empty_like(matrix), matrix.new_empty(len(matrix), matrix.size(2))

    def add(out: Tensor, v: Tensor) -> None:
        torch.mul(matrix, v.unsqueeze(2), out=message)
        torch.sum(message, 1, out=received)
        out.add_(received)

    return add


def _of_sparse(lp: SparseLP) -> Problem:
    coefficient, b, c, lower, upper = _promoted(lp.coefficient, lp.b, lp.c, lp.lower, lp.upper)
    row, column = lp.edge_index.unbind(0)
    of_rows, of_columns = SparseAxis(lp.constraint_offsets, len(b)), SparseAxis(lp.variable_offsets, len(c))
    reach = coefficient * _furthest(lower, upper)[column]
    owners = ((c, of_columns.owner), (b, of_rows.owner), (reach, of_rows.owner[row]))
    weight = _weight(*(_largest(values, owner, lp.num_graphs) for values, owner in owners))
    matrix = _Edges(row, column, coefficient, len(b), len(c))
    ceiling = torch.full_like(b, torch.inf)
    return Problem(matrix, b, c, _floor(lp.equality, b), ceiling, lower, upper, of_rows, of_columns, weight)


def _of_dense(lp: DenseLP) -> Problem:
    blocks, b, c, lower, upper = _promoted(lp.A, lp.b, lp.c, lp.lower, lp.upper)
    blocks = torch.where(lp.mask_m[:, :, None] & lp.mask_n[:, None, :], blocks, 0)
    b = torch.where(lp.mask_m, b, 0)
    c, lower, upper = (torch.where(lp.mask_n, part, 0) for part in (c, lower, upper))
    floor = torch.where(lp.mask_m, _floor(lp.equality, b), 0)
    ceiling = torch.where(lp.mask_m, torch.inf, torch.zeros_like(b))
    # A column of zeros takes the maximum over an empty row or column, too.
    reach = blocks * _furthest(lower, upper)[:, None, :]
    largest = (torch.nn.functional.pad(part.abs(), (0, 1)).amax(1) for part in (c, b, reach.flatten(1)))
    weight = _weight(*largest)
    axes = DenseAxis(lp.mask_m), DenseAxis(lp.mask_n)
    return Problem(_Blocks(blocks), b, c, floor, ceiling, lower, upper, *axes, weight)


def _promoted(*parts: Tensor) -> list[Tensor]:
    """All in one type, float32 at least."""
    dtype = torch.float32
    for part in parts:
        dtype = torch.promote_types(dtype, part.dtype)
    return [part.to(dtype) for part in parts]


def _floor(equality: Tensor, b: Tensor) -> Tensor:
    return torch.where(equality, -torch.inf, torch.zeros_like(b))


def _largest(values: Tensor, owner: Tensor, graphs: int) -> Tensor:
    return values.new_zeros(graphs).scatter_reduce_(0, owner, values.abs(), "amax")


def _furthest(lower: Tensor, upper: Tensor) -> Tensor:
    """How far from 0 the finite bounds of each variable are; 0 without any."""
    return torch.maximum(*(torch.where(bound.isfinite(), bound.abs(), 0) for bound in (lower, upper)))


def _weight(largest_c: Tensor, largest_b: Tensor, reach: Tensor) -> Tensor:
    """max|c| / max|b| of each LP, where a maximum of 0 counts as 1.

    With it, scaling c scales lam and nothing else, and scaling b (and the bounds) scales x and nothing else. Where b is
    0, the bounds alone give x its scale; `reach`, the largest coefficient times bound, says it in the units of b, so
    that the weight follows a scale of A as it does with b. PDLP takes the Euclidean norms; maxima do not overflow, and
    do not depend on how often a row is repeated.
    """
    side = torch.where(largest_b > 0, largest_b, reach)
    weight = torch.where(largest_c > 0, largest_c, 1) / torch.where(side > 0, side, 1)
    return weight.clamp(LEAST_WEIGHT, 1 / LEAST_WEIGHT)


def _squared_way(axis: DenseAxis | SparseAxis, sums: Tensor, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """How far each LP's x, or lam, came, and whether that is more than rounding: one that has arrived goes nowhere.

    In the norm of the diagonal steps, where PDLP's is Euclidean: with it the weight keeps what `_weight` promises.
    """
    way, size = (axis.total(sums * part.square()) for part in (end - start, end))
    return way, way > torch.finfo(way.dtype).eps * size


def _balanced(weight: Tensor, squared_ratio: Tensor) -> Tensor:
    """Halfway, on a logarithmic scale, between the weight and how many times further lam came than x."""
    return (weight * squared_ratio.sqrt()).sqrt().clamp(LEAST_WEIGHT, 1 / LEAST_WEIGHT)
