"""Teachers: the EMA copy follows its formula in every tensor, never wakes up, resumes exactly; SimSiam has none."""

import io
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import oracles
import pytest
import torch
from builders import FlatEncoder, seeded
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from jepa_ssl import Encoded, EntryMasker, JEPAObjective, MLPPredictor, Views
from jepa_ssl.teachers import EMATeacher, SharedTeacher, StopGradTeacher, TargetNetwork


def all_tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def train_a_step(encoder: nn.Module, seed: int) -> None:
    """Moves every parameter and every buffer, as a training step would."""
    encoder.train()
    x = torch.randn(16, 6, generator=seeded(seed)).to(next(encoder.parameters()).dtype)
    loss = sum((z**2).sum() for z in encoder(x).values())
    assert isinstance(loss, Tensor)
    encoder.zero_grad()
    loss.backward()
    with torch.no_grad():
        for p in encoder.parameters():
            if p.grad is not None:
                p -= 0.01 * p.grad
        for name, buffer in encoder.named_buffers():
            if name.endswith("scale"):
                buffer += 0.1


# The formula


@given(st.floats(0.0, 1.0), st.integers(0, 99))
def test_each_update_is_the_formula_in_every_parameter_and_float_buffer(momentum: float, seed: int):
    encoder = FlatEncoder().double()
    teacher = EMATeacher(encoder, momentum)
    expected = {name: tensor.detach().clone() for name, tensor in all_tensors(encoder).items()}
    for step in range(3):
        train_a_step(encoder, seed + step)
        teacher.update(encoder)
        for name, online in all_tensors(encoder).items():
            counts = not online.is_floating_point()
            expected[name] = online.clone() if counts else oracles.ema_update(expected[name], online, momentum)
            torch.testing.assert_close(all_tensors(teacher.target_model)[name], expected[name], rtol=1e-12, atol=1e-12)
    assert set(expected) >= {"scale", "trunk.1.running_mean", "trunk.1.num_batches_tracked"}
    assert int(teacher.updates) == 3


def test_each_update_is_the_formula_in_float32():
    encoder = FlatEncoder()
    teacher = EMATeacher(encoder, momentum=0.996)
    expected = {name: t.detach().clone() for name, t in all_tensors(encoder).items() if t.is_floating_point()}
    for step in range(20):
        train_a_step(encoder, step)
        teacher.update(encoder)
        for name, old in expected.items():
            expected[name] = oracles.ema_update(old, all_tensors(encoder)[name], 0.996)
    for name, tensor in expected.items():
        torch.testing.assert_close(all_tensors(teacher.target_model)[name].double(), tensor, rtol=1e-6, atol=1e-6)


def test_batch_norm_travels_whole():
    encoder = FlatEncoder()
    teacher = EMATeacher(encoder, momentum=0.5)
    train_a_step(encoder, 0)
    teacher.update(encoder)
    norm, online = teacher.target_model.get_submodule("trunk.1"), encoder.get_submodule("trunk.1")
    assert int(norm.get_buffer("num_batches_tracked")) == 1  # copied, not halved to 0
    assert norm.get_buffer("num_batches_tracked").dtype == torch.int64
    torch.testing.assert_close(norm.get_buffer("running_mean"), 0.5 * online.get_buffer("running_mean"))


def test_momentum_0_is_the_encoder_and_1_never_moves():
    encoder = FlatEncoder()
    follows, stays = EMATeacher(encoder, 0.0), EMATeacher(encoder, 1.0)
    before = deepcopy(all_tensors(stays.target_model))
    for step in range(3):
        train_a_step(encoder, step)
        follows.update(encoder)
        stays.update(encoder)
    for name, online in all_tensors(encoder).items():
        assert torch.equal(all_tensors(follows.target_model)[name], online)
        if online.is_floating_point():
            assert torch.equal(all_tensors(stays.target_model)[name], before[name])


@given(st.floats(0.0, 1.0))
def test_a_teacher_that_equals_its_student_stays_exactly_equal(momentum: float):
    encoder = FlatEncoder()
    teacher = EMATeacher(encoder, momentum)
    for _ in range(5):
        teacher.update(encoder)
    assert all(torch.equal(t, all_tensors(encoder)[name]) for name, t in all_tensors(teacher.target_model).items())


