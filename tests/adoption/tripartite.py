"""A tripartite network on `HeteroData`: constraints, variables and an objective node, with BatchNorm.

Learns the least-squares solution's sign from the graph.
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

import torch
from adoption.loop import Loop
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Batch, HeteroData

from jepa_ssl import NodeMasker  # +
from jepa_ssl.integrations.flags import add_jepa_arguments, from_args  # +
from jepa_ssl.integrations.pyg import PyGViews  # +

WIDTH = 24
KINDS = {"constraint": 1, "variable": 1, "objective": 1}
HAS, OF = ("constraint", "has", "variable"), ("variable", "rev_has", "constraint")
PRICES, PRICED = ("objective", "prices", "variable"), ("variable", "rev_prices", "objective")


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.messages = nn.ModuleDict(
            {"_".join(kind): nn.Linear(WIDTH + 1, WIDTH) for kind in (HAS, OF, PRICES, PRICED)}
        )
        self.norms = nn.ModuleDict({kind: nn.BatchNorm1d(WIDTH) for kind in KINDS})

    def forward(self, h: dict[str, Tensor], edges: dict[Any, Tensor], weights: dict[Any, Tensor]) -> dict[str, Tensor]:
        received = dict(h)
        for kind, (source, target) in edges.items():
            sent = self.messages["_".join(kind)](torch.cat([h[kind[0]][source], weights[kind]], 1))
            received[kind[2]] = received[kind[2]].index_add(0, target, sent)
        return {kind: self.norms[kind](x).relu() for kind, x in received.items()}


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.ModuleDict({kind: nn.Linear(width, WIDTH) for kind, width in KINDS.items()})
        self.layers = nn.ModuleList([Layer(), Layer()])
        self.head = nn.Linear(WIDTH, 1)

    def encode(self, data: Any) -> dict[str, Tensor]:
        h = {kind: self.embed[kind](x) for kind, x in data.x_dict.items()}
        for layer in self.layers:
            h = layer(h, data.edge_index_dict, data.edge_attr_dict)
        return h

    def forward(self, data: Any) -> Tensor:
        return self.head(self.encode(data)["variable"]).squeeze(-1)


def sample(m: int, n: int) -> HeteroData:
    A, b, c = torch.randn(m, n), torch.randn(m), torch.randn(n)
    data: Any = HeteroData()
    data["constraint"].x, data["variable"].x, data["objective"].x = b[:, None], c[:, None], torch.randn(1, 1)
    data["variable"].y = (A.T @ b > 0).float()
    of_objective = torch.stack([torch.zeros(n).long(), torch.arange(n)])
    for kind, edges, weights in ((HAS, (A != 0).nonzero().T, A.reshape(-1, 1)), (PRICES, of_objective, c[:, None])):
        back = OF if kind == HAS else PRICED
        data[kind].edge_index, data[back].edge_index = edges, edges.flip(0)
        data[kind].edge_attr = data[back].edge_attr = weights
    return data


class Training(Loop):
    def __init__(self, argv: Sequence[str] = ()) -> None:
        super().__init__(Network(), argv)
        widths = {"constraint": WIDTH, "variable": WIDTH}  # +
        views = PyGViews(NodeMasker({"constraint": 0.3, "variable": 0.3}, hide_edges=True))  # +
        self.jepa = from_args(self.args, self.model, widths, run=lambda net, data: net.encode(data), views=views)  # +
        self.optimizer.add_param_group({"params": self.jepa.parameters()})  # +

    def parser(self) -> ArgumentParser:
        parser = ArgumentParser()
        parser.add_argument("--lr", type=float, default=1e-3)
        add_jepa_arguments(parser)  # +
        return parser

    def batch(self) -> Any:
        return Batch.from_data_list([sample(3 + i, 8 - i) for i in range(5)])

    def step(self) -> dict[str, float]:
        batch = self.batch()
        loss = F.binary_cross_entropy_with_logits(self.model(batch), batch["variable"].y)
        log = {"loss": loss.item()}
        joint = self.jepa.loss(batch, task=loss)  # +
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
