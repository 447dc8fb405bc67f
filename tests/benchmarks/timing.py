"""Times of several ways to do the same, measured in turns so that a busy machine slows all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def least_seconds(ways: Mapping[str, Callable[[], Any]], rounds: int = 30) -> dict[str, float]:
    """The least time of each way."""
    least = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            least[name] = min(least[name], time.perf_counter() - start)
    return least


def ratio(way: Callable[[], Any], other: Callable[[], Any], rounds: int = 40, seconds: float = 0.03) -> float:
    """The time of `way` over that of `other`: the median over rounds in which both run for so long or once."""
    calls = max(1, round(seconds / min(least_seconds({"": other}, rounds=5).values())))
    least_seconds({"": way}, rounds=5)
    ratios: list[float] = []
    for i in range(rounds):
        times = [0.0, 0.0]
        for which in (0, 1) if i % 2 else (1, 0):
            start = time.perf_counter()
            for _ in range(calls):
                (way, other)[which]()
            times[which] = time.perf_counter() - start
        ratios.append(times[0] / times[1])
    return statistics.median(ratios)
