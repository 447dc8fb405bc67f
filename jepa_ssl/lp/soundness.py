"""Checks of LPs before they are used as targets: are they the user's LPs, and are they scaled well enough for PDHG?"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from jepa_ssl.checks import warn_caller
from jepa_ssl.lp.instances import DenseLP, SparseLP
from jepa_ssl.lp.pdhg import Problem, iterate
from jepa_ssl.lp.stored import split_states
from jepa_ssl.lp.weight import WIDE
from jepa_ssl.protocols import CONSTRAINT, VARIABLE

# Larger ratios between numbers are reported; smaller ones occur by chance. Ratios beyond float32's precision are
# refused.
FAR = 2.0**20
REST = 1024  # after this many steps even slow ordinary LPs have converged


class Soundness:
    """Collect suspicious LPs and states, batch by batch, and warn once."""

    def __init__(self, *, refuse: bool = True) -> None:
        self.refuse = refuse  # sides or costs that the type of the LPs cannot represent
        self.lps = 0
        self.rows = 0  # LPs with a row of several variables
        self.idle = 0  # the number of these in which no such row has a multiplier
        self.furthest = 0.0
        self.where = ""
        self.drifting = ""

    @torch.no_grad()
    def add(self, lp: SparseLP | DenseLP, states: Mapping[str, Tensor], steps: int) -> None:
        """Check a batch and the states that `SolverState` found after `steps` steps; waits for the device.

        For the first batch PDHG runs for `REST` steps or more. Names an LP on which it still moves and whose numbers
        differ widely.

        Raises:
            ValueError: two sides that act, or two costs, differ so much that the type of the LPs cannot represent both,
                and `refuse` is set.
        """
        problem = Problem.of(lp)
        found = problem.distances
        steps = max(REST, steps)
        x, lam = _halves(problem, 0 if self.lps else steps)
        raw = torch.where(found.asked > 0, problem.b.abs(), 0)
        multiplier = states[CONSTRAINT][..., -2].to(found.sides)  # after the most steps
        of_rows = torch.stack([found.asked, found.sides, raw, *_in_rows(problem), multiplier, *lam], -1)
        of_columns = torch.stack([found.reached, found.furthest, found.costs, problem.c.abs(), *x], -1)
        for one in split_states(lp, {CONSTRAINT: of_rows, VARIABLE: of_columns}):
            asked, sides, raw, number, apart, multiplier, *of_lam = one[CONSTRAINT].unbind(-1)
            reached, furthest, costs, raw_costs, *of_x = one[VARIABLE].unbind(-1)
            acting = torch.cat((asked, reached))
            self._compare("sides", acting, torch.cat((raw, reached)))
            self._compare("costs", costs, raw_costs)
            if bool(torch.cat((sides, furthest)).max() > WIDE * acting.max()) or bool((apart > FAR).any()):
                self._look_for_drift(steps, x=of_x, lam=of_lam)
            self.rows += bool((number > 1).any())
            self.idle += bool((number > 1).any()) and not bool((multiplier * (number > 1)).any())
            self.lps += 1

    def _look_for_drift(self, steps: int, **halves: Sequence[Tensor]) -> None:
        for what, (first, second) in halves.items():
            if not self.drifting and _runs_away(first, second):
                self.drifting = f"LP {self.lps} (counted from 0): after {steps} steps {what}"

    def _compare(self, what: str, relative: Tensor, raw: Tensor) -> None:
        """Compare numbers relative to their coefficients. Refuse an LP only if its raw numbers differ as much."""
        ratio, small, large = _widest_gap(relative)
        if ratio <= max(self.furthest, FAR):
            return
        where = f"LP {self.lps} (counted from 0) has {what} of {small:.3g} and {large:.3g}, relative to coefficients"
        if self.refuse and min(ratio, _widest_gap(raw)[0]) > 1 / torch.finfo(relative.dtype).eps:
            raise ValueError(
                f"{where}, which are {ratio:.1e} apart, and {relative.dtype} cannot represent both; "
                f"rescale the LP, set to 0 what does not matter, tighten its big-M, or leave it out."
            )
        self.furthest, self.where = ratio, where

    def warn(self) -> None:
        """Warn once about what was found."""
        if self.idle and self.idle == self.rows:
            warn_caller(
                f"In none of {self.rows} LPs is a constraint of several variables active: the bounds alone solve "
                f"them. Does lp_of take features that were rescaled for b and c? Min-max scaled or standardised "
                f"features make another LP; give b, c and the coefficients as they are in the LP, and test lp_of with "
                f"jepa_ssl.testing.check_lp."
            )
        elif self.drifting:
            warn_caller(
                f"{self.drifting} still moves in a straight line, because some of its sides or coefficients lie far "
                f"apart, so its states say little about its solution; tighten wide bounds and big-Ms, rescale the LP, "
                f"or leave it out."
            )
        elif self.furthest:
            warn_caller(
                f"{self.where}, which are {self.furthest:.1e} apart, so its state after a few steps may be far from "
                f"its solution; rescale such LPs, or tighten their big-M."
            )


def _in_rows(problem: Problem) -> tuple[Tensor, Tensor]:
    """For each row, count the nonzero coefficients, and compute the ratio of the largest to the smallest of them."""
    size = problem.matrix.values.abs()
    number = problem.matrix.row_sums((size > 0).to(size))
    smallest = problem.matrix.row_minima(torch.where(size > 0, size, torch.inf))
    return number, -problem.matrix.row_minima(-size) / smallest


Halves: TypeAlias = tuple[Tensor, Tensor]
"""How far each number moves in the first and in the second half of a run."""


def _halves(problem: Problem, steps: int) -> tuple[Halves, Halves]:
    """Return the moves of x and of lam from zero; 0 for no steps."""
    begin = problem.zero()
    middle, end = iterate(problem, (steps // 2, steps), begin) if steps else (begin, begin)
    x, lam = ((q - p, r - q) for p, q, r in zip(begin, middle, end, strict=True))
    return x, lam


def _runs_away(first: Tensor, second: Tensor) -> bool:
    """Whether the second half repeats the first. Near a solution PDHG slows down, or circles around it."""
    first, second = first.double(), second.double()
    sizes = (first @ first).sqrt(), (second @ second).sqrt()
    return bool((sizes[1] > 0.85 * sizes[0]) & (first @ second > 0.95 * sizes[0] * sizes[1]))


def _widest_gap(numbers: Tensor) -> tuple[float, float, float]:
    """Return the largest ratio between neighbours in size, so that small differences do not add up, and these two."""
    sizes = numbers[numbers > 0].sort().values
    gaps = sizes[1:] / sizes[:-1]
    if not len(gaps):
        return 1.0, 0.0, 0.0
    widest = int(gaps.argmax())
    return float(gaps[widest]), float(sizes[widest]), float(sizes[widest + 1])
