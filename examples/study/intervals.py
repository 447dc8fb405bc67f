"""What repeated runs say: means, and differences of pairs with their 95% intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t


@dataclass(frozen=True)
class Interval:
    """A mean over seeds, and how far the 95% interval of Student's t reaches to each side; NaN from one run."""

    mean: float
    half: float
    runs: int

    def excludes_zero(self) -> bool:
        """Is the mean told apart from 0?

        >>> interval([1.0, 1.1, 0.9]).excludes_zero(), interval([1.0, -1.0, 0.5]).excludes_zero()
        (True, False)
        """
        return abs(self.mean) > self.half


def interval(values: Sequence[float]) -> Interval:
    """
    >>> found = interval([1.0, 2.0, 3.0])
    >>> found.mean, round(found.half, 2), found.runs
    (2.0, 2.48, 3)
    """
    some = np.asarray(values, dtype=float)
    if len(some) < 2:
        return Interval(float(some.mean()) if len(some) else float("nan"), float("nan"), len(some))
    half = t.ppf(0.975, len(some) - 1) * some.std(ddof=1) / len(some) ** 0.5
    return Interval(float(some.mean()), float(half), len(some))


def paired(of: Sequence[float], minus: Sequence[float]) -> Interval:
    """The difference of two arms, seed by seed, over the seeds that both have.

    >>> paired([0.9, 0.8, 0.7], [0.5, 0.4]).mean
    0.4
    """
    return interval([a - b for a, b in zip(of, minus, strict=False)])


def geometric(values: Sequence[float]) -> float:
    """The geometric mean of positive numbers.

    >>> round(geometric([1.0, 100.0]), 6)
    10.0
    """
    return float(np.exp(np.mean(np.log(np.maximum(values, 1e-12)))))
