"""The objective: its value, its gradients, what it owns, and what it never waits for."""

import gc
from collections.abc import Callable, Mapping
from typing import Any

import oracles
import pytest
import torch
from builders import FlatEncoder, GraphEncoder, operations, ragged_graphs, seeded
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from jepa_ssl import (
    BipartiteGraph,
    BlockMasker,
    EdgeMasker,
    EMATeacher,
    Encoded,
    EntryMasker,
    FlatVectors,
    JEPAObjective,
    MLPPredictor,
    MultiView,
    NodeMasker,
    Seeds,
    SharedTeacher,
    SIGReg,
    StopGradTeacher,
    VICReg,
    Views,
    cosine_loss,
)
from jepa_ssl.maskers import GaussianNoise, Shuffled
from jepa_ssl.protocols import JEPALoss

KINDS: tuple[str, str] = ("constraint", "variable")


def graph_objective(teacher: Any, ratio: float = 0.5) -> JEPAObjective[BipartiteGraph]:
    return JEPAObjective(NodeMasker(ratio), MLPPredictor(dict.fromkeys(KINDS, 4), activation=nn.SELU), teacher)


def flat_objective(teacher: Any) -> JEPAObjective[Any]:
    return JEPAObjective(EntryMasker(0.5), MLPPredictor({"instance": 4}), teacher)


# Its value


@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=5),
    st.floats(0.05, 0.95),
    st.integers(0, 99),
)
def test_on_graphs_it_is_the_plain_formula(sizes: list[tuple[int, int]], ratio: float, seed: int):
    counts = dict(zip(KINDS, (list(c) for c in zip(*sizes, strict=True)), strict=True))
    graph = ragged_graphs(*counts.values(), dtype=torch.float64, seed=seed)
    encoder = GraphEncoder().double()
    jepa = graph_objective(EMATeacher(encoder), ratio).double()
    loss = jepa(encoder, graph, generator=seeded(seed))
    hidden = NodeMasker(ratio).draw(graph, generator=seeded(seed))
    context = NodeMasker(ratio)(graph, generator=seeded(seed)).context
    predictions, targets = dict(jepa.predictor(encoder(context))), dict(encoder(graph))
    expected = oracles.graph_jepa_loss(predictions, targets, hidden, counts)
    assert loss.total.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert all(torch.equal(loss.predictions[kind], predictions[kind]) for kind in KINDS)
    assert all(torch.equal(loss.targets[kind], targets[kind]) for kind in KINDS)


def test_where_graphs_hide_equally_many_it_is_the_plain_mean_over_hidden_nodes():
    sizes = [7, 7, 7]
    graph = ragged_graphs(sizes, sizes, dtype=torch.float64)
    encoder = GraphEncoder().double()
    jepa = graph_objective(StopGradTeacher()).double()
    loss = jepa(encoder, graph, generator=seeded())
    hidden = NodeMasker(0.5).draw(graph, generator=seeded())
    arguments = dict(loss.predictions), dict(loss.targets), hidden
    assert loss.total.item() == pytest.approx(oracles.plain_graph_jepa_loss(*arguments), rel=1e-12)
    counts = dict.fromkeys(KINDS, sizes)
    assert loss.total.item() == pytest.approx(oracles.graph_jepa_loss(*arguments, counts), rel=1e-12)


@given(st.integers(1, 8), st.integers(0, 99))
def test_on_vectors_it_is_the_plain_formula(batch: int, seed: int):
    flat = torch.randn(batch, 6, dtype=torch.float64, generator=seeded(seed))
    encoder = FlatEncoder().double().eval()
    jepa = flat_objective(StopGradTeacher()).double()
    loss = jepa(encoder, flat, generator=seeded(seed))
    predictions = jepa.predictor(encoder(EntryMasker(0.5)(flat, generator=seeded(seed)).context))["instance"]
    expected = oracles.flat_jepa_loss(predictions, encoder(flat)["instance"])
    assert loss.total.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def views_of(hidden: Mapping[str, Tensor | None], weight: Mapping[str, Tensor] | None = None) -> Any:
    return lambda instance, *, generator=None: Views(instance, instance, hidden, weight or {})


