"""Projector and predictor networks: a two-layer MLP per stream."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa_ssl.checks import check_items, whole_number
from jepa_ssl.names import key_of
from jepa_ssl.protocols import Embeddings
from jepa_ssl.seeds import own_initialization


class _StreamMLPs(nn.Module):
    """One `Linear - activation - Linear` per stream."""

    def __init__(self, sizes: Mapping[str, tuple[int, int, int]], activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        for stream, size in sizes.items():
            for name, each in zip(("input", "hidden", "output"), size, strict=True):
                whole_number(f"{name} size of stream {stream!r}", each, 1, "give the widths of trunk and embedding.")
        with own_initialization(type(self).__name__):
            self.streams = nn.ModuleDict(
                {
                    key_of(stream): nn.Sequential(nn.Linear(inputs, hidden), activation(), nn.Linear(hidden, outputs))
                    for stream, (inputs, hidden, outputs) in sizes.items()
                }
            )
        self.widths = {stream: inputs for stream, (inputs, _, _) in sizes.items()}

    def forward(self, embeddings: Embeddings) -> dict[str, Tensor]:
        _check("embeddings", embeddings, self.widths, self)
        return {stream: mlp(embeddings[stream]) for stream, mlp in zip(self.widths, self.streams.values(), strict=True)}


class MLPProjector(_StreamMLPs):
    """Map trunk features to L2-normalised embeddings: stream -> `[items, width]` to stream -> `[items, dim]`.

    Args:
        widths: trunk width of each stream.
        dim: size of the embedding, the same for all streams.
        activation: `nn.ReLU` by default.
    """

    def __init__(self, widths: Mapping[str, int], dim: int, activation: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__({stream: (width, width, dim) for stream, width in widths.items()}, activation)

    def forward(self, embeddings: Embeddings) -> dict[str, Tensor]:
        return {stream: _unit(z) for stream, z in super().forward(embeddings).items()}


def _unit(z: Tensor) -> Tensor:
    # torch's eps of 1e-12 prevents NaN for zeros, but rounds to 0 in float16.
    return F.normalize(z, dim=-1, eps=max(1e-12, torch.finfo(z.dtype).tiny))


class MLPPredictor(_StreamMLPs):
    """Map the context's embeddings to predictions of the target's: stream -> `[items, dim]`, same shape.

    Args:
        dims: size of the embedding of each stream.
        hidden: width of the hidden layer; that of the embedding by default. A smaller width is a bottleneck: it limits
            the degrees of freedom of a prediction.
        activation: `nn.ReLU` by default.

    >>> import torch
    >>> MLPPredictor({"instance": 8})({"instance": torch.zeros(3, 8)})["instance"].shape
    torch.Size([3, 8])
    """

    def __init__(
        self, dims: Mapping[str, int], hidden: int | None = None, activation: Callable[[], nn.Module] = nn.ReLU
    ) -> None:
        super().__init__(
            {stream: (dim, dim if hidden is None else hidden, dim) for stream, dim in dims.items()}, activation
        )


def _check(name: str, given: Embeddings, widths: Mapping[str, int], network: nn.Module) -> None:
    if given.keys() != widths.keys():
        raise ValueError(
            f"{name} has the streams {sorted(given)}, but this {type(network).__name__} was built for "
            f"{sorted(widths)}; name the same streams in both places."
        )
    for stream, width in widths.items():
        remedy = f"this {type(network).__name__} was built for that width."
        check_items(f"{name}[{stream!r}]", given[stream], width, remedy)
