"""What moving a teacher costs, side by side with the other ways to average weights. Run with `make bench`."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from jepa_ssl import EMATeacher

MOMENTUM = 0.996
WAYS = ["foreach_lerp, cached lists", "EMATeacher", "mul and add, one by one", "AveragedModel", "ema-pytorch"]


def lists(student: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    return list(copy.deepcopy(student).requires_grad_(False).parameters()), list(student.parameters())


def way_to_move(way: str, student: nn.Module) -> Any:
    teacher, online = lists(student)
    if way == "EMATeacher":
        ours = EMATeacher(student, MOMENTUM)
        return lambda: ours.update(student)
    if way == "AveragedModel":
        model = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(MOMENTUM))
        return lambda: model.update_parameters(student)
    if way == "ema-pytorch":
        library = pytest.importorskip("ema_pytorch")
        model = library.EMA(student, beta=MOMENTUM, update_after_step=0, update_every=1, use_foreach=True)
        return model.update

    @torch.no_grad()
    def cached() -> None:
        torch._foreach_lerp_(teacher, online, 1.0 - MOMENTUM)  # pyright: ignore

    @torch.no_grad()
    def one_by_one() -> None:
        for t, o in zip(teacher, online, strict=True):
            t.mul_(MOMENTUM).add_(o, alpha=1.0 - MOMENTUM)

    return one_by_one if way == "mul and add, one by one" else cached


@pytest.mark.parametrize(("width", "layers"), [(46, 16), (46, 200), (182, 48), (724, 24)])
@pytest.mark.parametrize("way", WAYS)
def test_moving_a_teacher(benchmark, width, layers, way):
    student = nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))
    count = sum(p.numel() for p in student.parameters())
    benchmark.group = f"EMA of {count:,} parameters in {2 * layers} tensors"
    move = way_to_move(way, student)
    for _ in range(3):  # lists are made, first steps copied
        move()
    benchmark(move)
