"""The tables of the study, put into the pages that name them, and its figures."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jepa_ssl.files import write_atomically

from . import drawings
from .found import PREDICTED, SHOWN, Found, first_step, floor, label
from .intervals import Interval, geometric, interval, paired
from .plan import (
    ABLATIONS,
    ARMS,
    EQUAL_COMPUTE,
    FAMILIES,
    FEWER_OR_MORE,
    FILES,
    FLAT,
    KNOWABLE,
    RECOMMENDED,
    SCALES,
    WARM_STARTS,
)

PLAN = SCALES["full"]
EVERY = PLAN.measured_every
MARK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
SHORT = {"set_cover": "set cover", "independent_set": "independent set"}


def write(results: Path, docs: Path) -> None:
    """Fills the tables of `docs.parent / study.md`, and draws the figures into `docs`."""
    found = Found(results)
    for page in (docs.parent / "study.md", docs / "arms.md"):
        if page.exists():
            text = filled(page.read_text(), found)
            write_atomically(page, lambda file, text=text: file.write(text.encode()))
    drawings.draw(found, docs)


def filled(text: str, found: Found) -> str:
    """The page with each marked table as the results say; a name that is no table's is an error.

    >>> filled("no table", Found(Path("nowhere")))
    'no table'
    """
    return MARK.sub(lambda mark: f"{mark[1]}{TABLES[mark[2]](found)}\n{mark[3]}", text)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 1) -> str:
    """A table in Markdown.

    >>> print(table(["arm", "R2"], [["random", "0.5"]]))
    | arm | R2 |
    |---|---:|
    | random | 0.5 |
    """
    rule = "|" + "".join("---|" if i < text_columns else "---:|" for i in range(len(headings)))
    return "\n".join([_line(headings), rule, *map(_line, rows)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def plus_minus(of: Interval, digits: int = 3) -> str:
    """The mean and its 95% interval.

    >>> plus_minus(Interval(0.5, 0.01, 3)), plus_minus(Interval(0.5, float("nan"), 1))
    ('0.500 ± 0.010', '0.500')
    """
    return f"{of.mean:.{digits}f}" + ("" if np.isnan(of.half) else f" ± {of.half:.{digits}f}")


def signed(of: Interval, digits: int = 3) -> str:
    shown = f"{of.mean:+.{digits}f} ± {of.half:.{digits}f}"
    return f"**{shown}**" if of.excludes_zero() else shown


def family_name(family: str) -> str:
    return SHORT.get(family, family)


# What a frozen trunk knows


def headline(found: Found) -> str:
    """Ten labels: R2 and AUC at each size, the mean over families, and the rank."""
    headings = ["frozen, 10 labelled LPs a family", *(f"n = {n}: R2 / AUC" for n in PLAN.sizes)]
    headings += ["rank, constraint / variable"]
    rows: list[list[str]] = []
    for name in (
        "random", "ema", "simsiam", "kkt", "state", "random_s", "kkt_s", RECOMMENDED, SHOWN, PREDICTED,
    ):  # fmt: skip
        cells = [_scores(found, name, n, 10) for n in PLAN.sizes]
        ranks = [interval(found.geometry(name, 20, f"rank/{stream}")).mean for stream in ("constraint", "variable")]
        shape = "" if name in (SHOWN, PREDICTED) else f"{ranks[0]:.1f} / {ranks[1]:.1f}"
        shown = label(name) if name != RECOMMENDED else f"**{label(name)}**"
        rows.append([shown, *cells, shape])
    return table(headings, rows)


def _scores(
    found: Found,
    name: str,
    n: int,
    count: int,
    scores: Sequence[str] = ("r2", "auc"),
    families: Sequence[str] | None = None,
) -> str:
    return " / ".join(f"{interval(found.probe(name, n, count, score, families)).mean:.3f}" for score in scores)


def by_family(found: Found) -> str:
    """The recommended recipe against its strongest controls, family by family, and what another optimum would score."""
    names = ("random_s", "kkt_s", RECOMMENDED, SHOWN)
    headings = [
        "n",
        "family",
        *(f"{label(name)}: R2 / AUC" for name in names),
        "another optimum: R2",
        "several optimal x",
    ]
    rows: list[list[str]] = []
    for n in PLAN.sizes:
        for family in FAMILIES:
            ceiling = found.ceiling(n, family)
            cells = [_scores(found, name, n, 10, families=[family]) for name in names]
            rows.append(
                [str(n), family_name(family), *cells, f"{ceiling['r2']:.2f}", f"{ceiling['several_optima']:.0%}"]
            )
    return table(headings, rows, text_columns=2)


def differences(found: Found) -> str:
    """Paired differences of the recommended recipe, and the noise floor."""
    headings = ["difference, 10 labels", *(f"n = {n}: R2" for n in PLAN.sizes), *(f"n = {n}: AUC" for n in PLAN.sizes)]
    rows: list[list[str]] = []
    for name, minus in (
        ("state", "random"),
        ("random_s", "random"),
        (RECOMMENDED, "random_s"),
        (RECOMMENDED, "kkt_s"),
        (RECOMMENDED, SHOWN),
        (RECOMMENDED, "later_again"),
        ("random", "random_again"),
    ):
        cells = [signed(found.difference(name, minus, n, 10, score)) for score in ("r2", "auc") for n in PLAN.sizes]
        rows.append([f"{floor(minus)}{label(name)} - {label(minus)}", *cells])
    return table(headings, rows)


def labels(found: Found) -> str:
    """How the scores grow with the number of labels at the smallest size, beside supervision."""
    counts = PLAN.labels[20]
    headings = ["n = 20", *(f"{count} labels: R2 / AUC / between bounds" for count in counts)]
    rows: list[list[str]] = []
    for name in ("random", "state", "random_s", "kkt_s", RECOMMENDED, SHOWN):
        cells = [_scores(found, name, 20, count, ("r2", "auc", "between")) for count in counts]
        rows.append([f"{label(name)}{'' if name == SHOWN else ', frozen'}", *cells])
    for name in ("random", "random_s"):
        cells = ["" if count == counts[0] else f"{_supervised(found, name, count)} / -" for count in counts]
        rows.append([f"supervised, {'sees states' if ARMS[name].sees_states else 'sees the LP alone'}", *cells])
    return table(headings, rows)


def _supervised(found: Found, name: str, count: int, families: Sequence[str] | None = None) -> str:
    return " / ".join(f"{np.mean(supervised(found, name, count, score, families)):.3f}" for score in ("r2", "auc"))


def supervised(found: Found, name: str, count: int, score: str, families: Sequence[str] | None = None) -> list[float]:
    some = families or (KNOWABLE if score == "r2" else FAMILIES)
    runs = found.runs("supervised", f"{name}-{count}labels")
    return [float(np.mean([run[family][score] for family in some])) for run in runs]


def unseen(found: Found) -> str:
    """Pretrained without a family, probed on it, against supervision on it."""
    headings = [
        "family left out of pretraining", "left out: R2 / AUC, 10 labels", "included, 10 labels",
        "random, sees states, 10 labels", "supervised, 50 labels", "supervised, sees states, 50 labels",
    ]  # fmt: skip
    rows: list[list[str]] = []
    for family in FAMILIES:
        runs = found.runs("unseen", f"{RECOMMENDED}-{family}")
        rows.append(
            [
                family_name(family),
                " / ".join(f"{np.mean([run['10'][score] for run in runs]):.3f}" for score in ("r2", "auc")),
                *(
                    " / ".join(
                        f"{np.mean(found.probe(name, 20, 10, s, [family])[: len(runs)]):.3f}" for s in ("r2", "auc")
                    )
                    for name in (RECOMMENDED, "random_s")
                ),
                _supervised(found, "random", 50, [family]),
                _supervised(found, "random_s", 50, [family]),
            ]
        )
    return table(headings, rows)


def files(found: Found) -> str:
    """AUC on real LPs, the mean over files, each probed by what is known of the others."""
    headings = ["frozen trunk", "AUC of active rows", "AUC of variables between bounds"]
    headings += ["AUC of active rows, minus that of random, sees states"]
    of_arm = {
        name: {
            score: [float(np.nanmean([one[score] for one in run.values()])) for run in found.runs("files", name)]
            for score in ("auc", "between")
        }
        for name in FILES
    }
    rows = [
        [
            label(name),
            *(plus_minus(interval(of_arm[name][score])) for score in ("auc", "between")),
            "" if name == "random_s" else signed(paired(of_arm[name]["auc"], of_arm["random_s"]["auc"])),
        ]
        for name in FILES
    ]
    return table(headings, rows)


# What collapses


def collapse(found: Found) -> str:
    """What the loss says of each arm, and what became of the features."""
    headings = [
        "arm", "seeds", "steps", "seconds", "its loss, first 20 steps", "last 50", "rank, constraint", "rank, variable",
        "spread, constraint", "spread, variable", "R2, 10 labels", "AUC",
    ]  # fmt: skip
    rows: list[list[str]] = []
    for name in ARMS:
        trained, probed = found.runs("pretraining", name), found.runs("probe", name)
        losses = (
            [
                f"{np.mean([run['steps'] for run in trained]):.0f}",
                f"{np.mean([run['seconds'] for run in trained]):.0f}",
                *(f"{np.mean([run[key] for run in trained]):.2g}" for key in ("first_loss", "last_loss")),
            ]
            if trained
            else ["0", "0", "", ""]
        )
        shapes = [
            f"{np.mean(found.geometry(name, 20, f'{measure}/{stream}')):.{digits}f}"
            for measure, digits in (("rank", 1), ("spread", 3))
            for stream in ("constraint", "variable")
        ]
        scores = [f"{np.mean(found.probe(name, 20, 10, score)):.3f}" for score in ("r2", "auc")]
        rows.append([label(name), str(len(probed)), *losses, *shapes, *scores])
    return table(headings, rows)


def ranks(found: Found) -> str:
    """Goal 1: is every stream's rank above the random encoder's, in every family and with every seed?"""
    headings = ["effective rank of features", *(f"n = {n}: above, of all; least gain" for n in PLAN.sizes)]
    rows: list[list[str]] = []
    for name, control in ((RECOMMENDED, "random_s"), (RECOMMENDED, "random"), ("later_lp", "random"),
                          ("later_plain", "random_s"), ("kkt_s", "random_s"), ("ema", "random")):  # fmt: skip
        cells: list[str] = []
        for n in PLAN.sizes:
            above, of, least = found.lowest_rank_gain(name, control, n)
            cells.append(f"{above} of {of}; {least:+.1f}")
        rows.append([f"{label(name)} against {label(control)}", *cells])
    return table(headings, rows)


def ablations(found: Found) -> str:
    """The recommended recipe with one thing changed, at n = 20, on the seeds that both have."""
    headings = [
        "n = 20, 10 labels",
        "R2",
        "AUC",
        "difference of R2",
        "difference of AUC",
        "rank, constraint / variable",
    ]
    rows: list[list[str]] = []
    for name in (RECOMMENDED, *ABLATIONS):
        against = [
            "" if name == RECOMMENDED else signed(found.difference(name, RECOMMENDED, 20, 10, score))
            for score in ("r2", "auc")
        ]
        shape = [f"{np.mean(found.geometry(name, 20, f'rank/{s}')):.1f}" for s in ("constraint", "variable")]
        scores = [plus_minus(found.mean(name, 20, 10, score)) for score in ("r2", "auc")]
        rows.append([label(name), *scores, *against, " / ".join(shape)])
    return table(headings, rows)


# The KKT residual


def finetuning(found: Found) -> str:
    """Steps to scratch's own end, and what each ends at, by size and family."""
    names = ("random_s", "ema", "simsiam", RECOMMENDED, "kkt_s", "then")
    headings = ["n", "family", *(f"steps: {label(name)}" for name in names)]
    rows: list[list[str]] = []
    for n in PLAN.sizes:
        for family in FAMILIES:
            cells = [_steps(found.steps_to_scratch(name, n, family, EVERY)) for name in names]
            rows.append([str(n), family_name(family), *cells])
    return table(headings, rows, text_columns=2)


