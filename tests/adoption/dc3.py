"""A dense network that completes its answer to satisfy equalities, and is penalised for inequalities; with flags.

Predicts some coordinates of x from the right-hand side b, solves `Ax = b` for the others, and corrects by gradient.
"""

from argparse import ArgumentParser
from collections.abc import Sequence

import torch
from adoption.loop import Loop
from torch import Tensor, nn

from jepa_ssl import ModelEncoder  # +
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
        p = ArgumentParser()
        p.add_argument("--penalty", type=float, default=10.0)
        add_jepa_arguments(p)  # +
        self.args = p.parse_args(argv)
        super().__init__(CompletionNet())
        encoder = ModelEncoder(self.model, {"instance": HIDDEN}, 32, captured={"instance": "net.6"})  # +
        self.jepa = from_args(self.args, encoder)  # +
        self.optimizer.add_param_group({"params": list(self.jepa.parameters())})  # +
        self.saved["jepa"] = self.jepa  # +

    def batch(self) -> Tensor:
        return torch.randn(12, EQUALITIES)

    def loss(self, b: Tensor) -> Tensor:
        x = self.model(b)
        return ((COST * x).sum(1) + self.args.penalty * (-x).relu().square().sum(1)).mean()

    def step(self) -> dict[str, float]:
        b = self.batch()
        loss = self.loss(b)
        log = {"loss": loss.item()}
        joint = self.jepa.loss(b, task=lambda: loss)  # +
        log, loss = {name: value.item() for name, value in joint.terms.items()}, joint.total  # +
        self.descend(loss)
        self.jepa.update()  # +
        return log
