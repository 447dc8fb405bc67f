"""A strict reader of .lp text: every word is understood, or `LPError` names the line.

It takes the core of the format, on which readers agree, and refuses what some of them guess or ignore.
"""

import math
import re
import sys
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import Any

from data.lp import LPError
from data.written import NUMBER, SENSE, Column, Model

# A keyword may be anywhere on a line; before a colon it is the name of a row.
LP_SECTIONS = {
    "objective": SENSE,
    "row": r"subject\s+to|such\s+that|st|s\.t\.",
    "bound": "bounds?",
    "binary": "bin(?:ary|aries)?",
    "general": "gen(?:erals?)?|integers?",
    "other": "semi(?:s|-continuous)?|sos",
    "end": "end",
}
# The kinds of words, a letter for each. A name that follows a number at once begins with a letter, but not as an
# exponent of Fortran's does. No name begins with nan or inf, which C reads as a number.
LP_WORD = re.compile(
    rf"\\[^\n]*|(?P<k>(?i:{'|'.join(LP_SECTIONS.values())})(?!\S)(?!\s*:))"
    rf"|(?P<n>{NUMBER}(?=[\sA-Za-z<>=+:\\-]|$)(?![dD][-+]?\d)|(?i:inf(?:inity)?)(?=[\s<>=+\\-]|$))"
    r"|(?P<f>(?i:free)(?!\S))|(?P<s>[-+])|(?P<o>[<>]=|=(?![<>=]))|(?P<c>:)"
    r"|(?P<w>(?!(?i:nan|inf))(?:[^\W\d]|[!\"#$%&(?@'`{}~|])(?:\w|[!\"#$%&(),.;?@'`{}~|])*)|(?P<x>\S)"
)
LP_STATEMENTS = {  # of each section, in these letters, and in words
    "objective": (
        re.compile("(?:wc)?(?:s*(?:nw?|w)(?:s+(?:nw?|w))*)?(?=k)"),
        "an objective such as `cost: 2 x - y + 7`",
    ),
    "row": (re.compile("(?:wc)?s*n?w(?:s+n?w)*os*n"), "a row such as `name: 2 x - 3.5e1 y >= 4`, without constants"),
    "bound": (re.compile("s*now(?:os*n)?|wos*n|wf"), "a bound such as `-1 <= x <= 4` or `x free`"),
    "binary": (re.compile("w"), "a variable's name"),
    "general": (re.compile("w"), "a variable's name"),
}


def read_lp_format(text: bytes) -> Model:
    """The model of an .lp file.

    Raises:
        LPError: it is not wholly a linear model.
    """
    lp = _LP(text.decode(errors="surrogateescape"))
    sections = [at for at, kind in enumerate(lp.kinds) if kind == "k"]
    if sections[:1] != [0] or lp.section(0) != "objective":
        raise lp.refused(0, "Minimize or Maximize, with nothing before it")
    if lp.section(sections[-1]) != "end" or sections[-1] != len(lp.kinds) - 1:
        raise lp.refused(sections[-1] + 1, "End, with nothing after it")
    for begin, stop in pairwise(sections):
        section = lp.section(begin)
        if section not in LP_STATEMENTS or (section == "objective") != (begin == 0):
            raise lp.refused(begin, "another section of a linear model, not SOS, semi-continuous, or twice")
        pattern, what = LP_STATEMENTS[section]
        at = begin + 1
        while at < stop:
            found = pattern.match(lp.kinds, at)
            if found is None:
                raise lp.refused(at, what)
            getattr(lp, section)(at + 2 * (lp.kinds[at + 1] == "c"), found.end())
            at = found.end()
    return lp.model


class _LP:
    """The words of a file, and the model as far as its statements were read."""

    def __init__(self, text: str) -> None:
        self.text, self.model = text, Model()
        kinds: list[str] = []
        self.words: list[Any] = []  # numbers, and interned text: a name is kept once
        for found in self._found():
            kind, word = str(found.lastgroup), found[0]
            if kind == "w" and (word.count("(") != word.count(")") or not word.strip("()")):
                kind = "x"
            kinds.append(kind)
            self.words.append(float(word) if kind == "n" else sys.intern(word))
        self.kinds = "".join(kinds)

    def _found(self) -> Iterator[re.Match[str]]:
        return (found for found in LP_WORD.finditer(self.text) if found.lastgroup)  # comments have none

    def section(self, at: int) -> str:
        """The section that the keyword begins."""
        return next(key for key, names in LP_SECTIONS.items() if re.fullmatch(names, self.words[at], re.IGNORECASE))

    def refused(self, at: int, expected: str) -> LPError:
        begin = next((found.start() for found in islice(self._found(), at, None)), len(self.text))
        line = self.text.count("\n", 0, begin) + 1
        found = self.text[begin : begin + 60].partition("\n")[0]
        return LPError(f"line {line}: expected {expected}; found {found!r}")

    def terms(self, begin: int, end: int) -> Iterator[tuple[str, float]]:
        """Names with their coefficients; "" with a constant."""
        sign, number = 1.0, None
        for kind, word in zip(self.kinds[begin:end], self.words[begin:end], strict=True):
            if kind == "n":
                number = word
            elif kind == "w" or number is not None:
                yield (word if kind == "w" else ""), sign * (1.0 if number is None else number)
                sign, number = 1.0, None
            if kind == "s" and word == "-":
                sign = -sign
        if number is not None:
            yield "", sign * number

    def objective(self, begin: int, end: int) -> None:
        self.model.maximize = self.words[0].lower().startswith("max")
        for name, value in self.terms(begin, end):
            if name:
                self.model.column(name).cost += value
            else:
                self.model.offset += value

    def row(self, begin: int, end: int) -> None:
        middle = self.kinds.index("o", begin)
        for name, value in self.terms(begin, middle):
            self.model.add(len(self.model.sides), name, value)
        ((_, side),) = self.terms(middle + 1, end)
        sides = {"<=": (-math.inf, side), ">=": (side, math.inf), "=": (side, side)}
        self.model.sides.append(sides[self.words[middle]])

    def bound(self, begin: int, end: int) -> None:
        place = self.kinds.index("w", begin)
        column = self.known(place)
        if self.kinds[end - 1] == "f":
            column.lower, column.upper = -math.inf, math.inf
        for middle in (at for at in range(begin, end) if self.kinds[at] == "o"):
            left = middle < place
            ((_, value),) = self.terms(begin, middle) if left else self.terms(middle + 1, end)
            if self.words[middle] != ("<=" if left else ">="):
                column.upper = value
            if self.words[middle] != (">=" if left else "<="):
                column.lower = value

    def binary(self, begin: int, end: int) -> None:
        column = self.known(begin)
        column.lower, column.upper, column.integer = 0.0, 1.0, True

    def general(self, begin: int, end: int) -> None:
        self.known(begin).integer = True

    def known(self, at: int) -> Column:
        if self.words[at] not in self.model.columns:
            raise self.refused(at, "a variable that the objective or a row has")
        return self.model.columns[self.words[at]]
