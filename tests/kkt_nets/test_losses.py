"""The KKT loss against loops in float64 over real rows and columns alone."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from builders import seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from losses import kkt_loss, pad_predictions
from scipy.optimize import linprog

DEFAULTS = {"primal": 0.1, "dual": 0.1, "stationarity": 0.6, "complementary_slackness": 0.2}


def loss_of(batch: Sequence[torch.Tensor], **weights: float):
    y, A, b, c, mask_m, mask_n = batch
    return kkt_loss(y, A, b, c, mask_m, mask_n, **weights)


def random_batch(sizes, M, N, seed=0):
    """`y_pred, A, b, c, mask_m, mask_n` in float64, zeros in the padding."""
    generator = seeded(seed)
    y, A = torch.zeros(len(sizes), N + M).double(), torch.zeros(len(sizes), M, N).double()
    (b, mask_m), (c, mask_n) = torch.zeros(2, len(sizes), M).double(), torch.zeros(2, len(sizes), N).double()

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    for i, (m, n) in enumerate(sizes):
        y[i, :n], y[i, N : N + m] = normal(n), normal(m)
        A[i, :m, :n], b[i, :m], c[i, :n] = normal(m, n), normal(m), normal(n)
        mask_m[i, :m], mask_n[i, :n] = 1, 1
    return y, A, b, c, mask_m, mask_n


def oracle(y, A, b, c, sizes, weights=DEFAULTS):
    """The formula, entry by entry."""
    N = A.shape[2]
    terms = dict.fromkeys(DEFAULTS, 0.0)
    for k, (m, n) in enumerate(sizes):
        x, lam = y[k, :n].tolist(), y[k, N : N + m].tolist()
        for i in range(m):
            excess = sum(float(A[k, i, j]) * x[j] for j in range(n)) - float(b[k, i])
            terms["primal"] += max(excess, 0.0) ** 2 / m / len(sizes)
            terms["dual"] += max(-lam[i], 0.0) ** 2 / m / len(sizes)
            terms["complementary_slackness"] += (lam[i] * excess) ** 2 / m / len(sizes)
        for j in range(n):
            reduced = float(c[k, j]) + sum(float(A[k, i, j]) * lam[i] for i in range(m))
            terms["stationarity"] += reduced**2 / n / len(sizes)
    return sum(weights[name] * terms[name] for name in terms), terms


def with_garbage(batch, sizes, value):
    """`value` in the padding of predictions, b and c; a finite number in that of A."""
    y, A, b, c, mask_m, mask_n = (part.clone() for part in batch)
    N = A.shape[2]
    for i, (m, n) in enumerate(sizes):
        y[i, n:N], y[i, N + m :], b[i, m:], c[i, n:] = value, value, value, value
        A[i, m:], A[i, :, n:] = 1e3, -1e3
    return y, A, b, c, mask_m, mask_n


@given(
    sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4),
    spare=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    garbage=st.sampled_from([0.0, -7.0, 1e30, float("nan"), float("-inf")]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_equals_the_loops_whatever_the_padding_holds(sizes, spare, garbage, seed):
    M, N = max(m for m, _ in sizes) + spare[0], max(n for _, n in sizes) + spare[1]
    batch = random_batch(sizes, M, N, seed)
    expected, expected_terms = oracle(*batch[:4], sizes)
    loss, terms = loss_of(with_garbage(batch, sizes, garbage))
    assert float(loss) == pytest.approx(expected, rel=1e-12)
    assert list(terms) == list(DEFAULTS)
    for name, term in terms.items():
        assert float(term) == pytest.approx(expected_terms[name], rel=1e-12)


def test_gradient_is_right_and_zero_on_padding():
    sizes = [(3, 2), (1, 4)]
    y, *rest = with_garbage(random_batch(sizes, 4, 5), sizes, float("nan"))
    y.requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of((y, *rest))[0], y)
    for i, (m, n) in enumerate(sizes):
        assert torch.equal(gradient[i, n:5], torch.zeros(5 - n).double())
        assert torch.equal(gradient[i, 5 + m :], torch.zeros(4 - m).double())
        assert gradient[i, :n].all()
    clean, *rest = random_batch(sizes, 4, 5)
    assert torch.autograd.gradcheck(lambda y: loss_of((y, *rest))[0], clean.requires_grad_())


@pytest.mark.parametrize("name", DEFAULTS)
def test_each_weight_weighs_its_own_term(name):
    batch = random_batch([(3, 2), (2, 3)], 3, 3)
    weights = {f"{other}_weight": 0.0 for other in DEFAULTS} | {f"{name}_weight": 2.5}
    loss, terms = loss_of(batch, **weights)
    assert float(terms[name]) > 0
    assert float(loss) == pytest.approx(2.5 * float(terms[name]))


def test_terms_carry_no_graph_and_no_input_is_written_to():
    y, *rest = batch = random_batch([(2, 2), (1, 2)], 3, 3)
    before = [part.clone() for part in batch]
    loss, terms = loss_of((y.requires_grad_(), *rest))
    assert loss.requires_grad
    assert not any(term.requires_grad for term in terms.values())
    assert all(torch.equal(a, b) for a, b in zip(batch, before, strict=True))


def test_zero_at_an_optimum_and_not_beside_it():
    rng = np.random.default_rng(0)
    coefficients, cost = -rng.random((3, 4)), rng.random(4)
    A = np.vstack([coefficients, np.eye(4), -np.eye(4)])  # a cover, 0 <= x <= 2
    b = np.concatenate([-np.ones(3), np.full(4, 2.0), np.zeros(4)])
    solution = linprog(cost, A_ub=A, b_ub=b, bounds=(None, None), method="highs")
    y = torch.tensor(np.concatenate([solution.x, -solution.ineqlin.marginals]))[None]
    rest = [torch.tensor(part)[None] for part in (A, b, cost, np.ones(len(b)), np.ones(4))]
    assert float(loss_of((y, *rest))[0]) < 1e-20
    for i in range(y.shape[1]):
        for step in (-0.1, 0.1):
            other = y.clone()
            other[0, i] += step
            assert float(loss_of((other, *rest))[0]) > 1e-6


@pytest.mark.parametrize(("position", "name"), list(enumerate(["y_pred", "A", "b", "c", "mask_m", "mask_n"])))
def test_wrong_shapes_are_refused_by_name(position, name):
    batch = list(random_batch([(2, 3), (1, 1)], 2, 3))
    batch[position] = batch[position][0]
    with pytest.raises(ValueError, match=rf"^{name} has shape .*expected"):
        loss_of(batch)


@given(
    sizes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=5),
    spare=st.tuples(st.integers(0, 2), st.integers(0, 2)),
)
@settings(deadline=None, max_examples=60)
def test_pad_predictions_equals_the_loop(sizes, spare):
    m_sizes, n_sizes = (torch.tensor(column) for column in zip(*sizes, strict=True))
    M, N = int(m_sizes.max()) + spare[0], int(n_sizes.max()) + spare[1]
    x = torch.arange(1.0, 1 + int(n_sizes.sum())).double().requires_grad_()
    lam = torch.arange(100.0, 100 + int(m_sizes.sum())).double().requires_grad_()
    expected, i, j = torch.zeros(len(sizes), N + M).double(), 0, 0
    for k, (m, n) in enumerate(sizes):
        expected[k, :n], expected[k, N : N + m] = x.detach()[j : j + n], lam.detach()[i : i + m]
        i, j = i + m, j + n
    padded = pad_predictions(x, lam, m_sizes, n_sizes, M, N)
    assert torch.equal(padded, expected)
    padded.square().sum().backward()
    assert x.grad is not None
    assert lam.grad is not None
    assert torch.equal(x.grad, 2 * x.detach())
    assert torch.equal(lam.grad, 2 * lam.detach())


@pytest.mark.parametrize(
    ("m_sizes", "n_sizes", "M", "N", "name"),
    [([1, 1], [2, 2], 1, 2, "n_sizes"), ([1, 1], [1, 2], 1, 1, "n_sizes"), ([2, 1], [1, 2], 2, 2, "m_sizes")],
)
def test_sizes_that_do_not_fit_are_refused(m_sizes, n_sizes, M, N, name):
    with pytest.raises(ValueError, match=rf"^{name} is .*add up to"):
        pad_predictions(torch.zeros(3), torch.zeros(2), torch.tensor(m_sizes), torch.tensor(n_sizes), M, N)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_nothing_waits_for_the_gpu():
    sizes = torch.tensor([2, 3])
    _, *rest = (part.cuda() for part in random_batch([(2, 2), (3, 3)], 3, 3))
    x, sizes_gpu = torch.randn(5, dtype=torch.float64).cuda().requires_grad_(), sizes.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        y = pad_predictions(x, x.square(), sizes_gpu, sizes_gpu, 3, 3)
        loss_of((y, *rest))[0].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
