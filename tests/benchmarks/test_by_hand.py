"""What a joint step costs with a `JEPATerm`, beside the same step written by hand with the formulas of the spec.

Run with `make bench`, or `python tests/benchmarks/test_by_hand.py` for the ratios alone, measured in turns.
"""

import copy
import sys
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2] / "examples/kkt_nets"), str(Path(__file__).parents[1])]

from benchmarks.timing import ratio
from data.batches import FlatBatch, collate_graphs, prepare
from data.generators import generate
from jepa_adapter import instance
from loop.options import parse
from loop.paths import kkt
from models import GNNPolicy, KKTNetMLP

from jepa_ssl import (
    CollapseMonitor,
    EMATeacher,
    EntryMasker,
    JEPAObjective,
    JEPATerm,
    JointSchedule,
    MLPPredictor,
    MLPProjector,
    ModelEncoder,
    NodeMasker,
    StopGradTeacher,
)

DIM, MOMENTUM, WEIGHT = 64, 0.996, 0.2
MODES = ("simsiam", "ema")
ARGS = parse(["--use_jepa"])


def flat(count: int) -> tuple[KKTNetMLP, FlatBatch]:
    """LPs of 50 rows and 50 columns: 2,600 entries."""
    a, b, c = torch.randn(count, 50, 50), torch.randn(count, 50), torch.randn(count, 50)
    entries = torch.cat([a.flatten(1), b, c], dim=1)
    return KKTNetMLP(50, 50), FlatBatch(entries, a, b, c, torch.ones(count, 50), torch.ones(count, 50))


def graphs(count: int, size: tuple[int, int]) -> tuple[GNNPolicy, Any]:
    """Set covers, whose bounds are rows: `size[0] + 3 * size[1]` nodes."""
    batch = collate_graphs([prepare(generate("set_cover", size, seed)) for seed in range(count)])
    return GNNPolicy(Namespace(embedding_size=DIM)), batch


SIZES: dict[str, Callable[[], Any]] = {
    "graphs, 32 x 80 nodes": partial(graphs, 32, (20, 20)),
    "graphs, 4 x 40 nodes": partial(graphs, 4, (10, 10)),
    "MLP, 256 x 2,600 entries": partial(flat, 256),
    "MLP, 8 x 2,600 entries": partial(flat, 8),
}


