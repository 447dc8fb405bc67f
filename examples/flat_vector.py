"""A JEPA term on a table: readings of a plant's sensors, few of them labelled.

python examples/flat_vector.py [--folder flat_vector] [--plants 4]

Each of 64 sensors is a different nonlinear function of four hidden causes, plus noise. An MLP learns from 4096 rows
without labels, by a JEPA (joint-embedding predictive architecture) term. Half of a row's readings are hidden, and it
predicts the embedding that a slow copy of itself gives to the whole row. Then it is frozen, and a linear probe reads
the causes from its features, with few labelled rows. The controls are the untrained trunk, and no network at all.

This should help on such a table: the task asks for what the readings share, and the rest of each reading is noise. The
entries of an LP are not like that, and there it does not help: see docs/study.md.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from jepa_ssl import CollapseMonitor, EMATeacher, EntryMasker, JEPAObjective, MLPPredictor, MLPProjector, VICReg

SENSORS, CAUSES, WIDTH, DIM = 64, 4, 128, 32
LABELS = (20, 50, 100, 200)
ARMS = {  # in colours and markers that colour-blind readers tell apart
    "pretrained trunk": ("#0072B2", "o"),
    "random trunk": ("#D55E00", "s"),
    "readings alone": ("#000000", "^"),
    "20 principal components": ("#009E73", "D"),
}


def readings(count: int, plant: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`count` rows and their causes; the number of the plant determines its sensors."""
    wiring = torch.Generator().manual_seed(plant)
    weight = 1.5 * torch.randn(CAUSES, SENSORS, generator=wiring) / CAUSES**0.5
    phase = 2.0 * torch.pi * torch.rand(SENSORS, generator=wiring)
    causes = torch.randn(count, CAUSES, generator=generator)
    return (causes @ weight + phase).sin() + 0.5 * torch.randn(count, SENSORS, generator=generator), causes


class Encoder(nn.Module):
    """Your trunk, and a projector for the JEPA term."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(SENSORS, WIDTH), nn.SELU(), nn.Linear(WIDTH, WIDTH), nn.SELU())
        self.projector = MLPProjector({"instance": WIDTH}, DIM)

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        return self.projector({"instance": self.trunk(rows)})


def pretrain(encoder: Encoder, rows: Tensor, steps: int, generator: torch.Generator) -> list[dict[str, Any]]:
    """Train the encoder without labels. Returns the log of the monitor, which warns if the embeddings collapse."""
    log: list[dict[str, Any]] = []
    jepa = JEPAObjective(
        views=EntryMasker(ratio=0.5),
        predictor=MLPPredictor({"instance": DIM}),
        teacher=EMATeacher(encoder, momentum=0.99),
        regularizer=VICReg(on_sphere=True),
        regularizer_weight=0.2,
        monitor=CollapseMonitor(log=lambda row, _: log.append(row)),
    )
    optimizer = torch.optim.Adam([*encoder.parameters(), *jepa.parameters()], lr=1e-3)
    for _ in range(steps):
        batch = rows[torch.randint(len(rows), (128,), generator=generator)]
        loss = jepa(encoder, batch, generator=generator).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        jepa.update(encoder)
    return log


def probe(features: Tensor, causes: Tensor, labels: int) -> float:
    """R2 on the other rows of ridge regression on the first `labels` rows; leave-one-out chooses the penalty."""
    x = (features - features.mean(0)) / features.std()
    gram = x[:labels] @ x[:labels].T
    inverses = [torch.linalg.inv(gram + 10.0**k * torch.eye(labels)) for k in range(5)]
    best = min(inverses, key=lambda inv: (inv @ causes[:labels] / inv.diagonal().unsqueeze(1)).norm().item())
    error = causes[labels:] - x[labels:] @ (x[:labels].T @ (best @ causes[:labels]))
    return 1.0 - (error.square().sum() / causes[labels:].square().sum()).item()  # the mean of each cause is 0


def run(plant: int, steps: int) -> tuple[Tensor, list[dict[str, Any]]]:
    """R2 of each arm with each number of labels, averaged over five draws of labels; and the monitor's log."""
    torch.manual_seed(plant)
    generator = torch.Generator().manual_seed(plant)
    unlabelled, _ = readings(4096, plant, generator)
    rows, causes = readings(2000, plant, generator)
    encoder = Encoder()
    random = encoder.trunk(rows).detach()
    log = pretrain(encoder, unlabelled, steps, generator)
    features = (encoder.trunk(rows).detach(), random, rows, rows @ torch.pca_lowrank(unlabelled, 20)[2])
    draws = [[(x.roll(shift, 0), causes.roll(shift, 0)) for shift in range(0, 2000, 400)] for x in features]
    r2 = [[[probe(*some, labels) for some in draw] for labels in LABELS] for draw in draws]
    return torch.tensor(r2).mean(-1), log


