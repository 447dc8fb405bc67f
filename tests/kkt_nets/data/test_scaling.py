"""Claims of scaling.py: numbers near 1, undone to the bit; no side, row or cost drowns in a wide one."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from data.generators import FAMILIES, generate
from data.lp import LP, LPError, canonical, original_point, unscaled
from data.readers import read_lp
from data.scaling import check_float32, ruiz
from data.solve import solve
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lp_claims import models
from stored_lps import assert_same, original_objective


def badly_scaled() -> LP:
    rng = np.random.default_rng(0)
    A = rng.normal(size=(12, 8)) * (rng.random((12, 8)) < 0.5) * 10.0 ** rng.integers(-4, 5, size=(12, 8))
    A[3], A[:, 5] = 0, 0  # an empty row, and an empty column
    b, c = 1e-4 + rng.random(12), rng.normal(size=8) * 1e5
    return canonical("bad", "doc", c, A, -np.inf, b, -np.inf, np.inf)


def test_ruiz_equilibrates():
    lp = badly_scaled()
    scaled = ruiz(lp)
    assert scaled.scaling is not None
    for axis in (0, 1):
        before, largest = abs(lp.A).max(axis=axis).toarray(), abs(scaled.A).max(axis=axis).toarray()
        assert largest[before == 0].tolist() == [0]
        assert largest[before > 0].min() >= 0.49
        assert largest[before > 0].max() <= 2.05
    for vector in (scaled.b, scaled.c):
        assert 0.7 < abs(vector).max() < 1.5
    factors = np.concatenate(
        [scaled.scaling.row, scaled.scaling.column, [scaled.scaling.rhs, scaled.scaling.objective]]
    )
    assert set(np.frexp(factors)[0]) == {0.5}  # powers of two
    assert scaled.scaling.row[3] == scaled.scaling.column[5] == 1


def test_ruiz_is_the_papers_iteration():
    """Both square roots of one sweep are taken of the same matrix; written out entry by entry."""
    lp = badly_scaled()
    A, row, column = lp.A.toarray(), np.ones(lp.rows), np.ones(lp.columns)
    for iterations in (1, 2, 3):
        entries = [[abs(A[i, j]) * row[i] * column[j] for j in range(lp.columns)] for i in range(lp.rows)]
        for i in range(lp.rows):
            row[i] /= max(entries[i]) ** 0.5 or 1
        for j in range(lp.columns):
            column[j] /= max(entries[i][j] for i in range(lp.rows)) ** 0.5 or 1
        scaling = ruiz(lp, iterations).scaling
        assert scaling is not None
        assert scaling.row.tolist() == [2.0 ** round(np.log2(r)) for r in row]
        assert scaling.column.tolist() == [2.0 ** round(np.log2(c)) for c in column]


def test_scaling_means_what_it_says():
    lp = badly_scaled()
    scaled = ruiz(lp)
    s = scaled.scaling
    assert s is not None
    np.testing.assert_array_equal(scaled.A.toarray(), np.diag(s.row) @ lp.A.toarray() @ np.diag(s.column))
    np.testing.assert_array_equal(scaled.b, s.row * lp.b / s.rhs)
    np.testing.assert_array_equal(scaled.c, s.column * lp.c / s.objective)
    rng = np.random.default_rng(1)
    x, lam = rng.normal(size=lp.columns), rng.random(lp.rows)
    x0, lam0 = original_point(scaled, x, lam)
    excess, stationarity = lp.A @ x0 - lp.b, lp.c + lp.A.T @ lam0
    np.testing.assert_allclose(s.row * excess / s.rhs, scaled.A @ x - scaled.b, atol=1e-12)
    np.testing.assert_allclose(s.column * stationarity / s.objective, scaled.c + scaled.A.T @ lam, atol=1e-12)
    assert original_objective(scaled, x) == pytest.approx(original_objective(lp, x0))
    assert original_point(lp, x, lam) == (x, lam)
    with pytest.raises(ValueError, match="lam has shape"):
        original_point(lp, x, lam[:-1])


def test_zero_vectors_keep_the_scale_one():
    scaled = ruiz(canonical("zero", "doc", [0, 0], [[4, 1]], -np.inf, 0, -np.inf, np.inf))
    assert scaled.scaling is not None
    assert (scaled.scaling.rhs, scaled.scaling.objective) == (1, 1)
    assert scaled.b.tolist() == [0]
    assert scaled.c.tolist() == [0, 0]


@given(models(), st.integers(1, 12), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_unscaled_undoes_ruiz_to_the_bit(model, iterations, seed):
    rng = np.random.default_rng(seed)
    model["A"] = model["A"] * 10 ** rng.uniform(-9, 9, size=model["A"].shape)
    model["c"] = model["c"] * 10 ** rng.uniform(-9, 9, size=len(model["c"]))
    lp = canonical("random", "doc", **model)
    before = [lp.A.data.tobytes(), lp.b.tobytes(), lp.c.tobytes()]
    try:
        scaled = ruiz(lp, iterations)
    except LPError as error:  # numbers that decide the optimum lie too far apart
        assume("both decide the optimum" not in str(error))
        raise
    assert [lp.A.data.tobytes(), lp.b.tobytes(), lp.c.tobytes()] == before
    assert_same(unscaled(scaled), lp)


def test_ruiz_refuses():
    lp = badly_scaled()
    assert ruiz(lp, iterations=0) is lp
    assert unscaled(lp) is lp
    with pytest.raises(ValueError, match="iterations is -1"):
        ruiz(lp, iterations=-1)
    with pytest.raises(ValueError, match="scaled already"):
        ruiz(ruiz(lp))
    A = [[1e300, 1e-300], [1, 1e300]]
    extreme = canonical("extreme", "doc", [1, 1], A, -np.inf, 1e300, -np.inf, np.inf)
    with pytest.raises(LPError, match="extreme: its coefficients span"):
        ruiz(extreme)


# Wide sides, costs and rows


def in_float32(lp: LP) -> LP:
    """What a network sees of it."""
    A = lp.A.copy()
    A.data, b, c = (part.astype(np.float32).astype(np.float64) for part in (A.data, lp.b, lp.c))
    return replace(lp, A=A, b=b, c=c)


def wide_bound(width: float) -> LP:
    return canonical("bound", "doc", [1, 2], [[1, 1], [1, -1]], [3, -np.inf], [np.inf, 1], 0, [width, np.inf])


def loose_row(width: float) -> LP:
    A = [[1, 1], [1, -1], [3, 5]]
    return canonical("row", "doc", [1, 2], A, [3, -np.inf, -np.inf], [np.inf, 1, width], 0, np.inf)


def free_box(width: float) -> LP:
    """Every variable has two wide bounds, so that most sides are wide."""
    A = [[1, 2, 0], [0, 1, -1], [1, 0, 3]]
    return canonical("box", "doc", [2, 3, 2], A, [4, -2, 5], np.inf, -width, width)


def fixed_charge(big: float, width: float) -> LP:
    """`x <= big * y` for each of six plants, which together meet a demand; the plants' sizes have wide bounds."""
    rng = np.random.default_rng(0)
    A = np.block([[np.eye(6), -big * np.eye(6)], [np.ones(6), np.zeros(6)], [np.eye(6), np.zeros((6, 6))]])
    row_lower, row_upper = [-np.inf] * 6 + [30] + [-np.inf] * 6, [0] * 6 + [np.inf] + [8] * 6
    c = np.r_[rng.integers(1, 10, 6), rng.integers(50, 200, 6)]
    return canonical("charge", "doc", c, A, row_lower, row_upper, 0, [width] * 6 + [1] * 6)


