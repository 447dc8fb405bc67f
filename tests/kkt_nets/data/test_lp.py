"""Claims of lp.py and solve.py: nothing of a model is lost or added, and what HiGHS solves is the model."""

from dataclasses import replace

import highspy
import numpy as np
import pytest
from data.lp import LPError, canonical, original_point
from data.scaling import ruiz
from data.solve import solve
from hypothesis import given, settings
from lp_claims import assert_kkt, dense, models
from scipy.sparse import coo_array, csc_array, csr_array
from stored_lps import original_objective


def test_rows_come_in_the_documented_order():
    lp = canonical(
        "toy",
        "doc",
        c=[1, 0, -1],
        A=[[1, 2, 0], [0, 3, 0], [4, 0, 5]],
        row_lower=[-np.inf, 7, -np.inf],
        row_upper=[6, 8, np.inf],  # <=, a range, free
        column_lower=[0, -np.inf, 2],
        column_upper=[np.inf, np.inf, 2],  # x >= 0, free, fixed
    )
    assert dense(lp) == [
        ([1, 2, 0], 6),
        ([0, 3, 0], 8),
        ([0, -3, 0], -7),
        ([-1, 0, 0], 0),
        ([0, 0, 1], 2),
        ([0, 0, -1], -2),
    ]
    assert (lp.rows, lp.columns, lp.c.tolist()) == (6, 3, [1, 0, -1])
    assert not np.signbit(lp.b[3])  # -0.0 would be another LP to a hash
    assert not np.signbit(lp.c[1])


def test_matrix_is_clean_and_the_input_is_not_written_to():
    # Duplicates, explicit zeros, unsorted columns, and an entry that cancels.
    A = coo_array(([1.0, 2.0, 0.0, 4.0, 5.0, -5.0], ([0, 0, 0, 1, 1, 1], [1, 1, 0, 2, 0, 0])), shape=(2, 3))
    messy = csr_array(([2.0, 1.0, 0.0, 5.0, 4.0, -5.0], [1, 1, 0, 0, 2, 0], [0, 3, 6]), shape=(2, 3))
    for given_A in (A, A.toarray(), csc_array(A), messy):
        before = given_A.copy()
        lp = canonical("toy", "doc", [1, 1, 1], given_A, -np.inf, [1, 2], -np.inf, np.inf)
        assert (given_A != before).sum() == 0
        assert given_A is not messy or messy.data.tolist() == [2, 1, 0, 5, 4, -5]
        assert dense(lp) == [([0, 3, 0], 1), ([0, 0, 4], 2)]
        assert lp.A.has_canonical_format
        assert lp.A.nnz == 2
    assert A.nnz == 6


def test_maximisation_flips_the_costs_and_keeps_the_offset():
    lp = canonical("toy", "doc", [2, 3, 0], [[1, 1, 1]], -np.inf, 4, 0, [1, 9, 9], maximize=True, offset=5)
    assert lp.c.tolist() == [-2, -3, 0]
    assert not np.signbit(lp.c[2])
    solution = solve(lp)
    assert solution.x.tolist() == [0, 4, 0]
    assert solution.objective == -12
    assert original_objective(lp, solution.x) == 17


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"c": [1.0, np.nan]}, "cost of column 1"),
        ({"c": [np.inf, 1.0]}, "cost of column 0"),
        ({"A": [[1.0, np.nan]]}, "coefficient"),
        ({"A": [[1.0, -np.inf]]}, "coefficient"),
        ({"row_upper": np.nan}, "row 0"),
        ({"row_lower": np.inf, "row_upper": np.inf}, "row 0"),
        ({"row_upper": -np.inf}, "row 0"),
        ({"row_lower": 5.0}, "row 0"),
        ({"column_upper": [1.0, -1.0]}, "column 1"),
        ({"column_lower": [np.nan, 0.0]}, "column 0"),
        ({"offset": np.nan}, "offset"),
        ({"c": [], "A": np.zeros((1, 0))}, "no columns"),
        ({"row_upper": np.inf, "column_lower": -np.inf}, "no finite"),
        ({"c": [1.0, 1.0, 1.0]}, "shape"),
        ({"row_upper": [1.0, 2.0]}, "row_upper has shape"),
        ({"column_lower": [[0.0, 0.0]]}, "column_lower has shape"),
    ],
)
def test_canonical_refuses_by_name(change, says):
    model = {"c": [1.0, 1.0], "A": [[1.0, 1.0]], "row_lower": -np.inf, "row_upper": 4.0, "column_lower": 0.0}
    model |= {"column_upper": np.inf}
    canonical("toy", "doc", **model)
    with pytest.raises(ValueError, match=says):
        canonical("toy", "doc", **(model | change))


def native_model(model: dict) -> highspy.Highs:
    """The model as HiGHS takes it, bounds as bounds, built row by row."""
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    for cost, low, up in zip(model["c"], model["column_lower"], model["column_upper"], strict=True):
        highs.addCol(cost, low, up, 0, [], [])
    for row, low, up in zip(model["A"], model["row_lower"], model["row_upper"], strict=True):
        index = np.flatnonzero(row).astype(np.int32)
        highs.addRow(low, up, len(index), index, row[index])
    if model["maximize"]:
        highs.changeObjectiveSense(highspy.ObjSense.kMaximize)
    highs.changeObjectiveOffset(model["offset"])
    return highs


@given(models())
@settings(max_examples=100, deadline=None)
def test_canonical_optimum_is_the_models_own(model):
    highs = native_model(model)
    highs.run()
    lp = canonical("random", "doc", **model)
    if highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        with pytest.raises(LPError, match="random has no optimum"):
            solve(lp)
        return
    for form in (lp, ruiz(lp)):
        solution = solve(form)
        assert original_objective(form, solution.x) == pytest.approx(highs.getObjectiveValue(), abs=1e-6)
        x, lam = original_point(form, solution.x, solution.lam)
        assert_kkt(lp, replace(solution, x=x, lam=lam, objective=float(lp.c @ x)), tolerance=1e-5)