def hand_made(views: Any, losses: Tensor) -> JEPALoss:
    """The objective of an encoder, a teacher and a loss that are all made by hand."""

    class Fixed:
        learns = False

        def __call__(self, encoder: Any, target: Any) -> dict[str, Tensor]:
            return {"a": torch.ones(len(losses), 2)}

        def update(self, encoder: Any) -> None: ...

    jepa = JEPAObjective(views, lambda z: z, Fixed(), loss=lambda p, z: losses * p[:, 0].to(losses.dtype))
    return jepa(lambda x: {"a": x}, torch.ones(len(losses), 2))


LOSSES = torch.tensor([1.0, 10.0, 100.0, 1000.0])


@pytest.mark.parametrize(
    ("hidden", "weight", "expected"),
    [
        ({}, None, 1111 / 4),
        ({"a": None}, None, 1111 / 4),
        ({"a": torch.tensor([True, False, True, False])}, None, 101 / 2),
        ({"a": torch.tensor([True, True, True, False])}, {"a": torch.tensor([0.5, 0.5, 1.0, 0.0])}, 105.5 / 2),
        ({"a": torch.tensor([True, False, False, False])}, {"a": torch.ones(4)}, 1.0),
        ({"a": torch.zeros(4, dtype=torch.bool)}, None, 0.0),
        ({"a": torch.zeros(4, dtype=torch.bool)}, {"a": torch.zeros(4)}, 0.0),
    ],
    ids=["no entry", "None", "hidden", "weighed", "a weight does not unhide", "none hidden", "none hidden, weighed"],
)
def test_the_loss_is_taken_where_hidden_and_only_there(
    hidden: dict[str, Tensor | None], weight: dict[str, Tensor] | None, expected: float
):
    loss = hand_made(views_of(hidden, weight), LOSSES)
    assert loss.total.item() == pytest.approx(expected)
    assert loss.terms["prediction/a"].item() == loss.terms["total"].item() == loss.total.item()


def test_a_mean_over_many_float16_losses_does_not_overflow():
    loss = hand_made(views_of({"a": None}), torch.full((100_000,), 2.0, dtype=torch.float16))
    assert loss.total.item() == pytest.approx(2.0)


# Nothing hidden


@pytest.mark.parametrize("sizes", [([1, 1], [1, 1]), ([1], [4]), ([0, 3], [0, 3]), ([0], [0]), ([], []), ([3], [0])])
def test_kinds_without_hidden_nodes_add_exactly_nothing_and_gradients_are_finite(sizes: tuple[list[int], list[int]]):
    graph = ragged_graphs(*sizes)
    encoder = GraphEncoder()
    jepa = graph_objective(EMATeacher(encoder))
    loss = jepa(encoder, graph, generator=seeded())
    loss.total.backward()
    for kind, counts in zip(KINDS, sizes, strict=True):
        term = loss.terms[f"prediction/{kind}"].item()
        assert (term == 0.0) == (max(counts, default=0) < 2)
    assert loss.total.item() == pytest.approx(sum(loss.terms[f"prediction/{kind}"].item() for kind in KINDS) / 2)
    gradients = [p.grad for p in (*encoder.parameters(), *jepa.parameters())]
    assert all(g is None or bool(g.isfinite().all()) for g in gradients)


# Its gradients


@pytest.mark.parametrize("mode", ["ema", "simsiam"])
def test_gradients_reach_encoder_and_predictor_and_no_teacher(mode: str):
    encoder = GraphEncoder()
    teacher = EMATeacher(encoder) if mode == "ema" else StopGradTeacher()
    jepa = graph_objective(teacher)
    loss = jepa(encoder, ragged_graphs([5, 9], [4, 6]), generator=seeded())
    loss.total.backward()
    assert isinstance(jepa.predictor, nn.Module)
    for p in (*encoder.parameters(), *jepa.predictor.parameters()):
        assert p.grad is not None
        assert bool(p.grad.any())
    if isinstance(teacher, EMATeacher):
        assert all(p.grad is None for p in teacher.parameters())
    detached = (*loss.terms.values(), *loss.predictions.values(), *loss.targets.values())
    assert not any(tensor.requires_grad for tensor in detached)
    assert loss.total.requires_grad


