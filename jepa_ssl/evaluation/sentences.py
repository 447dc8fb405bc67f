"""The paragraph of a report: what its numbers say, and what they do not say, in plain English."""

import math
from typing import TYPE_CHECKING

from jepa_ssl.evaluation.arms import CONSTANT

if TYPE_CHECKING:
    from jepa_ssl.evaluation.report import Report


def summary(report: "Report") -> str:
    parts = [_setting(report)]
    if len(report.seeds) == 1:
        parts.append("One seed gives no interval, so no difference can be told from noise: run at least 5 seeds.")
    if report.has_signal() is False:
        parts.append(_no_signal(report))
    else:
        parts += [sentence for name in report.arms for sentence in _arm(report, name)]
    return " ".join([*parts, *_warnings(report)])


def _setting(report: "Report") -> str:
    over = "new labelled sets and test instances" if report.pool is not None else "seeds on the same pool and test"
    labels = " to ".join(dict.fromkeys(str(count) for count in (report.counts[0], report.counts[-1])))
    text = (
        f"The metric is {report.metric} on {report.tests} test instances, with {labels} labels and {len(report.seeds)} "
        f"seeds; 95% intervals are over {over}."
    )
    if len(report.counts) > 1:
        text += " Differences are means over the numbers of labels, unless a number is named."
    if report.noise_floor_of is None:
        return f"{text} No noise floor was measured; differences below {report.margin:.3g} do not count."
    return (
        f"{text} Differences below {report.least_effect():.3g} do not count: two runs of '{report.noise_floor_of}' "
        f"differ by {report.noise_floor():.3g} on average, and the margin is {report.margin:.3g}."
    )


def _no_signal(report: "Report") -> str:
    names, count = (*report.arms, *report.controls), report.counts[-1]
    best = max(names, key=lambda name: _lead(report.score(name, count)))
    lead = report.difference(best, CONSTANT, count)
    return (
        f"No arm predicts these labels better than a constant does: the features hold no signal for them, or there are "
        f"too few labels to see it, so comparing arms means nothing. The best with {count} labels is '{best}', "
        f"{lead} above the constant."
    )


def _lead(score: float) -> float:
    return score if math.isfinite(score) else -math.inf


def _arm(report: "Report", name: str) -> list[str]:
    if not report.controls:
        return [f"All controls were refused, so '{name}' cannot be judged."]
    told = {kind: [c for c in report.controls if report.compare(name, c) == kind] for kind in _KINDS}
    said = {kind: _listed([f"'{c}' ({report.difference(name, c)})" for c in some]) for kind, some in told.items()}
    verdict = report.verdict(name)
    texts = {
        "helps": f"'{name}' helps: it is better than every control, {said['better']}.",
        "does not help": f"'{name}' does not help: it is worse than {said['worse']}.",
        "equals a control": f"'{name}' is no better than {said['same']}, as far as these runs can tell.",
    }
    unclear = f"There are too few seeds or labelled instances to tell '{name}' from {said['unclear']}."
    parts = [texts.get(verdict, unclear)]
    if verdict == "does not help" and told["same"]:
        parts.append(f"It is as good as {said['same']}, as far as these runs can tell.")
    if verdict != "helps" and told["better"]:
        parts.append(f"It is better than {said['better']}.")
    if verdict in texts and told["unclear"]:
        parts.append(f"Undecided against {said['unclear']}: more seeds, labels or test instances would decide.")
    return [*parts, *_by_count(report, name), *_saved(report, name, told["better"])]


_KINDS = ("better", "worse", "same", "unclear")


def _by_count(report: "Report", name: str) -> list[str]:
    """Where few labels and many labels say different things, say both."""
    ends = list(dict.fromkeys((report.counts[0], report.counts[-1])))
    texts: list[str] = []
    for control in report.controls:
        kinds = [report.compare(name, control, count) for count in ends]
        if len(set(kinds)) > 1 and "unclear" not in kinds:
            each = (
                f"{kind.replace('same', 'no different')} with {count} labels"
                for kind, count in zip(kinds, ends, strict=True)
            )
            texts.append(f"Against '{control}' it is {' and '.join(each)}.")
    return texts


def _saved(report: "Report", name: str, controls: list[str]) -> list[str]:
    if len(report.counts) < 2:
        return []
    return [f"It reaches '{control}' with {report.labels_needed(name, control)}." for control in controls]


def _warnings(report: "Report") -> list[str]:
    texts: list[str] = []
    runs = len(report.counts) * len(report.seeds)
    for name, curve in report.curves.items():
        if curve.capped:
            texts.append(
                f"'{name}' hit its cap of training steps in {curve.capped} of {runs} runs, so it was still improving: "
                f"raise its cap before you conclude that it is worse."
            )
        if undefined := int((~curve.values.isfinite()).sum()):
            texts.append(f"The metric of '{name}' is undefined in {undefined} of {runs} runs, which are left out.")
    return texts


def _listed(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
