"""`ModelEncoder`: models of all kinds as encoders, with hooks that leave nothing behind."""

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import Unsupported
from torch.nn import functional as F

from jepa_ssl import EMATeacher, EntryMasker, JEPAObjective, MLPPredictor, ModelEncoder
from jepa_ssl.encoders import Place

WIDTHS = {"constraint": 4, "variable": 6}


class Two(NamedTuple):
    variable: Tensor
    constraint: Tensor


class Solver(nn.Module):
    """Features of two streams on the way to a head, which alone is returned."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 4), nn.Linear(4, 6)])
        self.both = Both()
        self.head = nn.Linear(6, 1)
        self.dropout = nn.Dropout(0.5)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = self.layers[0](x).relu()
        return self.both(first, self.layers[1](first).relu())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.encode(x)[1]))


class Both(nn.Module):
    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        return first, second


def encoder(**kwargs: Any) -> Any:
    torch.manual_seed(0)
    return ModelEncoder(Solver(), WIDTHS, 5, **kwargs)


CAPTURED: dict[str, Place] = {"constraint": ("both", 0), "variable": ("both", 1)}
X = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))


def hooks(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) for part in module.modules())


def by_plain_formula(e: Any, x: Tensor) -> dict[str, Tensor]:
    """Features by the model's own method; projector and normalisation written out."""
    features = dict(zip(WIDTHS, e.model.encode(x), strict=True))
    embeddings = {s: e.projector.streams[s](h) for s, h in features.items()}
    return {s: z / z.norm(dim=1, keepdim=True) for s, z in embeddings.items()}


RUNS: dict[str, Callable[[Any, Tensor], Any]] = {
    "tuple": lambda model, x: model.encode(x),
    "list": lambda model, x: [*model.encode(x)],
    "mapping": lambda model, x: {"answer": 0, **dict(zip(WIDTHS, model.encode(x), strict=True))},
    "named tuple, in another order": lambda model, x: Two(*reversed(model.encode(x))),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_what_a_model_returns_is_read_by_stream(run: Callable[[Any, Tensor], Any]):
    e = encoder(run=run)
    encoded = e(X)
    torch.testing.assert_close(encoded.embeddings, by_plain_formula(e, X))
    assert torch.equal(encoded.features["variable"], e.model.encode(X)[1])


def test_captured_features_are_those_of_the_method():
    e = encoder(captured=CAPTURED)
    torch.testing.assert_close(e(X).embeddings, by_plain_formula(e, X))
    assert hooks(e) == 0


def test_a_submodule_is_captured_whole():
    e: Any = ModelEncoder(Solver(), {"instance": 6}, 5, captured={"instance": "layers.1"})
    features = e(X).features["instance"]
    assert torch.equal(features, e.model.layers[1](e.model.layers[0](X).relu()))


class Repeated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.round = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> tuple[()]:
        self.round(self.round(x))
        return ()


def test_one_that_runs_twice_counts_by_its_last_run():
    model = Repeated()
    e: Any = ModelEncoder(model, {"instance": 3}, 2, captured={"instance": "round"})
    assert torch.equal(e(X).features["instance"], model.round(model.round(X)))


def test_hooks_of_the_user_stay_and_ours_go_when_the_model_fails():
    e = encoder(captured=CAPTURED)
    seen: list[int] = []
    e.model.both.register_forward_hook(lambda *_: seen.append(1))
    e(X)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        e(torch.zeros(2, 2))
    assert (hooks(e), seen) == (1, [1])


@pytest.mark.parametrize("kwargs", [{"captured": CAPTURED}, {"run": RUNS["tuple"]}], ids=["captured", "run"])
def test_a_copy_runs_its_own_model(kwargs: Any):
    e = encoder(**kwargs)
    other, before = copy.deepcopy(e), e(X).embeddings
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.zero_()
    assert torch.equal(e(X).embeddings["variable"], before["variable"])
    assert not other(X).features["variable"].any()


def test_the_teacher_trains_apart_and_the_gradient_reaches_the_trunk_alone():
    e = encoder(captured=CAPTURED)
    jepa = JEPAObjective(EntryMasker(0.5), MLPPredictor(e.dims), EMATeacher(e, 0.5))
    with pytest.raises(ValueError, match="stream"):  # the masker of vectors names one stream, the model two
        jepa(e, X)
    e: Any = ModelEncoder(Solver(), {"instance": 6}, 5, captured={"instance": "layers.1"})
    jepa = JEPAObjective(EntryMasker(0.5), MLPPredictor(e.dims), EMATeacher(e, 0.5))
    jepa(e, X).total.backward()
    with_gradient = {name for name, parameter in e.model.named_parameters() if parameter.grad is not None}
    assert with_gradient == {f"layers.{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")}
    jepa.update(e)
    assert hooks(e) + hooks(jepa) == 0


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own
def test_a_compiled_step_is_the_plain_one_and_a_full_graph_is_refused():
    e: Any = ModelEncoder(Solver(), {"instance": 6}, 5, captured={"instance": "layers.1"}).eval()
    plain = e(X).embeddings["instance"]

    def step(x: Tensor) -> Tensor:
        return e(2 * x / 2).embeddings["instance"] + 1

    compiled = torch.compile(step, backend="eager")
    for _ in range(2):
        torch.testing.assert_close(compiled(X), plain + 1)
    torch._dynamo.reset()
    with pytest.raises(Unsupported):
        torch.compile(step, backend="eager", fullgraph=True)(X)


