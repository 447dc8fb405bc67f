"""Label-free scores of a trunk, and rank correlations: the numbers of scipy, and planted spectra."""

import math

import numpy as np
import pytest
import torch
from builders import seeded
from scipy.linalg import eigh
from scipy.stats import kendalltau, spearmanr
from torch import Tensor

from jepa_ssl.evaluation import checkpoint_scores, lidar, rank_correlation, spectrum_alpha


def spectrum(alpha: float, dim: int = 32) -> Tensor:
    """Embeddings whose covariance has the eigenvalues i^-alpha, exactly."""
    basis = torch.linalg.qr(torch.randn(200, dim + 1, dtype=torch.float64) + 1.0)[0]
    centred = torch.linalg.qr(basis - basis.mean(0))[0][:, :dim]
    return centred * torch.arange(1.0, dim + 1.0, dtype=torch.float64) ** (-alpha / 2)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.0])
def test_alpha_is_that_of_a_planted_power_law_and_numpys_fit(alpha: float):
    z = spectrum(alpha)
    values = np.linalg.eigvalsh(np.cov(z.numpy().T))[::-1]
    assert spectrum_alpha(z) == pytest.approx(-np.polyfit(np.log(np.arange(1, 33)), np.log(values), 1)[0], abs=1e-6)
    assert spectrum_alpha(z) == pytest.approx(alpha, abs=1e-6)
    assert spectrum_alpha(1e-3 * z.float()) == pytest.approx(alpha, abs=1e-3)


def test_lidar_is_the_rank_of_scipys_generalised_eigenvalues():
    centre = torch.randn(50, 6, dtype=torch.float64)
    views = [centre + 0.3 * torch.randn(50, 6, dtype=torch.float64) for _ in range(3)]
    z = torch.stack(views)
    mean = z.mean(0)
    within = ((z - mean).reshape(-1, 6).T @ (z - mean).reshape(-1, 6) / 150).numpy()
    between = torch.cov(mean.T).numpy()
    ridge = 1e-4 * np.trace(within + between) / 6
    values = eigh(between, within + ridge * np.eye(6), eigvals_only=True)
    share = values / values.sum()
    assert lidar(views) == pytest.approx(math.exp(-(share * np.log(share)).sum()))
    assert lidar([1e-6 * view for view in views]) == pytest.approx(lidar(views))


def test_lidar_does_not_count_what_views_change():
    told, noise = torch.randn(200, 2), [torch.randn(200, 6) for _ in range(2)]
    assert lidar([torch.cat((told, 0.01 * one), 1) for one in noise]) == pytest.approx(2.0, abs=0.3)
    assert lidar([torch.ones(5, 3)] * 2) == 0.0  # collapsed
    assert 0.0 < lidar([told, told]) <= 2.0  # views that change nothing


def test_checkpoint_scores_name_what_was_asked():
    z = torch.randn(50, 4)
    assert checkpoint_scores(z).keys() == {"effective_rank", "alpha", "alpha_fit"}
    found = checkpoint_scores(z, [z, z + 0.1], prediction_loss=0.5)
    assert found["prediction_loss"] == 0.5
    assert found["alpha_fit"] == -abs(found["alpha"] - 1.0)
    assert math.isnan(checkpoint_scores(torch.ones(5, 3))["alpha"])
    with pytest.raises(ValueError, match="embeddings is"):
        checkpoint_scores(torch.full((5, 3), torch.nan))
    with pytest.raises(ValueError, match="views has 1"):
        lidar([z])


def test_rank_correlations_are_scipys_with_ties():
    x, y = torch.randn(30).round(decimals=1), torch.randn(30).round(decimals=1)
    found = rank_correlation(x.tolist(), y.tolist())
    assert found.spearman == pytest.approx(spearmanr(x, y)[0])
    assert found.kendall == pytest.approx(kendalltau(x, y)[0])


def test_rank_correlations_that_cannot_be_told():
    assert math.isnan(rank_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]).spearman)
    assert math.isnan(rank_correlation([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]).low)
    perfect = rank_correlation([1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 3.0, 4.0, 5.0])
    assert perfect.spearman == 1.0
    assert perfect.low < 0.5  # five checkpoints are few
    with pytest.raises(ValueError, match="scores and probe_results"):
        rank_correlation([1.0, math.nan], [1.0, 2.0])


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_the_interval_covers_the_truth(rho: float):
    g = seeded(0)
    truth, covered = 6 / math.pi * math.asin(rho / 2), 0  # Spearman's of a normal pair
    for _ in range(300):
        x, e = torch.randn(2, 15, generator=g)
        found = rank_correlation(x.tolist(), (rho * x + (1 - rho**2) ** 0.5 * e).tolist())
        covered += found.low <= truth <= found.high
    assert covered >= 278
