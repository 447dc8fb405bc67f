"""What a joint step costs beside its irreducible parts: the task's step, and the passes that JEPA cannot do without.

Run with `make bench`, or `python tests/benchmarks/test_step_cost.py` for the ratios alone, measured in turns.
"""

import sys
from argparse import Namespace
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2] / "examples/kkt_nets"), str(Path(__file__).parents[1])]

from benchmarks.timing import least_seconds
from data.batches import Sample, prepare
from data.generators import generate
from jepa_adapter import instance, jepa_term
from loop.options import parse
from loop.paths import build, kkt, trunk_of

SIZES = {"flat, batch 256": ((), 256), "flat, batch 8": ((), 8), "graph, batch 32": (("--use_bipartite_graphs",), 32)}
MODES = ("ema", "simsiam")
EVERY = 10  # the default cadence of the monitor; a round has so many steps


@cache
def samples(count: int) -> list[Sample]:
    """Set covers of 20 variables and 50 rows, 40 of which are bounds."""
    return [prepare(generate("set_cover", (10, 20), seed)) for seed in range(count)]


def joint(size: str, *flags: str) -> tuple[Any, Any, Any, Namespace, torch.optim.Optimizer]:
    """Network, JEPA term, batch, options and optimizer."""
    path, count = SIZES[size]
    args = parse([*path, "--use_jepa", *flags])
    lps = samples(count)
    torch.manual_seed(0)
    model, collate = build(args, max(len(s.b) for s in lps), max(len(s.c) for s in lps))
    jepa = jepa_term(model, args, torch.device("cpu"))
    return model, jepa, collate(lps), args, torch.optim.Adam([*model.parameters(), *jepa.parameters()], lr=args.lr)


def whole_step(size: str, *flags: str, mode: str = "ema") -> Callable[[], None]:
    """As `train.py` takes it: views, monitor, everything."""
    model, jepa, batch, args, optimizer = joint(size, "--jepa_mode", mode, *flags)

    def step() -> None:
        joint = jepa.loss(instance(batch), task=lambda: kkt(model, batch, args)[0], epoch=0)
        optimizer.zero_grad()
        joint.total.backward()
        optimizer.step()
        jepa.update()

    return step


def irreducible_step(size: str, mode: str) -> Callable[[], None]:
    """The task's pass, the context's and, with a copy, the target's; one backward; the optimizer's step.

    The views were made before, the loss is a plain mean, the copy moves by cached lists.
    """
    model, jepa, batch, args, optimizer = joint(size, "--jepa_mode", mode)
    views = jepa.objective.views(instance(batch))
    encoder, predictor, teacher = jepa.encoder, jepa.objective.predictor, jepa.objective.teacher
    copy = teacher.target_model if mode == "ema" else None
    slow, fast = ([p.data for p in module.parameters()] for module in (copy or encoder, encoder))
    trunk: list[Any] = []
    trunk_of(model).register_forward_hook(lambda _, __, output: trunk.append(output))

    def step() -> None:
        trunk.clear()
        task = kkt(model, batch, args)[0]
        predictions = predictor(encoder(views.context).embeddings)
        with torch.no_grad():
            targets = (copy(views.target) if copy else encoder.project(trunk[0])).embeddings
        terms: list[Tensor] = [
            2 - 2 * torch.nn.functional.cosine_similarity(predictions[stream], targets[stream]).mean()
            for stream in predictions
        ]
        optimizer.zero_grad()
        (task + 0.2 * torch.stack(terms).mean()).backward()
        optimizer.step()
        if copy:
            with torch.no_grad():
                torch._foreach_lerp_(slow, fast, 0.004)  # pyright: ignore[reportPrivateImportUsage]

    return step


def task_step(size: str) -> Callable[[], None]:
    model, _, batch, args, optimizer = joint(size)

    def step() -> None:
        optimizer.zero_grad()
        kkt(model, batch, args)[0].backward()
        optimizer.step()

    return step


WAYS: dict[str, Callable[[str], Callable[[], None]]] = {"task alone": task_step}
for mode in MODES:
    WAYS[f"{mode}, irreducible"] = partial(irreducible_step, mode=mode)
    WAYS[f"{mode}, whole"] = partial(whole_step, mode=mode)


def repeated(step: Callable[[], None]) -> Callable[[], None]:
    def steps() -> None:
        for _ in range(EVERY):
            step()

    return steps


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", WAYS)
def test_a_joint_step(benchmark: Any, size: str, way: str):
    benchmark.group = f"{EVERY} joint steps, {size}"
    step = WAYS[way](size)
    benchmark(step if benchmark.disabled else repeated(step))


def main() -> None:
    torch.set_num_threads(1)
    for size in SIZES:
        seconds = least_seconds({name: repeated(make(size)) for name, make in WAYS.items()}, rounds=10)
        print(f"{size}: the task's step alone {1e3 * seconds['task alone'] / EVERY:.2f} ms")
        for mode in MODES:
            whole, parts = seconds[f"{mode}, whole"], seconds[f"{mode}, irreducible"]
            print(
                f"  {mode:8s} {whole / seconds['task alone']:.2f} of it, {whole / parts:.3f} of the irreducible parts"
            )


if __name__ == "__main__":
    main()