def indicator(big: float, _: float) -> LP:
    """`a x <= r` where y is 1, as `a x + big * y <= r + big`; two of three y must be 1."""
    A = np.array([[1, 2, big, 0, 0], [3, 1, 0, big, 0], [1, 1, 0, 0, big], [0, 0, 1, 1, 1]])
    upper = [6 + big, 7 + big, 4 + big, np.inf]
    return canonical("switch", "doc", [-2, -3, 1, 2, 1], A, [-np.inf] * 3 + [2], upper, 0, [9, 9, 1, 1, 1])


def penalty(price: float) -> LP:
    """Each row may be missed, at a price that no optimum pays."""
    A = np.c_[[[1, 2], [3, 1]], np.eye(2)]
    return canonical("penalty", "doc", [2, 3, price, price], A, [4, 5], np.inf, 0, np.inf)


WIDE = [
    *(make(width) for make in (wide_bound, loose_row, free_box, penalty) for width in (1e4, 1e6, 1e8, 1e10, 1e12)),
    *(make(big, width) for make in (fixed_charge, indicator) for big in (1e4, 1e6, 1e7) for width in (1e6, 1e9, 1e12)),
]


@pytest.mark.parametrize("lp", WIDE, ids=lambda lp: f"{lp.name}-{max(abs(lp.b).max(), abs(lp.c).max()):g}")
def test_the_scaled_lp_has_the_lps_own_optimum_in_float32(lp):
    expected = original_objective(lp, solve(lp).x)
    check_float32(lp, solve(lp))
    scaled = ruiz(lp)
    assert_same(unscaled(scaled), lp)
    solution = solve(in_float32(scaled))
    assert original_objective(scaled, solution.x) == pytest.approx(expected, rel=1e-6)
    if max(abs(lp.b).max(), abs(lp.c).max()) > 1e7:  # what matters is near 1, to a network too
        for part in (scaled.b, scaled.c, solution.x, solution.lam):
            assert 1e-2 < abs(part).max() < 10
        assert np.median(abs(scaled.b[scaled.b != 0])) > 1e-2


