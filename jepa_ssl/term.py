"""The JEPA term of a plain loop: the loss of a step, the teacher's move, and a block in the checkpoint."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from jepa_ssl.balance import GradientBalance
from jepa_ssl.joint import JointLoss, JointSchedule
from jepa_ssl.objective import JEPAObjective

_ALWAYS_BOTH = JointSchedule()
_PREFIXES = {"predictor": "predictor.", "target_model": "teacher.target_model."}


class JEPATerm:
    """An objective beside a task, with what a loop has to do for it.

    It is no module, and your model's checkpoint gains no key. Wrapped by DDP or compiled, a step has to be a module of
    its own that holds `encoder` and `objective`: docs/many_processes.md.

    Args:
        encoder: a module that makes embeddings of instances. What it has beside your model stands in its attribute
            `projector`; without one there is nothing.
        objective: hides, predicts and compares.
        schedule: which loss counts how much in which epoch; both from the first, JEPA by 0.2, by default.
        balance: with `GradientBalance(trunk.parameters())` the schedule's `jepa_weight` is JEPA's share of the task's
            gradient.

    >>> from jepa_ssl import EMATeacher, EntryMasker, MLPPredictor, ModelEncoder
    >>> model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    >>> encoder = ModelEncoder(model, {"instance": 16}, dim=8, captured={"instance": "1"})
    >>> term = JEPATerm(encoder, JEPAObjective(EntryMasker(0.5), MLPPredictor(encoder.dims), EMATeacher(encoder)))
    >>> optimizer = torch.optim.Adam([*model.parameters(), *term.parameters()])
    >>> batch = torch.randn(4, 6)
    >>> joint = term.loss(batch, task=lambda: model(batch).square().mean())
    >>> joint.total.backward()
    >>> optimizer.step()
    >>> term.update()
    >>> sorted(joint.terms), sorted(term.state_dict())
    (['loss', 'loss_jepa', 'loss_task'], ['balance', 'objective', 'predictor', 'projector', 'target_model'])
    """

    def __init__(
        self,
        encoder: Any,
        objective: JEPAObjective[Any],
        schedule: JointSchedule = _ALWAYS_BOTH,
        balance: GradientBalance | None = None,
    ) -> None:
        self.encoder = encoder
        self.objective = objective
        self.schedule = schedule
        self.balance = balance

    def parameters(self) -> Iterator[nn.Parameter]:
        """What the optimizer trains beside the model: the projector, the predictor, and what else learns."""
        if isinstance(projector := self._projector, nn.Module):
            yield from projector.parameters()
        yield from (parameter for parameter in self.objective.parameters() if parameter.requires_grad)

    def loss(self, instance: Any, *, task: Callable[[], Tensor], epoch: int = 0, **drawn: Any) -> JointLoss:
        """What the schedule makes of the two losses in this epoch; one that counts nothing is not computed.

        Args:
            instance: the batch, as the objective's views take it.
            task: computes your own loss, a scalar.
            epoch: from 0.
            drawn: `generator`, `seeds` or `whole`, as `JEPAObjective` takes them.
        """
        return self.schedule(epoch).combine(task, lambda: self.objective(self.encoder, instance, **drawn), self.balance)

    def update(self) -> None:
        """Moves the teacher and the monitor: once after each optimizer step."""
        self.objective.update(self.encoder)

    def state_dict(self) -> dict[str, Any]:
        """The block of a checkpoint: all that resuming needs beside the model and the optimizer.

        `target_model` is there if the teacher has a copy of the encoder. Saved by `torch.save`, it loads with
        `weights_only=True`.
        """
        others = self.objective.state_dict()
        parts = {name: _taken(others, prefix) for name, prefix in _PREFIXES.items()}
        return {
            "projector": self._projector.state_dict() if self._projector is not None else {},
            **{name: part for name, part in parts.items() if part},
            "objective": others,  # how often the teacher moved, statistics of the views, the monitor
            "balance": self.balance.state_dict() if self.balance else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Resumes; load the model before. False if the teacher had to start anew, from the encoder as it is now.

        That is where the block comes from a run whose teacher had no copy. What is drawn is no part of it: resume your
        generator as well, or give `Seeds`, which depend on the instance and the epoch alone.
        """
        if self._projector is not None:
            self._projector.load_state_dict(state["projector"])
        if self.balance:
            self.balance.load_state_dict(state["balance"])
        teacher: Any = self.objective.teacher
        found = "target_model" in state or not hasattr(teacher, "target_model")
        if not found:
            new = {"teacher.updates": torch.zeros_like(teacher.updates)}
            state = {**state, "target_model": self.encoder.state_dict(), "objective": {**state["objective"], **new}}
        whole = dict(state["objective"])
        for name, prefix in _PREFIXES.items():
            whole |= {prefix + key: value for key, value in state.get(name, {}).items()}
        self.objective.load_state_dict(whole)
        return found

    @property
    def _projector(self) -> nn.Module | None:
        return getattr(self.encoder, "projector", None)


def _taken(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries of `state` below `prefix`, which lacks them then."""
    names = [name for name in state if name.startswith(prefix)]
    return {name.removeprefix(prefix): state.pop(name) for name in names}
