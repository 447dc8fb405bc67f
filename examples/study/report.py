"""The tables of the study, put into the pages that name them, and its figures."""

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from jepa_ssl.evaluation import Curve, Interval, rank_correlation
from jepa_ssl.evaluation.intervals import labels_needed
from jepa_ssl.files import write_atomically

from . import drawings
from .found import PREDICTED, SHOWN, Found, first_step, geometric, interval, known, label, log_ratios, paired
from .plan import (
    ARMS,
    EQUAL_COMPUTE,
    FAMILIES,
    FILES,
    FINETUNED,
    FRESH,
    JOINT_ARMS,
    MORE_ROUNDS,
    SCALES,
    SUPERVISED,
    WARM_STARTS,
)

PLAN = SCALES["full"]
SCORES = ("r2", "auc", "between")
MARK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def write(results: Path, docs: Path) -> None:
    """Fills the tables of the front page, of `docs.parent / study.md` and of `docs`, and draws the figures there."""
    found = Found(results)
    for page in (docs.parents[1] / "README.md", docs.parent / "study.md", docs / "arms.md"):
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


def told_apart(of: Interval) -> bool:
    return of.low > 0.0 or of.high < 0.0


def signed(of: Interval) -> str:
    """A difference with its 95% interval; bold where that leaves out 0.

    >>> signed(Interval(0.1, 0.05, 0.15, 3)), signed(Interval(0.1, float("nan"), float("nan"), 1))
    ('**+0.100 ± 0.050**', '+0.100')
    """
    shown = f"{of.mean:+.3f}" + ("" if np.isnan(of.high) else f" ± {of.high - of.mean:.3f}")
    return f"**{shown}**" if told_apart(of) else shown


def factor(of: Interval) -> str:
    """The interval of a logarithm as that of a factor; bold where it leaves out 1.

    >>> factor(Interval(0.0, -0.0953, 0.0953, 3))
    '1.00 (0.91 to 1.10)'
    """
    shown = f"{np.exp(of.mean):.2f}"
    shown += "" if np.isnan(of.high) else f" ({np.exp(of.low):.2f} to {np.exp(of.high):.2f})"
    return f"**{shown}**" if told_apart(of) else shown


def family_name(family: str) -> str:
    return family.replace("_", " ")


def mean(values: Sequence[float], digits: int = 3) -> str:
    return f"{np.mean(values):.{digits}f}" if len(values) else ""


# What a frozen trunk knows


def _scores(found: Found, name: str, n: int, labels: int, scores: Sequence[str] = SCORES, stage: str = "probe") -> str:
    return " / ".join(mean(found.probe(name, n, labels, score, stage=stage)) for score in scores)


def _ranks(found: Found, name: str) -> str:
    return " / ".join(mean(found.geometry(name, 20, f"rank/{stream}"), 1) for stream in ("constraint", "variable"))


def _probed(found: Found, names: Iterable[str], stage: str = "probe") -> str:
    headings = ["frozen, 10 labels", *(f"n = {n}: R2 / AUC / between" for n in PLAN.sizes), "rank", "seeds"]
    rows: list[list[str]] = []
    for name in names:
        cells = [_scores(found, name, n, 10) for n in PLAN.sizes]
        shape = "" if name in (SHOWN, PREDICTED) else _ranks(found, name)
        rows.append([label(name), *cells, shape, str(len(found.runs(stage, name)))])
    return table(headings, rows)


def _one_score_a_column(found: Found, names: Iterable[str]) -> str:
    asked = [*((n, score) for score in ("r2", "auc") for n in PLAN.sizes), (min(PLAN.sizes), "between")]
    said = {"r2": "R2 of x", "auc": "AUC active", "between": "AUC between"}
    headings = ["frozen, 10 labels", *(f"{said[score]}, n = {n}" for n, score in asked), "seeds"]
    rows = [
        [label(name), *(mean(found.probe(name, n, 10, score), 2) for n, score in asked),
         str(len(found.runs("probe", name)))]
        for name in names
    ]  # fmt: skip
    return table(headings, rows)


