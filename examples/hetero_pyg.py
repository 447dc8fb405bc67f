"""A JEPA term on PyG's `HeteroData`: three node types, with all data on the edges.

python examples/hetero_pyg.py [--steps 200]

LPs are graphs of rows, columns and one objective node. Every node has the same feature, 1. A is on the edges between
rows and columns; b and c are on the edges between the objective and these, each in both directions. Hiding only nodes
would hide nothing, because all data is on their edges. `hide_edges` also hides the coefficients at hidden nodes, in
both directions. The objective is the only node of its type, so the ratio does not name it, and the encoder does not
return it. The script checks encoder and teacher before training.
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, HeteroData

from jepa_ssl import (
    CollapseMonitor,
    EMATeacher,
    JEPAObjective,
    JEPATerm,
    MLPPredictor,
    ModelEncoder,
    NodeMasker,
    VICReg,
)
from jepa_ssl.integrations.pyg import PyGViews, in_another_order
from jepa_ssl.testing import check_encoder, check_teacher

WIDTH, DIM = 32, 16
KINDS = ("row", "column", "objective")
EDGES = (("row", "A", "column"), ("objective", "b", "row"), ("objective", "c", "column"))
BOTH_WAYS = (*EDGES, *((target, f"rev_{name}", source) for source, name, target in EDGES))


class Network(nn.Module):
    """Two rounds of messages along all edges, then x of each column."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.ModuleDict({kind: nn.Linear(1, WIDTH) for kind in KINDS})
        self.rounds = nn.ModuleList(
            nn.ModuleDict({name: nn.Linear(WIDTH + 1, WIDTH) for _, name, _ in BOTH_WAYS}) for _ in range(2)
        )
        self.head = nn.Linear(WIDTH, 1)

    def encode(self, data: Any) -> dict[str, Tensor]:
        h = {kind: self.embed[kind](data[kind].x) for kind in KINDS}
        for messages in self.rounds:
            assert isinstance(messages, nn.ModuleDict)
            new = dict(h)
            for kind in BOTH_WAYS:
                source, target = data[kind].edge_index
                sent = messages[kind[1]](torch.cat([h[kind[0]][source], data[kind].edge_attr], 1)).relu()
                new[kind[2]] = new[kind[2]].index_add(0, target, 0.3 * sent)
            h = {kind: nn.functional.layer_norm(x, (WIDTH,)) for kind, x in new.items()}
        return h

    def forward(self, data: Any) -> Tensor:
        return self.head(self.encode(data)["column"]).sigmoid().squeeze(-1)


def lp(generator: torch.Generator) -> HeteroData:
    """`min c'x` with `A x <= b` and `0 <= x <= 1`, of 4 to 8 rows and columns."""
    m, n = torch.randint(4, 9, (2,), generator=generator).tolist()
    A, b, c = (torch.rand(*size, generator=generator) for size in ((m, n), (1, m), (1, n)))
    data: Any = HeteroData()
    for kind, nodes in zip(KINDS, (m, n, 1), strict=True):
        data[kind].x = torch.ones(nodes, 1)
    for (source, name, target), numbers in zip(EDGES, (A, 1 + b, -c), strict=True):
        edges = torch.cartesian_prod(*map(torch.arange, numbers.shape)).T
        there, back = data[source, name, target], data[target, f"rev_{name}", source]
        there.edge_index, back.edge_index = edges, edges.flip(0)
        there.edge_attr = back.edge_attr = numbers.reshape(-1, 1)
    return data


def objective_and_penalty(x: Tensor, data: Any) -> Tensor:
    (rows, columns), A = data[EDGES[0]].edge_index, data[EDGES[0]].edge_attr.squeeze(-1)
    Ax = torch.zeros(len(data["row"].x)).index_add(0, rows, A * x[columns])
    b, c = data[EDGES[1]].edge_attr.squeeze(-1), data[EDGES[2]].edge_attr.squeeze(-1)
    return ((c * x).sum() + 10 * (Ax - b).relu().sum()) / data.num_graphs


def main(argv: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(prog="hetero_pyg.py", description="Train on HeteroData with a JEPA term.")
    p.add_argument("--steps", type=int, default=200, help="train for this many steps")
    args = p.parse_args(argv)
    begin = time.perf_counter()
    generator = torch.Generator().manual_seed(0)
    batches = [Batch.from_data_list([lp(generator) for _ in range(16)]) for _ in range(8)]
    torch.manual_seed(0)
    network, rows = Network(), list[Any]()
    encoder = ModelEncoder(
        network, {"row": WIDTH, "column": WIDTH}, DIM, run=lambda network, data: network.encode(data)
    )
    views = PyGViews(NodeMasker({"row": 0.4, "column": 0.4}, hide_edges=True))
    objective = JEPAObjective(
        views,
        MLPPredictor(encoder.dims),
        EMATeacher(encoder, 0.99),
        regularizer=VICReg(on_sphere=True),
        regularizer_weight=0.2,
        monitor=CollapseMonitor(log=lambda row, _: rows.append(row)),
    )
    check_encoder(encoder, batches[0], views=views, rewritten={"the order": in_another_order(batches[0])})
    check_teacher(objective.teacher, encoder, batches[0])
    hidden = views(batches[0])
    at_hidden = hidden.context[EDGES[0]].edge_attr == 0
    print(f"Of {len(at_hidden)} coefficients of A a batch hides {int(at_hidden.sum())}, in both directions.")

    jepa = JEPATerm(encoder, objective)
    optimizer = torch.optim.Adam([*network.parameters(), *jepa.parameters()], lr=2e-3)
    losses: list[float] = []
    for step in range(args.steps):
        batch = batches[step % len(batches)]
        joint = jepa.loss(batch, task=lambda batch=batch: objective_and_penalty(network(batch), batch))
        optimizer.zero_grad()
        joint.total.backward()
        optimizer.step()
        jepa.update()
        losses.append(joint.terms["loss_task"].item())
    few = max(args.steps // 10, 1)
    print(f"Loss of the task: {sum(losses[:few]) / few:.2f} at first, {sum(losses[-few:]) / few:.2f} at last.")
    for stream in encoder.dims if rows else ():
        first, last = (row[f"monitor/rank/{stream}"] for row in (rows[0], rows[-1]))
        print(f"Effective rank of the {stream} embeddings: {first:.1f} at first, {last:.1f} at last, of {DIM} at most.")
    print(f"{time.perf_counter() - begin:.0f} seconds")


if __name__ == "__main__":
    main()
