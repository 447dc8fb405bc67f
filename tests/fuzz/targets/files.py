"""Model files: real ones, generated ones and bad ones, with edits, for `read_lp`."""

import gzip
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highspy
import numpy as np
from data import solve
from data.generators import FAMILIES, generate
from data.lp import LPError
from data.readers import read_lp
from data.scaling import ruiz
from hypothesis import strategies as st

from ..judging import ROOT, Input
from .pool import Draw, below, made_by, one

LARGEST = 30_000  # bytes of a file that is mutated
WORDS = b"""
1e999 -1e999 1e-999 1e308 1e-320 nan NaN -nan inf -inf Infinity 0 -0 00 +1 1. .5 1e 0x10 1,5 1d5 99999999999999999999
2147483648 -2147483649 x c1 r1 ( ) [ ] ^2 * / < <= =< >= = == : ; \\ ! $ & 'MARKER' 'INTORG' NAME ROWS COLUMNS RHS
RANGES BOUNDS ENDATA OBJSENSE MAX SOS QUADOBJ QSECTION N L G E FR MI PL BV LI UI SC FX UP LO Minimize Maximize
subject to st bounds general binary free semi-continuous sos1 S1:: end
minimise int => 9/10 4abc 1_000 ,5 .x x(1 \xe2\x88\x92
"""
LUMPS = (b"", b"\0", b"\xff", b"\xc3\xa9", b"\xc2\xa0", b"a" * 300, b"1" * 5000, b"(" * 2000, b"st " * 2000)
TOKENS = (*WORDS.split(), *LUMPS)
NUMBERS = TOKENS[:18]
# How a text is cut into pieces, which pieces are edited, and what takes the place of one.
PIECES: dict[str, tuple[bytes, bytes, Any]] = {
    "bytes": (rb"(?s).", rb"(?s).", st.binary(min_size=1, max_size=1)),
    "tokens": (rb"\S+|\s+", rb"\S", st.sampled_from(TOKENS)),
    "numbers": (rb"\S+|\s+", rb"[-+.\d].*\d$|\d", st.sampled_from(NUMBERS)),
    "lines": (rb"[^\n]*\n?", rb"", st.sampled_from(TOKENS)),
    "sections": (rb"(?m)^[A-Za-z].*\n(?:[^A-Za-z].*\n)*|.+|\n", rb"", st.just(b"")),
}
ENDINGS: tuple[Callable[[bytes], bytes], ...] = (
    lambda text: text.replace(b"\n", b"\r\n"),
    lambda text: text.replace(b"\n", b"\r"),
    lambda text: b"\xef\xbb\xbf" + text,
    lambda text: text.decode("latin-1").encode("utf-16"),
    lambda text: text.replace(b" ", b"\t"),
    lambda text: text.replace(b" ", b"\0"),
    bytes.upper,
    bytes.lower,
    lambda text: b"",
    lambda text: text.replace(b"\n", b" "),
)


def inputs() -> st.SearchStrategy[Input]:
    solve.MIP_SECONDS = 1.0  # a user waits ten
    corpus = [(path.name, path.read_bytes()) for path in sorted((ROOT.parent / "shared" / "lp").glob("**/*.*"))]
    corpus = [(name, text) for name, text in corpus if len(text) <= LARGEST] + _generated()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))

    def make(draw: Draw) -> Input:
        name, text = one(draw, corpus)
        done: list[str] = []
        for _ in range(one(draw, (0, 1, 1, 1, 2, 3, 8))):
            done.append(one(draw, (*PIECES, "tokens", "numbers", "slice", "endings")))
            text = _edited(draw, done[-1], text)[: 4 * LARGEST]
        suffix = one(draw, (Path(name).suffix,) * 8 + (".mps", ".lp", ".txt", ""))
        if below(draw, 10) == 9:
            text, suffix = _packed(draw, text), suffix + ".gz"
        path = folder / f"model{suffix}"
        path.write_bytes(text)

        def refuses(error: BaseException) -> bool:
            return type(error) is LPError and str(error).startswith(f"{path}: ")

        return Input(f"{name} as {path.name} after {done}", lambda: _read(path), refuses)

    return made_by(make)


