"""A dense network that completes its answer to satisfy equalities, and is penalised for inequalities; with flags.

Predicts some coordinates of x from the right-hand side b, solves `Ax = b` for the others, and corrects by gradient.
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

import torch
from adoption.loop import Loop
from torch import Tensor, nn

from jepa_ssl.integrations.flags import add_jepa_arguments, from_args  # +

EQUALITIES, SIZE, HIDDEN = 10, 16, 64
FIXED = torch.Generator().manual_seed(0)
A = torch.randn(EQUALITIES, SIZE, generator=FIXED)
COST = torch.rand(SIZE, generator=FIXED)


class CompletionNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(EQUALITIES, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Dropout(0.1),
            nn.Linear(HIDDEN, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Dropout(0.1),
            nn.Linear(HIDDEN, SIZE - EQUALITIES),
        )  # fmt: skip

    def forward(self, b: Tensor) -> Tensor:
        free = self.net(b)
        dependent = torch.linalg.solve(A[:, :EQUALITIES], (b - free @ A[:, EQUALITIES:].T).T).T
        return torch.cat([dependent, free], 1)


class Training(Loop):
    def __init__(self, argv: Sequence[str] = ()) -> None:
        super().__init__(CompletionNet(), argv)
        self.jepa = from_args(self.args, self.model, {"instance": HIDDEN}, captured={"instance": "net.6"})  # +
        self.optimizer.add_param_group({"params": self.jepa.parameters()})  # +

    def parser(self) -> ArgumentParser:
        parser = ArgumentParser()
        parser.add_argument("--penalty", type=float, default=10.0)
        add_jepa_arguments(parser)  # +
        return parser

    def batch(self) -> Tensor:
        return torch.randn(12, EQUALITIES)

    def loss(self, b: Tensor) -> Tensor:
        x = self.model(b)
        return ((COST * x).sum(1) + self.args.penalty * (-x).relu().square().sum(1)).mean()

    def step(self) -> dict[str, float]:
        b = self.batch()
        loss = self.loss(b)
        log = {"loss": loss.item()}
        joint = self.jepa.loss(b, task=loss)  # +
        loss = joint.total  # +
        log |= {name: term.item() for name, term in joint.terms.items()}  # +
        self.descend(loss)
        self.jepa.update()  # +
        return log

    def checkpoint(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "jepa": self.jepa.state_dict(),  # +
        }

    def resume(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.jepa.load_state_dict(state["jepa"])  # +
