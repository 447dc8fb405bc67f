"""check_lp: right LPs pass, and each way to make another LP is named."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from small_lps import LPs, apart, dense, random_lp, sparse

from jepa_ssl.testing import check_lp

SMALL = [random_lp(seed, 4, 3 + seed) for seed in range(3)]
REFERENCE = [(lp.A, lp.b, lp.c, lp.equality, lp.lower, lp.upper) for lp in SMALL]


def objective(points: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([point @ torch.tensor(lp.c) + 7 for lp, point in zip(SMALL, points, strict=True)])


def itself(lp: Any) -> Any:
    return lp


@pytest.mark.parametrize("batch", [sparse, dense])
def test_the_lps_themselves_pass(batch: Any):
    check_lp(itself, batch(SMALL), REFERENCE, objective=objective)
    assert len(apart(batch(SMALL))) == len(SMALL)


def test_references_may_be_short_sparse_empty_and_read_once():
    free = np.full(3, np.inf)
    for m in (0, 4):
        lp = replace(random_lp(0, m, 3, equalities=False), lower=-free, upper=free)
        for A in (csr_array(lp.A), torch.tensor(lp.A).to_sparse(), lp.A.tolist() if m else lp.A):
            check_lp(itself, sparse([lp]), ((A, lp.b, lp.c) for _ in range(1)))


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
        (
            lambda lp: replace(lp, constraint_offsets=lp.constraint_offsets.new_tensor([0, 3, 8, 12])),
            "joins a constraint of graph 1 to a variable of graph 0",
        ),
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


def test_a_small_cost_that_is_lost_beside_a_large_one_is_found():
    lp = replace(SMALL[0], c=np.array([1e6, 1.0, 0.0]))
    lost = changed(c=lambda c: c * (c > 1))
    with pytest.raises(AssertionError, match=r"LP 0: c is 0 at \[1\], but 1 in the reference"):
        check_lp(lost, sparse([lp]), [(lp.A, lp.b, lp.c, lp.equality, lp.lower, lp.upper)])
    with pytest.raises(AssertionError, match="LP 0: from 0 to a random point c'x changes"):
        check_lp(lost, sparse([lp]), objective=lambda points: points[0][None] @ torch.tensor(lp.c))


def test_a_reference_is_a_whole_lp():
    with pytest.raises(AssertionError, match=r"LP 1: it has equality of its own, but reference has none"):
        check_lp(itself, sparse(SMALL), [given[:3] for given in REFERENCE])
    for given in ((), REFERENCE[0][:2], (*REFERENCE[0], 1)):
        with pytest.raises(AssertionError, match=f"LP 0: reference has {len(given)} parts, but must have A, b, c"):
            check_lp(itself, sparse(SMALL[:1]), [given])


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(TypeError, match="reference is None and objective is None"):
        check_lp(itself, sparse(SMALL))
    with pytest.raises(AssertionError, match=r"objective returned \[\] numbers, but must return one per LP, \[3\]"):
        check_lp(itself, sparse(SMALL), objective=lambda points: points[0].sum())
    with pytest.raises(AssertionError, match=r"LP 0: from 0 to a random point c'x changes by .* by nan"):
        check_lp(itself, sparse(SMALL), objective=lambda points: objective(points) * torch.nan)
