"""A model as a file states it, before it takes the canonical form."""

import math
from dataclasses import dataclass, field

import numpy as np
from data.lp import LP, canonical
from scipy.sparse import coo_array

NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
SENSE = r"(?:max|min)(?:imize|imum)?"
INFINITE = 1e20  # HiGHS, SCIP and others take a side or a bound of this size for none


@dataclass(slots=True)
class Column:
    """A variable: its place in the file's order, its cost and bounds, and whether it is an integer."""

    index: int
    cost: float = 0.0
    lower: float = 0.0
    upper: float = math.inf
    integer: bool = False


@dataclass
class Model:
    """A model as written in its file; readers fill it statement by statement."""

    maximize: bool = False
    offset: float = 0.0
    columns: dict[str, Column] = field(default_factory=dict)
    sides: list[tuple[float, float]] = field(default_factory=list)  # the lower and the upper side of each row
    entries: tuple[list[int], list[int], list[float]] = field(default_factory=lambda: ([], [], []))  # i, j, A[i, j]

    def column(self, name: str) -> Column:
        """The column of that name, a new one where there is none."""
        return self.columns.get(name) or self.columns.setdefault(name, Column(len(self.columns)))

    def add(self, row: int, name: str, value: float) -> None:
        """Add an entry to A; repeated entries are summed."""
        rows, columns, values = self.entries
        rows.append(row)
        columns.append(self.column(name).index)
        values.append(value)

    def canonical(self, name: str) -> LP:
        """Its canonical form; raises `LPError` as `canonical` does."""
        columns = self.columns.values()
        row, column, value = self.entries
        bounds = np.array([(column.lower, column.upper) for column in columns], dtype=np.float64).reshape(-1, 2)
        sides = np.array(self.sides, dtype=np.float64).reshape(-1, 2)
        A = coo_array((value, (row, column)), shape=(len(sides), len(bounds)))
        limits = (np.where(np.abs(x) < INFINITE, x, np.copysign(np.inf, x)) for x in (*sides.T, *bounds.T))
        costs, integers = [column.cost for column in columns], sum(column.integer for column in columns)
        return canonical(name, "file", costs, A, *limits, maximize=self.maximize, offset=self.offset, integers=integers)
