"""How good a predicted `(x, lam)` is, in the units that an LP was written in, beside the optimum."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from lp import LP, Vector, original_point, unscaled

# All are at least 0, and 0 at an optimum, but for the two times.
MEASURES = (
    "gap",
    "primal_max",
    "primal_mean",
    "dual_max",
    "dual_mean",
    "sign_max",
    "sign_mean",
    "slackness_max",
    "slackness_mean",
    "kkt",
    "network_seconds",
    "highs_seconds",
)


def measure(lp: LP, x: Vector, lam: Vector, optimal: float) -> dict[str, float]:
    """The measures of one point that can be taken without the network or the run, and its objective.

    Args:
        lp: scaled or not; whatever its scaling, the measures are those of `unscaled(lp)`.
        x, lam: `[n]` and `[m]`, in the units of `lp`.
        optimal: the least `c'x` of `unscaled(lp)`.

    Returns:
        `objective`, c'x; `gap`, |c'x - optimal| / max(1, |optimal|), which says little where the point is not
        feasible; and the greatest and the mean over all rows (columns) of relu(Ax - b) (`primal_`), |c + A'lam|
        (`dual_`), relu(-lam) (`sign_`) and |lam * (Ax - b)| (`slackness_`). What is not finite is given as inf,
        as bad as can be, so that a mean or a median does not hide it.
    """
    x, lam = original_point(lp, x, lam)
    lp = unscaled(lp)
    A: Any = lp.A  # scipy's arrays are untyped
    with np.errstate(over="ignore", invalid="ignore"):
        objective = lp.c @ x
        excess = A @ x - lp.b
        values = {
            "objective": objective,
            "gap": abs(objective - optimal) / max(1.0, abs(optimal)),
            **_max_and_mean("primal", np.maximum(excess, 0.0)),
            **_max_and_mean("dual", abs(lp.c + A.T @ lam)),
            **_max_and_mean("sign", np.maximum(-lam, 0.0)),
            **_max_and_mean("slackness", abs(lam * excess)),
        }
    return {name: inf_if_not_finite(value) for name, value in values.items()}


def _max_and_mean(name: str, violation: Vector) -> dict[str, float]:
    return {f"{name}_max": violation.max(), f"{name}_mean": violation.mean()}


def inf_if_not_finite(value: float) -> float:
    return float(value) if math.isfinite(value) else math.inf


def summarise(instances: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean and median of each measure, per family and size, in order of appearance, and last over `all`.

    Each group says as `non_finite` of how many of its instances a measure is infinite; these are in its mean and
    its median.

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
    return {
        "family": family,
        "size": size,
        "count": len(members),
        "non_finite": int((~np.isfinite(table)).any(axis=1).sum()),
        "mean": dict(zip(MEASURES, table.mean(axis=0).tolist(), strict=True)),
        "median": dict(zip(MEASURES, np.median(table, axis=0).tolist(), strict=True)),
    }
