"""The alarm: watches a training, and says in one sentence when embeddings collapse or the JEPA term is not heard."""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from jepa_ssl.checks import whole_number
from jepa_ssl.collapse import Watch, gradient_message, gradient_side
from jepa_ssl.diagnostics import gram, mean_cosine, prediction_cosine, rank_of_gram, spread, teacher_distance
from jepa_ssl.processes import rank
from jepa_ssl.protocols import JEPALoss

# The share of a gradient changes from batch to batch: so many in a row are believed.
IN_A_ROW = 3

GENERAL = ""  # the stream of what concerns all of them
GRADIENTS = "gradients"


class CollapseWarning(UserWarning):
    """The embeddings of a stream have collapsed, or the JEPA gradient is out of proportion to the task's."""


@dataclass(frozen=True)
class Episode:
    """From where a fall began to where it was over, and the sentence that was said of it."""

    what: str  # the stream, or "gradients"
    since: int
    until: int | None  # None while it lasts
    message: str


@dataclass
class _Measurement:
    """What was measured at a step, on its way to the host."""

    step: int
    names: list[tuple[str, str]]  # stream and measure
    values: Tensor  # [names]
    grams: dict[tuple[str, str], Tensor]  # of which the ranks are taken on the host: a GPU would have to wait
    copied: torch.cuda.Event | None = None  # when they have arrived

    def wait(self) -> None:
        if self.copied is not None:
            self.copied.synchronize()


