"""Balanced weighting: the share that was asked for, at a cadence, and none where only one loss is trained."""

import io
import math
import re
import warnings

import pytest
import torch
from torch import Tensor, nn

from jepa_ssl import Encoded
from jepa_ssl.balance import GradientBalance
from jepa_ssl.diagnostics import gradient_share
from jepa_ssl.joint import LossWeights
from jepa_ssl.protocols import JEPALoss


def losses(shared: Tensor, step: int = 0) -> tuple[Tensor, JEPALoss]:
    """A task gradient of 1000 times JEPA's, both changing from step to step."""
    task = (100.0 + 50.0 * math.sin(step)) * shared.square().sum()
    return task, JEPALoss((0.1 + 0.02 * math.cos(step)) * shared.square().sum(), {}, {}, {}, Encoded({}))


def share(balance: GradientBalance, shared: Tensor, weights: LossWeights, step: int = 0) -> float:
    task, jepa = losses(shared, step)
    norms = gradient_share(weights.combine(lambda: task, lambda: jepa, balance).parts, [shared])
    return (norms["jepa"] / norms["task"]).item()


@pytest.mark.parametrize("wanted", [0.05, 0.3, 1.0])
def test_the_first_measurement_gives_the_share(wanted: float):
    shared = torch.ones(5, requires_grad=True)
    weights = LossWeights(task=2.0, jepa=wanted)
    assert share(GradientBalance([shared]), shared, weights) == pytest.approx(wanted, rel=1e-4)
    task, jepa = losses(shared)
    constant = gradient_share(weights.combine(lambda: task, lambda: jepa).parts, [shared])
    assert (constant["jepa"] / constant["task"]).item() < 1e-3  # what a constant weight would have left of it


def test_the_share_is_held_while_gradients_change():
    shared = torch.ones(5, requires_grad=True)
    balance, weights = GradientBalance([shared], every=2), LossWeights(task=1.0, jepa=0.3)
    shares = [share(balance, shared, weights, step) for step in range(100)]
    assert sum(map(math.log, shares)) / 100 == pytest.approx(math.log(0.3), abs=0.1)


def test_the_factor_is_the_mean_of_the_logarithms_measured_at_the_cadence():
    shared = torch.ones(5, dtype=torch.float64, requires_grad=True)
    balance = GradientBalance([shared], every=3, smoothing=0.5)
    expected, found = None, []
    for step in range(12):
        task, jepa = losses(shared, step)
        found.append(balance(task, jepa.total).item())
        if step % 3 == 0:
            ratio = math.log((100.0 + 50.0 * math.sin(step)) / (0.1 + 0.02 * math.cos(step)))
            kept = 0.5 if step else 0.0
            expected = ratio if expected is None else kept * expected + (1.0 - kept) * ratio
        assert expected is not None
        assert found[-1] == pytest.approx(math.exp(expected), rel=1e-5)
    assert len(set(found)) == 4


@pytest.mark.filterwarnings("ignore:in 3 measurements")
def test_gradients_of_zero_or_not_finite_leave_the_factor():
    shared = torch.ones(5, requires_grad=True)
    balance = GradientBalance([shared], every=1)
    well, none = shared.sum(), 0.0 * shared.sum()
    bad = [(none, well), (well, none), (none, none), (math.nan * well, well), (well, math.inf * well)]
    assert [balance(task, jepa).item() for task, jepa in bad] == [1.0] * 5
    assert balance(5.0 * well, well).item() == pytest.approx(5.0)
    assert [balance(task, jepa).item() for task, jepa in bad] == pytest.approx([5.0] * 5)


def test_the_factor_carries_no_gradient_and_grad_is_left_alone():
    shared = torch.ones(5, requires_grad=True)
    task, jepa = losses(shared)
    balance = GradientBalance([shared])
    factor = balance(task, jepa.total)
    assert not factor.requires_grad
    assert shared.grad is None
    loss = LossWeights(task=1.0, jepa=0.5).combine(lambda: task, lambda: jepa, balance)
    balance(task, jepa.total)  # what is measured later does not change a graph that is there
    loss.total.backward()
    assert shared.grad is not None
    expected = 2.0 * 100.0 + 0.5 * factor * 2.0 * 0.12
    torch.testing.assert_close(shared.grad, expected * torch.ones(5))


def test_it_goes_on_where_it_was_saved():
    shared = torch.ones(5, requires_grad=True)
    weights = LossWeights(task=1.0, jepa=0.3)
    unbroken = GradientBalance([shared], every=4)
    for step in range(6):
        share(unbroken, shared, weights, step)
    file = io.BytesIO()
    torch.save(unbroken.state_dict(), file)
    file.seek(0)
    resumed = GradientBalance([shared], every=4)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for step in range(6, 20):
        assert share(resumed, shared, weights, step) == share(unbroken, shared, weights, step)


def test_it_adds_no_parameters_and_no_weights_to_a_checkpoint():
    balance = GradientBalance(nn.Linear(3, 3).parameters())
    assert list(balance.parameters()) == []
    assert set(balance.state_dict()) == {"log_ratio", "measured", "_extra_state"}


def test_bad_arguments_are_refused():
    weight = torch.ones(1, requires_grad=True)
    with pytest.raises(ValueError, match=r"shared has 0 parameters, but none requires a gradient"):
        GradientBalance([])
    with pytest.raises(ValueError, match="every is 0"):
        GradientBalance([weight], every=0)
    with pytest.raises(ValueError, match="smoothing is 2"):
        GradientBalance([weight], smoothing=2.0)


def test_a_jepa_term_without_a_gradient_is_not_blown_up():
    w = torch.ones(4, requires_grad=True)
    balance = GradientBalance([w], every=1, smoothing=0.0)
    assert balance(w.sum(), 1e-12 * w.sum()) == 1e6


def test_what_is_not_trained_cannot_be_balanced():
    with pytest.raises(ValueError, match=r"shared has 2 parameters, but none requires a gradient"):
        GradientBalance([torch.ones(2), torch.ones(3)])


def test_a_trunk_that_jepa_does_not_reach_is_reported_once():
    reached, other = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    balance = GradientBalance([other], every=2)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(12):
            balance(other.sum(), reached.sum())
    (one,) = said
    assert re.search("in 3 measurements .* has no effect; give it the parameters of the trunk", str(one.message))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        balance = GradientBalance([reached], every=2)
        for _ in range(12):
            balance(2 * reached.sum(), reached.sum())
