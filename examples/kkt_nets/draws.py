"""What decides all that a run draws, from the numbers of its steps and instances alone: nothing of it is saved."""

from collections.abc import Sequence

import numpy as np
import torch

from jepa_ssl import Seeds


class Draws:
    """The random numbers of a JEPA term.

    Args:
        seed: of the run.
        globally: with torch's global generator, for one of its own would break the graph of a compiled step.
    """

    def __init__(self, seed: int, device: torch.device, globally: bool) -> None:
        self.seed, self.device = seed, device
        self._shift = _mixed(seed)  # of the instances' numbers, so that runs of other seeds hide other things
        self._generator = None if globally else torch.Generator(device)

    def generator(self, step: int, piece: int) -> torch.Generator | None:
        """For one piece of a step; None is the global one."""
        (self._generator or torch).manual_seed(_mixed(self.seed, step, piece))
        return self._generator

    def seeds(self, instances: Sequence[int], epoch: int) -> Seeds:
        """What is hidden of each instance in an epoch, wherever and with whomever it is computed."""
        return Seeds(torch.tensor(instances, device=self.device) + self._shift, epoch)


def _mixed(*numbers: int) -> int:
    """One number in [0, 2^62) of some, all of whose bits depend on all of theirs."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 2
