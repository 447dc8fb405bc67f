"""Rescale a canonical LP so that a network sees numbers near 1, and check that float32 can hold it."""

from dataclasses import replace
from typing import Any

import numpy as np
from data.lp import LP, LPError, Scaling, Vector, rescaled, unscaled
from data.solve import Solution, solve

WIDE = 2.0**14  # how far a side may lie beyond what the optimum reaches before it is scaled on its own
FLOAT32 = np.finfo(np.float32)
LOST = 1e-6  # how far rounding one row to float32 may move the optimum, relative to the objective's terms


def ruiz(lp: LP, iterations: int = 10) -> LP:
    """Return an equivalent LP in which the largest entry of each row, each column, b and c is near 1.

    Equilibrates in the infinity norm, then divides b and c by one scale each. The scale is the largest entry, unless
    that is more than `WIDE` times the size of the optimum. A bound of 1e10 on a variable that is 2 is an example. Then
    the scale is the size of the optimum, and b and c count as entries of their rows and columns. So a wide row gets
    small coefficients, and all other sides stay near 1. Source: Ruiz, "A scaling algorithm to equilibrate both rows and
    columns norms in matrices", RAL-TR-2001-034, 2001.

    Factors are powers of two, so that `unscaled` gives the original back bit for bit. The largest entries of rows and
    columns lie within [1/2, 2] once the iteration has converged. An empty row or column keeps the factor 1, an
    all-zero b or c the scale 1. With 0 iterations the LP is returned unchanged.

    Raises:
        ValueError: negative iterations, or an LP that is scaled already.
        LPError: scaling the coefficients is not exact, or leaves one that float32 cannot hold. Or two sides, or two
            costs, that both decide the optimum differ by more than float32's precision.
    """
    if iterations < 0:
        raise ValueError(f"iterations is {iterations}, expected 0 or more: 10 is plenty")
    if lp.scaling is not None:
        raise ValueError(f"{lp.name} is scaled already; rescale unscaled(lp) instead")
    if iterations == 0:
        return lp
    with np.errstate(over="ignore", invalid="ignore"):  # caught below
        scaling, optimum = _scaling(lp, iterations)
        b, c = scaling.row * lp.b / scaling.rhs, scaling.column * lp.c / scaling.objective
        scaled = replace(lp, A=rescaled(lp.A, scaling.row, scaling.column), b=b, c=c, scaling=scaling)
        back = unscaled(scaled)
    if not all(map(np.array_equal, (back.A.data, back.b, back.c), (lp.A.data, lp.b, lp.c))):
        raise LPError(f"{lp.name}: its coefficients span more than float64 can rescale; train on it unscaled")
    sizes = np.abs(np.concatenate([scaled.A.data, b, c]))
    sizes = sizes[sizes > 0]
    if sizes.max() > FLOAT32.max or sizes.min() < FLOAT32.tiny:
        raise LPError(
            f"{lp.name}: its numbers lie {sizes.max() / sizes.min():.1e} apart even when scaled, which float32 cannot"
            " hold; state the model in units nearer to each other"
        )
    if optimum is not None:
        x, lam = optimum.x / scaling.column / scaling.rhs, optimum.lam / scaling.row / scaling.objective
        _check_apart(lp, "row", "side", (lp.b, b), lam)
        _check_apart(lp, "column", "cost", (lp.c, c), x)
    return scaled


def _check_apart(lp: LP, item: str, number: str, values: tuple[Vector, Vector], solution: Vector) -> None:
    """Refuse two active sides, or two costs that are paid, if a network sees only the larger one.

    `values` are those of the LP and of the scaled one; `solution` is the scaled optimum's number per item.
    """
    own, size, answer = values[0], np.abs(values[1]), np.abs(solution)
    deciding = np.flatnonzero((size > 0) & (answer > LOST * min(1.0, answer.max(initial=0))))
    if not len(deciding):
        return
    ratio = size[deciding] / np.maximum(answer[deciding], 1.0)  # an answer beyond 1 is out of a network's reach, too
    small, large = deciding[ratio.argmin()], deciding[ratio.argmax()]
    if (apart := ratio.max() / ratio.min()) > 1 / FLOAT32.eps:
        raise LPError(
            f"{lp.name}: {item} {small} of its canonical form has the {number} {own[small]:g} and {item} {large} has "
            f"{own[large]:g}, and both decide the optimum; scaled they are {apart:.1e} apart, of which a network in "
            f"float32 sees only the larger; split the model, or state it in units nearer to each other"
        )


