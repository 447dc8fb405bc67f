"""Label-free scores for choosing a checkpoint, and how well they rank checkpoints compared with a probe."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from jepa_ssl.diagnostics import effective_rank
from jepa_ssl.evaluation.intervals import t_quantile
from jepa_ssl.evaluation.typed import midranks

ROUNDING = 1e-12  # an eigenvalue below this share of the largest is rounding
LIDAR_RIDGE = 1e-4  # of the mean variance per dimension, added to the scatter within instances


def checkpoint_scores(
    embeddings: Tensor, views: Sequence[Tensor] = (), prediction_loss: float | None = None
) -> dict[str, float]:
    """Label-free scores of one trunk, from its embeddings `[items, dim]` of unlabelled items.

    - "effective_rank": RankMe, see `jepa_ssl.diagnostics.effective_rank`. Its authors take larger as better.
    - "alpha": decay of the eigenspectrum, see `spectrum_alpha`. "alpha_fit" is `-|alpha - 1|`; larger should be better.
    - "lidar": see `lidar`; needs at least two views. Larger should be better.
    - "prediction_loss": the given number, if any. Smaller is not always better: it also falls in a collapse.

    Args:
        embeddings: `[items, dim]`; at least three items.
        views: embeddings of the same items under different views (maskings, equivalent LPs), each `[items, dim]`.
        prediction_loss: of this trunk, on data that it did not train on.

    Raises:
        ValueError: a shape is wrong or a number is not finite.

    >>> z = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    >>> sorted(checkpoint_scores(z, [z, z + 0.1]))
    ['alpha', 'alpha_fit', 'effective_rank', 'lidar']
    """
    z = _checked("embeddings", embeddings)
    alpha = spectrum_alpha(z)
    found = {"effective_rank": effective_rank(z).item(), "alpha": alpha, "alpha_fit": -abs(alpha - 1.0)}
    if views:
        found["lidar"] = lidar(views)
    if prediction_loss is not None:
        found["prediction_loss"] = float(prediction_loss)
    return found


def spectrum_alpha(embeddings: Tensor) -> float:
    """Exponent of the power law `i^-alpha` that the eigenvalues of the covariance follow: `[items, dim]` -> float.

    It is minus the slope of a straight line through log eigenvalue over log rank, fitted by least squares to all
    eigenvalues above rounding. NaN if there are fewer than two. Source: Agrawal et al., "alpha-ReQ", NeurIPS 2022, who
    find values near 1 in good representations.
    """
    z = _checked("embeddings", embeddings).double()
    values = cast(Tensor, torch.linalg.svdvals(z - z.mean(0))).square()  # pyright: ignore[reportUnknownMemberType]
    values = values[values > ROUNDING * values[0]]
    if len(values) < 2:
        return math.nan
    x, y = torch.arange(1.0, len(values) + 1.0, dtype=torch.float64).log(), values.log()
    x, y = x - x.mean(), y - y.mean()
    return -((x * y).sum() / x.square().sum()).item()


def lidar(views: Sequence[Tensor]) -> float:
    """Effective rank of linear discriminant analysis whose classes are the items: at least two `[items, dim]` -> float.

    The views of one item form a class. Only directions count in which items differ more than the views of one item. The
    result is 0 if all embeddings are equal. Source: Thilak et al., "LiDAR", ICLR 2024; the ridge is relative to the
    mean variance here, so the score does not depend on scale.
    """
    if len(views) < 2:
        raise ValueError(f"views has {len(views)} entries, but lidar needs two views of each item; encode another one.")
    z = torch.stack([_checked("views", view).double() for view in views])  # [views, items, dim]
    centre = z.mean(0)
    within = (z - centre).flatten(0, 1)
    within = within.T @ within / len(within)
    between = centre - centre.mean(0)
    between = between.T @ between / max(len(between) - 1, 1)
    scale = (within + between).diagonal().mean()
    if not scale > 0:
        return 0.0
    noise = within + LIDAR_RIDGE * scale * torch.eye(len(within), dtype=z.dtype)
    root = cast(Tensor, torch.linalg.cholesky(noise))  # pyright: ignore[reportUnknownMemberType]
    inverse = cast(Tensor, torch.linalg.inv(root))  # pyright: ignore[reportUnknownMemberType]
    both = inverse @ between @ inverse.T
    values = cast(Tensor, torch.linalg.eigvalsh(both))  # pyright: ignore[reportUnknownMemberType]
    share = values.clamp(min=0.0) / values.clamp(min=0.0).sum().clamp(min=1e-300)
    return float((-torch.xlogy(share, share).sum()).exp()) if bool(share.any()) else 0.0


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's and Kendall's correlation of two rankings; `low` and `high` are the 95% interval of Spearman's."""

    spearman: float
    kendall: float
    low: float
    high: float
    checkpoints: int


def rank_correlation(scores: Sequence[float], probe_results: Sequence[float]) -> RankCorrelation:
    """Rank correlation between a label-free score and the probe's results, over checkpoints.

    Spearman's rho with midranks for ties, and Kendall's tau-b. The interval takes Fisher's z with the standard error of
    Bonett and Wright, "Sample size requirements for estimating Pearson, Kendall and Spearman correlations",
    Psychometrika 2000. It is NaN with fewer than four checkpoints. Both are NaN if all scores, or all results, are
    equal.

    Raises:
        ValueError: the numbers of scores and results differ, or one is not finite.

    >>> rank_correlation([1.0, 2.0, 3.0, 4.0, 5.0], [10.0, 20.0, 30.0, 50.0, 40.0]).spearman
    0.9
    """
    x, y = (torch.tensor(list(some), dtype=torch.float64) for some in (scores, probe_results))
    if x.shape != y.shape or len(x) < 2 or not bool((x.isfinite() & y.isfinite()).all()):
        raise ValueError(
            f"scores and probe_results hold {len(x)} and {len(y)} numbers, but must hold two or more finite numbers, "
            f"one per checkpoint; leave out checkpoints without a score."
        )
    n = len(x)
    rho = _correlation(midranks(x), midranks(y))
    signs = [torch.sign(some.unsqueeze(0) - some.unsqueeze(1)) for some in (x, y)]
    pairs = (signs[0].square().sum() * signs[1].square().sum()).sqrt()
    tau = ((signs[0] * signs[1]).sum() / pairs).item()
    if n < 4 or math.isnan(rho):
        return RankCorrelation(rho, tau, math.nan, math.nan, n)
    # A perfect correlation is half a step from the next smaller one, and not certain.
    most = 1.0 - 6.0 / (n * (n * n - 1))
    middle = math.atanh(max(-most, min(most, rho)))
    half = t_quantile(0.95, 10**9) * math.sqrt((1.0 + rho * rho / 2.0) / (n - 3))
    return RankCorrelation(rho, tau, math.tanh(middle - half), math.tanh(middle + half), n)


def _correlation(x: Tensor, y: Tensor) -> float:
    x, y = x - x.mean(), y - y.mean()
    return round(((x * y).sum() / (x.square().sum() * y.square().sum()).sqrt()).item(), 15)


def _checked(name: str, z: Tensor) -> Tensor:
    if z.ndim != 2 or not z.is_floating_point() or len(z) < 3 or not bool(z.isfinite().all()):
        raise ValueError(
            f"{name} is {z.dtype} {list(z.shape)}, but must be finite, floating point and [items, dim] with at least "
            f"three items; give one row per item."
        )
    return z.detach().cpu()
