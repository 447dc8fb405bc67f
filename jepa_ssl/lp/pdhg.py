"""The primal-dual hybrid gradient method (PDHG) on a batch of LPs, for a fixed number of steps.

One step is

    x'   = project(x - tau (c + A'lam), [lower, upper])
    lam' = project(lam + sigma (A(2x' - x) - b)), at least 0 where the row is an inequality

with `tau_j = step / (weight * sum_i |a_ij|)` and `sigma_i = step * weight / sum_j |a_ij|`.

Sources: Chambolle and Pock, "A first-order primal-dual algorithm for convex problems with applications to imaging",
JMIV 40, 2011, for the method; Pock and Chambolle, "Diagonal preconditioning for first order primal-dual algorithms in
convex optimization", ICCV 2011, at alpha = 1, for the diagonal steps; Applegate et al., "Practical large-scale linear
programming using primal-dual hybrid gradient" (PDLP), NeurIPS 2021, for the weight and the restarts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jepa_ssl.lp.instances import DenseLP, SparseLP
from jepa_ssl.segments import segment_of

STEP = 0.99  # below 1 the method converges whatever A is
LEAST_WEIGHT = 1e-6  # the weight stays between this and its inverse, so that steps stay in the range of float32

Point = tuple[Tensor, Tensor]
"""x and lam, each in the shape of its LPs' c and b."""

Product = Callable[[Tensor, Tensor], None]
"""`product(out, v)` adds a fixed matrix times v to out, in place."""


@dataclass(frozen=True)
class Problem:
    """A batch of LPs as the iteration takes it: vectors of one shape for rows, of another for columns.

    `floor` and `ceiling` bound the multipliers: 0 or -inf, and inf. `row_weight` and `column_weight` are the weight
    between primal and dual steps of the LP that each row or column belongs to, in a shape that broadcasts.
    """

    matrix: "_Edges | _Blocks"
    b: Tensor
    c: Tensor
    floor: Tensor
    ceiling: Tensor
    lower: Tensor
    upper: Tensor
    row_weight: Tensor
    column_weight: Tensor

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
    row_sums, column_sums = matrix.absolute_row_sums(), transposed.absolute_row_sums()
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


@dataclass(frozen=True)
class _Edges:
    """A by its nonzero coefficients.

    Sums run over the edges in their order. So on a CPU an LP's numbers do not depend on its neighbours in the batch,
    bit for bit. A CSR product of MKL is as fast at some 2,000 edges, but promises no order.
    """

    row: Tensor  # [E]
    column: Tensor  # [E]
    coefficient: Tensor  # [E]
    rows: int
    columns: int

    def transposed(self) -> "_Edges":
        return _Edges(self.column, self.row, self.coefficient, self.columns, self.rows)

    def absolute_row_sums(self) -> Tensor:
        size = self.coefficient.abs()
        return size.new_zeros(self.rows).index_add_(0, self.row, size)

    def product(self, factor: Tensor) -> Product:
        """Multiplication by `diag(factor) A`; one factor per row."""
        value = factor[self.row] * self.coefficient
        message = torch.empty_like(value)

        def add(out: Tensor, v: Tensor) -> None:
            torch.index_select(v, 0, self.column, out=message)
            message.mul_(value)
            out.index_add_(0, self.row, message)

        return add


@dataclass(frozen=True)
class _Blocks:
    """A as one dense block per LP, `[batch, m, n]`.

    Uses a product and a sum, because `bmm` adds in another order when the batch has another size. In its column form
    `bmm` is also slower.
    """

    A: Tensor

    def transposed(self) -> "_Blocks":
        return _Blocks(self.A.mT)

    def absolute_row_sums(self) -> Tensor:
        return self.A.abs().sum(2)

    def product(self, factor: Tensor) -> Product:
        """Multiplication by `diag(factor) A`; one factor per row."""
        matrix = (factor[:, :, None] * self.A).mT.contiguous()  # [batch, n, m]
        message, received = torch.empty_like(matrix), torch.empty_like(factor)

        def add(out: Tensor, v: Tensor) -> None:
            torch.mul(matrix, v.unsqueeze(2), out=message)
            torch.sum(message, 1, out=received)
            out.add_(received)

        return add


