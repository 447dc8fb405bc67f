"""The MLP path: flat LPs of one size, pretrained in the same ways, and trained on the KKT residual of one family."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data.batches import FlatBatch, FlatCollate, LPDataset, batches
from data.seen import SeenStates
from jepa_adapter import FlatEncoder, instance
from loop.recipe import lp_of
from models import KKTNetMLP
from torch import Tensor, nn

import jepa_ssl
from jepa_ssl import recipes
from jepa_ssl.diagnostics import effective_rank

from . import lps
from .arms import finetune, kkt, optimise
from .plan import ARMS, FAMILIES, SEEN, Arm, Plan

N, BATCH, FEW, FEW_BATCH, TEST = 20, 64, 128, 32, 64


def compared(plan: Plan, folder: Path, name: str, seed: int) -> dict[str, Any]:
    """Family -> KKT residual of test LPs while few others are trained on, after `plan.flat_steps` of pretraining."""
    arm = ARMS[name]
    train = lps.lps(FAMILIES, N, plan.flat_lps, "pretraining")
    few = {family: lps.lps((family,), N, min(FEW, plan.flat_lps), "few") for family in FAMILIES}
    test = {family: lps.lps((family,), N, min(TEST, plan.flat_lps), "test") for family in FAMILIES}
    every = [*train, *(lp for some in (*few.values(), *test.values()) for lp in some)]
    m, n = max(lp.rows for lp in every), max(lp.columns for lp in every)
    collate = SeenStates(FlatCollate(m, n), SEEN if arm.sees_states else ())

    def batched(some: Any, size: int) -> list[FlatBatch]:
        data = LPDataset(some)
        made: list[Any] = [collate([data[i] for i in rows]) for rows in batches(range(len(some)), size)]
        return made

    torch.manual_seed(seed + arm.seed_offset)
    model = KKTNetMLP(m, n, state_numbers=2 * len(SEEN) * arm.sees_states)
    begin, record = time.process_time(), {}
    if arm.training != "none":
        losses = pretrain(model, arm, batched(train, BATCH), plan.flat_steps, seed)
        record = {"first_loss": float(np.mean(losses[:20])), "last_loss": float(np.mean(losses[-50:]))}
    record["seconds"] = time.process_time() - begin
    start = {key: value.clone() for key, value in model.state_dict().items()}
    found: dict[str, Any] = {}
    for family in FAMILIES:
        model.load_state_dict(start)
        tested = batched(test[family], TEST)[0]
        with torch.no_grad():
            rank = effective_rank(model.net(tested.model_input)).item()
        curve, _ = finetune(plan, model, batched(few[family], FEW_BATCH), lambda tested=tested: residual(model, tested))
        found[family] = {"rank": rank, "residual": curve}
    return record | {"families": found}


@torch.no_grad()
def residual(model: KKTNetMLP, test: FlatBatch) -> float:
    return kkt(model, test).item()


def pretrain(model: KKTNetMLP, arm: Arm, data: list[FlatBatch], steps: int, seed: int) -> list[float]:
    encoder = FlatEncoder(model)
    order = np.random.default_rng(seed).integers(len(data), size=steps)
    objective: Any = None

    def loss_of(i: int) -> Tensor:
        return kkt(model, data[i])

    if arm.training != "kkt":
        instances = [instance(batch) for batch in data]
        objective = jepa(model, encoder, arm, instances, seed)
        generator = torch.Generator().manual_seed(seed)

        def loss_of(i: int) -> Tensor:
            return objective(encoder, instances[i], generator=generator).total

    added = [*encoder.projector.parameters(), *(objective.parameters() if objective else ())]
    losses: Any = (_bound(loss_of, int(i)) for i in order)
    return list(optimise([*model.parameters(), *added], losses, steps, objective, encoder))


def _bound(loss_of: Callable[[int], Tensor], i: int) -> Callable[[], Tensor]:
    return lambda: loss_of(i)


def jepa(model: KKTNetMLP, encoder: FlatEncoder, arm: Arm, instances: list[Any], seed: int) -> Any:
    if arm.training in ("ema", "simsiam"):
        return jepa_ssl.JEPAObjective(
            jepa_ssl.EntryMasker(0.5),
            jepa_ssl.MLPPredictor(encoder.dims, activation=nn.SELU),
            jepa_ssl.EMATeacher(encoder) if arm.training == "ema" else jepa_ssl.StopGradTeacher(),
        )
    read = lp_of(model)
    stored: dict[int, Any] = {}
    objective = recipes.later_state(
        encoder.dims,
        lp_of=read,
        numbers=2 * (model.m + model.n),
        regularizer_weight=arm.regularizer_weight,
        states_of=lambda vectors: stored[id(vectors)],
        activation=nn.SELU,
        seed=seed,
    )
    views: Any = objective.views
    stored.update({id(vectors): views.states(read(vectors)) for vectors in instances})
    views.fit(instances[:8])
    return objective
