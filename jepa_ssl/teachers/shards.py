"""One process's view of modules and tensors that `fully_shard` (FSDP2) sharded, without communication.

`torch.distributed.tensor` takes a second to import, so it is not imported here: nothing can be sharded if it is not
imported yet.
"""

import sys
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any

from torch import Tensor, nn

part_here: Callable[[Any], Tensor] = attrgetter("_local_tensor")  # to_local() tracks gradients, which takes time


def sharded(modules: Iterable[nn.Module]) -> list[Any]:
    """The modules that `fully_shard` was applied to."""
    kind = _kind("torch.distributed.fsdp", "FSDPModule")
    return [module for module in modules if isinstance(module, kind)]


def layout(tensor: Any) -> tuple[Any, Any] | None:
    """The mesh and the placements of a distributed tensor; None for a plain one."""
    is_distributed = isinstance(tensor, _kind("torch.distributed.tensor", "DTensor"))
    return (tensor.device_mesh, tensor.placements) if is_distributed else None


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor; a plain tensor is returned as it is."""
    return tensor if layout(tensor) is None else part_here(tensor)


def _kind(module: str, name: str) -> Any:
    return vars(sys.modules[module])[name] if module in sys.modules else ()
