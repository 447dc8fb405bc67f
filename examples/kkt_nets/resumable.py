"""What a JEPA term adds to the optimizer and to a checkpoint; it knows of the term's parts nothing but their names."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class Resumable:
    """A JEPA term that goes on where it was saved.

    Its encoder has a `projector`; its objective a `predictor` and a `teacher`, and with it a `target_model` or none.
    """

    encoder: Any
    objective: Any
    balance: nn.Module | None  # what weighs it against the task

    @property
    def predictor(self) -> nn.Module:
        return self.objective.predictor

    def parameters(self) -> Iterator[nn.Parameter]:
        """What the optimizer trains beside the model: the projector, the predictor, and what else learns."""
        yield from self.encoder.projector.parameters()
        yield from (parameter for parameter in self.objective.parameters() if parameter.requires_grad)

    def state_dict(self) -> dict[str, Any]:
        """The block `jepa` of a checkpoint. A run without teacher copy has no `target_model`."""
        others = self.objective.state_dict()
        parts = {name: _taken(others, prefix) for name, prefix in PREFIXES.items()}
        return {
            "projector": self.encoder.projector.state_dict(),
            **{name: part for name, part in parts.items() if part},
            "objective": others,  # how often the teacher moved, statistics of the views, the monitor
            "balance": self.balance.state_dict() if self.balance else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Resumes; the model must have been loaded before. False if the teacher had to start from its weights.

        What is drawn is no part of it: that is determined by the step's number.
        """
        self.encoder.projector.load_state_dict(state["projector"])
        if self.balance:
            self.balance.load_state_dict(state["balance"])
        found = "target_model" in state or not hasattr(self.objective.teacher, "target_model")
        if not found:
            new = {"teacher.updates": torch.zeros_like(self.objective.teacher.updates)}
            state = {**state, "target_model": self.encoder.state_dict(), "objective": {**state["objective"], **new}}
        whole = dict(state["objective"])
        for name, prefix in PREFIXES.items():
            whole |= {prefix + key: value for key, value in state.get(name, {}).items()}
        self.objective.load_state_dict(whole)
        return found


PREFIXES = {"predictor": "predictor.", "target_model": "teacher.target_model."}


def _taken(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries of `state` below `prefix`, which lacks them then."""
    names = [name for name in state if name.startswith(prefix)]
    return {name.removeprefix(prefix): state.pop(name) for name in names}