def test_the_simsiam_gradient_stops_at_the_target():
    graph, encoder = ragged_graphs([5], [4], dtype=torch.float64), GraphEncoder().double()
    jepa = graph_objective(StopGradTeacher()).double()
    jepa(encoder, graph, generator=seeded()).total.backward()
    actual = [p.grad for p in encoder.parameters()]
    encoder.zero_grad()
    views = NodeMasker(0.5)(graph, generator=seeded())
    frozen = {kind: z.detach() for kind, z in encoder(graph).items()}
    predictions = jepa.predictor(encoder(views.context))
    terms = [cosine_loss(predictions[kind], frozen[kind])[views.hidden[kind]].mean() for kind in KINDS]
    torch.stack(terms).mean().backward()
    for got, parameter in zip(actual, encoder.parameters(), strict=True):
        torch.testing.assert_close(got, parameter.grad)


@pytest.mark.parametrize("mode", ["ema", "simsiam"])
def test_under_autocast_the_teachers_pass_does_not_cut_the_gradient(mode: str):
    # Autocast keeps the weights it has cast; those cast without gradient must not serve the online pass.
    encoder = GraphEncoder()
    jepa = graph_objective(EMATeacher(encoder) if mode == "ema" else StopGradTeacher())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        jepa(encoder, ragged_graphs([5, 9], [4, 6]))
        loss = jepa(encoder, ragged_graphs([5, 9], [4, 6])).total
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in encoder.parameters())
    assert loss.dtype == torch.float32


