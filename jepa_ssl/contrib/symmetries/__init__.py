"""Symmetries of LPs: views that change an LP and not its solution, up to a known map.

    image = RowScale().apply(lp, generator=generator)
    image.instance                        # the equivalent LP, of lp's type
    image.map_solution(x, lam)            # from lp's solution to the image's
    image.unmap_solution(x, lam)          # and back

and as a view maker, `RowScale()(lp, generator=generator)` has the image as its context and `lp` as its target.

No more than these keep the solution. To drop a random row, or to zero coefficients, looks harmless and is not: dropping
a row changed the optimum of 32 of 100 random LPs with 8 rows and 6 variables, and zeroing a fifth of the coefficients
that of 86 of another 100 drawn alike (`test_symmetries.py` counts them, each on its own 100). Hiding is a prediction
task, never an invariance.
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
