"""Claims of readers.py: what is read is what is written, or `LPError`; the file's own optimum is the LP's."""

import gzip
import os
import re
from collections.abc import Callable
from pathlib import Path

import highspy
import pytest
from data.lp import LP, LPError, original_point, unscaled
from data.readers import read_lp
from data.scaling import ruiz
from data.solve import solve
from lp_claims import assert_kkt, dense
from stored_lps import assert_same, original_objective

SHARED = Path(__file__).resolve().parents[4] / "shared" / "lp"
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


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str, str | bytes], LP]:
    """Writes a file, and reads it."""

    def call(name: str, text: str | bytes) -> LP:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_lp(tmp_path / name)

    return call


def native(path: Path) -> tuple[str, float]:
    """HiGHS' own verdict on the file's relaxation, and optimum: no code of lp.py."""
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("solve_relaxation", True)
    highs.readModel(str(path))
    highs.run()
    return highs.modelStatusToString(highs.getModelStatus()), highs.getObjectiveValue()


def test_reads_a_maximisation(read):
    lp = read("my.model.lp", MAXIMISE)
    assert (lp.name, lp.family, lp.integers) == ("my.model", "file", 1)
    assert (lp.objective_sign, lp.objective_offset, lp.c.tolist()) == (-1, 5, [-2, -3])
    assert dense(lp) == [([1, 1], 4), ([1, -1], -1), ([-1, 1], 1), ([0, 1], 3), ([0, -1], 1)]
    solution = solve(lp)
    assert solution.x == pytest.approx([1.5, 2.5])
    assert original_objective(lp, solution.x) == pytest.approx(15.5)


def test_reads_every_kind_of_range_and_bound(read, tmp_path):
    lp = read("ranges.mps", RANGES)
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
    status, optimum = native(tmp_path / "ranges.mps")
    solution = solve(lp)
    assert status == "Optimal"
    assert original_objective(lp, solution.x) == pytest.approx(optimum)
    assert_kkt(lp, solution)


@pytest.mark.parametrize(("suffix", "text"), [(".lp", MAXIMISE), (".mps", RANGES)])
def test_reads_gzip(read, suffix, text):
    assert_same(read(f"a{suffix}.gz", gzip.compress(text.encode())), read(f"a{suffix}", text))


def test_an_empty_row_of_an_mps_file_is_a_row(read):
    lp = read("a.mps", "NAME\nROWS\n N o\n G r\n L e\nCOLUMNS\n x o 1 r 2\nRHS\n R r 1 e 3\nENDATA\n")
    assert dense(lp) == [([-2], -1), ([0], 3), ([-1], 0)]
    assert_same(unscaled(ruiz(lp)), lp)
    assert_kkt(lp, solve(lp))


def test_small_coefficients_are_kept(read):
    assert read("a.mps", mps_text("x o 1 r 1", "x o 1 r 1e-11")).A.toarray()[0].tolist() == [-1e-11, -1]


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


LP_TEXT = "Minimize\n obj: x + 2 y\nSubject To\n c1: x + y >= 1\n{}End\n"
MPS_TEXT = "NAME\nROWS\n N o\n G r\nCOLUMNS\n x o 1 r 1\n y o 1 r 1\nRHS\n R r 1\n{}"
MPS = MPS_TEXT.format("ENDATA\n")
SIGNS = [(0, [-1, 0]), (0, [0, -1])]  # x >= 0, y >= 0
SUM = (-1, [-1, -1])  # x + y >= 1


def lp_text(change: str = "", to: str = "", *, rows: str = "") -> str:
    return LP_TEXT.format(rows).replace(change, to, 1)


def mps_text(change: str = "", to: str = "", *, sections: str = "") -> str:
    return MPS_TEXT.format(sections + "ENDATA\n").replace(change, to, 1)


def row(*coefficients: float, b: float) -> tuple[float, list[float]]:
    return b, list(coefficients)


