"""What each of torch's engines buys for a joint step: time and peak memory, beside the plain step.

Run with `make bench`, or `python tests/benchmarks/test_engines.py` for the table in docs/engines.md, measured in turns.
"""

import sys
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2] / "examples/kkt_nets"), str(Path(__file__).parents[1])]

import pytest
import torch
from benchmarks.timing import least_seconds
from builders import seeded
from models import GNNPolicy, KKTNetMLP
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jepa_ssl import BipartiteGraph, EMATeacher, EntryMasker, JEPAObjective, MLPPredictor, MLPProjector, NodeMasker
from jepa_ssl.maskers import Seeds

ROWS, COLUMNS, DEGREE = 50, 20, 4


class FlatEncoder(nn.Module):
    """The trunk of `KKTNetMLP`, three layers of 256, and a projector."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: Any = KKTNetMLP(ROWS, COLUMNS).net
        self.projector = MLPProjector({"instance": 256}, 64)
        self.run: Callable[..., Any] = direct

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        for linear, activation in zip(self.layers[::2], self.layers[1::2], strict=True):
            x = self.run(nn.Sequential(linear, activation), x)
        return self.projector({"instance": x})


class GraphEncoder(nn.Module):
    """The trunk of `GNNPolicy`, two rounds of messages of width 64, and a projector."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = GNNPolicy(Namespace(embedding_size=64)).trunk
        self.projector = MLPProjector({"constraint": 64, "variable": 64}, 64)
        self.run: Callable[..., Any] = direct

    def forward(self, graph: BipartiteGraph) -> dict[str, Tensor]:
        trunk: Any = self.trunk
        row, column = graph.edge_index
        c = trunk.constraint_embedding(graph.constraint_features)
        v = trunk.variable_embedding(graph.variable_features)
        edge = trunk.edge_embedding(graph.edge_attr)
        for to_constraints, to_variables in zip(trunk.to_constraints, trunk.to_variables, strict=True):
            c = self.run(to_constraints, v, c, column, row, edge)
            v = self.run(to_variables, c, v, row, column, edge)
        return self.projector({"constraint": c, "variable": v})


def direct(layer: nn.Module, *inputs: Tensor) -> Tensor:
    return layer(*inputs)


def graphs(count: int) -> BipartiteGraph:
    generator = seeded(0)
    row = torch.arange(count * ROWS).repeat_interleave(DEGREE)
    column = torch.randint(COLUMNS, row.shape, generator=generator) + row // ROWS * COLUMNS
    features = [torch.randn(n, width, generator=generator) for n, width in ((count * ROWS, 3), (count * COLUMNS, 5))]
    ends = torch.arange(count + 1)
    attr = torch.randn(len(row), 1, generator=generator)
    return BipartiteGraph(features[0], torch.stack([row, column]), attr, features[1], ends * ROWS, ends * COLUMNS)


def vectors(count: int) -> Tensor:
    return torch.randn(count, ROWS * COLUMNS + ROWS + COLUMNS, generator=seeded(0))


PATHS: dict[str, Any] = {
    f"{path}, batch {count}": (*parts, count)
    for path, parts, counts in (
        ("flat", (FlatEncoder, EntryMasker(0.5), {"instance": 64}, vectors), (256, 8)),
        ("graph", (GraphEncoder, NodeMasker(0.3), {"constraint": 64, "variable": 64}, graphs), (32, 4)),
    )
    for count in counts
}
WAYS = ("eager", "generator", "compiled", "bfloat16", "checkpointed", "accumulated")


def joint_step(path: str, way: str) -> Callable[[], None]:
    """A step with its optimizer and its teacher; one of each way is alike but for the engine."""
    Encoder, views, dims, instances, count = PATHS[path]
    torch.manual_seed(0)
    encoder = Encoder()
    jepa = JEPAObjective(views, MLPPredictor(dims), EMATeacher(encoder))
    if way == "checkpointed":  # after the copy, for the teacher keeps nothing anyway
        encoder.run = partial(checkpoint, use_reentrant=False)
    optimizer = torch.optim.SGD([*encoder.parameters(), *jepa.predictor.parameters()], lr=1e-3)  # pyright: ignore
    parts = 4 if way == "accumulated" else 1
    batch, names, generator = instances(count // parts), torch.arange(count // parts), torch.Generator()

    def loss() -> Tensor:
        given: Any = {"generator": generator} if way == "generator" else {"generator": Seeds(names)}
        task = torch.stack([z.square().mean() for z in encoder(batch).values()]).sum()
        return (task + 0.2 * jepa(encoder, batch, **given).total) / parts

    compiled = torch.compile(loss, fullgraph=True) if way == "compiled" else loss

    def step() -> None:
        for _ in range(parts):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=way == "bfloat16"):
                value = compiled()
            value.backward()
        optimizer.step()
        optimizer.zero_grad()
        jepa.update(encoder)

    return step


def peak_bytes(step: Callable[[], None]) -> int:
    """The most that a step has allocated at a time, beyond what was there before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    results: Any = profile.profiler
    events = sorted(results.kineto_results.events(), key=lambda event: event.start_ns())
    return max(accumulate(chain([0], (event.nbytes() for event in events if event.name() == "[memory]"))))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("way", [way for way in WAYS if way != "compiled"])  # compiling takes longer than it saves here
def test_a_joint_step(benchmark: Any, path: str, way: str):
    benchmark.group = f"a joint step, {path}"
    benchmark(joint_step(path, way))


def main() -> None:
    torch.set_num_threads(1)
    for path in PATHS:
        steps = {way: joint_step(path, way) for way in WAYS}
        spent: dict[str, float] = {}
        for way, step in steps.items():
            start = time.perf_counter()
            step()
            step()
            spent[way] = time.perf_counter() - start
        seconds = least_seconds(steps, rounds=60)
        memory = {way: peak_bytes(step) for way, step in steps.items()}
        print(f"{path}: eager {1e3 * seconds['eager']:.2f} ms, {memory['eager'] / 2**20:.1f} MiB at its peak")
        for way in WAYS:
            share, space = seconds[way] / seconds["eager"], memory[way] / memory["eager"]
            print(f"  {way:14s} {share:.2f} of the time, {space:.2f} of the memory")
        saved = seconds["eager"] - seconds["compiled"]
        pays = f"pays after {spent['compiled'] / saved:,.0f} steps" if saved > 0 else "never pays"
        print(f"  compiling takes {spent['compiled']:.0f} s and {pays}", flush=True)


if __name__ == "__main__":
    main()
