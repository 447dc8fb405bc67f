"""What watching and balancing cost beside a joint training step, at their default cadences.

Run with `make bench`, or `python tests/benchmarks/test_monitor_cost.py` for the shares alone, measured in turns.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2] / "examples/kkt_nets"), str(Path(__file__).parents[1])]

from benchmarks.test_step_cost import SIZES, joint, whole_step
from benchmarks.timing import least_seconds
from jepa_adapter import instance
from loop.paths import kkt

from jepa_ssl import CollapseMonitor, GradientBalance

MONITOR_EVERY, BALANCE_EVERY = CollapseMonitor().every, GradientBalance([torch.zeros(1, requires_grad=True)]).every


def watching_or_balancing(size: str, way: str) -> Callable[[], Any]:
    """What is done beside ten steps, or beside twenty."""
    model, jepa, batch, args, _ = joint(size, "--monitor_every", "0")
    shown, task = jepa.objective(jepa.encoder, instance(batch)), kkt(model, batch, args)[0]
    monitor, balance = CollapseMonitor(), GradientBalance(jepa.encoder.trunk.parameters(), every=1)

    def watch() -> None:
        for _ in range(MONITOR_EVERY):
            monitor.observe(shown)
            monitor.step()

    return watch if way == "watch" else lambda: balance(task, shown.total)


WAYS: dict[str, Callable[[str], Callable[[], Any]]] = {
    "step": lambda size: whole_step(size, "--monitor_every", "0"),
    "watch": partial(watching_or_balancing, way="watch"),
    "balance": partial(watching_or_balancing, way="balance"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", SIZES)
def test_watching(benchmark: Any, size: str, way: str):
    benchmark.group = f"{size}: a joint step; watching {MONITOR_EVERY} steps; one balance in {BALANCE_EVERY} steps"
    benchmark(WAYS[way](size))


def shares(size: str, rounds: int = 30) -> tuple[float, float]:
    """The monitor's and the balance's share of the time of a joint training step."""
    seconds = least_seconds({name: make(size) for name, make in WAYS.items()}, rounds)
    step = seconds["step"]
    return seconds["watch"] / (MONITOR_EVERY * step), seconds["balance"] / (BALANCE_EVERY * step)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for size in SIZES:
        monitor_share, balance_share = shares(size)
        print(f"{size:16s} monitor {monitor_share:7.2%} of a step, balance {balance_share:7.2%}")
