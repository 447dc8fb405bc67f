"""The figures of the study."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from report import figures

from .found import PREDICTED, SHOWN, Found, label
from .intervals import geometric
from .plan import FAMILIES, RECOMMENDED, SCALES

PLAN = SCALES["full"]
COLOURS = {
    "random": "#999999",
    "random_s": "#000000",
    "ema": "#D55E00",
    "simsiam": "#E69F00",
    "kkt_s": "#CC79A7",
    "state": "#56B4E9",
    RECOMMENDED: "#0072B2",
}


def draw(found: Found, folder: Path) -> None:
    if found.stages.get("probe"):
        figures.save(knowledge(found), folder / "knowledge.png")
        figures.save(collapse(found), folder / "collapse.png")
    if found.stages.get("finetuning"):
        figures.save(residuals(found), folder / "residuals.png")


def knowledge(found: Found) -> Figure:
    """What ten labels bring out of a frozen trunk: a panel a score, over the size of the LPs."""
    figure, [axes] = figures.panels(1, 2, 5.2, 4.2)
    for one, score, said in zip(axes, ("r2", "auc"), ("R2 of the optimum x", "AUC of active constraints"), strict=True):
        for name, colour in COLOURS.items():
            _with_seeds(one, found, name, score, colour)
        for name, line in ((SHOWN, ":"), (PREDICTED, "-.")):
            values = [np.mean(found.probe(name, n, 10, score)) for n in PLAN.sizes]
            one.plot(PLAN.sizes, values, line, color="grey", label=label(name))
        one.set(xscale="log", xlabel="variables of the LPs that are probed (pretrained on 20 and 50)", title=said)
        one.set_xticks(PLAN.sizes, map(str, PLAN.sizes))
        one.minorticks_off()
        one.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    return figure


def _with_seeds(axes: Axes, found: Found, name: str, score: str, colour: str) -> None:
    values = [found.probe(name, n, 10, score) for n in PLAN.sizes]
    if not all(values):
        return
    width = 2.4 if name == RECOMMENDED else 1.4
    axes.plot(
        PLAN.sizes,
        [np.mean(each) for each in values],
        "-o",
        color=colour,
        markersize=4,
        label=label(name),
        linewidth=width,
    )
    axes.fill_between(
        PLAN.sizes, [min(each) for each in values], [max(each) for each in values], color=colour, alpha=0.15
    )


def residuals(found: Found) -> Figure:
    """The KKT residual while a few LPs of one family are trained on, the geometric mean over families."""
    sizes = [n for n in PLAN.sizes if found.curves(RECOMMENDED, n, FAMILIES[0])]
    figure, [axes] = figures.panels(1, max(1, len(sizes)), 4.6, 4.2)
    for one, n in zip(axes, sizes, strict=True):
        for name in ("random", "random_s", "ema", "simsiam", "kkt_s", RECOMMENDED):
            seeds = list(zip(*(found.curves(name, n, family) for family in FAMILIES), strict=True))
            if not seeds:
                continue
            lines = [[geometric(values) for values in zip(*curves, strict=True)] for curves in seeds]
            steps = np.arange(len(lines[0])) * PLAN.measured_every
            middle = [geometric(values) for values in zip(*lines, strict=True)]
            said = (
                "from scratch"
                if name == "random"
                else "from scratch, sees states"
                if name == "random_s"
                else label(name)
            )
            one.plot(steps, middle, color=COLOURS[name], linewidth=2.4 if name == RECOMMENDED else 1.4, label=said)
            one.fill_between(
                steps, np.min(lines, axis=0), np.max(lines, axis=0), color=COLOURS[name], alpha=0.12, linewidth=0
            )
        one.set(title=f"n = {n}", xlabel="steps on the KKT residual", yscale="log")
        one.grid(alpha=0.3)
    axes[0].set_ylabel("KKT residual of test LPs")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    return figure


def collapse(found: Found) -> Figure:
    """Effective rank of the features over the JEPA loss at the end: a loss near zero is a collapse."""
    figure, [[axes]] = figures.panels(1, 1, 7.2, 4.4)
    for i, name in enumerate(("ema", "ema_s", "simsiam", "ema_vicreg", "state", "later_lp", "later_plain", "later")):
        losses = [run["last_loss"] for run in found.runs("pretraining", name)]
        ranks = found.geometry(name, 20, "rank/variable")
        axes.plot(
            losses[: len(ranks)],
            ranks[: len(losses)],
            figures.MARKERS[i % 8],
            color=figures.colour(i),
            label=label(name),
        )
    for name, line in (("random", "--"), ("random_s", ":")):
        axes.axhline(
            float(np.mean(found.geometry(name, 20, "rank/variable"))), color="grey", linestyle=line, label=label(name)
        )
    axes.set(xscale="log", xlabel="JEPA loss, last 50 steps", ylabel="effective rank, variables, n = 20")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
