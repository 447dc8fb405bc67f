"""One step of training: the gradients of the joint loss, on one process or several, in one piece or many."""

from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch._functorch.config as functorch
import torch.distributed as dist
from data.batches import GraphBatch, batches
from jepa_adapter import instance
from loop.paths import kkt, precision, trunk_of
from loop.random_state import mixed
from torch import Tensor, nn

from jepa_ssl import CollapseMonitor, JEPATerm, Seeds, processes
from jepa_ssl.diagnostics import gradient_share
from jepa_ssl.joint import JointSchedule, NoTerm

_ONE_GRAPH: Any = {"fullgraph": True, "dynamic": True}  # for batches of any size


@dataclass(frozen=True)
class Deal:
    """Deals the instances of a step out like cards, so that each process gets at least one for each piece.

    >>> deal = Deal(batch_size=5, pieces=1, processes=2, rank=1)
    >>> deal.steps([6, 1, 4, 0, 3, 5])  # the sixth alone could not be shared
    [[6, 1, 4, 0, 3, 5]]
    >>> deal.own([6, 1, 4, 0, 3])
    [[1, 0]]

    Raises ValueError if a step has too few instances; so does `steps`.
    """

    batch_size: int  # instances of a step, over all processes and pieces
    pieces: int  # in which a process computes its instances, one after the other
    processes: int
    rank: int  # of this process

    @staticmethod
    def of(args: Namespace) -> "Deal":
        """As the flags say."""
        return Deal(args.batch_size, args.accumulate, processes.world_size(training=True), processes.rank())

    def __post_init__(self) -> None:
        self._check(f"--batch_size is {self.batch_size}", self.batch_size)

    def _check(self, said: str, instances: int) -> None:
        if instances < self.hands:
            hands = f"--accumulate is {self.pieces}, and processes there are {self.processes}"
            raise ValueError(f"{said}, but each step needs {self.hands} LPs: {hands}; have fewer, or more LPs.")

    @property
    def hands(self) -> int:
        return self.processes * self.pieces

    def steps(self, order: Sequence[int]) -> list[list[int]]:
        """The instances of each step of an epoch; a last step that is too small joins the one before."""
        self._check(f"there are {len(order)} LPs to train on", len(order))
        steps = batches(order, self.batch_size)
        if len(steps[-1]) < self.hands:
            last = steps.pop()
            steps[-1] += last
        return steps

    def dealt(self, instances: Sequence[int]) -> list[list[list[int]]]:
        """The instances of each piece, and within it of each process."""
        hands = [list(instances[hand :: self.hands]) for hand in range(self.hands)]
        return [hands[first : first + self.processes] for first in range(0, self.hands, self.processes)]

    def own(self, instances: Sequence[int]) -> list[list[int]]:
        """This process's part of each piece."""
        return [piece[self.rank] for piece in self.dealt(instances)]


class StepLoss(NamedTuple):
    """The loss of the instances that all processes see together, the same on each of them."""

    total: Tensor  # its gradient is that of this process's own instances, times the number of processes
    losses: dict[str, Tensor]  # detached, by their names in the log
    embeddings: Mapping[str, Tensor]  # detached, of this process's own instances


