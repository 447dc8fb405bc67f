"""A strict reader of .mps text: every word is understood, or `LPError` names the line and the word."""

import io
import re
from collections.abc import Callable, Iterator, Mapping
from math import inf
from typing import Any

from data.lp import LPError
from data.written import NUMBER, SENSE, Column, Model

MPS_NUMBER = re.compile(f"[-+]?(?:{NUMBER.replace('eE', 'eEdD')}|(?i:inf(?:inity)?))", re.ASCII)
OBJECTIVE, FREE = -1, -2  # the places of rows that are not constraints
Words = list[str]


def read_mps(text: bytes) -> Model:
    """The model of an .mps file, in free or in fixed format without spaces in names.

    Raises:
        LPError: it is not wholly a linear model.
    """
    mps, section = _MPS(), ""
    for number, raw in enumerate(io.BytesIO(text), start=1):
        line = raw.decode(errors="surrogateescape")
        words = line.split()
        if not words or line.startswith("*"):
            continue
        try:
            if not line[0].isspace():
                section = words.pop(0)
                mps.begin(section, words)
            else:
                mps.data(section, words)
        except LPError as error:
            raise LPError(f"line {number}, in section {section[:40]!r}: {error}") from error
    return mps.finished(section)


def _known(names: Mapping[str, Any], name: str) -> Any:
    if name not in names:
        raise LPError(f"{name[:40]!r} is not declared above; correct the name, or the order of the sections")
    return names[name]


def _number(word: str) -> float:
    if MPS_NUMBER.fullmatch(word) is None:
        raise LPError(f"{word[:40]!r} is not a number; write one such as -1.5e3")
    return float(word.upper().replace("D", "E"))


class _MPS:
    """What the lines of a file have stated so far."""

    def __init__(self) -> None:
        self.model = Model()
        self.rows: dict[str, int] = {}
        self.kinds: list[str] = []  # L, G or E for each constraint
        self.rhs: dict[int, float] = {}
        self.ranges: dict[int, float] = {}
        self.bounded: set[str] = set()
        self.integer = False  # between two markers
        self.sets: dict[str, Words | None] = {}  # the sections that have begun, and the name of each one's set
        self.lines: dict[str, Callable[[Words], None] | None] = {
            "NAME": None, "OBJSENSE": self.sense, "ROWS": self.row, "COLUMNS": self.column, "RHS": self.side,
            "RANGES": self.range, "BOUNDS": self.bound, "ENDATA": None,
        }  # fmt: skip

    def begin(self, section: str, words: Words) -> None:
        if section not in self.lines or section in self.sets or "ENDATA" in self.sets:
            raise LPError("a linear model has no such section, or not twice, or not after ENDATA; remove it")
        self.sets[section] = None
        if words and section == "OBJSENSE":
            self.sense(words)
        elif words and section != "NAME":
            raise LPError(f"{words[0][:40]!r} follows the keyword; put it on a line of its own, and indent the data")

    def data(self, section: str, words: Words) -> None:
        read = self.lines.get(section)
        if read is None:
            raise LPError(f"{words[0][:40]!r} is data where none belongs; remove it")
        read(words)

    def sense(self, words: Words) -> None:
        said = " ".join(words)
        if re.fullmatch(SENSE, said, re.IGNORECASE) is None or self.sets["OBJSENSE"]:
            raise LPError(f"the sense is {said[:40]!r}; write MAX or MIN, once")
        self.sets["OBJSENSE"] = words
        self.model.maximize = said.lower().startswith("max")

    def row(self, words: Words) -> None:
        kind, name = words if len(words) == 2 else ("", "")
        if kind not in ("N", "L", "G", "E") or name in self.rows:
            raise LPError(
                f"{' '.join(words)[:40]!r} is not one of N, L, G, E and a new name without spaces; correct it"
            )
        if kind == "N":
            self.rows[name] = FREE if OBJECTIVE in self.rows.values() else OBJECTIVE
        else:
            self.rows[name] = len(self.kinds)
            self.kinds.append(kind)

    def column(self, words: Words) -> None:
        if words[1:] in (["'MARKER'", "'INTORG'"], ["'MARKER'", "'INTEND'"]):
            self.integer = words[2] == "'INTORG'"
            return
        column = self.model.column(words[0])
        column.integer = self.integer
        for row, value in self.pairs(words[1:]):
            if row == OBJECTIVE:
                column.cost += value
            elif row != FREE:
                self.model.add(row, words[0], value)

    def side(self, words: Words) -> None:
        self.rhs.update(self.pairs(self.without_set("RHS", words, len(words) % 2)))
        self.model.offset = -self.rhs.get(OBJECTIVE, 0.0)

    def range(self, words: Words) -> None:
        self.ranges.update(self.pairs(self.without_set("RANGES", words, len(words) % 2)))
        if min(self.ranges) < 0:
            raise LPError("a row of kind N has no range; remove it")

    def bound(self, words: Words) -> None:
        kind, *words = words
        valued = kind in ("LO", "LI", "UP", "UI", "FX")
        value = _number(words.pop()) if words and (valued or len(words) == 3) else 0.0
        kinds = {
            "LO": (value, None), "LI": (value, None), "UP": (None, value), "UI": (None, value), "FX": (value, value),
            "MI": (-inf, None), "PL": (None, inf), "FR": (-inf, inf), "BV": (0.0, 1.0),
        }  # fmt: skip
        if kind not in kinds or len(words) not in (1, 2):
            raise LPError(f"{kind[:40]!r} with {len(words)} names is not a bound; use one of {', '.join(kinds)}")
        (name,) = self.without_set("BOUNDS", words, len(words) - 1)
        column: Column = _known(self.model.columns, name)
        lower, upper = kinds[kind]
        column.lower = column.lower if lower is None else lower
        column.upper = column.upper if upper is None else upper
        column.integer |= kind in ("LI", "UI", "BV")
        self.bounded.add(name)

    def without_set(self, section: str, words: Words, names: int) -> Words:
        """The words after the name of the section's set. A model has one set, whose name may be left out."""
        if self.sets[section] not in (None, words[:names]):
            raise LPError(f"{' '.join(words[:names])[:40]!r} begins a second set, which readers may ignore; keep one")
        self.sets[section] = words[:names]
        return words[names:]

    def pairs(self, words: Words) -> Iterator[tuple[int, float]]:
        """Places of rows, each with its value."""
        if len(words) not in (2, 4):
            raise LPError(f"{len(words)} words, but expected one or two rows with a value each; use no spaces in names")
        for name, value in zip(words[::2], words[1::2], strict=True):
            yield _known(self.rows, name), _number(value)

    def finished(self, section: str) -> Model:
        if section != "ENDATA" or OBJECTIVE not in self.rows.values() or self.integer:
            raise LPError("it has no ENDATA, no row of kind N, or no marker 'INTEND'; write or fetch it again")
        if "OBJSENSE" in self.sets and not self.sets["OBJSENSE"]:
            raise LPError("section OBJSENSE is empty; write MAX or MIN in it, or remove it")
        for row, kind in enumerate(self.kinds):
            rhs, span = self.rhs.get(row, 0.0), self.ranges.get(row)
            if kind == "E":
                below, above = max(-(span or 0.0), 0.0), max(span or 0.0, 0.0)
            else:
                width = inf if span is None else abs(span)
                below, above = (width, 0.0) if kind == "L" else (0.0, width)
            self.model.sides.append((rhs - below, rhs + above))
        for name, column in self.model.columns.items():
            if column.integer and name not in self.bounded:
                column.upper = 1.0
        return self.model
