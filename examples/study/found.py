"""What has been computed, read back: by stage, arm, size, family and seed."""

from collections.abc import Sequence
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import numpy as np

from . import pieces
from .intervals import Interval, interval, paired
from .plan import ARMS, FAMILIES, KNOWABLE

STREAMS = ("constraint", "variable")


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

    # The frozen probe

    def probe(self, name: str, n: int, labels: int, score: str, families: Sequence[str] | None = None) -> list[float]:
        """Of each seed, the mean over families: all of them, or for R2 those whose optimum can be known."""
        some = families or (KNOWABLE if score == "r2" else FAMILIES)
        return [
            float(np.mean([run[str(n)][family][str(labels)][score] for family in some]))
            for run in self.runs("probe", name)
        ]

    def ceiling(self, n: int, family: str) -> dict[str, float]:
        return self.stages["probe"]["ceilings"][str(n)][family]

    def geometry(self, name: str, n: int, measure: str, families: Sequence[str] = FAMILIES) -> list[float]:
        return [
            float(np.mean([run[str(n)][family]["geometry"][measure] for family in families]))
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

    # Fine-tuning on the KKT residual

    def curves(self, name: str, n: int, family: str, frozen: bool = False) -> list[list[float]]:
        """Of each seed, the residual after every few steps."""
        label = f"{name}{'-frozen' if frozen else ''}-n{n}"
        return [run[family]["residual"] for run in self.runs("finetuning", label)]

    def steps_to_scratch(self, name: str, n: int, family: str, every: int, frozen: bool = False) -> list[float]:
        """Of each seed, the first step at which the residual is that of scratch at its end, or lower; else inf."""
        found: list[float] = []
        for curve, scratch in zip(self.curves(name, n, family, frozen), self.curves("random", n, family), strict=False):
            found.append(first_step(curve, scratch[-1], every))
        return found

    # Means and differences

    def mean(self, *arguments: Any) -> Interval:
        return interval(self.probe(*arguments))

    def difference(self, name: str, minus: str, *arguments: Any) -> Interval:
        return paired(self.probe(name, *arguments), self.probe(minus, *arguments))


SHOWN, PREDICTED = "shown_states", "predicted_states"
WITHOUT_NETWORK = {
    SHOWN: "no network: the states that are shown",
    PREDICTED: "no network: the state that is predicted",
    "states": "no network: the states that are shown",
}


def first_step(curve: Sequence[float], end: float, every: int) -> float:
    """The first step at which a curve that is measured every so many is at `end` or below; else inf.

    >>> first_step([3.0, 2.0, 1.0], 2.5, every=10), first_step([3.0], 2.5, every=10)
    (10.0, inf)
    """
    return next((float(i * every) for i, value in enumerate(curve) if value <= end), float("inf"))


def label(name: str) -> str:
    return WITHOUT_NETWORK[name] if name in WITHOUT_NETWORK else ARMS[name].label


def floor(name: str) -> str:
    """What a row begins with whose arm is another one's second run."""
    return "noise floor: " if name in ARMS and ARMS[name].seed_offset else ""
