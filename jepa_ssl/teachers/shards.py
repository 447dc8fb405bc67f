"""What `fully_shard` (FSDP2) makes of modules and tensors, as one process sees it: nothing here communicates.

`torch.distributed.tensor` takes a second to import, so it is not: who has not imported it has sharded nothing.
"""

import sys
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any

from torch import Tensor, nn

part_here: Callable[[Any], Tensor] = attrgetter("_local_tensor")  # to_local() minds gradients, which costs


def sharded(modules: Iterable[nn.Module]) -> list[Any]:
    """Those of `modules` that `fully_shard` was applied to."""
    kind = _kind("torch.distributed.fsdp", "FSDPModule")
    return [module for module in modules if isinstance(module, kind)]


def layout(tensor: Any) -> tuple[Any, Any] | None:
    """Over which processes a tensor is distributed and how; None of a plain one, which each process has whole."""
    is_distributed = isinstance(tensor, _kind("torch.distributed.tensor", "DTensor"))
    return (tensor.device_mesh, tensor.placements) if is_distributed else None


def local(tensor: Tensor) -> Tensor:
    """What this process has of a tensor: of a plain one all of it."""
    return tensor if layout(tensor) is None else part_here(tensor)


def _kind(module: str, name: str) -> Any:
    return getattr(sys.modules.get(module), name, ())
