"""Intervals of paired differences over seeds, and of the number of labels that one arm needs to match another."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor

from jepa_ssl.evaluation.typed import as_list

GRID = 129  # numbers of labels between two counts at which the interval of `labels_needed` is looked up
MOST_DEGREES = 2000  # of freedom; the quantile no longer changes in its third digit


@dataclass(frozen=True)
class Interval:
    """A mean over `seeds` seeds, and the ends of its interval, which are NaN if they are undefined."""

    mean: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        ends = f"{self.low:+.3f}, {self.high:+.3f}" if math.isfinite(self.high - self.low) else "no interval"
        return f"{self.mean:+.3f} [{ends}]"


@dataclass(frozen=True)
class Curve:
    """Scores of one arm for C label counts and J seeds."""

    values: Tensor  # [C, J], float64
    without: Tensor  # [C, J, G]: the same with one of G blocks of test instances left out
    capped: int = 0  # how many of the C * J trainings ended at their cap

    @staticmethod
    def of(values: list[Any], without: list[Any], capped: int = 0) -> "Curve":
        """From nested lists of numbers, with None in the place of NaN, which JSON lacks."""
        scores, blocks = (torch.tensor(replace_in(x, None, math.nan), dtype=torch.float64) for x in (values, without))
        return Curve(scores, blocks, capped)

    def lists(self) -> list[Any]:
        """What `of` takes."""
        return [*(replace_in(as_list(x), math.nan, None) for x in (self.values, self.without)), self.capped]

    def __sub__(self, other: "Curve") -> "Curve":
        return Curve(self.values - other.values, self.without - other.without)

    def interpolated(self, logs: Tensor, at: float) -> "Curve":
        """Scores at a number of labels between the counts whose logarithms are `logs [C]`; C is 1."""
        right = max(1, int(torch.searchsorted(logs, at)))
        share = (at - logs[right - 1].item()) / (logs[right] - logs[right - 1]).item() if right < len(logs) else 0.0
        if not 0.0 < share < 1.0:  # without the neighbour, which may be NaN
            row = right if share >= 1.0 else right - 1
            return Curve(self.values[row : row + 1], self.without[row : row + 1])
        values, without = (x[right - 1].lerp(x[right], share).unsqueeze(0) for x in (self.values, self.without))
        return Curve(values, without)


def replace_in(value: Any, old: float | None, new: float | None) -> Any:
    """Replace `old`, None or NaN, in nested lists."""
    if isinstance(value, list):
        return [replace_in(part, old, new) for part in cast(list[Any], value)]
    return new if value is old or (old is not None and value != value) else value


@lru_cache
def t_quantile(level: float, degrees: int) -> float:
    """Two-sided quantile of Student's t: |t| stays below it with probability `level`.

    Source: the finite series for whole degrees of freedom, Abramowitz and Stegun, 26.7.3 and 26.7.4; bisected.

    >>> round(t_quantile(0.95, 4), 3), round(t_quantile(0.95, 1), 3)
    (2.776, 12.706)
    """
    degrees = min(degrees, MOST_DEGREES)
    low, high = 0.0, math.pi / 2  # of the angle whose tangent is t / sqrt(degrees)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_probability(middle, degrees) < level else (low, middle)
    return math.tan((low + high) / 2) * math.sqrt(degrees)


def _t_probability(angle: float, degrees: int) -> float:
    sine, square, odd = math.sin(angle), math.cos(angle) ** 2, degrees % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for k in range(2 + odd, degrees + 1, 2):
        total += term
        term *= square * (k - 1) / k
    return 2.0 / math.pi * (angle + sine * total) if odd else sine * total


def interval(values: Tensor, without: Tensor, overlap: float = 0.0, level: float = 0.95) -> Interval:
    """Mean over seeds and its interval, for new labelled sets, new training seeds and new test instances.

    The variance is the sum of two parts, with Satterthwaite's degrees of freedom for Student's t:

    - Over the seeds: `s^2 (1 / J + overlap / (1 - overlap))` for J seeds. With an overlap of 0 this is the usual t
      interval. Seeds that draw from one small pool share labels, so their results are correlated; `overlap` is that
      correlation. Nadeau and Bengio, "Inference for the generalization error", Machine Learning 2003, correct repeated
      splits in this way.
    - Over the test instances: the jackknife variance of the mean, from `without`.

    Args:
        values: one number per seed, `[J]`; seeds with NaN are left out.
        without: the same numbers with one of G blocks of test instances left out, `[J, G]`; G may be 0.
        overlap: correlation of two seeds because they share labels, from 0 to 1.
        level: probability that the interval covers the truth.

    >>> found = interval(torch.tensor([1.0, 2.0, 3.0]), torch.empty(3, 0))
    >>> found.mean, round(found.low, 2), round(found.high, 2)
    (2.0, -0.48, 4.48)
    """
    values, without = values.double(), without.double()[values.isfinite()]
    values = values[values.isfinite()]
    seeds = len(values)
    mean = values.mean().item()
    if seeds < 2 or overlap >= 1.0:
        same = seeds > 1 and bool((values == 0.0).all()) and bool((without == 0.0).all())
        end = 0.0 if same else math.nan
        return Interval(mean, mean + end, mean + end, seeds)
    blocks = without.mean(0)
    blocks = blocks[blocks.isfinite()]
    of_seeds = values.var().item() * (1.0 / seeds + overlap / (1.0 - overlap))
    g = len(blocks)
    of_tests = (blocks - blocks.mean()).square().sum().item() * (g - 1) / g if g > 1 else 0.0
    both = of_seeds + of_tests
    if both == 0.0:
        return Interval(mean, mean, mean, seeds)
    degrees = both**2 / (of_seeds**2 / (seeds - 1) + of_tests**2 / max(g - 1, 1))
    half = t_quantile(level, max(1, int(degrees))) * math.sqrt(both)
    return Interval(mean, mean - half, mean + half, seeds)


@dataclass(frozen=True)
class LabelsNeeded:
    """How many labels reach the score of another arm with `instead_of` labels.

    A number at or below `least` means "that many or fewer"; infinity means "more than the largest count".
    """

    labels: float
    low: float
    high: float
    instead_of: int
    least: int

    def __str__(self) -> str:
        ends = f"{self._said(self.low)} to {self._said(self.high)}"
        return f"{self._said(self.labels)} [{ends}] labels instead of {self.instead_of}"

    def _said(self, labels: float) -> str:
        if math.isinf(labels):
            return "more than all"
        return f"at most {self.least}" if labels < self.least * 1.001 else f"{labels:.0f}"


def monotone(values: Tensor) -> Tensor:
    """The non-decreasing sequence that is closest to `values [C]` in squares: pool adjacent violators.

    >>> monotone(torch.tensor([1.0, 3.0, 2.0]))
    tensor([1.0000, 2.5000, 2.5000], dtype=torch.float64)
    """
    pools: list[tuple[float, int]] = []
    for value in as_list(values.double()):
        pools.append((value, 1))
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            (a, m), (b, n) = pools.pop(), pools.pop()
            pools.append(((a * m + b * n) / (m + n), m + n))
    return torch.tensor([value for value, count in pools for _ in range(count)], dtype=torch.float64)


def label_overlap(counts: Sequence[int], pool: float) -> float:
    """Correlation of two seeds' scores, averaged over `counts`, because both draw their labels from `pool` instances.

    It is exact for scores that are means over the labelled instances, with nested sets within a seed. Two seeds then
    have the covariance 1 / pool, and two counts of one seed have 1 / (the larger count).

    >>> label_overlap([10], 40), label_overlap([10, 20], float("inf"))
    (0.25, 0.0)
    """
    variance = sum(1.0 / max(m, n) for m in counts for n in counts) / len(counts) ** 2
    return 1.0 / pool / variance


def labels_needed(counts: Sequence[int], arm: Curve, control: Curve, row: int, pool: float) -> LabelsNeeded:
    """How many labels an arm needs to match a control with `counts[row]` labels, with a 95% interval.

    The number is where the arm's mean curve, made monotone and interpolated linearly in log labels, reaches the
    control's mean. The interval inverts the test of `interval`: it contains every number of labels at which the
    difference between the two cannot be told from 0.

    Args:
        counts: numbers of labels, rising.
        arm, control: their scores.
        row: index of the control's count to match.
        pool: how many instances the labels are drawn from; infinity if each seed has its own.
    """
    logs = torch.tensor(counts, dtype=torch.float64).log()
    goal = Curve(control.values[row : row + 1], control.without[row : row + 1])
    grid = as_list(torch.linspace(logs[0].item(), logs[-1].item(), GRID, dtype=torch.float64))
    told: list[Interval] = []
    for at in grid:
        apart = arm.interpolated(logs, at) - goal
        overlap = 2.0 / (math.exp(-at) + 1.0 / counts[row]) / pool  # the harmonic mean of both numbers, of the pool
        told.append(interval(apart.values[0], apart.without[0], overlap))
    low = next((math.exp(at) for at, one in zip(grid, told, strict=True) if not one.high < 0.0), math.inf)
    last = max((i for i, one in enumerate(told) if not one.low > 0.0), default=-1)
    high = math.exp(grid[last + 1]) if last + 1 < GRID else math.inf
    crossing = _crossing(logs, monotone(arm.values.nanmean(1)), goal.values.nanmean().item())
    return LabelsNeeded(crossing, low, high, counts[row], counts[0])


def _crossing(logs: Tensor, curve: Tensor, goal: float) -> float:
    """The first number of labels at which the monotone `curve` is at `goal`; infinity if it never is."""
    below = int((curve < goal).sum())
    if below == len(curve):
        return math.inf
    if below == 0:
        return math.exp(logs[0].item())
    a, b = as_list(curve[below - 1 : below + 1])
    log_a, log_b = as_list(logs[below - 1 : below + 1])
    return math.exp(log_a + (goal - a) / (b - a) * (log_b - log_a))
