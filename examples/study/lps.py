"""The LPs of the study, each role's its own, and their labels: an optimum inside the optimal face."""

from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from data.batches import GraphBatch, LPDataset, batches, collate_graphs
from data.generators import instances
from data.lp import LP, LPError
from data.readers import read_lp
from data.scaling import ruiz
from data.seen import SeenStates
from data.solve import Solution, solve
from torch import Tensor

from .plan import SEEN

# Streams of the generators; those that train.py draws from are the first few.
ROLES = {"pretraining": 1001, "labelled": 1002, "few": 1003, "test": 1004, "validation": 1005}
ROLES |= {"fresh_labelled": 1006, "fresh": 1007}


def size(family: str, n: int) -> tuple[int, ...]:
    """The family's size with n variables, or nearly: facility location has customers * facilities + facilities.

    >>> size("set_cover", 50), size("facility", 50)
    ((25, 50), (9, 5))
    """
    if family == "independent_set":
        return (n,)
    if family == "facility":
        facilities = round((n / 2) ** 0.5) + (n < 40)
        return round(n / facilities) - 1, facilities
    return n // 2, n


@lru_cache(maxsize=64)
def lps(families: tuple[str, ...], n: int, count: int, role: str) -> list[LP]:
    """`count` LPs of the families in turn, rescaled. The first ones do not depend on `count`."""
    drawn = instances(families, {family: size(family, n) for family in families}, count, ROLES[role])
    return [ruiz(lp) for lp in drawn]


@lru_cache(maxsize=64)
def optima(families: tuple[str, ...], n: int, count: int, role: str) -> list[Solution]:
    return [interior_optimum(lp) for lp in lps(families, n, count, role)]


def interior_optimum(lp: LP) -> Solution:
    """Return an optimum inside the optimal face; the simplex method would return a corner.

    It is found by the interior point method without crossover. Exactly the rows that are tight at all optima are tight
    there and have a positive multiplier, within the solver's tolerance. For about one LP in a thousand the method
    fails. Then it runs again after presolve. If it fails again, the result is a corner.
    """
    for presolve in ("off", "on"):
        with suppress(LPError):
            return solve(lp, solver="ipx", run_crossover="off", presolve=presolve)
    return solve(lp)


def graphs(some: Sequence[LP], batch_size: int, sees_states: bool) -> list[GraphBatch]:
    """The LPs in batches, in their order."""
    data = LPDataset(some)
    collate = SeenStates(collate_graphs, SEEN if sees_states else ())
    made: list[Any] = [collate([data[i] for i in rows]) for rows in batches(range(len(some)), batch_size)]
    return made


@lru_cache(maxsize=16)
def batched(
    families: tuple[str, ...], n: int, count: int, role: str, batch_size: int, sees_states: bool
) -> list[GraphBatch]:
    return graphs(lps(families, n, count, role), batch_size, sees_states)


@lru_cache(maxsize=2)
def files(paths: tuple[str, ...]) -> list[LP]:
    return [ruiz(read_lp(path)) for path in paths]


class Labels:
    """The labels of some solved LPs, one item after the other.

    `x [N]` is the solution. `active [M]` is 1.0 for a row that is tight and has a positive multiplier at every optimum.
    `between [N]` is 1.0 for a variable strictly between its bounds. `row_owner` and `column_owner` hold the number of
    the LP.
    """

    def __init__(self, some: Sequence[LP], optima: Sequence[Solution]) -> None:
        self.x = _joined([solution.x for solution in optima])
        self.lam = _joined([solution.lam for solution in optima])
        active = [is_active(lp, solution) for lp, solution in zip(some, optima, strict=True)]
        self.active = _joined(active)
        self.between = _joined([is_between_bounds(lp, tight) for lp, tight in zip(some, active, strict=True)])
        self.row_owner = torch.arange(len(some)).repeat_interleave(torch.tensor([lp.rows for lp in some]))
        self.column_owner = torch.arange(len(some)).repeat_interleave(torch.tensor([lp.columns for lp in some]))


def is_active(lp: LP, solution: Solution) -> Any:
    """Of each row, is its multiplier above its slack? Inside the optimal face one of the two is 0, and not both."""
    slack = np.maximum(lp.b - lp.A @ solution.x, 0.0)
    return (solution.lam > slack).astype(float)


def is_between_bounds(lp: LP, active: Any) -> Any:
    """Of each variable, is none of its bounds, which are rows with one coefficient, active?"""
    lone = np.diff(lp.A.indptr) == 1
    at_bound = np.zeros(lp.columns)
    column = lp.A.indices[lp.A.indptr[:-1][lone]]
    np.maximum.at(at_bound, column, active[lone])
    return 1.0 - at_bound


def _joined(parts: Sequence[Any]) -> Tensor:
    return torch.tensor(np.concatenate(parts), dtype=torch.float32)
