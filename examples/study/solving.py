"""A use: solvers that start from what a probe of a frozen trunk predicts, against a cold start."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import highspy
import numpy as np
import torch
from data.batches import GraphBatch
from data.lp import LP
from models import GNNPolicy
from numpy.typing import NDArray
from torch import Tensor

from jepa_ssl import BipartiteGraph
from jepa_ssl.integrations.pyg import bipartite_graph
from jepa_ssl.lp import SolverState, SparseLP, StateFeatures

from . import arms, lps, probe
from .lps import Labels
from .plan import ARMS, FAMILIES, SEEN, Plan

LABELLED = 50
STRATEGIES = {"dual": 1, "primal": 4}  # of HiGHS, whose own choice is dual
INDEPENDENT = 1e-6  # what a unit row must have beyond the span of others
CHECKED_EVERY = 20  # solver steps
TOLERANCE = 1e-3  # of primal and dual violation and of the gap, on LPs whose largest b and c are near 1

Vector = NDArray[np.float64]


def from_predictions(plan: Plan, folder: Path, name: str, seed: int) -> dict[str, Any]:
    """Family -> iterations of HiGHS' simplex method and steps of PDHG on each LP, cold and from predictions."""
    n, sees = max(plan.sizes), name != "states" and ARMS[name].sees_states
    policy = None if name == "states" else arms.load(folder, name, seed)
    show = StateFeatures(SEEN, lp_of=SparseLP.inequalities_of)
    found: dict[str, Any] = {}
    for family in FAMILIES:
        known = lps.lps((family,), n, LABELLED, "labelled")
        labels = Labels(known, lps.optima((family,), n, LABELLED, "labelled"))
        c, v = _read(policy, show, lps.graphs(known, 8, sees))
        some = lps.lps((family,), n, plan.solved_lps, "test")
        (batch,) = lps.graphs(some, len(some), sees)
        test_c, test_v = _read(policy, show, [batch])
        active = probe.ridge(c, labels.active, labels.row_owner, test_c)
        x = probe.ridge(v, labels.x, labels.column_owner, test_v)
        lam = probe.ridge(c, labels.lam, labels.row_owner, test_c).clamp_min(0.0)
        rows = active.split([lp.rows for lp in some])
        lp = SparseLP.inequalities_of(bipartite_graph(batch.batch_graph))
        shown = SolverState(max(SEEN)).states(lp)
        starts = {
            "zero": None,
            "shown": (shown["variable"][:, 0], shown["constraint"][:, 0]),
            "predicted": (x, torch.where(active > 0.5, lam, 0.0)),
        }
        found[family] = {
            "simplex": [
                {
                    "presolved": simplex(one, None, "dual", presolve=True),
                    **{f"cold, {how}": simplex(one, None, how) for how in STRATEGIES},
                    **{f"warm, {how}": simplex(one, scores.numpy(), how) for how in STRATEGIES},
                }
                for one, scores in zip(some, rows, strict=True)
            ],
            "pdhg": {start: steps_to_solve(lp, point, plan.solver_steps) for start, point in starts.items()},
        }
    return found


def _read(
    policy: GNNPolicy | None, show: StateFeatures[BipartiteGraph], batches: Sequence[GraphBatch]
) -> tuple[Tensor, Tensor]:
    return probe.features(policy, batches) if policy else probe.states(batches, show)


def simplex(lp: LP, scores: Vector | None, strategy: str, *, presolve: bool = False) -> int:
    """Iterations of HiGHS' simplex method, from the basis in which the best-scored rows are tight if there are scores.

    Rows with one coefficient become bounds first, as a modeller would have written them.
    """
    model, bound_of, general = bounded(lp)
    highs = highspy.Highs()
    options = {"output_flag": False, "solver": "simplex", "presolve": "on" if presolve else "off"}
    for option, value in {**options, "simplex_strategy": STRATEGIES[strategy], "threads": 1}.items():
        highs.setOptionValue(option, value)
    highs.passModel(model)
    if scores is not None:
        highs.setBasis(basis(lp, scores, bound_of, general))
    highs.run()
    if highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        raise ValueError(f"{lp.name}: HiGHS ended {highs.modelStatusToString(highs.getModelStatus())!r}, not optimal.")
    return highs.getInfo().simplex_iteration_count


