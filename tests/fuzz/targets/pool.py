"""Odd values, and how to put one in the place of a part of an argument."""

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from jepa_ssl import Seeds

INTEGERS = (-(2**63), -1, 0, 1, 2, 3, 7, 63, 2**31, 2**63 - 1, 2**63, 10**30, True, False)
NUMBERS = (0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 1e-320, 1e-30, 1e30, 1e308, math.inf, -math.inf, math.nan, 0, 1, True)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
DTYPES = (*FLOATS, torch.int8, torch.uint8, torch.int32, torch.int64, torch.bool, torch.complex64, torch.complex128)
OTHERS = (None, "text", "", 3, 2.5, [], {}, (), object(), b"bytes", [1, 2], {"a": 1}, print, math.nan)


def seeded(rng: random.Random) -> torch.Generator:
    """A generator, and the global one set besides: nothing is left to chance."""
    torch.manual_seed(rng.getrandbits(62))
    return torch.Generator().manual_seed(rng.getrandbits(62))


def odd_tensor(rng: random.Random, tensor: Tensor) -> Tensor:
    """Something like `tensor`, and in one way not."""
    return rng.choice(_ODD_TENSORS)(rng, tensor.detach())


def _resized(rng: random.Random, tensor: Tensor) -> Tensor:
    if not tensor.ndim:
        return tensor.new_ones(rng.choice((0, 1, 3)))
    dim = rng.randrange(tensor.ndim)
    size = rng.choice((0, 1, tensor.size(dim) - 1, tensor.size(dim) + 1, 3 * tensor.size(dim)))
    wanted = [max(size, 0) if d == dim else s for d, s in enumerate(tensor.shape)]
    result = tensor.new_zeros(wanted)
    common = tuple(slice(min(a, b)) for a, b in zip(wanted, tensor.shape, strict=True))
    result[common] = tensor[common]
    return result


def _reshaped(rng: random.Random, tensor: Tensor) -> Tensor:
    ways: list[Callable[[], Tensor]] = [
        tensor.flatten,
        lambda: tensor.unsqueeze(0),
        lambda: tensor.unsqueeze(-1),
        lambda: tensor.mT if tensor.ndim > 1 else tensor,
        lambda: tensor[0] if len(tensor.shape) and len(tensor) else tensor,
        lambda: torch.tensor(1).to(tensor),
        lambda: tensor.new_empty(0),
        lambda: tensor.new_zeros(0, 0),
        lambda: tensor.new_zeros(2, 0, 3),
    ]
    return rng.choice(ways)()


def _with_value(rng: random.Random, tensor: Tensor) -> Tensor:
    if not tensor.numel():
        return tensor
    result = tensor.clone(memory_format=torch.contiguous_format)
    values = NUMBERS if tensor.is_floating_point() else (-1, 0, 1, 2, 2**31, 2**62, -(2**63), 10**6)
    if tensor.dtype == torch.bool:
        values = (True, False)
    count = result.numel() if rng.random() < 0.3 else rng.randint(1, 3)
    places = [rng.randrange(result.numel()) for _ in range(count)]
    wide = torch.float64 if tensor.is_floating_point() or tensor.is_complex() else torch.int64
    result.view(-1)[places] = torch.tensor([rng.choice(values) for _ in places], dtype=wide).to(tensor.dtype)
    return result


def _strange(rng: random.Random, tensor: Tensor) -> Tensor:
    """The same numbers or shape, held in another way."""
    ways: list[Callable[[], Tensor]] = [
        lambda: tensor.to("meta"),
        lambda: torch.stack((tensor, tensor), -1)[..., 0],
        lambda: tensor[..., :1].expand(tensor.shape) if tensor.ndim and tensor.numel() else tensor,
        lambda: tensor.clone().requires_grad_() if tensor.is_floating_point() else tensor,
        lambda: tensor.flip(0) if tensor.ndim else tensor,
    ]
    return rng.choice(ways)()


_ODD_TENSORS: tuple[Callable[[random.Random, Tensor], Tensor], ...] = (
    lambda rng, tensor: tensor.to(rng.choice(DTYPES)),
    _resized,
    _reshaped,
    _with_value,
    _with_value,
    _strange,
)


def odd(rng: random.Random, value: Any) -> Any:
    """`value` with one part of it exchanged for an odd one of its type."""
    if isinstance(value, Tensor):
        return odd_tensor(rng, value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice(INTEGERS)
    if isinstance(value, float):
        return rng.choice(NUMBERS)
    if isinstance(value, str):
        return rng.choice(("", "constraint", "variable", "instance", "edge", "other", "a.b", "\0"))
    if isinstance(value, Mapping):
        return _odd_mapping(rng, dict(value))
    if isinstance(value, list | tuple):
        return _odd_sequence(rng, value)
    if isinstance(value, torch.Generator):
        return rng.choice((None, torch.Generator(), Seeds(torch.arange(rng.choice((0, 1, 3, 5))), epoch=1)))
    if is_dataclass(value) and not isinstance(value, type) and fields(value):
        name = rng.choice([field.name for field in fields(value)])
        return replace(value, **{name: odd(rng, getattr(value, name))})
    return value


def _odd_mapping(rng: random.Random, value: dict[Any, Any]) -> dict[Any, Any]:
    way = rng.random()
    if not value or way < 0.1:
        return {}
    key = rng.choice(list(value))
    if way < 0.2:
        del value[key]
    elif way < 0.3:
        value[odd(rng, key)] = value[key]
    else:
        value[key] = odd(rng, value[key])
    return value


def _odd_sequence(rng: random.Random, value: Any) -> Any:
    items, way = list(value), rng.random()
    if not items or way < 0.1:
        items = []
    elif way < 0.25:
        items.append(rng.choice(items))
    elif way < 0.4:
        items.pop(rng.randrange(len(items)))
    else:
        place = rng.randrange(len(items))
        items[place] = odd(rng, items[place])
    return type(value)(items)


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors of an argument."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for part in value.values() for tensor in tensors_in(part)]
    if isinstance(value, list | tuple):
        return [tensor for part in value for tensor in tensors_in(part)]
    if is_dataclass(value) and not isinstance(value, type):
        return [tensor for field in fields(value) for tensor in tensors_in(getattr(value, field.name))]
    return []


def unwritten(call: Callable[[], Any], *arguments: Any) -> Any:
    """The value of `call`, which must not have written to a tensor of its arguments."""
    given = [tensor for tensor in tensors_in(arguments) if tensor.device.type == "cpu"]
    before = [tensor.detach().clone() for tensor in given]
    value = call()
    for tensor, copy in zip(given, before, strict=True):
        assert torch.equal(tensor.detach().nan_to_num(), copy.nan_to_num()), "an argument was written to"
    return value