def optimizer_of(*modules: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam([p for module in modules for p in module.parameters() if p.requires_grad], lr=1e-4)


def task_step(size: str) -> Callable[[], None]:
    torch.manual_seed(0)
    model, batch = SIZES[size]()
    optimizer = optimizer_of(model)

    def step() -> None:
        optimizer.zero_grad()
        kkt(model, batch, ARGS)[0].backward()
        optimizer.step()

    return step


# ---- with a term ---------------------------------------------------------------------------------------------------


def encoder_of(model: Any) -> ModelEncoder:
    if isinstance(model, KKTNetMLP):
        return ModelEncoder(model, {"instance": 256}, DIM, run=lambda model, flat: model.net(flat), activation=nn.SELU)
    widths = {"constraint": DIM, "variable": DIM}
    return ModelEncoder(
        model,
        widths,
        DIM,
        run=lambda model, g: model.encode(g.constraint_features, g.edge_index, g.edge_attr, g.variable_features),
    )


def term_step(size: str, mode: str, every: int = 1) -> Callable[[], None]:
    """Views, monitor, everything."""
    torch.manual_seed(0)
    model, batch = SIZES[size]()
    encoder = encoder_of(model)
    views = EntryMasker(0.5) if isinstance(model, KKTNetMLP) else NodeMasker(0.3)
    teacher = EMATeacher(encoder, MOMENTUM) if mode == "ema" else StopGradTeacher()
    predictor = MLPPredictor(encoder.dims, activation=nn.SELU if isinstance(model, KKTNetMLP) else nn.ReLU)
    objective: Any = JEPAObjective(views, predictor, teacher, monitor=CollapseMonitor())
    term = JEPATerm(encoder, objective, JointSchedule(jepa_weight=WEIGHT, every=every))
    optimizer = optimizer_of(model, term)
    shown = batch.model_input if isinstance(model, KKTNetMLP) else instance(batch)

    def step() -> None:
        joint = term.loss(shown, task=lambda: kkt(model, batch, ARGS)[0])
        optimizer.zero_grad()
        joint.total.backward()
        optimizer.step()
        term.update()

    return step


# ---- by hand ---------------------------------------------------------------------------------------------------------


def hide_entries(flat: Tensor) -> Tensor:
    """`int(0.5 * D)` entries of each vector become 0."""
    hidden = torch.rand_like(flat).topk(flat.size(1) // 2, dim=1).indices
    return flat.scatter(1, hidden, 0.0)


def hide_nodes(features: Tensor, offsets: list[int]) -> tuple[Tensor, Tensor]:
    """30% of the nodes of each graph, at least one, become 0; and which these are."""
    chosen = [
        start + torch.randperm(end - start)[: max(int(0.3 * (end - start)), 1)] for start, end in pairwise(offsets)
    ]
    hidden = torch.cat(chosen)
    return features.index_fill(0, hidden, 0.0), hidden


def cosine(p: Tensor, z: Tensor) -> Tensor:
    return (2 - 2 * (F.normalize(p, dim=-1) * z).sum(-1)).mean()


class ByHand(nn.Module):
    """Trunk, projector and predictor; from an instance to normalised embeddings."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.is_flat = isinstance(model, KKTNetMLP)
        self.trunk = model.net if self.is_flat else model.trunk
        widths = {"instance": 256} if self.is_flat else {"constraint": DIM, "variable": DIM}
        self.projector = MLPProjector(widths, DIM, nn.SELU if self.is_flat else nn.ReLU)

    def forward(self, parts: tuple[Tensor, ...]) -> list[Tensor]:
        features = self.trunk(*parts)
        mlps: Any = self.projector.streams
        of_streams = (features,) if self.is_flat else features
        return [F.normalize(mlp(x), dim=-1) for mlp, x in zip(mlps.values(), of_streams, strict=True)]


def hand_step(size: str, mode: str) -> Callable[[], None]:
    torch.manual_seed(0)
    model, batch = SIZES[size]()
    online = ByHand(model)
    widths = dict.fromkeys(online.projector.streams, DIM)
    predictor: Any = MLPPredictor(widths, activation=nn.SELU if online.is_flat else nn.ReLU)
    target = copy.deepcopy(online).requires_grad_(False) if mode == "ema" else online
    optimizer = optimizer_of(model, online.projector, predictor)
    rows: list[int] = []
    columns: list[int] = []
    whole: tuple[Any, ...] = (batch.model_input,) if online.is_flat else ()
    if not online.is_flat:
        g: Any = instance(batch)
        whole = (g.constraint_features, g.edge_index, g.edge_attr, g.variable_features)
        rows, columns = g.constraint_offsets.tolist(), g.variable_offsets.tolist()

    def jepa_loss() -> Tensor:
        if online.is_flat:
            predictions, places = predictor.streams["instance"](*online((hide_entries(*whole),))), [slice(None)]
            predictions = [predictions]
        else:
            c, hidden_c = hide_nodes(whole[0], rows)
            v, hidden_v = hide_nodes(whole[3], columns)
            places = [hidden_c, hidden_v]
            made = online((c, whole[1], whole[2], v))
            predictions = [mlp(z) for mlp, z in zip(predictor.streams.values(), made, strict=True)]
        with torch.no_grad():
            targets = target(whole)
        terms = [cosine(p[at], z[at]) for p, z, at in zip(predictions, targets, places, strict=True)]
        return torch.stack(terms).mean()

    def step() -> None:
        loss = kkt(model, batch, ARGS)[0] + WEIGHT * jepa_loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if mode == "ema":
            with torch.no_grad():
                for t, o in zip(target.parameters(), online.parameters(), strict=True):
                    t.mul_(MOMENTUM).add_(o, alpha=1.0 - MOMENTUM)

    return step


def four(step: Callable[[], None]) -> Callable[[], None]:
    def steps() -> None:
        for _ in range(4):
            step()

    return steps


WAYS: dict[str, Callable[[str], Callable[[], None]]] = {"task alone": task_step}
for mode in MODES:
    WAYS[f"{mode}, by hand"] = partial(hand_step, mode=mode)
    WAYS[f"{mode}, term"] = partial(term_step, mode=mode)
    WAYS[f"{mode}, four steps at a quarter"] = lambda size, mode=mode: four(term_step(size, mode, every=4))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", WAYS)
def test_a_joint_step(benchmark: Any, size: str, way: str):
    benchmark.group = f"a joint step, {size}"
    benchmark(WAYS[way](size))


def main() -> None:
    torch.set_num_threads(1)
    for size in SIZES:
        print(size)
        for mode in MODES:
            by_hand, task = (
                ratio(term_step(size, mode), hand_step(size, mode)),
                ratio(term_step(size, mode), task_step(size)),
            )
            quarter = ratio(four(term_step(size, mode, every=4)), four(task_step(size)))
            print(f"  {mode:8s} {by_hand:.2f} of the step by hand, {task:.2f} of the task's step; ", end="")
            print(f"{quarter:.2f} with every=4", flush=True)


if __name__ == "__main__":
    main()
