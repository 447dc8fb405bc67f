"""Random numbers for each LP, and for each of its rows or columns."""

import torch
from torch import Tensor

from jepa_ssl.contrib.symmetries.axes import Axis
from jepa_ssl.seeds import Randomness, Seeds, normal_like, random_keys


def uniform_per_lp(axis: Axis, generator: Randomness, dtype: torch.dtype) -> Tensor:
    """Uniform numbers between 0 and 1: `[LPs]`."""
    owner = torch.arange(len(axis.sizes), device=axis.sizes.device)
    return _uniform(owner, torch.zeros_like(owner), generator, dtype)


def uniform_per_item(axis: Axis, generator: Randomness, dtype: torch.dtype) -> Tensor:
    """Uniform numbers between 0 and 1, one for each item of the axis."""
    return _uniform(axis.owner, axis.place, generator, dtype)


def normal_per_item(axis: Axis, generator: Randomness, like: Tensor) -> Tensor:
    """Standard normal numbers, one for each item of the axis, in the dtype of `like`."""
    return normal_like(like.flatten(), generator, axis.owner.flatten).view_as(like)


def log_uniform(uniform: Tensor, factor: float) -> Tensor:
    """Numbers in `[1 / factor, factor]` with a uniform logarithm, from uniform numbers between 0 and 1."""
    return torch.pow(factor, uniform * 2 - 1)


def _uniform(owner: Tensor, place: Tensor, generator: Randomness, dtype: torch.dtype) -> Tensor:
    if isinstance(generator, Seeds):
        keys = random_keys(generator, owner, lambda: place)
        return ((keys >> 9).double() / 2**53).to(dtype)
    return torch.rand(owner.shape, generator=generator, dtype=dtype, device=owner.device)
