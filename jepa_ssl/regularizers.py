"""Regularisers: penalties against embedding collapse.

The value is the mean over streams. Padding influences neither the value nor a gradient. A stream with fewer than two
items contributes exactly 0. Half precision is computed in float32, under autocast too.

In training, the processes of `torch.distributed`'s default group share one batch. The statistics are those of all their
items. The gradient is right after the processes' gradients are averaged, as DDP does. All must call with the same
streams. In eval mode each process is alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import islice

import torch
from torch import Tensor, nn

from jepa_ssl.checks import check_items, check_valid, generator_fits, non_negative, whole_number
from jepa_ssl.processes import all_reduce_sum, rank, world_size
from jepa_ssl.protocols import Embeddings
from jepa_ssl.seeds import Randomness, Seeds, batch_normal, batch_uniform

POINTS, STEP = 5, 0.7  # SIGReg evaluates its integrand at t = 0.7, 1.4, ..., 3.5; it is symmetric in t


class _StreamRegularizer(nn.Module, ABC):
    """The mean over streams of the term that a subclass computes for one stream."""

    def __init__(self, on_sphere: bool) -> None:
        super().__init__()
        self.on_sphere = on_sphere

    def forward(self, embeddings: Embeddings, *, valid: Mapping[str, Tensor], generator: Randomness = None) -> Tensor:
        _check(embeddings, valid, generator)
        terms: list[Tensor] = []
        for stream in sorted(embeddings):  # the same order on all processes, which wait for each other
            z = embeddings[stream]
            with _no_autocast(z.device):
                z = z.to(torch.promote_types(z.dtype, torch.float32))
                real = valid[stream] if stream in valid else z.new_ones(len(z), dtype=torch.bool)
                terms.append(self._term(z * z.size(1) ** 0.5 if self.on_sphere else z, real, generator))
        return torch.stack(terms).mean()

    @abstractmethod
    def _term(self, z: Tensor, valid: Tensor, generator: Randomness) -> Tensor: ...


class VICReg(_StreamRegularizer):
    """Variance and covariance penalties: each dimension varies by at least 1, and no two dimensions vary together.

    The value is `variance_weight * v + covariance_weight * c`. Here v is the mean over dimensions of `max(0, 1 -
    sqrt(variance + 1e-4))`. And c is the sum of the squared covariances of different dimensions, divided by dim.
    Variances and covariances divide by items - 1.

    Source: Bardes et al., "VICReg", ICLR 2022, equations 1 to 4. The invariance term is the prediction loss: the
    paper's weights 25 : 25 : 1 are 1 : 1 : 0.04 here.

    Args:
        variance_weight: at least 0.
        covariance_weight: at least 0.
        on_sphere: first multiply the embeddings by sqrt(dim); set it for L2-normalised ones. On the unit sphere the
            variances sum to at most 1, so a variance of 1 in each dimension is out of reach.

    >>> cross = torch.tensor([[1.5, 0.0], [-1.5, 0.0], [0.0, 1.5], [0.0, -1.5]])
    >>> VICReg()({"instance": cross}, valid={}), VICReg()({"instance": torch.ones(4, 2)}, valid={})
    (tensor(0.), tensor(0.9900))
    """

    def __init__(
        self, variance_weight: float = 1.0, covariance_weight: float = 0.04, *, on_sphere: bool = False
    ) -> None:
        super().__init__(on_sphere)
        self.variance_weight = non_negative("variance_weight", variance_weight)
        self.covariance_weight = non_negative("covariance_weight", covariance_weight)

    def _term(self, z: Tensor, valid: Tensor, generator: Randomness) -> Tensor:
        real = valid.unsqueeze(1)
        z = torch.where(real, z, 0.0)
        sums = all_reduce_sum(torch.cat((z.detach().sum(0), valid.sum(dtype=z.dtype).view(1))), self.training)
        items = sums[-1]
        # Centred, then squared: the variance of a tiny cloud far from the origin is below the rounding error of its
        # squares. The mean carries no gradient, because to first order a covariance does not depend on the centre.
        centred = torch.where(real, z - sums[:-1] / items.clamp(min=1.0), 0.0)
        covariance = all_reduce_sum(centred.T @ centred, self.training) / (items - 1.0).clamp(min=1.0)
        variance = covariance.diagonal()
        hinge = (1.0 - (variance + 1e-4).sqrt()).relu().mean()
        off_diagonal = (covariance - variance.diag_embed()).square().sum() / z.size(1)
        return torch.where(items > 1.0, self.variance_weight * hinge + self.covariance_weight * off_diagonal, 0.0)


class SIGReg(_StreamRegularizer):
    """Distance of embeddings from an isotropic Gaussian N(0, I): about 1 for a sample of it, more otherwise.

    The value is the mean of the Epps-Pulley statistic over random unit vectors a. It compares the projections `x_j =
    <a, z_j>` of N items with a normal distribution:

        N * integral over t of |1/N sum_j exp(i t x_j) - exp(-t^2/2)|^2 exp(-t^2/2).

    For a sample of N(0, I) its expectation is sqrt(2 pi) (1 - 1/sqrt(3)) = 1.06 for any N. For other distributions it
    grows with N. Source: Balestriero and LeCun, "LeJEPA", 2025.

    Each call draws new directions, and new items if a stream has more than `items`. Each process draws from its own
    items, weighted by the number of items that each represents. N is then the effective sample size.

    Args:
        slices: random directions per call; more of them reduce the noise of the gradient.
        items: upper limit on the items of each stream, drawn uniformly without replacement; at least 2.
        on_sphere: first multiply the embeddings by sqrt(dim); set it for L2-normalised ones. No sample of N(0, I) lies
            on the unit sphere, but at radius sqrt(dim) the uniform distribution is close to it.

    With `Seeds` or without a generator it compiles to one graph. A `torch.Generator` breaks the graph, so that
    `fullgraph=True` raises.

    >>> gaussian = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    >>> value = SIGReg()({"instance": gaussian}, valid={}, generator=torch.Generator().manual_seed(0))
    >>> bool(value < 2.0), bool(SIGReg()({"instance": 0.1 * gaussian}, valid={}) > 50.0)
    (True, True)
    """

    def __init__(self, slices: int = 128, items: int = 256, *, on_sphere: bool = False) -> None:
        super().__init__(on_sphere)
        self.slices = whole_number("slices", slices, least=1)
        self.items = whole_number("items", items, least=2)

    def _term(self, z: Tensor, valid: Tensor, generator: Randomness) -> Tensor:
        z, weight = self._sample(z, valid, generator)
        waves = _waves(STEP * (z @ self._directions(z, generator)))
        # Processes exchange only sums over items: the waves [2 * points, slices], the weights and the squared weights.
        sums = [weight @ wave for pair in islice(waves, POINTS) for wave in pair]
        packed = all_reduce_sum(torch.cat([*sums, torch.stack((weight.sum(), weight.square().sum()))]), self.training)
        weights, squares = packed[-2], packed[-1].clamp(min=1.0)
        mean = (packed[:-2] / weights.clamp(min=1.0)).view(POINTS, 2, self.slices)
        t = STEP * torch.arange(1, POINTS + 1, dtype=z.dtype, device=z.device).unsqueeze(1)
        gaussian = (-0.5 * t * t).exp()
        error = (mean[:, 0] - gaussian).square() + mean[:, 1].square()
        # At t = 0 the error is zero, and the trapezoid rule is almost exact for a smooth curve over the whole line.
        integral = 2.0 * STEP * (error * gaussian).sum(0)
        size = weights.square() / squares  # Kish's effective sample size; the number of items, where all weigh the same
        return torch.where(size > 1.0, size * integral.mean(), 0.0)

    def _sample(self, z: Tensor, valid: Tensor, generator: Randomness) -> tuple[Tensor, Tensor]:
        """At most `items` of the valid rows, zeros elsewhere, and how many rows each of them represents."""
        count = valid.sum(dtype=z.dtype)
        if len(z) > self.items:
            order = batch_uniform(generator, torch.empty(len(z), device=z.device)).masked_fill(~valid, 2.0)
            chosen = order.topk(self.items, largest=False, sorted=False).indices
            z, valid = z.index_select(0, chosen), valid.index_select(0, chosen)
        weight = valid.to(z.dtype)
        return torch.where(valid.unsqueeze(1), z, 0.0), weight * (count / weight.sum().clamp(min=1.0))

    def _directions(self, z: Tensor, generator: Randomness) -> Tensor:
        """Random unit vectors, `[dim, slices]`, the same on all processes."""
        if isinstance(generator, Seeds):
            generator = generator.shared(self.training)
        drawn = batch_normal(generator, z.new_empty(z.size(1), self.slices))
        if world_size(self.training) > 1:
            drawn = all_reduce_sum(drawn if rank() == 0 else torch.zeros_like(drawn), self.training)
        return nn.functional.normalize(drawn, dim=0)


def _waves(angle: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """cos(k angle) and sin(k angle) for k = 1, 2, ..., by Chebyshev's recurrence: a product and a difference each."""
    cos, sin = angle.cos(), angle.sin()
    twice = 2.0 * cos
    before = torch.ones_like(cos), torch.zeros_like(sin)
    while True:
        yield cos, sin
        before, (cos, sin) = (cos, sin), (twice * cos - before[0], twice * sin - before[1])


def _no_autocast(device: torch.device) -> AbstractContextManager[object]:
    known = torch.amp.is_autocast_available(device.type)  # the meta device has none
    return torch.autocast(device.type, enabled=False) if known else nullcontext()


def _check(embeddings: Embeddings, valid: Mapping[str, Tensor], generator: Randomness) -> None:
    if not embeddings:
        raise ValueError(
            "embeddings is empty, but a regulariser needs at least one stream; give those of your encoder."
        )
    for stream, z in embeddings.items():
        check_items(f"embeddings[{stream!r}]", z)
        if stream in valid:
            check_valid(f"valid[{stream!r}]", valid[stream], len(z))
        if not isinstance(generator, Seeds):
            generator_fits(generator, z.device)
