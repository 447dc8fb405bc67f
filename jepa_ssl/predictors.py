"""Projector and predictor networks: a two-layer MLP for each stream."""

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from jepa_ssl.protocols import Embeddings


class _StreamMLPs(nn.Module):
    """One `Linear - activation - Linear` a stream, applied to the stream of that name."""

    def __init__(self, sizes: Mapping[str, tuple[int, int, int]], activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        for stream, size in sizes.items():
            if min(size) < 1:
                raise ValueError(
                    f"stream {stream!r} has (input, hidden, output) sizes {size}, but each must be at least 1; give "
                    f"the widths of your trunk and of the embedding."
                )
        self.streams = nn.ModuleDict(
            {
                stream: nn.Sequential(nn.Linear(inputs, hidden), activation(), nn.Linear(hidden, outputs))
                for stream, (inputs, hidden, outputs) in sizes.items()
            }
        )

    def forward(self, embeddings: Embeddings) -> dict[str, Tensor]:
        if set(embeddings) != set(self.streams):
            raise ValueError(
                f"embeddings has the streams {sorted(embeddings)}, but this {type(self).__name__} was built for "
                f"{sorted(self.streams)}; name the same streams in both places."
            )
        return {stream: mlp(embeddings[stream]) for stream, mlp in self.streams.items()}


class MLPProjector(_StreamMLPs):
    """From trunk features to L2-normalised embeddings: stream -> `[items, width]` to stream -> `[items, dim]`.

    Args:
        widths: trunk width of each stream.
        dim: size of the embedding, the same for all streams.
        activation: `nn.ReLU` by default.
    """

    def __init__(self, widths: Mapping[str, int], dim: int, activation: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__({stream: (width, width, dim) for stream, width in widths.items()}, activation)

    def forward(self, embeddings: Embeddings) -> dict[str, Tensor]:
        return {stream: F.normalize(z, dim=-1) for stream, z in super().forward(embeddings).items()}


class MLPPredictor(_StreamMLPs):
    """From the context's embeddings to predictions of the target's: stream -> `[items, dim]`, of the same shape.

    Args:
        dims: size of the embedding of each stream.
        hidden: width of the hidden layer; that of the embedding by default.
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
