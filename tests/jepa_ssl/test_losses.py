"""The prediction losses of each item, against their formulas."""

import math
from collections.abc import Callable

import oracles
import pytest
import torch
from builders import seeded
from hypothesis import given
from hypothesis import strategies as st
from random_graphs import FLOATS
from torch import Tensor, nn

from jepa_ssl import Encoded, JEPAObjective, SharedTeacher, Views, cosine_loss
from jepa_ssl.losses import smooth_l1_loss, squared_error


def plain_smooth_l1(prediction: list[float], target: list[float]) -> float:
    """I-JEPA's: layer-normalise the target (epsilon 1e-5), then half a square up to 1 and a line beyond; mean."""
    mean = math.fsum(target) / len(target)
    scale = math.sqrt(math.fsum((z - mean) ** 2 for z in target) / len(target) + 1e-5)
    distances = [abs(p - (z - mean) / scale) for p, z in zip(prediction, target, strict=True)]
    return math.fsum(d * d / 2 if d < 1 else d - 0.5 for d in distances) / len(distances)


def plain_squared_error(prediction: list[float], target: list[float]) -> float:
    return math.fsum((p - z) ** 2 for p, z in zip(prediction, target, strict=True)) / len(target)


FORMULAS: list[tuple[Callable[[Tensor, Tensor], Tensor], Callable[[list[float], list[float]], float]]] = [
    (cosine_loss, oracles.cosine_loss),
    (smooth_l1_loss, plain_smooth_l1),
    (squared_error, plain_squared_error),
]
losses = pytest.mark.parametrize("loss", [loss for loss, _ in FORMULAS])


@pytest.mark.parametrize(("loss", "formula"), FORMULAS)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 99), st.sampled_from([1e-3, 1.0, 1e6]))
def test_it_is_the_formula_in_float64(loss, formula, items: int, dim: int, seed: int, scale: float):
    p, z = torch.randn(2, items, dim, dtype=torch.float64, generator=seeded(seed)) * scale
    expected = [formula(a, b) for a, b in zip(p.tolist(), z.tolist(), strict=True)]
    torch.testing.assert_close(loss(p, z), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


@losses
def test_its_gradient_is_right(loss):
    p, z = torch.randn(2, 4, 5, dtype=torch.float64, generator=seeded())
    assert torch.autograd.gradcheck(loss, (p.requires_grad_(), z.requires_grad_()))


@losses
def test_no_items_have_no_losses(loss):
    assert loss(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("loss", "p", "z", "value"), [(cosine_loss, 0.0, 1.0, 2.0), (smooth_l1_loss, 3.0, 7.0, 2.5)])
def test_zeros_and_a_target_without_variation_have_a_value_and_a_gradient(loss, p, z, value, dtype: torch.dtype):
    """The cosine of zeros is 0; a target without variation normalises to zeros."""
    p, z = (torch.full((3, 4), number, dtype=dtype, requires_grad=True) for number in (p, z))
    losses = loss(p, z)
    losses.sum().backward()
    assert losses.tolist() == [value] * 3
    assert p.grad is not None
    assert z.grad is not None
    assert z.grad.isfinite().all()


@losses
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss, dtype: torch.dtype):
    p, z = 1000 * torch.randn(2, 50, 64, generator=seeded()).to(dtype)
    torch.testing.assert_close(loss(p, z), loss(p.float(), z.float()), rtol=0, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(loss(p, z), loss(p.float(), z.float()), rtol=0, atol=0)
    assert loss(p.double(), z).dtype == torch.float64


@losses
def test_shapes_that_torch_would_broadcast_and_numbers_that_are_whole_are_refused(loss):
    p = torch.ones(5, 4)
    for z in (torch.ones(5, 1), torch.ones(1, 4), torch.ones(4), torch.ones(0, 4)):
        with pytest.raises(ValueError, match=r"predictions is float32 \[5, 4\] and targets float32 \[.*of one shape"):
            loss(p, z)
    with pytest.raises(ValueError, match=r"targets is int64 \[5, 4\], but must be floating point"):
        loss(p, p.long())


@losses
@pytest.mark.parametrize("mark", ["hidden", "weight", "valid"])
@pytest.mark.parametrize("number", [1e30, math.inf, math.nan])
def test_an_item_that_does_not_count_leaves_the_gradient_alone_whatever_it_is(loss, mark: str, number: float):
    counts = torch.tensor([True, False, True])
    p, z = torch.randn(2, 3, 4, generator=seeded())
    p[1], z[1] = number, number
    views = Views(
        p.requires_grad_(),
        z.requires_grad_(),
        hidden={"a": counts if mark == "hidden" else None},
        weight={"a": counts.float()} if mark == "weight" else {},
    )
    valid = {"a": counts} if mark == "valid" else {}
    jepa = JEPAObjective(lambda *_, **__: views, nn.Identity(), SharedTeacher(), loss)
    total = jepa(lambda seen: Encoded({"a": seen}, valid=valid), p).total
    expected = loss(p[counts], z[counts]).mean()
    torch.testing.assert_close(total, expected)
    found = torch.autograd.grad(total, (p, z))
    torch.testing.assert_close(found, torch.autograd.grad(expected, (p, z)))
