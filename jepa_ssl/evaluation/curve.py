"""The label curve: every arm with every number of labels and every seed."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeAlias

from torch import Tensor

from jepa_ssl.checks import non_negative, whole_number
from jepa_ssl.evaluation.arms import CONSTANT, NOISE_FLOOR, RANDOM, RAW, SCRATCH, Arm, Outcome, Split, Task, Trained
from jepa_ssl.evaluation.intervals import Curve
from jepa_ssl.evaluation.pieces import piece
from jepa_ssl.evaluation.report import Report

Job: TypeAlias = tuple[str, int, tuple[int, int]]  # an arm, a seed, and a count with its place
OTHER_SEEDS = 1_000_003  # added to a seed for the second run of an arm


def label_curve(
    task: Task,
    arms: Mapping[str, Arm],
    controls: Mapping[str, Arm],
    *,
    label_counts: Sequence[int],
    seeds: int | Sequence[int] = 8,
    refuse: Collection[str] = (),
    noise_floor_of: str = RANDOM,
    intervals_over: Literal["labels and tests", "seeds"] = "labels and tests",
    margin: float = 0.02,
    folder: str | Path | None = None,
) -> Report:
    """Measure every arm with every number of labelled instances and every seed.

    All arms see the same test instances and the same labelled sets, which are nested within a seed. The seed also sets
    an arm's random numbers, so arms are paired by seed.

    Args:
        task: labels and metric.
        arms: what you want to judge, by name.
        controls: what the arms have to beat, see `standard_controls`. Required, unless they are in `refuse`: "random
            initialisation", "raw features" and "from scratch". You may add others.
        label_counts: numbers of labelled instances.
        seeds: their number, or the seeds themselves.
        refuse: controls to leave out: the three names above, and "noise floor".
        noise_floor_of: the arm that runs a second time with other seeds, on the same labels. The difference between the
            two runs is the noise floor.
        intervals_over: With "labels and tests", intervals hold for new labelled sets and new test instances of the same
            kind. With "seeds" they are the usual paired t intervals, which hold only for this pool and this test.
        margin: smaller differences do not count, in units of the metric.
        folder: stores each piece (arm, count, seed), so that a killed run resumes. Your own arms must then say what
            they depend on (`settings`). A metric is identified by its name only.

    Raises:
        ValueError: a control is missing, a name is used twice, or a count is larger than the pool. Or predictions are
            not finite or have the wrong shape. Or a folder is given and an arm has no `settings`.
    """
    counts, numbers = _counts(label_counts, task), _seeds(seeds)
    everything = _everything(task, arms, controls, refuse, noise_floor_of)
    asked = {} if folder is None else _settings(task, everything)
    grid: dict[str, list[list[Any]]] = {name: [[] for _ in counts] for name in everything}
    # All counts of a seed in a row, because the features of a seed serve them all.
    for name, seed, (row, count) in _with_progress([*product(everything, numbers, enumerate(counts))]):
        compute = partial(_measured, task, name, everything[name], count, seed)
        if folder is None:
            grid[name][row].append(compute())
        else:
            key = [*asked[name], count, seed]
            grid[name][row].append(piece(Path(folder), f"{name}-{count}-labels-seed-{seed}", key, compute))
    return Report(
        metric=task.metric_name,
        counts=counts,
        seeds=numbers,
        curves={name: _curve(rows) for name, rows in grid.items()},
        arms=tuple(arms),
        controls=tuple(name for name in controls if name not in refuse),
        noise_floor_of=None if NOISE_FLOOR in refuse else noise_floor_of,
        pool=len(task.pool) if intervals_over == "labels and tests" else None,
        tests=len(task.test_instances),
        margin=non_negative("margin", margin),
    )


def _constant(task: Task) -> Trained:
    """A constant prediction, the mean of the given labels: the score without any features."""

    def train(split: Split) -> Tensor:
        mean = task.targets[task.items(split.labelled)].mean(0)
        return mean.expand(len(task.test_items), -1).reshape(-1, *task.labels.shape[1:])

    return Trained(train, CONSTANT)


class _Again:
    """An arm with other seeds on the same labels."""

    def __init__(self, arm: Arm) -> None:
        self.arm = arm

    def __call__(self, task: Task, split: Split, /) -> Tensor | Outcome:
        return self.arm(task, Split(split.labelled, split.test, split.seed + OTHER_SEEDS))

    def settings(self) -> Any:
        asked = self.arm.settings()
        return None if asked is None else ["again", asked]


def _everything(
    task: Task, arms: Mapping[str, Arm], controls: Mapping[str, Arm], refuse: Collection[str], noise_floor_of: str
) -> dict[str, Arm]:
    if unknown := set(refuse) - {RANDOM, RAW, SCRATCH, NOISE_FLOOR}:
        raise ValueError(f"refuse names {sorted(unknown)}, but can name {[RANDOM, RAW, SCRATCH, NOISE_FLOOR]} only.")
    if missing := [name for name in (RANDOM, RAW, SCRATCH) if name not in controls and name not in refuse]:
        raise ValueError(
            f"controls lacks {missing}, without which no arm can be judged; make them with "
            f"standard_controls, or refuse them by name: refuse={missing}."
        )
    kept = {name: arm for name, arm in controls.items() if name not in refuse}
    if not arms or set(arms) & {*kept, CONSTANT, NOISE_FLOOR}:
        raise ValueError(f"arms is {sorted(arms)}, but must hold an arm, and no name of a control; rename it.")
    everything = {**arms, **kept, CONSTANT: _constant(task)}
    if NOISE_FLOOR not in refuse:
        if noise_floor_of not in everything:
            raise ValueError(
                f"noise_floor_of is {noise_floor_of!r}, but must be one of {sorted(everything)}; name an arm that "
                f"depends on the seed, or refuse it: refuse={[NOISE_FLOOR]}."
            )
        everything[NOISE_FLOOR] = _Again(everything[noise_floor_of])
    return everything


def _settings(task: Task, arms: Mapping[str, Arm]) -> dict[str, Any]:
    """What the results of each arm depend on."""
    about, asked = task.settings(), {name: arm.settings() for name, arm in arms.items()}
    for name, arm in arms.items():
        if asked[name] is None:
            raise ValueError(
                f"arm {name!r} does not say what it depends on, but must if folder is given, so that pieces of other "
                f"settings are not mixed; give {type(arm).__name__} its settings."
            )
    return {name: [about, settings, name] for name, settings in asked.items()}


def _measured(task: Task, name: str, arm: Arm, count: int, seed: int) -> dict[str, Any]:
    found = arm(task, task.split(count, seed))
    found = found if isinstance(found, Outcome) else Outcome(found)
    predictions, items = found.predictions.detach().cpu(), len(task.test_items)
    if len(predictions) != items or not bool(predictions.isfinite().all()):
        raise ValueError(
            f"arm {name!r} with {count} labels and seed {seed} returned {list(predictions.shape)} with "
            f"{int((~predictions.isfinite()).sum())} numbers that are not finite, but must predict the {items} "
            f"items of the test; if its training diverged, lower its learning rate."
        )
    score, without = task.score(predictions)
    return {"score": _or_none(score), "without": [*map(_or_none, without)], "hit_cap": found.hit_cap}


def _or_none(value: float) -> float | None:
    return value if value == value else None  # JSON has no NaN


def _curve(rows: list[list[Any]]) -> Curve:
    scores, blocks = ([[one[key] for one in row] for row in rows] for key in ("score", "without"))
    return Curve.of(scores, blocks, sum(one["hit_cap"] for row in rows for one in row))


def _counts(label_counts: Sequence[int], task: Task) -> list[int]:
    counts = sorted({whole_number("label_counts", count, 1) for count in label_counts})
    if not counts or counts[-1] > len(task.pool):
        raise ValueError(
            f"label_counts is {list(label_counts)}, but must hold numbers up to {len(task.pool)}, the instances that "
            f"are not in the test; ask for fewer, or make the test smaller."
        )
    return counts


def _seeds(seeds: int | Sequence[int]) -> list[int]:
    if isinstance(seeds, int):
        return list(range(whole_number("seeds", seeds, 1, "8 is usual.")))
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds is {list(seeds)}, but must hold different numbers, at least one.")
    return [whole_number("seeds", seed, 0) for seed in seeds]


def _with_progress(jobs: list[Job]) -> Iterable[Job]:
    try:
        from tqdm import tqdm
    except ImportError:
        return jobs
    return tqdm(jobs, desc="label curve", unit="piece", disable=None)  # silent if the output is not a terminal
