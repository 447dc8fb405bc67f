"""Joint training: the four ways to train, and no forward pass that does not count."""

import math
from typing import Any

import pytest
import torch

from jepa_ssl import Encoded, JointSchedule, LinearSchedule
from jepa_ssl.joint import LossWeights
from jepa_ssl.protocols import JEPALoss


def jepa_loss(value: float) -> JEPALoss:
    return JEPALoss(torch.tensor(value), {}, {}, {}, Encoded({}))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (JointSchedule(jepa_weight=0.0), [(1.0, 0.0)] * 4),
        (JointSchedule(jepa_weight=0.0, pretrain=2), [(0.0, 1.0)] * 2 + [(1.0, 0.0)] * 2),
        (JointSchedule(jepa_weight=0.2, pretrain=2), [(0.0, 1.0)] * 2 + [(1.0, 0.2)] * 2),
        (JointSchedule(jepa_weight=0.2), [(1.0, 0.2)] * 4),
        (
            JointSchedule(task_weight=0.5, jepa_weight=LinearSchedule(0.0, 0.4, steps=2), pretrain=1),
            [(0.0, 1.0), (0.5, 0.0), (0.5, 0.2), (0.5, 0.4)],
        ),
    ],
    ids=["task alone", "jepa, then task", "jepa, then both", "both", "ramp after pretraining"],
)
def test_the_ways_to_train(schedule: JointSchedule, expected: list[tuple[float, float]]):
    weights = [schedule(epoch) for epoch in range(4)]
    assert [w.task for w in weights] == pytest.approx([task for task, _ in expected])
    assert [w.jepa for w in weights] == pytest.approx([jepa for _, jepa in expected])
    assert [schedule.is_pretraining(epoch) for epoch in range(4)] == [task == 0.0 for task, _ in expected]


def test_a_loss_that_does_not_count_is_not_computed():
    def never():
        raise AssertionError("computed")

    task = LossWeights(task=1.0, jepa=0.0).combine(lambda: torch.tensor(3.0), never)
    assert (task.total.item(), task.jepa) == (3.0, None)
    jepa = LossWeights(task=0.0, jepa=1.0).combine(never, lambda: jepa_loss(5.0))
    assert (jepa.total.item(), jepa.task) == (5.0, None)


def test_both_are_weighed_and_carry_their_gradients():
    x, y = torch.tensor(3.0, requires_grad=True), torch.tensor(5.0, requires_grad=True)
    loss = LossWeights(task=2.0, jepa=0.1).combine(lambda: x * x, lambda: JEPALoss(y * y, {}, {}, {}, Encoded({})))
    loss.total.backward()
    assert loss.total.item() == pytest.approx(2.0 * 9.0 + 0.1 * 25.0)
    assert (x.grad, y.grad) == (torch.tensor(12.0), torch.tensor(1.0))
    assert loss.task is not None
    assert loss.task.item() == 9.0


def test_the_task_alone_is_the_task_bit_for_bit():
    value = torch.tensor(1 / 3) * 0.1
    assert LossWeights(task=1.0, jepa=0.0).combine(lambda: value, lambda: jepa_loss(0.0)).total.equal(value)


def test_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match=r"both losses have weight 0.*raise one"):
        LossWeights(task=0.0, jepa=0.0).combine(lambda: torch.tensor(1.0), lambda: jepa_loss(1.0))
    for weight in (0.0, LinearSchedule(0.0, 1.0, 5)):
        with pytest.raises(ValueError, match=r"both are 0 after 5 epochs of pretraining.*raise one"):
            JointSchedule(jepa_weight=0.0, task_weight=weight, pretrain=5)


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf])
@pytest.mark.parametrize("name", ["jepa_weight", "task_weight"])
def test_bad_weights_are_refused_at_once(name: str, bad: float):
    schedule: Any = JointSchedule
    with pytest.raises(ValueError, match=f"{name} is {bad}.*at least 0.*use 0"):
        schedule(**{name: bad}, pretrain=5)
    with pytest.raises(ValueError, match=rf"{name}\(0\) is {bad}"):
        schedule(**{name: lambda epoch: bad}, pretrain=5)


def test_bad_epochs_and_ramps_are_refused_at_once():
    with pytest.raises(ValueError, match=r"pretrain is -1.*use 0"):
        JointSchedule(pretrain=-1)
    with pytest.raises(ValueError, match=r"steps is 0.*plain number"):
        LinearSchedule(0.0, 1.0, steps=0)
    with pytest.raises(ValueError, match="end is -1"):
        LinearSchedule(0.0, -1.0, steps=3)
    with pytest.raises(ValueError, match="start is nan"):
        LinearSchedule(math.nan, 1.0, steps=3)


def test_the_parts_are_weighed_and_add_up():
    loss = LossWeights(task=2.0, jepa=0.1).combine(lambda: torch.tensor(3.0), lambda: jepa_loss(5.0))
    assert {name: part.item() for name, part in loss.parts.items()} == {"task": 6.0, "jepa": 0.5}
    assert loss.total.item() == 6.5


def test_a_balance_is_asked_where_both_are_trained_alone():
    asked: list[tuple[float, float]] = []

    def balance(task: torch.Tensor, jepa: torch.Tensor) -> torch.Tensor:
        asked.append((task.item(), jepa.item()))
        return torch.tensor(10.0)

    both = LossWeights(task=2.0, jepa=0.1).combine(lambda: torch.tensor(3.0), lambda: jepa_loss(5.0), balance)
    assert both.total.item() == pytest.approx(6.0 + 0.1 * 10.0 * 5.0)
    assert asked == [(6.0, 5.0)]
    for weights in (LossWeights(task=1.0, jepa=0.0), LossWeights(task=0.0, jepa=1.0)):
        alone = weights.combine(lambda: torch.tensor(3.0), lambda: jepa_loss(5.0), balance)
        assert alone.total.item() == (3.0 if weights.task else 5.0)
    assert len(asked) == 1
