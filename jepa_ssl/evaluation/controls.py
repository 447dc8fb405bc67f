"""Controls of a comparison: a random encoder, raw features, and training from scratch until it stops improving."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa_ssl.checks import warn_caller, whole_number
from jepa_ssl.evaluation.arms import RANDOM, RAW, SCRATCH, Arm, Features, Outcome, Split, Task, embed, features_of
from jepa_ssl.evaluation.pieces import digest
from jepa_ssl.seeds import seeded

CHUNK = 256  # instances that a random encoder sees at once


class StillImproving(UserWarning):
    """Training hit its cap while its validation loss was still improving."""


@dataclass(frozen=True)
class Stopped:
    """How training ended: steps taken, step and validation loss of the kept weights, whether it hit the cap."""

    steps: int
    best_step: int
    validation: float
    hit_cap: bool


def train_until_it_stops(
    model: nn.Module,
    step: Callable[[], object],
    validate: Callable[[], float],
    *,
    every: int = 20,
    patience: int = 10,
    cap: int = 5000,
) -> Stopped:
    """Train until the validation loss stops improving, and leave the model with the best weights.

    Validates before the first step and every `every` steps, and stops after `patience` validations in a row without a
    new minimum. Warns with `StillImproving` if it reaches `cap` steps first.

    Args:
        model: what `step` trains; its `state_dict` at the best validation is loaded at the end.
        step: takes one optimizer step.
        validate: returns the loss on validation data; smaller is better.

    Raises:
        ValueError: the validation loss was never finite.
    """
    for name, value in (("every", every), ("patience", patience), ("cap", cap)):
        whole_number(name, value, 1)
    best, best_step, kept, steps = validate(), 0, deepcopy(model.state_dict()), 0
    since = 0
    while since < patience and steps < cap:
        for _ in range(min(every, cap - steps)):
            step()
            steps += 1
        since += 1
        if (loss := validate()) < best or (best != best and loss == loss):
            best, best_step, kept, since = loss, steps, deepcopy(model.state_dict()), 0
    if not abs(best) < float("inf"):
        raise ValueError(f"the validation loss is {best} at best, but must be finite once; lower the learning rate.")
    model.load_state_dict(kept)
    if since < patience:
        warn_caller(
            f"Training hit its cap of {cap} steps while its validation loss was still improving (best at step "
            f"{best_step}), so it is a weaker control than it could be; raise cap.",
            StillImproving,
        )
    return Stopped(steps, best_step, best, since < patience)


@dataclass(frozen=True)
class Supervised:
    """An arm that trains an encoder and a linear head on the labels until validation stops improving.

    It trains from scratch if `make_encoder` builds a new encoder, and fine-tunes if it returns a copy of a pretrained
    one. The loss is the mean squared error of standardised labels, or the log loss for `probe="logistic"`. The
    optimizer is Adam. After training, torch's global random state is restored.

    Args:
        make_encoder: builds the encoder; called with torch's global generator seeded by the split's seed.
        take: maps numbers of instances, int64, to one batch for the encoder, with the items in this order.
        stream: the stream that has the labels, see `embed`.
        batch_size: in instances.
        patience, cap: see `train_until_it_stops`.
    """

    make_encoder: Callable[[], nn.Module]
    take: Callable[[Tensor], Any]
    stream: str | None = None
    lr: float = 1e-3
    batch_size: int = 32
    patience: int = 10
    cap: int = 5000

    def __call__(self, task: Task, split: Split, /) -> Outcome:
        with _seeded(split.seed):
            encoder = self.make_encoder()
            width = embed(encoder, [self.take(split.training[:1])], self.stream).size(1)
            head = nn.Linear(width, task.targets.size(1)).to(next(encoder.parameters()).device)
            return self._trained(task, split, nn.ModuleDict({"encoder": encoder, "head": head}))

    def settings(self) -> Any:
        with _seeded(0):
            state = self.make_encoder().state_dict()
        numbers = [self.stream, self.lr, self.batch_size, self.patience, self.cap]
        return ["supervised", {name: digest(tensor) for name, tensor in state.items()}, numbers]

    def _trained(self, task: Task, split: Split, model: nn.ModuleDict) -> Outcome:
        mean, scale = _scaling(task, split.training)
        loss_of = F.binary_cross_entropy_with_logits if task.probe == "logistic" else F.mse_loss
        optimizer = torch.optim.Adam(model.parameters(), self.lr)

        def scores(ids: Tensor) -> Tensor:
            return model["head"](features_of(model["encoder"](self.take(ids)), self.stream).float())

        def loss(ids: Tensor) -> Tensor:
            found = scores(ids)
            return loss_of(found, ((task.targets[task.items(ids)] - mean) / scale).to(found))

        def step() -> None:
            model.train()
            optimizer.zero_grad()
            loss(split.training[torch.randperm(len(split.training))[: self.batch_size]]).backward()  # pyright: ignore[reportUnknownMemberType]
            optimizer.step()  # pyright: ignore[reportUnknownMemberType]

        @torch.no_grad()
        def validate() -> float:
            model.eval()
            return loss(split.validation).item()

        stopped = train_until_it_stops(model, step, validate, patience=self.patience, cap=self.cap)
        model.eval()
        with torch.no_grad():
            found = scores(split.test).cpu().double() * scale + mean
        found = found.sigmoid() if task.probe == "logistic" else found
        return Outcome(found.reshape(-1, *task.labels.shape[1:]), stopped.hit_cap)


def _scaling(task: Task, training: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the training labels; 0 and 1 for classes."""
    if task.probe == "logistic":
        return torch.zeros(1), torch.ones(1)
    known = task.targets[task.items(training)]
    scale = known.std(0, correction=0)
    return known.mean(0), torch.where(scale > 0, scale, 1.0)


def standard_controls(
    task: Task,
    make_encoder: Callable[[], nn.Module],
    take: Callable[[Tensor], Any],
    raw: Tensor,
    *,
    stream: str | None = None,
    scratch: Arm | None = None,
) -> dict[str, Arm]:
    """The controls that `label_curve` requires, by name.

    - "random initialisation": the untrained encoder, frozen, a new one for each seed.
    - "raw features": `raw`, without a network.
    - "from scratch": the encoder trained on the labels until its validation stops improving.

    Args:
        task: whose labels are predicted.
        make_encoder: builds the encoder with its random initial weights, from torch's global generator.
        take: maps numbers of instances, int64, to one batch for the encoder.
        raw: features of each item without a network, `[items, dim]`.
        stream: the stream that has the labels, see `embed`.
        scratch: your own training from scratch, instead of `Supervised(make_encoder, take)`.
    """

    def untrained(seed: int) -> Tensor:
        with _seeded(seed):
            encoder = make_encoder()
            chunks = torch.arange(task.instances).tensor_split(-(-task.instances // CHUNK))
            return embed(encoder, map(take, chunks), stream)

    return {
        RANDOM: Features(untrained, ["random", digest(untrained(0))]),
        RAW: Features(raw.reshape(len(raw), -1).float()),
        SCRATCH: scratch or Supervised(make_encoder, take, stream),
    }


def _seeded(seed: int) -> AbstractContextManager[None]:
    return seeded(seed, torch.device("cuda") if torch.cuda.is_available() else None)
