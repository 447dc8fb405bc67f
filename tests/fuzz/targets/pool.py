"""Draw odd values, and put one in the place of a part of an argument."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException
from torch import Tensor

from jepa_ssl import Seeds

from ..judging import Input

T = TypeVar("T")
Draw = Callable[[st.SearchStrategy[Any]], Any]
INTEGERS = (-(2**63), -1, 0, 1, 2, 3, 7, 63, 2**31, 2**63 - 1, 2**63, 10**30, True, False)
NUMBERS = (0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 1e-320, 1e-30, 1e30, 1e308, math.inf, -math.inf, math.nan, 0, 1, True)
IN_TENSORS = {False: (-1, 0, 1, 2, 2**31, 2**62, -(2**63), 10**6), True: NUMBERS}
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
DTYPES = (*FLOATS, torch.int8, torch.uint8, torch.int32, torch.int64, torch.bool, torch.complex64, torch.complex128)
OTHERS = (None, "text", "", 3, 2.5, [], {}, (), object(), b"bytes", [1, 2], {"a": 1}, print, math.nan)
NAMES = ("", "constraint", "variable", "instance", "edge", "other", "a.b", "\0")


def one(draw: Draw, options: Sequence[T]) -> T:
    return draw(st.sampled_from(options))


def below(draw: Draw, count: int) -> int:
    return draw(st.integers(0, count - 1))


def chance(draw: Draw, percent: int) -> bool:
    return draw(st.integers(1, 100)) > 100 - percent


def seeded(draw: Draw) -> torch.Generator:
    """Draw a generator. The global one is seeded too, so that nothing is left to chance."""
    number = draw(st.integers(0, 2**31))
    torch.manual_seed(number)
    return torch.Generator().manual_seed(number)


def made_by(make: Callable[[Draw], Input]) -> st.SearchStrategy[Input]:
    """Return the strategy of inputs that `make` draws. An error while it draws is what the input raises."""

    @st.composite
    def inputs(draw: Any) -> Input:
        try:
            return make(draw)
        except HypothesisException:
            raise
        except Exception as error:
            return refusal(error)

    return inputs()


def refusal(error: Exception, said: object = "while it was made", mistyped: bool = False) -> Input:
    def run() -> None:
        raise error

    return Input(said, run, mistyped=mistyped)


def odd_tensor(draw: Draw, tensor: Tensor) -> Tensor:
    """Draw a tensor that differs from `tensor` in one way."""
    way = one(draw, (_another_dtype, _resized, _reshaped, _with_values, _with_values, _held_differently))
    return way(draw, tensor.detach())


def _another_dtype(draw: Draw, tensor: Tensor) -> Tensor:
    return tensor.to(one(draw, DTYPES))


def _resized(draw: Draw, tensor: Tensor) -> Tensor:
    if not tensor.ndim:
        return tensor.new_ones(one(draw, (0, 1, 3)))
    dim = below(draw, tensor.ndim)
    size = tensor.size(dim)
    wanted = list(tensor.shape)
    wanted[dim] = max(one(draw, (0, 1, size - 1, size + 1, 3 * size)), 0)
    result = tensor.new_zeros(wanted)
    common = tuple(slice(min(a, b)) for a, b in zip(wanted, tensor.shape, strict=True))
    result[common] = tensor[common]
    return result


def _reshaped(draw: Draw, tensor: Tensor) -> Tensor:
    ways: list[Callable[[], Tensor]] = [
        tensor.flatten,
        lambda: tensor.unsqueeze(0),
        lambda: tensor.unsqueeze(-1),
        lambda: tensor.mT if tensor.ndim > 1 else tensor,
        lambda: tensor[0] if tensor.ndim and len(tensor) else tensor,
        lambda: torch.tensor(1).to(tensor),
        lambda: tensor.new_empty(0),
        lambda: tensor.new_zeros(0, 0),
        lambda: tensor.new_zeros(2, 0, 3),
    ]
    return one(draw, ways)()


def _with_values(draw: Draw, tensor: Tensor) -> Tensor:
    options = (True, False) if tensor.dtype == torch.bool else IN_TENSORS[tensor.is_floating_point()]
    wide = torch.float64 if tensor.is_floating_point() or tensor.is_complex() else torch.int64
    if tensor.numel() and chance(draw, 30):
        return torch.full_like(tensor, torch.tensor(one(draw, options), dtype=wide).to(tensor).item())
    return with_some(draw, tensor, options, 3, wide)


def with_some(
    draw: Draw, tensor: Tensor, options: Sequence[Any], most: int, wide: torch.dtype = torch.float64
) -> Tensor:
    """Replace up to `most` of the numbers by some of `options`."""
    result = tensor.clone(memory_format=torch.contiguous_format)
    for _ in range(draw(st.integers(0, most)) if tensor.numel() else 0):
        value = torch.tensor(one(draw, options), dtype=wide)
        result.view(-1)[below(draw, result.numel())] = value.to(tensor.dtype)
    return result


def _held_differently(draw: Draw, tensor: Tensor) -> Tensor:
    """The same numbers or shape, held in another way."""
    ways: list[Callable[[], Tensor]] = [
        lambda: tensor.to("meta"),
        lambda: torch.stack((tensor, tensor), -1)[..., 0],
        lambda: tensor[..., :1].expand(tensor.shape) if tensor.ndim and tensor.numel() else tensor,
        lambda: tensor.clone().requires_grad_() if tensor.is_floating_point() else tensor,
        lambda: tensor.flip(0) if tensor.ndim else tensor,
    ]
    return one(draw, ways)()


def odd(draw: Draw, value: Any) -> Any:
    """Draw `value` with one part of it exchanged for an odd one of its type."""
    if isinstance(value, Tensor):
        return odd_tensor(draw, value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float | str):
        return one(draw, INTEGERS if isinstance(value, int) else NUMBERS if isinstance(value, float) else NAMES)
    if isinstance(value, Mapping):
        return _odd_mapping(draw, dict(value))
    if isinstance(value, list | tuple):
        return type(value)(_odd_items(draw, list(value)))
    if isinstance(value, torch.Generator):
        return one(draw, (None, torch.Generator(), *(Seeds(torch.arange(n), epoch=1) for n in (0, 1, 3, 5))))
    if is_dataclass(value) and not isinstance(value, type) and fields(value):
        name = one(draw, [field.name for field in fields(value)])
        return replace(value, **{name: odd(draw, getattr(value, name))})
    return value


def _odd_mapping(draw: Draw, value: dict[Any, Any]) -> dict[Any, Any]:
    if not value or chance(draw, 10):
        return {}
    key, way = one(draw, list(value)), one(draw, ("value",) * 7 + ("delete", "rename"))
    if way == "delete":
        return {k: v for k, v in value.items() if k != key}
    return value | ({odd(draw, key): value[key]} if way == "rename" else {key: odd(draw, value[key])})


def _odd_items(draw: Draw, items: list[Any]) -> list[Any]:
    if not items or chance(draw, 10):
        return []
    place, way = below(draw, len(items)), one(draw, ("value", "value", "value", "twice", "delete"))
    changed = {"value": lambda: [odd(draw, items[place])], "twice": lambda: 2 * [items[place]], "delete": list}
    return [*items[:place], *changed[way](), *items[place + 1 :]]


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors of an argument."""
    if isinstance(value, Tensor):
        return [value]
    if is_dataclass(value) and not isinstance(value, type):
        value = [getattr(value, field.name) for field in fields(value)]
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [tensor for part in parts for tensor in tensors_in(part)]


def unwritten(call: Callable[[], Any], *arguments: Any) -> Any:
    """Return the value of `call`, which must not write to a tensor of its arguments."""
    given = [tensor for tensor in tensors_in(arguments) if tensor.device.type == "cpu"]
    before = [tensor.detach().clone() for tensor in given]
    value = call()
    for tensor, copy in zip(given, before, strict=True):
        assert torch.equal(tensor.detach().nan_to_num(), copy.nan_to_num()), "an argument was written to"
    return value
