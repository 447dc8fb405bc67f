"""What a label curve says: tables, differences with intervals, labels saved, a figure, and a paragraph."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from jepa_ssl.evaluation import sentences
from jepa_ssl.evaluation.arms import CONSTANT, NOISE_FLOOR
from jepa_ssl.evaluation.intervals import Curve, Interval, LabelsNeeded, interval, label_overlap, labels_needed
from jepa_ssl.evaluation.pieces import write_text

WIDEST = 4.0
MIN_SEEDS = 5  # with fewer, nothing is called equal, and no absence of signal that the data do not show

Comparison: TypeAlias = Literal["better", "worse", "same", "unclear"]
Verdict: TypeAlias = Literal["helps", "equals a control", "does not help", "too few seeds to tell", "no signal"]


@dataclass(frozen=True)
class Report:
    """The result of `label_curve`. `print(report)` shows all of it.

    Scores are in `curves`, by the names in `arms` and `controls`, "constant prediction", and "noise floor" for the
    second run of the arm `noise_floor_of`. `pool` is the number of instances that labels are drawn from, or None if
    intervals are only over seeds.
    """

    metric: str
    counts: list[int]
    seeds: list[int]
    curves: dict[str, Curve]
    arms: tuple[str, ...]
    controls: tuple[str, ...]
    noise_floor_of: str | None
    pool: int | None
    tests: int
    margin: float

    def score(self, name: str, count: int | None = None) -> float:
        """Mean over the seeds, with `count` labels or over all counts."""
        return self._rows(self.curves[name], count)[0].nanmean().item()

    def difference(self, name: str, minus: str, count: int | None = None, level: float = 0.95) -> Interval:
        """Paired difference of two arms with its interval, with `count` labels or as the mean over all counts.

        See `intervals.interval` for the method.
        """
        values, without = self._rows(self.curves[name] - self.curves[minus], count)
        some = self.counts if count is None else [count]
        return interval(values, without, label_overlap(some, self._pool), level)

    def noise_floor(self, count: int | None = None) -> float:
        """Mean over seeds of how far two runs of one arm on the same labels are apart; 0 if it was refused."""
        if self.noise_floor_of is None:
            return 0.0
        values, _ = self._rows(self.curves[NOISE_FLOOR] - self.curves[self.noise_floor_of], count)
        floor = values.abs().nanmean().item()
        return floor if math.isfinite(floor) else 0.0

    def least_effect(self, count: int | None = None) -> float:
        """The smallest difference that counts: the larger of noise floor and margin."""
        return max(self.margin, self.noise_floor(count))

    def compare(self, name: str, control: str, count: int | None = None) -> Comparison:
        """Is an arm better than a control?

        - "same": the difference is at most `least_effect`. Half the width of its 95% interval is at most `WIDEST` times
          `least_effect`, and there are at least `MIN_SEEDS` seeds.
        - "better" and "worse": the difference is larger, and the interval excludes 0.
        - "unclear": anything else.
        """
        told, least = self.difference(name, control, count), self.least_effect(count)
        if abs(told.mean) <= least:
            is_told = told.high - told.mean <= WIDEST * least and told.seeds >= MIN_SEEDS
            return "same" if is_told else "unclear"
        if told.low <= 0.0 <= told.high or not math.isfinite(told.high):
            return "unclear"
        return "better" if told.mean > 0.0 else "worse"

    def has_signal(self) -> bool | None:
        """Does any arm predict better than a constant, with any number of labels? None: too few seeds to tell.

        The level is corrected for the number of arms and counts (Bonferroni).
        """
        names = [*self.arms, *self.controls]
        level, seen = 1.0 - 0.05 / (len(names) * len(self.counts)), False
        for name in names:
            for count in self.counts:
                told = self.difference(name, CONSTANT, count, level)
                if told.low > 0.0 and told.mean > self.margin:
                    return True
                plain = self.difference(name, CONSTANT, count)
                seen |= told.mean > self.margin and not plain.low <= 0.0  # NaN, of a single seed, too
        return None if seen and len(self.seeds) < MIN_SEEDS else False

    def verdict(self, name: str) -> Verdict:
        """The verdict on an arm, over the mean of all label counts: it helps if it is better than every control."""
        if self.has_signal() is False:
            return "no signal"
        found = {self.compare(name, control) for control in self.controls}
        if "worse" in found:
            return "does not help"
        if "same" in found:
            return "equals a control"
        return "helps" if found == {"better"} else "too few seeds to tell"

    def labels_needed(self, name: str, control: str, count: int | None = None) -> LabelsNeeded:
        """How many labels an arm needs to match a control with `count` labels, by default the largest count."""
        row = self.counts.index(self.counts[-1] if count is None else count)
        return labels_needed(self.counts, self.curves[name], self.curves[control], row, self._pool)

    def table(self) -> str:
        """Scores as a Markdown table: mean and deviation over the seeds."""
        rows = [
            [name, *(f"{self.score(name, count):.3f} ± {self._deviation(name, count):.3f}" for count in self.counts)]
            for name in (*self.arms, *self.controls, CONSTANT)
        ]
        return _table([f"{self.metric} ± deviation over seeds, labels:", *map(str, self.counts)], rows)

    def differences(self) -> str:
        """Paired differences of every arm and every control with their 95% intervals, and the noise floor."""
        places = [*self.counts, None]
        rows = [
            [f"{name} - {control}", *(str(self.difference(name, control, count)) for count in places)]
            for name in self.arms
            for control in (*self.controls, CONSTANT)
        ]
        if self.noise_floor_of is not None:
            rows.append(["noise floor", *(f"{self.noise_floor(count):.3f}" for count in places)])
        return _table(["difference, labels:", *map(str, self.counts), "mean"], rows)

    def summary(self) -> str:
        """One paragraph in plain English."""
        return sentences.summary(self)

    def __str__(self) -> str:
        return "\n\n".join((self.table(), self.differences(), self.summary()))

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw the curves with 95% t intervals of the means over seeds; returns the matplotlib figure.

        Raises:
            ImportError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("plot needs matplotlib; install it with: pip install matplotlib") from error
        figure: Any = Figure(figsize=(6.4, 4.8), layout="constrained")
        axes = figure.subplots()
        for name in (*self.arms, *self.controls, CONSTANT):
            means = [interval(row, torch.empty(len(row), 0)) for row in self.curves[name].values]
            (line,) = axes.plot(
                self.counts, [m.mean for m in means], "o-" if name in self.arms else "s--", label=name, markersize=4
            )
            axes.fill_between(
                self.counts, [m.low for m in means], [m.high for m in means], alpha=0.15, color=line.get_color()
            )
        axes.set(xscale="log", xlabel="labelled instances", ylabel=self.metric)
        axes.set_xticks(self.counts, [str(count) for count in self.counts])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        figure.legend(loc="outside lower center", ncols=2, fontsize="small")  # covers no curve
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure

    def to_json(self, path: str | Path) -> None:
        """Write everything to a file that `from_json` reads."""
        held = {**vars(self), "curves": {name: curve.lists() for name, curve in self.curves.items()}}
        write_text(Path(path), json.dumps(held, allow_nan=False))

    @staticmethod
    def from_json(path: str | Path) -> "Report":
        held: dict[str, Any] = json.loads(Path(path).read_text())
        held["curves"] = {name: Curve.of(*lists) for name, lists in held["curves"].items()}
        held["arms"], held["controls"] = tuple(held["arms"]), tuple(held["controls"])
        return Report(**held)

    @property
    def _pool(self) -> float:
        return math.inf if self.pool is None else self.pool

    def _rows(self, curve: Curve, count: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores `[J]` and `[J, G]` with one count, or their means over all."""
        if count is None:
            return curve.values.mean(0), curve.without.mean(0)
        row = self.counts.index(count)
        return curve.values[row], curve.without[row]

    def _deviation(self, name: str, count: int) -> float:
        values = self.curves[name].values[self.counts.index(count)]
        values = values[values.isfinite()]
        return values.std().item() if len(values) > 1 else math.nan


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
