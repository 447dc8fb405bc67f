"""Claims of lp.py: nothing of a model is lost or added, scaling is undone exactly, bad files are refused."""

import gzip
from dataclasses import replace
from pathlib import Path

import highspy
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lp import (
    LP,
    LPError,
    Solution,
    canonical,
    original_objective,
    original_point,
    read_lp,
    ruiz,
    solve,
    unscaled,
)
from scipy.sparse import coo_array, csc_array, csr_array

SHARED = Path(__file__).resolve().parents[3] / "shared" / "lp"
NETLIB = {
    "afiro": -464.7531428571,
    "adlittle": 225494.9631624,
    "israel": -896644.8218630,
    "e226": -11.63892906637,
    "standata": 1257.6995,
}

# Optimum by hand: 2x + 3y is largest at x = 1.5, y = 2.5 (x + y = 4, x - y = -1).
MAXIMISE = """\\ max, an offset, a free and a two-sided variable, an integer, an equality
Maximize
 obj: 2 x + 3 y + 5
Subject To
 top: x + y <= 4
 tie: x - y = -1
Bounds
 x free
 -1 <= y <= 3
General
 x
End
"""

# Every sign of RANGES, every kind of bound, two free rows, an offset (-RHS of the objective).
RANGES = """NAME T
ROWS
 N cost
 L up
 G low
 E plus
 E minus
 N spare
COLUMNS
    a cost 1 up 1
    a plus 1 spare 7
    b cost -2 low 1
    b minus 1
    d cost 1 up 1
    d low 1 minus 1
    e cost 3 plus 2
    f cost -1 up -1
RHS
    R cost -10 up 8
    R low 1 plus 4
    R minus 2
RANGES
    R up 5 low 6
    R plus 3 minus -2
BOUNDS
 FR B a
 UP B b 4
 MI B d
 UP B d -1
 FX B e 0.5
 LO B f -2
 UP B f 9
ENDATA
"""


def dense(lp: LP) -> list[tuple[list[float], float]]:
    return [(row.tolist(), b) for row, b in zip(lp.A.toarray(), lp.b.tolist(), strict=True)]


def native(path: Path) -> tuple[str, float]:
    """HiGHS' own verdict on the file's relaxation, and optimum: no code of lp.py."""
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("solve_relaxation", True)
    highs.readModel(str(path))
    highs.run()
    return highs.modelStatusToString(highs.getModelStatus()), highs.getObjectiveValue()


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


def assert_same(a: LP, b: LP) -> None:
    """Equal to the bit, the structure of A included."""
    for x, y in [
        (a.A.data, b.A.data),
        (a.A.indices, b.A.indices),
        (a.A.indptr, b.A.indptr),
        (a.b, b.b),
        (a.c, b.c),
    ]:
        assert x.tobytes() == y.tobytes()
    assert a.A.shape == b.A.shape
    assert (a.scaling is None) == (b.scaling is None)


# The canonical form


def test_rows_come_in_the_documented_order():
    lp = canonical(
        "toy",
        "doc",
        c=[1, 0, -1],
        A=[[1, 2, 0], [0, 3, 0], [4, 0, 5]],
        row_lower=[-np.inf, 7, -np.inf],
        row_upper=[6, 8, np.inf],  # <=, a range, free
        column_lower=[0, -np.inf, 2],
        column_upper=[np.inf, np.inf, 2],  # x >= 0, free, fixed
    )
    assert dense(lp) == [
        ([1, 2, 0], 6),
        ([0, 3, 0], 8),
        ([0, -3, 0], -7),
        ([-1, 0, 0], 0),
        ([0, 0, 1], 2),
        ([0, 0, -1], -2),
    ]
    assert (lp.rows, lp.columns, lp.c.tolist()) == (6, 3, [1, 0, -1])
    assert not np.signbit(lp.b[3])  # -0.0 would be another LP to a hash
    assert not np.signbit(lp.c[1])


def test_matrix_is_clean_and_the_input_is_not_written_to():
    # Duplicates, explicit zeros, unsorted columns, and an entry that cancels.
    A = coo_array(([1.0, 2.0, 0.0, 4.0, 5.0, -5.0], ([0, 0, 0, 1, 1, 1], [1, 1, 0, 2, 0, 0])), shape=(2, 3))
    messy = csr_array(([2.0, 1.0, 0.0, 5.0, 4.0, -5.0], [1, 1, 0, 0, 2, 0], [0, 3, 6]), shape=(2, 3))
    for given_A in (A, A.toarray(), csc_array(A), messy):
        before = given_A.copy()
        lp = canonical("toy", "doc", [1, 1, 1], given_A, -np.inf, [1, 2], -np.inf, np.inf)
        assert (given_A != before).sum() == 0
        assert given_A is not messy or messy.data.tolist() == [2, 1, 0, 5, 4, -5]
        assert dense(lp) == [([0, 3, 0], 1), ([0, 0, 4], 2)]
        assert lp.A.has_canonical_format
        assert lp.A.nnz == 2
    assert A.nnz == 6