def check_float32(lp: LP, optimum: Solution) -> None:
    """Refuse an LP whose optimum is lost when float32, in which networks see it, rounds a row.

    Rounding A and b moves the optimum by each row's multiplier times the change of its slack there, to first order.
    Scaling by powers of two changes nothing about it.

    Raises:
        LPError: the row that moves the optimum most moves it by more than `LOST` of the objective's terms.
    """
    A = lp.A.copy()
    A.data = A.data.astype(np.float32) - A.data
    moved = optimum.lam * np.abs(A @ optimum.x - (lp.b.astype(np.float32) - lp.b))
    terms = np.abs(lp.c) @ np.abs(optimum.x)
    row = int(moved.argmax())
    if moved[row] > LOST * terms > 0:
        raise LPError(
            f"row {row} of its canonical form has the side {lp.b[row]:.17g}; rounding it to float32, in which networks "
            f"see it, changes the optimum by {moved[row] / terms:.1e} times its size; tighten its side or its big-M"
        )


def _scaling(lp: LP, iterations: int) -> tuple[Scaling, Solution | None]:
    """The scaling, and the optimum if it was needed."""
    magnitude, b, c = abs(lp.A), np.abs(lp.b), np.abs(lp.c)
    row, column = _equilibrated(magnitude, (np.ones(lp.rows), np.ones(lp.columns)), (0 * b, 0 * c), iterations)
    side, cost = row * b, column * c
    rhs, objective, optimum = side.max(), cost.max(), None
    if max(_span(side), _span(cost)) > WIDE:
        optimum = _optimum(lp)
        x, lam = _reach(lp, optimum, row, column)
        rhs, objective = (x if rhs > WIDE * x else rhs), (lam if objective > WIDE * lam else objective)
    if wide := (rhs, objective) != (side.max(), cost.max()):
        sides = b / _one_if_zero(rhs), c / _one_if_zero(objective)
        row, column = _equilibrated(magnitude, (row, column), sides, iterations)
    row, column = _power_of_two(row), _power_of_two(column)
    if not wide:
        rhs, objective = (row * b).max(), (column * c).max()
    return Scaling(row, column, float(_power_of_two(rhs)), float(_power_of_two(objective))), optimum


def _optimum(lp: LP) -> Solution | None:
    try:
        return solve(lp)
    except LPError:
        return None


def _equilibrated(
    magnitude: Any, factors: tuple[Vector, Vector], sides: tuple[Vector, Vector], iterations: int
) -> tuple[Vector, Vector]:
    """Factors of rows and columns, after more of Ruiz' iterations on `[[magnitude, b], [c, 0]]` with `sides` b, c."""
    (row, column), (b, c) = factors, sides
    for _ in range(iterations):
        current = rescaled(magnitude, row, column)
        row_max, column_max = (current.max(axis=axis).toarray() for axis in (1, 0))
        row = row / np.sqrt(_one_if_zero(np.maximum(row_max, row * b)))
        column = column / np.sqrt(_one_if_zero(np.maximum(column_max, column * c)))
    return row, column


def _reach(lp: LP, optimum: Solution | None, row: Vector, column: Vector) -> tuple[float, float]:
    """The largest x and the largest multiplier of an optimum in equilibrated units; infinite where they are not known.

    If x is 0, the smallest side replaces it. Only multipliers of rows with several coefficients count. The multipliers
    of bounds are reduced costs, which are as large as a cost that is too high to be paid (a penalty of 1e9).
    """
    if optimum is None:
        return np.inf, np.inf
    sides, several = row * np.abs(lp.b), np.diff(lp.A.indptr) > 1
    x = np.abs(optimum.x / column).max() or np.min(sides, where=sides > 0, initial=np.inf)
    lam = np.max(optimum.lam / row, where=several, initial=0.0)
    return float(x), float(lam or np.inf)


def _span(sizes: Vector) -> float:
    sizes = sizes[sizes > 0]
    return float(sizes.max() / sizes.min()) if len(sizes) else 1.0


def _one_if_zero(magnitude: Any) -> Any:
    return np.where(magnitude > 0, magnitude, 1.0)


def _power_of_two(value: Any) -> Any:
    """The nearest power of two; 1 for 0."""
    return np.exp2(np.rint(np.log2(_one_if_zero(value))))
