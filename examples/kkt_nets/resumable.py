"""What a JEPA term adds to the optimizer and to a checkpoint; it knows of the term's parts nothing but their names."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


class Resumable:
    """A JEPA term that goes on where it was saved.

    Its encoder has a `projector`; its objective a `teacher`, and with it a `target_model` or none.
    """

    encoder: Any
    predictor: nn.Module
    objective: Any
    generator: torch.Generator

    def parameters(self) -> Iterator[nn.Parameter]:
        """What the optimizer trains beside the model: projector and predictor."""
        yield from self.encoder.projector.parameters()
        yield from self.predictor.parameters()

    def state_dict(self) -> dict[str, Any]:
        """The block `jepa` of a checkpoint. A run without teacher copy has no `target_model`."""
        state = {"projector": self.encoder.projector.state_dict(), "predictor": self.predictor.state_dict()}
        teacher = self.objective.teacher
        if hasattr(teacher, "target_model"):
            state |= {"target_model": teacher.target_model.state_dict(), "updates": teacher.updates}
        return state | {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Resumes; the model must have been loaded before. False if the teacher had to start from its weights.

        Raises:
            ValueError: the masks were drawn on another kind of device, and cannot be continued on this one.
        """
        if state["generator"].shape != self.generator.get_state().shape:
            raise ValueError(
                f"its masks were not drawn on a {self.generator.device.type}; resume on the device it had."
            )
        self.generator.set_state(state["generator"])
        return self.load_weights(state)

    def load_weights(self, state: dict[str, Any]) -> bool:
        """As `load_state_dict`, on any device, and without going on with its masks."""
        self.encoder.projector.load_state_dict(state["projector"])
        self.predictor.load_state_dict(state["predictor"])
        teacher = self.objective.teacher
        if not hasattr(teacher, "target_model"):
            return True
        found = "target_model" in state
        teacher.target_model.load_state_dict(state["target_model"] if found else self.encoder.state_dict())
        teacher.updates.fill_(state["updates"] if found else 0)
        return found