def draw(r2: Tensor) -> Figure:
    """Draw the probes' R2, `[plants, arms, labels]`: the mean, with a bar from minimum to maximum."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.set_title("Linear probe: mean over the plants; bars: minimum to maximum", fontsize="medium")
    for i, (arm, (colour, marker)) in enumerate(ARMS.items()):
        low, mean, high = r2[:, i].amin(0), r2[:, i].mean(0), r2[:, i].amax(0)
        places = [labels * (0.97 + 0.02 * i) for labels in LABELS]  # so that no bar hides another
        axes.errorbar(places, mean, (mean - low, high - mean), color=colour, marker=marker, capsize=3, label=arm)
    axes.set(xscale="log", xlabel="labelled rows", ylabel="R2 of the hidden causes")
    axes.set_xticks(LABELS, [str(labels) for labels in LABELS])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return figure


def main(argv: Sequence[str] | None = None) -> Figure:
    p = argparse.ArgumentParser(prog="flat_vector.py", description="Train on a table that is not an LP.")
    p.add_argument("--folder", type=Path, default=Path("flat_vector"), help="write the figure here")
    p.add_argument("--plants", type=int, default=4, help="train on this many plants, each with a new network")
    p.add_argument("--steps", type=int, default=300, help="pretrain for this many steps")
    args = p.parse_args(argv)
    if args.plants < 1 or args.steps < 10:
        p.error(f"--plants is {args.plants} and --steps {args.steps}, but must be at least 1 and 10.")
    begin = time.perf_counter()
    torch.set_num_threads(1)  # more threads slow down networks of this size
    args.folder.mkdir(parents=True, exist_ok=True)
    found, logs = zip(*(run(plant, args.steps) for plant in range(args.plants)), strict=True)
    r2 = torch.stack(found)
    print(f"R2 of the hidden causes by number of labelled rows, mean over {args.plants} plants:")
    print(f"{'':23}", *(f"{labels:>5}" for labels in LABELS))
    for i, arm in enumerate(ARMS):
        lower = f" below the first in {int((r2[:, i] < r2[:, 0]).sum())} of {r2[:, i].numel()} cases"
        print(f"{arm:23}", *(f"{value:5.2f}" for value in r2[:, i].mean(0).tolist()), *[lower] * (i > 0))
    first, last = torch.tensor([[log[i]["monitor/rank/instance"] for i in (0, -1)] for log in logs]).mean(0).tolist()
    alarms = [row["monitor/warning"] for log in logs for row in log if "monitor/warning" in row]
    print(f"Effective rank of the embeddings, {DIM} at most: {first:.0f} before training, {last:.0f} after.")
    print("The monitor's alarms:", *(alarms or ["none."]))
    figure = draw(r2)
    figure.savefig(args.folder / "flat_vector.png", dpi=150)
    print(f"Figure: {args.folder / 'flat_vector.png'}. {time.perf_counter() - begin:.0f} seconds.")
    return figure


if __name__ == "__main__":
    main()