def bounded(lp: LP) -> tuple[Any, list[tuple[int, int, bool]], list[int]]:
    """The LP with its lone coefficients as bounds, `(row, column, is it the upper one)` of each, the other rows."""
    A: Any = lp.A
    lone = np.diff(A.indptr) == 1
    lower, upper = np.full(lp.columns, -np.inf), np.full(lp.columns, np.inf)
    bound_of: list[tuple[int, int, bool]] = []
    for row in np.flatnonzero(lone):
        column, coefficient = A.indices[A.indptr[row]], A.data[A.indptr[row]]
        value, is_upper = lp.b[row] / coefficient, bool(coefficient > 0)
        side, tighter = (upper, min) if is_upper else (lower, max)
        side[column] = tighter(side[column], value)
        bound_of.append((int(row), int(column), is_upper))
    general = np.flatnonzero(~lone)
    rest: Any = A[general]
    model = highspy.HighsLp()
    model.num_row_, model.num_col_ = len(general), lp.columns
    model.col_cost_, model.col_lower_, model.col_upper_ = lp.c, lower, upper
    model.row_lower_, model.row_upper_ = np.full(len(general), -np.inf), lp.b[general]
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.start_, model.a_matrix_.index_, model.a_matrix_.value_ = rest.indptr, rest.indices, rest.data
    return model, bound_of, general.tolist()


def basis(
    lp: LP, scores: Vector, bound_of: Sequence[tuple[int, int, bool]], general: Sequence[int]
) -> highspy.HighsBasis:
    """Return the corner at which the best-scored rows are tight, without rows that depend on better ones.

    Dependent rows are left out because they determine no point if more rows are tight than there are variables. HiGHS
    would replace them, which takes more iterations than a cold start.
    """
    A: Any = lp.A
    dense = A.toarray()
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    directions = np.zeros((lp.columns, lp.columns))  # orthonormal, of the rows chosen so far
    tight: list[int] = []
    for row in np.argsort(-scores, kind="stable"):
        rest = dense[row]
        for _ in range(2):  # the second time removes what rounding left
            known = directions[: len(tight)]
            rest = rest - known.T @ (known @ rest)
        length = np.linalg.norm(rest)
        if length > INDEPENDENT:
            directions[len(tight)] = rest / length
            tight.append(int(row))
            if len(tight) == lp.columns:
                break
    status = highspy.HighsBasisStatus
    of_columns, of_rows = [status.kBasic] * lp.columns, [status.kBasic] * len(general)
    bounds = {row: (column, is_upper) for row, column, is_upper in bound_of}
    place = {row: i for i, row in enumerate(general)}
    for row in tight:
        if row in bounds:
            column, is_upper = bounds[row]
            of_columns[column] = status.kUpper if is_upper else status.kLower
        else:
            of_rows[place[row]] = status.kUpper
    chosen = highspy.HighsBasis()
    chosen.col_status, chosen.row_status, chosen.valid = of_columns, of_rows, True
    return chosen


@torch.no_grad()
def steps_to_solve(lp: SparseLP, start: tuple[Tensor, Tensor] | None, most: int) -> list[int | None]:
    """After how many PDHG steps, restarted every 100, each LP is solved to `TOLERANCE`; None: not by `most`."""
    marks = range(CHECKED_EVERY, most + 1, CHECKED_EVERY)
    states = SolverState(tuple(marks), restart_every=100).states(lp, start=start)
    x, reduced_cost = states["variable"].unflatten(1, (-1, 2)).unbind(2)
    lam, slack = states["constraint"].unflatten(1, (-1, 2)).unbind(2)
    row_owner, column_owner = (
        torch.arange(lp.num_graphs).repeat_interleave(offsets.diff())
        for offsets in (lp.constraint_offsets, lp.variable_offsets)
    )

    def largest(values: Tensor, owner: Tensor) -> Tensor:
        place = owner.unsqueeze(1).expand_as(values)
        return values.new_zeros(lp.num_graphs, values.size(1)).scatter_reduce_(0, place, values, "amax")

    def total(values: Tensor, owner: Tensor) -> Tensor:
        return values.new_zeros(lp.num_graphs, values.size(1)).index_add_(0, owner, values)

    primal = total(lp.c.unsqueeze(1) * x, column_owner)
    dual = -total(lp.b.unsqueeze(1) * lam, row_owner)
    gap = (primal - dual).abs() / (1 + primal.abs() + dual.abs())
    worst = torch.stack([largest((-slack).relu(), row_owner), largest(reduced_cost.abs(), column_owner), gap]).amax(0)
    solved = worst <= TOLERANCE
    return [marks[int(each.int().argmax())] if each.any() else None for each in solved]
