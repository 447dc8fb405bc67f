"""Networks before their task: built, and pretrained as an arm says."""

import math
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data.batches import FlatBatch, GraphBatch
from jepa_adapter import GraphEncoder
from loop.paths import predict
from losses import kkt_loss
from models import GNNPolicy, KKTNetMLP
from torch import Tensor, nn

import jepa_ssl
from jepa_ssl import joint, losses, recipes
from jepa_ssl.integrations.export import export_encoder, load_encoder, read_metadata
from jepa_ssl.integrations.pyg import bipartite_graph
from jepa_ssl.lp import SparseLP

from . import lps
from .plan import ARMS, COSTS, DIM, FAMILIES, JOINT_SHARE, RECOMMENDED, SEEN, Arm, Plan

STREAMS = ("constraint", "variable")
BATCH = {20: 32, 50: 12}  # LPs of a pretraining step; a step of either size takes about the same time
LEARNING_RATE, WARM_UP, CLIP = 1e-3, 30, 1.0
FINETUNING_WARM_UP = 10
FITTED_BATCHES = 20


def build(arm: Arm, seed: int) -> GNNPolicy:
    torch.manual_seed(seed + arm.seed_offset)
    return GNNPolicy(Namespace(embedding_size=DIM, seen_steps=SEEN if arm.sees_states else ()))


def weights_file(folder: Path, name: str, seed: int) -> Path:
    return folder / "weights" / f"{name}-seed{seed}.safetensors"


def load(folder: Path, name: str, seed: int) -> GNNPolicy:
    """The network of an arm as its pretraining left it; its heads are new, unless these were trained too."""
    arm = ARMS[name]
    policy = build(arm, seed)
    if arm.training != "none":
        load_encoder(policy, weights_file(folder, name, seed))
    return policy


def ship(folder: Path, path: Path) -> None:
    """Writes the trunk of the recommended arm, seed 0, as `load_encoder` reads it into a `GNNTrunk`."""
    policy = load(folder, RECOMMENDED, seed=0)
    metadata = read_metadata(weights_file(folder, RECOMMENDED, 0))
    export_encoder(policy.trunk, path, metadata | {"recipe": "jepa_ssl.recipes.later_state"})