def test_a_wide_bound_in_a_file_leaves_the_other_sides_alone(tmp_path):
    path = tmp_path / "w.lp"
    path.write_text("min\n o: u + 2 v\nst\n k: u + v >= 3\n m: u - v <= 1\nBounds\n u <= 1e10\nEnd\n")
    scaled = ruiz(read_lp(path))
    assert original_objective(scaled, solve(scaled).x) == pytest.approx(4.0)


def test_a_wide_bound_beside_an_optimum_at_zero_is_scaled_on_its_own():
    scaled = ruiz(canonical("zero", "doc", [1, 2], [[1, -1]], -np.inf, 1, 0, [1e10, np.inf]))
    assert np.all((abs(scaled.b) > 0.4) | (scaled.b == 0))


def test_what_float32_rounds_away_is_refused_by_row(tmp_path):
    path = tmp_path / "sum.lp"
    for side, refused in ((1e4, False), (1e8, True), (1e12, True)):  # x <= 3, as 1e8 + 3 is not in float32
        path.write_text(f"max\n o: x\nst\n a: x + z <= {side + 3:.0f}\n b: z >= {side:.0f}\nend\n")
        if refused:
            with pytest.raises(
                LPError, match=r"sum\.lp: row 0 .* float32, .* changes the optimum by .*e\+0[03] times its size"
            ):
                read_lp(path)
        else:
            assert read_lp(path).rows == 4


def test_numbers_that_float32_cannot_hold_are_refused():
    A = [[1e-30, 1], [1, 1e-30]]
    with pytest.raises(LPError, match=r"apart: its numbers lie .* apart even when scaled, which float32 cannot hold"):
        ruiz(canonical("apart", "doc", [1, 1e-20], A, -np.inf, [1, 1e-40], -np.inf, np.inf))


@pytest.mark.parametrize(
    ("sides", "costs", "refused"),
    [
        ((3, 1e10), (1, 1), r"side -3 and row 1 .* -1e\+10, .* they are 3\.3e\+09 apart"),
        ((3, 1e10), (1e10, 3), r"side -3 and row 1 .* -1e\+10"),
        ((3, 4), (1, 1e10), "both decide the optimum"),
        ((3, 1e5), (1, 1), None),
        ((3, 4), (1, 1e5), None),
    ],
)
def test_two_blocks_that_both_bind_and_lie_apart_are_refused(sides, costs, refused):
    lp = canonical("two", "doc", [*costs, 1], [[1, 0, 1], [0, 1, 0]], sides, np.inf, 0, np.inf)
    if refused is None:
        ruiz(lp)
    else:
        with pytest.raises(LPError, match=f"two: row . of its canonical form has .*{refused}"):
            ruiz(lp)


# The scaling of generated LPs, as it was before wide sides had a scale of their own.
DIGESTS = {
    "set_cover": "5e73212e9578d134",
    "auction": "48cc0a61d05f68a0",
    "independent_set": "7db1da25032419c5",
    "facility": "88e5fbec5a286230",
    "random": "db135877a6a4f4b0",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_generated_lps_are_scaled_as_ever(family):
    digest = hashlib.sha256()
    default = FAMILIES[family].default_size
    for size in (FAMILIES[family].smallest_size, default, tuple(3 * n for n in default)):
        for seed in range(10):
            lp = ruiz(generate(family, size, seed))
            assert lp.scaling is not None
            for part in (lp.A.data, lp.b, lp.c, lp.scaling.row, lp.scaling.column):
                digest.update(part.tobytes())
            digest.update(repr((lp.scaling.rhs, lp.scaling.objective)).encode())
    assert digest.hexdigest()[:16] == DIGESTS[family]
