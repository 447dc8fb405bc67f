"""Prediction losses: how far a prediction is from its target, item by item."""

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """`2 - 2 cos(p, z)` for each item, in [0, 4] to rounding: `[items, dim], [items, dim] -> [items]`.

    Source: BYOL (Grill et al., "Bootstrap your own latent", NeurIPS 2020), equation 2. A vector of zeros has cosine 0.
    Half precision is computed, and returned, in float32.

    >>> cosine_loss(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[2.0, 0.0], [-1.0, 0.0]]))
    tensor([0., 4.])
    """
    # In float16 the epsilon that guards a division by zero is itself zero.
    dtype = torch.promote_types(torch.promote_types(predictions.dtype, targets.dtype), torch.float32)
    return 2.0 - 2.0 * F.cosine_similarity(predictions.to(dtype), targets.to(dtype), dim=-1)