class CollapseMonitor(nn.Module):
    """Warns once per episode when a stream collapses: which, since when, what fell, and what to try.

    Give it to the objective, which shows it each loss in training and tells it of each optimizer step:
    `JEPAObjective(..., monitor=CollapseMonitor())`. Every `every` steps it measures the latest items of each stream:
    effective rank, spread and mean cosine of the online encoder's embeddings of the context, and of the features where
    the encoder names them; cosine of prediction and target; distance of student and teacher, which presumes that the
    views keep the items' order. The reference is the same encoder at first.

    An alarm has to be earned: a measurement counts by the logarithm of how far it has fallen, and the counts add up.
    So a deep fall is said within 50 steps, one that is less deep when it lasts, and none before step 100, for healthy
    runs may dip at first. An episode is over when a recovery has outweighed it. Each is said by a `CollapseWarning`, in
    the log, and in `episodes`.

    The reference is the first full pool of `items` items of a stream. If a batch has as many, it is of the encoder at
    initialisation. If not, the encoder has moved by then; for the exact reference call the objective on a few batches
    under `torch.no_grad()` before you train.

    Of several processes (`torch.distributed`, its default group) the first watches its own items, and speaks for all:
    they have the same weights.

    Nothing waits for a GPU: what is measured is read half of `every` steps later. The state, with the latest items in
    it, is saved and resumed with the objective's, and can be loaded with `weights_only=True`.

    Args:
        every: steps from one measurement to the next.
        items: how many of a stream are measured; ranks above `items - 1` are not seen.
        log: called with a row and the step at each reading: `wandb.log`, or a function of yours. A row holds the floats
            `monitor/<measure>/<stream>` and `monitor/feature_<measure>/<stream>` of the step `monitor/step`, and the
            text `monitor/warning` where there is one.

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
        self.log = log
        self.steps = 0
        self.episodes: list[Episode] = []
        self._pools: dict[str, list[dict[str, Tensor]]] = {}
        self._sizes: dict[str, int] = {}  # items in each pool
        self._fresh: set[str] = set()  # streams with items that were not measured yet
        self._general: dict[str, Tensor] = {}
        self._unread: list[_Measurement] = []
        self._watches: dict[str, Watch] = {}
        self._shares: list[tuple[int, str]] = []  # the latest steps with gradients, and on which side of the limits

    def observe(self, loss: JEPALoss) -> None:
        """Keeps some items of a loss; at each forward pass in training."""
        if rank() > 0:
            return
        self._general["loss"] = loss.terms.get("total", loss.total).detach()
        context = loss.context
        for stream, embedding in context.embeddings.items():
            if embedding.ndim != 2:
                raise ValueError(
                    f"loss.context.embeddings[{stream!r}] is {list(embedding.shape)}, but must be [items, dim]; "
                    f"flatten it to one row an item."
                )
            parts = {
                "embedding": embedding,
                "feature": context.features.get(stream),
                "valid": context.valid.get(stream),
                "prediction": loss.predictions.get(stream),
                "target": loss.targets.get(stream),
            }
            pool = self._pools.setdefault(stream, [])
            # Views that add or drop items have predictions of others.
            same = {part: z for part, z in parts.items() if z is not None and z.shape[:1] == embedding.shape[:1]}
            pool.append(self._some(same))
            self._sizes[stream] = self._sizes.get(stream, 0) + len(pool[-1]["embedding"])
            self._fresh.add(stream)
            while self._sizes[stream] - len(pool[0]["embedding"]) >= self.items:
                self._sizes[stream] -= len(pool.pop(0)["embedding"])

    def _some(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """At most `items` rows, evenly over the real ones; copied, so that they do not keep a large batch alive."""
        rows, valid = len(parts["embedding"]), parts.get("valid")
        place = torch.arange(min(rows, self.items), device=parts["embedding"].device)
        if valid is None:
            chosen = place * rows // max(len(place), 1)
            return {part: z.detach().index_select(0, chosen) for part, z in parts.items()}
        up_to = valid.cumsum(0)
        real = valid.sum()
        nth = torch.where(real >= len(place), place * real // max(len(place), 1), place)
        chosen = torch.searchsorted(up_to, nth + 1).clamp(max=rows - 1)
        # Where there are fewer real ones than places, the last places hold padding.
        return {part: z.detach().index_select(0, chosen) for part, z in parts.items()} | {"valid": place < real}

    def observe_gradients(self, norms: Mapping[str, Tensor]) -> None:
        """Takes `gradient_share({"task": ..., "jepa": ...}, trunk.parameters())`; once in a hundred steps is enough.

        It warns if JEPA's is under a thousandth of the task's, or above the task's own, three times in a row.

        Raises:
            ValueError: the two are not named so.
        """
        if not norms.keys() >= {"task", "jepa"}:
            raise ValueError(
                f"norms has {sorted(norms)}, but must have 'task' and 'jepa'; name the losses so in gradient_share."
            )
        self._general |= {"task_gradient": norms["task"].detach(), "jepa_gradient": norms["jepa"].detach()}

    def step(self) -> None:
        """Counts an optimizer step; every `every` steps it measures, and half as many steps later it reads."""
        self.steps += 1
        said = len(self.episodes)
        if self.steps % self.every == self.every // 2 and self._unread:
            row = self._read()
            if self.log is not None:
                self.log(row, self.steps)
        # What was seen once counts once: a stream may pause, for the task may be trained alone.
        fresh = {stream: size for stream, size in self._sizes.items() if stream in self._fresh}
        full = {stream: self._pools[stream] for stream, size in fresh.items() if size >= self.items}
        if self.steps % self.every:  # a reference is taken as soon as can be
            known = self._watches.keys() | {stream for unread in self._unread for stream, _ in unread.names}
            full = {stream: pool for stream, pool in full.items() if stream not in known}
        if full:
            self._unread.append(self._measure(full))
            self._fresh -= full.keys()
        for episode in self.episodes[said:]:  # last of all, for warnings may be errors
            warnings.warn(episode.message, CollapseWarning, stacklevel=3)  # the training loop, behind the objective

    # ---- on the device -------------------------------------------------------------------------------------

    def _measure(self, pools: Mapping[str, list[dict[str, Tensor]]]) -> _Measurement:
        scalars = {(GENERAL, name): value for name, value in self._general.items()}
        self._general = {"loss": self._general["loss"]}  # gradients are counted once
        grams: dict[tuple[str, str], Tensor] = {}
        for stream, pool in pools.items():
            z = self._latest(pool)
            valid = z.get("valid")
            for part, prefix in (("embedding", ""), ("feature", "feature_")):
                if part in z:
                    scalars[stream, prefix + "spread"] = spread(z[part], valid)
                    scalars[stream, prefix + "mean_cosine"] = mean_cosine(z[part], valid)
                    grams[stream, prefix + "rank"] = gram(z[part], valid)
            if "prediction" in z and "target" in z:
                scalars[stream, "prediction_cosine"] = prediction_cosine(z["prediction"], z["target"], valid)
                if z["target"].shape == z["embedding"].shape:
                    scalars[stream, "teacher_distance"] = teacher_distance(z["embedding"], z["target"], valid)
        device = self._general["loss"].device  # what was resumed may be elsewhere
        values = torch.stack([value.to(device, torch.float32) for value in scalars.values()])
        on_host = {name: g.to("cpu", non_blocking=True) for name, g in grams.items()}
        measured = _Measurement(self.steps, list(scalars), values.to("cpu", non_blocking=True), on_host)
        if values.is_cuda:
            measured.copied = torch.cuda.Event()
            measured.copied.record(torch.cuda.current_stream(values.device))
        return measured

    def _latest(self, pool: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        device = pool[-1]["embedding"].device  # what was resumed may be elsewhere
        parts = [part for part in pool[-1] if all(part in some for some in pool)]
        return {part: torch.cat([some[part].to(device) for some in pool])[-self.items :] for part in parts}

    # ---- on the host ---------------------------------------------------------------------------------------

    def _read(self) -> dict[str, Any]:
        """Judges what was measured; the row of the log."""
        row: dict[str, Any] = {}
        said = len(self.episodes)
        unread, self._unread = self._unread, []
        for measured in unread:
            measured.wait()
            streams: dict[str, dict[str, float]] = {}
            values: list[float] = measured.values.tolist()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            for (stream, name), value in zip(measured.names, values, strict=True):
                streams.setdefault(stream, {})[name] = value
            for (stream, name), products in measured.grams.items():
                streams[stream][name] = rank_of_gram(products, self.items).item()
            row |= {"monitor/step": measured.step} | {
                f"monitor/{name}/{stream}" if stream else f"monitor/{name}": value
                for stream, measures in streams.items()
                for name, value in measures.items()
            }
            general = streams.pop(GENERAL)
            for stream, measures in streams.items():
                self._judge(stream, measured.step, measures, general["loss"])
            if "jepa_gradient" in general:
                self._judge_gradients(measured.step, general["task_gradient"], general["jepa_gradient"])
        if said < len(self.episodes):
            row["monitor/warning"] = " ".join(episode.message for episode in self.episodes[said:])
        return row

    def _judge(self, stream: str, step: int, measures: dict[str, float], loss: float) -> None:
        now = measures | {"loss": loss}
        if stream not in self._watches and not all(map(math.isfinite, (measures["spread"], measures["rank"]))):
            return  # nothing could be told by it; in half precision the first steps may overflow
        watch = self._watches.setdefault(stream, Watch(step, now))
        watch.weigh(step, now)
        if watch.has_collapsed and not self._lasts(stream):
            self._begin(stream, watch.since, watch.message(stream, step, now))
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
            self._begin(GRADIENTS, self._shares[0][0], gradient_message(side, self._shares[0][0], task, jepa))

    def _lasts(self, what: str) -> bool:
        return any(episode.what == what and episode.until is None for episode in self.episodes)

    def _begin(self, what: str, since: int, message: str) -> None:
        self.episodes.append(Episode(what, since, None, message))

    def _end(self, what: str, step: int) -> None:
        self.episodes = [
            replace(episode, until=step) if episode.what == what and episode.until is None else episode
            for episode in self.episodes
        ]

    # ---- state ---------------------------------------------------------------------------------------------

    def get_extra_state(self) -> dict[str, Any]:
        for measured in self._unread:
            measured.wait()
        return {
            "steps": self.steps,
            "episodes": [asdict(episode) for episode in self.episodes],
            "pools": {stream: list(pool) for stream, pool in self._pools.items()},
            "fresh": sorted(self._fresh),
            "general": dict(self._general),
            "unread": [{**vars(measured), "copied": None} for measured in self._unread],
            "watches": {stream: asdict(watch) for stream, watch in self._watches.items()},
            "shares": list(self._shares),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        self.episodes = [Episode(**episode) for episode in state["episodes"]]
        self._pools = {stream: list(pool) for stream, pool in state["pools"].items()}
        self._sizes = {s: sum(len(some["embedding"]) for some in pool) for s, pool in self._pools.items()}
        self._fresh = set(state["fresh"])
        self._general = dict(state["general"])
        self._unread = [_Measurement(**measured) for measured in state["unread"]]
        self._watches = {stream: Watch(**watch) for stream, watch in state["watches"].items()}
        self._shares = list(state["shares"])
