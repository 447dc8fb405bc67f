"""Symmetries of LPs: views that change an LP, and change its solution by a known map.

    transformed = RowScale().apply(lp, generator=generator)
    transformed.instance                     # the equivalent LP, of lp's type
    transformed.map_solution(x, lam)         # from lp's solution to that of the equivalent LP
    transformed.unmap_solution(x, lam)       # and back

`RowScale()(lp, generator=generator)` makes views: the equivalent LP is the context, and `lp` is the target.

Only these transformations keep the solution. Dropping a random row or zeroing coefficients does not. Dropping a row
changed the optimum of 32 of 100 random LPs with 8 rows and 6 variables. Zeroing a fifth of the coefficients changed the
optimum of 86 of them (`test_symmetries.py` counts them). Hiding is a prediction task, never an invariance.
"""

from jepa_ssl.contrib.symmetries.additions import (
    BoundsAsRows,
    ColumnSplit,
    DuplicateRow,
    EqualitiesAsInequalities,
    IdleVariable,
    RedundantRow,
)
from jepa_ssl.contrib.symmetries.permutation import Permutation
from jepa_ssl.contrib.symmetries.scales import ColumnScale, Negation, ObjectiveScale, RHSScale, RowScale, Translation
from jepa_ssl.contrib.symmetries.transformed import Compose, SolutionMap, Symmetry, SymmetryViews, TransformedLP

__all__ = [
    "BoundsAsRows",
    "ColumnScale",
    "ColumnSplit",
    "Compose",
    "DuplicateRow",
    "EqualitiesAsInequalities",
    "IdleVariable",
    "Negation",
    "ObjectiveScale",
    "Permutation",
    "RHSScale",
    "RedundantRow",
    "RowScale",
    "SolutionMap",
    "Symmetry",
    "SymmetryViews",
    "TransformedLP",
    "Translation",
]
