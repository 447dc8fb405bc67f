"""check_lp: right LPs pass, and each way to make another LP is named."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_lps import LPs, apart, dense, random_lp, sparse

from jepa_ssl.testing import check_lp

SMALL = [random_lp(seed, 4, 3 + seed) for seed in range(3)]
REFERENCE = [(lp.A, lp.b, lp.c, lp.equality, lp.lower, lp.upper) for lp in SMALL]


def objective(points: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([point @ torch.tensor(lp.c) + 7 for lp, point in zip(SMALL, points, strict=True)])


def itself(lp: Any) -> Any:
    return lp


@pytest.mark.parametrize("batch", [sparse, dense])
@pytest.mark.parametrize("parts", [3, 6])
def test_the_lps_themselves_pass(batch: Any, parts: int):
    check_lp(itself, batch(SMALL), [given[:parts] for given in REFERENCE], objective=objective)
    assert len(apart(batch(SMALL))) == len(SMALL)


def min_max(values: torch.Tensor) -> torch.Tensor:
    return (values - values.min()) / (values.max() - values.min())


def changed(**changes: Any) -> Any:
    """`lp_of` that changes parts by functions."""

    def lp_of(lp: LPs) -> LPs:
        return replace(lp, **{name: change(getattr(lp, name)) for name, change in changes.items()})

    return lp_of


@pytest.mark.parametrize(
    ("lp_of", "message"),
    [
        (changed(b=min_max), "LP 0: b was rescaled: the reference is .* times it, plus .*not features"),
        (changed(c=min_max), "LP 0: c was rescaled"),
        (changed(c=lambda c: (c - c.mean()) / c.std()), "LP 0: c was rescaled"),
        (changed(c=torch.neg), "LP 0: c has the opposite sign; .*negate what is maximised"),
        (changed(coefficient=torch.neg, b=torch.neg), "LP 0: A has the opposite sign"),
        (changed(b=lambda b: b + torch.arange(len(b)).square()), r"LP 0: b is .* at \[1\], but .* in the reference"),
        (changed(equality=torch.logical_not), "LP 0: equality is"),
        (changed(upper=lambda upper: upper + 1), "LP .: upper is"),
        (changed(b=lambda b: b * torch.nan), "a number of A, b or c is not finite"),
        (lambda lp: sparse(SMALL[:2]), "makes 2 LPs, but reference has 3"),
        (lambda lp: sparse(SMALL[::-1]), r"LP 0: A is \[4, 5\], but reference has \[4, 3\]"),
        (tuple, "lp_of returned a tuple, but must return a SparseLP"),
    ],
)
def test_another_lp_is_named(lp_of: Any, message: str):
    batch = [sparse(SMALL)] if lp_of is tuple else sparse(SMALL)
    with pytest.raises(AssertionError, match=message):
        check_lp(lp_of, batch, REFERENCE)


@pytest.mark.parametrize(
    ("lp_of", "message"),
    [
        (changed(c=torch.neg), "LP 0: c'x is the negative of your objective; an LP minimises, so negate c"),
        (changed(c=min_max), "LP 0: from 0 to a random point c'x changes by .* but your objective by .*rescaled"),
    ],
)
def test_the_clients_objective_finds_another_c(lp_of: Any, message: str):
    with pytest.raises(AssertionError, match=message):
        check_lp(lp_of, sparse(SMALL), objective=objective)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(TypeError, match="reference is None and objective is None"):
        check_lp(itself, sparse(SMALL))
    with pytest.raises(AssertionError, match=r"objective returned \[\] numbers, but must return one per LP, \[3\]"):
        check_lp(itself, sparse(SMALL), objective=lambda points: points[0].sum())
