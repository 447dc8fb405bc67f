"""The teacher's copy shares nothing with the encoder, and what cannot be copied is named before training begins."""

import gc
import threading
import warnings
import weakref
from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any

import pytest
import torch
from builders import FlatEncoder
from torch import Tensor, nn
from torch.nn.utils import prune

from jepa_ssl import Encoded, EntryMasker, JEPAObjective, MLPPredictor, ModelEncoder
from jepa_ssl.teachers import EMATeacher
from jepa_ssl.testing import check_encoder, check_teacher

FLAT = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """`[batch, 6]` -> `{"instance": [batch, 4]}`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 4)

    def forward(self, flat: Tensor) -> dict[str, Tensor]:
        return {"instance": self.net(flat)}


def changed(change: Callable[[Net], object]) -> Net:
    encoder = Net()
    change(encoder)
    return encoder


# ---- functions that copies share ---------------------------------------------------------------------------


def compiled_forward(encoder: Net) -> None:
    encoder.net.forward = torch.compile(encoder.net.forward, backend="eager")


def a_closure(encoder: Net) -> None:
    net = encoder.net
    encoder.forward = lambda flat: {"instance": net(flat)}  # pyright: ignore[reportAttributeAccessIssue]


def a_default(encoder: Net) -> None:
    encoder.forward = lambda flat, net=encoder.net: {"instance": net(flat)}  # pyright: ignore


def a_hook(encoder: Net) -> None:
    net = encoder.net
    net.register_forward_hook(lambda _, args, output: nn.functional.linear(args[0], net.weight))


class ByReference(nn.Module):
    """As modules do that know their parent."""

    def __init__(self, parent: nn.Module) -> None:
        super().__init__()
        self.parent = weakref.ref(parent)

    def forward(self, flat: Tensor) -> dict[str, Tensor]:
        return {"instance": self.parent().net(flat)}  # pyright: ignore


def a_weak_reference(encoder: Net) -> None:
    encoder.other = ByReference(encoder)
    encoder.forward = MethodType(lambda self, flat: self.other(flat), encoder)  # pyright: ignore


class ByTensor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 4)
        self.scale = torch.ones((), requires_grad=True)

    def forward(self, flat: Tensor) -> dict[str, Tensor]:
        return {"instance": self.scale * self.net(flat)}


class ByList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.layers = [nn.Linear(6, 4)]

    def forward(self, flat: Tensor) -> dict[str, Tensor]:
        return {"instance": self.scale * self.layers[0](flat)}


GLOBAL = nn.Linear(6, 4)


class ByGlobal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, flat: Tensor) -> dict[str, Tensor]:
        return {"instance": self.scale * GLOBAL(flat)}


def with_a_run() -> ModelEncoder:
    model = nn.Linear(6, 4)
    return ModelEncoder(model, {"instance": 4}, dim=4, run=lambda _, flat: model(flat))


SHARED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "compiled forward": (
        partial(changed, compiled_forward),
        r"encoder's own \['net.bias', 'net.weight'\].*: its net.forward is a compiled function.*use net.compile\(\)",
    ),
    "closure": (partial(changed, a_closure), r"encoder's own .*: its forward is a function that holds a module"),
    "default": (partial(changed, a_default), r"encoder's own .*: its forward is a function that holds a module"),
    "hook": (partial(changed, a_hook), r"encoder's own \['net.weight'\].*: its net._forward_hooks is a function"),
    "weak reference": (partial(changed, a_weak_reference), r"encoder's own .*: .*other.parent"),
    "run": (with_a_run, r"encoder's own .*: its run calls a model from outside; .*run=lambda model, x: model\(x\)"),
    "tensor": (ByTensor, r"runs 1 trained tensors that are not registered.*its attribute scale, a Tensor; register"),
    "list": (
        ByList,
        r"runs 2 trained tensors that are not registered.*its attribute layers, a list; register them",
    ),
    "global": (
        ByGlobal,
        r"runs 2 trained tensors that are not registered.*: its forward is a function that holds a module",
    ),
}


@pytest.mark.parametrize("case", SHARED)
def test_a_copy_that_runs_what_is_not_its_own_is_refused_in_the_first_pass(case: str):
    build, sentence = SHARED[case]
    encoder: Any = build()
    jepa = JEPAObjective(EntryMasker(0.5), MLPPredictor({"instance": 4}), EMATeacher(encoder))
    with pytest.raises(ValueError, match=sentence):
        jepa(encoder, FLAT)


@pytest.mark.parametrize("case", SHARED)
def test_check_teacher_finds_it_too(case: str):
    build, sentence = SHARED[case]
    encoder = build()
    with pytest.raises(AssertionError, match=sentence.rpartition(".*")[2]):
        check_teacher(EMATeacher(encoder), encoder, FLAT)


@pytest.mark.parametrize("case", SHARED)
def test_without_a_pass_that_can_be_seen_an_update_warns(case: str):
    encoder = SHARED[case][0]()
    with pytest.warns(UserWarning, match="copy of the encoder reaches trained parameters that update does not move"):
        EMATeacher(encoder).update(encoder)


def bound(encoder: Net) -> None:
    encoder.net.forward = encoder.net.forward  # a copy of a method is bound to the copy


def a_partial(encoder: Net) -> None:
    # A copy has a partial of its own.
    encoder.forward = partial(lambda flat, net: {"instance": net(flat)}, net=encoder.net)  # pyright: ignore


def recorded(encoder: Net) -> None:
    seen: dict[str, Any] = {}
    encoder.net.register_forward_hook(lambda _, __, output: seen.update(latest=output))


def logged(encoder: Net) -> None:
    encoder.net.register_forward_hook(lambda *_: print() if encoder.training is None else None)


def frozen_features(encoder: Net) -> None:
    fixed = nn.Linear(6, 6).requires_grad_(False)
    encoder.net.register_forward_pre_hook(lambda _, args: fixed(args[0]))


OWN: dict[str, Callable[[], nn.Module]] = {
    "plain": Net,
    "bound method": partial(changed, bound),
    "hook that records": partial(changed, recorded),
    "hook that reads a flag": partial(changed, logged),
    "frozen features": partial(changed, frozen_features),
    "partial with a module": partial(changed, a_partial),
    "partial of a function": partial(changed, lambda e: setattr(e, "act", partial(torch.clamp, min=0))),
    "run with the model": lambda: ModelEncoder(Net(), {"instance": 4}, dim=4, run=lambda model, x: model(x)),
    "captured": lambda: ModelEncoder(Net(), {"instance": 4}, dim=4, captured={"instance": "net"}),
    "compiled in place": partial(changed, lambda e: e.net.compile(backend="eager")),
    "compiled": lambda: torch.compile(Net(), backend="eager"),  # pyright: ignore
    "wrapped": lambda: nn.DataParallel(Net()),
    "with a leaf of its own": lambda: WithALeaf(),
}


class WithALeaf(Net):
    def forward(self, flat: Tensor) -> dict[str, Tensor]:
        return super().forward(flat.clone().requires_grad_())


@pytest.mark.parametrize("case", OWN)
def test_nothing_is_said_of_a_copy_that_runs_alone(case: str):
    encoder: Any = OWN[case]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        teacher = EMATeacher(encoder, 0.5)
        made = Encoded.of(teacher(encoder, FLAT))
        assert not any(z.requires_grad for z in made.embeddings.values())
        teacher.update(encoder)


# ---- what deepcopy refuses ---------------------------------------------------------------------------------


def weight_norm(encoder: Net) -> None:
    nn.utils.weight_norm(encoder.net)


def pruned(encoder: Net) -> None:
    prune.l1_unstructured(encoder.net, "weight", amount=0.5)


def cached(encoder: Net) -> None:
    encoder.net.cache = {"latest": [encoder.net(FLAT)]}  # pyright: ignore


@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
@pytest.mark.parametrize("change", [weight_norm, pruned, cached], ids=lambda f: f.__name__)
def test_computed_tensors_are_copied_without_their_graph(change: Callable[[Net], object]):
    encoder = changed(change)
    teacher = EMATeacher(encoder, 0.5)
    x = torch.ones(2, 6)
    torch.testing.assert_close(teacher(encoder, x)["instance"], encoder(x)["instance"].detach())  # pyright: ignore
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(2.0)
    teacher.update(encoder)
    for name, parameter in teacher.target_model.named_parameters():
        torch.testing.assert_close(parameter, 0.75 * encoder.get_parameter(name).detach())
    check_teacher(EMATeacher(encoder), encoder, FLAT)
    check_encoder(encoder, FLAT)


def locked(encoder: Net) -> None:
    encoder.net.tools = {"lock": threading.Lock()}  # pyright: ignore


def streaming(encoder: Net) -> None:
    encoder.rows = (row for row in FLAT)  # pyright: ignore


def elsewhere(encoder: Net) -> None:
    encoder.net = Uncopied(6, 4)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (locked, r"because of its attribute net.tools, a dict \(TypeError: cannot pickle .*lock.*copy=second"),
        (streaming, "because of its attribute rows, a generator"),
        (elsewhere, "because of the __deepcopy__ or __getstate__ of Net or of a part of it .*it lives on a server"),
    ],
)
def test_what_cannot_be_copied_is_named(change: Callable[[Net], object], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        EMATeacher(changed(change))


class Uncopied(nn.Linear):
    def __deepcopy__(self, memo: Any) -> Any:
        raise NotImplementedError("it lives on a server")


def test_what_cannot_be_trained_is_refused_by_name():
    with torch.inference_mode():
        encoder = Net()
        with pytest.raises(ValueError, match=r"net.weight is built or copied under torch.inference_mode\(\)"):
            EMATeacher(encoder)
    with pytest.raises(ValueError, match=r"net.weight is built or copied under torch.inference_mode\(\)"):
        EMATeacher(encoder)

    class Script(torch.jit.ScriptModule): ...

    with pytest.raises(ValueError, match="encoder is a ScriptModule in its 0, which cannot be frozen"):
        EMATeacher(nn.Sequential(Script()))


def test_a_second_encoder_serves_where_the_first_cannot_be_copied():
    encoder, second = changed(locked), Net()
    teacher = EMATeacher(encoder, 0.5, copy=second)
    assert teacher.target_model is second
    assert all(torch.equal(p, q) for p, q in zip(second.parameters(), encoder.parameters(), strict=True))
    nn.init.ones_(encoder.net.bias)
    before = second.net.bias.clone()
    teacher.update(encoder)
    torch.testing.assert_close(second.net.bias, (1 + before) / 2)
    with pytest.raises(ValueError, match=r"encoder lacks .* and adds"):
        EMATeacher(encoder, copy=nn.Linear(6, 4))
    with pytest.raises(AssertionError, match=r"teacher or encoder cannot be copied, .*lock"):
        check_teacher(teacher, encoder, FLAT)


class SharesItsTable(nn.Module):
    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self.table = table

    def __deepcopy__(self, memo: Any) -> Any:
        return SharesItsTable(self.table)


def test_a_copy_that_shares_a_module_or_a_tensor_is_refused_and_the_encoder_stays_awake():
    encoder = nn.Sequential(SharesItsTable(nn.Linear(2, 2)), nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"shares \['0.table', '0.table.weight', '0.table.bias'\].*__deepcopy__"):
        EMATeacher(encoder)
    second = nn.Linear(2, 2)
    second.weight = nn.Parameter(encoder.get_parameter("1.weight").data)  # the same memory
    with pytest.raises(ValueError, match=r"shares \['weight'\]"):
        EMATeacher(encoder[1], copy=second)
    assert all(p.requires_grad for p in encoder.parameters())


def test_the_encoder_itself_is_not_kept_alive():
    encoder = Net()
    teacher, seen = EMATeacher(encoder), weakref.ref(encoder)
    del encoder
    gc.collect()
    assert seen() is None
    assert teacher(Net(), FLAT)


# ---- tensors that torch cannot average ---------------------------------------------------------------------


def with_buffer(tensor: Tensor) -> nn.Module:
    encoder = nn.Linear(2, 2)
    encoder.register_buffer("extra", tensor)
    return encoder


EXTRA: dict[str, Callable[[], Tensor]] = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "csr": lambda: torch.eye(3).to_sparse_csr(),
    "expanded": lambda: torch.ones(1).expand(4),
    "overlapping": lambda: torch.arange(6.0).unfold(0, 3, 1),
    "complex": lambda: torch.ones(3, dtype=torch.complex64),
    "complex32": lambda: torch.ones(3, dtype=torch.complex32),
    "uint32": lambda: torch.ones(3, dtype=torch.uint32),
    "float8": lambda: torch.ones(3).to(torch.float8_e4m3fn),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(3), 0.5, 0, torch.qint8),
    "empty": lambda: torch.zeros(0, 3),
}


def as_numbers(tensor: Tensor) -> Tensor:
    if tensor.is_quantized:
        return tensor.dequantize()
    return tensor.to_dense() if tensor.layout != torch.strided else tensor.to(torch.complex64)


@pytest.mark.filterwarnings("ignore")  # torch warns of several kinds
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("case", EXTRA)
def test_buffers_of_any_kind_are_followed(case: str, half: bool):
    encoder = with_buffer(EXTRA[case]())
    teacher = EMATeacher(encoder, 0.0)
    if half:
        nn.ModuleList([encoder, teacher]).bfloat16()
    teacher.update(encoder)
    now = encoder.get_buffer("extra")
    if case in ("sparse", "csr"):  # with more values than before
        encoder.extra = now = torch.ones(3, 3, dtype=now.dtype).to_sparse(layout=now.layout)  # pyright: ignore
        teacher.update(encoder)
    found = teacher.target_model.get_buffer("extra")
    assert torch.equal(as_numbers(found), as_numbers(now))
    assert found.dtype == now.dtype


def test_views_of_one_another_are_averaged_once():
    encoder = with_buffer(torch.arange(4.0))
    encoder.register_buffer("first", encoder.get_buffer("extra")[:2])
    teacher = EMATeacher(encoder, 0.5)
    encoder.get_buffer("extra").add_(1.0)
    teacher.update(encoder)
    assert teacher.target_model.get_buffer("extra").tolist() == [0.5, 1.5, 2.5, 3.5]
    assert teacher.target_model.get_buffer("first").tolist() == [0.5, 1.5]


def test_parameters_without_an_average_are_refused_by_name():
    encoder = nn.Linear(2, 2)
    encoder.weight = nn.Parameter(torch.eye(2).to_sparse())
    with pytest.raises(ValueError, match="encoder's weight is a sparse parameter"):
        EMATeacher(encoder)
    with pytest.raises(ValueError, match="encoder's extra is a nested tensor"):
        EMATeacher(with_buffer(torch.nested.nested_tensor([torch.ones(2)], layout=torch.jagged)))


# ---- what the first batch initialises ----------------------------------------------------------------------


class PreNorm(nn.Module):
    """Sets its scale on the first batch, in training or in any mode."""

    def __init__(self, as_parameter: bool, in_training: bool = True) -> None:
        super().__init__()
        self.net = nn.Linear(6, 4)
        self.ready, self.in_training = False, in_training
        scale = torch.ones(4)
        if as_parameter:
            self.scale = nn.Parameter(scale)
        else:
            self.register_buffer("scale", scale)

    def forward(self, flat: Tensor) -> dict[str, Tensor]:
        z = self.net(flat)
        if (self.training or not self.in_training) and not self.ready:
            self.ready = True
            self.scale.data = 1.0 / z.detach().std(0)
        return {"instance": z * self.scale}


@pytest.mark.parametrize("in_training", [False, True])
@pytest.mark.parametrize("as_parameter", [False, True])
def test_the_first_pass_takes_what_the_first_batch_initialised(as_parameter: bool, in_training: bool):
    encoder = PreNorm(as_parameter, in_training)
    jepa = JEPAObjective(EntryMasker(0.5), MLPPredictor({"instance": 4}), EMATeacher(encoder, 0.9))
    jepa(encoder, 100 * FLAT)
    scale = dict(jepa.teacher.target_model.state_dict())["scale"]  # pyright: ignore
    assert torch.equal(scale, encoder.scale)
    encoder.scale.data = encoder.scale + 1.0  # from now on in update alone
    jepa(encoder, FLAT)
    torch.testing.assert_close(scale, encoder.scale.detach() - 1.0)


def test_an_update_before_the_first_pass_takes_the_flag_of_a_first_batch():
    encoder = PreNorm(False, in_training=False)
    teacher = EMATeacher(encoder, 0.5)
    encoder(FLAT)
    teacher.update(encoder)
    teacher(encoder, 100 * FLAT)
    torch.testing.assert_close(teacher.target_model.get_buffer("scale"), (1.0 + encoder.get_buffer("scale")) / 2)


@pytest.mark.parametrize("reason", ["loaded", "written by hand", "updated", "momentum 1", "another encoder"])
def test_a_teacher_that_is_not_as_it_was_built_is_left_alone(reason: str):
    encoder = Net()
    teacher = EMATeacher(encoder, 1.0 if reason == "momentum 1" else 0.5)
    if reason == "loaded":
        teacher.load_state_dict(EMATeacher(Net()).state_dict())
    elif reason == "written by hand":
        teacher.target_model.load_state_dict(Net().state_dict())
    elif reason == "updated":
        teacher.update(encoder)
    before = teacher.target_model.get_parameter("net.weight").clone()
    nn.init.ones_(encoder.net.weight)
    teacher(Net() if reason == "another encoder" else encoder, FLAT)
    assert torch.equal(teacher.target_model.get_parameter("net.weight"), before)


def test_a_copy_that_a_module_around_it_woke_is_frozen_again_in_the_first_pass():
    encoder = Net()
    teacher = EMATeacher(encoder).requires_grad_(True)
    assert not any(z.requires_grad for z in teacher(encoder, FLAT).values())  # pyright: ignore
    assert not any(p.requires_grad for p in teacher.parameters())


def test_it_is_still_as_it_was_built_after_a_cast():
    encoder = FlatEncoder()
    teacher = EMATeacher(encoder, 0.5)
    nn.ModuleList([encoder, teacher]).bfloat16()
    nn.init.ones_(next(encoder.parameters()))
    teacher(encoder, FLAT.bfloat16())
    assert torch.equal(next(teacher.target_model.parameters()), next(encoder.parameters()))
