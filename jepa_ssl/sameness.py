"""What a call was given and what it returned, in a form that two calls are compared by."""

# pyright: reportPrivateUsage=false
# torch counts the writes to a tensor under a private name.

from collections.abc import Mapping, Sequence
from types import FunctionType, MethodType
from typing import Any, NamedTuple, cast
from weakref import ReferenceType

import torch
from torch import Tensor, nn

DEPTH, LARGEST = 8, 1000  # of containers and objects in each other; of what is compared in a call
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
SAME_THING = (*_PLAIN, type, FunctionType, MethodType, ReferenceType, nn.Module, torch.device, torch.dtype)
_EQUAL = (*_PLAIN, tuple)


class _Object:
    """Has nothing but a `__dict__`; a larger object, such as a `partial`, holds what nobody can see."""


_SIZE = _Object.__basicsize__


class Leaf(NamedTuple):
    tensor: Tensor
    version: object  # how often it was written to; in inference mode nobody counts, and it equals no other


def version(tensor: Tensor) -> object:
    return object() if tensor.is_inference() else tensor._version  # nobody counts in inference mode


def flat(value: Any, found: list[Any] | None = None, depth: int = DEPTH) -> list[Any]:
    """The tensors in `value` with their versions, and between them what holds them; `object()` for the unknown."""
    found = [] if found is None else found
    if isinstance(value, Tensor):
        found.append(Leaf(value, version(value)))
        return found
    if isinstance(value, SAME_THING):
        found.append(value)
        return found
    names: Any = ()
    if isinstance(value, list | tuple):
        parts = list(cast(Sequence[Any], value))
    elif isinstance(value, Mapping) or (hasattr(value, "__dict__") and type(value).__basicsize__ <= _SIZE):
        held = cast(Mapping[Any, Any], value if isinstance(value, Mapping) else vars(value))
        names, parts = tuple(held), list(held.values())
    else:
        parts = None
    if parts is None or not depth or len(found) + len(parts) > LARGEST:
        found.append(object())
        return found
    found += type(cast(object, value)), names, len(parts)
    for part in parts:
        flat(part, found, depth - 1)
    return found


def is_unchanged(thing: Any) -> bool:
    """Whether nobody wrote to a tensor in what a call returned; False for the unknown."""
    return thing.version == version(thing.tensor) if isinstance(thing, Leaf) else type(thing) is not object


def same(one: Any, other: Any, with_gradient: bool = False) -> bool:
    if not (isinstance(one, Leaf) and isinstance(other, Leaf)):
        return one is other or (type(one) is type(other) and isinstance(one, _EQUAL) and one == other)
    a, b = one.tensor, other.tensor
    if a is b:
        return one.version == other.version
    if not (
        type(a) is type(b) is Tensor and a.device.type in ("cpu", "cuda") and a.layout == b.layout == torch.strided
    ):
        return False
    if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device) or one.version != version(a):
        return False
    if with_gradient and (a.requires_grad or b.requires_grad):
        return False
    in_one_place = a.data_ptr() == b.data_ptr() and a.stride() == b.stride()
    return in_one_place or (a.device.type == "cpu" and torch.equal(a, b))  # elsewhere the comparison would wait
