"""A branching policy on bipartite graphs: normalised inputs, two half-convolutions, logits of variables, no `encode`.

Learns to imitate a rule that scores each variable by its cost and its coefficients.
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

import torch
from adoption.loop import Loop
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Batch, Data

from jepa_ssl.integrations.flags import add_jepa_arguments, from_args  # +
from jepa_ssl.integrations.pyg import bipartite_graph  # +

WIDTH = 32


class PreNorm(nn.Module):
    """Shifts and scales its input by statistics of the first batches, which are kept in buffers."""

    shift: Tensor
    scale: Tensor
    seen: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def fit(self, x: Tensor) -> None:
        self.shift.copy_(x.mean(0))
        self.scale.copy_(x.std(0).clamp(min=1e-3))
        self.seen.add_(len(x))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.shift) / self.scale


class HalfConvolution(nn.Module):
    """Messages from one side of the graph to the other."""

    def __init__(self) -> None:
        super().__init__()
        self.message = nn.Linear(2 * WIDTH + 1, WIDTH)
        self.output = nn.Sequential(nn.Linear(2 * WIDTH, WIDTH), nn.ReLU())

    def forward(self, source: Tensor, edges: Tensor, weights: Tensor, target: Tensor) -> Tensor:
        sent = self.message(torch.cat([source[edges[0]], target[edges[1]], weights], 1)).relu()
        received = torch.zeros_like(target).index_add(0, edges[1], sent)
        return self.output(torch.cat([received, target], 1))


class Policy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([PreNorm(2), PreNorm(2)])
        self.embed = nn.ModuleList([nn.Linear(2, WIDTH), nn.Linear(2, WIDTH)])
        self.conv_v_to_c, self.conv_c_to_v = HalfConvolution(), HalfConvolution()
        self.output = nn.Linear(WIDTH, 1)

    def forward(self, constraints: Tensor, edges: Tensor, weights: Tensor, variables: Tensor) -> Tensor:
        c, v = (embed(norm(x)) for embed, norm, x in zip(self.embed, self.norms, (constraints, variables), strict=True))
        c = self.conv_v_to_c(v, edges.flip(0), weights, c)
        v = self.conv_c_to_v(c, edges, weights, v)
        return self.output(v).squeeze(-1)


class BipartiteNodeData(Data):
    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        if key == "edge_index":
            return torch.tensor([[len(self.constraint_features)], [len(self.variable_features)]])
        return super().__inc__(key, value, *args, **kwargs)


def sample(m: int, n: int) -> BipartiteNodeData:
    A, cost = torch.rand(m, n), torch.rand(n)
    edges = (A > 0.5).nonzero().T
    return BipartiteNodeData(
        constraint_features=torch.stack([A.sum(1), torch.ones(m)], 1) + 0.1 * torch.randn(m, 2),
        edge_index=edges,
        edge_attr=A[edges[0], edges[1]].unsqueeze(1),
        variable_features=torch.stack([cost, A.mean(0)], 1),
        scores=cost * A.sum(0),
        num_nodes=m + n,
    )


class Training(Loop):
    def __init__(self, argv: Sequence[str] = ()) -> None:
        super().__init__(Policy(), argv)
        self.fit_norms()
        widths = {"constraint": WIDTH, "variable": WIDTH}  # +
        captured = {"constraint": "conv_v_to_c", "variable": "conv_c_to_v"}  # +
        run = lambda policy, g: policy(g.constraint_features, g.edge_index, g.edge_attr, g.variable_features)  # +
        self.jepa = from_args(self.args, self.model, widths, run=run, captured=captured)  # +
        self.optimizer.add_param_group({"params": self.jepa.parameters()})  # +

    def parser(self) -> ArgumentParser:
        parser = ArgumentParser()
        parser.add_argument("--lr", type=float, default=1e-3)
        add_jepa_arguments(parser)  # +
        return parser

    def fit_norms(self) -> None:
        batch = self.batch()
        for norm, x in zip(self.model.norms, (batch.constraint_features, batch.variable_features), strict=True):
            norm.fit(x)  # pyright: ignore[reportCallIssue]

    def batch(self) -> Any:
        return Batch.from_data_list([sample(3 + i, 8 - i) for i in range(5)])

    def loss(self, batch: Any) -> Tensor:
        logits = self.model(batch.constraint_features, batch.edge_index, batch.edge_attr, batch.variable_features)
        return F.mse_loss(logits, batch.scores)

    def step(self) -> dict[str, float]:
        batch = self.batch()
        loss = self.loss(batch)
        log = {"loss": loss.item()}
        joint = self.jepa.loss(bipartite_graph(batch), task=loss)  # +
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