# What is written in an unusual way, and the LP that it means: objective, offset, rows before the signs of x and y.
READ = {
    "max.lp": (lp_text("Minimize", "MAXIMUM").replace("x + 2 y", "- x - 2 y"), [1, 2], 0, [SUM]),
    "offset.lp": (lp_text("x + 2 y", "7 + x + 2 y - 3"), [1, 2], 4, [SUM]),
    "twice.lp": (lp_text(rows=" c2: x + y + x >= 5\n"), [1, 2], 0, [SUM, row(-2, -1, b=-5)]),
    "signs.lp": (lp_text(rows=" c2: x +- 2 y >= - -4\n"), [1, 2], 0, [SUM, row(-1, 2, b=-4)]),
    "infinite.lp": (lp_text(rows="Bounds\n x <= 1e30\n y <= +inf\n"), [1, 2], 0, [SUM]),
    "crlf.lp": (lp_text().replace("\n", "\r\n"), [1, 2], 0, [SUM]),
    "row_end.lp": (lp_text(rows=" end : x >= 1\n"), [1, 2], 0, [SUM, row(-1, 0, b=-1)]),
    "variable_int.lp": (lp_text("x + 2 y", "int + 2 y").replace("x", "int"), [1, 2], 0, [SUM]),
    "zero.lp": (lp_text("= 1", "= -0"), [1, 2], 0, [row(-1, -1, b=0)]),
    "sense.mps": (mps_text("ROWS", "OBJSENSE MAXIMIZE\nROWS").replace("o 1", "o -1"), [1, 1], 0, [SUM]),
    "sense_2.mps": (mps_text("ROWS", "OBJSENSE\n MAX\nROWS").replace("o 1", "o -1"), [1, 1], 0, [SUM]),
    "rhs_max.mps": (
        mps_text("ROWS", "OBJSENSE\n MAX\nROWS").replace("o 1", "o -1").replace("R r 1", "R r 1 o 5"),
        [1, 1], -5, [SUM],
    ),
    "rhs_objective.mps": (mps_text("R r 1", "R r 1 o 5"), [1, 1], -5, [SUM]),
    "no_set.mps": (mps_text("R r 1", "r 1", sections="BOUNDS\n PL x\n"), [1, 1], 0, [SUM]),
    "numbers.mps": (mps_text("R r 1", "3 1 1").replace("G r", "G 1").replace("r 1", "1 1"), [1, 1], 0, [SUM]),
    "fortran.mps": (mps_text("R r 1", "R r 1.D1"), [1, 1], 0, [row(-1, -1, b=-10)]),
    "two_n.mps": (mps_text(" N o", " N o\n N p").replace("x o 1", "x p 5\n x o 1"), [1, 1], 0, [SUM]),
    "n_last.mps": (mps_text(" N o\n G r", " G r\n N o"), [1, 1], 0, [SUM]),
    "tabs.mps": (mps_text().replace(" ", "\t").replace("\n", "\r\n"), [1, 1], 0, [SUM]),
    "ranges.mps": (mps_text(" G r", " E r", sections="RANGES\n R r -2\n"), [1, 1], 0, [(1, [1, 1]), (1, [-1, -1])]),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_what_is_read_is_what_is_written(read, name):
    text, c, offset, rows = READ[name]
    lp = read(name, text)
    assert (lp.c.tolist(), lp.objective_offset) == (c, offset)
    assert [(b, a) for a, b in dense(lp)] == [*rows, *SIGNS]
    assert lp.objective_sign == (-1 if "max" in name or "sense" in name else 1)


INTEGERS = mps_text(" x o", " M 'MARKER' 'INTORG'\n x o").replace("RHS\n", " M 'MARKER' 'INTEND'\nRHS\n")
BOUNDS = {  # of x, and whether x is an integer
    " UP B x 4": (0, 4, 0), " LO B x 2": (2, None, 0), " MI B x": (None, None, 0), " FR B x 0": (None, None, 0),
    " FX B x 2": (2, 2, 0), " BV B x": (0, 1, 1), " LI B x 2": (2, None, 1), " UI B x 3": (0, 3, 1),
    " UP B x 0": (0, 0, 0), " MI B x\n UP B x -3": (None, -3, 0),
    " UP B x -3\n LO B x -5": (-5, -3, 0), " UP x 1e30": (0, None, 0),
}  # fmt: skip


def bounds_of_x(lp: LP) -> tuple[float | None, float | None, int]:
    upper = next((b for a, b in dense(lp)[1:] if a == [1, 0]), None)
    lower = next((-b for a, b in dense(lp)[1:] if a == [-1, 0]), None)
    return lower, upper, lp.integers


@pytest.mark.parametrize("lines", BOUNDS)
def test_bounds_of_every_kind(read, lines):
    box = mps_text("x o 1", "x o 0", sections=f"BOUNDS\n{lines}\n").replace("R r 1", "R r -9")
    assert bounds_of_x(read("a.mps", box)) == BOUNDS[lines]


@pytest.mark.parametrize(
    ("lines", "expected"), [("", (0, 1, 2)), (" UP B x 4\n", (0, 4, 2)), (" LO B x 1\n", (1, None, 2))]
)
def test_integers_between_markers_are_binary_unless_bounded(read, lines, expected):
    assert bounds_of_x(read("a.mps", INTEGERS.replace("ENDATA", f"BOUNDS\n{lines}ENDATA"))) == expected


PACKED = gzip.compress(RANGES.encode())
OF_OTHER_MODELS = ("SOS", "QUADOBJ", "QSECTION", "QCMATRIX", "INDICATORS", "LAZYCONS", "MAX", "OBJNAME")
ROW = "expected a row such as"
DISAGREE = "HiGHS, the second reader, finds other"
BAD = {
    # .lp: what stands before, after and around the model
    "empty.lp": ("", "line 1: expected Minimize or Maximize"),
    "prose.lp": ("blah blah not a good file\n", "line 1: expected Minimize or Maximize"),
    "minimise.lp": (lp_text("Minimize", "minimise"), "line 1: expected Minimize or Maximize.*found 'minimise'"),
    "maximise.lp": (lp_text("Minimize", "Maximise"), "line 1: expected Minimize or Maximize.*found 'Maximise'"),
    "bom.lp": ("\ufeff" + lp_text(), r"line 1: expected Minimize or Maximize.*\\ufeff"),
    "before.lp": ("3\n" + lp_text(), "line 1: expected Minimize or Maximize"),
    "comment.lp": ("# mine\n" + lp_text(), "line 1: expected Minimize or Maximize"),
    "order.lp": ("Subject To\n c1: x >= 1\nMinimize\n obj: x\nEnd\n", "line 1: expected Minimize or Maximize"),
    "two_objectives.lp": (lp_text("Subject", "Maximize\n o2: x\nSubject"), "line 3: expected another section"),
    "objectives.lp": (lp_text("Minimize", "Minimize multi-objectives"), "expected an objective"),
    "two_st.lp": (lp_text(rows="Subject To\n c2: x - y >= 1\n"), "HiGHS, the second reader, does not read it"),
    "truncated.lp": (lp_text("End\n", ""), "expected End"),
    "after.lp": (lp_text() + "Bounds\n x >= 4\n", "line 7: expected End, with nothing after it"),
    "carriage.lp": (lp_text().replace("\n", "\r"), "no columns"),
    # .lp: statements; of rows below
    "quadratic.lp": (lp_text("2 y", "[ x^2 ] / 2"), "expected an objective"),
    "two_names_cost.lp": (lp_text("x + 2 y", "x 2 y"), "line 2: expected an objective"),
    "hex.lp": (lp_text("x + y", "0x10 + y"), DISAGREE),
    "non_breaking.lp": (lp_text("x + y", "x +\u00a0y"), DISAGREE),
    "infinite_coefficient.lp": (lp_text("x + y", "inf x + y"), "coefficient"),
    "keyword_in_line.lp": ("min x + y st c1: x + 3 >= 5 \n c2: y >= 1 \n end", f"line 1: {ROW}"),
    "subject_in_line.lp": ("min x + y Subject\nTo c1: x + 3 >= 5 Bounds x <= 9 end", f"line 2: {ROW}"),
    "variable_int.lp": (lp_text(rows=" c2: x +\n int >= 1\n c3: x + 3 >= 5\n"), f"line 7: {ROW}"),
    "variable_semi1.lp": (lp_text(rows=" c2: x +\n semi1 >= 1\n c3: x + 3 >= 5\n"), f"line 7: {ROW}"),
    "row_bound.lp": (lp_text(rows=" bound : x >= 1\n c3: x + 3 >= 5\n"), f"line 6: {ROW}"),
    "two_numbers_cost.lp": (lp_text("x + 2 y", "x + 2 .5 y"), "expected an objective"),
    "split_number.lp": (lp_text(">= 1", ">= 1\n 5"), f"line 5: {ROW}"),
    "parentheses_cost.lp": (lp_text("x + 2 y", "2 (x + y)"), "expected an objective"),
    "twice_cost.lp": (lp_text("2 y", "2 y + x"), f"{DISAGREE} costs"),
    "sos.lp": (lp_text(rows="SOS\n s1: S1:: x:1 y:2\n"), "line 5: expected another section"),
    "semicontinuous.lp": (lp_text(rows="Bounds\n x <= 5\nSemi-Continuous\n x\n"), "line 7: expected another section"),
    "general_constraints.lp": (lp_text(rows="General Constraints\n c2: x = MAX ( y , 3 )\n"), "'Constraints'"),
    "bound_unknown.lp": (lp_text(rows="Bounds\n zz <= 4\n"), "line 6: expected a variable that the .* found 'zz"),
    "binary_unknown.lp": (lp_text(rows="Binary\n zz\n"), "expected a variable that the .* found 'zz"),
    "binary_bound.lp": (lp_text(rows="Bounds\n x <= 5\nBinary\n x\n"), f"{DISAGREE} sides"),
    "bound_coefficient.lp": (lp_text(rows="Bounds\n 2 x <= 4\n"), "expected a bound"),
    "bound_negative.lp": (lp_text(rows="Bounds\n x <= -3\n"), "column 0 .* which no point meets"),
    "no_rows.lp": ("Minimize\n obj: 0 x\nBounds\n x free\nEnd\n", "no finite row or bound"),
    # .mps: sections
    "empty.mps": ("", "no ENDATA"),
    "truncated.mps": (MPS_TEXT.format(""), "no ENDATA"),
    "no_columns.mps": ("NAME\nROWS\n N o\n G r\nCOLUMNS\nRHS\nENDATA\n", "no columns"),
    "no_objective.mps": (mps_text(" N o\n", "").replace("o 1 ", ""), "no row of kind N"),
    "bom.mps": ("\ufeff" + mps_text(), r"line 1, in section '\\ufeffNAME'"),
    "after.mps": (mps_text() + "BOUNDS\n UP B x 0\n", "line 11, in section 'BOUNDS': .*after ENDATA"),
    "sense.mps": (mps_text("ROWS", "OBJSENSE\n MAXI\nROWS"), "the sense is 'MAXI'; write MAX or MIN"),
    "twice.mps": (mps_text(sections="RHS\n R o 3\n"), "not twice"),
    "lower.mps": (mps_text().lower(), "no such section"),
    "indented.mps": (mps_text("RHS", " RHS"), "0 words, but expected"),
    "not_indented.mps": (mps_text(" R r 1", "RHS r 1"), "not twice"),
    "columns_first.mps": ("NAME\nCOLUMNS\n x o 1\nROWS\n N o\nENDATA\n", "line 3, .*'o' is not declared"),
    "bounds_first.mps": (mps_text("COLUMNS", "BOUNDS\n UP B x 4\nCOLUMNS"), "line 6, .* 'x' is not declared"),
    "ranges_first.mps": (mps_text("RHS", "RANGES\n R r 2\nRHS"), f"{DISAGREE} sides"),
    # .mps: words
    "infinite_cost.mps": (mps_text("x o 1", "x o 1e30"), "cost of column 0"),
    "infinite_side.mps": (mps_text("R r 1", "R r 1e30"), "row 0"),
    "tiny.mps": (mps_text("x o 1 r 1", "x o 1 r 1e-13"), f"{DISAGREE} entries of a row"),
    "missing_word.mps": (mps_text("x o 1 r 1", "x o 1 r"), "3 words, but expected"),
    "more_words.mps": (mps_text("x o 1 r 1", "x o 1 r 1 5"), "5 words, but expected"),
    "dollar.mps": (mps_text("x o 1 r 1", "x o 1 r 1 $ mine"), "6 words, but expected"),
    "spaces.mps": (mps_text("G r", "G my row"), "'G my row' is not one of N, L, G, E and a new name"),
    "kind.mps": (mps_text("G r", "X r"), "'X r' is not one of N, L, G, E"),
    "same_row.mps": (mps_text("G r", "G r\n G r"), "'G r' is not .* a new name"),
    "duplicate.mps": (mps_text("RHS\n", " y r 5\nRHS\n"), f"{DISAGREE} coefficients"),
    "same_column.mps": (mps_text("RHS\n", " x r 5\nRHS\n"), f"{DISAGREE} counts"),
    "stray_row.mps": (mps_text(sections=" R nope 1\n"), "'nope' is not declared"),
    "stray_column.mps": (mps_text(sections="BOUNDS\n UP B pp 3\n"), "line 11, .*'pp' is not declared"),
    "sets.mps": (mps_text("R r 1", "R r 1\n Q o 2"), "'Q' begins a second set"),
    "same_side.mps": (mps_text("R r 1", "R r 1\n R r 2"), f"{DISAGREE} sides"),
    "side_of_n.mps": (mps_text(" N o", " N o\n N p").replace("R r 1", "R r 1 p 5"), f"{DISAGREE} costs or off"),
    "range_of_n.mps": (mps_text(sections="RANGES\n R o 2\n"), "no range"),
    "open_marker.mps": (INTEGERS.replace(" M 'MARKER' 'INTEND'\n", ""), "no marker 'INTEND'"),
    "sos_marker.mps": (INTEGERS.replace("INTORG", "SOSORG"), "'MARKER'. is not declared"),
    "semicontinuous.mps": (mps_text(sections="BOUNDS\n SC B x 2\n"), "'SC' with 2 names is not a bound"),
    "no_value.mps": (mps_text(sections="BOUNDS\n UP B x\n"), "'x' is not a number"),
    "two_bounds.mps": (mps_text(sections="BOUNDS\n FR B x\n UP B x 4\n"), f"{DISAGREE} counts"),
    "crossed.mps": (mps_text(sections="BOUNDS\n UP B x -5\n"), "column 0 .* lower bound 0.0 and upper bound -5.0"),
    # what the models ask for
    "infeasible.lp": (lp_text(rows=" c2: x + y <= 0.5\n"), "no optimum"),
    "contradiction.mps": (mps_text(" x o 1 r 1\n y o 1 r 1", " x o 1"), "no optimum"),
    "unbounded.lp": (lp_text(rows="Bounds\n y free\n"), "no optimum"),
    "infeasible_integer.lp": (lp_text(rows=" c2: 2 x + 2 y = 3\nGeneral\n x\n y\n"), "integer model is infeasible"),
    "model.txt": (lp_text(), "unknown suffix"),
    ".lp": (lp_text(), "unknown suffix"),
    "plain.mps.gz": (mps_text(), "gzip"),
    "bom.lp.gz": (gzip.compress(("\ufeff" + lp_text()).encode()), "line 1: expected Minimize or Maximize"),
    **{f"cut{cut}.mps.gz": (PACKED[:-cut], "not a whole gzip archive")  # HiGHS reads on without the checksum
        for cut in (1, 8, 9, len(PACKED) // 2, len(PACKED) - 5)},
    **{f"{section}.mps": (mps_text("COLUMNS", f"{section}\n x x 2\nCOLUMNS"),
        f"line 5, in section '{section}': a linear model has no such section") for section in OF_OTHER_MODELS},
}  # fmt: skip


BAD_ROWS = [
    "x y >= 3", "1,5 x + y >= 3", "1,5x + y >= 3", "x + y >= 3,5", "x >= 1_000", "1'000 x >= 3", "x >= 9/10",
    "x/2 >= 3", "1d5 + x >= 3", "1d-5 x >= 3", "2e5 + x >= 3", "x \u2212 y >= 3", "x \u2265 3", "x\0 >= 3", ". x >= 3",
    ".x >= 3", "2 * x >= 3", "x >= 3;", "x[1] >= 3", "x + nancy <= 9", "x + infx <= 9", "1 <= 2 x + y <= 4", "4 >= x",
    "x >= 1 <= 4", "x + .5e1 + y >= 6", "3 + x >= 5", "x >= 5 + 3", "x >= 5 - y", "x >= y", "0 >= -5", ">= -5",
    "x + st >= 1", "x + free >= 1", "x >=", "x + y", "x => 3", "x < 3", "x <> 3", "2 3.5 x >= 5", "x >= 1 000",
    "x >= 1.2.3", "2 ( x + y ) >= 5", "2(x + y)>=5", "x + [ x^2 ] <= 5", "b = 1 -> x <= 3", "x = [1, 4]",
    "my row: x >= 1", "r:: x >= 1",
]  # fmt: skip


@pytest.mark.parametrize("statement", BAD_ROWS)
def test_rows_that_a_reader_takes_otherwise_are_refused(read, statement):
    with pytest.raises(LPError, match=r"a\.lp: line [5-7]: expected a row such as"):
        read("a.lp", lp_text(rows=f" c2: {statement}\n"))


@pytest.mark.parametrize("word", ["9/10", "4abc", "1,5", "0x10", "abc", "nan", "1e", "1_0", "--1", "\u0661"])
@pytest.mark.parametrize("place", ["R r 1", "x o 1", "r 1\n y", "UP B x 4"])
def test_words_that_are_not_numbers_are_refused(read, word, place):
    text = mps_text(sections="BOUNDS\n UP B x 4\n").replace(place, re.sub(r"\d", word, place, count=1))
    with pytest.raises(LPError, match=f"a.mps: line .*{re.escape(repr(word))} is not a number"):
        read("a.mps", text)


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_by_name(read, tmp_path, name):
    text, says = BAD[name]
    with pytest.raises(LPError, match=says) as error:
        read(name, text)
    assert str(error.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(error.value)
    assert (tmp_path / name).read_bytes() == (text if isinstance(text, bytes) else text.encode())


def test_a_file_name_need_not_be_utf8(tmp_path):
    good, bad = (os.fsencode(tmp_path / name) + b"caf\xe9.lp" for name in ("good", "bad"))
    Path(os.fsdecode(good)).write_text(lp_text())
    Path(os.fsdecode(bad)).write_text("blah")
    assert read_lp(os.fsdecode(good)).name == r"goodcaf\xe9"
    with pytest.raises(LPError, match=r"badcaf\\xe9\.lp: line 1"):
        read_lp(os.fsdecode(bad))
    with pytest.raises(FileNotFoundError, match=r"gone\\xe9\.lp does not exist"):
        read_lp(tmp_path / "gone\udce9.lp")


def test_their_good_twins_are_read(read):
    """What the bad files are made of is fine without the flaw."""
    for lp in (read("good.lp", lp_text()), read("good.mps", mps_text())):
        assert solve(lp).objective == pytest.approx(1)


def test_what_only_looks_like_a_misreading_is_read(read):
    """Constants in the objective, two-sided bounds, comments, names, rows that begin with a sign."""
    lp = read(
        "fine.lp",
        "\\ nan, 1 <= x + y <= 4\nMinimize\n obj: 3 + x1 + 2 y.2 - 1 x3n\nSubject To\n"
        " c1: x1 + 2e+0 y.2 >= 1e0\n - x1 - 3 x3n >= -8 \\ 7 <= x1\n end_3: 2e-1x1 +.5 y.2<=+4\n"
        "Bounds\n 1 <= y.2 <= 5\n -1 <= x3n\nEnd\n",
    )
    assert lp.objective_offset == 3
    assert dense(lp)[:3] == [([-1, -2, 0], -1), ([1, 0, 3], 8), ([0.2, 0.5, 0], 4)]
    # A row may begin with a number, beside the last one's right-hand side.
    text = "min x(1) + (y) st c1: x(1) + (y) >= +- 5 6 x(1) >= 2 - (y) >= -9 Bounds x(1) <= 4\n5 <= (y) end"
    assert dense(read("rows.lp", text))[:3] == [([-1, -1], 5), ([-6, 0], -2), ([0, 1], 9)]
    assert read("names.mps", "* nan\n" + mps_text().replace("x o", "nancy o")).columns == 2  # "nan" within a name


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
        "1448.lp": "expected Minimize or Maximize",
        "garbage.lp": "expected Minimize or Maximize",
        "garbage.mps": "line 2, .* no such section",
        "infeasible-mip0.mps": "integer model is infeasible",
        "nan0.mps": "'nan' is not a number",
        "qpunbounded.lp": "expected an objective",
    }
    with pytest.raises(LPError, match=says.get(path.name, "")) as error:
        read_lp(path)
    assert path.name in str(error.value)
