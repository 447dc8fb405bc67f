"""Argument checks. Their errors name the argument, its value, what was expected, and what to do."""

import math
import sys
import warnings
from numbers import Integral, Real

import torch
from torch import Tensor

MOST = 2**31 - 1  # a larger count is a mistake and would overflow later


def _number(name: str, value: object, remedy: str = "give an int or a float.") -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} is {value!r}, a {type(value).__name__}, but must be a number; {remedy}")


def open_fraction(name: str, value: float) -> float:
    """Return `value` if it is a number with 0 < value < 1, else raise."""
    _number(name, value)
    if not 0.0 < value < 1.0:  # False for NaN too
        raise ValueError(
            f"{name} is {value}, but must lie strictly between 0 and 1: at 0 nothing is hidden, at 1 nothing is "
            f"left to predict from; 0.3 to 0.5 is usual."
        )
    return float(value)


def closed_fraction(name: str, value: float) -> float:
    """Return `value` if it is a number with 0 <= value <= 1, else raise."""
    _number(name, value)
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} is {value}, but must lie in [0, 1]; choose a number between them, ends included.")
    return float(value)


def non_negative(name: str, value: float) -> float:
    """Return `value` if it is a finite number that is at least 0, else raise."""
    _number(name, value)
    if not (math.isfinite(value) and value >= 0.0):
        raise ValueError(f"{name} is {value}, but must be a finite number that is at least 0; use 0 to switch it off.")
    return float(value)


def whole_number(name: str, value: int, least: int, remedy: str = "give an int.") -> int:
    """Return `value` if it is an integer from `least` to `MOST`, else raise; 2.0 is not an integer."""
    _number(name, value, "give an int.")
    if not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} is {value}, but must be a whole number that is at least {least}; {remedy}")
    if value > MOST:
        raise ValueError(f"{name} is {value}, but must be a whole number that is at most {MOST}; {remedy}")
    return int(value)


def describe(tensor: Tensor) -> str:
    """Describe dtype and shape of a tensor, for an error message.

    >>> describe(torch.zeros(2, 3))
    'float32 [2, 3]'
    """
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def check_items(name: str, z: Tensor, dim: int | None = None, remedy: str = "give one row for each item.") -> None:
    """Raise a ValueError unless `z` is floating point `[items, dim]`; without `dim` any size is valid."""
    if z.ndim != 2 or not z.is_floating_point() or (dim is not None and z.size(1) != dim):
        expected = f"floating point [items, {'dim' if dim is None else dim}]"
        raise ValueError(f"{name} is {describe(z)}, but must be {expected}; {remedy}")


def check_pairs(
    first_name: str,
    first: Tensor,
    second_name: str,
    second: Tensor,
    remedy: str = "give one row for each item in both.",
) -> None:
    """Raise a ValueError unless both are `[items, dim]` and of one shape, because torch would broadcast."""
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(
            f"{first_name} is {describe(first)} and {second_name} {describe(second)}, but both must be [items, dim] of "
            f"one shape; {remedy}"
        )


def check_valid(name: str, valid: Tensor, items: int) -> None:
    """Raise a ValueError unless `valid` is a mask of `items` items."""
    if valid.dtype != torch.bool or valid.shape != (items,):
        raise ValueError(f"{name} is {describe(valid)}, but must be bool [{items}], True where an item is real.")


def can_read_without_sync(tensor: Tensor) -> bool:
    """Whether numbers of `tensor` can be read without waiting for a device, or breaking a graph being compiled."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def generator_fits(generator: torch.Generator | None, device: torch.device) -> None:
    """Raise unless `generator` can draw on `device`, or is None."""
    if not isinstance(generator, torch.Generator | None):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"generator is {generator!r}, a {type(generator).__name__}, but must be a torch.Generator or None; "
            f"for a seed use torch.Generator(device={str(device)!r}).manual_seed(seed)."
        )
    if generator is not None and generator.device.type != device.type:
        raise ValueError(
            f"generator is on {generator.device}, but the instance is on {device}; "
            f"make it with torch.Generator(device={str(device)!r})."
        )


def warn_caller(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn, and point at the line outside of this package and of torch that called."""
    frame, level = sys._getframe(1), 2  # pyright: ignore[reportPrivateUsage]
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).split(".")[0] in ("jepa_ssl", "torch"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
