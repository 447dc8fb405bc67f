"""The EMA teacher's lists of tensors, which are kept from update to update and never stale."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import oracles
import pytest
import torch
from builders import FlatEncoder
from torch import Tensor, nn

from jepa_ssl.teachers import EMATeacher


def all_tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def shift(encoder: nn.Module) -> None:
    with torch.no_grad():
        for tensor in all_tensors(encoder).values():
            tensor += 1


# What is kept between updates


class Wrapped(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def replace_parameter(encoder: Any, teacher: Any) -> None:
    encoder.trunk[0].weight = nn.Parameter(torch.full((4, 6), 3.0))


def replace_module(encoder: Any, teacher: Any) -> None:
    encoder.trunk[4] = nn.Linear(4, 4)


def replace_buffer(encoder: Any, teacher: Any) -> None:
    encoder.scale = torch.full((4,), 7.0)


def replace_parameter_of_the_teacher(encoder: Any, teacher: Any) -> None:
    teacher.target_model.trunk[0].weight = nn.Parameter(torch.full((4, 6), 3.0), requires_grad=False)


def replace_module_of_the_teacher(encoder: Any, teacher: Any) -> None:
    teacher.target_model.trunk[4] = nn.Linear(4, 4).requires_grad_(False)


def replace_the_copy(encoder: Any, teacher: Any) -> None:
    teacher.target_model = FlatEncoder().requires_grad_(False)


def overwrite_on_conversion(encoder: Any, teacher: Any) -> None:
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        encoder.double()
        teacher.double()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


EVENTS: dict[str, Callable[[Any, Any], Any]] = {
    "nothing": lambda encoder, teacher: None,
    "encoder's parameter replaced": replace_parameter,
    "encoder's module replaced": replace_module,
    "encoder's buffer replaced": replace_buffer,
    "encoder loads": lambda encoder, teacher: encoder.load_state_dict(FlatEncoder().state_dict()),
    "encoder loads, assigned": lambda encoder, teacher: encoder.load_state_dict(
        FlatEncoder().state_dict(), assign=True
    ),
    "encoder in float64": lambda encoder, teacher: encoder.double(),
    "encoder in half": lambda encoder, teacher: encoder.half(),
    "encoder to and fro": lambda encoder, teacher: encoder.double().float(),
    "part of the encoder in float64": lambda encoder, teacher: encoder.trunk[0].double(),
    "teacher's parameter replaced": replace_parameter_of_the_teacher,
    "teacher's module replaced": replace_module_of_the_teacher,
    "teacher's copy replaced": replace_the_copy,
    "teacher loads": lambda encoder, teacher: teacher.load_state_dict(EMATeacher(FlatEncoder()).state_dict()),
    "teacher loads, assigned": lambda encoder, teacher: teacher.load_state_dict(
        EMATeacher(FlatEncoder()).state_dict(), assign=True
    ),
    "copy loads, assigned": lambda encoder, teacher: teacher.target_model.load_state_dict(
        FlatEncoder().state_dict(), assign=True
    ),
    "teacher in float64": lambda encoder, teacher: teacher.double(),
    "copy in float64": lambda encoder, teacher: teacher.target_model.double(),
    "both in float64": lambda encoder, teacher: nn.ModuleList([encoder, teacher]).double(),
    "both overwritten": overwrite_on_conversion,
    "encoder in DDP": lambda encoder, teacher: Wrapped(encoder),
    "encoder compiled": lambda encoder, teacher: torch.compile(encoder, backend="eager"),
}


@pytest.mark.parametrize("event", EVENTS)
def test_an_update_after_anything_is_the_formula(event: str):
    encoder = FlatEncoder()
    teacher = EMATeacher(encoder, 0.25)
    for _ in range(2):
        shift(encoder)
        teacher.update(encoder)
    given = EVENTS[event](encoder, teacher)
    given = given if isinstance(given, nn.Module) and given is not teacher else encoder
    for _ in range(2):
        before = deepcopy(all_tensors(teacher.target_model))
        shift(encoder)
        teacher.update(given if event.startswith("encoder ") else encoder)
        for name, tensor in all_tensors(teacher.target_model).items():
            online = all_tensors(encoder)[name]
            expected = oracles.ema_update(before[name], online, 0.25) if tensor.is_floating_point() else online
            torch.testing.assert_close(tensor.double(), expected.double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("add", ["parameter", "buffer", "module"])
def test_an_encoder_that_grows_or_shrinks_is_refused_at_the_next_update(add: str):
    encoder = FlatEncoder()
    teacher = EMATeacher(encoder)
    teacher.update(encoder)
    relu: Any = encoder.trunk[2]  # has nothing of its own
    more = {"parameter": nn.Parameter(torch.ones(1)), "module": nn.Linear(1, 1), "buffer": torch.ones(1)}[add]
    relu.register_buffer("more", more) if isinstance(more, Tensor) and add == "buffer" else setattr(relu, "more", more)
    with pytest.raises(ValueError, match=r"adds \['trunk\.2\.more"):
        teacher.update(encoder)
    del relu.more
    teacher.update(encoder)
    del encoder.scale  # the last
    with pytest.raises(ValueError, match=r"lacks \['scale'\]"):
        teacher.update(encoder)


def test_the_lists_are_made_once():
    encoder = FlatEncoder()
    teacher: Any = EMATeacher(encoder)
    teacher.update(encoder)
    kept = teacher._pairs
    for _ in range(3):
        shift(encoder)
        teacher.update(encoder)
    assert teacher._pairs is kept


def test_gradients_flow_after_an_update_between_forward_and_backward():
    encoder = FlatEncoder()
    teacher = EMATeacher(encoder, 0.5)
    x = torch.randn(4, 6, requires_grad=True)
    loss = (encoder(x)["instance"] - teacher(encoder, x)["instance"]).square().mean()
    teacher.update(encoder)
    loss.backward()
    assert all(p.grad is not None for p in encoder.parameters())
    assert not any(tensor.is_inference() for tensor in all_tensors(teacher).values())


class Half(nn.Module):
    """Parts in half precision, the rest in float32; a complex weight and nothing at all among them."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = nn.Linear(3, 3).bfloat16(), nn.BatchNorm1d(3)
        self.complex = nn.Parameter(torch.ones(2, dtype=torch.complex64))
        self.nothing = nn.Parameter(torch.ones(0, 3))
        self.register_buffer("flag", torch.tensor(False))


