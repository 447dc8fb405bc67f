"""Read `.mps` and `.lp` files. What is read is what is written, or `LPError`.

A strict reader of our own takes nothing that it does not understand. HiGHS reads the file too and must find the same
LP: each of the two misreads other things.
"""

import gzip
import os
import re
import zlib
from pathlib import Path
from typing import Any

import highspy
import numpy as np
from data.lp import LP, LPError, canonical
from data.lp_format import read_lp_format
from data.mps_format import read_mps
from data.scaling import check_float32
from data.solve import check_integers, quiet_highs, solve
from data.written import Model
from numpy.typing import NDArray
from scipy.sparse import csc_array

READERS = {".mps": read_mps, ".lp": read_lp_format}
LARGEST_TEXT = 2**28  # bytes of a file, unpacked; a megabyte of archive may hold a gigabyte of nothing


def read_lp(path: str | os.PathLike[str]) -> LP:
    """The canonical LP of an `.mps`, `.mps.gz`, `.lp` or `.lp.gz` file, named after the file; family "file".

    Integrality is relaxed, and counted in `integers`. Refused are

    - a file that is not wholly a linear model in its format, or in which HiGHS finds another LP;
    - a relaxation without an optimum: it has no KKT point to learn;
    - an LP whose optimum is lost when its numbers are rounded to float32, in which networks see them;
    - an integer model that a short search proves infeasible: training on its relaxation would reward solutions of a
      problem that has none. A model that the search leaves undecided is taken.

    Raises:
        FileNotFoundError, IsADirectoryError: there is no such file; it is a folder.
        LPError: the file holds no such model; the message names the file and the remedy.
    """
    path = Path(path)
    shown = os.fsencode(path).decode(errors="backslashreplace")  # a name need not be UTF-8
    if path.is_dir():
        raise IsADirectoryError(f"{shown} is a folder; name the model files inside it")
    if not path.exists():
        raise FileNotFoundError(f"{shown} does not exist; check the path to the model file")
    try:
        if not path.is_file():
            raise LPError("not a regular file but a pipe or a device, which may never end; copy its content to a file")
        name, suffix = _split(Path(shown).name)
        lp, highs = _agreed(path, name, READERS[suffix](_text(path)))
        try:
            optimum = solve(lp)
        except LPError as error:
            raise LPError(f"its LP relaxation has no optimum, so no KKT point; leave it out ({error})") from error
        check_float32(lp, optimum)
        if lp.integers:
            check_integers(highs)
    except LPError as error:
        raise LPError(f"{shown}: {error}") from error
    return lp


def _split(name: str) -> tuple[str, str]:
    """A file's name without its suffix, and the suffix without `.gz`."""
    found = re.fullmatch(r"(.+)(\.mps|\.lp)(?:\.gz)?", name, re.DOTALL)
    if found is None:
        raise LPError("unknown suffix; expected one of .mps, .mps.gz, .lp, .lp.gz, in lower case")
    return found[1], found[2]


def _text(path: Path) -> bytes:
    """The file's text, unpacked and whole."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            text = stream.read(LARGEST_TEXT + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise LPError(f"not a whole gzip archive ({error}); fetch or compress it again") from error
    if len(text) > LARGEST_TEXT:
        raise LPError(
            f"its text has more than {LARGEST_TEXT} bytes; networks here are for smaller models, leave it out"
        )
    return text


def _agreed(path: Path, name: str, model: Model) -> tuple[LP, highspy.Highs]:
    """The canonical LP of the model, and HiGHS, which has read the same from the file."""
    lp, highs = model.canonical(name), quiet_highs()
    file: Any = os.fsencode(path)  # as str it would have to be UTF-8
    if highs.readModel(file) == highspy.HighsStatus.kError:
        raise LPError("HiGHS, the second reader, does not read it; write each section once, no coefficient above 1e15")
    other = _parts(_canonical(highs.getLp(), model.maximize))
    for what, mine in _parts(lp).items():
        if not np.array_equal(mine, its := other[what]):
            at = int(np.flatnonzero(mine != its)[0])
            raise LPError(
                f"HiGHS, the second reader, finds other {what}: {its[at]:.17g}, not {mine[at]:.17g} at {at} (from 0); "
                "state each entry and bound once, sections in the usual order, no coefficient below 1e-12"
            )
    return lp, highs


def _parts(lp: LP) -> dict[str, NDArray[Any]]:
    """What makes the LP, each part under the name that an error gives it."""
    return {
        "counts of rows, columns and integers": np.array([lp.rows, lp.columns, lp.integers]),
        "costs or offset": np.append(lp.c, lp.objective_offset),
        "sides": lp.b,
        "entries of a row": lp.A.indptr,
        "places of entries": lp.A.indices,
        "coefficients": lp.A.data,
    }


def _canonical(model: highspy.HighsLp, maximize: bool) -> LP:
    """The canonical form of what HiGHS has read. The sense is ours: HiGHS overlooks `OBJSENSE MAXIMIZE` on one line."""
    matrix = model.a_matrix_
    A = csc_array((matrix.value_, matrix.index_, matrix.start_), shape=(model.num_row_, model.num_col_))
    sides = model.row_lower_, model.row_upper_, model.col_lower_, model.col_upper_
    integers = sum(kind != highspy.HighsVarType.kContinuous for kind in model.integrality_)
    return canonical("", "file", model.col_cost_, A, *sides, maximize=maximize, offset=model.offset_, integers=integers)
