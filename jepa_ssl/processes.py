"""Sums over the processes that train one network, the default group of `torch.distributed`.

In training the processes share one batch. They may have different numbers of items, but must make the same calls. In
eval mode each process is alone, so one can validate while the others wait.
"""

import torch.distributed as dist
from torch import Tensor


def world_size(training: bool) -> int:
    """The number of processes that share one batch."""
    return dist.get_world_size() if training and _are_several() else 1


def rank() -> int:
    """The number of this process, counted from 0."""
    return dist.get_rank() if _are_several() else 0


def all_reduce_sum(local: Tensor, training: bool) -> Tensor:
    """Return the sum of `local` over all processes.

    The gradient is right after the processes' gradients are averaged, as DDP does. On each process it is the gradient
    of its own items, times the number of processes.
    """
    processes = world_size(training)
    if processes == 1:
        return local
    summed = local.detach().clone()
    dist.all_reduce(summed)  # pyright: ignore[reportUnknownMemberType]
    return summed + processes * (local - local.detach())


def _are_several() -> bool:
    return dist.is_available() and dist.is_initialized()
