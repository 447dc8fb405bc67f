"""The criterion of a collapse, and the text of its warning."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from jepa_ssl.protocols import Setup

# A stream has collapsed if it falls below one of these limits. All are needed. A cloud around one point can have a
# healthy rank. A wide cloud can lie on a line. Normalised embeddings do not show the scale of the features.
RANK = 0.2  # times the encoder's first rank, both minus 1
SPREAD = 0.05  # times the encoder's first spread
APART = 1e-3  # 1 - mean cosine of embeddings; absolute, to detect an encoder that starts out collapsed
OPENING = 1.0  # how much of a fall of the rank, as a logarithm, a wider cloud excuses at most
# A fall has to be deep or to last: each measurement counts by its logarithm, and the counts add up.
STEEPEST = 3.0  # the most that one measurement adds or subtracts
ENOUGH = 6.5
# Healthy runs may also contract their embeddings at first, to a mean cosine of up to 0.9999, and spread them after
# about fifty steps. Until this step the evidence is at most half of what a warning needs.
SETTLED = 100
LEAST_SHARE = 1e-3  # the least ratio of JEPA's gradient to the task's
TINY = 1e-30


@dataclass
class Watch:
    """The reference of one stream, and the evidence of its collapse."""

    step: int  # of the reference
    reference: dict[str, float]
    evidence: float = 0.0
    since: int = 0  # the step at which the evidence began

    @property
    def has_collapsed(self) -> bool:
        return self.evidence == ENOUGH

    @property
    def is_well(self) -> bool:
        return self.evidence == 0.0

    def weigh(self, step: int, now: Mapping[str, float]) -> None:
        """Add the measurement at `step` to the evidence."""
        if self.is_well:
            self.since = step
        count = max(self._falls(now).values(), default=0.0)
        self.evidence += min(max(count, -STEEPEST), STEEPEST)
        self.evidence = min(max(self.evidence, 0.0), ENOUGH if step > SETTLED else ENOUGH / 2)

    def _falls(self, now: Mapping[str, float]) -> dict[str, float]:
        """How far each measure is below its limit, as a logarithm; negative above the limit."""
        falls = {"mean_cosine": _log_ratio(APART, 1.0 - now["mean_cosine"])}
        for prefix in ("", "feature_"):
            spread, rank = prefix + "spread", prefix + "rank"
            if spread in self.reference and spread in now:
                falls[spread] = _log_ratio(SPREAD * self.reference[spread], now[spread])
            if self.reference.get(rank, 0.0) > 1.5 and rank in now:  # a line has nothing to lose
                fall = _log_ratio(RANK * (self.reference[rank] - 1.0), now[rank] - 1.0)
                falls[rank] = fall - self._opening(prefix + "mean_cosine", now)
        return {name: fall for name, fall in falls.items() if not math.isnan(fall)}

    def _opening(self, cosine: str, now: Mapping[str, float]) -> float:
        """How much wider the angles between items are than at first, as a logarithm from 0 to `OPENING`.

        A cloud that opens along a few directions may lose rank while it learns. The limit still detects one that ends
        on a line.
        """
        wider = -_log_ratio(1.0 - self.reference[cosine], 1.0 - now[cosine])
        return min(max(0.0, wider), OPENING)  # in this order 0 of NaN

    def message(self, stream: str, step: int, now: Mapping[str, float], setup: Setup) -> str:
        """Say what fell, since when, and what to try that the objective does not do yet."""
        fallen = sorted(name for name, fall in self._falls(now).items() if fall > 0.0)
        digits = {name: ".5f" if name == "mean_cosine" else ".3g" for name in fallen}  # 0.99990 is not 1
        changes = ", ".join(
            f"{name.replace('_', ' ')} {self.reference[name]:{digits[name]}} -> {now[name]:{digits[name]}}"
            for name in fallen
        )
        if self.since == self.step and fallen == ["mean_cosine"]:
            return (
                f"Stream {stream!r} is collapsed from the start, seen at step {step}: {changes}, so the encoder maps "
                f"all items to nearly the same embedding; standardise the input features, or initialise the trunk "
                f"without biases."
            )
        remedy = _remedy(setup, all(name.startswith("feature_spread") for name in fallen))
        return (
            f"Stream {stream!r} has collapsed by step {step}, since step {self.since}: {changes}, while the loss went "
            f"{self.reference['loss']:.3g} -> {now['loss']:.3g}; {remedy}"
        )


def _remedy(setup: Setup, shrinks: bool) -> str:
    weight = setup.regularizer_weight
    raised = f"raise regularizer_weight, which is {weight:g}"
    if shrinks:
        regularised = raised if weight and setup.regularizes_features else "add VICReg() with regularize='features'"
        return f"its features shrink towards zero: lower weight decay or learning rate, or {regularised}."
    first = raised if weight else "add a regularizer, VICReg() or SIGReg()"
    if setup.has_target_network:
        return f"{first}, or lower the learning rate."
    return (
        f"{first}, or predict what the encoder cannot make trivial, such as the targets of SolverState with a "
        f"TargetNetwork."
    )


def _log_ratio(limit: float, value: float) -> float:
    return math.nan if math.isnan(value) else math.log(max(limit, TINY) / max(value, TINY))


def gradient_side(task: float, jepa: float) -> str:
    """Whether JEPA's gradient is "under" a thousandth of the task's, "above" it, or "between"."""
    return "under" if jepa < LEAST_SHARE * task else "above" if jepa > task else "between"


def gradient_message(side: str, since: int, task: float, jepa: float) -> str:
    measured = f"since step {since} the norm of its gradient on the shared parameters, now {jepa:.2g}, is"
    if side == "under":
        return (
            f"JEPA hardly trains the trunk: {measured} under a thousandth of the task's, {task:.2g}; raise its weight "
            f"(with GradientBalance this is the share itself)."
        )
    return (
        f"JEPA outweighs the task: {measured} above the task's, {task:.2g}; lower its weight (with GradientBalance "
        f"this is the share itself)."
    )
