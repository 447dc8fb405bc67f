"""PDHG unrolled into layers, on dense LPs `min c'x, Ax <= b, x >= 0`: learned step sizes, several channels a number.

Trained without labels on the primal and dual residuals of what the last layer returns.
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

import torch
from adoption.loop import Loop
from torch import Tensor, nn

from jepa_ssl.integrations.flags import add_jepa_arguments, from_args  # +
from jepa_ssl.lp import DenseLP, flatten, unflatten  # +

M, N, CHANNELS = 5, 7, 16


class Iteration(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tau, self.sigma = nn.Parameter(torch.tensor(0.2)), nn.Parameter(torch.tensor(0.2))
        self.primal, self.dual = nn.Linear(CHANNELS, CHANNELS), nn.Linear(CHANNELS, CHANNELS)

    def forward(self, A: Tensor, b: Tensor, c: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        new = (self.primal(x) - self.tau * (c.unsqueeze(-1) + A.mT @ y)).relu()
        return new, (self.dual(y) + self.sigma * (A @ (2 * new - x) - b.unsqueeze(-1))).relu()


class UnrolledPDHG(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Linear(1, CHANNELS), nn.Linear(1, CHANNELS)
        self.lift_x, self.lift_y = self.start
        self.layers = nn.ModuleList([Iteration() for _ in range(4)])
        self.read_x, self.read_y = nn.Linear(CHANNELS, 1), nn.Linear(CHANNELS, 1)

    def iterate(self, A: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Channels of the primal variables `[B, N, CHANNELS]` and of the dual ones `[B, M, CHANNELS]`."""
        x, y = self.lift_x(c.unsqueeze(-1)), self.lift_y(b.unsqueeze(-1))
        for layer in self.layers:
            x, y = layer(A, b, c, x, y)
        return x, y

    def forward(self, A: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        x, y = self.iterate(A, b, c)
        return self.read_x(x).squeeze(-1).relu(), self.read_y(y).squeeze(-1).relu()


class Training(Loop):
    def __init__(self, argv: Sequence[str] = ()) -> None:
        super().__init__(UnrolledPDHG(), argv)
        widths, numbers = {"instance": 2 * CHANNELS}, 2 * (M + N)  # +
        run = lambda net, flat: torch.cat([h.mean(1) for h in net.iterate(*unflatten(flat, M, N))], 1)  # +
        lp_of = lambda flat: DenseLP.of_vectors(flat, M, N)  # +
        self.jepa = from_args(self.args, self.model, widths, run=run, lp_of=lp_of, numbers=numbers)  # +
        self.jepa.fit(flatten(*self.batch()) for _ in range(1))  # +
        self.optimizer.add_param_group({"params": self.jepa.parameters()})  # +

    def parser(self) -> ArgumentParser:
        parser = ArgumentParser()
        parser.add_argument("--lr", type=float, default=1e-3)
        add_jepa_arguments(parser)  # +
        return parser

    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        return torch.rand(6, M, N), 1 + torch.rand(6, M), torch.rand(6, N) - 0.8

    def loss(self, A: Tensor, b: Tensor, c: Tensor) -> Tensor:
        x, y = self.model(A, b, c)
        primal, dual = (A @ x.unsqueeze(-1)).squeeze(-1) - b, -(A.mT @ y.unsqueeze(-1)).squeeze(-1) - c
        gap = (c * x).sum(1) + (b * y).sum(1)
        return primal.relu().square().mean() + dual.relu().square().mean() + gap.square().mean()

    def step(self) -> dict[str, float]:
        batch = self.batch()
        loss = self.loss(*batch)
        log = {"loss": loss.item()}
        joint = self.jepa.loss(flatten(*batch), task=loss)  # +
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
