"""Is it learning? Measures of a cloud of embeddings that a falling loss does not show.

Look at them together: a cloud around one point can have a healthy rank, and a wide one can lie on a line.

All are scalars in float32 without gradient, computed in float64. `valid`, bool `[items]`, is False on padding, which
does not count, whatever it holds. What is not finite gives NaN. Nothing waits for a GPU, with one exception: there the
eigenvalues of `effective_rank` do. Other shapes or types raise a ValueError.
"""

from collections.abc import Iterable, Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from jepa_ssl.checks import generator_fits, whole_number
from jepa_ssl.processes import all_reduce_sum, world_size
from jepa_ssl.protocols import Embeddings

TINY = torch.finfo(torch.float64).tiny
PAIRS = 2**16  # of items, beyond which `uniformity` draws; a mean over so many is good to a percent


# ---- one cloud ---------------------------------------------------------------------------------------------


def spread_per_dimension(embeddings: Tensor, valid: Tensor | None = None) -> Tensor:
    """Standard deviation over the items, in each dimension: `[items, dim]` -> `[dim]`. Of fewer than two items it is 0.

    >>> spread_per_dimension(torch.tensor([[1.0, 5.0], [-1.0, 5.0]]))
    tensor([1., 0.])
    """
    z, weight = _items(embeddings, valid)
    return (_centred(z, weight).square().sum(dim=0) / _at_least_one(_count(z, weight))).sqrt().float()


def spread(embeddings: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean over the dimensions of the standard deviation over the items, times sqrt(dim): `[items, dim]` -> scalar.

    For L2-normalised embeddings it lies between 0 (all alike: collapsed) and 1 (all over the sphere). Source: Chen and
    He, "Exploring simple Siamese representation learning", CVPR 2021, section 4.1. Fewer than two items have spread 0.

    >>> spread(torch.eye(4)).item(), spread(torch.ones(4, 4)).item()
    (0.866025..., 0.0)
    """
    return spread_per_dimension(embeddings, valid).mean() * embeddings.size(1) ** 0.5


def effective_rank(embeddings: Tensor, valid: Tensor | None = None) -> Tensor:
    """exp of the entropy of the normalised singular values of the centred embeddings: `[items, dim]` -> scalar.

    At most min(items - 1, dim); 0 where all items are alike, or fewer than two; NaN where one is not finite. Source:
    Roy and Vetterli, "The effective rank", EUSIPCO 2007; RankMe (Garrido et al., ICML 2023) applies it to embeddings.

    >>> cross = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> effective_rank(cross), effective_rank(torch.ones(4, 2))
    (tensor(2.), tensor(0.))
    """
    return rank_of_gram(gram(embeddings, valid), len(embeddings))


def gram(embeddings: Tensor, valid: Tensor | None = None) -> Tensor:
    """Inner products of the centred embeddings, on the smaller side: `[items, items]` or `[dim, dim]`, in float64.

    The embeddings are brought to one scale before, so that a tiny cloud does not underflow.
    """
    z, weight = _items(embeddings, valid)
    scale = z.abs().amax().clamp(min=TINY) if z.numel() else 1.0
    z = _centred(z, weight) / scale
    return z @ z.T if len(z) < z.size(1) else z.T @ z


def rank_of_gram(gram: Tensor, items: int) -> Tensor:
    """The effective rank of the `items` embeddings whose `gram` this is: the half of it that needs eigenvalues."""
    finite = gram.isfinite().all()
    gram = torch.where(finite, gram, 0.0)  # the eigenvalue solver raises on NaN
    squares = cast(Tensor, torch.linalg.eigvalsh(gram))  # pyright: ignore[reportUnknownMemberType]
    lengths = squares.clamp(min=0.0).sqrt()  # in float64 good to 1e-8
    # What is left of identical items after centring is rounding, not a direction.
    singular = torch.where(lengths > 1e-7 * items**0.5, lengths, 0.0)
    p = singular / singular.sum().clamp(min=TINY)
    entropy = -torch.xlogy(p, p).sum()
    rank = torch.where(p.sum() > 0, entropy.exp(), 0.0)
    return torch.where(finite, rank, torch.nan).float()


def mean_cosine(embeddings: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean cosine of two different items: `[items, dim]` -> scalar. Near 1 all lie around a common vector.

    Fewer than two items have none: NaN. An item of zeros has cosine 0 with all others.

    >>> mean_cosine(torch.eye(3)).item(), mean_cosine(torch.ones(3, 2)).item()
    (0.0, 1.0)
    """
    z, weight = _items(embeddings, valid)
    unit = F.normalize(z, dim=-1, eps=TINY)  # 0 on padding
    count = _count(z, weight)
    # Of the square of the sum, all pairs at once, the items with themselves are taken off.
    pairs = unit.sum(dim=0).square().sum() - unit.square().sum()
    return (pairs / torch.as_tensor(count * (count - 1.0))).float()


def uniformity(
    embeddings: Tensor,
    valid: Tensor | None = None,
    *,
    t: float = 2.0,
    pairs: int = PAIRS,
    generator: torch.Generator | None = None,
) -> Tensor:
    """log of the mean of `exp(-t ||u - v||^2)` over pairs of items, on the unit sphere: 0 if all are alike, else below.

    Source: Wang and Isola, "Understanding contrastive representation learning through alignment and uniformity on the
    hypersphere", ICML 2020. Of more than `pairs` pairs, as many are drawn by `generator`; up to then it is exact. NaN
    for fewer than two items.
    """
    z, weight = _items(embeddings, valid)
    pairs = whole_number("pairs", pairs, 1, "the default is usual.")
    unit, items = F.normalize(z, dim=-1, eps=TINY), len(z)
    if items * (items - 1) // 2 <= pairs:
        first, second = torch.triu_indices(items, items, 1, device=z.device)
    else:
        generator_fits(generator, z.device)
        draw = torch.rand(2, pairs, generator=generator, dtype=torch.float64, device=z.device)
        count = items if valid is None else valid.sum().clamp(min=2)
        first = (draw[0] * count).long()
        second = (first + 1 + (draw[1] * (count - 1)).long()) % count
        if valid is not None:  # drawn among the real ones, for of few of them in much padding no pair would be met
            real = valid.to(torch.uint8).argsort(descending=True, stable=True)
            first, second = real[first], real[second]
    closeness = (-t * (unit[first] - unit[second]).square().sum(dim=-1)).exp()
    both = weight[first] * weight[second] if isinstance(weight, Tensor) else weight
    return _mean(closeness, both).log()


# ---- two clouds, item by item ------------------------------------------------------------------------------


def alignment(first: Tensor, second: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean of `||u - v||^2` over the items of two views, on the unit sphere: 0 if they agree, at most 4.

    Source: as `uniformity`. NaN without items.

    >>> alignment(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]]))
    tensor(2.)
    """
    a, b, weight = _both(first, second, valid)
    apart = F.normalize(a, dim=-1, eps=TINY) - F.normalize(b, dim=-1, eps=TINY)
    return _mean(apart.square().sum(dim=-1), weight)


def teacher_distance(student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean Euclidean distance of the student's embedding of an item and the teacher's: two `[items, dim]` -> scalar."""
    a, b, weight = _both(student, teacher, valid)
    return _mean((a - b).square().sum(dim=-1).sqrt(), weight)


