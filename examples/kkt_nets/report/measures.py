"""The LPs that a run is tested on, their optima, and how good a predicted `(x, lam)` is in their original units."""

import json
import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from data.batches import LPDataset
from data.generators import FAMILIES
from data.lp import LP, Vector, original_point, unscaled
from data.solve import Solution, solve
from data.splits import open_split
from tqdm import tqdm

# The options that decide which LPs the test split has.
OPTIONS = ("problems", "lp_files", "data_root", "data_seed", "test_instances", "ruiz_iterations")
OPTIONS += tuple(f"{family}_size" for family in FAMILIES)


class Benchmark:
    """The test split of the run with these options."""

    def __init__(self, args: Namespace) -> None:
        self.lps = open_split(args, "test")  # rescaled as the run asks
        self.data = LPDataset(self.lps)
        # Family and size: for a generated LP the requested size; each file is a separate group.
        self.groups = [_group(lp, args) for lp in self.lps]

    @cached_property
    def answers(self) -> list[Solution]:
        """HiGHS' optimum of each LP, in original units; found when first asked for, or LPError if there is none."""
        return [solve(unscaled(lp)) for lp in tqdm(self.lps, desc="HiGHS", unit="LP")]


def _group(lp: LP, args: Namespace) -> tuple[str, str]:
    if lp.family in FAMILIES:
        return lp.family, "x".join(map(str, getattr(args, f"{lp.family}_size")))
    return lp.family, f"{lp.name} {lp.rows}x{lp.columns}"


def identity(args: Namespace) -> str:
    """Equal for runs that are tested on the same LPs."""
    return json.dumps([getattr(args, name) for name in OPTIONS])


VIOLATIONS = tuple(f"{kind}_{how}" for kind in ("primal", "dual", "sign", "slackness") for how in ("max", "mean"))
# All are at least 0, and 0 at an optimum, except for the two times.
MEASURES = ("gap", *VIOLATIONS, "kkt", "network_seconds", "highs_seconds")


def measure(lp: LP, x: Vector, lam: Vector, optimal: float) -> dict[str, float]:
    """Return the objective of one point, and the measures that need neither the network nor the run.

    Args:
        lp: scaled or not; the measures are always those of `unscaled(lp)`.
        x, lam: `[n]` and `[m]`, in the units of `lp`.
        optimal: the least `c'x` of `unscaled(lp)`.

    Returns:
        `objective`: c'x. `gap`: |c'x - optimal| / max(1, |optimal|), which means little if the point is not feasible.
        The others are maximum and mean over all rows (columns): relu(Ax - b) (`primal_`), |c + A'lam| (`dual_`),
        relu(-lam) (`sign_`) and |lam * (Ax - b)| (`slackness_`). A value that is not finite becomes inf, so that a mean
        or a median does not hide it.
    """
    x, lam = original_point(lp, x, lam)
    lp = unscaled(lp)
    A: Any = lp.A  # scipy's arrays are untyped
    with np.errstate(over="ignore", invalid="ignore"):
        objective = lp.c @ x
        excess = A @ x - lp.b
        violations = np.maximum(excess, 0.0), abs(lp.c + A.T @ lam), np.maximum(-lam, 0.0), abs(lam * excess)
        largest_and_mean = [value for violation in violations for value in (violation.max(), violation.mean())]
    gap = abs(objective - optimal) / max(1.0, abs(optimal))
    values = {"objective": objective, "gap": gap, **dict(zip(VIOLATIONS, largest_and_mean, strict=True))}
    return {name: inf_if_not_finite(value) for name, value in values.items()}


def inf_if_not_finite(value: float) -> float:
    return float(value) if math.isfinite(value) else math.inf


def summarise(instances: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean and median of each measure, per family and size, in order of appearance, and last over `all`.

    `non_finite` counts a group's instances with an infinite measure; they are part of its mean and its median.

    >>> [(group["family"], group["count"], group["mean"]["gap"]) for group in summarise([
    ...     dict.fromkeys(MEASURES, 1.0) | {"family": "auction", "size": "10x20"},
    ...     dict.fromkeys(MEASURES, 3.0) | {"family": "random", "size": "10x20"},
    ... ])]
    [('auction', 1, 1.0), ('random', 1, 3.0), ('all', 2, 2.0)]
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for instance in instances:
        groups.setdefault((instance["family"], instance["size"]), []).append(instance)
    return [_summary(family, size, members) for (family, size), members in (*groups.items(), (("all", ""), instances))]


def _summary(family: str, size: str, members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    table = np.array([[member[name] for name in MEASURES] for member in members])
    non_finite = int((~np.isfinite(table)).any(axis=1).sum())
    return {
        "family": family,
        "size": size,
        "count": len(members),
        "non_finite": non_finite,
        "mean": dict(zip(MEASURES, table.mean(axis=0).tolist(), strict=True)),
        "median": dict(zip(MEASURES, np.median(table, axis=0).tolist(), strict=True)),
    }