# Half precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("late", [False, True], ids=["built in half", "cast later"])
def test_a_half_precision_teacher_moves_at_momentum_0_999(dtype: torch.dtype, late: bool):
    class Ones(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

    encoder = Ones() if late else Ones().to(dtype)
    teacher = EMATeacher(encoder, momentum=0.999)
    if late:  # jepa.to(dtype) reaches the teacher as a child of the objective
        nn.ModuleList([teacher, encoder]).to(dtype)
    with torch.no_grad():
        encoder.weight.fill_(2.0)
    expected = torch.ones(4, dtype=torch.float64)
    for _ in range(100):
        teacher.update(encoder)
        expected = oracles.ema_update(expected, encoder.weight, 0.999)
    run = teacher.target_model.get_parameter("weight")
    assert run.dtype == dtype
    assert torch.equal(run, expected.to(dtype))
    assert run[0].item() > 1.08  # in half precision alone it would still be 1
    assert isinstance(teacher.average, nn.Module)
    torch.testing.assert_close(teacher.average.get_parameter("weight").double(), expected, rtol=1e-5, atol=0)


def test_a_half_precision_encoder_is_copied_in_its_precision():
    encoder = FlatEncoder().bfloat16()
    teacher = EMATeacher(encoder)
    train_a_step(encoder, 0)
    teacher.update(encoder)
    assert teacher(encoder, torch.ones(2, 6, dtype=torch.bfloat16))["instance"].dtype == torch.bfloat16
    assert EMATeacher(FlatEncoder()).average is None


@pytest.mark.parametrize("again", [torch.float32, torch.float64])
def test_back_in_full_precision_the_copy_takes_over_the_average_and_drops_it(again: torch.dtype):
    encoder = FlatEncoder()
    teacher = EMATeacher(encoder, momentum=0.999)
    names = teacher.state_dict().keys()
    nn.ModuleList([teacher, encoder]).bfloat16()
    for step in range(3):
        train_a_step(encoder, step)
        teacher.update(encoder)
    expected = all_tensors(deepcopy(teacher.average))  # pyright: ignore[reportArgumentType]
    nn.ModuleList([teacher, encoder]).to(again)
    assert teacher.average is None
    assert teacher.state_dict().keys() == names
    for name, tensor in all_tensors(teacher.target_model).items():
        assert torch.equal(tensor, expected[name].to(tensor.dtype))
        assert tensor.dtype == (again if tensor.is_floating_point() else torch.int64)
    teacher.update(encoder)
    assert not any(p.requires_grad for p in teacher.parameters())


# Names


class DDPLike(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any) -> Any:
        return self.module(*args)


class Adapter(nn.Module):
    """An encoder whose own names contain those of the wrappers."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(6, 4)
        self.submodule = nn.Linear(6, 4)
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"instance": self.module(x) * self.weight + self.submodule(x)}


class Scaled(nn.Module):
    """One child, of a wrapper's name, whose weight would be taken for its own if that name were dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(6, 4)
        self.weight = nn.Parameter(torch.ones(4))


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda m: m,
    "compile": lambda m: torch.compile(m, backend="eager"),
    "ddp": DDPLike,
    "checkpointed": checkpoint_wrapper,
    "both": lambda m: DDPLike(WRAPPERS["compile"](m)),
    "inside": lambda m: nn.Sequential(DDPLike(m)),
}


@pytest.mark.parametrize("build", [FlatEncoder, Adapter, Scaled])
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("wrapped_at_copy", [False, True])
def test_every_tensor_is_found_under_compile_and_ddp(build: type[nn.Module], wrapper: str, wrapped_at_copy: bool):
    encoder = build()
    inside = wrapper == "inside"  # a Sequential's "0." is a name of its own, so both sides have it
    wrapped = WRAPPERS[wrapper](encoder)
    teacher = EMATeacher(wrapped if wrapped_at_copy else nn.Sequential(encoder) if inside else encoder, momentum=0.0)
    with torch.no_grad():
        for tensor in all_tensors(encoder).values():
            tensor += 1
    teacher.update(wrapped)
    copies = list(all_tensors(teacher.target_model).values())
    assert len(copies) == len(all_tensors(encoder))
    assert all(torch.equal(t, o) for t, o in zip(copies, all_tensors(encoder).values(), strict=True))


def test_the_copy_of_a_compiled_encoder_runs_and_is_a_copy():
    encoder = FlatEncoder().eval()
    compiled: Any = torch.compile(encoder, backend="eager")
    x = torch.randn(5, 6)
    before = compiled(x)["instance"].detach()
    teacher = EMATeacher(compiled, momentum=1.0)
    with torch.no_grad():
        for p in encoder.parameters():
            p += 1
    torch.testing.assert_close(teacher(compiled, x)["instance"], before)
    assert not torch.equal(compiled(x)["instance"], before)