def _steps(values: Sequence[float]) -> str:
    """The median over seeds and the worst of them; above the last step where scratch's end was not reached."""
    if not values:
        return ""
    most = PLAN.finetuning_steps
    shown = [f"{value:.0f}" if np.isfinite(value) else f"> {most}" for value in (np.median(values), max(values))]
    return f"{shown[0]} ({shown[1]})"


def ends(found: Found) -> str:
    """Residual and objective gap after all steps, the geometric mean over families, relative to scratch."""
    headings = ["after 200 steps, over scratch's", *(f"n = {n}: {what}" for n in PLAN.sizes for what in ("KKT", "gap"))]
    rows: list[list[str]] = []
    for name, frozen in (
        ("random_again", False), ("random_s", False), ("ema", False), ("simsiam", False), (RECOMMENDED, False),
        (RECOMMENDED, True), ("kkt_s", False), ("then", False),
    ):  # fmt: skip
        cells = [_ratio(found, name, n, what, frozen) for n in PLAN.sizes for what in ("residual", "gap")]
        rows.append([f"{floor(name)}{label(name)}{', frozen' if frozen else ''}", *cells])
    return table(headings, rows)


def log_ratios(of: Sequence[Any], base: Sequence[Any], value: Callable[[Any, str], float]) -> list[float]:
    """Of each pair of runs, the mean over families of log(value / value of the base)."""
    return [
        float(np.mean([np.log(value(a, family) / value(b, family)) for family in FAMILIES]))
        for a, b in zip(of, base, strict=False)
    ]