def _edited(draw: Draw, kind: str, text: bytes) -> bytes:
    """Exchange, insert, delete, swap or repeat some of the text's pieces, or cut it at two places."""
    if kind == "endings":
        return one(draw, ENDINGS)(text)
    if kind == "slice":
        begin, end = sorted((below(draw, len(text) + 1), below(draw, len(text) + 1)))
        return one(draw, (text[:end], text[begin:], text[:begin] + text[end:], text + text[begin:end]))
    pattern, edited, new = PIECES[kind]
    pieces = re.findall(pattern, text)
    places = [i for i, piece in enumerate(pieces) if re.match(edited, piece)]
    for _ in range(one(draw, (1, 1, 2, 5)) if places else 0):
        a, b = one(draw, places), one(draw, places)
        way = one(draw, ("exchange", "exchange", "exchange", "insert", "swap", "delete", "repeat"))
        if way == "swap":
            pieces[a], pieces[b] = pieces[b], pieces[a]
        else:
            ways = {"exchange": draw(new), "insert": pieces[a] + pieces[b], "delete": b"", "repeat": pieces[a] * 50}
            pieces[a] = ways[way][:LARGEST]
    return b"".join(pieces)


def _packed(draw: Draw, text: bytes) -> bytes:
    """An archive: whole, cut short, damaged, doubled, not an archive, or of 4 GiB of nothing."""
    whole = gzip.compress(text, mtime=0)
    ways: tuple[Callable[[], bytes], ...] = (
        lambda: whole,
        lambda: whole[: below(draw, len(whole))],
        lambda: _edited(draw, "bytes", whole),
        lambda: whole + whole,
        lambda: whole + b"trailing",
        lambda: text,
        lambda: gzip.compress(whole, mtime=0),
        lambda: b"".join([gzip.compress(b"\n" * 2**26, mtime=0)] * 64),
    )
    return one(draw, ways[:3] * 9 + ways[3:7] * 4 + ways[7:])()


def _read(path: Path) -> None:
    lp = read_lp(path)
    A = lp.A
    assert lp.columns >= 1, "no columns"
    assert lp.rows >= 1, "no rows"
    assert A.shape == (lp.rows, lp.columns), "A's shape is not that of b and c"
    assert A.has_canonical_format, "A has duplicates, or columns out of order"
    assert all(np.isfinite(part).all() for part in (A.data, lp.b, lp.c)), "a number is not finite"
    assert np.all(A.data != 0), "a stored zero"
    assert np.isfinite(lp.objective_offset), "the offset is not finite"
    assert lp.family == "file", "another family"
    try:
        scaled = ruiz(lp)
    except LPError:
        return
    assert np.isfinite(scaled.A.data).all(), "a scaled number is not finite"


def _generated() -> list[tuple[str, bytes]]:
    """A small LP of each family, as HiGHS writes it in both formats."""
    texts: list[tuple[str, bytes]] = []
    with tempfile.TemporaryDirectory() as folder:
        for family in FAMILIES:
            lp: Any = generate(family, FAMILIES[family].smallest_size, seed=0)
            highs = highspy.Highs()
            highs.setOptionValue("output_flag", False)
            for cost in lp.c:
                highs.addCol(cost, -highspy.kHighsInf, highspy.kHighsInf, 0, [], [])
            for i, side in enumerate(lp.b):
                row = slice(lp.A.indptr[i], lp.A.indptr[i + 1])
                highs.addRow(-highspy.kHighsInf, side, row.stop - row.start, lp.A.indices[row], lp.A.data[row])
            for suffix in (".mps", ".lp"):
                path = Path(folder) / f"{family}{suffix}"
                highs.writeModel(str(path))
                texts.append((path.name, path.read_bytes()))
    return texts