def front(found: Found) -> str:
    """The rows of the front page."""
    said = {
        "solver_random": "random initialisation",
        "solver_ema": "masked nodes, moving-average (EMA) teacher: the usual JEPA",
        "solver_lp": "**predicts a solver state**, 8 rounds, 80 seconds",
        "solver_lp_long": "**predicts a solver state**, 16 rounds, four minutes",
        SHOWN: "*no network: the first 100 solver steps themselves*",
    }
    rows = [[text, *(mean(found.probe(name, 20, 10, score), 2) for score in ("r2", "auc"))]
            for name, text in said.items()]  # fmt: skip
    supervised = [
        found.curve("solver_random_long", [300], score, None, supervised=True).values[0] for score in ("r2", "auc")
    ]
    rows.insert(
        4,
        ["*16 rounds, supervised from scratch, 300 labels instead of 10*", *(mean(v.tolist(), 2) for v in supervised)],
    )
    return table(["frozen network, 10 labels", "R2 of x", "AUC of active constraints"], rows)


def headline(found: Found) -> str:
    """The LP alone, by trunk and objective."""
    names = (
        "random", "ema", "kkt", "later_lp", "solver_random", "solver_ema", "solver_reconstruct", "solver_symmetries",
        "solver_kkt", "solver_lp", "solver_lp_long",
    )  # fmt: skip
    return _one_score_a_column(found, names)


def with_states(found: Found) -> str:
    """Networks that see early states, and no network."""
    names = (
        "random_s", "kkt_s", "later", "solver_random_s", "solver_kkt_s", "solver_later", "solver_later_vicreg", SHOWN,
        PREDICTED,
    )  # fmt: skip
    return _one_score_a_column(found, names)


def every_arm(found: Found) -> str:
    return _probed(found, (name for name in ARMS if found.runs("probe", name)))


def by_family(found: Found) -> str:
    names = ("solver_lp", "solver_lp_long", "solver_later", SHOWN)
    headings = ["n", "family", *(f"{label(name)}: R2 / AUC" for name in names)]
    rows = [
        [
            str(n),
            family_name(family),
            *(" / ".join(mean(found.probe(name, n, 10, score, [family])) for score in ("r2", "auc")) for name in names),
        ]
        for n in PLAN.sizes
        for family in FAMILIES
    ]
    return table(headings, rows, text_columns=2)


def differences(found: Found) -> str:
    """Paired differences, after that of two runs of one configuration."""
    pairs = (
        ("solver_lp", "solver_lp_again"), ("solver_random", "random"), ("later_lp", "random"),
        ("solver_lp", "solver_random"), ("solver_lp", "later_lp"), ("solver_lp", "solver_kkt"),
        ("solver_lp", "solver_symmetries"), ("solver_lp", "solver_lp_numbers"), ("solver_lp_vicreg", "solver_lp"),
        ("solver_later", "solver_random_s"), ("solver_later", "solver_numbers"), ("solver_later", "later"),
        ("solver_later", SHOWN), ("solver_later_vicreg", "solver_later"),
    )  # fmt: skip
    headings = ["difference, 10 labels", *(f"n = {n}: {score}" for n in PLAN.sizes[:2] for score in ("R2", "AUC")),
                "n = 200: R2", "n = 20: between"]  # fmt: skip
    rows: list[list[str]] = []
    for name, minus in pairs:
        asked = [(n, score) for n in PLAN.sizes[:2] for score in ("r2", "auc")] + [(200, "r2"), (20, "between")]
        cells = [signed(found.difference(name, minus, n, 10, score)) for n, score in asked]
        rows.append([f"{label(name)} - {label(minus)}", *cells])
    return table(headings, rows)


def labels(found: Found) -> str:
    """How the scores grow with the number of labels at n = 20, beside supervision until it stops improving."""
    counts = PLAN.labels[20]
    rows: list[list[str]] = []
    for name in ("solver_random", "solver_lp", "solver_lp_long", "solver_random_s", "solver_later", SHOWN):
        cells = [_scores(found, name, 20, count, ("r2", "auc")) for count in counts]
        rows.append([f"{label(name)}{'' if name == SHOWN else '; frozen'}", *cells])
    for name in SUPERVISED:
        curves = [found.curve(name, counts, score, None, supervised=True).values for score in ("r2", "auc")]
        if curves[0].numel():
            cells = [" / ".join(mean(curve[i].tolist()) for curve in curves) for i in range(len(counts))]
            rows.append([f"{label(name)}; supervised from there", *cells])
    return table(["n = 20", *(f"{count} labels: R2 / AUC" for count in counts)], rows)


