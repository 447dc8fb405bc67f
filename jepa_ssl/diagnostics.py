"""Is it learning? Measures of a cloud of embeddings that a falling loss does not show.

Look at them together: a cloud around one point can have a healthy rank, and a wide one can lie on a line.
"""

from typing import cast

import torch
from torch import Tensor

from jepa_ssl.protocols import Embeddings


def spread(embeddings: Tensor) -> Tensor:
    """Mean over the dimensions of the standard deviation over the items, times sqrt(dim): `[items, dim]` -> scalar.

    For L2-normalised embeddings it lies between 0 (all alike: collapsed) and 1 (all over the sphere). Source: Chen and
    He, "Exploring simple Siamese representation learning", CVPR 2021, section 4.1. Fewer than two items have spread 0.

    >>> spread(torch.eye(4)).item(), spread(torch.ones(4, 4)).item()
    (0.866025..., 0.0)
    """
    z = embeddings.detach().double()  # the square of 1e-30 is 0 in float32
    if len(z) < 2:
        return z.new_zeros((), dtype=torch.float32)
    return (z.std(dim=0, correction=0).mean() * z.size(1) ** 0.5).float()


def effective_rank(embeddings: Tensor) -> Tensor:
    """exp of the entropy of the normalised singular values of the centred embeddings: `[items, dim]` -> scalar.

    At most min(items - 1, dim); 0 where all items are alike, or fewer than two; NaN where
    one is not finite. Source: Roy and Vetterli, "The
    effective rank", EUSIPCO 2007; RankMe (Garrido et al., ICML 2023) applies it to embeddings.

    >>> cross = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> effective_rank(cross), effective_rank(torch.ones(4, 2))
    (tensor(2.), tensor(0.))
    """
    z = embeddings.detach().double()
    if len(z) < 2:
        return embeddings.new_zeros((), dtype=torch.float32)
    finite = z.isfinite().all()
    z = torch.where(finite, z, 0.0)  # the eigenvalue solver raises on NaN
    scale = z.abs().amax().clamp(min=torch.finfo(z.dtype).tiny)  # the rank of a tiny cloud must not underflow
    centred = (z - z.mean(dim=0)) / scale
    # The Gram matrix is dim x dim however many items there are; in double its square roots are good to 1e-8.
    squares = cast(Tensor, torch.linalg.eigvalsh(centred.T @ centred))  # pyright: ignore[reportUnknownMemberType]
    lengths = squares.clamp(min=0.0).sqrt()
    # What is left of identical items after centring is rounding, not a direction.
    singular = torch.where(lengths > 1e-7 * len(z) ** 0.5, lengths, 0.0)
    p = singular / singular.sum().clamp(min=torch.finfo(z.dtype).tiny)
    entropy = -torch.xlogy(p, p).sum()
    rank = torch.where(p.sum() > 0, entropy.exp(), 0.0)
    return torch.where(finite, rank, torch.nan).float()


def describe(embeddings: Embeddings) -> dict[str, Tensor]:
    """Spread and effective rank of each stream, as `{"spread/<stream>": ..., "effective_rank/<stream>": ...}`."""
    measures = {"spread": spread, "effective_rank": effective_rank}
    return {f"{name}/{stream}": f(z) for name, f in measures.items() for stream, z in embeddings.items()}
