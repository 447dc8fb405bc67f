"""The plain loop on several processes: the numbers equal those of one process.

python examples/ddp.py
torchrun --nproc_per_node=2 examples/ddp.py

A small GNN solves random LPs, `min c'x` with `A x <= b` and `0 <= x <= 1`, with 3 to 10 rows and columns. Its loss is
the objective, a penalty, and a JEPA (joint-embedding predictive architecture) term. Both commands print the same loss,
because

- process r of P takes the LPs r, r + P, ... of each batch;
- the hidden nodes of an LP depend only on its number and the epoch;
- one module holds the whole step, so that DDP averages every gradient;
- the JEPA loss always covers the whole batch, and `processes.all_reduce_sum` does this for the task's loss.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from jepa_ssl import BipartiteGraph, EMATeacher, JEPAObjective, MLPPredictor, MLPProjector, NodeMasker, Seeds, VICReg
from jepa_ssl.processes import all_reduce_sum

WIDTH, DIM, BATCH = 32, 16, 13  # odd, so that two processes have different numbers of LPs
SIZES = {"constraint": WIDTH, "variable": WIDTH}


class Encoder(nn.Module):
    """Messages from variables to constraints and back, then a projector for the JEPA term."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.columns = nn.Linear(1, WIDTH), nn.Linear(1, WIDTH)
        self.to_rows, self.to_columns = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.projector = MLPProjector(SIZES, DIM)

    def trunk(self, graph: BipartiteGraph) -> dict[str, Tensor]:
        row, column = graph.edge_index
        rows, columns = self.rows(graph.constraint_features), self.columns(graph.variable_features).relu()
        rows = rows.index_add(0, row, graph.edge_attr * self.to_rows(columns)[column]).relu()
        columns = columns.index_add(0, column, graph.edge_attr * self.to_columns(rows)[row]).relu()
        return {"constraint": rows, "variable": columns}

    def forward(self, graph: BipartiteGraph) -> dict[str, Tensor]:
        return self.projector(self.trunk(graph))


class Step(nn.Module):
    """Everything that is trained, and the loss of one step."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = Encoder(), nn.Linear(WIDTH, 1)
        self.jepa = JEPAObjective(
            views=NodeMasker(0.3),
            predictor=MLPPredictor(dict.fromkeys(SIZES, DIM)),
            teacher=EMATeacher(self.encoder, momentum=0.99),
            regularizer=VICReg(on_sphere=True),
            regularizer_weight=0.1,
        )

    def forward(self, graph: BipartiteGraph, seeds: Seeds, lps: int) -> dict[str, Tensor]:
        """The losses of a batch of `lps` LPs; `graph` holds those of this process."""
        x = self.head(self.encoder.trunk(graph)["variable"]).sigmoid()
        row, column = graph.edge_index
        product = torch.zeros_like(graph.constraint_features).index_add(0, row, graph.edge_attr * x[column])
        task = (graph.variable_features * x).sum() + 10.0 * (product - graph.constraint_features).relu().sum()
        jepa = self.jepa(self.encoder, graph, generator=seeds)
        return {"task": all_reduce_sum(task, self.training) / lps, "jepa": jepa.total}


def lp(seed: int) -> BipartiteGraph:
    """One LP: its features are b and c, its coefficients are on the edges. Half of A is 0 and has no edges."""
    generator = torch.Generator().manual_seed(seed)
    m, n = torch.randint(3, 11, (2,), generator=generator).tolist()
    A = torch.rand(m, n, generator=generator) * (torch.rand(m, n, generator=generator) < 0.5)
    edges = A.nonzero().t()
    b, c = 1.0 + torch.rand(m, 1, generator=generator), -torch.rand(n, 1, generator=generator)
    return BipartiteGraph.single(b, edges, A[edges[0], edges[1]].unsqueeze(1), c)


def batch(graphs: Sequence[BipartiteGraph]) -> BipartiteGraph:
    """Join graphs into one batch."""
    sizes = torch.tensor([(0, 0), *((len(g.constraint_features), len(g.variable_features)) for g in graphs)])
    offsets = sizes.cumsum(0)
    edges = [g.edge_index + offset.unsqueeze(1) for g, offset in zip(graphs, offsets, strict=False)]
    return BipartiteGraph(
        torch.cat([g.constraint_features for g in graphs]),
        torch.cat(edges, dim=1),
        torch.cat([g.edge_attr for g in graphs]),
        torch.cat([g.variable_features for g in graphs]),
        *offsets.unbind(1),
    )


def main(argv: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(prog="ddp.py", description="Train in a plain loop on several processes.")
    p.add_argument("--checkpoint", type=Path, default=Path("ddp.pt"), help="write the checkpoint to this file")
    p.add_argument("--epochs", type=int, default=5, help="train for this many epochs")
    args = p.parse_args(argv)
    rank, processes = 0, 1
    if "RANK" in os.environ:  # started by torchrun
        dist.init_process_group("gloo")  # "nccl", and one device each, on GPUs
        rank, processes = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)  # all start from the same weights
    step = Step()
    everywhere = DistributedDataParallel(step) if processes > 1 else step
    optimizer = torch.optim.Adam((q for q in step.parameters() if q.requires_grad), lr=1e-3)
    graphs = [lp(seed) for seed in range(20 * BATCH)]

    for epoch in range(args.epochs):
        losses: dict[str, Tensor] = {}
        order = torch.randperm(len(graphs), generator=torch.Generator().manual_seed(epoch))
        for numbers in order.split(BATCH):
            mine = numbers[rank::processes]
            losses = everywhere(batch([graphs[i] for i in mine]), Seeds(mine, epoch), len(numbers))
            optimizer.zero_grad()
            (losses["task"] + losses["jepa"]).backward()
            optimizer.step()
            step.jepa.update(step.encoder)  # each process moves its own teacher; they stay equal
        if rank == 0:
            print(f"epoch {epoch}:", ", ".join(f"{name} {loss.item():.4f}" for name, loss in losses.items()))
    if rank == 0:  # all processes have the same weights and teacher
        temporary = args.checkpoint.with_suffix(".tmp")
        torch.save(step.state_dict(), temporary)
        os.replace(temporary, args.checkpoint)
    if processes > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
