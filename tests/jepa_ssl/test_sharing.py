"""One forward pass of the trunk for the task and the target: the same training, and every reason not to share."""

import copy
import random
from collections.abc import Callable
from functools import partial
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from builders import ragged_graphs
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jepa_ssl import (
    BipartiteGraph,
    EMATeacher,
    EntryMasker,
    JEPAObjective,
    JEPATerm,
    MLPPredictor,
    MLPProjector,
    ModelEncoder,
    NodeMasker,
    SharedTeacher,
    StopGradTeacher,
    VICReg,
)
from jepa_ssl.sharing import SharedPass

FLAT = torch.randn(5, 6, generator=torch.Generator().manual_seed(3))
GRAPHS = ragged_graphs([3, 4], [4, 5])


class Net(nn.Module):
    """A solver on flat vectors."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 8), *(layers or [nn.SELU()]))
        self.head = nn.Linear(8, 3)

    def encode(self, flat: Tensor) -> Tensor:
        return self.trunk(flat)

    def forward(self, flat: Tensor) -> Tensor:
        return self.head(self.encode(flat))


class GraphTrunk(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 8), nn.Linear(2, 8)

    def forward(self, c: Tensor, edges: Tensor, attr: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        c, v = self.first(c), self.second(v)
        messages = v[edges[1]] * attr
        return c.index_add(0, edges[0], messages), v.index_add(0, edges[1], c[edges[0]])


class GraphNet(nn.Module):
    """A solver on graphs."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = GraphTrunk(), nn.Linear(8, 1)

    def forward(self, *parts: Tensor) -> Tensor:
        c, v = self.trunk(*parts)
        return torch.cat([self.head(c), self.head(v)])


class OwnEncoder(nn.Module):
    """An encoder that a repository has written itself, around its trunk."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.trunk, self.projector = model.trunk, MLPProjector({"instance": 8}, 8)

    def forward(self, flat: Tensor) -> dict[str, Tensor]:
        return self.projector({"instance": self.trunk(flat)})


def of_graph(graph: BipartiteGraph) -> tuple[Tensor, ...]:
    return graph.constraint_features, graph.edge_index, graph.edge_attr, graph.variable_features


GRAPH_WIDTHS = {"constraint": 8, "variable": 8}
ENCODERS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], Any]] = {
    "captured": (Net, lambda net: ModelEncoder(net, {"instance": 8}, 8, captured={"instance": "trunk"}), FLAT),
    "run": (Net, lambda net: ModelEncoder(net, {"instance": 8}, 8, run=lambda net, x: net.encode(x)), FLAT),
    "model": (lambda: Net().trunk, lambda trunk: ModelEncoder(trunk, {"instance": 8}, 8), FLAT),
    "own": (Net, OwnEncoder, FLAT),
    "graphs": (
        GraphNet,
        lambda net: ModelEncoder(net, GRAPH_WIDTHS, 8, run=lambda net, g: net.trunk(*of_graph(g))),
        GRAPHS,
    ),
    "graphs, captured": (
        GraphNet,
        lambda net: ModelEncoder(
            net,
            GRAPH_WIDTHS,
            8,
            run=lambda net, g: net(*of_graph(g)),
            captured={"constraint": ("trunk", 0), "variable": ("trunk", 1)},
        ),
        GRAPHS,
    ),
}
TEACHERS = {"stop-gradient": StopGradTeacher, "shared": SharedTeacher}


class Client:
    """A model, and a term around it; `passes` counts how often the trunk's first layer has run."""

    def __init__(self, kind: str = "own", teacher: Any = None, model: Any = None) -> None:
        torch.manual_seed(0)
        build, encoder_of, self.batch = ENCODERS[kind]
        self.model = build() if model is None else model
        encoder = encoder_of(self.model)
        views = EntryMasker(0.5) if "instance" in encoder.projector.streams else NodeMasker(0.5)
        dims = dict.fromkeys(encoder.projector.streams, 8)
        objective: Any = JEPAObjective(views, MLPPredictor(dims), teacher or StopGradTeacher(), regularizer=VICReg())
        self.term, self.passes = JEPATerm(encoder, objective), 0
        next(m for m in self.model.modules() if isinstance(m, nn.Linear)).register_forward_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.passes += 1

    def run(self, batch: Any = None) -> Tensor:
        batch = self.batch if batch is None else batch
        return self.model(*(of_graph(batch) if isinstance(batch, BipartiteGraph) else (batch,)))

    def loss(self, task: Callable[[], Tensor] | Tensor | None = None) -> Any:
        return self.term.loss(self.batch, task=(lambda: self.run().square().mean()) if task is None else task)

    def result(self, joint: Any) -> dict[str, Tensor]:
        """The losses and all gradients, and the buffers."""
        joint.total.backward()
        parts = [*self.model.named_parameters(), *self.term.named_parameters()]
        gradients = {name: p.grad for name, p in parts if p.grad is not None}
        return {**joint.terms, **gradients, **dict(self.model.named_buffers())}


