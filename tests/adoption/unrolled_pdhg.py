"""PDHG unrolled into layers, on dense LPs `min c'x, Ax <= b, x >= 0`: learned step sizes, several channels a number.

Trained without labels on the primal and dual residuals of what the last layer returns.
"""

from typing import Any

import torch
from adoption.loop import Loop
from torch import Tensor, nn

from jepa_ssl import JEPATerm, ModelEncoder  # +
from jepa_ssl.lp import DenseLP, flatten, unflatten  # +
from jepa_ssl.recipes import later_state  # +

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
    def __init__(self) -> None:
        super().__init__(UnrolledPDHG())
        run = lambda net, flat: torch.cat([h.mean(1) for h in net.iterate(*unflatten(flat, M, N))], 1)  # +
        encoder = ModelEncoder(self.model, {"instance": 2 * CHANNELS}, 16, run=run)  # +
        lp_of = lambda flat: DenseLP.of_vectors(flat, M, N)  # +
        objective = later_state(encoder.dims, lp_of=lp_of, numbers=2 * (M + N))  # +
        views: Any = objective.views  # +
        views.fit([flatten(*self.batch())])  # +
        self.jepa = JEPATerm(encoder, objective)  # +
        self.optimizer.add_param_group({"params": list(self.jepa.parameters())})  # +
        self.saved["jepa"] = self.jepa  # +

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
        joint = self.jepa.loss(flatten(*batch), task=lambda: loss)  # +
        log, loss = {name: value.item() for name, value in joint.terms.items()}, joint.total  # +
        self.descend(loss)
        self.jepa.update()  # +
        return log
