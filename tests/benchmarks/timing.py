"""Times of several ways to do the same, measured in turns so that a busy machine slows all of them."""

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
