"""Whether LPs are what their owner means, and whether their numbers lie near enough to each other for PDHG."""

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from jepa_ssl.lp.instances import DenseLP, SparseLP
from jepa_ssl.lp.pdhg import Problem
from jepa_ssl.lp.stored import split_states
from jepa_ssl.protocols import CONSTRAINT, VARIABLE

FAR = 2.0**20  # numbers further apart are reported: among many random ones a small one comes by chance; beyond float32 refused


class Soundness:
    """Collects what is suspicious about LPs and their states, batch by batch, and warns about it once."""

    def __init__(self) -> None:
        self.refuse = True
        self.lps = 0
        self.rows = 0  # LPs with a row of several variables
        self.idle = 0  # of these, those in which no such row has a multiplier
        self.furthest = 0.0
        self.where = ""

    @torch.no_grad()
    def add(self, lp: SparseLP | DenseLP, states: Mapping[str, Tensor], *, refuse: bool = True) -> None:
        """Look at a batch and the states that `SolverState` found; waits for the device.

        Raises:
            ValueError: two sides that act, or two costs, lie so far apart that the type of the LPs holds only one, and
                this is to be refused.
        """
        self.refuse = refuse
        problem = Problem.of(lp)
        found, matrix = problem.distances, problem.matrix
        several = matrix.row_sums((matrix.values != 0).to(found.sides)) > 1
        multiplier = states[CONSTRAINT][..., -2].to(found.sides)  # after the most steps
        raw = torch.where(found.asked > 0, problem.b.abs(), 0)
        of_rows = torch.stack([found.asked, raw, several.to(found.sides), multiplier], -1)
        of_columns = torch.stack([found.reached, found.costs, problem.c.abs()], -1)
        for one in split_states(lp, {CONSTRAINT: of_rows, VARIABLE: of_columns}):
            asked, raw, bundled, lam = one[CONSTRAINT].unbind(-1)
            reached, costs, raw_costs = one[VARIABLE].unbind(-1)
            self._compare("sides", torch.cat((asked, reached)), torch.cat((raw, reached)))
            self._compare("costs", costs, raw_costs)
            self.rows += bool(bundled.any())
            self.idle += bool(bundled.any()) and not bool((lam * bundled).any())
            self.lps += 1

    def _compare(self, what: str, relative: Tensor, raw: Tensor) -> None:
        """Compare numbers relative to their coefficients. Refused is only what lies apart as it stands, too."""
        ratio, small, large = _widest_gap(relative)
        if ratio <= max(self.furthest, FAR):
            return
        where = f"LP {self.lps} (counted from 0) has {what} of {small:.3g} and {large:.3g}, relative to coefficients"
        if self.refuse and min(ratio, _widest_gap(raw)[0]) > 1 / torch.finfo(relative.dtype).eps:
            raise ValueError(
                f"{where}, which are {ratio:.1e} apart, and {relative.dtype} holds only one of them beside the other; "
                f"rescale the LP, set to 0 what does not matter, tighten its big-M, or leave it out."
            )
        self.furthest, self.where = ratio, where

    def warn(self, stacklevel: int) -> None:
        """Say once what was found."""
        if self.idle and self.idle == self.rows:
            warnings.warn(
                f"In none of {self.rows} LPs does a constraint of several variables act: their bounds alone solve "
                f"them. Does lp_of take features that were rescaled for b and c? Min-max scaled or standardised "
                f"features make another LP; give b, c and the coefficients as they are in the LP, and test lp_of with "
                f"jepa_ssl.testing.check_lp.",
                stacklevel=stacklevel + 1,
            )
        elif self.furthest:
            warnings.warn(
                f"{self.where}, which are {self.furthest:.1e} apart, so its state after a few steps may be far from "
                f"its solution; rescale such LPs, or tighten their big-M.",
                stacklevel=stacklevel + 1,
            )


def _widest_gap(numbers: Tensor) -> tuple[float, float, float]:
    """The largest ratio between neighbours in size, so that small differences do not add up; and these two."""
    sizes = numbers[numbers > 0].sort().values
    gaps = sizes[1:] / sizes[:-1]
    if not len(gaps):
        return 1.0, 0.0, 0.0
    widest = int(gaps.argmax())
    return float(gaps[widest]), float(sizes[widest]), float(sizes[widest + 1])