def _ratio(found: Found, name: str, n: int, measure: str, frozen: bool) -> str:
    def at_the_end(run: Any, family: str) -> float:
        return run[family]["residual"][-1] if measure == "residual" else run[family][measure]

    of = found.runs("finetuning", f"{name}{'-frozen' if frozen else ''}-n{n}")
    values = log_ratios(of, found.runs("finetuning", f"random-n{n}"), at_the_end)
    return factor(interval(values)) if values else ""


def factor(of: Interval) -> str:
    """The interval of a logarithm as that of a factor; bold where it leaves out 1.

    >>> factor(Interval(0.0, 0.0953, 3))
    '1.00 (0.91 to 1.10)'
    """
    shown = f"{np.exp(of.mean):.2f} ({np.exp(of.mean - of.half):.2f} to {np.exp(of.mean + of.half):.2f})"
    return f"**{shown}**" if of.excludes_zero() else shown


def instances(found: Found) -> str:
    """The KKT residual after all steps, over the number of LPs that were trained on."""
    counts = sorted((*PLAN.fewer_or_more, PLAN.few_lps))
    rows: list[list[str]] = []
    for name in FEWER_OR_MORE:
        cells: list[str] = []
        for count in counts:
            stage, piece = (
                ("finetuning", f"{name}-n20") if count == PLAN.few_lps else ("instances", f"{name}-{count}lps")
            )
            ends = [
                run[family]["residual"][-1] for run in found.runs(stage, piece)[: PLAN.few_seeds] for family in FAMILIES
            ]
            cells.append(f"{geometric(ends):.2g}")
        rows.append(["from scratch" if name == "random" else label(name), *cells])
    return table(["KKT after 200 steps", *(f"on {count} LPs" for count in counts)], rows)


