"""Schedules for a teacher's momentum or the weight of a loss."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch

from jepa_ssl.checks import non_negative, whole_number

Scheduled: TypeAlias = float | Callable[[int], float]
"""A constant, or a function from a step's number to a value: a schedule of this module or your own."""


@dataclass(frozen=True)
class Schedule(ABC):
    """A value that goes from `start` to `end` in `steps` steps and then stays there.

    Args:
        start: value at step 0, at least 0.
        end: value from step `steps` on, at least 0.
        steps: at least 1. A teacher's momentum counts its updates, a loss weight counts epochs.
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        non_negative("start", self.start)
        non_negative("end", self.end)
        whole_number("steps", self.steps, least=1, remedy="use a plain number for a constant.")

    def __call__(self, step: int) -> float:
        share = self._share(min(step / self.steps, 1.0))
        value = (1.0 - share) * self.start + share * self.end
        low, high = sorted((self.start, self.end))
        return min(max(value, low), high)  # rounding must not leave this range

    @abstractmethod
    def _share(self, progress: float) -> float:
        """Return how far the value is from `start` to `end` after this share of the steps; both in [0, 1]."""


class LinearSchedule(Schedule):
    """A value that goes linearly from `start` to `end`.

    Source: the momentum of I-JEPA (Assran et al., CVPR 2023), from 0.996 to 1.

    >>> momentum = LinearSchedule(0.9, 1.0, steps=4)
    >>> [round(momentum(update), 3) for update in range(6)]
    [0.9, 0.925, 0.95, 0.975, 1.0, 1.0]
    """

    def _share(self, progress: float) -> float:
        return progress


class CosineSchedule(Schedule):
    """A value that goes from `start` to `end` along half a cosine.

    With `end=1` it is `1 - (1 - start) (cos(pi k / steps) + 1) / 2` at step k. Source: the momentum of BYOL (Grill et
    al., NeurIPS 2020), section 3.2.

    >>> momentum = CosineSchedule(0.9, 1.0, steps=4)
    >>> [round(momentum(update), 3) for update in range(6)]
    [0.9, 0.915, 0.95, 0.985, 1.0, 1.0]
    """

    def _share(self, progress: float) -> float:
        return (1.0 - math.cos(math.pi * progress)) / 2.0


def value_at(scheduled: Scheduled, step: int, name: str, check: Callable[[str, float], float]) -> float:
    """Return the checked value at `step`. Both ends of a `Schedule` are checked, so a bad end raises at step 0."""
    if not callable(scheduled):
        return check(name, scheduled)
    if torch.compiler.is_compiling():  # a check cannot read a value that depends on the step
        return scheduled(step)
    if isinstance(scheduled, Schedule):
        check(f"{name}.start", scheduled.start)
        check(f"{name}.end", scheduled.end)
    return check(f"{name}({step})", scheduled(step))


def warmed_up(momentum: float, update: int) -> float:
    """Limit `momentum` to `(1 + k) / (10 + k)` at update k, so that an average soon forgets its start.

    Source: `num_updates` of TensorFlow's `ExponentialMovingAverage`.
    """
    return min(momentum, (1 + update) / (10 + update))
