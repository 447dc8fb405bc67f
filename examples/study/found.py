"""What has been computed, read back: by stage, arm, size, family and seed."""

from collections.abc import Callable, Sequence
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jepa_ssl.evaluation import Curve, Interval
from jepa_ssl.evaluation import interval as interval_over_seeds

from . import pieces
from .plan import ARMS, FAMILIES, KNOWABLE, LABEL_FREE, STREAMS

SHOWN, PREDICTED = "shown_states", "predicted_states"
WITHOUT_NETWORK = {
    SHOWN: "no network: the states that are shown",
    PREDICTED: "no network: the state that is predicted",
    "states": "no network: the states that are shown",
}


class Found:
    """The results of a folder."""

    def __init__(self, results: Path) -> None:
        stages = sorted(path.name for path in results.iterdir() if path.is_dir()) if results.exists() else []
        self.stages = {stage: pieces.read(results, stage) for stage in stages}

    def runs(self, stage: str, name: str) -> list[Any]:
        """The pieces `name-seed0`, `name-seed1`, ... up to the first that is missing, so that seeds can be paired."""
        of_stage = self.stages.get(stage, {})
        names = (f"{name}-seed{seed}" for seed in count())
        return [of_stage[piece] for piece in takewhile(of_stage.__contains__, names)]

    def probe(
        self, name: str, n: int, labels: int, score: str, families: Sequence[str] | None = None, stage: str = "probe"
    ) -> list[float]:
        """Of each seed, the mean over families: all of them, or for R2 those whose optimum can be known."""
        some = families or known(score)
        return [
            float(np.mean([run[str(n)][family][str(labels)][score] for family in some]))
            for run in self.runs(stage, name)
        ]

    def geometry(self, name: str, n: int, measure: str) -> list[float]:
        return [
            float(np.mean([run[str(n)][family]["geometry"][measure] for family in FAMILIES]))
            for run in self.runs("probe", name)
        ]

    def lowest_rank_gain(self, name: str, control: str, n: int) -> tuple[int, int, float]:
        """In how many (seed, family, stream) the rank is above the control's, of how many, and the least gain."""
        gains = [
            one[str(n)][family]["geometry"][f"rank/{stream}"] - other[str(n)][family]["geometry"][f"rank/{stream}"]
            for one, other in zip(self.runs("probe", name), self.runs("probe", control), strict=False)
            for family in FAMILIES
            for stream in STREAMS
        ]
        return sum(gain > 0 for gain in gains), len(gains), min(gains)

    def curve(self, name: str, counts: Sequence[int], score: str, family: str | None, supervised: bool) -> Curve:
        """Scores `[counts, seeds]` at the smallest size, as `jepa_ssl.evaluation` compares them."""
        some = [family] if family else known(score)
        if supervised:
            runs = [self.runs("supervised", f"{name}-{labels}labels") for labels in counts]
            rows = [[float(np.mean([run[each][score] for each in some])) for run in of_count] for of_count in runs]
        else:
            rows = [self.probe(name, 20, labels, score, some) for labels in counts]
        seeds = min(map(len, rows))
        values = torch.tensor([row[:seeds] for row in rows], dtype=torch.float64).reshape(len(rows), seeds)
        return Curve(values, torch.empty(len(counts), seeds, 0, dtype=torch.float64))

    def checkpoints(self, score: str) -> list[tuple[dict[str, float], float]]:
        """Of each trunk that was trained without labels, its label-free scores and what its probe has, ten labels."""
        stream = "variable" if score == "r2" else "constraint"
        pairs: list[tuple[dict[str, float], float]] = []
        for name in LABEL_FREE:
            runs = (self.runs("scores", name), self.probe(name, 20, 10, score), self.runs("pretraining", name))
            for scores, value, trained in zip(*runs, strict=False):
                pairs.append((scores[stream] | {"prediction_loss": -trained["last_loss"]}, value))
        return pairs

    def difference(self, name: str, minus: str, *arguments: Any) -> Interval:
        return paired(self.probe(name, *arguments), self.probe(minus, *arguments))


def known(score: str) -> Sequence[str]:
    """The families over which a score is averaged."""
    return KNOWABLE if score == "r2" else FAMILIES


def interval(values: Sequence[float]) -> Interval:
    """The mean over seeds with its 95% interval, that of Student's t; NaN at its ends from one run.

    >>> str(interval([1.0, 2.0, 3.0]))
    '+2.000 [-0.484, +4.484]'
    """
    return interval_over_seeds(torch.tensor(list(values), dtype=torch.float64), torch.empty(len(values), 0))


def paired(of: Sequence[float], minus: Sequence[float]) -> Interval:
    """The difference of two arms, seed by seed, over the seeds that both have.

    >>> round(paired([0.9, 0.8, 0.7], [0.5, 0.4]).mean, 6)
    0.4
    """
    return interval([a - b for a, b in zip(of, minus, strict=False)])


def log_ratios(of: Sequence[Any], base: Sequence[Any], value: Callable[[Any, str], float]) -> list[float]:
    """Of each pair of runs, the mean over families of log(value / value of the base)."""
    return [
        float(np.mean([np.log(value(a, family) / value(b, family)) for family in FAMILIES]))
        for a, b in zip(of, base, strict=False)
    ]


def geometric(values: Sequence[float]) -> float:
    """The geometric mean of positive numbers.

    >>> round(geometric([1.0, 100.0]), 6)
    10.0
    """
    return float(np.exp(np.mean(np.log(np.maximum(values, 1e-12)))))


def first_step(curve: Sequence[float], end: float, every: int) -> float:
    """The first step at which a curve that is measured every so many is at `end` or below; else inf.

    >>> first_step([3.0, 2.0, 1.0], 2.5, every=10), first_step([3.0], 2.5, every=10)
    (10.0, inf)
    """
    return next((float(i * every) for i, value in enumerate(curve) if value <= end), float("inf"))


def label(name: str) -> str:
    return WITHOUT_NETWORK[name] if name in WITHOUT_NETWORK else ARMS[name].label
