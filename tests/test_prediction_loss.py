"""The cosine loss of each item, against the formula."""

import oracles
import pytest
import torch
from builders import seeded
from hypothesis import given
from hypothesis import strategies as st

from jepa_ssl import cosine_loss


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 99), st.sampled_from([1e-3, 1.0, 1e6]))
def test_it_is_the_formula_in_float64(items: int, dim: int, seed: int, scale: float):
    p, z = torch.randn(2, items, dim, dtype=torch.float64, generator=seeded(seed)) * scale
    expected = [oracles.cosine_loss(a, b) for a, b in zip(p.tolist(), z.tolist(), strict=True)]
    torch.testing.assert_close(cosine_loss(p, z), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_its_gradient_is_right():
    p, z = torch.randn(2, 4, 5, dtype=torch.float64, generator=seeded())
    assert torch.autograd.gradcheck(cosine_loss, (p.requires_grad_(), z.requires_grad_()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_vectors_of_zeros_have_cosine_zero_in_every_precision(dtype: torch.dtype):
    p = torch.zeros(3, 4, dtype=dtype, requires_grad=True)
    losses = cosine_loss(p, torch.ones(3, 4, dtype=dtype))
    losses.sum().backward()
    assert losses.tolist() == [2.0, 2.0, 2.0]
    assert p.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype):
    p, z = torch.randn(2, 50, 64, generator=seeded()).to(dtype)
    torch.testing.assert_close(cosine_loss(p, z), cosine_loss(p.float(), z.float()), rtol=0, atol=0)