def labels_saved(found: Found) -> str:
    """How many labels supervision of the same trunk needs for what the frozen one has with ten; seed 0."""
    counts, scores = PLAN.labels[20], ("r2", "auc")
    names = {"solver_lp": "solver_random", "solver_lp_long": "solver_random_long"}
    rows: list[list[str]] = []
    for family in (*FAMILIES, None):
        cells: list[str] = []
        for name, score in product(names, scores):
            curves = [found.curve(arm, counts, score, family, supervised=arm != name)
                      for arm in (names[name], name)]  # fmt: skip
            supervised, frozen = (Curve(curve.values[:, :1], curve.without[:, :1]) for curve in curves)
            needed = labels_needed(counts, supervised, frozen, 0, float("inf")).labels
            said = f"{needed:.0f}" if np.isfinite(needed) else f"more than {max(counts)}"
            cells.append(said if family is None or family in known(score) else "")
        rows.append([family_name(family) if family else "mean over families", *cells])
    headings = [f"{said}, 10 labels: {score}" for said in ("8 rounds", "16 rounds, longer") for score in ("R2", "AUC")]
    return table(["labels that supervision needs for", *headings], rows)


def rounds(found: Found) -> str:
    """More rounds at inference than in training; the weights are the same."""
    rows: list[list[str]] = []
    for name, more in MORE_ROUNDS.items():
        for count in (0, *more):
            piece, stage = (f"{name}-{count}rounds", "rounds") if count else (name, "probe")
            cells = [_scores(found, piece, n, 10, stage=stage) for n in PLAN.sizes]
            rows.append([label(name), str(count or ARMS[name].rounds), *cells, str(len(found.runs(stage, piece)))])
    headings = [
        "frozen, 10 labels",
        "rounds at inference",
        *(f"n = {n}: R2 / AUC / between" for n in PLAN.sizes),
        "seeds",
    ]
    return table(headings, rows)


def fresh(found: Found) -> str:
    """LPs of another size and of seeds that nothing was chosen by."""
    of = {
        name: {
            score: [float(np.mean([run[f]["10"][score] for f in known(score)])) for run in found.runs("fresh", name)]
            for score in SCORES
        }
        for name in FRESH
    }
    rows = [
        [
            label(name),
            " / ".join(mean(of[name][score]) for score in SCORES),
            "" if name == SHOWN else signed(paired(of[name]["r2"], of[SHOWN]["r2"])),
        ]
        for name in FRESH
    ]
    return table([f"n = {PLAN.fresh_size}, 10 labels", "R2 / AUC / between", "R2 minus that of no network"], rows)


def files(found: Found) -> str:
    """AUC on real LPs, the mean over files, each probed by what is known of the others."""
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
            *(mean(of_arm[name][score]) for score in ("auc", "between")),
            "" if name == "solver_random_s" else signed(paired(of_arm[name]["auc"], of_arm["solver_random_s"]["auc"])),
            str(len(of_arm[name]["auc"])),
        ]
        for name in FILES
    ]
    headings = ["frozen trunk", "AUC of active rows", "AUC of variables between bounds",
                f"AUC of active rows minus that of {label('solver_random_s')}", "seeds"]  # fmt: skip
    return table(headings, rows)


# What collapses, and which score shows it


