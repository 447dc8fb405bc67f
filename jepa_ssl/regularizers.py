"""Regularisers: what embeddings pay for not spreading out over the space they have.

What stands in padding has no influence, on the value or on a gradient. A stream with fewer than two items contributes
exactly 0; the value is the mean over streams. Half precision is computed in float32, under autocast too.

Several processes (`torch.distributed`, its default group) see one batch together in training: the statistics are those
of all their items, however many each has, and the gradient is right once the processes' gradients have been averaged,
as DDP does. All must call with the same streams. In eval mode each is alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import islice

import torch
from torch import Tensor, nn

from jepa_ssl.checks import generator_fits, non_negative, whole_number
from jepa_ssl.processes import all_reduce_sum, rank, world_size
from jepa_ssl.protocols import Embeddings


class _StreamRegularizer(nn.Module, ABC):
    """The mean over streams of a term of one stream, which subclasses have."""

    def __init__(self, on_sphere: bool) -> None:
        super().__init__()
        self.on_sphere = on_sphere

    def forward(
        self, embeddings: Embeddings, *, valid: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> Tensor:
        _check(embeddings, valid, generator)
        terms: list[Tensor] = []
        for stream in sorted(embeddings):  # in one order on all processes, for each waits for the others
            z = embeddings[stream]
            with _no_autocast(z.device):
                z = z.to(torch.promote_types(z.dtype, torch.float32))
                real = valid[stream] if stream in valid else z.new_ones(len(z), dtype=torch.bool)
                terms.append(self._term(z * z.size(1) ** 0.5 if self.on_sphere else z, real, generator))
        return torch.stack(terms).mean()

    @abstractmethod
    def _term(self, z: Tensor, valid: Tensor, generator: torch.Generator | None) -> Tensor: ...


class VICReg(_StreamRegularizer):
    """Variance and covariance terms: each dimension varies by 1 at least, and no two vary together.

    `variance_weight * v + covariance_weight * c`, where v is the mean over dimensions of
    `max(0, 1 - sqrt(variance + 1e-4))` and c is the sum of the squared covariances of different dimensions, divided by
    dim; variances and covariances are divided by items - 1. Source: Bardes et al., "VICReg", ICLR 2022, equations 1 to
    4. The invariance term is the prediction loss: the paper's weights 25 : 25 : 1 are 1 : 1 : 0.04 here.

    Args:
        variance_weight: at least 0.
        covariance_weight: at least 0.
        on_sphere: multiplies embeddings by sqrt(dim) first. L2-normalised ones need it: on the unit sphere the
            variances sum to 1 at most, so that a variance of 1 in each dimension is out of reach.

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

    def _term(self, z: Tensor, valid: Tensor, generator: torch.Generator | None) -> Tensor:
        real = valid.unsqueeze(1)
        z = torch.where(real, z, 0.0)
        sums = all_reduce_sum(torch.cat((z.detach().sum(0), valid.sum(dtype=z.dtype).view(1))), self.training)
        items = sums[-1]
        # Centred, then squared: the variance of a tiny cloud far from the origin is below the rounding of its squares.
        # The mean carries no gradient, for to first order a covariance does not depend on the centre.
        centred = torch.where(real, z - sums[:-1] / items.clamp(min=1.0), 0.0)
        covariance = all_reduce_sum(centred.T @ centred, self.training) / (items - 1.0).clamp(min=1.0)
        variance = covariance.diagonal()
        hinge = (1.0 - (variance + 1e-4).sqrt()).relu().mean()
        off_diagonal = (covariance - variance.diag_embed()).square().sum() / z.size(1)
        return torch.where(items > 1.0, self.variance_weight * hinge + self.covariance_weight * off_diagonal, 0.0)