def test_ema_moves_once_per_step_and_not_per_micro_batch():
    """By its update alone, though the optimizer has all parameters."""
    encoder = FlatEncoder()
    teacher = EMATeacher(encoder, momentum=1.0)
    jepa = flat_objective(teacher)
    before = [p.clone() for p in teacher.parameters()]
    optimizer = torch.optim.AdamW([*encoder.parameters(), *jepa.parameters()], lr=0.1, weight_decay=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        for _ in range(2):  # micro-batches
            jepa(encoder, torch.randn(8, 6)).total.backward()
        optimizer.step()
        jepa.update(encoder)
    assert all(torch.equal(p, old) for p, old in zip(teacher.parameters(), before, strict=True))
    assert int(teacher.updates) == 3


# What it owns


def test_the_objective_owns_predictor_and_copy_and_not_the_encoder():
    encoder = FlatEncoder()
    keys = set(encoder.state_dict())
    jepa = flat_objective(EMATeacher(encoder))
    jepa(encoder, torch.randn(4, 6))
    assert set(encoder.state_dict()) == keys
    assert not {id(p) for p in encoder.parameters()} & {id(p) for p in jepa.parameters()}
    assert {key.split(".")[0] for key in jepa.state_dict()} == {"predictor", "teacher"}
    assert {key.split(".")[1] for key in jepa.state_dict() if key.startswith("teacher")} == {"target_model", "updates"}


@pytest.mark.slow  # to look at all objects takes a second
def test_a_simsiam_step_creates_no_network_anywhere():
    def networks() -> tuple[int, ...]:
        gc.collect()
        living = gc.get_objects()
        # By type(): isinstance asks __class__, which wakes up lazy objects of other libraries.
        return tuple(sum(issubclass(type(o), kind) for o in living) for kind in (nn.Module, nn.Parameter))

    encoder = FlatEncoder()
    predictor = MLPPredictor({"instance": 4})
    before = networks()
    jepa = JEPAObjective(EntryMasker(0.5), predictor, StopGradTeacher())
    optimizer = torch.optim.Adam([*encoder.parameters(), *jepa.parameters()])
    jepa(encoder, torch.randn(4, 6)).total.backward()
    optimizer.step()
    jepa.update(encoder)
    modules, parameters = networks()
    assert (modules, parameters) == (before[0] + 2, before[1])  # the objective, its masker, and no parameter
    assert set(jepa.state_dict()) == {f"predictor.{key}" for key in predictor.state_dict()}
    copying = flat_objective(EMATeacher(encoder))
    assert networks()[0] - modules > len(list(encoder.modules()))  # the same count does see a copy
    del copying


def test_a_lambda_will_do_and_padding_never_reaches_the_loss():
    weight = torch.randn(6, 4, requires_grad=True)

    def encode(flat: FlatVectors) -> dict[str, Tensor]:
        return {"instance": flat.values.masked_fill(~flat.valid, 0.0) @ weight}

    valid = torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
    values = torch.randn(2, 6)
    garbage = torch.where(valid, values, torch.nan)
    jepa = flat_objective(StopGradTeacher())
    clean, dirty = (jepa(encode, FlatVectors(v, valid), generator=seeded()).total for v in (values, garbage))
    assert torch.equal(clean, dirty)
    dirty.backward()
    assert weight.grad is not None
    assert bool(weight.grad.isfinite().all())


def test_one_stream_or_five():
    streams = [f"stream{i}" for i in range(5)]
    jepa = JEPAObjective(views_of({}), MLPPredictor(dict.fromkeys(streams, 3)), StopGradTeacher())
    loss = jepa(lambda x: {s: x + i for i, s in enumerate(streams)}, torch.randn(7, 3))
    mean = sum(loss.terms[f"prediction/{s}"].item() for s in streams) / 5
    assert loss.total.item() == pytest.approx(mean)


# What it never waits for


@pytest.mark.parametrize("mode", ["ema", "simsiam"])
def test_no_step_needs_a_number_from_the_device(mode: str):
    """On the meta device there are no numbers: whatever asks for one, or for a shape that depends on one, raises."""
    meta = torch.device("meta")
    graph_encoder, flat_encoder = GraphEncoder().to(meta), FlatEncoder().to(meta)
    flat = FlatVectors(torch.ones(4, 6, device=meta), torch.ones(4, 6, dtype=torch.bool, device=meta))
    trunk = lambda batch: flat_encoder(batch.values if isinstance(batch, FlatVectors) else batch)  # noqa: E731
    cases = [
        (graph_objective, graph_encoder, graph_encoder, ragged_graphs([5, 9], [4, 6]).to(meta)),
        (flat_objective, flat_encoder, flat_encoder, flat.values),
        (flat_objective, flat_encoder, trunk, flat),
    ]
    for build, module, encoder, instance in cases:
        teacher = EMATeacher(module) if mode == "ema" and encoder is module else StopGradTeacher()
        jepa = build(teacher).to(meta)
        loss = jepa(encoder, instance)
        loss.total.backward()
        jepa.update(module)
        assert loss.total.is_meta
    with pytest.raises(RuntimeError):
        torch.ones(2, device=meta).sum().item()  # what the test relies on


def test_the_work_is_the_same_for_two_graphs_and_for_fifty():
    encoder = GraphEncoder()
    jepa = graph_objective(StopGradTeacher())

    def work(instance: Any, objective: JEPAObjective[Any], encode: nn.Module) -> int:
        objective.zero_grad()
        encode.zero_grad()
        return operations(lambda: objective(encode, instance).total.backward())

    few, many = ragged_graphs([3, 4], [2, 5]), ragged_graphs([3, 4] * 25, [2, 5] * 25)
    assert work(few, jepa, encoder) == work(many, jepa, encoder) > 20
    flat, trunk = flat_objective(StopGradTeacher()), FlatEncoder()
    assert work(torch.ones(3000, 6), flat, trunk) < 1000  # the CPU's draw takes more rounds, not one a row


# Errors


def step(
    instance: Any, encode: Any = lambda x: {"a": x}, views: Any = None, predictor: Any = lambda z: z,
    teacher: Any = None, made: Any = None, **options: Any,
) -> JEPALoss:  # fmt: skip
    jepa = JEPAObjective(views or views_of({}), predictor, teacher or StopGradTeacher(), **options)
    return jepa(encode, instance, precomputed_target=made)


def moved(places: Tensor) -> Any:
    return lambda instance, *, generator=None: Views(instance, instance, items={"a": places})


Z, BOTH = torch.ones(3, 2), SharedTeacher()
FEATURES: Any = {"regularizer": lambda *_, **__: Z.sum(), "regularize": "features"}
OTHER: Any = lambda instance, *, generator=None: Views(instance, instance + 1)  # noqa: E731
REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "streams of the predictor": (lambda: step(Z, predictor=lambda _: {"b": Z}),
        r"predictor returns the streams \['b'\], but the teacher \['a'\]"),
    "a stream of the views": (lambda: hand_made(views_of({"b": None}), LOSSES),
        r"views name the stream 'b' in hidden, but the encoder returns \['a'\]"),
    "a weighed stream": (lambda: hand_made(views_of({"b": LOSSES > 0}, {"b": LOSSES}), LOSSES),
        r"views name the stream 'b' in hidden"),
    "no streams": (lambda: step(Z, lambda x: {}, views_of({"a": None})), r"encoder returns \[\]"),
    "three dimensions": (lambda: step(torch.ones(3, 2, 2)), r"predictions\['a'\] is float32 \[3, 2, 2\].*\[items, dim"),
    "another width": (lambda: step(Z, predictor=lambda z: {"a": torch.ones(3, 5)}),
        r"is float32 \[3, 5\] and targets.* \[3, 2\].*sizes of predictor"),
    "marks of other items": (lambda: hand_made(views_of({"a": LOSSES[:3] > 0}), LOSSES),
        r"hidden\['a'\] is bool \[3\], but the encoder returns 4 items"),
    "weights of two dimensions": (lambda: hand_made(views_of({}, {"a": torch.ones(4, 1)}), LOSSES),
        r"weight\['a'\] is float32 \[4, 1\], but the encoder returns 4 items"),
    "places that are not whole": (lambda: step(Z, views=moved(torch.zeros(3))),
        r"items\['a'\] is float32 \[3\], but must be int64 \[items\]"),
    "places of other items": (lambda: step(Z, views=moved(torch.tensor([0, 2]))),
        r"is float32 \[2, 2\] and targets.* \[3, 2\].*the length of Views.items"),
    **{f"stream weights {weights}": (lambda weights=weights: step(Z, stream_weights=weights), "stream_weights")
        for weights in ({"a": -1.0}, {"a": 0.0}, {"a": float("nan")}, {})},
    "weights of other streams": (lambda: step(Z, stream_weights={"b": 1.0}),
        r"names the streams \['b'\], but the encoder returns \['a'\]"),
    "no features": (lambda: step(Z, **FEATURES), r"returns features of \[\] and embeddings of \['a'\]; .*Encoded"),
    "another side": (lambda: step(Z, regularize="trunk"), r"regularize is 'trunk'"),
    "a target that is not whole": (lambda: step(Z, views=OTHER, made={"a": Z}),
        "precomputed_target is given, but the target of function is not the whole instance"),
    "a target without gradient": (lambda: step(Z, teacher=BOTH, made={"a": Z}),
        "precomputed_target carries no gradient, but SharedTeacher learns through it"),
    "a target without features": (
        lambda: step(Z.clone().requires_grad_(), lambda x: Encoded({"a": x}, {"a": x}), teacher=BOTH,
            made={"a": Z.clone().requires_grad_()}, **FEATURES),
        "precomputed_target has no features, but the regulariser needs them on this side too"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "said"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(call: Callable[[], object], said: str):
    with pytest.raises(ValueError, match=said):
        call()


def test_a_teacher_that_does_not_say_whether_it_learns_is_refused():
    class Silent:
        def __call__(self, encoder: Any, target: Any) -> Any: ...

        def update(self, encoder: Any) -> None: ...

    silent: Any = Silent()
    with pytest.raises(TypeError, match=r"teacher is a Silent, which lacks \['learns'\], .* learns = True if"):
        JEPAObjective(EntryMasker(0.5), lambda z: z, silent)
    wrapped = nn.DataParallel(EMATeacher(FlatEncoder()))
    assert not JEPAObjective(EntryMasker(0.5), lambda z: z, wrapped)._teacher_learns  # pyright: ignore


# Streams, regularisers, conditions, monitors


def given_features(encoder: nn.Module) -> Any:
    """An encoder whose features are twice its embeddings."""

    def encode(instance: Any) -> Encoded:
        z = encoder(instance)
        return Encoded(z, {stream: 2 * part for stream, part in z.items()})

    return encode


def squares(embeddings: Mapping[str, Tensor], *, valid: Any, generator: Any = None) -> Tensor:
    return torch.stack([z.square().sum() for z in embeddings.values()]).sum()


def test_streams_count_as_they_are_weighted():
    graph, encoder = ragged_graphs([3, 4], [2, 5]), GraphEncoder()
    jepa = graph_objective(StopGradTeacher())
    plain = jepa(encoder, graph, generator=seeded())
    jepa.stream_weights = {"constraint": 3.0, "variable": 1.0}
    weighted = jepa(encoder, graph, generator=seeded())
    terms = [plain.terms[f"prediction/{kind}"] for kind in KINDS]
    torch.testing.assert_close(weighted.total.detach(), (3 * terms[0] + terms[1]) / 4)
    torch.testing.assert_close(plain.total.detach(), (terms[0] + terms[1]) / 2)


def test_a_stream_that_hides_nothing_is_left_out_by_its_weight():
    graph, encoder = ragged_graphs([3, 4], [2, 5]), GraphEncoder()
    views = NodeMasker({"constraint": 0, "variable": 0.5})
    predictor = MLPPredictor(dict.fromkeys(KINDS, 4))
    halved = JEPAObjective(views, predictor, StopGradTeacher())
    jepa = JEPAObjective(views, predictor, StopGradTeacher(), stream_weights={"constraint": 0, "variable": 1})
    loss = jepa(encoder, graph, generator=seeded())
    assert loss.total == loss.terms["prediction/variable"] > 0
    assert loss.terms["prediction/constraint"] == 0
    torch.testing.assert_close(halved(encoder, graph, generator=seeded()).total, loss.total / 2)


@pytest.mark.parametrize(("regularize", "factor"), [("embeddings", 1), ("features", 4)])
def test_the_regulariser_is_taken_on_the_side_that_learns(regularize: Any, factor: int):
    x, encoder = torch.randn(3, 6, generator=seeded()), FlatEncoder().eval()
    jepa = JEPAObjective(
        EntryMasker(0.5),
        MLPPredictor({"instance": 4}),
        StopGradTeacher(),
        regularizer=squares,
        regularizer_weight=0.5,
        regularize=regularize,
    )
    loss = jepa(given_features(encoder), x, generator=seeded())
    z = encoder(EntryMasker(0.5)(x, generator=seeded()).context)["instance"]
    torch.testing.assert_close(loss.terms["regularizer"], factor * z.square().sum().detach())
    torch.testing.assert_close(loss.total.detach(), loss.terms["prediction"] + 0.5 * loss.terms["regularizer"])
    assert loss.terms["total"] == loss.total
    assert loss.total.requires_grad


def test_where_both_sides_learn_both_are_regularised():
    class Both(StopGradTeacher):
        learns = True

    x, encoder = torch.randn(3, 6, generator=seeded()), FlatEncoder().eval()
    jepa = JEPAObjective(EntryMasker(0.5), MLPPredictor({"instance": 4}), Both(), regularizer=squares)
    loss = jepa(encoder, x, generator=seeded())
    views = EntryMasker(0.5)(x, generator=seeded())
    sides = [encoder(view)["instance"].square().sum().detach() for view in (views.context, views.target)]
    torch.testing.assert_close(loss.terms["regularizer"], torch.stack(sides).mean())


def test_the_predictor_is_told_of_the_views():
    graph, encoder = ragged_graphs([3, 4], [2, 5]), GraphEncoder()
    told: list[Any] = []

    def predictor(z: Mapping[str, Tensor], condition: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        told.append(condition)
        return z

    def hidden_nodes(views: Views[Any, Any]) -> dict[str, Tensor]:
        return {kind: mark for kind, mark in views.hidden.items() if mark is not None}

    jepa = JEPAObjective(NodeMasker(0.5), predictor, StopGradTeacher(), condition=hidden_nodes)
    jepa(encoder, graph, generator=seeded())
    hidden = NodeMasker(0.5).draw(graph, generator=seeded())
    assert all(torch.equal(told[0][kind], hidden[kind]) for kind in KINDS)


def test_the_monitor_sees_each_loss_in_training_and_each_step():
    class Witness:
        def __init__(self) -> None:
            self.losses: list[JEPALoss] = []
            self.steps = 0

        def observe(self, loss: JEPALoss) -> None:
            self.losses.append(loss)

        def step(self) -> None:
            self.steps += 1

    witness, encoder, x = Witness(), FlatEncoder(), torch.randn(3, 6)
    jepa = JEPAObjective(EntryMasker(0.5), lambda z: z, StopGradTeacher(), monitor=witness)
    loss = jepa(given_features(encoder), x)
    jepa.update(encoder)
    jepa.eval()(encoder, x)
    assert witness.losses == [loss]
    assert witness.steps == 1
    assert not loss.context.embeddings["instance"].requires_grad
    assert torch.equal(loss.context.features["instance"], 2 * loss.context.embeddings["instance"])


def test_a_target_network_without_features_is_regularised_at_its_embeddings():
    class Learned(nn.Module):
        learns = True

        def forward(self, encoder: Any, target: Tensor) -> dict[str, Tensor]:
            return {"instance": target[:, :4]}

        def update(self, encoder: Any) -> None: ...

    x, encoder = torch.randn(3, 6, generator=seeded()), FlatEncoder().eval()
    jepa = JEPAObjective(EntryMasker(0.5), lambda z: z, Learned(), regularizer=squares, regularize="features")
    loss = jepa(given_features(encoder), x, generator=seeded())
    sides = [loss.context.features["instance"].square().sum(), x[:, :4].square().sum()]
    torch.testing.assert_close(loss.terms["regularizer"], torch.stack(sides).mean())


@pytest.mark.parametrize("regularizer", [VICReg(), SIGReg(slices=4, items=3)], ids=["VICReg", "SIGReg"])
@pytest.mark.parametrize(
    ("views", "encoder", "instance"),
    [
        (EntryMasker(0.5, GaussianNoise()), FlatEncoder().eval(), torch.randn(5, 6)),
        (NodeMasker(0.5, Shuffled()), GraphEncoder(), ragged_graphs([2, 3, 4, 2, 3], [3, 4, 2, 5, 2])),
        (MultiView(EdgeMasker(0.5), BlockMasker(0.5)), GraphEncoder(), ragged_graphs([3] * 5, [3] * 5)),
    ],
    ids=["vectors", "graphs", "two views"],
)
def test_seeds_decide_all_that_is_drawn(views: Any, encoder: Any, instance: Any, regularizer: Any):
    predictor: Any = lambda z: z  # noqa: E731
    jepa = JEPAObjective(views, predictor, StopGradTeacher(), regularizer=regularizer)

    def losses(seed: int, epoch: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        loss = jepa(encoder, instance, generator=Seeds(torch.arange(5), epoch))
        assert torch.equal(torch.get_rng_state(), before)
        return {**loss.terms, **loss.predictions}

    first, second, other = losses(0, epoch=0), losses(1, epoch=0), losses(0, epoch=1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_target_that_was_made_before_serves_a_teacher_that_learns():
    x, encode = torch.randn(3, 6), given_features(FlatEncoder().eval())
    jepa = JEPAObjective(
        EntryMasker(0.5), MLPPredictor({"instance": 4}), SharedTeacher(), regularizer=squares, regularize="features"
    )
    plain, saved = (jepa(encode, x, precomputed_target=whole, generator=seeded()) for whole in (None, encode(x)))
    torch.testing.assert_close(plain.total, saved.total)


def test_padding_counts_in_no_mean_whatever_it_holds():
    """An encoder with a row of padding an instance, of which the views know nothing."""

    def encode(instance: Tensor) -> Encoded:
        z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [torch.nan, torch.nan]])
        return Encoded({"a": z}, valid={"a": torch.tensor([True, True, False])})

    jepa = JEPAObjective(views_of({}), lambda z: {"a": z["a"].roll(1, 1)}, StopGradTeacher())
    loss = jepa(encode, torch.ones(3, 1))
    assert loss.total == 2.0  # both real items are orthogonal to their targets


def test_a_stream_of_weight_zero_may_hold_anything():
    z = {"a": torch.ones(2, 2), "b": torch.full((2, 2), torch.nan)}
    jepa = JEPAObjective(views_of({}), lambda z: z, StopGradTeacher(), stream_weights={"a": 1, "b": 0})
    assert jepa(lambda _: z, z["a"]).total < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("teacher", [StopGradTeacher(), SharedTeacher()])
def test_a_joint_step_that_saves_a_pass_compiles_to_one_graph(teacher: Any):
    encoder, x = FlatEncoder().eval(), torch.randn(4, 6)
    jepa = JEPAObjective(EntryMasker(0.5), MLPPredictor({"instance": 4}), teacher)

    def step(flat: Tensor) -> Tensor:
        return jepa(encoder, flat, precomputed_target=encoder(flat)).total

    assert torch.compile(step, fullgraph=True, backend="eager")(x).isfinite()
