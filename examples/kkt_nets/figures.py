"""The figures of an evaluation. Each run has one colour in all of them, each family one of its own."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from atomic import write_atomically
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Told apart by colour-blind readers: Okabe and Ito, "Color universal design", 2008, without its yellow.
COLOURS = ("#000000", "#999999", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", ":", "-.")
FLOOR = 1e-9  # a singular value below it is drawn there: a logarithmic axis has no zero

Rows = Sequence[Mapping[str, Any]]  # of a run's metrics.jsonl


def new(rows: int, columns: int, width: float = 5.0, height: float = 3.8) -> tuple[Figure, list[list[Axes]]]:
    """A figure of `rows * columns` panels, each `width * height` inches."""
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False).tolist()


def save(figure: Figure, path: Path) -> None:
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=150))


def training_curves(metrics: Mapping[str, Rows]) -> Figure:
    """The KKT loss of each run, and where there was JEPA its loss and the embeddings' effective rank."""
    with_jepa = any("train/loss_jepa" in row for rows in metrics.values() for row in rows)
    figure, [panels] = new(1, 3 if with_jepa else 1)
    draw_kkt(panels[0], metrics)
    if with_jepa:
        draw_curve(panels[1], metrics, {"train/loss_jepa": "-"})
        panels[1].set(title="JEPA loss", ylabel="2 - 2 cos", yscale="log")
        streams = sorted({name for rows in metrics.values() for row in rows for name in row if "effective_rank" in name})
        draw_curve(panels[2], metrics, dict(zip(streams, LINES, strict=False)))
        panels[2].set(title="Effective rank of the embeddings, training", ylabel="effective rank", ylim=(0, None))
        for stream, line in zip(streams, LINES, strict=False):
            panels[2].plot([], [], line, color="grey", label=stream.rpartition("/")[2])
        panels[2].legend(fontsize="small")
    return figure


def draw_kkt(axes: Axes, metrics: Mapping[str, Rows]) -> None:
    draw_curve(axes, metrics, {"train/loss_kkt": "-"}, labelled=False, linewidth=0.7, alpha=0.4)
    draw_curve(axes, metrics, {"val/loss_kkt": "-"}, linewidth=2)
    axes.set(title="KKT loss (thin: training, thick: validation)", ylabel="KKT loss", yscale="log")
    axes.legend(fontsize="small")


def draw_curve(
    axes: Axes, metrics: Mapping[str, Rows], lines: Mapping[str, str], labelled: bool = True, **style: Any
) -> None:
    """Some metrics over the steps, each with its line style, in the run's colour."""
    for i, (run, rows) in enumerate(metrics.items()):
        for name, line in lines.items():
            points = [(row["step"], row[name]) for row in rows if name in row]
            if points:
                axes.plot(*zip(*points, strict=True), line, color=colour(i), label=run if labelled else None, **style)
                labelled_once = run  # noqa: F841
    axes.set_xlabel("optimizer step")
    axes.grid(alpha=0.3)