def test_mixed_precision_complex_numbers_flags_and_empty_tensors():
    encoder: Any = Half()
    teacher = EMATeacher(encoder, 0.5)
    with torch.no_grad():
        for p in encoder.parameters():
            p += 1 / 3
        encoder.flag.fill_(True)
        encoder.high.num_batches_tracked += 3
    before = deepcopy(teacher.average)
    teacher.update(encoder)
    assert isinstance(before, nn.Module)
    assert isinstance(teacher.average, nn.Module)
    run = all_tensors(teacher.target_model)
    for name, tensor in all_tensors(teacher.average).items():
        old, online = all_tensors(before)[name], all_tensors(encoder)[name]
        averaged = tensor.is_floating_point() or tensor.is_complex()
        expected = 0.5 * old + 0.5 * online.to(old.dtype) if averaged else online
        torch.testing.assert_close(tensor, expected)
        assert torch.equal(run[name], tensor.to(run[name].dtype))
        assert run[name].dtype == online.dtype
    assert bool(teacher.target_model.get_buffer("flag"))


def test_a_module_without_tensors_has_a_teacher():
    teacher = EMATeacher(nn.ReLU())
    teacher.update(nn.ReLU())
    assert int(teacher.updates) == 1


def test_an_encoder_that_diverged_does_not_touch_a_teacher_that_stays():
    encoder = nn.Linear(2, 2)
    teacher = EMATeacher(encoder, 1.0)
    nn.init.constant_(encoder.weight, torch.nan)
    teacher.update(encoder)
    assert bool(teacher.target_model.get_parameter("weight").isfinite().all())
