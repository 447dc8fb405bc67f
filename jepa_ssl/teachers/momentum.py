"""The momentum of a teacher's average as a function of how many updates there have been."""

import math
from dataclasses import dataclass

from jepa_ssl.checks import closed_fraction, whole_number


@dataclass(frozen=True)
class LinearMomentum:
    """A momentum that goes from `start` to `end` evenly in `updates` updates, and stays there.

    Source: I-JEPA (Assran et al., CVPR 2023), from 0.996 to 1.

    Args:
        start: momentum of the first update, in [0, 1].
        end: momentum once there have been `updates` updates, in [0, 1].
        updates: at least 1; as many as there are optimizer steps in the training, epochs times batches.

    >>> momentum = LinearMomentum(0.9, 1.0, updates=4)
    >>> [round(momentum(update), 3) for update in range(6)]
    [0.9, 0.925, 0.95, 0.975, 1.0, 1.0]
    """

    start: float
    end: float
    updates: int

    def __post_init__(self) -> None:
        closed_fraction("start", self.start)
        closed_fraction("end", self.end)
        whole_number("updates", self.updates, least=1)

    def __call__(self, update: int) -> float:
        return _between(self.start, self.end, min(update / self.updates, 1.0))


@dataclass(frozen=True)
class CosineMomentum(LinearMomentum):
    """A momentum that goes from `start` to `end` along half a cosine in `updates` updates, and stays there.

    With `end=1` it is `1 - (1 - start) (cos(pi k / updates) + 1) / 2` at update k: BYOL (Grill et al., NeurIPS 2020),
    section 3.2.

    >>> momentum = CosineMomentum(0.9, 1.0, updates=4)
    >>> [round(momentum(update), 3) for update in range(6)]
    [0.9, 0.915, 0.95, 0.985, 1.0, 1.0]
    """

    def __call__(self, update: int) -> float:
        return _between(self.start, self.end, (1.0 - math.cos(math.pi * min(update / self.updates, 1.0))) / 2.0)


def _between(start: float, end: float, share: float) -> float:
    """`share` of the way; rounding does not lead beyond the two."""
    return min(max((1.0 - share) * start + share * end, min(start, end)), max(start, end))


def warmed_up(momentum: float, update: int) -> float:
    """At most `(1 + k) / (10 + k)`: early on, a mean over about the last ninth of the way.

    Source: `num_updates` of TensorFlow's `ExponentialMovingAverage`.
    """
    return min(momentum, (1 + update) / (10 + update))
