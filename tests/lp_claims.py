"""What tests of LPs claim, written out, and random models."""

import numpy as np
import pytest
from data.lp import LP
from data.solve import Solution
from hypothesis import assume
from hypothesis import strategies as st


def dense(lp: LP) -> list[tuple[list[float], float]]:
    return [(row.tolist(), b) for row, b in zip(lp.A.toarray(), lp.b.tolist(), strict=True)]


def assert_kkt(lp: LP, solution: Solution, tolerance: float = 1e-6) -> None:
    """Row by row, in plain loops: the four conditions, and equal primal and dual objectives."""
    A = lp.A.toarray()
    for i in range(lp.rows):
        size = 1 + abs(lp.b[i]) + np.abs(A[i]) @ np.abs(solution.x)
        slack = lp.b[i] - A[i] @ solution.x
        assert slack >= -tolerance * size
        assert solution.lam[i] >= 0
        assert abs(solution.lam[i] * slack) <= tolerance * size * (1 + solution.lam[i])
    for j in range(lp.columns):
        size = 1 + abs(lp.c[j]) + np.abs(A[:, j]) @ solution.lam
        assert abs(lp.c[j] + A[:, j] @ solution.lam) <= tolerance * size
    assert solution.objective == pytest.approx(lp.c @ solution.x)
    assert -lp.b @ solution.lam == pytest.approx(solution.objective, rel=tolerance, abs=tolerance)


kinds = st.sampled_from(["none", "lower", "upper", "both", "equal"])
bounds = st.tuples(st.integers(-4, 4), st.integers(0, 4), kinds)


def sides(bound: tuple[int, int, str]) -> tuple[float, float]:
    start, width, kind = bound
    end = start if kind == "equal" else start + width
    return (-np.inf if kind in ("none", "upper") else start), (np.inf if kind in ("none", "lower") else end)


@st.composite
def models(draw) -> dict:
    m, n = draw(st.integers(0, 4)), draw(st.integers(1, 4))
    numbers = st.integers(-3, 3)
    rows = [sides(draw(bounds)) for _ in range(m)]
    columns = [sides(draw(bounds)) for _ in range(n)]
    assume(np.isfinite(rows + columns).any())  # no side at all is no LP
    return {
        "c": draw(st.lists(numbers, min_size=n, max_size=n)),
        "A": np.array(draw(st.lists(numbers, min_size=m * n, max_size=m * n)), dtype=float).reshape(m, n),
        "row_lower": [low for low, _ in rows],
        "row_upper": [up for _, up in rows],
        "column_lower": [low for low, _ in columns],
        "column_upper": [up for _, up in columns],
        "maximize": draw(st.booleans()),
        "offset": draw(numbers),
    }