def prediction_cosine(predictions: Tensor, targets: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean cosine of an item's prediction and its target: two `[items, dim]` -> scalar."""
    a, b, weight = _both(predictions, targets, valid)
    return _mean((F.normalize(a, dim=-1, eps=TINY) * F.normalize(b, dim=-1, eps=TINY)).sum(dim=-1), weight)


# ---- two losses --------------------------------------------------------------------------------------------


def gradient_share(losses: Mapping[str, Tensor], parameters: Iterable[Tensor]) -> dict[str, Tensor]:
    """Norm of each loss's gradient on parameters that they share: does the JEPA term reach the trunk?

    Give the losses with their weights, before `backward`; it costs about one `backward` for each. No `.grad` changes,
    and a loss that does not depend on the parameters has norm 0. Several processes (`torch.distributed`, its default
    group) must all call: the gradients are then the means over them, as with DDP.

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
    # In float64, for the squares of small gradients are 0 in float32.
    return torch.stack([gradient.double().square().sum() for gradient in gradients]).sum().sqrt().float()


def describe(embeddings: Embeddings) -> dict[str, Tensor]:
    """Spread and effective rank of each stream, as `{"spread/<stream>": ..., "effective_rank/<stream>": ...}`."""
    measures = {"spread": spread, "effective_rank": effective_rank}
    return {f"{name}/{stream}": f(z) for name, f in measures.items() for stream, z in embeddings.items()}


# ---- padding -----------------------------------------------------------------------------------------------


def _items(embeddings: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor | float]:
    """The items in float64 (the square of 1e-30 is 0 in float32) and what each counts, `[items, 1]`, 0 on padding."""
    if embeddings.ndim != 2 or not embeddings.is_floating_point():
        raise ValueError(
            f"embeddings is {embeddings.dtype} {list(embeddings.shape)}, but must be floating point [items, dim]; "
            f"flatten it to one row an item."
        )
    z = embeddings.detach().double()
    if valid is None:
        return z, 1.0
    if valid.dtype != torch.bool or valid.shape != embeddings.shape[:1]:
        raise ValueError(
            f"valid is {valid.dtype} {list(valid.shape)}, but must be bool [{len(embeddings)}], True where an item is "
            f"real."
        )
    marks = valid.unsqueeze(-1)
    return torch.where(marks, z, 0.0), marks.double()


def _both(first: Tensor, second: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor | float]:
    """Two clouds and what each item counts, as `_items` has them."""
    if first.shape != second.shape:  # torch would broadcast
        raise ValueError(
            f"the two clouds are {list(first.shape)} and {list(second.shape)}, but must be [items, dim], of one shape; "
            f"give two embeddings of each item."
        )
    (a, weight), (b, _) = _items(first, valid), _items(second, valid)
    return a, b, weight


def _count(z: Tensor, weight: Tensor | float) -> Tensor | float:
    return weight.sum() if isinstance(weight, Tensor) else float(len(z))


def _at_least_one(count: Tensor | float) -> Tensor | float:
    return count.clamp(min=1.0) if isinstance(count, Tensor) else max(count, 1.0)


def _centred(z: Tensor, weight: Tensor | float) -> Tensor:
    """With 0 on padding, as in `z`."""
    centred = z - z.sum(dim=0) / _at_least_one(_count(z, weight))
    return centred * weight if isinstance(weight, Tensor) else centred


def _mean(values: Tensor, weight: Tensor | float) -> Tensor:
    if isinstance(weight, Tensor):
        return ((values * weight.squeeze(-1)).sum() / weight.sum()).float()
    return values.mean().float()
