"""The figures of the study."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from report import figures

from .found import Found, geometric, label
from .plan import FAMILIES, SCALES

PLAN = SCALES["full"]
FROZEN = ("random", "later_lp", "solver_random", "solver_kkt", "solver_symmetries", "solver_lp", "solver_lp_long")
STYLES = dict(zip(FROZEN, ("--", "-", "--", "-", "-", "-", "-"), strict=True))
TRAINED = ("random", "random_s", "kkt_s", "solver_random", "solver_random_s", "solver_lp", "solver_later")
SAID = {"r2": "R2 of the optimum x", "auc": "AUC of active constraints"}


def draw(found: Found, folder: Path) -> None:
    if found.stages.get("probe"):
        figures.save(knowledge(found), folder / "knowledge.png")
    if found.stages.get("supervised"):
        figures.save(labels(found), folder / "labels.png")
    if found.stages.get("finetuning"):
        figures.save(residuals(found), folder / "residuals.png")


def knowledge(found: Found) -> Figure:
    """What ten labels bring out of a frozen trunk that sees the LP alone, over the size of the LPs."""
    figure, [axes] = figures.panels(1, 2, 5.2, 4.2)
    for one, (score, said) in zip(axes, SAID.items(), strict=True):
        for i, name in enumerate(FROZEN):
            values = [found.probe(name, n, 10, score) for n in PLAN.sizes]
            _band(one, PLAN.sizes, values, i, label(name), STYLES[name])
        one.set(xscale="log", xlabel="variables of the LPs that are probed (pretrained on 20 and 50)", title=said)
        one.set_xticks(PLAN.sizes, map(str, PLAN.sizes))
        one.minorticks_off()
    return _with_legend(figure, axes[0])


def labels(found: Found) -> Figure:
    """The same trunk pretrained without labels and frozen, and supervised from scratch, over the number of labels."""
    counts = PLAN.labels[20]
    figure, [axes] = figures.panels(1, 2, 5.2, 4.2)
    for one, (score, said) in zip(axes, SAID.items(), strict=True):
        curves = [
            ("8 rounds, trained on the labels", "solver_random", True),
            ("16 rounds, trained on the labels", "solver_random_long", True),
            ("8 rounds, pretrained and frozen", "solver_lp", False),
            ("16 rounds, pretrained longer and frozen", "solver_lp_long", False),
            ("8 rounds, random and frozen", "solver_random", False),
        ]
        for i, (name, arm, supervised) in enumerate(curves):
            values = found.curve(arm, counts, score, None, supervised).values.tolist()
            _band(one, counts, values, i, name, "-")
        one.set(xscale="log", xlabel="labelled LPs of the family (n = 20)", title=said)
        one.set_xticks(counts, map(str, counts))
        one.minorticks_off()
    return _with_legend(figure, axes[0])


def residuals(found: Found) -> Figure:
    """The KKT residual while a few LPs of one family are trained on, the geometric mean over families."""
    sizes = PLAN.sizes[:2]
    figure, [axes] = figures.panels(1, len(sizes), 5.2, 4.2)
    steps = list(range(0, PLAN.finetuning_steps + 1, PLAN.measured_every))
    for one, n in zip(axes, sizes, strict=True):
        for i, name in enumerate(TRAINED):
            runs = found.runs("finetuning", f"{name}-n{n}")
            lines = [[geometric(v) for v in zip(*(run[f]["residual"] for f in FAMILIES), strict=True)] for run in runs]
            _band(one, steps, list(zip(*lines, strict=True)), i, label(name), "-")
        one.set(title=f"n = {n}", xlabel="steps on the KKT residual", yscale="log")
    axes[0].set_ylabel("KKT residual of test LPs")
    return _with_legend(figure, axes[0])


def _band(axes: Axes, x: Sequence[float], values: Sequence[Sequence[float]], i: int, name: str, line: str) -> None:
    """The mean over seeds, and the range of seeds; `values` are by point and seed."""
    if not all(len(each) for each in values):
        return
    colour, middle = figures.colour(i), [np.mean(each) for each in values]
    marks = {"marker": figures.MARKERS[i % len(figures.MARKERS)], "markersize": 4} if len(x) < 10 else {}
    axes.plot(x, middle, line, color=colour, label=name, linewidth=1.8, **marks)
    axes.fill_between(x, [min(each) for each in values], [max(each) for each in values], color=colour, alpha=0.15)


def _with_legend(figure: Figure, axes: Axes) -> Figure:
    for one in figure.axes:
        one.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize="small")
    return figure