def test_another_encoder_is_refused_by_name_and_nothing_moves():
    teacher = EMATeacher(nn.Sequential(nn.Linear(2, 2)), momentum=0.5)
    before = deepcopy(teacher.state_dict())
    with pytest.raises(ValueError, match=r"encoder lacks \['0\.bias'\] and adds \[\].*EMATeacher.*that encoder"):
        teacher.update(nn.Sequential(nn.Linear(2, 2, bias=False)))
    with pytest.raises(ValueError, match=r"lacks \[\] and adds \['1\.bias', '1\.weight'\]"):
        teacher.update(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    with pytest.raises(ValueError, match=r"encoder has 0\.weight of shape \[2, 3\].*\[2, 2\]"):
        teacher.update(nn.Sequential(nn.Linear(3, 2)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_a_lazy_encoder_that_was_never_run_is_refused():
    with pytest.raises(ValueError, match=r"encoder's weight has no shape yet; run the encoder on one batch"):
        EMATeacher(nn.LazyLinear(3))


def test_an_encoder_that_is_no_module_is_refused():
    def encoder(flat: Any) -> dict[str, Any]:
        return {"instance": flat}

    with pytest.raises(TypeError, match=r"encoder is a function.*StopGradTeacher"):
        EMATeacher(encoder)  # pyright: ignore
    with pytest.raises(TypeError, match=r"encoder is a function.*StopGradTeacher"):
        EMATeacher(nn.Linear(1, 1)).update(encoder)  # pyright: ignore


@pytest.mark.parametrize("momentum", [-0.1, 1.1, float("nan")])
def test_bad_momentum_is_refused(momentum: float):
    with pytest.raises(ValueError, match=rf"momentum is {momentum}.*\[0, 1\]"):
        EMATeacher(nn.Linear(1, 1), momentum)


# A sleeping copy


def test_the_copy_stays_in_eval_takes_no_gradient_and_shares_nothing():
    encoder = FlatEncoder().train()
    teacher = EMATeacher(encoder)
    parent = nn.ModuleDict({"jepa": nn.ModuleList([teacher])})
    for mode in (True, False, True):
        parent.train(mode)
        assert teacher.training == mode
        assert not any(m.training for m in teacher.target_model.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert encoder.training  # the original is as it was
    assert all(p.requires_grad for p in encoder.parameters())
    addresses = {t.data_ptr() for t in all_tensors(encoder).values()}
    assert not addresses & {t.data_ptr() for t in all_tensors(teacher).values()}
    x = torch.randn(8, 6)
    z = teacher(encoder, x)["instance"]
    assert not z.requires_grad
    assert torch.equal(z, teacher(encoder, x)["instance"])  # no dropout
    assert int(teacher.target_model.get_buffer("trunk.1.num_batches_tracked")) == 0  # BatchNorm saw nothing


def test_time_moves_in_update_alone():
    encoder = FlatEncoder()
    teacher = EMATeacher(encoder, 0.5)
    teacher(encoder, torch.randn(8, 6))  # the first pass takes what a first batch initialised
    train_a_step(encoder, 0)
    before = deepcopy(teacher.state_dict())
    for _ in range(4):  # four micro-batches of one optimizer step
        teacher(encoder, torch.randn(8, 6))
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_resumed_teacher_goes_on_bit_for_bit(dtype: torch.dtype):
    encoder = FlatEncoder().to(dtype)
    teacher = EMATeacher(encoder, 0.9)
    for step in range(3):
        train_a_step(encoder, step)
        teacher.update(encoder)
    saved = io.BytesIO()
    torch.save(teacher.state_dict(), saved)
    saved.seek(0)
    resumed = EMATeacher(FlatEncoder().to(dtype), 0.9)
    resumed.load_state_dict(torch.load(saved, weights_only=True))
    for _ in range(3):
        train_a_step(encoder, 7)
        teacher.update(encoder)
        resumed.update(encoder)
    assert int(resumed.updates) == int(teacher.updates) == 6
    assert all(torch.equal(tensor, teacher.state_dict()[name]) for name, tensor in resumed.state_dict().items())


def test_a_copy_counts_on():
    encoder = nn.Linear(2, 2)
    teacher = EMATeacher(encoder, 0.9)
    for _ in range(5):
        teacher.update(encoder)
    copied = deepcopy(teacher)
    for _ in range(10):
        copied.update(encoder)
    seen: list[int] = []
    copied.momentum = lambda updates: seen.append(updates) or 0.5  # pyright: ignore
    copied.update(encoder)
    assert seen == [15]


def test_tied_weights_stay_tied():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
            self.b.weight = self.a.weight

    encoder = Tied()
    teacher = EMATeacher(encoder, 0.0)
    with torch.no_grad():
        encoder.a.weight += 1
    teacher.update(encoder)
    assert teacher.target_model.get_parameter("b.weight") is teacher.target_model.get_parameter("a.weight")
    assert torch.equal(teacher.target_model.get_parameter("b.weight"), encoder.b.weight)


# The encoder itself


def test_the_stop_gradient_teacher_is_the_encoder_without_gradient_and_without_state():
    encoder, teacher = FlatEncoder().eval(), StopGradTeacher()
    x = torch.randn(3, 6)
    z = Encoded.of(teacher(encoder, x)).embeddings["instance"]
    assert torch.equal(z, encoder(x)["instance"])
    assert not z.requires_grad
    teacher.update(encoder)
    assert not isinstance(teacher, nn.Module)
    assert vars(teacher) == {}


def test_the_stop_gradient_teacher_cuts_the_gradient_of_what_was_computed_before():
    whole = FlatEncoder()(torch.randn(3, 6))
    valid = torch.tensor([True, False, True])
    bare = StopGradTeacher()(lambda _: whole, None)
    full = StopGradTeacher()(lambda _: Encoded(whole, whole, {"instance": valid}), None)
    assert isinstance(full, Encoded)
    assert full.valid["instance"] is valid
    for z in (Encoded.of(bare).embeddings, full.embeddings, full.features):
        assert not z["instance"].requires_grad
        assert torch.equal(z["instance"], whole["instance"])
    assert whole["instance"].requires_grad


def test_the_shared_teacher_is_the_encoder_with_gradient():
    encoder, teacher = FlatEncoder().eval(), SharedTeacher()
    z = Encoded.of(teacher(encoder, torch.randn(3, 6))).embeddings["instance"]
    z.sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())
    assert teacher.learns
    teacher.update(encoder)
    assert vars(teacher) == {}


class Spread:
    """A regulariser that sees both sides."""

    def __call__(self, embeddings: Any, *, valid: Any, generator: Any = None) -> Tensor:
        return sum((z.square().mean() for z in embeddings.values()), start=torch.zeros(()))


@pytest.mark.parametrize("teacher", [StopGradTeacher(), SharedTeacher()], ids=["stop-gradient", "shared"])
@pytest.mark.parametrize("full", [False, True], ids=["embeddings", "Encoded"])
def test_what_was_computed_before_serves_as_target_and_saves_the_pass(teacher: Any, full: bool):
    calls = 0

    def encode(flat: Tensor) -> Any:
        nonlocal calls
        calls += 1
        z = encoder(flat)
        return Encoded(z, {stream: 2 * value for stream, value in z.items()}) if full else z

    encoder = FlatEncoder().double().eval()
    jepa = JEPAObjective(EntryMasker(0.5), MLPPredictor({"instance": 4}).double(), teacher, regularizer=Spread())
    x = torch.randn(5, 6, dtype=torch.float64)
    results: list[tuple[Tensor, list[Tensor]]] = []
    for whole in (False, True):
        before = calls
        given = encode(x) if whole else None  # as the pass of the task would be
        parameters = [*encoder.parameters(), *jepa.parameters()]
        loss = jepa(encode, x, precomputed_target=given, generator=seeded()).total
        results.append((loss, list(torch.autograd.grad(loss, parameters))))
        assert calls - before == 2
    (plain, gradients), (saved, others) = results
    torch.testing.assert_close(saved, plain, rtol=0, atol=1e-15)
    for gradient, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(other, gradient, rtol=1e-12, atol=1e-15)
    assert all(bool(gradient.any()) for gradient in gradients[:1])


def test_teachers_are_exchanged_by_one_argument():
    encoder = FlatEncoder()
    learned, moving = TargetNetwork({"instance": (6, 4)}, learned=True), EMATeacher(encoder)
    for teacher in (moving, StopGradTeacher(), SharedTeacher(), TargetNetwork({"instance": (6, 4)}), learned):
        views: Any = EntryMasker(0.5)
        if isinstance(teacher, TargetNetwork):
            views = lambda x, generator=None: Views(x, {"instance": x})  # noqa: E731
        jepa = JEPAObjective(views, MLPPredictor({"instance": 4}), teacher)
        jepa(encoder, torch.randn(4, 6)).total.backward()
        jepa.update(encoder)
    assert int(moving.updates) == 1
    assert all(p.grad is not None for p in learned.parameters())


def test_a_mask_of_minus_infinity_stays_one():
    """Its average with itself would be NaN, and so would all that attends through it."""
    encoder = nn.Linear(2, 2)
    encoder.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(3))
    teacher = EMATeacher(encoder, 0.9)
    teacher.update(encoder)
    assert torch.equal(teacher.target_model.get_buffer("mask"), encoder.get_buffer("mask"))


def test_a_restarted_teacher_is_the_encoder_as_it_is():
    encoder = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    teacher = EMATeacher(encoder, 0.9)
    for tensor in encoder.state_dict().values():
        tensor.add_(1)
    teacher.update(encoder)
    teacher.restart(encoder)
    assert teacher.updates == 0
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, teacher.target_model.state_dict()[name]), name
