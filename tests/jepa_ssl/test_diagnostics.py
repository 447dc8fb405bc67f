"""Each measure against its formula in float64, with loops; padding, and what is not finite."""

import math
from collections.abc import Callable

import oracles
import pytest
import torch
import torch.nn.functional as F
from builders import seeded
from hypothesis import given
from hypothesis import strategies as st

from jepa_ssl.diagnostics import (
    effective_rank,
    gradient_share,
    gram,
    mean_cosine,
    prediction_cosine,
    spread,
    spread_and_rank,
    teacher_distance,
)

OF_ONE = [spread, effective_rank, mean_cosine]
OF_TWO = [teacher_distance, prediction_cosine]


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_results_are_float32_without_gradient(dtype: torch.dtype):
    z = cloud(6, 4).to(dtype).requires_grad_()
    for measures in (spread_and_rank({"a": z}), spread_and_rank({"a": z[:1]})):
        assert set(measures) == {"spread/a", "effective_rank/a"}
        assert all(m.dtype == torch.float32 and m.ndim == 0 and not m.requires_grad for m in measures.values())


# ---- the formulas, number by number ------------------------------------------------------------------------


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def cosine(a: list[float], b: list[float]) -> float:
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def pairs(z: torch.Tensor) -> list[tuple[list[float], list[float]]]:
    return [(a, b) for i, a in enumerate(z.tolist()) for j, b in enumerate(z.tolist()) if i != j]


def rows(a: torch.Tensor, b: torch.Tensor) -> list[tuple[list[float], list[float]]]:
    return list(zip(a.tolist(), b.tolist(), strict=True))


@given(st.integers(2, 9), st.integers(1, 5), st.integers(0, 99), st.sampled_from([1e-20, 1.0, 1e20]))
def test_measures_of_one_cloud_are_their_formulas(items: int, dim: int, seed: int, scale: float):
    z = cloud(items, dim, seed) * scale
    assert mean_cosine(z).item() == pytest.approx(mean([cosine(a, b) for a, b in pairs(z)]), rel=1e-5, abs=1e-6)


@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 99))
def test_measures_of_two_clouds_are_their_formulas(items: int, dim: int, seed: int):
    a, b = cloud(items, dim, seed), cloud(items, dim, seed + 100)
    cosines = [cosine(x, y) for x, y in rows(a, b)]
    assert prediction_cosine(a, b).item() == pytest.approx(mean(cosines), rel=1e-5, abs=1e-6)
    distances = [math.dist(x, y) for x, y in rows(a, b)]
    assert teacher_distance(a, b).item() == pytest.approx(mean(distances), rel=1e-5)


@pytest.mark.parametrize("hole", [math.nan, math.inf, 1e9])
@pytest.mark.parametrize("dim", [3, 40])
def test_padding_does_not_count_whatever_it_holds(dim: int, hole: float):
    a, b = cloud(20, dim), cloud(20, dim, 1)
    valid = torch.rand(20, generator=seeded()) < 0.6
    padded = [torch.where(valid.unsqueeze(1), z, hole) for z in (a, b)]
    for of_one in OF_ONE:
        torch.testing.assert_close(of_one(padded[0], valid), of_one(a[valid]))
    for of_two in OF_TWO:
        torch.testing.assert_close(of_two(*padded, valid), of_two(a[valid], b[valid]))


def test_a_cloud_around_a_common_vector_shows_in_the_mean_cosine():
    z = F.normalize(1.0 + 0.01 * cloud(200, 16), dim=-1)
    assert mean_cosine(z).item() == pytest.approx(0.9999, abs=2e-5)
    assert mean_cosine(z[:1]).isnan()


def test_what_is_not_finite_gives_nan():
    for number in (math.nan, math.inf):
        bad = cloud(5, 3)
        bad[2, 1] = number
        for of_one in OF_ONE:
            assert not of_one(bad).isfinite().all()
        for of_two in OF_TWO:
            assert not of_two(bad, cloud(5, 3)).isfinite()


@pytest.mark.parametrize("measure", [*OF_ONE, *OF_TWO])
def test_nothing_asks_for_a_number(measure: Callable[..., torch.Tensor]):
    """On the meta device there are none; the eigenvalues, which a GPU waits for, come after the Gram matrix."""
    z, valid = torch.zeros(6, 4, device="meta"), torch.ones(6, dtype=torch.bool, device="meta")
    clouds = (z, z) if measure in OF_TWO else (z,)
    if measure is not effective_rank:
        assert measure(*clouds, valid).is_meta
    assert gram(z, valid).is_meta


# ---- gradients ---------------------------------------------------------------------------------------------


def test_gradient_share_is_the_norm_over_all_shared_parameters():
    trunk, head = torch.nn.Linear(3, 4).double(), torch.nn.Linear(4, 1).double()
    features = trunk(cloud(5, 3)).tanh()
    losses = {"task": head(features).square().mean(), "jepa": 0.2 * features.sum(), "other": head.weight.sum()}
    found = gradient_share(losses, trunk.parameters())
    assert all(parameter.grad is None for parameter in trunk.parameters())
    for name in ("task", "jepa"):
        losses[name].backward(retain_graph=True)
        squares = sum(g * g for p in trunk.parameters() if p.grad is not None for g in p.grad.flatten().tolist())
        assert found[name].item() == pytest.approx(math.sqrt(squares), rel=1e-5)
        trunk.zero_grad()
    assert found["other"].item() == 0.0
    assert gradient_share({"constant": torch.tensor(1.0)}, trunk.parameters())["constant"].item() == 0.0
    trunk.requires_grad_(False)
    assert gradient_share({"task": losses["task"]}, trunk.parameters())["task"].item() == 0.0


@pytest.mark.parametrize("measure", [*OF_ONE, *OF_TWO])
def test_shapes_and_types_that_do_not_fit_are_refused(measure: Callable[..., torch.Tensor]):
    z = torch.ones(5, 4)
    others = (z,) if measure in OF_TWO else ()
    for wrong in (torch.ones(4), torch.ones(5, 4, 2), z.long()):
        with pytest.raises(ValueError, match=r"floating point \[items, dim\]"):
            measure(wrong, *(wrong for _ in others))
    for valid in (torch.ones(5), torch.ones(4, dtype=torch.bool), torch.ones(5, 1, dtype=torch.bool)):
        with pytest.raises(ValueError, match=r"valid is .*, but must be bool \[5\]"):
            measure(z, *others, valid)
    for other in (torch.ones(1, 4), torch.ones(5, 1)) if others else ():
        with pytest.raises(ValueError, match=r"\[5, 4\] and .*of one shape"):
            measure(z, other)


def test_losses_that_are_not_scalars_are_refused():
    w = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match=r"a loss is \[3\], but must be a scalar"):
        gradient_share({"task": 2 * w}, [w])
