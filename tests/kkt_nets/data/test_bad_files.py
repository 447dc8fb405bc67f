"""Files that are not read: each flaw is refused by the name of the file, and by `LPError`."""

import gzip
import re
from pathlib import Path

import pytest
from data.lp import LPError
from data.readers import read_lp
from model_texts import INTEGERS, MPS_TEXT, RANGES, lp_text, mps_text

SHARED = Path(__file__).resolve().parents[4] / "shared" / "lp"

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
    "senses.mps": (mps_text("ROWS", "OBJSENSE\n MAX\n MIN\nROWS"), "line 4, .*sense is 'MIN'; .*once"),
    "senses_on_a_line.mps": (mps_text("ROWS", "OBJSENSE MIN\n MAX\nROWS"), "the sense is 'MAX'; .*once"),
    "no_sense.mps": (mps_text("ROWS", "OBJSENSE\nROWS"), "section OBJSENSE is empty; write MAX or MIN"),
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
