"""The collapse monitor: warns if embeddings collapse or the JEPA gradient is out of proportion."""

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor, nn

from jepa_ssl.checks import warn_caller, whole_number
from jepa_ssl.monitor.evidence import Watch, gradient_message, gradient_side
from jepa_ssl.monitor.measurement import GENERAL, Measurement
from jepa_ssl.monitor.packing import pack, unpack
from jepa_ssl.monitor.pool import Pool, parts_of
from jepa_ssl.processes import rank
from jepa_ssl.protocols import JEPALoss, Setup

# The ratio of the gradients changes from batch to batch, so it has to be on one side this many times in a row.
IN_A_ROW = 3

GRADIENTS = "gradients"

BYTES_OF_AN_ITEM = 2**14  # enough for 3000 numbers of each of the latest items


class CollapseWarning(UserWarning):
    """The embeddings of a stream have collapsed, or the JEPA gradient is out of proportion to the task's."""


@dataclass(frozen=True)
class Episode:
    """A collapse from its first evidence to its end, with the text of its warning."""

    what: str  # the stream, or "gradients"
    since: int
    until: int | None  # None while it lasts
    message: str


class CollapseMonitor(nn.Module):
    """Warn once per episode if a stream collapses: which stream, since when, what fell, and what to try.

    Give it to the objective: `JEPAObjective(..., monitor=CollapseMonitor())`. The objective passes it each loss in
    training and each optimizer step. Every `every` steps the monitor measures the latest items of each stream:

    - effective rank, spread and mean cosine of the online encoder's embeddings of the context, and of its features if
      it returns them;
    - the cosine of prediction and target;
    - the distance of student and teacher, if the views keep the order of the items.

    The reference is the same encoder at the start.

    Each measurement counts by the logarithm of how far it has fallen, and the counts add up. In the first 100 steps the
    monitor reports nothing, because healthy runs may dip at first. After that it reports a severe collapse within 50
    steps, and a mild one if it persists. An episode ends when a recovery has outweighed it. Each episode is reported by
    a `CollapseWarning`, in the log, and in `episodes`.

    The reference is taken when the monitor has seen `items` items of a stream. If the first batch has as many, this is
    the encoder at initialisation. If not, the encoder has changed by then. For the exact reference call the objective
    on a few batches under `torch.no_grad()` before training.

    With several processes (`torch.distributed`, its default group) the first process watches its own items and reports
    for all, because all have the same weights. Only the first process has a state.

    Nothing waits for a GPU: measures are read half of `every` steps later. The state is saved and resumed with the
    objective's. It is one uint8 tensor `[16384 * items]`, because checkpoint libraries need the same shape at any step.
    If many streams of wide embeddings need more space, the latest items are left out and collected again.

    Args:
        every: measure every this many steps.
        items: measure this many items of each stream; ranks above `items - 1` cannot be detected.
        log: called with a row and the step whenever measures are read. A row has the floats
            `monitor/<measure>/<stream>` and `monitor/feature_<measure>/<stream>`, their step `monitor/step`, and the
            text `monitor/warning` if there is one. For wandb give `lambda row, step: wandb.log(row)`, because wandb
            drops rows whose step is behind its own.

    Raises:
        ValueError: `log` is `wandb.log` itself.

    >>> import torch
    >>> from jepa_ssl.protocols import Encoded
    >>> monitor = CollapseMonitor(log=lambda row, step: print(step, round(row["monitor/rank/node"])))
    >>> for step in range(20):
    ...     z = torch.eye(64)
    ...     monitor.observe(JEPALoss(torch.tensor(0.5), {}, {"node": z}, {"node": z}, Encoded({"node": z})))
    ...     monitor.step()
    5 63
    15 63
    """

    def __init__(
        self, every: int = 10, *, items: int = 64, log: Callable[[dict[str, Any], int], object] | None = None
    ) -> None:
        super().__init__()
        self.every = whole_number("every", every, least=1)
        self.items = whole_number("items", items, least=8)
        _check_log(log)
        self.log = log
        self.steps = 0
        self.episodes: list[Episode] = []
        self._setup = Setup()
        self._pools: dict[str, Pool] = {}
        self._general: dict[str, Tensor] = {}
        self._unread: list[Measurement] = []
        self._watches: dict[str, Watch] = {}
        self._shares: list[tuple[int, str]] = []  # the latest steps with gradients, and their side of the limits

    def inform(self, setup: Setup) -> None:
        """Take what the objective already does against collapse, so that no warning advises it."""
        self._setup = setup

    def observe(self, loss: JEPALoss) -> None:
        """Keep some items of a loss. Call this at each forward pass in training."""
        if rank() > 0:
            return
        self._general["loss"] = loss.terms.get("total", loss.total).detach()
        for stream in loss.context.embeddings:
            if stream not in self._pools:
                self._pools[stream] = Pool(self.items)
            self._pools[stream].add(parts_of(loss, stream))

    def observe_gradients(self, norms: Mapping[str, Tensor]) -> None:
        """Take `gradient_share({"task": ..., "jepa": ...}, trunk.parameters())`; every 100 steps is enough.

        The monitor warns if JEPA's norm is below a thousandth of the task's, or above the task's, three times in a row.

        Raises:
            ValueError: the two are not named "task" and "jepa".
        """
        if not norms.keys() >= {"task", "jepa"}:
            raise ValueError(
                f"norms has {sorted(norms)}, but must have 'task' and 'jepa'; use these names in gradient_share."
            )
        self._general |= {"task_gradient": norms["task"].detach(), "jepa_gradient": norms["jepa"].detach()}

    def step(self) -> None:
        """Count an optimizer step; measure every `every` steps, and read half as many steps later."""
        self.steps += 1
        known = len(self.episodes)
        if self.steps % self.every == self.every // 2 and self._unread:
            row = self._read()
            if self.log is not None:
                self.log(row, self.steps)
        pools = self._due()
        if pools:
            self._unread.append(Measurement.of(self.steps, pools, self._general))
            self._general = {"loss": self._general["loss"]}  # gradients are counted once
            for pool in pools.values():
                pool.is_fresh = False
        for episode in self.episodes[known:]:  # last, because a filter may turn warnings into errors
            warn_caller(episode.message, CollapseWarning)

    def _due(self) -> dict[str, Pool]:
        """Return the pools to measure at this step. A reference is taken as soon as possible."""
        is_due = self.steps % self.every == 0
        if not is_due and self._pools.keys() <= self._watches.keys():
            return {}
        referenced = self._watches.keys() | {stream for unread in self._unread for stream, _ in unread.names}
        return {
            stream: pool
            for stream, pool in self._pools.items()
            # Each item counts once: a stream gets no new items while the task is trained alone.
            if pool.is_fresh and pool.is_full and (is_due or stream not in referenced)
        }

    def _read(self) -> dict[str, Any]:
        """Judge the measurements and return the row for the log."""
        row: dict[str, Any] = {}
        known = len(self.episodes)
        unread, self._unread = self._unread, []
        for measured in unread:
            streams = measured.read(self.items)
            row |= {"monitor/step": measured.step} | {
                f"monitor/{name}" if stream == GENERAL else f"monitor/{name}/{stream}": value
                for stream, measures in streams.items()
                for name, value in measures.items()
            }
            general = streams.pop(GENERAL)
            for stream, measures in streams.items():
                self._judge(stream, measured.step, measures, general["loss"])
            if "jepa_gradient" in general:
                self._judge_gradients(measured.step, general["task_gradient"], general["jepa_gradient"])
        if known < len(self.episodes):
            row["monitor/warning"] = " ".join(episode.message for episode in self.episodes[known:])
        return row

    def _judge(self, stream: str, step: int, measures: dict[str, float], loss: float) -> None:
        now = measures | {"loss": loss}
        if stream not in self._watches and not all(map(math.isfinite, (measures["spread"], measures["rank"]))):
            return  # not a reference: in half precision the first steps may overflow
        watch = self._watches.setdefault(stream, Watch(step, now))
        watch.weigh(step, now)
        if watch.has_collapsed and not self._lasts(stream):
            message = watch.message(stream, step, now, self._setup)
            self.episodes.append(Episode(stream, watch.since, None, message))
        elif watch.is_well:
            self._end(stream, step)

    def _judge_gradients(self, step: int, task: float, jepa: float) -> None:
        if not (math.isfinite(task) and math.isfinite(jepa) and task + jepa > 0.0):
            return
        side = gradient_side(task, jepa)
        self._shares = [*self._shares, (step, side)][-IN_A_ROW:]
        if [seen for _, seen in self._shares] != [side] * IN_A_ROW:
            return
        if side == "between":
            self._end(GRADIENTS, step)
        elif not self._lasts(GRADIENTS):
            since = self._shares[0][0]
            self.episodes.append(Episode(GRADIENTS, since, None, gradient_message(side, since, task, jepa)))

    def _lasts(self, what: str) -> bool:
        return any(episode.what == what and episode.until is None for episode in self.episodes)

    def _end(self, what: str, step: int) -> None:
        self.episodes = [
            replace(episode, until=step) if episode.what == what and episode.until is None else episode
            for episode in self.episodes
        ]

    def get_extra_state(self) -> Tensor:
        state = {
            "steps": self.steps,
            "episodes": [asdict(episode) for episode in self.episodes],
            "pools": {stream: pool.state() for stream, pool in self._pools.items() if pool.batches},
            "general": dict(self._general),
            "unread": [measured.state() for measured in self._unread],
            "watches": {stream: asdict(watch) for stream, watch in self._watches.items()},
            "shares": list(self._shares),
        }
        return pack(state, BYTES_OF_AN_ITEM * self.items, spare=("pools", "unread", "episodes"))

    def set_extra_state(self, state: Tensor) -> None:
        if rank() > 0:
            return
        saved = unpack(state)
        self.steps = saved["steps"]
        self.episodes = [Episode(**episode) for episode in saved["episodes"]]
        self._pools = {stream: Pool(self.items).restored(pool) for stream, pool in saved["pools"].items()}
        self._general = dict(saved["general"])
        self._unread = [Measurement.restored(measured) for measured in saved["unread"]]
        self._watches = {stream: Watch(**watch) for stream, watch in saved["watches"].items()}
        self._shares = list(saved["shares"])

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        if rank() == 0:  # a distributed checkpoint takes the state of any process, so only one may have it
            super()._save_to_state_dict(destination, prefix, keep_vars)  # pyright: ignore[reportUnknownMemberType]

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        strict = strict and rank() == 0
        lists = missing_keys, unexpected_keys, error_msgs
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *lists)  # pyright: ignore[reportUnknownMemberType]


def _check_log(log: object) -> None:
    wandb = sys.modules.get("wandb")
    if wandb is not None and log is not None and log == vars(wandb).get("log"):
        raise ValueError(
            "log is wandb.log, which would get the monitor's step count and drops rows whose step is behind its own; "
            "give log=lambda row, step: wandb.log(row), and once "
            "wandb.define_metric('monitor/*', step_metric='monitor/step')."
        )
