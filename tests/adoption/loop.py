"""What the loops of these repositories share: flags, an optimizer step, and a checkpoint."""

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Loop:
    def __init__(self, model: nn.Module, argv: Sequence[str]) -> None:
        self.model: Any = model
        self.args = self.parser().parse_args(argv)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def parser(self) -> ArgumentParser:
        return ArgumentParser()

    def descend(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def checkpoint(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def resume(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