@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("kind", ENCODERS)
def test_a_shared_pass_saves_one_and_gives_the_same_loss_and_gradients(kind: str, teacher: str):
    plain, shared = Client(kind, TEACHERS[teacher]()), Client(kind, TEACHERS[teacher]())
    expected = plain.result(plain.loss(plain.run().square().mean()))  # of a loss, so there is no pass to see
    found = shared.result(shared.loss())
    assert (plain.passes, shared.passes) == (3, 2)
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    if teacher == "stop-gradient":
        assert all(torch.equal(found[name], expected[name]) for name in ("loss", "loss_jepa"))


@pytest.mark.parametrize("kind", ENCODERS)
def test_nothing_is_left_on_the_model(kind: str):
    client = Client(kind)
    client.loss()
    for module in (*client.model.modules(), *client.term.modules()):
        assert not {"forward"} & vars(module).keys()
    hooks = [hook for m in client.model.modules() for hook in (*m._forward_hooks, *m._forward_pre_hooks)]  # pyright: ignore
    assert len(hooks) == 1  # that of the count
    assert not client.term._pass._calls  # pyright: ignore[reportPrivateUsage]
    copy.deepcopy(client.term)


def test_what_a_module_draws_in_eval_mode_is_nothing():
    client = Client(model=Net(nn.SELU(), nn.BatchNorm1d(8), nn.Dropout(0.5)))
    client.model.eval()
    client.loss()
    assert client.passes == 2


# ---- modules whose second pass would be another ----------------------------------------------------------


class Noise(nn.Module):
    def __init__(self, draw: Callable[[], Any]) -> None:
        super().__init__()
        self.draw = draw

    def forward(self, x: Tensor) -> Tensor:
        return x * self.draw()


class Numpy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * np.random.rand()  # noqa: NPY002