@pytest.mark.parametrize("how", ["wrapped", "in its place", "a part of it"])
def test_a_compiled_model_is_refused(how: str):
    model: Any = Solver()
    if how == "wrapped":
        model = torch.compile(model)
    elif how == "in its place":
        model.compile()
    else:
        model.layers[1].compile()
    e: Any = ModelEncoder(model, {"instance": 6}, 5, captured={"instance": "layers.1"})
    with pytest.raises(RuntimeError, match=r"'layers\.1' runs inside a compiled module.*the uncompiled model"):
        e(X)


class Aside(nn.Module):
    """Calls no submodule as a module."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.layer.weight)


def test_what_did_not_run_is_named():
    e: Any = ModelEncoder(Aside(), {"instance": 3}, 2, captured={"instance": "layer"})
    with pytest.raises(RuntimeError, match=r"'layer' did not run or its caller is compiled, so stream 'instance'"):
        e(X)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"captured": {"variable": "both"}}, r"captured names the streams \['variable'\]"),
        ({"captured": {**CAPTURED, "variable": "bth"}}, r"captured\['variable'\] names the submodule 'bth'.*'both'"),
        ({"captured": {**CAPTURED, "variable": ("both", 2)}}, r"part 2 of the output of 'both', .* a tuple of 2"),
        ({"captured": {**CAPTURED, "variable": ("both", "x")}}, r"part 'x' of the output of 'both'"),
        ({"captured": {**CAPTURED, "variable": "layers.0"}}, r"'variable' are a tensor float32 \[7, 4\].*\[items, 6\]"),
        ({"captured": {**CAPTURED, "variable": "both"}}, r"'variable' are a tuple of 2"),
        ({}, r"returned a tensor float32 \[7, 1\], but widths names the streams \['constraint', 'variable'\]"),
        ({"run": lambda model, x: {"constraint": x}}, r"returned a mapping with \['constraint'\]"),
        ({"run": lambda model, x: (x, x, x)}, r"returned a tuple of 3"),
        ({"run": lambda model, x: None}, r"returned a NoneType"),
        ({"run": lambda model, x: (x.view(1, 7, 3), x)}, r"'constraint' are a tensor float32 \[1, 7, 3\]"),
    ],
)  # fmt: skip
def test_wrong_wiring_is_named(kwargs: Any, message: str):
    with pytest.raises(ValueError, match=message):
        encoder(**kwargs)(X)


class Deep(nn.Module):
    """Twenty layers that return a mapping, of which the model reads one entry."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Keyed() for _ in range(20))
        self.head = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)["rows"]
        return self.head(x)


class Keyed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"rows": self.linear(x), "columns": x}


def test_an_entry_of_a_mapping_is_captured_whatever_run_returns():
    model = Deep()
    for run in (lambda model, x: model(x), lambda model, x: {"instance": model(x)}):
        e: Any = ModelEncoder(model, {"instance": 3}, 2, run=run, captured={"instance": ("layers.2", "rows")})
        x = X
        for layer in model.layers[:3]:
            x = layer(x)["rows"]
        assert torch.equal(e(X).features["instance"], x)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("layer.2", r"names the submodule 'layer.2', but Deep has no such submodule; did you mean 'layers.2' or '"),
        ("laiers.11.linear", r"did you mean 'layers.11.linear' or "),
        ("body", r"name one of model.named_modules\(\), which begin with \['head', 'layers'\]\.$"),
        (3, r"captured\['instance'\] is 3, but must be the name of a submodule, or \(name, which\)"),
        (("layers.2", "rows", 0), r"is \('layers.2', 'rows', 0\), but must be the name"),
    ],
)
def test_a_place_that_is_not_in_the_model_is_named_with_the_nearest(place: Any, said: str):
    with pytest.raises((TypeError, ValueError), match=said) as raised:
        ModelEncoder(Deep(), {"instance": 3}, 2, captured={"instance": place})
    assert len(str(raised.value)) < 200