def equal_compute(found: Found) -> str:
    """Networks whose heads were pretrained too, on the mixture, for the same time: what they predict, untouched."""
    headings = [
        "the same time on the mixture",
        *(f"n = {n}: KKT / gap" for n in PLAN.sizes),
        *(f"{what} over that of KKT, sees states, n = 20" for what in ("KKT", "gap")),
    ]
    rows: list[list[str]] = []
    for name in EQUAL_COMPUTE:
        runs, base = found.runs("equal_compute", name), found.runs("equal_compute", "kkt_s")
        cells = [
            " / ".join(
                f"{geometric([run[str(n)][family][measure] for run in runs for family in FAMILIES]):.2g}"
                for measure in ("residual", "gap")
            )
            for n in PLAN.sizes
        ]
        against = [
            factor(interval(log_ratios(runs, base, lambda run, family, measure=measure: run["20"][family][measure])))
            for measure in ("residual", "gap")
        ]
        rows.append([label(name), *cells, *(["1", "1"] if name == "kkt_s" else against)])
    return table(headings, rows)


def flat_path(found: Found) -> str:
    """The MLP: steps to scratch's own end, and the end relative to scratch's."""
    headings = [
        "MLP, n = 20",
        *(f"steps: {family_name(family)}" for family in FAMILIES),
        "KKT at the end over scratch's",
        "rank",
    ]
    scratch = found.runs("flat", "random")
    rows: list[list[str]] = []
    for name in FLAT:
        runs = found.runs("flat", name)
        cells: list[str] = []
        for family in FAMILIES:
            steps: list[float] = []
            for run, base in zip(runs, scratch, strict=False):
                curve, end = run["families"][family]["residual"], base["families"][family]["residual"][-1]
                steps.append(first_step(curve, end, EVERY))
            cells.append(_steps(steps))
        logs = log_ratios(runs, scratch, lambda run, family: run["families"][family]["residual"][-1])
        rank = np.mean([run["families"][family]["rank"] for run in runs for family in FAMILIES])
        end = "1" if name == "random" else factor(interval(logs))
        rows.append([f"{floor(name)}{label(name)}", *cells, end, f"{rank:.1f}"])
    return table(headings, rows)


