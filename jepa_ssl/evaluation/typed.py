"""Functions of torch whose types are unknown to a type checker, with types."""

from typing import Any

import torch
from torch import Tensor


def unique(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct values in rising order, the position of each item among them, and how often each occurs."""
    return torch.unique(values, return_inverse=True, return_counts=True)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def as_list(values: Tensor) -> list[Any]:
    return values.tolist()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def midranks(values: Tensor) -> Tensor:
    """Ranks from 1, `[items]` in float64; tied items share their mean rank.

    >>> midranks(torch.tensor([5.0, 1.0, 5.0]))
    tensor([2.5000, 1.0000, 2.5000], dtype=torch.float64)
    """
    _, place, count = unique(values)
    return (count.cumsum(0) - (count - 1) / 2).double()[place]