class Several(nn.Linear):
    def forward(self, rows: Tensor, columns: Tensor) -> Tensor:  # pyright: ignore
        return super().forward(rows + columns)


def test_a_call_that_python_would_refuse_is_refused_when_the_encoder_is_built():
    for model in (Several(3, 4), nn.DataParallel(Several(3, 4))):
        with pytest.raises(
            TypeError, match=r"the forward of Several takes \(rows, columns\).*give run=lambda model, ins"
        ):
            ModelEncoder(model, {"instance": 4}, 2)
    with pytest.raises(TypeError, match=r"run takes \(batch\), but is called with the model and the instance"):
        ModelEncoder(Several(3, 4), {"instance": 4}, 2, run=lambda batch: batch)  # pyright: ignore
    e = ModelEncoder(Several(3, 4), {"instance": 4}, 2, run=lambda model, x: model(x, x))
    assert e(X).embeddings["instance"].shape == (7, 2)


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"run": "encode"}, "run 'encode', but must be"),
        ({"model": lambda x: x}, "model is a function"),
        ({"widths": {}}, "names no stream"),
    ],
)
def test_what_is_no_model_no_function_or_no_stream_is_refused(kwargs: dict[str, Any], said: str):
    with pytest.raises((TypeError, ValueError), match=said):
        ModelEncoder(**{"model": nn.Linear(3, 4), "widths": {"instance": 4}, "dim": 2, **kwargs})


def test_a_bound_method_is_refused():
    model: Any = Solver()
    with pytest.raises(TypeError, match=r"the method 'encode' of one Solver.*model\.encode\(instance\)"):
        ModelEncoder(model, WIDTHS, 5, run=model.encode)


def test_what_is_overwritten_behind_a_submodule_is_refused():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True))
    with pytest.raises(RuntimeError, match=r"the output of '0' is overwritten in place"):
        ModelEncoder(model, {"instance": 4}, 2, captured={"instance": "0"})(X)
    ModelEncoder(model, {"instance": 4}, 2, captured={"instance": "1"})(X)


def test_no_hook_stays_where_another_submodule_is_refused():
    model = Solver()
    model.layers[1].compile()
    e: Any = ModelEncoder(model, {"a": 4, "b": 6}, 2, captured={"a": "layers.0", "b": "layers.1"})
    with pytest.raises(RuntimeError, match="compiled"):
        e(X)
    assert hooks(e) == 0


def test_a_pass_in_another_thread_leaves_no_features_here():
    inside, go_on = threading.Event(), threading.Event()

    class Waits(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            if threading.current_thread() is not threading.main_thread():
                inside.set()
                go_on.wait(10)
            return super().forward(input)

    model = nn.Sequential(nn.Linear(3, 4), Waits(4, 4))
    e: Any = ModelEncoder(model, {"instance": 4}, 2, captured={"instance": "0"})
    found: list[Tensor] = []
    other = threading.Thread(target=lambda: found.append(e(X + 1).features["instance"]))
    other.start()
    inside.wait(10)
    here = e(X).features["instance"]
    go_on.set()
    other.join()
    assert torch.equal(here, model[0](X))
    assert torch.equal(found[0], model[0](X + 1))


def test_the_projector_is_where_the_model_is_and_as_precise():
    e: Any = ModelEncoder(nn.Linear(3, 4).double(), {"instance": 4}, 2)
    assert e(X.double()).embeddings["instance"].dtype == torch.float64
    meta = ModelEncoder(nn.Linear(3, 4, device="meta"), {"instance": 4}, 2)
    assert {p.device.type for p in meta.parameters()} == {"meta"}


def test_an_encoder_is_pickled_with_what_it_captures():
    e: Any = ModelEncoder(nn.Sequential(nn.Linear(3, 4)), {"instance": 4}, 2, captured={"instance": "0"})
    again = pickle.loads(pickle.dumps(e))
    assert torch.equal(again(X).embeddings["instance"], e(X).embeddings["instance"])


@pytest.mark.parametrize("name", ["0", "module.0"])
def test_names_are_those_with_a_wrapper_and_without(name: str):
    e: Any = ModelEncoder(
        nn.DataParallel(nn.Sequential(nn.Linear(3, 4))), {"instance": 4}, 2, captured={"instance": name}
    )
    assert e(X).features["instance"].shape == (7, 4)
