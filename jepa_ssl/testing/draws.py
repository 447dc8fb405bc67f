"""Whether a draw is uniform, from many draws of the same items."""

from statistics import NormalDist

import torch
from torch import Tensor

CHANCE = 1e-6  # how often a uniform draw is taken for a biased one


def bias_of(draws: Tensor, size: int) -> str | None:
    """What is wrong with `draws`, bool `[draws, size]`, each an independent draw of some of `size` items; None if fine.

    Given how many items a draw takes, each is to be as likely as any other, each pair as any other pair, and what one
    draw takes is to say nothing of the next. Compared are the counts with what is expected, in standard deviations.
    """
    marks = draws.double()
    taken, number = marks.sum(1), len(marks)
    pairs, again = marks.T @ marks, marks[:-1].T @ marks[1:]
    share = pairs.diagonal() / number
    one = taken.mean() / size
    two = (taken * (taken - 1)).mean() / (size * (size - 1))
    apart = ~torch.eye(size, dtype=torch.bool, device=marks.device)
    for counts, chance, fault in (
        (again, share.outer(share), "what is hidden of one instance depends on the instance before it"),
        (pairs.diagonal(), one, "some items are hidden more often than others"),
        (pairs[apart], two, "some pairs of items are hidden together more often than others"),
    ):
        # A count that cannot vary, for nothing or everything is taken, has to be exact.
        deviation = (number * chance * (1 - chance)).clamp(min=1e-6).sqrt()
        expected = (number - (counts is again)) * chance
        if bool((((counts - expected) / deviation).abs() > _quantile(2 * size * size)).any()):
            return fault
    return None


def _quantile(tests: int) -> float:
    """Standard deviations that none of so many normal numbers exceeds, but for a chance of `CHANCE`."""
    return -NormalDist().inv_cdf(CHANCE / (2 * tests))