# A use


def simplex(found: Found) -> str:
    """HiGHS' simplex iterations, cold and from the predicted basis."""
    headings = [f"simplex iterations, n = {max(PLAN.sizes)}", *map(family_name, FAMILIES)]
    runs = {name: found.runs("solving", name) for name in WARM_STARTS}
    some = runs[RECOMMENDED][0]

    def cold(family: str, how: str) -> float:
        return float(np.mean([one[how] for one in some[family]["simplex"]]))

    rows = [
        [f"cold: {how.removeprefix('cold, ')}", *(f"{cold(family, how):.0f}" for family in FAMILIES)]
        for how in ("presolved", "cold, dual", "cold, primal")
    ]
    for how in ("dual", "primal"):
        for name in WARM_STARTS:
            cells: list[str] = []
            for family in FAMILIES:
                warm = np.mean([one[f"warm, {how}"] for run in runs[name] for one in run[family]["simplex"]])
                best = min(cold(family, each) for each in ("presolved", "cold, dual", "cold, primal"))
                cells.append(f"{warm:.0f} ({warm / best - 1:+.0%})")
            rows.append([f"warm, {how}: {label(name)}", *cells])
    return table(headings, rows)


def first_order(found: Found) -> str:
    """PDHG steps to a tolerance, from zero, from the state that was shown, and from the prediction."""
    headings = [f"PDHG steps, n = {max(PLAN.sizes)}", *map(family_name, FAMILIES)]
    runs = {name: found.runs("solving", name) for name in WARM_STARTS}

    def middle(name: str, family: str, start: str) -> str:
        steps = [step for run in runs[name] for step in run[family]["pdhg"][start]]
        median = np.median([float("inf") if step is None else step for step in steps])
        return f"{median:.0f}" if np.isfinite(median) else f"> {PLAN.solver_steps}"

    rows = [
        [said, *(middle(RECOMMENDED, family, start) for family in FAMILIES)]
        for start, said in (("zero", "from zero"), ("shown", "further, from the state of step 100"))
    ]
    rows += [
        [f"further, from the prediction: {label(name)}", *(middle(name, family, "predicted") for family in FAMILIES)]
        for name in WARM_STARTS
    ]
    return table(headings, rows)


TABLES: dict[str, Callable[[Found], str]] = {
    function.__name__: function
    for function in (
        headline, by_family, differences, labels, unseen, files, collapse, ranks, ablations, finetuning, ends,
        instances, equal_compute, flat_path, simplex, first_order,
    )
}  # fmt: skip
