"""HiGHS' optimum of a canonical LP."""

from dataclasses import dataclass
from typing import Any

import highspy
import numpy as np
from data.lp import LP, LPError, Vector

MIP_NODES = 100  # the search for an infeasible integer model is bounded by these two;
MIP_SECONDS = 10.0  # a model that they leave undecided is taken


@dataclass(frozen=True)
class Solution:
    """A primal-dual optimum of the canonical LP, in that LP's own units."""

    x: Vector  # [n]
    lam: Vector  # [m], >= 0
    objective: float  # c'x
    seconds: float  # the solver's own run time


def solve(lp: LP, **options: str) -> Solution:
    """HiGHS' optimum of the given canonical LP (scaled or not), found with these options of HiGHS.

    Raises:
        LPError: HiGHS found no optimum (infeasible, unbounded, or numerically too hard).
    """
    A: Any = lp.A  # scipy's arrays are untyped
    model = highspy.HighsLp()
    model.num_row_, model.num_col_ = lp.rows, lp.columns
    model.col_cost_ = lp.c
    model.col_lower_, model.col_upper_ = np.full(lp.columns, -np.inf), np.full(lp.columns, np.inf)
    model.row_lower_, model.row_upper_ = np.full(lp.rows, -np.inf), lp.b
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.start_, model.a_matrix_.index_, model.a_matrix_.value_ = A.indptr, A.indices, A.data
    highs = quiet_highs()
    for option, value in options.items():
        highs.setOptionValue(option, value)
    highs.passModel(model)
    highs.run()
    status = highs.getModelStatus()
    if status != highspy.HighsModelStatus.kOptimal:
        raise LPError(f"{lp.name} has no optimum (HiGHS: {highs.modelStatusToString(status)!r}); leave it out")
    solution = highs.getSolution()
    x = np.array(solution.col_value)
    lam = np.maximum(-np.array(solution.row_dual), 0.0)  # negative only within HiGHS' tolerance
    return Solution(x=x, lam=lam, objective=float(lp.c @ x), seconds=highs.getRunTime())


def quiet_highs() -> highspy.Highs:
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("small_matrix_value", 1e-12)  # its least: smaller coefficients are dropped
    return highs


def check_integers(highs: highspy.Highs) -> None:
    """Refuse the integer model that HiGHS holds where a short search proves it infeasible.

    Raises:
        LPError: it has no integer point.
    """
    highs.setOptionValue("mip_max_improving_sols", 1)  # any integer point will do
    highs.setOptionValue("mip_max_nodes", MIP_NODES)
    highs.setOptionValue("time_limit", highs.getRunTime() + MIP_SECONDS)
    highs.run()
    if highs.getModelStatus() == highspy.HighsModelStatus.kInfeasible:
        raise LPError("the integer model is infeasible, though its relaxation is not; leave it out")
