"""Model files: mutations of real ones, of generated ones, and of bad ones, for `lp.read_lp`."""

import gzip
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highspy
import lp as lps
import numpy as np
from generators import FAMILIES, generate

from ..judging import ROOT, Input, Target

LARGEST = 30_000  # bytes of a file that is mutated
WORDS = b"""
1e999 -1e999 1e-999 1e308 1e-320 nan NaN -nan inf -inf Infinity 0 -0 00 +1 1. .5 1e 0x10 1,5 1d5 99999999999999999999
2147483648 -2147483649 x c1 r1 ( ) [ ] ^2 * / < <= =< >= = == : ; \\ ! $ & 'MARKER' 'INTORG' NAME ROWS COLUMNS RHS
RANGES BOUNDS ENDATA OBJSENSE MAX SOS QUADOBJ QSECTION N L G E FR MI PL BV LI UI SC FX UP LO Minimize Maximize
subject to st bounds general binary free semi-continuous sos1 S1:: end
"""
LUMPS = (b"", b"\0", b"\xff", b"\xc3\xa9", b"\xc2\xa0", b"a" * 300, b"1" * 5000, b"(" * 2000, b"st " * 2000)
TOKENS = (*WORDS.split(), *LUMPS)

Mutation = Callable[[random.Random, bytes], bytes]


def target() -> Target:
    lps.MIP_SECONDS = 1.0  # the ten that a user waits are too many here
    corpus = [(path.name, path.read_bytes()) for path in sorted((ROOT.parent / "shared" / "lp").glob("**/*.*"))]
    corpus = [(name, text) for name, text in corpus if len(text) <= LARGEST] + _generated()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))

    def make(rng: random.Random) -> Input:
        name, text = rng.choice(corpus)
        done: list[str] = []
        for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 8))):
            mutation = rng.choice(MUTATIONS)
            done.append(mutation.__name__.strip("_"))
            text = mutation(rng, text)[: 4 * LARGEST]
        suffix = rng.choice((Path(name).suffix,) * 8 + (".mps", ".lp", ".txt", ""))
        if rng.random() < 0.1:
            text, suffix = _packed(rng, text), suffix + ".gz"
        path = folder / f"model{suffix}"
        path.write_bytes(text)

        def refuses(error: BaseException) -> bool:
            return type(error) is lps.LPError and str(error).startswith(f"{path}: ")

        return Input(f"{name} as {path.name} after {done}", lambda: _read(path), refuses)

    return make


def _read(path: Path) -> None:
    lp = lps.read_lp(path)
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
        scaled = lps.ruiz(lp)
    except lps.LPError:
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


def _bytes(rng: random.Random, text: bytes) -> bytes:
    changed = bytearray(text)
    for _ in range(min(rng.choice((1, 1, 3, 20)), len(changed))):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _slice(rng: random.Random, text: bytes) -> bytes:
    begin, end = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
    return rng.choice((text[:end], text[begin:], text[:begin] + text[end:], text + text[begin:end]))


def _lines(rng: random.Random, text: bytes) -> bytes:
    lines = text.splitlines(keepends=True)
    for _ in range(rng.choice((1, 1, 2, 5)) if lines else 0):
        a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
        way = rng.randrange(4)
        if way == 0:
            lines[a], lines[b] = lines[b], lines[a]
        elif way == 1:
            lines.insert(a, lines[b])
        elif way == 2 and len(lines) > 1:
            del lines[a]
        else:
            lines[a] = (lines[a] * rng.choice((2, 50)))[:LARGEST]
    return b"".join(lines)


def _tokens(rng: random.Random, text: bytes) -> bytes:
    lines = text.splitlines(keepends=True)
    for _ in range(rng.choice((1, 1, 2, 5)) if lines else 0):
        place = rng.randrange(len(lines))
        tokens = lines[place].split(b" ")
        way, new = rng.randrange(len(tokens)), rng.choice(TOKENS)
        if rng.random() < 0.7:
            tokens[way] = new
        else:
            tokens.insert(way, new)
        lines[place] = b" ".join(tokens)
    return b"".join(lines)


def _numbers(rng: random.Random, text: bytes) -> bytes:
    tokens = text.split(b" ")
    numeric = [
        i for i, token in enumerate(tokens) if token.strip()[-1:].isdigit() and token.strip()[:1] in b"+-.0123456789"
    ]
    for place in rng.sample(numeric, min(rng.choice((1, 1, 3)), len(numeric))):
        end = b"\n" if tokens[place].endswith(b"\n") else b""
        tokens[place] = rng.choice(TOKENS[:18]) + end
    return b" ".join(tokens)


def _section(rng: random.Random, text: bytes) -> bytes:
    """A section twice, or gone, or in another place."""
    lines = text.splitlines(keepends=True)
    heads = [i for i, line in enumerate(lines) if line[:1].isalpha()]
    if len(heads) < 2:
        return text
    begin = rng.randrange(len(heads) - 1)
    section = lines[heads[begin] : heads[begin + 1]]
    rest = lines[: heads[begin]] + lines[heads[begin + 1] :]
    place = rng.randint(0, len(rest))
    return b"".join(rng.choice((rest, rest[:place] + section + rest[place:], lines[:place] + section + lines[place:])))


def _endings(rng: random.Random, text: bytes) -> bytes:
    ways = (
        lambda: text.replace(b"\n", b"\r\n"),
        lambda: text.replace(b"\n", b"\r"),
        lambda: b"\xef\xbb\xbf" + text,
        lambda: text.decode("latin-1").encode("utf-16"),
        lambda: text.replace(b" ", b"\t"),
        lambda: text.replace(b" ", b"\0"),
        lambda: text.upper(),
        lambda: text.lower(),
        lambda: b"",
        lambda: text.replace(b"\n", b" "),
    )
    return rng.choice(ways)()


def _packed(rng: random.Random, text: bytes) -> bytes:
    """An archive: whole, cut short, damaged, doubled, none at all, or of a few hundred MiB of nothing."""
    whole = gzip.compress(text, mtime=0)
    ways = (
        lambda: whole,
        lambda: whole[: rng.randint(0, len(whole))],
        lambda: _bytes(rng, whole),
        lambda: whole + whole,
        lambda: whole + b"trailing",
        lambda: text,
        lambda: gzip.compress(whole, mtime=0),
        lambda: _bomb(),
    )
    return rng.choices(ways, weights=(4, 4, 4, 2, 2, 2, 2, 0.2))[0]()


def _bomb() -> bytes:
    return b"".join([gzip.compress(b"\n" * 2**26, mtime=0)] * 64)  # 4 GiB in members of 64 MiB


MUTATIONS: tuple[Mutation, ...] = (_bytes, _slice, _lines, _tokens, _tokens, _numbers, _numbers, _section, _endings)
