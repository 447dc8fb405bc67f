"""What stands in the place of a hidden value."""

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
    """`fill`, if it is one, and `Zeros()` for None."""
    if fill is None:
        return Zeros()
    if isclass(fill) or not callable(fill):
        raise TypeError(
            f"fill is {fill!r}, but must be a Fill, an object that is called with values; use Zeros(), for example, "
            f"not Zeros."
        )
    return fill


@dataclass(frozen=True)
class Zeros:
    """Hidden values become 0."""

    def __call__(self, values: Tensor, hidden: Tensor, /, **_: object) -> Tensor:
        if values.requires_grad:
            return values.masked_fill(hidden, 0.0)
        # No bits where hidden, all bits elsewhere: on a CPU twenty times as fast as masked_fill, which has to branch.
        bits = _INTEGERS[values.element_size()]
        keep, given = (hidden.view(torch.int8) - 1).to(bits), values.view(bits)
        # In place where it can be: to ask for fresh memory costs as much as the work.
        filled = keep.bitwise_and_(given) if keep.shape == given.shape else keep & given
        return filled.view(values.dtype)


@dataclass(frozen=True)
class GaussianNoise:
    """Hidden values become independent draws from a normal distribution of mean 0 and standard deviation `std`."""

    std: float = 0.01

    def __post_init__(self) -> None:
        non_negative("std", self.std)

    def __call__(self, values: Tensor, hidden: Tensor, /, *, noise: Callable[[], Tensor], **_: object) -> Tensor:
        return torch.where(hidden, self.std * noise(), values)


@dataclass(frozen=True)
class Shuffled:
    """Hidden values become those of other items of the same instance, each drawn uniformly, hidden or not.

    A node takes all features of one other node of its kind and graph, an edge those of another edge of its graph, an
    entry of a vector the value of another real entry of that vector. So what is filled in is as large as what it
    replaces, never comes from padding, and does not depend on the other instances of the batch. Where most values are
    0, most fills equal what they replace: look at `hidden_share`.

    Hidden items are drawn from too, so that the value of one may turn up in the place of another: the context then
    holds what is to be predicted, though not where. Where that must not be, use another fill.
    """

    def __call__(self, values: Tensor, hidden: Tensor, /, *, others: Callable[[], Tensor], **_: object) -> Tensor:
        return torch.where(hidden, others(), values)


class LearnedToken(nn.Module):
    """Hidden values become a learned vector, one for each stream, in the space of the features.

    The tokens are parameters of the objective that holds the masker: the optimizer that is given `jepa.parameters()`
    trains them, and no model changes. They start as small normal numbers, as in BERT (Devlin et al., NAACL 2019).

    Args:
        widths: stream -> features of an item: of a kind of node, `"constraint"` for example, of an `"edge"`, or entries
            of a vector of `"instance"`, each of which then has a number of its own; 1 is one number for all of them,
            and the only choice where the width differs from batch to batch.

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
        width = values.size(-1) if values.ndim > 1 else 1  # edges may have a number each, in one dimension
        if stream not in self.keys:
            raise ValueError(
                f"LearnedToken has tokens for {sorted(self.keys)}, but {stream!r} is hidden too; "
                f"add it to widths: {{{stream!r}: {width}}}."
            )
        token: Tensor = self.tokens[self.keys[stream]]
        if len(token) != 1 and len(token) != width:  # `in` does not compile where the width may change
            raise ValueError(
                f"the token of {stream!r} is {len(token)} wide, but the values are {list(values.shape)}; "
                f"build LearnedToken with width {width}{' for' if width == 1 else ', or with 1 for'} one number in all "
                f"places."
            )
        return torch.where(hidden, token.to(values.dtype), values)