def collapse(found: Found) -> str:
    """What the loss says of each arm, and what became of the features."""
    headings = ["arm", "steps", "seconds", "its loss, first 20 steps", "last 50", "rank", "rank above random's, of all",
                "R2", "AUC"]  # fmt: skip
    rows: list[list[str]] = []
    for name, arm in ARMS.items():
        trained = found.runs("pretraining", name)
        losses = [mean([run[key] for run in trained], 0) for key in ("steps", "seconds")]
        losses += [f"{np.mean([run[key] for run in trained]):.2g}" if trained else ""
                   for key in ("first_loss", "last_loss")]  # fmt: skip
        control = f"{'solver_' if arm.rounds else ''}random{'_s' if arm.sees_states else ''}"
        above = [found.lowest_rank_gain(name, control, n) for n in PLAN.sizes] if trained else []
        shown = f"{sum(each[0] for each in above)} of {sum(each[1] for each in above)}" if trained else ""
        scores = [mean(found.probe(name, 20, 10, score)) for score in ("r2", "auc")]
        rows.append([label(name), *losses, _ranks(found, name), shown, *scores])
    return table(headings, rows)


def checkpoints(found: Found) -> str:
    """How far label-free scores rank trunks as their probes do."""
    headings = ["label-free score", "Spearman with R2 of x", "Spearman with AUC of active rows", "trunks"]
    pairs = {score: found.checkpoints(score) for score in ("r2", "auc")}
    rows: list[list[str]] = []
    for name, said in (
        ("effective_rank", "effective rank"), ("alpha_fit", "alpha-ReQ: minus the distance of alpha from 1"),
        ("lidar", "LiDAR, views with 30% of the nodes hidden"), ("prediction_loss", "minus the loss at the end"),
    ):  # fmt: skip
        cells: list[str] = []
        for score in ("r2", "auc"):
            found_one = rank_correlation([free[name] for free, _ in pairs[score]], [value for _, value in pairs[score]])
            cells.append(f"{found_one.spearman:+.2f} ({found_one.low:+.2f} to {found_one.high:+.2f})")
        rows.append([said, *cells, str(len(pairs["r2"]))])
    return table(headings, rows)


# The KKT residual


def finetuning(found: Found) -> str:
    """Steps to the end of the better trunk from scratch, by size and family."""
    names = [name for name in FINETUNED if name not in ("random", "solver_random")]
    rows: list[list[str]] = []
    for n in PLAN.sizes[:2]:
        for family in FAMILIES:
            curves = {name: [run[family]["residual"] for run in found.runs("finetuning", f"{name}-n{n}")]
                      for name in FINETUNED}  # fmt: skip
            ends = [min(a[-1], b[-1]) for a, b in zip(curves["random"], curves["solver_random"], strict=False)]
            cells = [_steps([first_step(curve, end, PLAN.measured_every)
                             for curve, end in zip(curves[name], ends, strict=False)]) for name in names]  # fmt: skip
            rows.append([str(n), family_name(family), *cells])
    return table(["n", "family", *(f"steps: {label(name)}" for name in names)], rows, text_columns=2)


def _steps(values: Sequence[float]) -> str:
    """Of each seed; above the last step where scratch's end was not reached."""
    return ", ".join(f"{value:.0f}" if np.isfinite(value) else f"> {PLAN.finetuning_steps}" for value in values)


def ends(found: Found) -> str:
    """Residual and objective gap after all steps, the geometric mean over families, over those from scratch."""
    headings = ["after 200 steps, over the convolutions' from scratch",
                *(f"n = {n}: {what}" for n in PLAN.sizes[:2] for what in ("KKT", "gap"))]  # fmt: skip
    rows: list[list[str]] = []
    for name in FINETUNED:
        cells: list[str] = []
        for n in PLAN.sizes[:2]:
            runs, base = (found.runs("finetuning", f"{each}-n{n}") for each in (name, "random"))
            for value in (lambda run, family: run[family]["residual"][-1], lambda run, family: run[family]["gap"]):
                cells.append("1" if name == "random" else factor(interval(log_ratios(runs, base, value))))
        rows.append([label(name), *cells])
    return table(headings, rows)


