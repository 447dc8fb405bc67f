"""The figures of an evaluation. A run has one colour in all of them; a family has one colour and one marker."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jepa_ssl.files import write_atomically

# Okabe and Ito, "Color universal design", 2008, for colour-blind readers, with grey for their yellow.
COLOURS = ("#000000", "#999999", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", ":", "-.")
ROUNDING = 1e-6  # below this a singular value of float32 embeddings is noise

Run = Mapping[str, Any]  # as evaluate.py reports it
Rows = Sequence[Mapping[str, Any]]  # of a run's metrics.jsonl


def panels(rows: int, columns: int, width: float = 4.8, height: float = 3.8) -> tuple[Figure, list[list[Axes]]]:
    """A figure of `rows * columns` panels, each `width * height` inches."""
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False).tolist()


def save(figure: Figure, path: Path) -> None:
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=150))


def colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def training_curves(metrics: Mapping[str, Rows]) -> Figure:
    """The KKT loss of each run; with JEPA also its loss and the effective rank of the embeddings."""
    with_jepa = any("train/loss_jepa" in row for rows in metrics.values() for row in rows)
    figure, [axes] = panels(1, 3 if with_jepa else 1)
    for one, draw in zip(axes, (draw_kkt, draw_jepa_loss, draw_rank), strict=False):
        draw(one, metrics)
    return figure


def draw_jepa_loss(axes: Axes, metrics: Mapping[str, Rows]) -> None:
    """The JEPA loss during training; read it together with the rank."""
    _draw_curve(axes, metrics, "train/loss_jepa")
    axes.set(title="JEPA loss, training", ylabel="JEPA loss", yscale="log")


def draw_rank(axes: Axes, metrics: Mapping[str, Rows]) -> None:
    """Effective rank of the projector's embeddings while training, with the legend of the streams."""
    names = {name for rows in metrics.values() for row in rows for name in row}
    ranks = sorted(name for name in names if name.startswith("train/effective_rank/"))
    for name, line in zip(ranks, LINES, strict=False):
        _draw_curve(axes, metrics, name, linestyle=line)
        axes.plot([], [], line, color="grey", label=name.rpartition("/")[2])
    axes.set(title="Effective rank of JEPA's embeddings, training", ylabel="effective rank", ylim=(0, None))
    if ranks:
        axes.legend(fontsize="small")


def draw_kkt(axes: Axes, metrics: Mapping[str, Rows]) -> None:
    """Training and validation KKT loss, with the legend of the runs."""
    _draw_curve(axes, metrics, "train/loss_kkt", linewidth=0.7, alpha=0.4)
    _draw_curve(axes, metrics, "val/loss_kkt", linewidth=2.0, marker="o", markersize=3)
    axes.set(title="KKT loss (thin: training, thick: validation)", ylabel="KKT loss", yscale="log")
    for i, label in enumerate(metrics):
        axes.plot([], [], color=colour(i), label=label)
    axes.legend(fontsize="small")


def _draw_curve(axes: Axes, metrics: Mapping[str, Rows], name: str, **style: Any) -> None:
    """One metric of each run over the optimizer steps; a run that did not log it has no curve."""
    for i, rows in enumerate(metrics.values()):
        points = [(row["step"], row[name]) for row in rows if name in row]
        axes.plot([step for step, _ in points], [value for _, value in points], color=colour(i), **style)
    axes.set_xlabel("optimizer step")
    axes.grid(alpha=0.3)


def objectives(runs: Sequence[Run]) -> Figure:
    """Predicted against optimal objective, one panel per run; a point on the diagonal has no gap."""
    columns = min(4, len(runs))
    figure, grid = panels(math.ceil(len(runs) / columns), columns, height=4.6)
    axes = [axis for row in grid for axis in row]
    families = sorted({instance["family"] for run in runs for instance in run["instances"]})
    shown = [[one for one in run["instances"] if math.isfinite(one["objective"])] for run in runs]
    extent = [one[name] for points in shown for one in points for name in ("optimal", "objective")] or [0.0]
    ends = [min(extent), max(extent)]
    for one, run, points in zip(axes, runs, shown, strict=False):
        one.plot(ends, ends, color="grey", linewidth=1, zorder=0)
        for i, family in enumerate(families):
            x, y = ([p[name] for p in points if p["family"] == family] for name in ("optimal", "objective"))
            style = {"color": colour(i + 2), "marker": MARKERS[i % len(MARKERS)], "label": family, "alpha": 0.6}
            one.scatter(x, y, s=22, linewidths=0, **style)
        missing = len(run["instances"]) - len(points)
        one.set(title=run["label"] + (f" ({missing} not finite, not shown)" if missing else ""))
        one.set(xlabel="optimal objective c'x* (HiGHS)", ylabel="predicted objective c'x")
        one.set(xscale="symlog", yscale="symlog")
        one.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(families))
    for one in axes[len(runs) :]:
        one.remove()
    return figure


def spectra(runs: Sequence[Run]) -> Figure:
    """A panel for each stream of each kind of embedding, with a line for each run that has it."""
    kinds = sorted({(kind, stream) for run in runs for kind in run["embeddings"] for stream in run["embeddings"][kind]})
    rows = sorted({kind for kind, _ in kinds}, reverse=True)
    columns = sorted({stream for _, stream in kinds})
    figure, grid = panels(len(rows), len(columns))
    for kind, row in zip(rows, grid, strict=True):
        for stream, one in zip(columns, row, strict=True):
            draw_spectrum(one, runs, kind, stream)
    return figure


def draw_spectrum(axes: Axes, runs: Sequence[Run], kind: str, stream: str) -> None:
    """Standard deviation of L2-normalised embeddings along each principal direction.

    Their squares add up to at most 1. A low curve is a cloud around one point, a steep one is nearly a line.
    """
    for i, run in enumerate(runs):
        if measured := run["embeddings"].get(kind, {}).get(stream):
            heights = [value if value > ROUNDING else math.nan for value in measured["singular_values"]]
            label = f"{run['label']}: rank {measured['effective_rank']:.1f}, spread {measured['spread']:.2g}"
            axes.plot(range(1, len(heights) + 1), heights, color=colour(i), linewidth=1.8, label=label)
    axes.set(title=f"Spectrum of {stream} embeddings, {kind}", yscale="log", ylim=(ROUNDING, 1))
    axes.set(xlabel="principal direction", ylabel="standard deviation along it")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
