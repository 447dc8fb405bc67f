"""Loss weights over time; zero-weight losses are skipped."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from jepa_ssl.checks import describe, non_negative, whole_number
from jepa_ssl.protocols import JEPALoss
from jepa_ssl.schedules import Scheduled, value_at


@dataclass(frozen=True)
class JointLoss:
    """The weighted sum of the two losses, and the parts of it that were computed."""

    total: Tensor
    task: Tensor | None
    jepa: JEPALoss | None
    parts: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])  # "task" and "jepa", weighted

    @property
    def terms(self) -> dict[str, Tensor]:
        """Detached losses for a log, always `"loss"`, `"loss_task"` and `"loss_jepa"`; NaN if one was not computed."""
        computed = {"loss": self.total, "loss_task": self.task, "loss_jepa": self.jepa and self.jepa.total}
        nothing = self.total.new_full((), torch.nan)
        return {name: nothing if loss is None else loss.detach() for name, loss in computed.items()}


@dataclass(frozen=True)
class LossWeights:
    """The weights of the two losses at one time."""

    task: float
    jepa: float

    def combine(
        self,
        task: Tensor | Callable[[], Tensor],
        jepa: Callable[[], JEPALoss],
        balance: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> JointLoss:
        """Return `task * task() + jepa * jepa()`. A loss of weight 0 is not computed.

        `task` may be a loss that is already computed. It is then reported even if its weight is 0.

        If both weights are above 0, `balance(weighted task loss, JEPA loss)` is another factor on the JEPA loss. With
        `GradientBalance` the weight of JEPA is then the ratio of its gradient to the task's.

        Raises:
            TypeError: the task's loss is not a tensor.
            ValueError: both weights are 0, or the task's loss is not a scalar.
        """
        task_loss = _checked(task() if callable(task) else task) if self.task or not callable(task) else None
        jepa_loss = jepa() if self.jepa else None
        parts: dict[str, Tensor] = {}
        if task_loss is not None and self.task:
            parts["task"] = self.task * task_loss
        if jepa_loss is not None:
            balanced = balance(parts["task"], jepa_loss.total) if balance and parts else 1.0
            parts["jepa"] = self.jepa * balanced * jepa_loss.total
        if not parts:
            raise ValueError("both losses have weight 0 now, so nothing would be trained; raise one of the weights.")
        return JointLoss(torch.stack(list(parts.values())).sum(), task_loss, jepa_loss, parts)


def _checked(loss: Tensor) -> Tensor:
    if not isinstance(loss, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"the task's loss is a {type(loss).__name__}, but must be a tensor; return the loss itself.")
    if loss.ndim:
        raise ValueError(f"the task's loss is {describe(loss)}, but must be a scalar; use .mean().")
    return loss


@dataclass(frozen=True, kw_only=True)
class JointSchedule:
    """Loss weights over time: JEPA alone at first, then `task_weight * task + jepa_weight * jepa`.

    A weight is a number, or a function of the number of epochs since pretraining ended, such as `LinearSchedule`. With
    `jepa_weight=0` the task is trained alone after pretraining. With `pretrain=0` both are trained from the start.

    Args:
        jepa_weight: weight of the JEPA loss after pretraining.
        task_weight: weight of your own loss after pretraining.
        pretrain: train on JEPA alone for this many epochs first.
        per: with `"step"`, `pretrain` and the weights count optimizer steps instead of epochs.
        every: to save time, compute the JEPA loss only at optimizer steps 0, `every`, 2 `every`, ... and train the task
            alone in between. `JEPATerm` counts calls of `update`, so all micro-batches of a step are treated alike.
            Pretraining steps always compute the JEPA loss. The weight is not adapted: with `every=4` JEPA counts a
            quarter unless you give four times the `jepa_weight`.

    >>> schedule = JointSchedule(jepa_weight=0.2, pretrain=1)
    >>> schedule(0), schedule(1)
    (LossWeights(task=0.0, jepa=1.0), LossWeights(task=1.0, jepa=0.2))
    """

    jepa_weight: Scheduled = 0.2
    task_weight: Scheduled = 1.0
    pretrain: int = 0
    per: Literal["epoch", "step"] = "epoch"
    every: int = 1

    def __post_init__(self) -> None:
        whole_number("every", self.every, least=1, remedy="use 1 for every step.")
        whole_number("pretrain", self.pretrain, least=0, remedy="use 0 for none.")
        if self.per not in ("epoch", "step"):
            raise ValueError(f"per is {self.per!r}, but must be 'epoch' or 'step'.")
        weights = self(self.pretrain)  # raises for a bad weight now, not hours later
        if weights.task == weights.jepa == 0.0:
            raise ValueError(
                f"jepa_weight is {self.jepa_weight} and task_weight {self.task_weight}, so both are 0 after "
                f"{self.pretrain} {self.per}s of pretraining and nothing would be trained; raise one of them."
            )

    @property
    def is_constant(self) -> bool:
        """Whether the weights never change."""
        return not (self.pretrain or callable(self.jepa_weight) or callable(self.task_weight))

    def is_pretraining(self, now: int) -> bool:
        """Whether epoch (or step) `now`, counted from 0, trains on JEPA alone."""
        return now < self.pretrain

    def is_due(self, step: int) -> bool:
        """Whether optimizer step `step`, counted from 0, computes the JEPA loss if the task is trained too."""
        return step % self.every == 0

    def __call__(self, now: int) -> LossWeights:
        """Return the weights in epoch (or at step) `now`, counted from 0."""
        if self.is_pretraining(now):
            return LossWeights(task=0.0, jepa=1.0)
        since = now - self.pretrain
        return LossWeights(
            task=value_at(self.task_weight, since, "task_weight", non_negative),
            jepa=value_at(self.jepa_weight, since, "jepa_weight", non_negative),
        )


class NoTerm(nn.Module):
    """Train the task alone: replaces a `JEPATerm`, so that a loop needs no `if` when JEPA is off.

    >>> joint = NoTerm().loss(None, task=torch.tensor(2.0))
    >>> joint.total, joint.terms["loss_jepa"]
    (tensor(2.), tensor(nan))
    """

    def loss(self, instance: Any, *, task: Tensor | Callable[[], Tensor], **_: Any) -> JointLoss:
        """Return the loss of the task; other arguments of `JEPATerm.loss` are ignored."""
        return LossWeights(task=1.0, jepa=0.0).combine(task, _never)

    def fit(self, instances: Iterable[Any]) -> None:
        """Do nothing."""

    def update(self) -> None:
        """Do nothing."""

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load an empty state; raise a ValueError for the state of a run with JEPA."""
        if state_dict and strict:
            raise ValueError(
                "state comes from a run with JEPA, but JEPA is off (this is a NoTerm); add --use_jepa, leave out the "
                "term's state, or call resume(state), which ignores it."
            )
        return super().load_state_dict(state_dict, strict, assign)

    def resume(self, state: dict[str, Any]) -> bool:
        """Ignore the state of a run with JEPA. Returns True if there was none."""
        return not state


def _never() -> Any:
    raise AssertionError("a JEPA loss of weight 0 is not computed")
