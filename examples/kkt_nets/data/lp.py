"""Linear programs in one canonical form, `min c'x  s.t.  Ax <= b` with free x, and the units of a rescaled one.

Both paths, the flat and the graph one, take the rows of this `A` and no others: they learn from the same LP.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, eye_array, vstack

Vector = NDArray[np.float64]


class LPError(ValueError):
    """A model that is not an instance to learn from; the message says why, and what to do about it."""


@dataclass(frozen=True)
class Scaling:
    """How a rescaled LP came from its original: `A' = R A C`, `b' = R b / rhs`, `c' = C c / objective`.

    All factors are positive powers of two, so that undoing them is exact in floating point.
    """

    row: Vector  # [m], the diagonal of R
    column: Vector  # [n], the diagonal of C
    rhs: float
    objective: float


@dataclass(frozen=True)
class LP:
    """`min c'x s.t. Ax <= b` with free x; every equality, range and finite bound is a row (or two) of A.

    Rows come in the model's order: first its constraints, then its variables' bounds. Each constraint or variable has
    first its `<=` side, then its `>=` side, negated. A side that is not finite has no row.
    """

    name: str
    family: str  # a generator's family, or "file"
    A: csr_array  # [m, n] float64, sorted indices, no duplicates, no stored zeros
    b: Vector  # [m], finite
    c: Vector  # [n], finite
    objective_sign: float = 1.0  # -1.0 where the model maximised: its objective is sign * c'x + offset
    objective_offset: float = 0.0
    integers: int = 0  # columns whose integrality was relaxed
    scaling: Scaling | None = None

    @property
    def rows(self) -> int:
        return len(self.b)

    @property
    def columns(self) -> int:
        return len(self.c)


def canonical(
    name: str,
    family: str,
    c: ArrayLike,
    A: Any,
    row_lower: ArrayLike,
    row_upper: ArrayLike,
    column_lower: ArrayLike,
    column_upper: ArrayLike,
    *,
    maximize: bool = False,
    offset: float = 0.0,
    integers: int = 0,
) -> LP:
    """The canonical form of `min (or max) c'x + offset` with `row_lower <= Ax <= row_upper` and bounds on x.

    `A` is `[rows, columns]`, dense or in any scipy.sparse format. `c` is `[columns]`. Each bound is a vector, or a
    scalar for all, and infinite where there is none. The result's rows are in the order that `LP` promises.

    >>> lp = canonical("toy", "doc", [1, 2], [[1, 1]], 1, 1, column_lower=0, column_upper=np.inf)
    >>> lp.A.toarray().astype(int).tolist(), lp.b.astype(int).tolist()
    ([[1, 1], [-1, -1], [-1, 0], [0, -1]], [1, -1, 0, 0])

    Raises LPError if a value is not finite, a lower bound exceeds its upper bound, or there is no column or no side.
    Raises ValueError if shapes do not fit.
    """
    matrix = csr_array(A, dtype=np.float64)
    cost = np.asarray(c, dtype=np.float64)
    rows, columns = len(matrix.indptr) - 1, cost.size
    if cost.ndim != 1 or matrix.shape != (rows, columns):
        raise ValueError(f"A has shape {matrix.shape} and c {cost.shape}; give one cost per column of A")
    if columns == 0:
        raise LPError("the model has no columns; give one with at least one variable")
    if not np.isfinite(offset):
        raise LPError(f"the objective's offset is {offset}; make it finite")
    for what, values in (("the cost of column", cost), ("A's coefficient", np.asarray(matrix.data))):
        for i in np.flatnonzero(~np.isfinite(values)):
            raise LPError(f"{what} {i} (counted from 0) is {values[i]}; make it finite")
    lower = _stacked("lower", (row_lower, rows), (column_lower, columns))
    upper = _stacked("upper", (row_upper, rows), (column_upper, columns))
    _check_bounds(lower, upper, rows)

    # Side 2i is the <= side of constraint (or variable) i, side 2i + 1 its >= side.
    sides = np.flatnonzero(np.isfinite(np.column_stack([upper, lower])))
    if len(sides) == 0:
        raise LPError("the model has no finite row or bound; give one with at least one constraint")
    source, sign = sides // 2, np.where(sides % 2 == 0, 1.0, -1.0)
    both = csr_array(vstack([matrix, eye_array(columns, format="csr")], format="csr"))
    body = rescaled(both[source], sign, np.ones(columns))
    body.sum_duplicates()
    body.eliminate_zeros()
    objective_sign = -1.0 if maximize else 1.0
    b = np.where(sign > 0, upper[source], -lower[source]) + 0.0  # + 0.0 turns -0.0 into 0.0
    return LP(name, family, body, b, objective_sign * cost + 0.0, objective_sign, float(offset) + 0.0, integers)


def unscaled(lp: LP) -> LP:
    """The LP that `ruiz` was given, bit for bit; an LP without scaling as it is."""
    s = lp.scaling
    if s is None:
        return lp
    A = rescaled(lp.A, 1.0 / s.row, 1.0 / s.column)
    return replace(lp, A=A, b=lp.b * s.rhs / s.row, c=lp.c * s.objective / s.column, scaling=None)


def original_point(lp: LP, x: Vector, lam: Vector) -> tuple[Vector, Vector]:
    """A point `x [..., n]`, `lam [..., m]` of `lp` in the units of `unscaled(lp)`: `rhs * C x`, `objective * R lam`."""
    for argument, value, size in (("x", x, lp.columns), ("lam", lam, lp.rows)):
        if value.shape[-1:] != (size,):
            raise ValueError(f"{argument} has shape {value.shape}, expected [..., {size}]: drop the padding")
    s = lp.scaling
    return (x, lam) if s is None else (s.rhs * s.column * x, s.objective * s.row * lam)


def rescaled(A: Any, row: Vector, column: Vector) -> csr_array:
    """`diag(row) A diag(column)`, with the structure of A shared, not copied."""
    data = A.data * np.repeat(row, np.diff(A.indptr)) * column[A.indices]
    return csr_array((data, A.indices, A.indptr), shape=A.shape)


def _stacked(side: str, of_rows: tuple[ArrayLike, int], of_columns: tuple[ArrayLike, int]) -> Vector:
    """The rows' bounds, then the columns', a scalar spread over all of its kind."""
    parts: list[Vector] = []
    for argument, (bound, size) in ((f"row_{side}", of_rows), (f"column_{side}", of_columns)):
        values = np.asarray(bound, dtype=np.float64)
        if values.shape not in ((), (size,)):
            raise ValueError(f"{argument} has shape {values.shape}; give a scalar, or shape ({size},)")
        parts.append(np.broadcast_to(values, size))
    return np.concatenate(parts)


def _check_bounds(lower: Vector, upper: Vector, rows: int) -> None:
    # A NaN makes the comparison false, and so is caught too.
    for i in np.flatnonzero(~((lower <= upper) & (lower < np.inf) & (upper > -np.inf))):
        place = f"row {i}" if i < rows else f"column {i - rows}"
        raise LPError(
            f"{place} (counted from 0) has lower bound {lower[i]} and upper bound {upper[i]}, which no point"
            " meets; correct them (in .mps, a variable with a negative upper bound needs a lower bound too)"
        )
