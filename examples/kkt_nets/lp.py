"""Linear programs in one canonical form, `min c'x  s.t.  Ax <= b` with free x: read, rescaled, solved.

Both paths, the flat and the graph one, take the rows of this `A` and no others: they learn from the same LP.
"""

import gzip
import os
import re
import tempfile
import zlib
from collections.abc import Container
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import highspy
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csc_array, csr_array, eye_array, vstack

Vector = NDArray[np.float64]

SUFFIXES = (".mps", ".mps.gz", ".lp", ".lp.gz")
# What HiGHS misreads without a word: a NaN coefficient is dropped; the .lp name `nancy` is NaN times `cy`;
# a number on the left of an .lp row is dropped: `x + 3 >= 5` becomes `x >= 5`, and `1 <= 2 x <= 4` `x <= 4`;
# of two numbers in a row the first is no factor: `2 3 x` becomes `3 x`; a parenthesis becomes part of a name.
COMMENT = {".mps": re.compile(rb"(?m)^\*.*"), ".lp": re.compile(rb"\\.*")}
OUTSIDE_NAME = rb"(?<![\w.!\"#$%&(),;?@'`{}~|])"
NAN = {
    ".mps": re.compile(rb"(?i)(?<!\S)[-+]?nan(\(\w*\))?(?!\S)"),
    ".lp": re.compile(rb"(?i)" + OUTSIDE_NAME + rb"[\d.]*nan"),
}
# How many words the lines of each section have, unless a name has spaces: those HiGHS reads by another way, with a
# warning at best, and on damaged files it crashes or never ends.
MPS_WORDS: dict[bytes, Container[int]] = {
    b"NAME": (),
    b"OBJSENSE": (1,),
    b"MAX": (),
    b"MIN": (),
    b"ROWS": (2,),
    b"COLUMNS": (3, 5),
    b"RHS": range(2, 6),
    b"RANGES": range(2, 6),
    b"BOUNDS": (2, 3, 4),
    b"ENDATA": (),
}
LP_MODEL = re.compile(rb"(?is)(?<!\S)(?:min|max)(?:imi[sz]e|imum)?(?!\S).*")  # from the objective on
# A section's keyword stands anywhere on a line; before a colon it is the name of a row.
# Each search takes a time in proportion to the text, whatever stands in it; so the two ends are looked for one by one.
LP_ROWS = re.compile(rb"(?i)(?<!\S)(?:subject\s+to|such\s+that|st|s\.t\.)(?!\S)(?!\s*:)")
LP_ROWS_END = re.compile(
    rb"(?i)(?<!\S)(?:bounds?|bin(?:ary|aries)?|gen(?:erals?)?|integers?|semi(?:s|-continuous)?|sos|end)(?!\S)(?!\s*:)"
)
LP_NUMBER = (
    rb"(?i)(?P<side>[<>=][-+\s]*)?" + OUTSIDE_NAME + rb"(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?)"
)  # with a side it is a row's right-hand side
LP_CONSTANT = re.compile(LP_NUMBER + rb"\s*(?P<next>[-+<>=])")
LP_TWO_NUMBERS = re.compile(LP_NUMBER + rb"\s+(?P<next>\d|\.\d)")
LP_NAME_WITH_PARENTHESES = re.compile(rb"(?<![^\s<>=+\-*/^:\[\]])[^\s<>=+\-*/^:\[\]]*[()][^\s<>=+\-*/^:\[\]]*")

LARGEST_TEXT = 2**28  # bytes of a file, unpacked; a megabyte of archive may hold a gigabyte of nothing
INTERIOR = [{"solver": "ipx", "run_crossover": "off", "presolve": presolve} for presolve in ("off", "on")]
MIP_NODES = 100  # the search for an infeasible integer model is bounded by these two;
MIP_SECONDS = 10.0  # a model that they leave undecided is taken


class LPError(ValueError):
    """A model that is no instance to learn from; the message says why, and what to do about it."""


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

    Rows come in the model's order: first its constraints, then its variables' bounds; of one constraint or
    variable first the `<=` side, then the `>=` side, negated. A side that is not finite has no row.
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
        """m, the rows of A."""
        return len(self.b)

    @property
    def columns(self) -> int:
        """n, the columns of A."""
        return len(self.c)


