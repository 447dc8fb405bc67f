"""The LPs that a run is tested on, and HiGHS' answers to them."""

import json
from argparse import Namespace
from functools import cached_property
from typing import NamedTuple

from dataset import LPDataset
from generators import FAMILIES
from lp import LP, solve, unscaled
from splits import open_split
from tqdm import tqdm

# The options that decide which LPs the test split has.
OPTIONS = ("problems", "lp_files", "data_root", "data_seed", "test_instances", "ruiz_iterations")
OPTIONS += tuple(f"{family}_size" for family in FAMILIES)


class Answer(NamedTuple):
    """HiGHS' optimum of an LP, c'x in original units, and its own run time."""

    optimal: float
    seconds: float


class Benchmark:
    """The test split of the run with these options.

    Attributes:
        lps: rescaled as the run asks.
        data: the same as samples.
        groups: family and size of each; of a generated LP the size that was asked for, and each file by itself.
    """

    def __init__(self, args: Namespace) -> None:
        self.lps = open_split(args, "test")
        self.data = LPDataset(self.lps)
        self.groups = [_group(lp, args) for lp in self.lps]

    @cached_property
    def answers(self) -> list[Answer]:
        """Found when first asked for.

        Raises:
            LPError: HiGHS finds no optimum of one of them.
        """
        solutions = (solve(unscaled(lp)) for lp in tqdm(self.lps, desc="HiGHS", unit="LP"))
        return [Answer(solution.objective, solution.seconds) for solution in solutions]


def _group(lp: LP, args: Namespace) -> tuple[str, str]:
    if lp.family in FAMILIES:
        return lp.family, "x".join(map(str, getattr(args, f"{lp.family}_size")))
    return lp.family, f"{lp.name} {lp.rows}x{lp.columns}"


def identity(args: Namespace) -> str:
    """Equal for runs that are tested on the same LPs."""
    return json.dumps([getattr(args, name) for name in OPTIONS])
