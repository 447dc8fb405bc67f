"""A repository as its users have it: configargparse, wandb, mixed precision, and two networks in one `train_epoch`.

Trains an MLP on flat LPs `min c'x, Ax <= b, x >= 0`, or a graph network on their graphs, on the KKT residual.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import configargparse
import torch
import wandb
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from jepa_ssl.integrations.flags import add_jepa_arguments, from_args  # +
from jepa_ssl.integrations.pyg import bipartite_graph  # +

M, N, HIDDEN = 5, 7, 32


def get_args(argv: Sequence[str]) -> Any:
    p = configargparse.ArgumentParser(config_file_parser_class=configargparse.YAMLConfigFileParser)
    p.add_argument("--config", is_config_file=True)
    p.add_argument("--use_bipartite_graphs", action="store_true")
    p.add_argument("--epochs", type=int, default=3)
    p.add_argument("--batch_size", type=int, default=4)
    p.add_argument("--amp", action="store_true")
    p.add_argument("--exp_dir", default=".")
    p.add_argument("--resume")
    add_jepa_arguments(p)  # +
    return p.parse_args(argv)


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(M * N + M + N, HIDDEN), nn.SELU(), nn.Dropout(0.1), nn.Linear(HIDDEN, HIDDEN), nn.SELU()
        )
        self.primal, self.dual = nn.Linear(HIDDEN, N), nn.Linear(HIDDEN, M)

    def forward(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        h = self.net(flat)
        return self.primal(h).relu(), self.dual(h).relu()


class GNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows, self.columns = nn.Linear(1, HIDDEN), nn.Linear(1, HIDDEN)
        self.to_rows, self.to_columns = (nn.Sequential(nn.Linear(2 * HIDDEN, HIDDEN), nn.ReLU()) for _ in range(2))
        self.primal, self.dual = nn.Linear(HIDDEN, 1), nn.Linear(HIDDEN, 1)

    def forward(self, b: Tensor, edges: Tensor, weights: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        rows, columns = self.rows(b), self.columns(c)
        heard = torch.zeros_like(rows).index_add(0, edges[0], weights * columns[edges[1]])
        rows = self.to_rows(torch.cat([rows, heard], 1))
        heard = torch.zeros_like(columns).index_add(0, edges[1], weights * rows[edges[0]])
        columns = self.to_columns(torch.cat([columns, heard], 1))
        return self.primal(columns).relu(), self.dual(rows).relu()


class LPGraph(Data):
    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        if key == "edge_index":
            return torch.tensor([[M], [N]])
        return super().__inc__(key, value, *args, **kwargs)


def kkt_loss(A: Tensor, b: Tensor, c: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, float]]:
    slack = (A @ x.unsqueeze(-1)).squeeze(-1) - b
    primal, dual = slack.relu().square().mean(), (-(A.mT @ y.unsqueeze(-1)).squeeze(-1) - c).relu().square().mean()
    complementary = (y * slack).square().mean()
    loss = primal + dual + 0.2 * complementary
    return loss, {"train/primal": primal.item(), "train/dual": dual.item()}


class Trainer:
    def __init__(self, args: Any) -> None:
        self.args, self.step = args, 0
        torch.manual_seed(0)
        self.lps = torch.rand(12, M, N), 1 + torch.rand(12, M), torch.rand(12, N) - 0.8
        self.model: nn.Module = GNN() if args.use_bipartite_graphs else MLP()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        graphs = args.use_bipartite_graphs  # +
        on_graph = lambda net, g: net(g.constraint_features, g.edge_index, g.edge_attr, g.variable_features)  # +
        captured = {"constraint": "to_rows", "variable": "to_columns"} if graphs else {"instance": "net"}  # +
        parts = {"captured": captured, "run": on_graph if graphs else None}  # +
        log = lambda row, step: wandb.log(row)  # +
        self.jepa = from_args(args, self.model, dict.fromkeys(captured, HIDDEN), log=log, **parts)  # +
        self.optimizer.add_param_group({"params": self.jepa.parameters()})  # +
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, args.epochs)
        self.scaler = torch.amp.GradScaler("cpu", enabled=args.amp)
        self.epoch = 0
        if args.resume:
            self.load(torch.load(args.resume, weights_only=True))

    def batches(self) -> Iterator[tuple[Any, ...]]:
        for chosen in torch.randperm(len(self.lps[0])).split(self.args.batch_size):
            A, b, c = (part[chosen] for part in self.lps)
            if self.args.use_bipartite_graphs:
                edges = torch.cartesian_prod(torch.arange(M), torch.arange(N)).T
                graphs: Any = [
                    LPGraph(constraint_features=b[i].unsqueeze(1), variable_features=c[i].unsqueeze(1),
                            edge_index=edges, edge_attr=A[i].reshape(-1, 1), num_nodes=M + N)
                    for i in range(len(A))
                ]  # fmt: skip
                yield Batch.from_data_list(graphs), A, b, c
            else:
                yield torch.cat([A.flatten(1), b, c], 1), A, b, c

    def train_epoch(self) -> None:
        self.model.train()
        for batch, A, b, c in self.batches():
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.args.amp):
                if self.args.use_bipartite_graphs:
                    x, y = self.model(
                        batch.constraint_features, batch.edge_index, batch.edge_attr, batch.variable_features
                    )
                    x, y = x.view(-1, N), y.view(-1, M)
                else:
                    x, y = self.model(batch)
                loss, log = kkt_loss(A, b, c, x, y)
                instance = bipartite_graph(batch) if self.args.use_bipartite_graphs else batch  # +
                joint = self.jepa.loss(instance, task=loss, epoch=self.epoch)  # +
                log |= {f"train/{name}": term.item() for name, term in joint.terms.items()}  # +
                loss = joint.total  # +
            self.optimizer.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.jepa.update()  # +
            self.step += 1
            wandb.log({"train/loss_total": loss.item(), "lr": self.scheduler.get_last_lr()[0], **log})
        self.scheduler.step()
        self.epoch += 1

    def state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "rng": torch.get_rng_state(),
            "jepa": self.jepa.state_dict(),  # +
        }

    def load(self, state: dict[str, Any]) -> None:
        self.epoch, self.step = state["epoch"], state["step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        torch.set_rng_state(state["rng"])
        self.jepa.load_state_dict(state["jepa"])  # +


def main(argv: Sequence[str] = ()) -> Trainer:
    args = get_args(argv)
    wandb.init(project="kkt", dir=args.exp_dir, mode="offline", config=vars(args))
    trainer = Trainer(args)
    while trainer.epoch < args.epochs:
        trainer.train_epoch()
        torch.save(trainer.state(), Path(args.exp_dir) / f"epoch{trainer.epoch}.pt")
    wandb.finish()
    return trainer
