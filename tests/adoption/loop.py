"""What the loops of these repositories share: an optimizer step, and a checkpoint of all parts that have a state."""

from typing import Any

import torch
from torch import Tensor, nn


class Loop:
    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        self.saved: dict[str, Any] = {"model": self.model, "optimizer": self.optimizer}

    def descend(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def checkpoint(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self.saved.items()}

    def resume(self, state: dict[str, Any]) -> None:
        for name, part in self.saved.items():
            part.load_state_dict(state[name])
