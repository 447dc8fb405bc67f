"""One step of training as a module: the joint loss of a batch, on one process or several, in one piece or many."""

from argparse import Namespace
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch._functorch.config as functorch
from dataset import GraphBatch
from devices import precision
from draws import Draws
from jepa_adapter import KKTJepa, instance
from paths import kkt, trunk_of, trunk_output
from torch import Tensor, nn

from jepa_ssl.joint import LossWeights
from jepa_ssl.processes import all_reduce_sum
from jepa_ssl.protocols import JEPALoss


@dataclass(frozen=True)
class Piece:
    """What of a step one process computes at a time: some of its instances."""

    step: int  # of the run
    epoch: int
    number: int  # among the pieces of the step
    instances: list[int]
    count: int  # of the instances that all processes see together
    weights: LossWeights
    watched: bool  # whether the monitor is shown the gradients


class StepLoss(NamedTuple):
    """The loss of the instances that all processes see together, the same on each of them."""

    total: Tensor  # its gradient is that of this process's own instances, times the number of processes
    losses: dict[str, Tensor]  # detached, by their names in the log
    embeddings: dict[str, Tensor]  # detached, of this process's own instances


class Step(nn.Module):
    """Owns all that is trained, so that what wraps it sees every gradient: `DistributedDataParallel`, for example.

    With `--compile` the task's part and JEPA's are a graph each, compiled once for all sizes of a batch.
    """

    def __init__(self, model: Any, jepa: KKTJepa | None, args: Namespace, device: torch.device) -> None:
        super().__init__()
        self.model, self.jepa, self.args, self.device = model, jepa, args, device
        self.added = nn.ModuleList([jepa.encoder, jepa.objective] if jepa else [])
        self.draws = Draws(args.seed, device, globally=args.compile)
        trunk_of(model).recompute = args.checkpoint_activations
        compiled = _compiled if args.compile else _plain
        self._kkt, self._jepa = compiled(self._kkt), compiled(self._jepa)

    def forward(self, batch: Any, piece: Piece) -> StepLoss:
        losses: dict[str, Tensor] = {}
        if self.args.compile and isinstance(batch, GraphBatch):  # whose attributes are found by code
            batch = batch._replace(batch_graph=instance(batch))
        # A compiler finds out by itself what is computed twice.
        with nullcontext(()) if self.args.compile else trunk_output(self.model) as trunk:
            joint = piece.weights.combine(
                task=lambda: self._task_loss(batch, piece, losses),
                jepa=lambda: self._jepa_loss(batch, piece, *trunk),
                balance=self.jepa.balance if self.jepa else None,
            )
        if self.jepa and piece.watched:
            self.jepa.watch(joint.parts)
        losses["train/loss"] = joint.total.detach()
        if joint.jepa is None:
            return StepLoss(joint.total, losses, {})
        losses["train/loss_jepa"] = joint.jepa.terms["total"]
        return StepLoss(joint.total, losses, dict(joint.jepa.context.embeddings))

    def _task_loss(self, batch: Any, piece: Piece, losses: dict[str, Tensor]) -> Tensor:
        """The mean over the instances of all processes, of which this one has some."""
        loss, terms = self._kkt(batch)
        own = torch.stack([loss, *terms.values()]) * (len(piece.instances) / piece.count)
        means = dict(zip(("loss_kkt", *terms), all_reduce_sum(own, training=True), strict=True))
        losses.update({f"train/{name}": mean.detach() for name, mean in means.items()})
        return means["loss_kkt"]

    def _jepa_loss(self, batch: Any, piece: Piece, trunk: Any = None) -> JEPALoss:
        assert self.jepa
        generator = self.draws.generator(piece.step, piece.number)
        loss = self._jepa(batch, trunk, generator, self.draws.seeds(piece.instances, piece.epoch))
        if self.args.compile and self.jepa.objective.monitor:  # a compiled loss does not show itself
            self.jepa.objective.monitor.observe(loss)
        return loss

    def _kkt(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return kkt(self.model, batch, self.args)

    def _jepa(self, batch: Any, trunk: Any, generator: Any, seeds: Any) -> JEPALoss:
        with precision(self.args.precision, self.device):
            return self.jepa.jepa_loss(batch, trunk, generator, seeds)  # pyright: ignore[reportOptionalMemberAccess]


def _plain(part: Callable[..., Any]) -> Callable[..., Any]:
    return part


def _compiled(part: Callable[..., Any]) -> Callable[..., Any]:
    """In one graph for batches of any size, through which gradients may go twice: to be measured, and to be used."""
    if hasattr(functorch, "donated_buffer"):  # older versions of torch give no memory away
        functorch.donated_buffer = False
    return torch.compile(part, fullgraph=True, dynamic=True)