def test_maximisation_flips_the_costs_and_keeps_the_offset():
    lp = canonical("toy", "doc", [2, 3, 0], [[1, 1, 1]], -np.inf, 4, 0, [1, 9, 9], maximize=True, offset=5)
    assert lp.c.tolist() == [-2, -3, 0]
    assert not np.signbit(lp.c[2])
    solution = solve(lp)
    assert solution.x.tolist() == [0, 4, 0]
    assert solution.objective == -12
    assert original_objective(lp, solution.x) == 17


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"c": [1.0, np.nan]}, "cost of column 1"),
        ({"c": [np.inf, 1.0]}, "cost of column 0"),
        ({"A": [[1.0, np.nan]]}, "coefficient"),
        ({"A": [[1.0, -np.inf]]}, "coefficient"),
        ({"row_upper": np.nan}, "row 0"),
        ({"row_lower": np.inf, "row_upper": np.inf}, "row 0"),
        ({"row_upper": -np.inf}, "row 0"),
        ({"row_lower": 5.0}, "row 0"),
        ({"column_upper": [1.0, -1.0]}, "column 1"),
        ({"column_lower": [np.nan, 0.0]}, "column 0"),
        ({"offset": np.nan}, "offset"),
        ({"c": [], "A": np.zeros((1, 0))}, "no columns"),
        ({"row_upper": np.inf, "column_lower": -np.inf}, "no finite"),
        ({"c": [1.0, 1.0, 1.0]}, "shape"),
        ({"row_upper": [1.0, 2.0]}, "row_upper has shape"),
        ({"column_lower": [[0.0, 0.0]]}, "column_lower has shape"),
    ],
)
def test_canonical_refuses_by_name(change, says):
    model = {"c": [1.0, 1.0], "A": [[1.0, 1.0]], "row_lower": -np.inf, "row_upper": 4.0, "column_lower": 0.0}
    model |= {"column_upper": np.inf}
    canonical("toy", "doc", **model)
    with pytest.raises(ValueError, match=says):
        canonical("toy", "doc", **(model | change))


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


def native_model(model: dict) -> highspy.Highs:
    """The model as HiGHS takes it, bounds as bounds, built row by row."""
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    for cost, low, up in zip(model["c"], model["column_lower"], model["column_upper"], strict=True):
        highs.addCol(cost, low, up, 0, [], [])
    for row, low, up in zip(model["A"], model["row_lower"], model["row_upper"], strict=True):
        index = np.flatnonzero(row).astype(np.int32)
        highs.addRow(low, up, len(index), index, row[index])
    if model["maximize"]:
        highs.changeObjectiveSense(highspy.ObjSense.kMaximize)
    highs.changeObjectiveOffset(model["offset"])
    return highs


@given(models())
@settings(max_examples=100, deadline=None)
def test_canonical_optimum_is_the_models_own(model):
    highs = native_model(model)
    highs.run()
    lp = canonical("random", "doc", **model)
    if highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        with pytest.raises(LPError, match="random has no optimum"):
            solve(lp)
        return
    for form in (lp, ruiz(lp)):
        solution = solve(form)
        assert original_objective(form, solution.x) == pytest.approx(highs.getObjectiveValue(), abs=1e-6)
        x, lam = original_point(form, solution.x, solution.lam)
        assert_kkt(lp, replace(solution, x=x, lam=lam, objective=float(lp.c @ x)), tolerance=1e-5)


# Reading files


def test_reads_a_maximisation(tmp_path):
    path = tmp_path / "my.model.lp"
    path.write_text(MAXIMISE)
    lp = read_lp(path)
    assert (lp.name, lp.family, lp.integers) == ("my.model", "file", 1)
    assert (lp.objective_sign, lp.objective_offset, lp.c.tolist()) == (-1, 5, [-2, -3])
    assert dense(lp) == [([1, 1], 4), ([1, -1], -1), ([-1, 1], 1), ([0, 1], 3), ([0, -1], 1)]
    solution = solve(lp)
    assert solution.x == pytest.approx([1.5, 2.5])
    assert original_objective(lp, solution.x) == pytest.approx(15.5)