def _of_sparse(lp: SparseLP) -> Problem:
    coefficient, b, c, lower, upper = _promoted(lp.coefficient, lp.b, lp.c, lp.lower, lp.upper)
    row, column = lp.edge_index.unbind(0)
    lp_of_row, lp_of_column = segment_of(lp.constraint_offsets, len(b)), segment_of(lp.variable_offsets, len(c))

    def largest(values: Tensor, owner: Tensor) -> Tensor:
        return values.new_zeros(lp.num_graphs).scatter_reduce_(0, owner, values.abs(), "amax")

    reach = coefficient * _furthest(lower, upper)[column]
    weight = _weight(largest(c, lp_of_column), largest(b, lp_of_row), largest(reach, lp_of_row[row]))
    matrix = _Edges(row, column, coefficient, len(b), len(c))
    ceiling = torch.full_like(b, torch.inf)
    weights = weight[lp_of_row], weight[lp_of_column]
    return Problem(matrix, b, c, _floor(lp.equality, b), ceiling, lower, upper, *weights)


def _of_dense(lp: DenseLP) -> Problem:
    blocks, b, c, lower, upper = _promoted(lp.A, lp.b, lp.c, lp.lower, lp.upper)
    blocks = torch.where(lp.mask_m[:, :, None] & lp.mask_n[:, None, :], blocks, 0)
    b = torch.where(lp.mask_m, b, 0)
    c, lower, upper = (torch.where(lp.mask_n, part, 0) for part in (c, lower, upper))
    floor = torch.where(lp.mask_m, _floor(lp.equality, b), 0)
    ceiling = torch.where(lp.mask_m, torch.inf, torch.zeros_like(b))
    reach = blocks * _furthest(lower, upper)[:, None, :]
    # The column of zeros gives an LP without rows or columns a maximum too.
    largest = (torch.nn.functional.pad(part.abs(), (0, 1)).amax(1) for part in (c, b, reach.flatten(1)))
    weight = _weight(*largest).unsqueeze(1)
    return Problem(_Blocks(blocks), b, c, floor, ceiling, lower, upper, weight, weight)


def _promoted(*parts: Tensor) -> list[Tensor]:
    """All parts in one type, float32 at least."""
    dtype = torch.float32
    for part in parts:
        dtype = torch.promote_types(dtype, part.dtype)
    return [part.to(dtype) for part in parts]


def _floor(equality: Tensor, b: Tensor) -> Tensor:
    return torch.where(equality, -torch.inf, torch.zeros_like(b))


def _furthest(lower: Tensor, upper: Tensor) -> Tensor:
    """The distance from 0 to the further finite bound of each variable; 0 without finite bounds."""
    return torch.maximum(*(torch.where(bound.isfinite(), bound.abs(), 0) for bound in (lower, upper)))


def _weight(largest_c: Tensor, largest_b: Tensor, reach: Tensor) -> Tensor:
    """max|c| / max|b| of each LP, where a maximum of 0 counts as 1.

    With this weight, scaling c scales lam and nothing else, and scaling b and the bounds scales x and nothing else.
    Where b is 0, only the bounds give x its scale. `reach`, the largest product of a coefficient and a bound, expresses
    them in the units of b, so that the weight follows a scale of A as it does with b. PDLP takes Euclidean norms.
    Maxima do not overflow, and do not depend on how often a row is repeated.
    """
    rhs = torch.where(largest_b > 0, largest_b, reach)
    weight = torch.where(largest_c > 0, largest_c, 1) / torch.where(rhs > 0, rhs, 1)
    return weight.clamp(LEAST_WEIGHT, 1 / LEAST_WEIGHT)
