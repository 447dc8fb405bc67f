"""Momentum schedules: the formulas, counted in updates, resumed in the middle bit for bit."""

import io
import math
from collections.abc import Callable
from itertools import pairwise

import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from jepa_ssl.schedules import CosineSchedule, LinearSchedule
from jepa_ssl.teachers import EMATeacher


@given(st.floats(0.0, 1.0), st.integers(1, 50), st.integers(0, 80))
def test_the_cosine_schedule_is_byols(start: float, updates: int, k: int):
    k = min(k, updates)
    byol = 1.0 - (1.0 - start) * (math.cos(math.pi * k / updates) + 1.0) / 2.0
    assert CosineSchedule(start, 1.0, updates)(k) == pytest.approx(byol, abs=1e-15)


@pytest.mark.parametrize("schedule", [LinearSchedule, CosineSchedule])
@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.integers(1, 50))
def test_schedules_go_from_start_to_end_on_one_side_and_stay(
    schedule: type[LinearSchedule], start: float, end: float, updates: int
):
    values = [schedule(start, end, updates)(k) for k in range(updates + 1)]
    assert values[0] == pytest.approx(start, abs=1e-15)
    assert values[-1] == end == schedule(start, end, updates)(10 * updates)
    assert all(min(start, end) <= value <= max(start, end) for value in values)
    assert all(abs(b - end) <= abs(a - end) + 1e-15 for a, b in pairwise(values))
    assert values[updates // 2] == pytest.approx((start + end) / 2, abs=1e-15) or updates % 2


def test_the_linear_schedule_is_a_line():
    assert [LinearSchedule(0.5, 0.9, 4)(k) for k in range(6)] == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9, 0.9])


@pytest.mark.parametrize("schedule", [LinearSchedule, CosineSchedule])
def test_bad_schedules_are_refused(schedule: type[LinearSchedule]):
    with pytest.raises(ValueError, match=r"start is -0\.1.*at least 0"):
        schedule(-0.1, 1.0, 10)
    with pytest.raises(ValueError, match=r"end is nan.*finite"):
        schedule(0.9, math.nan, 10)
    with pytest.raises(ValueError, match=r"steps is 0.*at least 1"):
        schedule(0.9, 1.0, 0)
    with pytest.raises(ValueError, match=r"momentum\.end is 1\.5.*\[0, 1\]"):
        EMATeacher(nn.Linear(1, 1), schedule(0.9, 1.5, 10))


SCHEDULES: dict[str, Callable[[int], float]] = {
    "linear": LinearSchedule(0.5, 1.0, 5),
    "cosine": CosineSchedule(0.5, 1.0, 5),
    "own": lambda k: 0.9 - 0.1 * min(k, 3),
}


def move(encoder: nn.Linear, step: int) -> None:
    with torch.no_grad():
        encoder.weight.copy_(torch.full_like(encoder.weight, float(step * step)))


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize("name", SCHEDULES)
def test_update_k_takes_the_kth_momentum(name: str, warmup: int):
    encoder = nn.Linear(1, 1).double()
    teacher = EMATeacher(encoder, SCHEDULES[name], warmup=warmup)
    expected = encoder.weight.detach().clone()
    for k in range(8):
        move(encoder, k)
        teacher.update(encoder)
        momentum = SCHEDULES[name](k)
        momentum = min(momentum, (1 + k) / (10 + k)) if k < warmup else momentum
        expected = oracles.ema_update(expected, encoder.weight, momentum)
        torch.testing.assert_close(teacher.target_model.get_parameter("weight"), expected, rtol=1e-14, atol=1e-14)


def test_warmup_also_holds_for_a_plain_number():
    encoder = nn.Linear(1, 1).double()
    teacher = EMATeacher(encoder, 0.5, warmup=2)
    expected = encoder.weight.detach().clone()
    for k, momentum in enumerate([1 / 10, 2 / 11, 0.5]):
        move(encoder, k + 1)
        teacher.update(encoder)
        expected = oracles.ema_update(expected, encoder.weight, momentum)
    torch.testing.assert_close(teacher.target_model.get_parameter("weight"), expected)
    with pytest.raises(ValueError, match=r"warmup is -1.*at least 0"):
        EMATeacher(encoder, warmup=-1)


@pytest.mark.parametrize("way", ["teacher", "holder", "by hand", "assign", "after a cast"])
def test_a_resumed_schedule_goes_on_bit_for_bit(way: str):
    def new() -> EMATeacher:
        return EMATeacher(nn.Linear(2, 2), CosineSchedule(0.5, 1.0, 10), warmup=4)

    encoder, teacher, resumed = nn.Linear(2, 2), new(), new()
    for step in range(3):
        move(encoder, step)
        teacher.update(encoder)
    saved = io.BytesIO()
    torch.save(teacher.state_dict(), saved)
    saved.seek(0)
    state = torch.load(saved, weights_only=True)
    resumed.update(encoder)  # it has a count of its own, which has to go
    if way == "holder":
        nn.ModuleList([resumed]).load_state_dict({f"0.{key}": value for key, value in state.items()})
    elif way == "by hand":
        resumed.target_model.load_state_dict(teacher.target_model.state_dict())
        resumed.updates.fill_(state["updates"])
    elif way == "after a cast":
        resumed.updates.fill_(3)
        resumed.double().float()
        resumed.target_model.load_state_dict(teacher.target_model.state_dict())
    else:
        resumed.load_state_dict(state, assign=way == "assign")
    for step in range(3, 9):
        move(encoder, step)
        teacher.update(encoder)
        resumed.update(encoder)
        assert all(torch.equal(tensor, teacher.state_dict()[key]) for key, tensor in resumed.state_dict().items())
    assert int(resumed.updates) == 9


def test_the_count_is_not_asked_of_the_device():
    """On the meta device there are no numbers to be had."""
    with torch.device("meta"):
        encoder = nn.Linear(2, 2)
        teacher = EMATeacher(encoder, CosineSchedule(0.5, 1.0, 10))
    teacher.update(encoder)
    cast = teacher.to(torch.float16)
    cast.update(encoder)
    moved = EMATeacher(nn.Linear(2, 2), LinearSchedule(0.5, 1.0, 10), warmup=1).to("meta")
    moved.update(encoder)
    assert moved.updates.is_meta


def test_a_schedule_that_leaves_the_range_is_refused():
    with pytest.raises(ValueError, match=r"momentum\(0\) is 2\.0.*\[0, 1\]"):
        EMATeacher(nn.Linear(1, 1), lambda k: 2.0)
    encoder = nn.Linear(1, 1)
    teacher = EMATeacher(encoder, lambda k: 0.9 + k)
    teacher.update(encoder)
    with pytest.raises(ValueError, match=r"momentum\(1\) is 1\.9"):
        teacher.update(encoder)
