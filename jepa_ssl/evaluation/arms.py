"""What is compared: a task with labels, and arms that predict the labels of its test instances."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import FunctionType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from jepa_ssl.evaluation.metrics import METRICS, Metric
from jepa_ssl.evaluation.pieces import digest
from jepa_ssl.evaluation.probe import PENALTIES, ProbeTask, probe
from jepa_ssl.evaluation.typed import as_list, unique
from jepa_ssl.protocols import Embeddings, Encoded

RANDOM, RAW, SCRATCH, NOISE_FLOOR = "random initialisation", "raw features", "from scratch", "noise floor"
CONSTANT = "constant prediction"
BLOCKS = 20  # of test instances, each left out once for the jackknife


@dataclass(frozen=True)
class Split:
    """Numbers of the labelled instances and of the test instances, int64.

    `training` and `validation` divide `labelled`, four fifths to one fifth. With one label both are that instance.
    """

    labelled: Tensor
    test: Tensor
    seed: int

    @property
    def training(self) -> Tensor:
        return self.labelled[: max(1, len(self.labelled) - max(1, len(self.labelled) // 5))]

    @property
    def validation(self) -> Tensor:
        return self.labelled[-max(1, len(self.labelled) // 5) :]


@dataclass(frozen=True)
class Outcome:
    """Predictions for the items of the test instances, and whether training ended at its cap instead of by itself."""

    predictions: Tensor
    hit_cap: bool = False


class Arm(Protocol):
    """Predicts the labels of the items `task.items(split.test)`, in that order, from those of `split.labelled`."""

    def __call__(self, task: "Task", split: Split, /) -> Tensor | Outcome: ...

    def settings(self) -> Any:
        """What the result depends on, as JSON values, for the key of a stored piece; None if unknown."""
        ...


@dataclass(frozen=True)
class Task:
    """Labels to predict, per item or per instance, and how to measure it.

    Args:
        labels: `[items]` or `[items, outputs]`; 0 or 1 `[items]` for `probe="logistic"`.
        groups: the instance of each item, int64 `[items]`: 0, 1, ..., each at least once, in this order. By default
            each item is an instance.
        metric: "r2" (below -1 it counts as -1), "auc", "accuracy", "top1", "top5", or a function, see
            `jepa_ssl.evaluation.Metric`.
        probe: "ridge" or "logistic".
        test: the number of test instances (int) or their share (float), drawn once for all arms and seeds; or the
            numbers of these instances, int64.
        penalties: the probe chooses from these.

    Raises:
        ValueError: labels are not finite, groups are not as above, or fewer than two instances are left for the test
            or for labels.
    """

    labels: Tensor
    groups: Tensor | None = None
    metric: str | Metric = "r2"
    probe: ProbeTask = "ridge"
    test: int | float | Tensor = 0.4
    penalties: Sequence[float] = PENALTIES

    def __post_init__(self) -> None:
        if not bool(self.targets.isfinite().all()):
            raise ValueError("labels has numbers that are not finite, but all must be; drop those instances.")
        if isinstance(self.metric, str) and self.metric not in METRICS:
            raise ValueError(f"metric is {self.metric!r}, but must be one of {sorted(METRICS)} or a function.")
        steps = self.owner.diff(prepend=torch.tensor([-1]))
        if len(self.owner) != len(self.labels) or bool(((steps != 0) & (steps != 1)).any()) or bool(steps[:1] != 1):
            raise ValueError(
                f"groups is {list(self.owner.shape)}, but must be whole numbers [{len(self.labels)}] that count the "
                f"instances 0, 1, 2, ... in this order; sort the items, and leave no instance without items."
            )
        if min(len(self.test_instances), len(self.pool)) < 2:
            raise ValueError(
                f"test leaves {len(self.pool)} instances for labels and {len(self.test_instances)} for the test, but "
                f"each needs two; change test, or label more."
            )

    @cached_property
    def targets(self) -> Tensor:
        """Labels `[items, outputs]` in float64, on the CPU."""
        return self.labels.detach().cpu().double().reshape(len(self.labels), -1)

    @cached_property
    def owner(self) -> Tensor:
        """The instance of each item, int64 `[items]`."""
        return torch.arange(len(self.labels)) if self.groups is None else self.groups.cpu().long()

    @cached_property
    def instances(self) -> int:
        return int(self.owner[-1]) + 1

    @cached_property
    def test_instances(self) -> Tensor:
        """Numbers of the test instances, in rising order."""
        if isinstance(self.test, Tensor):
            found = unique(self.test.cpu().long())[0]
            if bool((found < 0).any()) or bool((found >= self.instances).any()):
                raise ValueError(f"test must hold numbers of instances, 0 to {self.instances - 1}; correct it.")
            return found
        shuffled = torch.randperm(self.instances, generator=torch.Generator().manual_seed(0))
        count = self.test if isinstance(self.test, int) else round(self.test * self.instances)
        return shuffled[:count].sort().values

    @cached_property
    def pool(self) -> Tensor:
        """Numbers of the instances that labels are drawn from."""
        return (torch.bincount(self.test_instances, minlength=self.instances) == 0).nonzero().flatten()

    @property
    def metric_name(self) -> str:
        """What tables and figures call the metric: a function's own name, without one that of its class."""
        if isinstance(self.metric, str):
            return self.metric
        return self.metric.__name__ if isinstance(self.metric, FunctionType) else type(self.metric).__name__

    def items(self, instances: Tensor) -> Tensor:
        """Positions of the items of these instances, one instance after the other."""
        if self.groups is None:
            return instances
        first = torch.searchsorted(self.owner, torch.arange(self.instances + 1))
        ends = zip(as_list(first[instances]), as_list(first[instances + 1]), strict=True)
        return torch.cat([torch.arange(*end) for end in ends])

    def split(self, count: int, seed: int) -> Split:
        """The first `count` instances of the seed's order of the pool are labelled."""
        order = torch.randperm(len(self.pool), generator=torch.Generator().manual_seed(seed))
        return Split(self.pool[order[:count]], self.test_instances, seed)

    @cached_property
    def test_items(self) -> Tensor:
        return self.items(self.test_instances)

    def score(self, predictions: Tensor) -> tuple[float, list[float]]:
        """The metric on the test instances, and with each of their blocks left out."""
        metric = METRICS[self.metric] if isinstance(self.metric, str) else self.metric
        items = self.test_items
        labels, groups = self.labels.detach().cpu()[items], self.owner[items]
        block = torch.searchsorted(self.test_instances, groups) % min(BLOCKS, len(self.test_instances))
        kept = [block >= 0, *(block != b for b in range(int(block.max()) + 1))]
        first, *without = (float(metric(predictions[some], labels[some], groups[some])) for some in kept)
        return first, without

    def settings(self) -> Any:
        """What results depend on, as JSON values."""
        parts = (self.labels, self.owner, self.test_instances)
        return [self.metric_name, self.probe, list(self.penalties), *map(digest, parts)]


