"""What watching and balancing cost beside a joint training step, at their default cadences.

Run with `make bench`, or `python tests/benchmarks/test_monitor_cost.py` for the shares alone, measured in turns.
"""

import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2] / "examples/kkt_nets"), str(Path(__file__).parents[1])]

from dataset import FlatCollate, collate_graphs, prepare
from generators import generate
from jepa_adapter import KKTJepa
from models import GNNPolicy, KKTNetMLP
from options import parse
from paths import kkt
from timing import least_seconds

from jepa_ssl import CollapseMonitor, GradientBalance, LossWeights

SIZES = {"MLP, batch 256": ((), 256), "MLP, batch 8": ((), 8), "GNN, batch 32": (("--use_bipartite_graphs",), 32)}
MONITOR_EVERY, BALANCE_EVERY = CollapseMonitor().every, GradientBalance([torch.zeros(1, requires_grad=True)]).every


def parts(size: str) -> tuple[Any, Any, Namespace, KKTJepa]:
    """Network, batch, options and JEPA term: set covers of 20 variables and 50 rows, 40 of them bounds."""
    path, count = SIZES[size]
    args = parse([*path, "--use_jepa", "--monitor_every", "0"])
    samples = [prepare(generate("set_cover", (10, 20), seed)) for seed in range(count)]
    m, n = max(len(s.b) for s in samples), max(len(s.c) for s in samples)
    model: Any = GNNPolicy(args) if path else KKTNetMLP(m, n, args.hidden_size)
    batch = collate_graphs(samples) if path else FlatCollate(m, n)(samples)
    return model, batch, args, KKTJepa(model, args, torch.device("cpu"))


def training_step(size: str) -> Callable[[], None]:
    model, batch, args, jepa = parts(size)
    optimizer = torch.optim.Adam([*model.parameters(), *jepa.parameters()], lr=args.lr)
    weights = LossWeights(task=1.0, jepa=0.2)

    def step() -> None:
        joint = weights.combine(lambda: kkt(model, batch, args)[0], lambda: jepa.loss(batch))
        optimizer.zero_grad()
        joint.total.backward()
        optimizer.step()
        jepa.update()

    return step


def ways(size: str) -> dict[str, Callable[[], Any]]:
    """A step, and what is done beside ten of them, or beside twenty."""
    model, batch, args, jepa = parts(size)
    shown, task = jepa.loss(batch), kkt(model, batch, args)[0]
    monitor, balance = CollapseMonitor(), GradientBalance(jepa.encoder.trunk.parameters(), every=1)

    def watch() -> None:
        for _ in range(MONITOR_EVERY):
            monitor.observe(shown)
            monitor.step()

    return {"step": training_step(size), "watch": watch, "balance": lambda: balance(task, shown.total)}


@pytest.mark.parametrize("way", ["step", "watch", "balance"])
@pytest.mark.parametrize("size", SIZES)
def test_watching(benchmark: Any, size: str, way: str):
    benchmark.group = f"{size}: a joint step; watching {MONITOR_EVERY} steps; one balance in {BALANCE_EVERY} steps"
    benchmark(ways(size)[way])


def shares(size: str, rounds: int = 30) -> tuple[float, float]:
    """The monitor's and the balance's share of the time of a joint training step."""
    seconds = least_seconds(ways(size), rounds)
    step = seconds["step"]
    return seconds["watch"] / (MONITOR_EVERY * step), seconds["balance"] / (BALANCE_EVERY * step)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for size in SIZES:
        monitor_share, balance_share = shares(size)
        print(f"{size:16s} monitor {monitor_share:7.2%} of a step, balance {balance_share:7.2%}")
