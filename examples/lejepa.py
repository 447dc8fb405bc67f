"""JEPA without a teacher: LeJEPA, in which only SIGReg prevents a collapse.

python examples/lejepa.py [--folder lejepa] [--steps 300]

JEPA is a joint-embedding predictive architecture. An MLP embeds LPs. Half of an LP's numbers are hidden, and its
embedding should equal that of the whole LP. There is no copy of the encoder, no stopped gradient and no predictor. So
the encoder can make the loss 0 by giving all LPs the same embedding. SIGReg, a regulariser, pulls the distribution of
embeddings towards a Gaussian. The script trains the encoder with it and without it.

Embeddings that do not collapse need not be useful: docs/study.md measures that.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from jepa_ssl import CollapseMonitor, EntryMasker, JEPAObjective, SharedTeacher, SIGReg
from jepa_ssl.diagnostics import effective_rank
from jepa_ssl.losses import squared_error
from jepa_ssl.lp import flatten

ROWS, COLUMNS, WIDTH, DIM = 6, 8, 128, 16
ARMS = {"with SIGReg": (0.05, "#0072B2", "o"), "without": (0.0, "#D55E00", "s")}  # its weight


def lps(count: int) -> Tensor:
    """Random flat LPs, with entries of mean 0 and deviation 1."""
    A, b, c = (12.0**0.5 * (torch.rand(count, *size) - 0.5) for size in ((ROWS, COLUMNS), (ROWS,), (COLUMNS,)))
    return flatten(A, b, c)


def train(weight: float, steps: int) -> tuple[Tensor, Tensor, list[float]]:
    """Train, and return the embeddings of unseen LPs before and after, and the prediction losses."""
    torch.manual_seed(0)
    entries = ROWS * COLUMNS + ROWS + COLUMNS
    trunk = nn.Sequential(nn.Linear(entries, WIDTH), nn.SELU(), nn.Linear(WIDTH, WIDTH), nn.SELU())
    network = nn.Sequential(trunk, nn.Linear(WIDTH, DIM))
    jepa = JEPAObjective(
        views=EntryMasker(ratio=0.5),
        predictor=nn.Identity(),
        teacher=SharedTeacher(),  # the encoder itself, with gradient
        loss=squared_error,  # embeddings are not normalised: SIGReg sets their scale
        regularizer=SIGReg(),
        regularizer_weight=weight,
        monitor=CollapseMonitor(),  # warns
    )

    def encoder(flat: Tensor) -> dict[str, Tensor]:
        return {"instance": network(flat)}

    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    unseen = lps(512)
    first = network(unseen).detach()
    losses: list[float] = []
    for _ in range(steps):
        loss = jepa(encoder, lps(256))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        jepa.update(encoder)
        losses.append(loss.terms["prediction/instance"].item())
    return first, network(unseen).detach(), losses


def spectrum(embeddings: Tensor) -> Tensor:
    """Variance of the embeddings along their principal axes, the largest first."""
    return torch.linalg.eigvalsh(embeddings.T.cov()).flip(0)


def main(argv: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(prog="lejepa.py", description="Train JEPA without a teacher, with and without SIGReg.")
    p.add_argument("--folder", type=Path, default=Path("lejepa"), help="write the figure here")
    p.add_argument("--steps", type=int, default=300, help="train for this many steps")
    args = p.parse_args(argv)
    if args.steps < 1:
        p.error(f"--steps is {args.steps}, but must be at least 1.")
    begin = time.perf_counter()
    torch.set_num_threads(1)  # more threads slow down networks of this size
    args.folder.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(9.5, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    for arm, (weight, colour, marker) in ARMS.items():
        first, last, losses = train(weight, args.steps)
        if weight:
            right.plot(range(1, DIM + 1), spectrum(first), color="#999999", marker="^", label="untrained")
        left.plot(losses, color=colour, label=arm)
        right.plot(range(1, DIM + 1), spectrum(last), color=colour, marker=marker, label=arm)
        print(
            f"{arm}: prediction loss {losses[0]:.3g} -> {losses[-1]:.3g}; deviation "
            f"{first.std(0).mean():.2g} -> {last.std(0).mean():.2g}; rank {effective_rank(first):.1f} -> "
            f"{effective_rank(last):.1f} of {DIM}."
        )
    print(
        "Result: without SIGReg the loss vanishes, because the embeddings shrink to a point. Their rank does not show"
    )
    print("it, but their deviation does, and the monitor warns. With SIGReg the deviation is near 1 along every axis.")
    left.set(xlabel="steps", ylabel="prediction loss", yscale="log")
    right.set(xlabel="principal axis", ylabel="variance of unseen LPs' embeddings", yscale="log")
    for axes, place in ((left, "lower left"), (right, "center left")):
        axes.grid(alpha=0.3)
        axes.legend(loc=place)
    figure.savefig(args.folder / "lejepa.png", dpi=150)
    print(f"Figure: {args.folder / 'lejepa.png'}. {time.perf_counter() - begin:.0f} seconds.")


if __name__ == "__main__":
    main()
