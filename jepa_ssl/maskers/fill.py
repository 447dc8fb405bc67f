"""Fills: the values that replace hidden ones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import isclass

import torch
from torch import Tensor, nn

from jepa_ssl.checks import non_negative
from jepa_ssl.names import key_of
from jepa_ssl.protocols import Fill
from jepa_ssl.seeds import own_initialization

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by size in bytes


def fill_or_zeros(fill: Fill | None) -> Fill:
    """Return `fill` after a check, or `Zeros()` for None."""
    if fill is None:
        return Zeros()
    if isclass(fill) or not callable(fill):
        raise TypeError(
            f"fill is {fill!r}, but must be a Fill, an object that can be called with values; use Zeros(), for "
            f"example, not Zeros."
        )
    return fill


@dataclass(frozen=True)
class Zeros:
    """Replace hidden values by 0."""

    def __call__(self, values: Tensor, hidden: Tensor, /, **_: object) -> Tensor:
        if values.requires_grad:
            return values.masked_fill(hidden, 0.0)
        # A mask with no bits at hidden values and all bits elsewhere. On a CPU this is 20 times as fast as masked_fill,
        # which branches.
        bits = _INTEGERS[values.element_size()]
        keep, given = (hidden.view(torch.int8) - 1).to(bits), values.view(bits)
        # In place if possible, because allocating memory takes as long as the operation.
        filled = keep.bitwise_and_(given) if keep.shape == given.shape else keep & given
        return filled.view(values.dtype)


@dataclass(frozen=True)
class GaussianNoise:
    """Replace hidden values by independent draws from a normal distribution of mean 0 and standard deviation `std`."""

    std: float = 0.01

    def __post_init__(self) -> None:
        non_negative("std", self.std)

    def __call__(self, values: Tensor, hidden: Tensor, /, *, noise: Callable[[], Tensor], **_: object) -> Tensor:
        return torch.where(hidden, self.std * noise(), values)


@dataclass(frozen=True)
class Shuffled:
    """Replace hidden values by those of other items of the same instance, each drawn uniformly, hidden or not.

    A node takes all features of another node of its stream and graph. An edge takes those of another edge of its stream
    and graph. An entry of a vector takes the value of another real entry of the vector. So fills have the scale of the
    data, never come from padding, and do not depend on the rest of the batch. If most values are 0, most fills equal
    what they replace; `hidden_share` measures this.

    Hidden items are drawn too, so a hidden value may appear at another hidden place. The context then contains what is
    to be predicted, but not its place. Use another fill if that is a problem.
    """

    def __call__(self, values: Tensor, hidden: Tensor, /, *, others: Callable[[], Tensor], **_: object) -> Tensor:
        return torch.where(hidden, others(), values)


class LearnedToken(nn.Module):
    """Replace hidden values by a learned vector, one per stream, in the space of the features.

    The tokens are among `jepa.parameters()`, so the optimizer trains them; your model does not change. They start as
    small normal numbers, as in BERT (Devlin et al., NAACL 2019).

    Args:
        widths: stream -> width of its token. For nodes (`"constraint"`) and edges (`"edge"`) this is the number of
            features. For vectors (`"instance"`) it is the number of entries, each with a number of its own. A width of
            1 uses one number everywhere; it is required if the width differs from batch to batch.

    >>> from jepa_ssl import EntryMasker
    >>> token = LearnedToken({"instance": 4})
    >>> views = EntryMasker(0.5, fill=token)(torch.zeros(2, 4))
    >>> (views.context == token.tokens["instance"]).sum(dim=1)
    tensor([2, 2])
    """

    def __init__(self, widths: Mapping[str, int]) -> None:
        super().__init__()
        if not widths:
            raise ValueError(f"widths is {dict(widths)}, which makes no token; give a width for each hidden stream.")
        for stream, width in widths.items():
            if width < 1:
                raise ValueError(
                    f"widths[{stream!r}] is {width}, but must be at least 1; give the number of features of an item, "
                    f"or 1 for one number in all places."
                )
        self.keys = {stream: key_of(stream) for stream in widths}
        with own_initialization(type(self).__name__):
            self.tokens = nn.ParameterDict({self.keys[s]: 0.02 * torch.randn(width) for s, width in widths.items()})

    def forward(self, values: Tensor, hidden: Tensor, /, *, stream: str, **_: object) -> Tensor:
        width = values.size(-1) if values.ndim > 1 else 1  # edge attributes may be one-dimensional
        if stream not in self.keys:
            raise ValueError(
                f"LearnedToken has tokens for {sorted(self.keys)}, but {stream!r} is hidden too; "
                f"add it to widths: {{{stream!r}: {width}}}."
            )
        token: Tensor = self.tokens[self.keys[stream]]
        if len(token) != 1 and len(token) != width:  # `in` does not compile if the width may change
            raise ValueError(
                f"the token of {stream!r} is {len(token)} wide, but the values are {list(values.shape)}; "
                f"build LearnedToken with width {width}{' for' if width == 1 else ', or with 1 for'} one number in all "
                f"places."
            )
        return torch.where(hidden, token.to(values.dtype), values)
