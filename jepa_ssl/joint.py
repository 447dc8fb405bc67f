"""Loss weights per epoch; zero-weight losses are skipped."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from jepa_ssl.checks import non_negative
from jepa_ssl.protocols import JEPALoss
from jepa_ssl.schedules import Scheduled, value_at


@dataclass(frozen=True)
class JointLoss:
    """The weighted sum of the two losses, and the parts of it that were computed."""

    total: Tensor
    task: Tensor | None
    jepa: JEPALoss | None
    parts: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])  # "task" and "jepa", as they are weighed

    @property
    def terms(self) -> dict[str, Tensor]:
        """Detached losses for a log: `"loss"`, and `"loss_task"` and `"loss_jepa"` if they were computed."""
        computed = {"loss": self.total, "loss_task": self.task, "loss_jepa": self.jepa and self.jepa.total}
        return {name: loss.detach() for name, loss in computed.items() if loss is not None}


@dataclass(frozen=True)
class LossWeights:
    """The weights of the two losses in one epoch."""

    task: float
    jepa: float

    def combine(
        self,
        task: Callable[[], Tensor],
        jepa: Callable[[], JEPALoss],
        balance: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> JointLoss:
        """`task * task() + jepa * jepa()`; a loss of weight 0 is not computed.

        If both are computed and `balance` is given, `balance(weighted task loss, JEPA loss)` is one more factor on the
        JEPA loss: with `GradientBalance` the weight of JEPA is the ratio of its gradient to the task's.

        Raises:
            ValueError: both weights are 0.
        """
        task_loss = task() if self.task else None
        jepa_loss = jepa() if self.jepa else None
        parts: dict[str, Tensor] = {}
        if task_loss is not None:
            parts["task"] = self.task * task_loss
        if jepa_loss is not None:
            balanced = balance(parts["task"], jepa_loss.total) if balance and parts else 1.0
            parts["jepa"] = self.jepa * balanced * jepa_loss.total
        if not parts:
            raise ValueError("both losses have weight 0 in this epoch, so nothing would be trained; raise one of them.")
        return JointLoss(torch.stack(list(parts.values())).sum(), task_loss, jepa_loss, parts)


@dataclass(frozen=True)
class JointSchedule:
    """`pretrain_epochs` epochs of JEPA alone, then `task_weight * task + jepa_weight * jepa`.

    A weight is a number, or a function of the number of epochs since pretraining ended, such as `LinearSchedule`.
    With `jepa_weight=0` the task is trained alone once pretraining has ended; with `pretrain_epochs=0` both are trained
    from the start.

    >>> schedule = JointSchedule(jepa_weight=0.2, pretrain_epochs=1)
    >>> schedule(0), schedule(1)
    (LossWeights(task=0.0, jepa=1.0), LossWeights(task=1.0, jepa=0.2))
    """

    jepa_weight: Scheduled = 0.2
    task_weight: Scheduled = 1.0
    pretrain_epochs: int = 0

    def __post_init__(self) -> None:
        if self.pretrain_epochs < 0:
            raise ValueError(f"pretrain_epochs is {self.pretrain_epochs}, but must be at least 0; use 0 for none.")
        self(self.pretrain_epochs)  # a bad weight is refused now, not hours later

    def is_pretraining(self, epoch: int) -> bool:
        """Is `epoch`, counted from 0, one of JEPA alone?"""
        return epoch < self.pretrain_epochs

    def __call__(self, epoch: int) -> LossWeights:
        if self.is_pretraining(epoch):
            return LossWeights(task=0.0, jepa=1.0)
        since = epoch - self.pretrain_epochs
        return LossWeights(
            task=value_at(self.task_weight, since, "task_weight", non_negative),
            jepa=value_at(self.jepa_weight, since, "jepa_weight", non_negative),
        )
