"""Networks before their task: built, and pretrained as an arm says."""

import math
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import count, cycle
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from data.batches import GraphBatch
from jepa_adapter import GraphEncoder
from loop.paths import predict
from losses import kkt_loss
from models import GNNPolicy
from torch import Tensor, nn

import jepa_ssl
from jepa_ssl import losses, recipes
from jepa_ssl.integrations.export import export_encoder, load_encoder, read_metadata
from jepa_ssl.integrations.pyg import bipartite_graph
from jepa_ssl.joint import LossWeights
from jepa_ssl.lp import SparseLP

from . import lps
from .plan import ARMS, DIM, FAMILIES, JEPA_RATIO, JEPA_WEIGHT, SEEN, SHIPPED, STREAMS, Arm, Plan, cost
from .views import EquivalentGraphs, Inputs

BATCH = {20: 32, 50: 12, 100: 6}  # LPs of a pretraining step; a step of each size takes about the same time
LEARNING_RATE, WARM_UP, CLIP = 1e-3, 30, 1.0
FINETUNING_WARM_UP = 10
FITTED_BATCHES = 20


def build(arm: Arm, seed: int) -> GNNPolicy:
    torch.manual_seed(seed + arm.seed_offset)
    trunk = {"trunk": "solver", "rounds": arm.rounds} if arm.rounds else {}
    return GNNPolicy(Namespace(embedding_size=DIM, seen_steps=SEEN if arm.sees_states else (), **trunk))


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
    """Writes the trunk of the arm that is shipped, seed 0, as `shipped.load` reads it."""
    metadata = read_metadata(weights_file(folder, SHIPPED, 0))
    metadata |= {"rounds": ARMS[SHIPPED].rounds, "recipe": "jepa_ssl.recipes.later_state"}
    export_encoder(load(folder, SHIPPED, seed=0).trunk, path, metadata)


