"""Measures of collapse, which a falling loss does not show: spread, effective rank, cosines, gradient norms.

Look at them together: embeddings around one point can have a healthy rank, and widely spread ones can lie on a line.

All are scalars in float32 without gradient, computed in float64. `valid`, bool `[items]`, is False on padding, which
does not count. Infinite numbers and NaN give NaN. Nothing waits for a GPU, except for the eigenvalues of
`effective_rank`. Other shapes or types raise a ValueError.
"""

from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import Tensor

from jepa_ssl.checks import check_items, check_pairs, check_valid
from jepa_ssl.processes import all_reduce_sum, world_size
from jepa_ssl.protocols import Embeddings

TINY = torch.finfo(torch.float64).tiny


def spread(embeddings: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean over the dimensions of the standard deviation over the items, times sqrt(dim): `[items, dim]` -> scalar.

    For L2-normalised embeddings it lies between 0 (collapsed) and 1 (spread over the whole sphere). It is 0 for fewer
    than two items. Source: Chen and He, "Exploring simple Siamese representation learning", CVPR 2021, section 4.1.

    >>> spread(torch.eye(4)).item(), spread(torch.ones(4, 4)).item()
    (0.866025..., 0.0)
    """
    z, weight = _items(embeddings, valid)
    return _spread(_centred(z, weight), _count(z, weight))


def effective_rank(embeddings: Tensor, valid: Tensor | None = None) -> Tensor:
    """exp of the entropy of the normalised singular values of the centred embeddings: `[items, dim]` -> scalar.

    At most min(items - 1, dim); 0 if all items are equal or there are fewer than two; NaN if one is not finite. Source:
    Roy and Vetterli, "The effective rank", EUSIPCO 2007; RankMe (Garrido et al., ICML 2023) applies it to embeddings.

    >>> cross = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> effective_rank(cross), effective_rank(torch.ones(4, 2))
    (tensor(2.), tensor(0.))
    """
    return rank_of_gram(gram(embeddings, valid), len(embeddings))


def gram(embeddings: Tensor, valid: Tensor | None = None) -> Tensor:
    """Inner products of the centred embeddings, on the smaller side: `[items, items]` or `[dim, dim]`, in float64.

    The embeddings are scaled to a maximum of 1 first, so that tiny ones do not underflow.
    """
    z, weight = _items(embeddings, valid)
    return _gram(z, _centred(z, weight))


def rank_of_gram(gram: Tensor, items: int) -> Tensor:
    """The effective rank of `items` embeddings from their Gram matrix: the part that needs eigenvalues.

    Several matrices of one shape, `[*, size, size]`, give `[*]`.
    """
    finite = gram.isfinite().flatten(-2).all(dim=-1)
    gram = torch.where(finite[..., None, None], gram, 0.0)  # the eigenvalue solver raises on NaN
    squares = cast(Tensor, torch.linalg.eigvalsh(gram))  # pyright: ignore[reportUnknownMemberType]
    lengths = squares.clamp(min=0.0).sqrt()  # in float64 good to 1e-8
    # Identical items differ by rounding after centring, which is not a direction.
    singular = torch.where(lengths > 1e-7 * items**0.5, lengths, 0.0)
    length = singular.sum(dim=-1, keepdim=True)
    p = singular / length.clamp(min=TINY)
    entropy = -torch.xlogy(p, p).sum(dim=-1)
    rank = torch.where(length.squeeze(-1) > 0, entropy.exp(), 0.0)
    return torch.where(finite, rank, torch.nan).float()


def mean_cosine(embeddings: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean cosine of two different items: `[items, dim]` -> scalar. Near 1 all items point in one direction.

    It is NaN for fewer than two items. An item of zeros has cosine 0 with all others.

    >>> mean_cosine(torch.eye(3)).item(), mean_cosine(torch.ones(3, 2)).item()
    (0.0, 1.0)
    """
    z, weight = _items(embeddings, valid)
    return _mean_cosine(z, _count(z, weight))


def spread_cosine_gram(embeddings: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """`spread`, `mean_cosine` and `gram` of the same items, for two thirds of their time."""
    z, weight = _items(embeddings, valid)
    centred, count = _centred(z, weight), _count(z, weight)
    return _spread(centred, count), _mean_cosine(z, count), _gram(z, centred)


def teacher_distance(student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean Euclidean distance between the student's and the teacher's embeddings: two `[items, dim]` -> scalar."""
    a, b, weight = _both(("student", "teacher"), student, teacher, valid)
    return _mean(_lengths(a - b), weight)


def prediction_cosine(predictions: Tensor, targets: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean cosine between predictions and their targets: two `[items, dim]` -> scalar."""
    a, b, weight = _both(("predictions", "targets"), predictions, targets, valid)
    lengths = _lengths(a).clamp(min=TINY) * _lengths(b)
    return _mean((a * b).sum(dim=-1) / lengths.clamp(min=TINY), weight)


def gradient_share(losses: Mapping[str, Tensor], parameters: Iterable[Tensor]) -> dict[str, Tensor]:
    """Norm of each loss's gradient on shared parameters, to see whether the JEPA term reaches the trunk.

    Give the losses with their weights, before `backward`. Each costs about one `backward`. No `.grad` changes, and a
    loss that does not depend on the parameters has norm 0. With several processes (`torch.distributed`, its default
    group) all must call: the gradients are then the means over the processes, as with DDP.

    >>> w = torch.tensor([3.0, 4.0], requires_grad=True)
    >>> gradient_share({"task": (w * w).sum(), "jepa": 0.2 * w.sum()}, [w])
    {'task': tensor(10.), 'jepa': tensor(0.2828)}
    """
    shared = [parameter for parameter in parameters if parameter.requires_grad]
    return {name: _gradient_norm(loss, shared) for name, loss in losses.items()}


def _gradient_norm(loss: Tensor, parameters: list[Tensor]) -> Tensor:
    if not loss.requires_grad or not parameters:
        return loss.new_zeros((), dtype=torch.float32)
    if loss.numel() != 1:
        raise ValueError(f"a loss is {list(loss.shape)}, but must be a scalar; use .mean().")
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
    processes = world_size(training=True)
    if processes > 1:
        gradients = [
            all_reduce_sum(torch.cat([gradient.flatten() for gradient in gradients]), training=True) / processes
        ]
    # In float64, because the squares of small gradients are 0 in float32.
    return torch.stack([gradient.double().square().sum() for gradient in gradients]).sum().sqrt().float()


def spread_and_rank(embeddings: Embeddings) -> dict[str, Tensor]:
    """Spread and effective rank of each stream, as `{"spread/<stream>": ..., "effective_rank/<stream>": ...}`."""
    measures = {"spread": spread, "effective_rank": effective_rank}
    return {f"{name}/{stream}": f(z) for name, f in measures.items() for stream, z in embeddings.items()}


def _items(embeddings: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor | float]:
    """The items in float64 (the square of 1e-30 is 0 in float32) and their weights, `[items, 1]`, 0 on padding."""
    check_items("embeddings", embeddings)
    z = embeddings.detach().double()
    if valid is None:
        return z, 1.0
    check_valid("valid", valid, len(embeddings))
    marks = valid.unsqueeze(-1)
    return torch.where(marks, z, 0.0), marks.double()


def _both(
    names: tuple[str, str], first: Tensor, second: Tensor, valid: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | float]:
    """Two embeddings of the same items and their weights, as `_items` returns them."""
    check_items(names[0], first)
    check_pairs(names[0], first, names[1], second)
    (a, weight), (b, _) = _items(first, valid), _items(second, valid)
    return a, b, weight


def _count(z: Tensor, weight: Tensor | float) -> Tensor | float:
    return weight.sum() if isinstance(weight, Tensor) else float(len(z))


def _at_least_one(count: Tensor | float) -> Tensor | float:
    return count.clamp(min=1.0) if isinstance(count, Tensor) else max(count, 1.0)


def _centred(z: Tensor, weight: Tensor | float) -> Tensor:
    """`z` minus its mean; still 0 on padding."""
    centred = z - z.sum(dim=0) / _at_least_one(_count(z, weight))
    return centred * weight if isinstance(weight, Tensor) else centred


def _lengths(z: Tensor) -> Tensor:
    return cast(Tensor, torch.linalg.vector_norm(z, dim=-1))  # pyright: ignore[reportUnknownMemberType]


def _spread(centred: Tensor, count: Tensor | float) -> Tensor:
    deviations = (centred.square().sum(dim=0) / _at_least_one(count)).sqrt()
    return deviations.float().mean() * centred.size(1) ** 0.5


def _mean_cosine(z: Tensor, count: Tensor | float) -> Tensor:
    lengths = _lengths(z)  # 0 on padding
    # The square of the sum of unit vectors holds all pairs; the pairs of an item with itself are subtracted.
    pairs = (lengths.clamp(min=TINY).reciprocal() @ z).square().sum() - (lengths > 0).sum()
    ordered = torch.as_tensor(count * (count - 1.0), device=z.device)
    return torch.where(ordered > 0, pairs / ordered, torch.nan).float()


def _gram(z: Tensor, centred: Tensor) -> Tensor:
    scaled = centred.div_(z.abs().amax().clamp(min=TINY)) if z.numel() else centred
    return scaled @ scaled.T if len(z) < z.size(1) else scaled.T @ scaled


def _mean(values: Tensor, weight: Tensor | float) -> Tensor:
    if isinstance(weight, Tensor):
        return ((values * weight.squeeze(-1)).sum() / weight.sum()).float()
    return values.mean().float()