def test_reads_every_kind_of_range_and_bound(tmp_path):
    path = tmp_path / "ranges.mps"
    path.write_text(RANGES)
    lp = read_lp(path)
    assert (lp.objective_sign, lp.objective_offset, lp.c.tolist()) == (1, 10, [1, -2, 1, 3, -1])
    assert dense(lp) == [
        ([1, 0, 1, 0, -1], 8),  # up: 3..8
        ([-1, 0, -1, 0, 1], -3),
        ([0, 1, 1, 0, 0], 7),  # low: 1..7
        ([0, -1, -1, 0, 0], -1),
        ([1, 0, 0, 2, 0], 7),  # plus: 4..7
        ([-1, 0, 0, -2, 0], -4),
        ([0, 1, 1, 0, 0], 2),  # minus: 0..2
        ([0, -1, -1, 0, 0], 0),
        ([0, 1, 0, 0, 0], 4),  # a is free; 0 <= b <= 4
        ([0, -1, 0, 0, 0], 0),
        ([0, 0, 1, 0, 0], -1),  # d <= -1
        ([0, 0, 0, 1, 0], 0.5),  # e = 0.5
        ([0, 0, 0, -1, 0], -0.5),
        ([0, 0, 0, 0, 1], 9),  # -2 <= f <= 9
        ([0, 0, 0, 0, -1], 2),
    ]
    status, optimum = native(path)
    solution = solve(lp)
    assert status == "Optimal"
    assert original_objective(lp, solution.x) == pytest.approx(optimum)
    assert_kkt(lp, solution)


@pytest.mark.parametrize(("suffix", "text"), [(".lp", MAXIMISE), (".mps", RANGES)])
def test_reads_gzip(tmp_path, suffix, text):
    plain, packed = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}.gz"
    plain.write_text(text)
    packed.write_bytes(gzip.compress(text.encode()))
    lp = read_lp(str(packed))
    assert lp.name == "b"
    assert_same(lp, read_lp(plain))


def test_an_empty_row_of_an_mps_file_is_a_row(tmp_path):
    path = tmp_path / "empty_row.mps"
    path.write_text("NAME\nROWS\n N o\n G r\n L e\nCOLUMNS\n x o 1 r 2\nRHS\n R r 1 e 3\nENDATA\n")
    lp = read_lp(path)
    assert dense(lp) == [([-2], -1), ([0], 3), ([-1], 0)]
    assert_same(unscaled(ruiz(lp)), lp)
    assert_kkt(lp, solve(lp))


def test_small_coefficients_are_kept(tmp_path):
    path = tmp_path / "small.mps"
    path.write_text("NAME\nROWS\n N o\n G r\nCOLUMNS\n x o 1 r 1e-11\n y o 1 r 1\nRHS\n R r 1\nENDATA\n")
    assert read_lp(path).A.toarray()[0].tolist() == [-1e-11, -1]


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the folder of real instances is not at {SHARED}")
@pytest.mark.parametrize("path", sorted(SHARED.glob("*.mps")), ids=lambda path: path.stem)
def test_real_instances(path):
    lp = read_lp(path)
    status, optimum = native(path)
    assert status == "Optimal"
    solution = solve(lp)
    assert original_objective(lp, solution.x) == pytest.approx(optimum, rel=1e-7)
    if path.stem in NETLIB:
        assert optimum == pytest.approx(NETLIB[path.stem], rel=1e-9)
    assert_kkt(lp, solution)
    assert solution.seconds > 0

    scaled = ruiz(lp)
    assert_same(unscaled(scaled), lp)
    solution = solve(scaled)
    assert_kkt(scaled, solution)
    x, lam = original_point(scaled, solution.x, solution.lam)
    assert original_objective(scaled, solution.x) == pytest.approx(optimum, rel=1e-7)
    assert original_objective(lp, x) == pytest.approx(optimum, rel=1e-7)
    assert lp.c @ x == pytest.approx(-lp.b @ lam, rel=1e-6)  # the duals' units, too


# Scaling


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
    scaled = ruiz(lp, iterations)
    assert [lp.A.data.tobytes(), lp.b.tobytes(), lp.c.tobytes()] == before
    assert_same(unscaled(scaled), lp)
    without = {"A": None, "b": None, "c": None}  # arrays are not compared by ==
    assert replace(unscaled(scaled), **without) == replace(lp, **without)  # and so are name, sign, offset, ...


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


# Bad input

