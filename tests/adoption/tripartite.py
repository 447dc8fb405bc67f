"""A tripartite network on `HeteroData`: constraints, variables and an objective node, with BatchNorm.

Learns the least-squares solution's sign from the graph.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Batch, HeteroData

from jepa_ssl import EMATeacher, JEPAObjective, MLPPredictor, ModelEncoder, NodeMasker  # +
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


class Training:
    def __init__(self) -> None:
        self.network = Network()
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3)
        widths = {"constraint": WIDTH, "variable": WIDTH}  # +
        self.encoder = ModelEncoder(self.network, widths, 16, run=lambda network, data: network.encode(data))  # +
        views = PyGViews(NodeMasker({"constraint": 0.3, "variable": 0.3}, hide_edges=True))  # +
        self.jepa = JEPAObjective(views, MLPPredictor(self.encoder.dims), EMATeacher(self.encoder))  # +
        learned = [p for p in self.jepa.parameters() if p.requires_grad]  # +
        self.optimizer.add_param_group({"params": [*self.encoder.projector.parameters(), *learned]})  # +

    def batch(self) -> Any:
        return Batch.from_data_list([sample(3 + i, 8 - i) for i in range(5)])

    def step(self) -> dict[str, float]:
        batch = self.batch()
        loss = F.binary_cross_entropy_with_logits(self.network(batch), batch["variable"].y)
        log = {"loss": loss.item()}
        jepa = self.jepa(self.encoder, batch)  # +
        loss, log["loss_jepa"] = loss + 0.2 * jepa.total, jepa.terms["total"].item()  # +
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.jepa.update(self.encoder)  # +
        return log

    def checkpoint(self) -> dict[str, Any]:
        state = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        state |= {"jepa": self.jepa.state_dict(), "projector": self.encoder.projector.state_dict()}  # +
        return state

    def resume(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.jepa.load_state_dict(state["jepa"])  # +
        self.encoder.projector.load_state_dict(state["projector"])  # +