def equal_compute(found: Found) -> str:
    """Networks whose heads were pretrained too, on the mixture, for the same time: what they predict, untouched."""
    headings = ["the same time on the mixture", *(f"n = {n}: KKT / gap / violation" for n in PLAN.sizes),
                "KKT over that of the convolutions that see states, n = 20", "seeds"]  # fmt: skip
    base = found.runs("equal_compute", "kkt_s")
    rows: list[list[str]] = []
    for name in EQUAL_COMPUTE:
        runs = found.runs("equal_compute", name)
        cells = [
            " / ".join(
                f"{geometric([run[str(n)][family][measure] for run in runs for family in FAMILIES]):{form}}"
                for measure, form in (("residual", ".1e"), ("gap", ".2g"), ("primal_max", ".2g"))
            )
            for n in PLAN.sizes
        ]
        ratio = interval(log_ratios(runs, base, lambda run, family: run["20"][family]["residual"]))
        rows.append([label(name), *cells, "1" if name == "kkt_s" else factor(ratio), str(len(runs))])
    return table(headings, rows)


def joint(found: Found) -> str:
    """KKT and the term together, the term at every k-th step: what the trunk knows, and the residual."""
    ratio_of = f"KKT residual over that of {label(JOINT_ARMS[0])}"
    headings = ["as many steps of KKT", "R2 / AUC, n = 20", "R2 / AUC, n = 50", ratio_of, "seeds"]
    base = found.runs("equal_compute", JOINT_ARMS[0])
    rows: list[list[str]] = []
    for name in JOINT_ARMS:
        runs = found.runs("equal_compute", name)
        ratio = interval(log_ratios(runs, base, lambda run, family: run["20"][family]["residual"]))
        cells = [_scores(found, name, n, 10, ("r2", "auc")) for n in (20, 50)]
        rows.append([label(name), *cells, "1" if name == JOINT_ARMS[0] else factor(ratio), str(len(runs))])
    return table(headings, rows)


# A use


def simplex(found: Found) -> str:
    """HiGHS' simplex iterations, cold and from the predicted basis."""
    headings = [f"simplex iterations, n = {max(PLAN.sizes)}", *map(family_name, FAMILIES)]
    runs = {name: found.runs("solving", name) for name in WARM_STARTS}
    some = runs["states"][0]

    def cold(family: str, how: str) -> float:
        return float(np.mean([one[how] for one in some[family]["simplex"]]))

    ways = ("presolved", "cold, dual", "cold, primal")
    rows = [
        [f"cold: {how.removeprefix('cold, ')}", *(f"{cold(family, how):.0f}" for family in FAMILIES)] for how in ways
    ]
    for how in ("dual", "primal"):
        for name in WARM_STARTS:
            cells: list[str] = []
            for family in FAMILIES:
                warm = np.mean([one[f"warm, {how}"] for run in runs[name] for one in run[family]["simplex"]])
                cells.append(f"{warm:.0f} ({warm / min(cold(family, each) for each in ways) - 1:+.0%})")
            rows.append([f"warm, {how}: {label(name)}", *cells])
    return table(headings, rows)


def first_order(found: Found) -> str:
    """PDHG steps to a tolerance, from zero, from the state that was shown, and from the prediction."""
    runs = {name: found.runs("solving", name) for name in WARM_STARTS}

    def middle(name: str, family: str, start: str) -> str:
        steps = [step for run in runs[name] for step in run[family]["pdhg"][start]]
        median = np.median([float("inf") if step is None else step for step in steps])
        return f"{median:.0f}" if np.isfinite(median) else f"> {PLAN.solver_steps}"

    rows = [
        [said, *(middle("states", family, start) for family in FAMILIES)]
        for start, said in (("zero", "from zero"), ("shown", "further, from the state of step 100"))
    ]
    rows += [
        [f"further, from the prediction: {label(name)}", *(middle(name, family, "predicted") for family in FAMILIES)]
        for name in WARM_STARTS
    ]
    return table([f"PDHG steps, n = {max(PLAN.sizes)}", *map(family_name, FAMILIES)], rows)


TABLES: dict[str, Callable[[Found], str]] = {
    function.__name__: function
    for function in (
        front, headline, with_states, every_arm, by_family, differences, labels, labels_saved, rounds, fresh,
        files, collapse, checkpoints, finetuning, ends, equal_compute, joint, simplex, first_order,
    )
}  # fmt: skip
