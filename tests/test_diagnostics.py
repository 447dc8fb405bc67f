"""Spread and effective rank, against their formulas in float64."""

import math

import oracles
import pytest
import torch
import torch.nn.functional as F
from builders import seeded
from hypothesis import given
from hypothesis import strategies as st

from jepa_ssl.diagnostics import describe, effective_rank, spread


def cloud(items: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(items, dim, generator=seeded(seed), dtype=torch.float64)


@given(st.integers(2, 12), st.integers(1, 8), st.integers(0, 99), st.sampled_from([1e-30, 1.0, 1e30]))
def test_both_are_their_formulas_at_any_scale(items: int, dim: int, seed: int, scale: float):
    z = (cloud(items, dim, seed) * scale).float()
    assert effective_rank(z).item() == pytest.approx(oracles.singular_entropy_rank(z), rel=1e-4)
    assert spread(z).item() == pytest.approx(oracles.spread(z), rel=1e-5)
    assert effective_rank(z).item() <= min(items - 1, dim) + 1e-4


def test_a_tiny_cloud_around_a_common_vector_shows_in_the_spread_alone():
    centre = F.normalize(torch.ones(64, dtype=torch.float64), dim=0)
    z = centre + 1e-4 * cloud(500, 64)
    assert effective_rank(z).item() == pytest.approx(oracles.singular_entropy_rank(z), rel=1e-4)
    assert effective_rank(z).item() > 60
    assert spread(z).item() == pytest.approx(oracles.spread(z), rel=1e-5)
    assert spread(z).item() < 1e-3


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_equal_directions_are_counted(rank: int):
    z = torch.zeros(2 * rank, 8)
    for direction in range(rank):
        z[2 * direction, direction], z[2 * direction + 1, direction] = 1.0, -1.0
    assert effective_rank(z).item() == pytest.approx(rank, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("items", [0, 1, 2, 1000, 1001])
def test_identical_items_have_neither_spread_nor_rank(items: int, dtype: torch.dtype):
    z = F.normalize(torch.randn(1, 16, generator=seeded(), dtype=dtype), dim=-1).repeat(items, 1)
    assert effective_rank(z).item() == 0.0
    assert spread(z).item() == pytest.approx(0.0, abs=1e-7)
    assert effective_rank(0 * z).item() == spread(0 * z).item() == 0.0


def test_normalised_embeddings_all_over_the_sphere_have_spread_one():
    z = F.normalize(cloud(4000, 32), dim=-1)
    assert spread(z).item() == pytest.approx(1.0, abs=0.01)


def test_what_is_not_finite_is_said_not_raised():
    for bad in (math.nan, math.inf):
        z = cloud(5, 3)
        z[2, 1] = bad
        assert math.isnan(effective_rank(z).item())
        assert math.isnan(spread(z).item())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_results_are_float32_without_gradient(dtype: torch.dtype):
    z = cloud(6, 4).to(dtype).requires_grad_()
    for measures in (describe({"a": z}), describe({"a": z[:1]})):
        assert set(measures) == {"spread/a", "effective_rank/a"}
        assert all(m.dtype == torch.float32 and m.ndim == 0 and not m.requires_grad for m in measures.values())