@dataclass(frozen=True)
class Solution:
    """A primal-dual optimum of the canonical LP, in that LP's own units."""

    x: Vector  # [n]
    lam: Vector  # [m], >= 0
    objective: float  # c'x
    seconds: float  # the solver's own run time


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

    `A` is `[rows, columns]`, dense or any scipy.sparse format; `c` is `[columns]`; each bound is a vector, or
    a scalar for all, infinite where there is none. The result's rows are in the order that `LP` promises.

    >>> lp = canonical(
    ...     "toy", "doc", [1, 2], [[1, 1]], row_lower=1, row_upper=1, column_lower=0, column_upper=np.inf
    ... )
    >>> lp.A.toarray().astype(int).tolist(), lp.b.astype(int).tolist()
    ([[1, 1], [-1, -1], [-1, 0], [0, -1]], [1, -1, 0, 0])

    Raises:
        LPError: a value is not finite, a lower bound exceeds its upper, or there is no column or no side.
        ValueError: shapes do not fit.
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
    _check_finite("the cost of column", cost)
    _check_finite("A's coefficient", np.asarray(matrix.data))
    lower = _stacked("lower", (row_lower, rows), (column_lower, columns))
    upper = _stacked("upper", (row_upper, rows), (column_upper, columns))
    _check_bounds(lower, upper, rows)

    # Side 2i is the <= side of constraint (or variable) i, side 2i + 1 its >= side.
    sides = np.flatnonzero(np.isfinite(np.column_stack([upper, lower])))
    if len(sides) == 0:
        raise LPError("the model has no finite row or bound; give one with at least one constraint")
    source, sign = sides // 2, np.where(sides % 2 == 0, 1.0, -1.0)
    both = csr_array(vstack([matrix, eye_array(columns, format="csr")], format="csr"))
    body = _rescaled(both[source], sign, np.ones(columns))
    body.sum_duplicates()
    body.eliminate_zeros()
    objective_sign = -1.0 if maximize else 1.0
    return LP(
        name=name,
        family=family,
        A=body,
        b=np.where(sign > 0, upper[source], -lower[source]) + 0.0,  # + 0.0 turns -0.0 into 0.0
        c=objective_sign * cost + 0.0,
        objective_sign=objective_sign,
        objective_offset=float(offset),
        integers=integers,
    )