class Python(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * random.random()


class OwnGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator()

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rand((), generator=self.generator)


class Counting(nn.Module):
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count = self.count + 1.0
        return x


def draw() -> float:
    return np.random.rand()  # noqa: NPY002


class InAHelper(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * draw()


class Held(nn.Module):
    """Counts its passes in what it holds: an attribute, or what `where` makes to hold the number."""

    def __init__(self, where: Callable[[], Any] | None = None) -> None:
        super().__init__()
        self.passes, self.where = 0.0, None if where is None else where()

    def forward(self, x: Tensor) -> Tensor:
        if self.where is None:
            self.passes += 1.0
        elif isinstance(self.where, SimpleNamespace):
            self.where.passes += 1.0
        elif isinstance(self.where[0], Tensor):
            self.where[0].add_(1.0)
        else:
            self.where[0] += 1.0
        held = (
            self.passes,
            *(vars(self.where).values() if isinstance(self.where, SimpleNamespace) else self.where or ()),
        )
        return x * float(sum(held))


@pytest.mark.parametrize("layer", [
    lambda: nn.Dropout(0.5), nn.RReLU, lambda: nn.BatchNorm1d(8), lambda: nn.utils.parametrizations.spectral_norm(
    nn.Linear(8, 8)), lambda: Noise(lambda: torch.rand(())), Numpy, Python, OwnGenerator, Counting,
    InAHelper, lambda: Noise(random.random), Held, lambda: Held(lambda: [0.0]), lambda: Held(lambda: {0: 0.0}),
    lambda: Held(lambda: SimpleNamespace(passes=0.0)), lambda: Held(lambda: [torch.zeros(())]),
    lambda: nn.DataParallel(nn.Identity()), lambda: torch.jit.script(nn.Identity()),
], ids=["dropout", "rrelu", "batch norm", "spectral norm", "rand", "numpy", "random", "own generator", "counter",
        "helper", "held function", "attribute", "list", "mapping", "object", "list of tensors",
        "wrapped", "script"])  # fmt: skip
@pytest.mark.parametrize("teacher", TEACHERS)
def test_a_module_that_draws_or_keeps_something_runs_again(layer: Callable[[], nn.Module], teacher: str):
    def trained(is_seen: bool) -> dict[str, Tensor]:
        torch.manual_seed(1)
        client = Client(model=Net(layer()), teacher=TEACHERS[teacher]())
        random.seed(2)
        np.random.seed(2)  # noqa: NPY002
        torch.manual_seed(2)
        joint = client.loss() if is_seen else client.loss(client.run().square().mean())
        assert client.passes == 3
        return client.result(joint)

    torch.testing.assert_close(trained(True), trained(False), rtol=0, atol=0)


def test_a_compiled_module_runs_again():
    for compiled in (lambda net: net.trunk.compile(backend="eager"), lambda net: net.compile(backend="eager")):
        client = Client()
        compiled(client.model)
        client.loss()
        client.loss(lambda client=client: torch.compile(client.model, backend="eager")(FLAT).mean())
        assert client.passes == 6


def test_a_task_that_is_one_graph_stays_one():
    client = Client()
    run = torch.compile(client.model, backend="eager", fullgraph=True)
    joint = client.loss(lambda: run(FLAT).square().mean())
    plain = Client()
    torch.testing.assert_close(client.result(joint), plain.result(plain.loss()), rtol=1e-5, atol=1e-7)


# ---- passes that are not the one -------------------------------------------------------------------------


def twice(client: Client) -> Tensor:
    return client.run().mean() + client.run().mean()


def another_batch(client: Client) -> Tensor:
    return client.run(FLAT + 1.0).mean()


def a_part_of_the_batch(client: Client) -> Tensor:
    return client.run(FLAT[:3]).mean()


def in_half_precision(client: Client) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return client.run().float().mean()


def with_other_weights(client: Client) -> Tensor:
    weights = {name: p + 1.0 for name, p in client.model.named_parameters()}
    return torch.func.functional_call(client.model, weights, (FLAT,)).mean()


def moved_afterwards(client: Client) -> Tensor:
    loss = client.run().mean()
    with torch.no_grad():
        client.model.trunk[0].weight.add_(1.0)
    return loss.detach()


def replaced_afterwards(client: Client) -> Tensor:
    loss = client.run().mean()
    client.model.trunk[0].weight.data = client.model.trunk[0].weight.data + 1.0
    return loss.detach()


def in_another_mode(client: Client) -> Tensor:
    loss = client.run().mean()
    client.model.eval()
    return loss


def with_another_attribute(client: Client) -> Tensor:
    client.model.trunk[1].inplace = False
    loss = client.run().mean().detach()
    client.model.trunk[1].inplace = True
    return loss


def with_another_submodule(client: Client) -> Tensor:
    loss = client.run().mean()
    client.model.trunk[1] = nn.Tanh()
    return loss


def with_another_forward(client: Client) -> Tensor:
    loss, trunk = client.run().mean(), client.model.trunk
    trunk.forward = lambda flat: 2.0 * nn.Sequential.forward(trunk, flat)
    return loss


def with_another_forward_of_a_part(client: Client) -> Tensor:
    loss, first = client.run().mean(), client.model.trunk[0]
    first.forward = lambda flat: 2.0 * nn.Linear.forward(first, flat)
    return loss


def with_a_hook_on_all_modules(client: Client) -> Tensor:
    hook = nn.modules.module.register_module_forward_hook(lambda m, x, y: 2.0 * y)
    loss = client.run().mean()
    hook.remove()
    return loss


def with_a_backward_pass(client: Client) -> Tensor:
    loss = client.run().mean()
    (gradient,) = torch.autograd.grad(loss, [client.model.trunk[0].weight])
    return client.model.head.weight.sum() * gradient.sum()


def with_an_input_that_is_changed_afterwards(client: Client) -> Tensor:
    loss = client.run().mean().detach()
    client.batch.add_(1.0)
    return loss


def with_an_output_that_is_changed_afterwards(client: Client) -> Tensor:
    with torch.no_grad():
        return client.model.trunk(FLAT).mul_(2.0).mean()


def under_vmap(client: Client) -> Tensor:
    return torch.vmap(client.model)(FLAT).mean()


def in_a_gradient_of_functorch(client: Client) -> Tensor:
    return torch.func.grad(lambda scale: (scale * client.run()).mean())(torch.tensor(1.0)).detach()


def in_inference_mode(client: Client) -> Tensor:
    with torch.inference_mode():
        client.run()
    return torch.zeros(())


def in_another_thread(client: Client) -> Tensor:
    thread = Thread(target=client.run)
    thread.start()
    thread.join()
    return torch.zeros(())


def compiled(client: Client) -> Tensor:
    return torch.compile(client.model, backend="eager")(FLAT).mean()


NOT_THE_SAME = (
    *(twice, another_batch, a_part_of_the_batch, in_half_precision, with_other_weights, moved_afterwards),
    *(replaced_afterwards, in_another_mode, with_an_output_that_is_changed_afterwards, under_vmap, in_inference_mode),
    *(with_another_attribute, with_another_submodule, with_another_forward, with_another_forward_of_a_part),
    *(with_a_hook_on_all_modules, with_a_backward_pass),
    *(in_a_gradient_of_functorch, in_another_thread, compiled, with_an_input_that_is_changed_afterwards),
)


@pytest.mark.parametrize("task", NOT_THE_SAME, ids=lambda task: task.__name__)
def test_another_pass_is_not_shared(task: Callable[[Client], Tensor]):
    seen, unseen = Client(), Client()
    seen.batch, unseen.batch = FLAT.clone(), FLAT.clone()
    found = seen.loss(lambda: task(seen))
    expected = unseen.loss(task(unseen))
    assert seen.passes == unseen.passes >= 3
    torch.testing.assert_close(found.terms, expected.terms, rtol=0, atol=0)


@pytest.mark.parametrize(("held", "passes"), [([0.0] * 1000, 2), ([0.0] * 1001, 3), (dict.fromkeys(range(1001)), 3)])
def test_what_is_too_large_to_look_at_is_not_trusted(held: Any, passes: int):
    client = Client()
    client.model.trunk.held = held
    client.loss()
    assert client.passes == passes


def test_a_forward_that_the_task_has_put_on_a_module_stays():
    client = Client()
    client.loss(lambda: with_another_forward(client))
    assert "forward" in vars(client.model.trunk)


class WritesToFeatures(OwnEncoder):
    def forward(self, flat: Tensor) -> dict[str, Tensor]:
        return self.projector({"instance": self.trunk(flat).mul_(2.0)})


@pytest.mark.parametrize("teacher", TEACHERS)
def test_an_encoder_may_write_to_what_its_trunk_returned(teacher: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(ENCODERS, "own", (Net, WritesToFeatures, FLAT))
    plain, shared = Client(teacher=TEACHERS[teacher]()), Client(teacher=TEACHERS[teacher]())
    expected = plain.result(plain.loss(plain.run().square().mean()))
    torch.testing.assert_close(shared.result(shared.loss()), expected, rtol=1e-5, atol=1e-7)
    assert shared.passes == 2


@pytest.mark.parametrize("teacher", TEACHERS)
def test_a_hook_that_scales_gradients_does_so_once(teacher: str):
    def scaled(module: nn.Module, given: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: 0.1 * gradient)

    plain, shared = Client(teacher=TEACHERS[teacher]()), Client(teacher=TEACHERS[teacher]())
    for client in (plain, shared):
        client.model.trunk.register_forward_hook(scaled)
    expected = plain.result(plain.loss(plain.run().square().mean()))
    torch.testing.assert_close(shared.result(shared.loss()), expected, rtol=1e-5, atol=1e-7)


def test_nothing_is_kept_of_a_task_that_raises():
    client = Client()

    def task() -> Tensor:
        client.run()
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        client.loss(task)
    assert not client.term._pass._calls  # pyright: ignore[reportPrivateUsage]


def test_a_teacher_that_learns_needs_a_pass_with_gradients():
    client = Client(teacher=SharedTeacher())
    with torch.no_grad():
        without = client.run().mean()
    seen = client.result(client.loss(lambda: torch.no_grad()(client.run)().mean()))
    plain = Client(teacher=SharedTeacher())
    torch.testing.assert_close(seen, plain.result(plain.loss(without)), rtol=0, atol=0)
    assert client.passes == 4


def test_a_teacher_that_stops_gradients_needs_none():
    client = Client()
    client.loss(lambda: torch.no_grad()(client.run)().mean())
    assert client.passes == 2


@pytest.mark.parametrize("teacher", TEACHERS)
def test_a_pass_whose_activations_are_computed_again_is_shared(teacher: str):
    client, plain = Client(teacher=TEACHERS[teacher]()), Client(teacher=TEACHERS[teacher]())
    joint = client.loss(lambda: checkpoint(client.run, use_reentrant=False).square().mean())  # pyright: ignore
    assert client.passes == 2
    expected = plain.result(plain.loss(plain.run().square().mean()))
    torch.testing.assert_close(client.result(joint), expected, rtol=1e-5, atol=1e-7)


def test_a_copy_of_the_encoder_takes_no_notice():
    client = Client()
    client.term.objective.teacher = EMATeacher(client.term.encoder)
    client.loss()
    assert client.passes == 2  # of the task and of the context; that of the target is the copy's


@pytest.mark.parametrize("given", [lambda: FLAT[:], lambda: FLAT.clone(), lambda: FLAT.detach()])
def test_equal_tensors_are_the_same_on_a_cpu(given: Callable[[], Tensor]):
    client = Client()
    client.loss(lambda: client.run(given()).mean())
    assert client.passes == 2


# ---- what a module is called with ------------------------------------------------------------------------


class Slots:
    __slots__ = ("x",)

    def __init__(self, x: Tensor) -> None:
        self.x = x


class Reads(nn.Module):
    """Counts its passes over what holds a tensor."""

    passes = 0

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        type(self).passes += 1
        return torch.ones(())


def write(batch: Any) -> None:
    batch.x.add_(1.0)


def put_another(batch: Any) -> None:
    batch.x = batch.x + 1.0


def write_and_put_another(batch: Any) -> None:
    batch.x.add_(1.0)
    batch.x = batch.x.clone()


def nothing(_: Any) -> None:
    pass


@pytest.mark.parametrize(
    ("of", "change", "passes"),
    [
        (SimpleNamespace, nothing, 1),
        (SimpleNamespace, write, 2),
        (SimpleNamespace, put_another, 2),
        (SimpleNamespace, write_and_put_another, 2),
        (Slots, nothing, 2),  # nobody can see what it holds
        (lambda x: SimpleNamespace(x=x, many=[0] * 2000), nothing, 2),  # comparing it would take too long
    ],
)
def test_a_batch_of_any_type_is_the_same_if_its_tensors_are(of: Any, change: Any, passes: int):
    module, shared, batch = Reads(), SharedPass(), of(x=torch.zeros(2))
    Reads.passes = 0
    with shared.recorded([module]):
        module(batch, [{"scale": 1.0}], mode=None)
    change(batch)
    with shared.reused():
        assert module(batch, [{"scale": 1.0}], mode=None) == 1.0
    assert Reads.passes == passes


def test_what_a_partial_holds_cannot_be_seen():
    module, shared, x = Reads(), SharedPass(), torch.zeros(2)
    Reads.passes = 0
    with shared.recorded([module]):
        module(x, partial(max, 1.0))
    with shared.reused():
        module(x, partial(max, 2.0))
    assert Reads.passes == 2


@pytest.mark.parametrize(
    "call",
    [
        lambda m, x: m(x, 2.0),
        lambda m, x: m(x, 1),
        lambda m, x: m(x, scale=1.0),
        lambda m, x: m([x], 1.0),
        lambda m, x: m(x),
    ],
)
def test_other_arguments_are_another_call(call: Any):
    module, shared, x = Reads(), SharedPass(), torch.zeros(2)
    Reads.passes = 0
    with shared.recorded([module]):
        module(x, 1.0)
    with shared.reused():
        call(module, x)
        module(x, 1.0)
    assert Reads.passes == 2