class Step(nn.Module):
    """Forward and backward of a step, for the network and, if there is one, the JEPA term.

    With `--compile` the task's part and the objective are one graph each, compiled once for all sizes of a batch.
    """

    def __init__(self, model: Any, jepa: JEPATerm | None, args: Namespace, device: torch.device, deal: Deal) -> None:
        super().__init__()
        self.model, self.args, self.device, self.deal = model, args, device, deal
        self.jepa: Any = jepa or NoTerm()
        self.has_jepa = jepa is not None
        self.schedule = jepa.schedule if jepa else JointSchedule(jepa_weight=0.0)
        self._shift = mixed(args.seed)  # of the instances' numbers, so that runs of other seeds hide other things
        trunk_of(model).recompute = args.checkpoint_activations
        if args.compile:
            self._kkt = torch.compile(self._kkt, **_ONE_GRAPH)
            if hasattr(functorch, "donated_buffer"):  # older versions of torch give no memory away
                functorch.donated_buffer = False  # gradients go through a graph twice: to be measured, and to be used
            if jepa:
                jepa.objective.compile(**_ONE_GRAPH)

    def backward(self, loaded: Iterator[Any], instances: Sequence[int], *, epoch: int, watch: bool) -> StepLoss:
        """Add the gradients of a step to `.grad`.

        `instances` are those of the step on all processes, and `loaded` yields this process's batches of them next.
        `watch` says whether the monitor gets the gradients.
        """
        losses: list[tuple[float, StepLoss]] = []
        for dealt in self.deal.dealt(instances):
            own, count = dealt[self.deal.rank], sum(map(len, dealt))
            loss, share = self(next(loaded), own, count, epoch, watch and not losses), count / len(instances)
            (loss.total * share).backward()
            losses.append((share, loss))
        if self.deal.processes > 1:
            _average_gradients(self)
        return _joined(losses)

    def forward(self, batch: Any, own: list[int], count: int, epoch: int, watch: bool) -> StepLoss:
        """The loss of a batch of this process's `own` instances, of `count` that all processes see together."""
        losses: dict[str, Tensor] = {}
        if self.args.compile and isinstance(batch, GraphBatch):  # whose attributes are found by code
            batch = batch._replace(batch_graph=instance(batch))
        with precision(self.args.precision, self.device):
            joint = self.jepa.loss(
                instance(batch) if self.has_jepa else None,
                task=lambda: self._task_loss(batch, len(own) / count, losses),
                epoch=epoch,
                generator=Seeds(torch.tensor(own, device=self.device) + self._shift, epoch),
            )
        if self.has_jepa and watch and len(joint.parts) == 2:
            self._watch(joint.parts)
        losses["train/loss"] = joint.total.detach()
        if joint.jepa is None:
            return StepLoss(joint.total, losses, {})
        losses["train/loss_jepa"] = joint.jepa.terms["total"]
        if self.args.compile and self.jepa.objective.monitor:  # a compiled objective does not show its loss
            self.jepa.objective.monitor.observe(joint.jepa)
        return StepLoss(joint.total, losses, joint.jepa.context.embeddings)

    def _task_loss(self, batch: Any, share: float, losses: dict[str, Tensor]) -> Tensor:
        """The mean over the instances of all processes, of which this one has a share."""
        with torch.autocast(self.device.type, enabled=False):  # the loss itself is computed in float32
            loss, terms = self._kkt(batch)
        own = torch.stack([loss, *terms.values()]) * share
        means = dict(zip(("loss_kkt", *terms), processes.all_reduce_sum(own, training=True), strict=True))
        losses.update({f"train/{name}": mean.detach() for name, mean in means.items()})
        return means["loss_kkt"]

    def _kkt(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return kkt(self.model, batch, self.args)

    def _watch(self, losses: Mapping[str, Tensor]) -> None:
        """Show the monitor how long the gradients of the two losses on the trunk are, before they are freed."""
        monitor = self.jepa.objective.monitor
        if isinstance(monitor, CollapseMonitor):
            monitor.observe_gradients(gradient_share(losses, list(self.jepa.encoder.trunk.parameters())))


def _average_gradients(module: nn.Module) -> None:
    """Over the processes; those of all parameters go in one message."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(together)
    together /= dist.get_world_size()
    for gradient, mean in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def _joined(pieces: list[tuple[float, StepLoss]]) -> StepLoss:
    """The losses of all pieces together, and their embeddings one after the other."""
    _, first = pieces[0]
    return StepLoss(
        torch.stack([share * loss.total.detach() for share, loss in pieces]).sum(),
        {name: torch.stack([share * loss.losses[name] for share, loss in pieces]).sum() for name in first.losses},
        {stream: torch.cat([loss.embeddings[stream] for _, loss in pieces]) for stream in first.embeddings},
    )