def pretrain(plan: Plan, folder: Path, name: str, seed: int, families: tuple[str, ...] = FAMILIES) -> dict[str, Any]:
    """Trains the network of an arm on a mixture of families and sizes, and writes its weights.

    All arms have the same optimizer, and steps for about as much time as `plan.budget` steps of KKT alone take.
    """
    arm = ARMS[name]
    policy = build(arm, seed)
    path = weights_file(folder, name if families == FAMILIES else left_out_name(name, families), seed)
    sizes, seed = plan.pretraining_lps, seed + arm.seed_offset
    data = [
        batch
        for n, count in sizes.items()
        for batch in lps.batched(families, n, count, "pretraining", BATCH[n], arm.sees_states)
    ]
    begin = time.process_time()
    steps = round(plan.budget / COSTS[arm.training])
    if arm.training == "then":
        losses = _train(policy, arm, "later", data, steps // 2, seed)
        losses += _train(policy, arm, "kkt", data, steps - steps // 2, seed)
    else:
        losses = _train(policy, arm, arm.training, data, steps, seed)
    seconds = time.process_time() - begin
    path.parent.mkdir(parents=True, exist_ok=True)
    sees = SEEN if arm.sees_states else ()
    export_encoder(policy, path, {"arm": name, "seed": seed, "families": families, "sees": sees, "dim": DIM})
    return {"steps": steps, "seconds": seconds, "first_loss": _mean(losses[:20]), "last_loss": _mean(losses[-50:])}


def left_out_name(name: str, families: tuple[str, ...]) -> str:
    """The name of an arm whose pretraining never saw one family."""
    (missing,) = set(FAMILIES) - set(families)
    return f"{name}-without-{missing}"


def kkt(model: GNNPolicy | KKTNetMLP, batch: GraphBatch | FlatBatch) -> Tensor:
    return kkt_loss(predict(model, batch), batch.A, batch.b, batch.c, batch.mask_m, batch.mask_n)[0]


def _train(
    policy: GNNPolicy, arm: Arm, training: str, data: Sequence[GraphBatch], steps: int, seed: int
) -> list[float]:
    encoder = GraphEncoder(policy)
    objective, loss_of = term(policy, encoder, arm, training, data, seed)
    added = [*encoder.projector.parameters(), *(objective.parameters() if objective else ())]
    order = np.random.default_rng(seed).integers(len(data), size=steps)
    return list(
        optimise([*policy.parameters(), *added], (lambda i=i: loss_of(i) for i in order), steps, objective, encoder)
    )


def optimise(
    parameters: Sequence[nn.Parameter],
    losses: Iterator[Callable[[], Tensor]],
    steps: int,
    objective: Any = None,
    encoder: Any = None,
) -> Iterator[float]:
    """One optimizer for all: Adam, warmed up, its rate falling along a cosine, gradients clipped."""
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    for loss_of in losses:
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        nn.utils.clip_grad_norm_(learned, CLIP)
        optimizer.step()
        schedule.step()
        if objective is not None:
            objective.update(encoder)
        yield loss.item()


def finetune(
    plan: Plan, model: GNNPolicy | KKTNetMLP, few: Sequence[Any], residual: Callable[[], float]
) -> tuple[list[float], float]:
    """The residual at the start and every few of the steps on the KKT loss of `few`; and the seconds these took."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=LEARNING_RATE)
    warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / FINETUNING_WARM_UP))
    curve, seconds = [residual()], 0.0
    for step, batch in enumerate(islice(cycle(few), plan.finetuning_steps), 1):
        model.train()
        begin = time.process_time()
        optimizer.zero_grad()
        kkt(model, batch).backward()
        nn.utils.clip_grad_norm_(learned, CLIP)
        optimizer.step()
        warm_up.step()
        seconds += time.process_time() - begin
        if step % plan.measured_every == 0:
            curve.append(residual())
    return curve, seconds


def term(
    policy: GNNPolicy, encoder: GraphEncoder, arm: Arm, training: str, data: Sequence[GraphBatch], seed: int
) -> tuple[Any, Callable[[int], Tensor]]:
    """The JEPA objective of the arm, if it has one, and the loss of batch number i."""
    if training == "kkt":
        return None, lambda i: kkt(policy, data[i])
    instances = [bipartite_graph(batch.batch_graph) for batch in data]
    objective = jepa(encoder, arm, training, instances, seed)
    generator = torch.Generator().manual_seed(seed)
    if training != "joint":
        return objective, lambda i: objective(encoder, instances[i], generator=generator).total
    balance = jepa_ssl.GradientBalance(policy.trunk.parameters())
    weights = joint.LossWeights(task=1.0, jepa=JOINT_SHARE)
    return (
        objective,
        lambda i: (
            weights.combine(
                lambda: kkt(policy, data[i]), lambda: objective(encoder, instances[i], generator=generator), balance
            ).total
        ),
    )


def jepa(encoder: GraphEncoder, arm: Arm, training: str, instances: Sequence[Any], seed: int) -> Any:
    dims: dict[str, int] = dict.fromkeys(STREAMS, DIM)
    if training in ("ema", "simsiam"):
        return jepa_ssl.JEPAObjective(
            jepa_ssl.NodeMasker(0.3),
            jepa_ssl.MLPPredictor(dims),
            jepa_ssl.EMATeacher(encoder) if training == "ema" else jepa_ssl.StopGradTeacher(),
            regularizer=jepa_ssl.VICReg(on_sphere=True),
            regularizer_weight=arm.regularizer_weight,
        )
    horizon: dict[str, Any] = {"steps": 100, "restart_every": None} if training == "state" else {}
    stored: dict[int, Any] = {}
    objective = recipes.later_state(
        dims,
        lp_of=SparseLP.inequalities_of,
        regularizer_weight=arm.regularizer_weight,
        states_of=lambda graph: stored[id(graph)],
        seed=seed,
        **horizon,
    )
    if arm.target == "numbers":
        objective.predictor, objective.teacher = _Numbers(), jepa_ssl.TargetNetwork(nn.Identity())
        objective.loss = losses.squared_error  # smooth_l1_loss would normalise the two numbers away
    views: Any = objective.views
    # Computed once: batches are the same ones, again and again.
    stored.update({id(graph): views.states(SparseLP.inequalities_of(graph)) for graph in instances})
    views.fit(instances[:: max(1, len(instances) // FITTED_BATCHES)])
    return objective


class _Numbers(nn.Module):
    """Predicts the state's own numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.streams = nn.ModuleDict(
            {stream: nn.Sequential(nn.Linear(DIM, DIM), nn.ReLU(), nn.Linear(DIM, 2)) for stream in STREAMS}
        )

    def forward(self, embeddings: Any) -> dict[str, Tensor]:
        return {stream: mlp(embeddings[stream]) for stream, mlp in self.streams.items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)