def read_lp(path: str | os.PathLike[str]) -> LP:
    """The canonical LP of an `.mps`, `.mps.gz`, `.lp` or `.lp.gz` file, named after the file; family "file".

    Integrality is relaxed, and counted in `integers`. What was read is checked, for HiGHS calls garbage, NaN
    and a quadratic objective fine. Refused as well are

    - a file read with a warning, for HiGHS warns where it left entries out, merged or guessed them; and text
      that HiGHS is known to misread without a warning: the LP would not be the file's;
    - a relaxation without an optimum, found by solving it once: it has no KKT point to learn;
    - an integer model that a short search proves infeasible: it asks for a point that does not exist, and a
      network trained on its relaxation would be credited with an answer. One left undecided is taken.

    Raises:
        FileNotFoundError, IsADirectoryError: there is no such file; it is a folder.
        LPError: the file holds no such model; the message names the file and the remedy.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name the model files inside it")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; check the path to the model file")
    try:
        if not path.is_file():
            raise LPError("no regular file but a pipe or a device, which may never end; copy what it holds to a file")
        suffix = _suffix(path)
        highs = _load(path, suffix)
        lp = _canonical_of(highs, name=path.name.removesuffix(suffix))
        _check_solvable(highs, integers=lp.integers)
    except LPError as error:
        raise LPError(f"{path}: {error}") from error
    return lp


def ruiz(lp: LP, iterations: int = 10) -> LP:
    """An equivalent LP in which the largest entry of each row, each column, b and c is near 1.

    Equilibration in the infinity norm (Ruiz 2001, "A scaling algorithm to equilibrate both rows and columns
    norms in matrices", RAL-TR-2001-034), then one scale for b and one for c. Factors are rounded to powers of
    two, so that `unscaled` gives the original back bit for bit; once the iteration has converged, the largest
    entries of rows and columns lie within [1/2, 2], and max|b| and max|c| within [0.7, 1.5]. An empty row or
    column keeps the factor 1, an all-zero b or c the scale 1. With 0 iterations the LP stays as it is.

    Raises:
        ValueError: negative iterations, or an LP that is scaled already.
        LPError: coefficients so far apart that scaling them is not exact.
    """
    if iterations < 0:
        raise ValueError(f"iterations is {iterations}, expected 0 or more: 10 is plenty")
    if lp.scaling is not None:
        raise ValueError(f"{lp.name} is scaled already; rescale unscaled(lp) instead")
    if iterations == 0:
        return lp
    magnitude = abs(lp.A)
    row, column = np.ones(lp.rows), np.ones(lp.columns)
    for _ in range(iterations):
        current = _rescaled(magnitude, row, column)
        row = row / np.sqrt(_one_if_zero(current.max(axis=1).toarray()))
        column = column / np.sqrt(_one_if_zero(current.max(axis=0).toarray()))
    row, column = _power_of_two(row), _power_of_two(column)
    with np.errstate(over="ignore", invalid="ignore"):  # caught below
        b, c = row * lp.b, column * lp.c
        rhs = float(_power_of_two(_one_if_zero(abs(b).max())))
        objective = float(_power_of_two(_one_if_zero(abs(c).max())))
        scaling = Scaling(row, column, rhs, objective)
        scaled = replace(lp, A=_rescaled(lp.A, row, column), b=b / rhs, c=c / objective, scaling=scaling)
        back = unscaled(scaled)
    if not all(map(np.array_equal, (back.A.data, back.b, back.c), (lp.A.data, lp.b, lp.c))):
        raise LPError(f"{lp.name}: its coefficients span more than float64 can rescale; train on it unscaled")
    return scaled


def unscaled(lp: LP) -> LP:
    """The LP that `ruiz` was given, bit for bit; an LP without scaling as it is."""
    s = lp.scaling
    if s is None:
        return lp
    A = _rescaled(lp.A, 1.0 / s.row, 1.0 / s.column)
    return replace(lp, A=A, b=lp.b * s.rhs / s.row, c=lp.c * s.objective / s.column, scaling=None)


def original_point(lp: LP, x: Vector, lam: Vector) -> tuple[Vector, Vector]:
    """A point `x [..., n]`, `lam [..., m]` of `lp` in the units of `unscaled(lp)`.

    From `A' = R A C` and its kin: `x = rhs * C x'`, `lam = objective * R lam'`.

    Raises:
        ValueError: shapes do not fit the LP.
    """
    for argument, value, size in (("x", x, lp.columns), ("lam", lam, lp.rows)):
        if value.shape[-1:] != (size,):
            raise ValueError(f"{argument} has shape {value.shape}, expected [..., {size}]: drop the padding")
    s = lp.scaling
    if s is None:
        return x, lam
    return s.rhs * s.column * x, s.objective * s.row * lam


def original_objective(lp: LP, x: Vector) -> float:
    """The model's own objective at a point `x [n]` of `lp`: its units, its sense (min or max), its offset."""
    scale = 1.0 if lp.scaling is None else lp.scaling.rhs * lp.scaling.objective
    return float(lp.objective_sign * scale * (lp.c @ x) + lp.objective_offset)


def solve(lp: LP, *, interior: bool = False) -> Solution:
    """HiGHS' optimum of the canonical LP as it stands: scaled, if it is scaled.

    Args:
        interior: of several optima, one inside the optimal face, by the interior point method without crossover, where
            the simplex method ends at any of its corners. Exactly the rows that are tight at all optima are tight
            there, and have a positive multiplier, within the solver's tolerance. Of one LP in a thousand or so the
            method finds none as the LP stands; then what it finds after presolve is taken, or else a corner.

    Raises:
        LPError: HiGHS found no optimum (infeasible, unbounded, or numerically too hard).
    """
    m, n = lp.rows, lp.columns
    A: Any = lp.A  # scipy's arrays are untyped
    model = highspy.HighsLp()
    model.num_row_, model.num_col_ = m, n
    model.col_cost_ = lp.c
    model.col_lower_, model.col_upper_ = np.full(n, -np.inf), np.full(n, np.inf)
    model.row_lower_, model.row_upper_ = np.full(m, -np.inf), lp.b
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.start_, model.a_matrix_.index_, model.a_matrix_.value_ = A.indptr, A.indices, A.data
    highs, status = _highs(), highspy.HighsModelStatus.kNotset
    for options in (*(INTERIOR if interior else ()), {}):
        highs = _highs()
        for option, value in options.items():
            highs.setOptionValue(option, value)
        highs.passModel(model)
        highs.run()
        status = highs.getModelStatus()
        if status == highspy.HighsModelStatus.kOptimal:
            break
    if status != highspy.HighsModelStatus.kOptimal:
        said = highs.modelStatusToString(status)
        raise LPError(f"{lp.name} has no optimum (HiGHS: {said!r}); leave it out")
    solution = highs.getSolution()
    x = np.array(solution.col_value)
    lam = np.maximum(-np.array(solution.row_dual), 0.0)  # negative only within HiGHS' tolerance
    return Solution(x=x, lam=lam, objective=float(lp.c @ x), seconds=highs.getRunTime())


def _rescaled(A: Any, row: Vector, column: Vector) -> csr_array:
    """`diag(row) A diag(column)`, with the structure of A shared, not copied."""
    data = A.data * np.repeat(row, np.diff(A.indptr)) * column[A.indices]
    return csr_array((data, A.indices, A.indptr), shape=A.shape)


def _one_if_zero(magnitude: Any) -> Any:
    return np.where(magnitude > 0, magnitude, 1.0)


def _power_of_two(value: Any) -> Any:
    return np.exp2(np.rint(np.log2(value)))


def _stacked(side: str, of_rows: tuple[ArrayLike, int], of_columns: tuple[ArrayLike, int]) -> Vector:
    """The rows' bounds, then the columns', a scalar spread over all of its kind."""
    parts: list[Vector] = []
    for argument, (bound, size) in ((f"row_{side}", of_rows), (f"column_{side}", of_columns)):
        values = np.asarray(bound, dtype=np.float64)
        if values.shape not in ((), (size,)):
            raise ValueError(f"{argument} has shape {values.shape}; give a scalar, or shape ({size},)")
        parts.append(np.broadcast_to(values, size))
    return np.concatenate(parts)


def _check_finite(what: str, values: NDArray[Any]) -> None:
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise LPError(f"{what} {bad[0]} (counted from 0) is {values[bad[0]]}; make it finite")


def _check_bounds(lower: Vector, upper: Vector, rows: int) -> None:
    # A NaN makes the comparison false, and so is caught too.
    bad = np.flatnonzero(~((lower <= upper) & (lower < np.inf) & (upper > -np.inf)))
    if len(bad):
        i = int(bad[0])
        place = f"row {i}" if i < rows else f"column {i - rows}"
        raise LPError(
            f"{place} (counted from 0) has lower bound {lower[i]} and upper bound {upper[i]}, which no point"
            " meets; correct them (in .mps, a variable with a negative upper bound needs a lower bound too)"
        )


def _highs() -> highspy.Highs:
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("small_matrix_value", 1e-12)  # its least: smaller coefficients are dropped
    return highs


def _suffix(path: Path) -> str:
    for suffix in SUFFIXES:
        if path.name.endswith(suffix) and path.name != suffix:
            return suffix
    raise LPError(f"unknown suffix; expected one of {', '.join(SUFFIXES)}, in lower case")


def _load(path: Path, suffix: str) -> highspy.Highs:
    """HiGHS holding the file's model, read without an error or a warning."""
    _check_text(_text(path, suffix), suffix.removesuffix(".gz"))
    highs = _highs()
    with tempfile.TemporaryDirectory() as folder:
        # To a file, for a message that quotes text which is not UTF-8 crashes the logging callback, and with it Python.
        log = Path(folder) / "log"
        highs.setOptionValue("output_flag", True)
        highs.setOptionValue("log_to_console", False)
        highs.setOptionValue("log_file", str(log))
        status = highs.readModel(str(path))
        highs.setOptionValue("log_file", "")  # closes it
        highs.setOptionValue("output_flag", False)
        messages = log.read_text(errors="replace").splitlines() if log.exists() else []
    # Some warnings come with the status kOk.
    said = [" ".join(line.split()) for line in messages if line.startswith(("ERROR", "WARNING"))]
    if said or status != highspy.HighsStatus.kOk:
        raise LPError(f"HiGHS did not read it whole as {suffix} ({said[0] if said else status}); correct it")
    return highs


def _text(path: Path, suffix: str) -> bytes:
    """The file's text, unpacked: HiGHS would read a truncated archive as far as it goes."""
    try:
        with gzip.open(path) if suffix.endswith(".gz") else path.open("rb") as stream:
            text = stream.read(LARGEST_TEXT + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise LPError(f"not a whole gzip archive ({error}); fetch or compress it again") from error
    if len(text) > LARGEST_TEXT:
        raise LPError(
            f"its text has more than {LARGEST_TEXT} bytes; networks here are for smaller models, leave it out"
        )
    return text


def _check_text(text: bytes, kind: str) -> None:
    """Refuse what HiGHS reads without a word, but not as it is written."""
    text = COMMENT[kind].sub(b"", text)
    if kind == ".mps":
        _check_words(text)
    if kind == ".lp":
        rows = LP_ROWS.search(text)
        end = LP_ROWS_END.search(text, rows.end()) if rows else None
        for found in LP_CONSTANT.finditer(text[rows.end() : end.start()] if rows and end else b""):
            if found["side"] is None or found["next"] in b"<>=":
                number = found["number"].decode()
                raise LPError(
                    f"a row has the constant {number} on its left, or two sides, which HiGHS misreads; write"
                    " each row as terms, one comparison, one number"
                )
        model = LP_MODEL.search(text)  # without one it is garbage, in which HiGHS finds no columns
        written = model[0] if model else b""
        for found in LP_TWO_NUMBERS.finditer(written):
            if found["side"] is None:
                number = found["number"].decode()
                raise LPError(f"a number follows the number {number}, which HiGHS misreads; write their product")
        for found in LP_NAME_WITH_PARENTHESES.finditer(written):
            name = found[0]  # x(1) and (x) are names, ( and x) are none
            if name.count(b"(") != name.count(b")") or not name.strip(b"()"):
                said = name.decode(errors="replace")
                raise LPError(f"HiGHS takes {said!r} for a variable's name; multiply the parentheses out")
    if NAN[kind].search(text):
        raise LPError("it holds a NaN (or in .lp a name that begins so), which HiGHS drops; correct it")


def _check_words(text: bytes) -> None:
    """Refuse .mps lines with more words, or fewer, than their section has, and sections of other models."""
    section, expected = b"", ()
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if line[:1].isalpha():
            section, data = words[0].upper(), words[1:]
            expected = MPS_WORDS.get(section, ())
            wrong = section not in MPS_WORDS or (data and section not in (b"NAME", b"OBJSENSE"))
        else:
            wrong = words and len(words) not in expected
        if wrong:
            raise LPError(
                f"line {number} has {len(words)} words, which no line of section {section[:9].decode('latin-1')!r} "
                "has; write the sections of a linear model, each keyword on a line of its own, and no spaces in names"
            )
        if section == b"ENDATA":
            return


def _canonical_of(highs: highspy.Highs, name: str) -> LP:
    """The canonical form of the model that HiGHS holds."""
    if highs.getModel().hessian_.dim_ > 0:
        raise LPError("the objective is quadratic; give a linear model")
    model = highs.getLp()
    if model.num_col_ == 0:
        raise LPError("HiGHS finds no columns in it, an empty model; check that it is what its suffix says")
    kinds = highspy.HighsVarType
    integrality = list(model.integrality_)
    if kinds.kSemiContinuous in integrality or kinds.kSemiInteger in integrality:
        raise LPError("it has semi-continuous or semi-integer columns; model them by rows and binaries")
    matrix = model.a_matrix_
    A = csc_array((matrix.value_, matrix.index_, matrix.start_), shape=(model.num_row_, model.num_col_))
    return canonical(
        name,
        "file",
        model.col_cost_,
        A,
        model.row_lower_,
        model.row_upper_,
        model.col_lower_,
        model.col_upper_,
        maximize=model.sense_ == highspy.ObjSense.kMaximize,
        offset=model.offset_,
        integers=sum(kind != kinds.kContinuous for kind in integrality),
    )


def _check_solvable(highs: highspy.Highs, integers: int) -> None:
    """Refuse a relaxation without an optimum, and an integer model that a short search proves infeasible."""
    highs.setOptionValue("solve_relaxation", True)
    highs.run()
    status = highs.getModelStatus()
    if status != highspy.HighsModelStatus.kOptimal:
        said = highs.modelStatusToString(status)
        raise LPError(f"its LP relaxation has no optimum (HiGHS: {said!r}), so no KKT point; leave it out")
    if integers == 0:
        return
    highs.setOptionValue("solve_relaxation", False)
    highs.setOptionValue("mip_max_improving_sols", 1)  # any integer point will do
    highs.setOptionValue("mip_max_nodes", MIP_NODES)
    highs.setOptionValue("time_limit", highs.getRunTime() + MIP_SECONDS)
    highs.run()
    if highs.getModelStatus() == highspy.HighsModelStatus.kInfeasible:
        raise LPError("the integer model is infeasible, though its relaxation is not; leave it out")
