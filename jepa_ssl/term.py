"""The JEPA term of a plain loop: the loss of a step, the teacher's move, and a block in the checkpoint."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from jepa_ssl.balance import GradientBalance
from jepa_ssl.joint import JointLoss, JointSchedule
from jepa_ssl.names import unwrapped
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
    >>> import torch
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
        if self._projector is not None:
            yield from self._projector.parameters()
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
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        for name, prefix in _PREFIXES.items():
            for key in parts.get(name, {}):
                others.pop(prefix + key, None)
        return {
            "projector": self._projector.state_dict() if self._projector is not None else {},
            **parts,
            "objective": others,  # how often the teacher moved, statistics of the views, the monitor
            "balance": self.balance.state_dict() if self.balance else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Resumes; load the model before. False if the block is that of a run with another kind of teacher.

        A copy that the block lacks then starts anew, from the encoder as it is now. What is drawn is no part of it:
        resume your generator as well, or give `Seeds`, which depend on the instance and the epoch alone.

        Raises:
            ValueError: the block is that of a term which was built otherwise.
        """
        if bool(state["balance"]) != (self.balance is not None):
            raise ValueError(
                f"the block was saved {'with' if state['balance'] else 'without'} a GradientBalance, but this term has "
                f"{'one' if self.balance else 'none'}; build it as the run was built that is resumed."
            )
        if self.balance:
            self.balance.load_state_dict(state["balance"])
        if self._projector is not None:
            self._projector.load_state_dict(state["projector"])
        parts, others = self._parts(), dict(state["objective"])
        found = ("target_model" in state) == ("target_model" in parts)
        if not found:  # saved by a run with another kind of teacher
            others = {name: tensor for name, tensor in others.items() if not name.startswith("teacher.")}
        result: Any = self.objective.load_state_dict(others, strict=False)
        elsewhere = (*(_PREFIXES[name] for name in parts), *(() if found else ("teacher.",)))
        lost: list[str] = [name for name in result.missing_keys if not name.startswith(elsewhere)]
        if lost or result.unexpected_keys:
            raise ValueError(
                f"the block lacks {lost} and has {result.unexpected_keys} besides what this term has; build it as the "
                f"run was built that is resumed."
            )
        for name, part in parts.items():
            if name in state:
                part.load_state_dict(state[name])
        if not found and "target_model" in parts:
            unwrapped(self.objective.teacher).restart(self.encoder)
        return found

    def _parts(self) -> dict[str, nn.Module]:
        """What has a name of its own in the block, each by its own state_dict, which knows of versions."""
        parts = {
            "predictor": self.objective.predictor,
            "target_model": getattr(unwrapped(self.objective.teacher), "target_model", None),
        }
        return {name: part for name, part in parts.items() if isinstance(part, nn.Module)}

    @property
    def _projector(self) -> nn.Module | None:
        projector = getattr(unwrapped(self.encoder), "projector", None)
        return projector if isinstance(projector, nn.Module) else None
