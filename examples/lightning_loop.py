"""A JEPA (joint-embedding predictive architecture) term in a Lightning module: one line and a callback.

python examples/lightning_loop.py [--folder lightning_loop] [--epochs 10]

An MLP solves random LPs, `min c'x` with `A x <= b` and `0 <= x <= 1`. It is trained without labels, on the objective
and a penalty for violated rows. It also predicts the embedding that a slow copy of itself gives to the whole LP, from
an LP with half of its numbers hidden.
"""

import argparse
import csv
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from jepa_ssl import CollapseMonitor, EMATeacher, EntryMasker, JEPAObjective, MLPPredictor, MLPProjector, Seeds, VICReg
from jepa_ssl.integrations.lightning import JEPACallback
from jepa_ssl.lp import flatten, unflatten

ROWS, COLUMNS, WIDTH, DIM = 6, 8, 128, 32


class Encoder(nn.Module):
    """The trunk, and a projector for the JEPA term."""

    def __init__(self) -> None:
        super().__init__()
        entries = ROWS * COLUMNS + ROWS + COLUMNS
        self.trunk = nn.Sequential(nn.Linear(entries, WIDTH), nn.SELU(), nn.Linear(WIDTH, WIDTH), nn.SELU())
        self.projector = MLPProjector({"instance": WIDTH}, DIM)

    def forward(self, flat: Tensor) -> dict[str, Tensor]:
        return self.projector({"instance": self.trunk(flat)})


class Solver(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = Encoder(), nn.Linear(WIDTH, COLUMNS)
        self.jepa = JEPAObjective(
            views=EntryMasker(0.5),
            predictor=MLPPredictor({"instance": DIM}),
            teacher=EMATeacher(self.encoder, momentum=0.99),
            regularizer=VICReg(on_sphere=True),
            regularizer_weight=0.1,
            monitor=CollapseMonitor(),
        )

    def task(self, flat: Tensor) -> Tensor:
        x = self.head(self.encoder.trunk(flat)).sigmoid()
        A, b, c = unflatten(flat, ROWS, COLUMNS)
        violation = (torch.einsum("lmn, ln -> lm", A, x) - b).relu()
        return ((c * x).sum(1) + 10.0 * violation.sum(1)).mean()

    def training_step(self, batch: Sequence[Tensor], _: int) -> Tensor:
        flat, names = batch
        task = self.task(flat)
        jepa = self.jepa(self.encoder, flat, generator=Seeds(names, self.current_epoch))  # masks by LP and epoch
        self.log_dict({"task": task, "jepa": jepa.total}, on_step=False, on_epoch=True, batch_size=len(flat))
        return task + 0.2 * jepa.total

    def validation_step(self, batch: Sequence[Tensor], _: int) -> None:
        self.log("validation", self.task(batch[0]), batch_size=len(batch[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam((p for p in self.parameters() if p.requires_grad), lr=1e-3)


def lps(count: int, seed: int) -> TensorDataset:
    """Flat LPs and their numbers, on which the masks depend."""
    generator = torch.Generator().manual_seed(seed)
    A, b, c = (torch.rand(count, *size, generator=generator) for size in ((ROWS, COLUMNS), (ROWS,), (COLUMNS,)))
    return TensorDataset(flatten(A, 1.0 + b, -c), torch.arange(count))


def main(argv: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(prog="lightning_loop.py", description="Train a Lightning module with a JEPA term.")
    p.add_argument("--folder", type=Path, default=Path("lightning_loop"), help="write checkpoint and metrics.csv here")
    p.add_argument("--epochs", type=int, default=10, help="train for this many epochs")
    args = p.parse_args(argv)
    begin = time.perf_counter()
    seed_everything(0, verbose=False)
    logger = CSVLogger(args.folder, name="", version="")
    trainer = Trainer(
        max_epochs=args.epochs,
        accelerator="cpu",
        logger=logger,
        callbacks=JEPACallback(),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Solver(), DataLoader(lps(1024, 0), 16, shuffle=True), DataLoader(lps(256, 1), 256))
    with open(Path(logger.log_dir) / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    shown = {"validation": "validation loss", "jepa": "JEPA loss", "monitor/rank/instance": "rank of the embeddings"}
    for name, said in shown.items():
        values = [float(row[name]) for row in rows if row[name]]
        print(f"{said}: {values[0]:.3f} at first, {values[-1]:.3f} at last")
    print(f"Checkpoint, with teacher, predictor and monitor: {args.folder / 'checkpoints'}")
    print(f"{time.perf_counter() - begin:.0f} seconds")


if __name__ == "__main__":
    main()