def pretrain(plan: Plan, folder: Path, name: str, seed: int) -> dict[str, Any]:
    """Trains the network of an arm on a mixture of families and sizes, and writes its weights.

    All arms have the same optimizer, and steps for about as much time as `plan.budget` steps of KKT alone take.
    """
    arm = ARMS[name]
    policy = build(arm, seed)
    path = weights_file(folder, name, seed)
    sizes, seed = plan.pretraining_lps | (plan.larger_lps if arm.larger else {}), seed + arm.seed_offset
    data = [
        batch
        for n, count in sizes.items()
        for batch in lps.batched(FAMILIES, n, count, "pretraining", BATCH[n], arm.sees_states)
    ]
    begin = time.process_time()
    steps = round(plan.budget * arm.budget / cost(arm))
    if arm.training == "then":
        losses = _train(policy, arm, "later", data, steps // 2, seed)
        losses += _train(policy, arm, "kkt", data, steps - steps // 2, seed)
    else:
        losses = _train(policy, arm, arm.training, data, steps, seed)
    seconds = time.process_time() - begin
    path.parent.mkdir(parents=True, exist_ok=True)
    sees = SEEN if arm.sees_states else ()
    export_encoder(policy, path, {"arm": name, "seed": seed, "families": FAMILIES, "sees": sees, "dim": DIM})
    return {"steps": steps, "seconds": seconds, "first_loss": _mean(losses[:20]), "last_loss": _mean(losses[-50:])}


def kkt(policy: GNNPolicy, batch: GraphBatch) -> Tensor:
    return kkt_loss(predict(policy, batch), batch.A, batch.b, batch.c, batch.mask_m, batch.mask_n)[0]


def _train(
    policy: GNNPolicy, arm: Arm, training: str, data: Sequence[GraphBatch], steps: int, seed: int
) -> list[float]:
    encoder = GraphEncoder(policy)
    objective, loss_of = term(policy, encoder, arm, training, data, seed)
    added = [*encoder.projector.parameters(), *(objective.parameters() if objective else ())]
    generator = np.random.default_rng(seed)
    order = generator.integers(len(data), size=steps)
    rounds = generator.integers(arm.rounds // 2, arm.rounds * 3 // 2, size=steps, endpoint=True)
    trunk: Any = policy.trunk

    def loss(step: int) -> Tensor:
        if arm.random_rounds:
            trunk.rounds = int(rounds[step])
        return loss_of(order[step])

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))

    return list(
        optimise([*policy.parameters(), *added], (partial(loss, i) for i in range(steps)), rate, objective, encoder)
    )


def optimise(
    parameters: Sequence[nn.Parameter],
    losses: Iterator[Callable[[], Tensor]],
    rate: Callable[[int], float],
    objective: Any = None,
    encoder: Any = None,
) -> Iterator[float]:
    """One optimizer for all: Adam, its learning rate times `rate(step)`, gradients clipped; the loss of each step."""
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    terms: Any = objective if isinstance(objective, nn.ModuleList) else filter(None, [objective])
    updates = [term.update for term in terms]
    for loss_of in losses:
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        nn.utils.clip_grad_norm_(learned, CLIP)
        optimizer.step()
        schedule.step()
        for update in updates:
            update(encoder)
        yield loss.item()


def finetuning(
    parameters: Sequence[nn.Parameter], loss_of: Callable[[Any], Tensor], batches: Sequence[Any]
) -> Iterator[float]:
    """Steps on the batches in turn, as many as are asked for; warmed up, then at one learning rate."""
    losses = (partial(loss_of, batch) for batch in cycle(batches))
    return optimise(parameters, losses, lambda step: min(1.0, (step + 1) / FINETUNING_WARM_UP))


def finetune(
    plan: Plan, policy: GNNPolicy, few: Sequence[GraphBatch], residual: Callable[[], float]
) -> tuple[list[float], float]:
    """The residual at the start and every few of the steps on the KKT loss of `few`; and the seconds these took."""
    steps = finetuning(list(policy.parameters()), lambda batch: kkt(policy, batch), few)
    curve, seconds = [residual()], 0.0
    for number in range(1, plan.finetuning_steps + 1):
        policy.train()
        begin = time.process_time()
        next(steps)
        seconds += time.process_time() - begin
        if number % plan.measured_every == 0:
            curve.append(residual())
    return curve, seconds


def term(
    policy: GNNPolicy, encoder: GraphEncoder, arm: Arm, training: str, data: Sequence[GraphBatch], seed: int
) -> tuple[Any, Callable[[int], Tensor]]:
    """The JEPA objective of the arm, if it has one, and its loss (else KKT's) on batch number i."""
    if training == "kkt":
        return None, lambda i: kkt(policy, data[i])
    instances = [bipartite_graph(batch.batch_graph) for batch in data]
    if training == "multi":
        return _after_several_rounds(policy, encoder, arm, instances, seed)
    objective = _later(arm, instances, seed) if training in ("later", "joint") else _objective(encoder, arm, training)
    generator = torch.Generator().manual_seed(seed)

    def jepa(i: int) -> Any:
        return objective(encoder, instances[i], generator=generator)

    return objective, _with_kkt(policy, arm, data, jepa) if training == "joint" else lambda i: jepa(i).total


def _with_kkt(
    policy: GNNPolicy, arm: Arm, data: Sequence[GraphBatch], jepa: Callable[[int], Any]
) -> Callable[[int], Tensor]:
    """The KKT loss of batch number i, and at every `arm.every`-th call the weighted JEPA loss beside it."""
    balance = jepa_ssl.GradientBalance(policy.trunk.parameters()) if arm.balanced else None
    weight, calls = JEPA_RATIO if arm.balanced else JEPA_WEIGHT, count()

    def loss(i: int) -> Tensor:
        weights = LossWeights(task=1.0, jepa=0.0 if next(calls) % arm.every else weight)
        return weights.combine(lambda: kkt(policy, data[i]), lambda: jepa(i), balance).total

    return loss


def _objective(encoder: GraphEncoder, arm: Arm, training: str) -> Any:
    predictor, masker = jepa_ssl.MLPPredictor(dict.fromkeys(STREAMS, DIM)), jepa_ssl.NodeMasker(0.3)
    match training:
        case "ema":
            return jepa_ssl.JEPAObjective(masker, predictor, jepa_ssl.EMATeacher(encoder))
        case "simsiam":
            return jepa_ssl.JEPAObjective(masker, predictor, jepa_ssl.StopGradTeacher())
        case "reconstruct":
            head = _Numbers(encoder.trunk.features)
            return jepa_ssl.JEPAObjective(masker, head, Inputs(), losses.squared_error)
        case _:
            return jepa_ssl.JEPAObjective(
                EquivalentGraphs(),
                nn.Identity(),
                jepa_ssl.SharedTeacher(),
                losses.squared_error,
                regularizer=jepa_ssl.VICReg(on_sphere=True),
                regularizer_weight=arm.regularizer_weight,
            )


def _later(arm: Arm, instances: Sequence[Any], seed: int) -> Any:
    stored: dict[int, Any] = {}
    objective = recipes.later_state(
        dict.fromkeys(STREAMS, DIM),
        lp_of=SparseLP.inequalities_of,
        steps=arm.horizon,
        restart_every=arm.restart_every,
        regularizer_weight=arm.regularizer_weight,
        states_of=lambda graph: stored[id(graph)],
        seed=seed,
    )
    if arm.target == "numbers":
        objective.predictor, objective.teacher = _Numbers((2, 2)), jepa_ssl.TargetNetwork(nn.Identity())
        objective.loss = losses.squared_error  # smooth_l1_loss would normalise the two numbers away
    views: Any = objective.views
    # Computed once: batches are the same ones, again and again.
    stored.update({id(graph): views.states(SparseLP.inequalities_of(graph)) for graph in instances})
    views.fit(instances[:: max(1, len(instances) // FITTED_BATCHES)])
    return objective


def _after_several_rounds(
    policy: GNNPolicy, encoder: GraphEncoder, arm: Arm, instances: Sequence[Any], seed: int
) -> tuple[Any, Callable[[int], Tensor]]:
    """The mean loss after a quarter, half and all of the rounds; an earlier round predicts an earlier state."""
    rounds = [arm.rounds // 4, arm.rounds // 2, arm.rounds]
    horizons = [arm.horizon * count // arm.rounds for count in rounds]
    objectives = nn.ModuleList(_later(replace(arm, horizon=horizon), instances, seed) for horizon in horizons)
    generator, trunk = torch.Generator().manual_seed(seed), cast(Any, policy.trunk)

    def loss(i: int) -> Tensor:
        total = torch.zeros(())
        for trunk.rounds, objective in zip(rounds, objectives, strict=True):  # the last leaves all rounds
            total = total + objective(encoder, instances[i], generator=generator).total / len(rounds)
        return total

    return objectives, loss


class _Numbers(nn.Module):
    """Predicts numbers of each node, so many per constraint and per variable."""

    def __init__(self, widths: tuple[int, int]) -> None:
        super().__init__()
        self.streams = nn.ModuleDict(
            {
                stream: nn.Sequential(nn.Linear(DIM, DIM), nn.ReLU(), nn.Linear(DIM, width))
                for stream, width in zip(STREAMS, widths, strict=True)
            }
        )

    def forward(self, embeddings: Any) -> dict[str, Tensor]:
        return {stream: mlp(embeddings[stream]) for stream, mlp in self.streams.items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)