LP_TEXT = "Minimize\n obj: x + 2 y\nSubject To\n c1: x + y >= 1\n{}End\n"
MPS_TEXT = "NAME\nROWS\n N o\n G r\nCOLUMNS\n x o 1 r 1\n y o 1 r 1\nRHS\n R r 1\n{}"
BAD = {
    "empty.lp": ("", "no columns"),
    "empty.mps": ("", "did not read it whole"),
    "no_columns.mps": ("NAME\nROWS\n N o\n G r\nCOLUMNS\nRHS\nENDATA\n", "no columns"),
    "no_rows.lp": ("Minimize\n obj: 0 x\nBounds\n x free\nEnd\n", "no finite row or bound"),
    "prose.lp": ("blah blah not a good file\n", "no columns"),
    "quadratic.lp": ("Minimize\n obj: x + [ x^2 ] / 2\nSubject To\n c: x >= 1\nEnd\n", "quadratic"),
    "nan_cost.mps": (MPS_TEXT.format("ENDATA\n").replace("x o 1", "x o nan"), "NaN"),
    "nan_name.lp": (LP_TEXT.format(" c2: x + nancy <= 9\n"), "NaN"),
    "infinite_cost.mps": (MPS_TEXT.format("ENDATA\n").replace("x o 1", "x o 1e30"), "cost of column 0"),
    "nan_coefficient.mps": (MPS_TEXT.format("ENDATA\n").replace("r 1\n y", "r nan\n y"), "NaN"),
    "nan_side.mps": (MPS_TEXT.format("ENDATA\n").replace("R r 1", "R r nan"), "NaN"),
    "truncated.mps": (MPS_TEXT.format(""), "did not read it whole"),
    "truncated.lp": (LP_TEXT.format("").removesuffix("End\n"), "did not read it whole"),
    "duplicate.mps": (MPS_TEXT.format("ENDATA\n").replace("RHS\n", " y r 5\nRHS\n"), "duplicate"),
    "stray_row.mps": (MPS_TEXT.format(" R nope 1\nENDATA\n"), "nope"),
    "tiny.mps": (MPS_TEXT.format("ENDATA\n").replace("x o 1 r 1", "x o 1 r 1e-13"), "did not read it whole"),
    "crossed.mps": (MPS_TEXT.format("BOUNDS\n UP B x -5\nENDATA\n"), "inconsistent bounds"),
    "two_sided.lp": (LP_TEXT.format(" c2: 1 <= 2 x + y <= 4\n"), "constant 1 on its left"),
    "two_sides_right.lp": (LP_TEXT.format(" c2: x + y >= 1 <= 4\n"), "two sides"),
    "constant.lp": (LP_TEXT.format(" bin_2: x + .5e1 + y >= 6\n"), r"constant \.5e1 on its left"),
    "constant_first.lp": (LP_TEXT.format(" c2: 3 + x >= 5\n"), "constant 3 on its left"),
    "keyword_in_line.lp": ("min x + y st c1: x + 3 >= 5 \n c2: y >= 1 \n end", "constant 3 on its left"),
    "subject_in_line.lp": ("min x + y Subject\nTo c1: x + 3 >= 5 Bounds x <= 9 end", "constant 3 on its left"),
    "variable_int.lp": (LP_TEXT.format(" c2: x +\n int >= 1\n c3: x + 3 >= 5\n"), "constant 3 on its left"),
    "variable_semi1.lp": (LP_TEXT.format(" c2: x +\n semi1 >= 1\n c3: x + 3 >= 5\n"), "constant 3 on its left"),
    "row_bound.lp": (LP_TEXT.format(" bound : x >= 1\n c3: x + 3 >= 5\n"), "constant 3 on its left"),
    "two_numbers.lp": (LP_TEXT.format(" c2: 2 3.5 x + y >= 5\n"), "a number follows the number 2, .* product"),
    "two_numbers_cost.lp": (LP_TEXT.format("").replace("x + 2 y", "x + 2 .5 y"), "a number follows the number 2,"),
    "parentheses.lp": (LP_TEXT.format(" c2: 2 ( x + y ) >= 5\n"), r"takes '\(' for a .* multiply the parentheses out"),
    "parentheses_close.lp": (LP_TEXT.format(" c2: 2(x + y)>=5\n"), r"takes '2\(x' for a variable's name"),
    "parentheses_cost.lp": (LP_TEXT.format("").replace("x + 2 y", "2 (x + y)"), r"takes '\(x' for a"),
    "sos.lp": (LP_TEXT.format("SOS\n s1: S1:: x:1 y:2\n"), "SOS"),
    "semicontinuous.lp": (LP_TEXT.format("Bounds\n x <= 5\nSemi-Continuous\n x\n"), "semi-continuous"),
    "infeasible.lp": (LP_TEXT.format(" c2: x + y <= 0.5\n"), "no optimum"),
    "contradiction.mps": (
        MPS_TEXT.format("ENDATA\n").replace(" x o 1 r 1\n y o 1 r 1", " x o 1"),
        "no optimum",
    ),
    "unbounded.lp": (LP_TEXT.format("Bounds\n y free\n"), "no optimum"),
    "infeasible_integer.lp": (
        LP_TEXT.format(" c2: 2 x + 2 y = 3\nGeneral\n x\n y\n"),
        "integer model is infeasible",
    ),
    "model.txt": (LP_TEXT.format(""), "unknown suffix"),
    ".lp": (LP_TEXT.format(""), "unknown suffix"),
    "plain.mps.gz": (MPS_TEXT.format("ENDATA\n"), "gzip"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_by_name(tmp_path, name):
    text, says = BAD[name]
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(LPError, match=says) as error:
        read_lp(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    assert path.read_text() == text


def test_their_good_twins_are_read(tmp_path):
    """What the bad files are made of is fine without the flaw."""
    for name, text in (("good.lp", LP_TEXT.format("")), ("good.mps", MPS_TEXT.format("ENDATA\n"))):
        (tmp_path / name).write_text(text)
        assert solve(read_lp(tmp_path / name)).objective == pytest.approx(1)


def test_what_only_looks_like_a_misreading_is_read(tmp_path):
    """Constants in the objective, two-sided bounds, comments, names, rows that begin with a sign."""
    path = tmp_path / "fine.lp"
    path.write_text(
        "\\ nan, 1 <= x + y <= 4\nMinimize\n obj: 3 + x1 + 2 y.2 - 1 x3n\nSubject To\n"
        " c1: x1 + 2e+0 y.2 >= 1e0\n - x1 - 3 x3n >= -8 \\ 7 <= x1\n end_3: 2e-1x1 +.5 y.2<=+4\n"
        "Bounds\n 1 <= y.2 <= 5\n -1 <= x3n\nEnd\n"
    )
    lp = read_lp(path)
    assert lp.objective_offset == 3
    assert dense(lp)[:3] == [([-1, -2, 0], -1), ([1, 0, 3], 8), ([0.2, 0.5, 0], 4)]
    rows = tmp_path / "rows.lp"  # a row may begin with a number, beside the last one's right-hand side
    rows.write_text("min x(1) + (y) st c1: x(1) + (y) >= +- 5 6 x(1) >= 2 - (y) >= -9 Bounds x(1) <= 4\n5 <= (y) end")
    assert dense(read_lp(rows))[:3] == [([-1, -1], 5), ([-6, 0], -2), ([0, 1], 9)]
    names = tmp_path / "names.mps"  # "nan" within a name is fine
    names.write_text("* nan\n" + MPS_TEXT.format("ENDATA\n").replace("x o", "nancy o"))
    assert read_lp(names).columns == 2


def test_a_truncated_archive_is_refused(tmp_path):
    packed = gzip.compress(RANGES.encode())
    for cut in (1, 8, 9, len(packed) // 2, len(packed) - 5):  # HiGHS reads on without the checksum
        path = tmp_path / f"cut{cut}.mps.gz"
        path.write_bytes(packed[:-cut])
        with pytest.raises(LPError, match=rf"cut{cut}\.mps\.gz: not a whole gzip archive"):
            read_lp(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.mps does not exist"):
        read_lp(tmp_path / "gone.mps")
    (tmp_path / "folder.mps").mkdir()
    with pytest.raises(IsADirectoryError, match=r"folder\.mps is a folder"):
        read_lp(tmp_path / "folder.mps")


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the folder of real instances is not at {SHARED}")
@pytest.mark.parametrize("path", sorted((SHARED / "bad").glob("*")), ids=lambda path: path.name)
def test_real_bad_files_are_refused_by_name(path):
    says = {
        "1448.lp": "no columns",
        "garbage.lp": "no columns",
        "garbage.mps": "no line of section",
        "infeasible-mip0.mps": "integer model is infeasible",
        "nan0.mps": "NaN",
        "qpunbounded.lp": "quadratic",
    }
    with pytest.raises(LPError, match=says.get(path.name, "")) as error:
        read_lp(path)
    assert path.name in str(error.value)
