"""Prediction losses per item: `[items, dim], [items, dim] -> [items]`.

Half precision is computed and returned in float32. A ValueError is raised for other shapes or types.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from jepa_ssl.checks import check_items, check_pairs


def cosine_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """`2 - 2 cos(p, z)` for each item, in [0, 4] up to rounding: `[items, dim], [items, dim] -> [items]`.

    Source: BYOL (Grill et al., "Bootstrap your own latent", NeurIPS 2020), equation 2. A vector of zeros has cosine 0.

    >>> cosine_loss(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[2.0, 0.0], [-1.0, 0.0]]))
    tensor([0., 4.])
    """
    predictions, targets = _in_one_precision(predictions, targets)
    return 2.0 - 2.0 * F.cosine_similarity(predictions, targets, dim=-1)


def smooth_l1_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Smooth L1 distance to the layer-normalised target, mean over dimensions: `[items, dim], [items, dim] -> [items]`.

    Each target is shifted and scaled to mean 0 and variance 1 over its dimensions. A teacher therefore cannot lower the
    loss by shrinking its embeddings, unless their standard deviation falls to about 3e-3. A difference d counts `d^2
    / 2` up to 1 and `|d| - 1/2` beyond.

    Source: the code of I-JEPA (Assran et al., "Self-supervised learning from images with a joint-embedding predictive
    architecture", CVPR 2023), with beta = 1.

    >>> smooth_l1_loss(torch.tensor([[1.5, -1.5], [3.0, -1.0]]), torch.tensor([[7.0, 5.0], [7.0, 5.0]]))
    tensor([0.1250, 0.7500])
    """
    predictions, targets = _in_one_precision(predictions, targets)
    normalised = F.layer_norm(targets, targets.shape[-1:])
    return F.smooth_l1_loss(predictions, normalised, reduction="none").mean(dim=-1)


def squared_error(predictions: Tensor, targets: Tensor) -> Tensor:
    """`(p - z)^2`, mean over the dimensions: `[items, dim], [items, dim] -> [items]`.

    >>> squared_error(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 4.0]]))
    tensor([2.])
    """
    predictions, targets = _in_one_precision(predictions, targets)
    return (predictions - targets).square().mean(dim=-1)


def _in_one_precision(predictions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    check_pairs("predictions", predictions, "targets", targets)
    check_items("predictions", predictions)
    check_items("targets", targets)
    # In float16 squares overflow, and the epsilons that prevent a division by zero round to zero.
    dtype = torch.promote_types(torch.promote_types(predictions.dtype, targets.dtype), torch.float32)
    return predictions.to(dtype), targets.to(dtype)
