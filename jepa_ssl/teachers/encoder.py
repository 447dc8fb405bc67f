"""Teachers that are the encoder itself, without a copy and without state."""

from typing import Any

import torch

from jepa_ssl.protocols import Embeddings, Encoded, Encoder, detached


class StopGradTeacher:
    """The encoder itself without gradient, as in SimSiam.

    Source: Chen and He, "Exploring simple Siamese representation learning", CVPR 2021.
    """

    learns = False

    def __call__(self, encoder: Encoder[Any], target: Any) -> Embeddings | Encoded:
        with torch.no_grad():
            encoded = encoder(target)
        # The encoder may return a precomputed result that has a gradient.
        return encoded.detach() if isinstance(encoded, Encoded) else detached(encoded)

    def update(self, encoder: Encoder[Any]) -> None:
        """Do nothing: the teacher is the encoder."""


class SharedTeacher:
    """The encoder itself, with gradient through both views; only a regulariser prevents collapse.

    Source: Bardes, Ponce and LeCun, "VICReg", ICLR 2022; Balestriero and LeCun, "LeJEPA", 2025.
    """

    learns = True

    def __call__(self, encoder: Encoder[Any], target: Any) -> Embeddings | Encoded:
        return encoder(target)

    def update(self, encoder: Encoder[Any]) -> None:
        """Do nothing: the teacher is the encoder."""