class Features:
    """An arm that predicts from fixed features by a probe: features of a frozen encoder, or raw features.

    Args:
        features: `[items, dim]`, in the order of the task's items; or a function from the seed to these, called once
            per seed.
        settings: what that function depends on, as JSON values; needed for stored runs.
    """

    def __init__(self, features: Tensor | Callable[[int], Tensor], settings: Any = None) -> None:
        self.features = features
        self._settings = settings
        self._latest: tuple[int, Tensor] | None = None

    def __call__(self, task: Task, split: Split, /) -> Tensor:
        z = self._of_seed(split.seed)
        if len(z) != len(task.labels):
            raise ValueError(
                f"features is {list(z.shape)}, but must be [{len(task.labels)}, dim] as labels has items; encode the "
                f"labelled instances only, in the order of their labels."
            )
        items = task.items(split.labelled)
        labels, groups = task.labels.detach().cpu()[items], task.owner[items]
        fitted = probe(z[items], labels, groups, task.probe, penalties=task.penalties)
        return fitted(z[task.test_items])

    def settings(self) -> Any:
        return digest(self.features) if isinstance(self.features, Tensor) else self._settings

    def _of_seed(self, seed: int) -> Tensor:
        if isinstance(self.features, Tensor):
            return self.features.detach().cpu()
        if self._latest is None or self._latest[0] != seed:
            self._latest = seed, self.features(seed).detach().cpu()
        return self._latest[1]


@dataclass(frozen=True)
class Trained:
    """An arm that trains: from scratch, or fine-tuning.

    Args:
        train: maps a `Split` to predictions for the items of its test instances, or to an `Outcome`. Train on the
            labels of `split.training`; use `split.validation` to decide when to stop.
        asked: what it depends on (learning rate, size, ...), as JSON values; needed for stored runs.
    """

    train: Callable[[Split], Tensor | Outcome]
    asked: Any = None

    def __call__(self, task: Task, split: Split, /) -> Tensor | Outcome:
        return self.train(split)

    def settings(self) -> Any:
        return self.asked


@torch.no_grad()
def embed(encoder: Callable[[Any], Any], batches: Iterable[Any], stream: str | None = None) -> Tensor:
    """Features `[items, dim]` of a frozen encoder, which runs in eval mode.

    If the encoder returns `Encoded` with features, these are taken, otherwise its embeddings or its tensor. A module's
    train or eval mode is restored afterwards.

    Args:
        encoder: a module or a function.
        batches: as the encoder takes them. Give only the labelled instances, in the order of the labels.
        stream: which stream; may be left out if there is only one.

    >>> embed(nn.Linear(3, 8), [torch.zeros(4, 3), torch.zeros(2, 3)]).shape
    torch.Size([6, 8])
    """
    modes = [(m, m.training) for m in encoder.modules()] if isinstance(encoder, nn.Module) else []
    for module, _ in modes:
        module.training = False
    try:
        return torch.cat([features_of(encoder(batch), stream).float().cpu() for batch in batches])
    finally:
        for module, mode in modes:
            module.training = mode


def features_of(output: Tensor | Embeddings | Encoded, stream: str | None) -> Tensor:
    """One stream of what an encoder returned: features if there are any, else embeddings."""
    if isinstance(output, Tensor):
        return output
    encoded = Encoded.of(output)
    streams = encoded.features or encoded.embeddings
    if stream is None and len(streams) == 1:
        return next(iter(streams.values()))
    if stream is None or stream not in streams:
        raise ValueError(f"stream is {stream!r}, but must be one of {sorted(streams)}; name the one with the labels.")
    return streams[stream]
