"""Claims of readers.py: what is read is what is written, or `LPError`; the file's own optimum is the LP's."""

import gzip
import os
from pathlib import Path

import highspy
import pytest
from data.lp import LP, LPError, original_point, unscaled
from data.readers import read_lp
from data.scaling import ruiz
from data.solve import solve
from lp_claims import assert_kkt, dense
from model_texts import INTEGERS, RANGES, lp_text, mps_text
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


SIGNS = [(0, [-1, 0]), (0, [0, -1])]  # x >= 0, y >= 0
SUM = (-1, [-1, -1])  # x + y >= 1


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