class SIGReg(_StreamRegularizer):
    """How far embeddings are from an isotropic Gaussian N(0, I): about 1 for a sample of it, more for others.

    Source: Balestriero and LeCun, "LeJEPA", 2025. The mean over random unit vectors a of the Epps-Pulley statistic of
    the projections `x_j = <a, z_j>` of N items,

        N * integral over t of |1/N sum_j exp(i t x_j) - exp(-t^2/2)|^2 exp(-t^2/2).

    Its expectation for a sample of N(0, I) is sqrt(2 pi) (1 - 1/sqrt(3)) = 1.06, whatever N; for other distributions it
    grows with N.

    Each call draws directions anew, and so many items where a stream has more than `items`. Each of several processes
    draws from its own; they count by the number of items they stand for, and N is the sample size worth as much.

    Args:
        slices: random directions a call. The gradient's noise comes from their number, more than from anything else.
        items: at most so many items of each stream are looked at, drawn uniformly without replacement; at least 2.
        points: t = 0.7, 1.4, ..., at which the integrand is taken; those below 0 mirror them.
        on_sphere: multiplies embeddings by sqrt(dim) first. L2-normalised ones need it: no sample of N(0, I) lies on
            the unit sphere, while at radius sqrt(dim) the uniform distribution is close to it.

    Without a generator it compiles to one graph. An explicit one breaks it, so that `fullgraph=True` raises.

    >>> gaussian = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    >>> value = SIGReg()({"instance": gaussian}, valid={}, generator=torch.Generator().manual_seed(0))
    >>> bool(value < 2.0), bool(SIGReg()({"instance": 0.1 * gaussian}, valid={}) > 50.0)
    (True, True)
    """

    def __init__(self, slices: int = 128, items: int = 256, points: int = 5, *, on_sphere: bool = False) -> None:
        super().__init__(on_sphere)
        self.slices = whole_number("slices", slices, least=1)
        self.items = whole_number("items", items, least=2)
        self.points = whole_number("points", points, least=1)

    def _term(self, z: Tensor, valid: Tensor, generator: torch.Generator | None) -> Tensor:
        z, weight = self._sample(z, valid, generator)
        step = 0.7
        waves = _waves(step * (z @ self._directions(z, generator)))
        # Sums over items alone are passed between processes: of the waves [2 * points, slices], weights, their squares.
        sums = [weight @ wave for pair in islice(waves, self.points) for wave in pair]
        packed = all_reduce_sum(torch.cat([*sums, torch.stack((weight.sum(), weight.square().sum()))]), self.training)
        weights, squares = packed[-2], packed[-1].clamp(min=1.0)
        mean = (packed[:-2] / weights.clamp(min=1.0)).view(self.points, 2, self.slices)
        t = step * torch.arange(1, self.points + 1, dtype=z.dtype, device=z.device).unsqueeze(1)
        gaussian = (-0.5 * t * t).exp()
        error = (mean[:, 0] - gaussian).square() + mean[:, 1].square()
        # At t = 0 there is no error; of a smooth curve over the whole line the trapezoid rule misses next to nothing.
        integral = 2.0 * step * (error * gaussian).sum(0)
        size = weights.square() / squares  # Kish's effective sample size; the number of items, where all weigh the same
        return torch.where(size > 1.0, size * integral.mean(), 0.0)

    def _sample(self, z: Tensor, valid: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """At most `items` of the valid rows, zeros elsewhere, and how many rows each of them stands for."""
        count = valid.sum(dtype=z.dtype)
        if len(z) > self.items:
            # Not torch.rand, which cannot be compiled for a changing number of items.
            lottery = torch.empty(len(z), device=z.device).uniform_(generator=generator).masked_fill(~valid, 2.0)
            chosen = lottery.topk(self.items, largest=False, sorted=False).indices
            z, valid = z.index_select(0, chosen), valid.index_select(0, chosen)
        weight = valid.to(z.dtype)
        return torch.where(valid.unsqueeze(1), z, 0.0), weight * (count / weight.sum().clamp(min=1.0))

    def _directions(self, z: Tensor, generator: torch.Generator | None) -> Tensor:
        """Random unit vectors, `[dim, slices]`, the same on all processes."""
        drawn = z.new_empty(z.size(1), self.slices).normal_(generator=generator)
        if world_size(self.training) > 1:
            drawn = all_reduce_sum(drawn if rank() == 0 else torch.zeros_like(drawn), self.training)
        return nn.functional.normalize(drawn, dim=0)


def _waves(angle: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """cos(k angle) and sin(k angle) for k = 1, 2, ...: a product and a difference each, by Chebyshev's recurrence."""
    cos, sin = angle.cos(), angle.sin()
    twice = 2.0 * cos
    before = torch.ones_like(cos), torch.zeros_like(sin)
    while True:
        yield cos, sin
        before, (cos, sin) = (cos, sin), (twice * cos - before[0], twice * sin - before[1])


def _no_autocast(device: torch.device) -> AbstractContextManager[object]:
    known = torch.amp.is_autocast_available(device.type)  # the meta device has none
    return torch.autocast(device.type, enabled=False) if known else nullcontext()


def _check(embeddings: Embeddings, valid: Mapping[str, Tensor], generator: torch.Generator | None) -> None:
    if not embeddings:
        raise ValueError(
            "embeddings is empty, but a regulariser needs at least one stream; give those of your encoder."
        )
    for stream, z in embeddings.items():
        if z.ndim != 2 or not z.is_floating_point():
            raise ValueError(
                f"embeddings[{stream!r}] is {z.dtype} {list(z.shape)}, but must be floating point [items, dim]; "
                f"flatten it to one row an item."
            )
        if stream in valid and (valid[stream].dtype != torch.bool or valid[stream].shape != z.shape[:1]):
            raise ValueError(
                f"valid[{stream!r}] is {valid[stream].dtype} {list(valid[stream].shape)}, but must be bool "
                f"[{len(z)}], True where an item of embeddings[{stream!r}] is real."
            )
        generator_fits(generator, z.device)
