"""How a step is computed: piece by piece, and on several processes at once."""

import warnings
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from deal import Deal
from jepa_adapter import KKTJepa
from step import Piece, Step, StepLoss
from torch.nn.parallel import DistributedDataParallel

from jepa_ssl.joint import LossWeights


class Engine:
    """Forward and backward of a step, whose gradients are those of all its instances.

    Args:
        model, jepa: what is trained.
        deal: who computes what of a step.
    """

    def __init__(self, model: Any, jepa: KKTJepa | None, args: Namespace, device: torch.device, deal: Deal) -> None:
        self.deal, self.module = deal, Step(model, jepa, args, device)
        self.pretrains = args.jepa_pretrain_epochs > 0
        if deal.processes > 1:
            self.module = _together(self.module, some_unused=self.pretrains)

    def backward(
        self,
        loaded: Iterator[Any],
        instances: Sequence[int],
        weights: LossWeights,
        *,
        epoch: int,
        step: int,
        watch: bool,
    ) -> StepLoss:
        """Adds the gradients of a step to `.grad`.

        Args:
            loaded: has this process's batches of the step next.
            instances: of the step, on all processes.
            step: its number in the run.
            watch: whether the monitor is shown the gradients.
        """
        if isinstance(self.module, DistributedDataParallel):
            # In epochs of JEPA alone the heads are not used, nor is JEPA where it only comes first.
            some_unused = self.pretrains and 0 in (weights.task, weights.jepa)
            if self.module.find_unused_parameters != some_unused:
                self.module = _together(self.module.module, some_unused)
        losses: list[tuple[float, StepLoss]] = []
        pieces = self.deal.dealt(instances)
        for number, dealt in enumerate(pieces):
            count = sum(map(len, dealt))
            own = Piece(
                step, epoch, number * self.deal.processes + self.deal.rank, dealt[self.deal.rank], count, weights,
                watch and number == 0,
            )  # fmt: skip
            with self._quiet() if number + 1 < len(pieces) else nullcontext():
                loss = self.module(next(loaded), own)
                share = count / len(instances)
                (loss.total * share).backward()
            losses.append((share, loss))
        return _joined(losses)

    def end(self) -> None:
        """To be called before the processes' group is taken apart: DDP, freed only after that, may wait for ever."""
        if isinstance(self.module, DistributedDataParallel):
            self.module = self.module.module

    def _quiet(self) -> Any:
        """Gradients are added up without telling the other processes; the last piece tells of all."""
        return self.module.no_sync() if isinstance(self.module, DistributedDataParallel) else nullcontext()


def _together(module: Step, some_unused: bool) -> DistributedDataParallel:
    with warnings.catch_warnings():
        # The name that takes its place is not known to older versions of torch.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return DistributedDataParallel(module, broadcast_buffers=False, find_unused_parameters=some_unused)


def _joined(pieces: list[tuple[float, StepLoss]]) -> StepLoss:
    """The losses of all pieces together, and their embeddings one after the other."""
    _, first = pieces[0]
    return StepLoss(
        torch.stack([share * loss.total.detach() for share, loss in pieces]).sum(),
        {name: torch.stack([share * loss.losses[name] for share, loss in pieces]).sum() for name in first.losses},
        {stream: torch.cat([loss.embeddings[stream] for _, loss in pieces]) for stream in first.embeddings},
    )
