"""One forward pass of the trunk for the task and the target: the same training, and every reason not to share."""

# pyright: reportPrivateUsage=false

import copy
import pickle
import random
from collections.abc import Callable
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

    def forward(self, flat: Tensor) -> Tensor:
        return self.head(self.trunk(flat))


class GraphTrunk(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 8), nn.Linear(2, 8)

    def forward(self, c: Tensor, edges: Tensor, attr: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        c, v = self.first(c), self.second(v)
        return c.index_add(0, edges[0], v[edges[1]] * attr), v.index_add(0, edges[1], c[edges[0]])


class GraphNet(nn.Module):
    """A solver on graphs."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = GraphTrunk(), nn.Linear(8, 1)

    def forward(self, *parts: Tensor) -> Tensor:
        return torch.cat([self.head(nodes) for nodes in self.trunk(*parts)])


class OwnEncoder(nn.Module):
    """An encoder that a repository has written itself, around its trunk. It writes to what the trunk returned."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.trunk, self.projector = model.trunk, MLPProjector({"instance": 8}, 8)

    def forward(self, flat: Tensor) -> dict[str, Tensor]:
        return self.projector({"instance": self.trunk(flat).mul_(2.0)})


def of_graph(graph: BipartiteGraph) -> tuple[Tensor, ...]:
    return graph.constraint_features, graph.edge_index, graph.edge_attr, graph.variable_features


PLACES = {"constraint": ("trunk", 0), "variable": ("trunk", 1)}
WIDTHS = {"constraint": 8, "variable": 8}
ENCODERS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], Any]] = {
    "captured": (Net, lambda net: ModelEncoder(net, {"instance": 8}, 8, captured={"instance": "trunk"}), FLAT),
    "run": (Net, lambda net: ModelEncoder(net, {"instance": 8}, 8, run=lambda net, x: net.trunk(x)), FLAT),
    "model": (lambda: Net().trunk, lambda trunk: ModelEncoder(trunk, {"instance": 8}, 8), FLAT),
    "own": (Net, OwnEncoder, FLAT),
    "graphs": (
        GraphNet,
        lambda net: ModelEncoder(net, WIDTHS, 8, run=lambda net, g: net.trunk(*of_graph(g))),
        GRAPHS,
    ),
    "graphs, captured": (
        GraphNet,
        lambda net: ModelEncoder(net, WIDTHS, 8, run=lambda net, g: net(*of_graph(g)), captured=PLACES),
        GRAPHS,
    ),
}
both_teachers = pytest.mark.parametrize("teacher", [StopGradTeacher, SharedTeacher])


class Client:
    """A model, and a term around it; `passes` counts how often the trunk's first layer has run.

    `before` is the number of steps that have shared a pass before. After two there is no check at the next.
    """

    def __init__(self, kind: str = "own", teacher: Any = None, model: Any = None, before: int = 2) -> None:
        torch.manual_seed(0)
        build, encoder_of, batch = ENCODERS[kind]
        self.batch: Any = batch.clone() if isinstance(batch, Tensor) else batch
        self.model = build() if model is None else model
        encoder = encoder_of(self.model)
        views = EntryMasker(0.5) if "instance" in encoder.projector.streams else NodeMasker(0.5)
        dims = dict.fromkeys(encoder.projector.streams, 8)
        objective: Any = JEPAObjective(views, MLPPredictor(dims), teacher or StopGradTeacher(), regularizer=VICReg())
        self.term, self.passes = JEPATerm(encoder, objective), 0
        self.term._pass._steps = before
        self.optimizer = torch.optim.Adam([*self.model.parameters(), *self.term.parameters()], lr=0.01)
        next(m for m in self.model.modules() if isinstance(m, nn.Linear)).register_forward_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.passes += 1

    def run(self, batch: Any = None) -> Tensor:
        batch = self.batch if batch is None else batch
        return self.model(*(of_graph(batch) if isinstance(batch, BipartiteGraph) else (batch,)))

    def square(self) -> Tensor:
        return self.run().float().square().mean()

    def loss(self, task: Callable[[], Tensor] | None = None) -> Any:
        return self.term.loss(self.batch, task=task or self.square)

    def plain(self, task: Callable[[], Tensor] | None = None) -> Any:
        return self.term.loss(self.batch, task=(task or self.square)())  # there is no pass to see

    def result(self, joint: Any) -> dict[str, Tensor]:
        """The losses and all gradients, and the buffers."""
        joint.total.backward()
        parts = [*self.model.named_parameters(), *self.term.named_parameters()]
        gradients = {name: p.grad for name, p in parts if p.grad is not None}
        return {**joint.terms, **gradients, **dict(self.model.named_buffers())}

    def train(self, steps: int, loss: Callable[[], Any]) -> list[Tensor]:
        losses: list[Tensor] = []
        for _ in range(steps):
            joint = loss()
            self.optimizer.zero_grad()
            joint.total.backward()
            self.optimizer.step()
            losses.append(joint.total.detach())
        return losses


def close(found: Any, expected: Any) -> None:
    """Two passes add up gradients in another order than one."""
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def equal(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


# ---- what is shared --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "passes"), [(2, 2), (0, 3)], ids=["", "checked"])
@both_teachers
@pytest.mark.parametrize("kind", ENCODERS)
def test_a_shared_pass_gives_the_same_loss_and_gradients(kind: str, teacher: Any, before: int, passes: int):
    plain, seen = Client(kind, teacher()), Client(kind, teacher(), before=before)
    expected, found = plain.result(plain.plain()), seen.result(seen.loss())
    assert (plain.passes, seen.passes) == (3, passes)
    close(found, expected)
    if teacher is StopGradTeacher:
        equal(found["loss_jepa"], expected["loss_jepa"])


@pytest.mark.parametrize("kind", ENCODERS)
def test_nothing_is_left_on_the_model(kind: str):
    client = Client(kind)
    client.loss()
    for module in (*client.model.modules(), *client.term.modules()):
        assert "forward" not in vars(module)
    hooks = [hook for m in client.model.modules() for hook in (*m._forward_hooks, *m._forward_pre_hooks)]
    assert len(hooks) == 1  # that of the count
    assert not client.term._pass._calls
    assert copy.deepcopy(client.term)._pass._steps == 0  # the copy begins with a check
    assert isinstance(pickle.loads(pickle.dumps(client.term._pass)), SharedPass)


@pytest.mark.parametrize("given", [lambda x: x[:], lambda x: x.clone(), lambda x: x.detach()])
def test_equal_tensors_are_the_same_on_a_cpu(given: Callable[[Tensor], Tensor]):
    client = Client()
    client.loss(lambda: client.run(given(client.batch)).mean())
    assert client.passes == 2


def test_a_module_that_would_draw_in_training_is_shared_in_eval_mode():
    client = Client(model=Net(nn.SELU(), nn.BatchNorm1d(8), nn.Dropout(0.5)))
    client.model.eval()
    client.loss()
    assert client.passes == 2


@both_teachers
def test_a_pass_whose_activations_are_computed_again_is_shared(teacher: Any):
    client, plain = Client(teacher=teacher()), Client(teacher=teacher())
    joint = client.loss(lambda: checkpoint(client.run, use_reentrant=False).square().mean())  # pyright: ignore
    assert client.passes == 2
    close(client.result(joint), plain.result(plain.plain()))


@both_teachers
def test_micro_batches_and_half_precision_are_shared(teacher: Any):
    def gradients(client: Client, loss: Callable[[], Any]) -> dict[str, Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss().total.backward()
            client.batch = client.batch + 1.0
            joint = loss()
        return client.result(joint)

    seen, plain = Client(teacher=teacher()), Client(teacher=teacher())
    found, expected = gradients(seen, seen.loss), gradients(plain, plain.plain)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=1e-3)
    assert (seen.passes, plain.passes) == (5, 6)  # the second of the two is checked


@both_teachers
def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(teacher: Any):
    unbroken, resumed = Client(teacher=teacher(), before=0), Client(teacher=teacher(), before=0)
    unbroken.train(3, unbroken.loss)
    for of in (lambda client: client.model, lambda client: client.term, lambda client: client.optimizer):
        of(resumed).load_state_dict(copy.deepcopy(of(unbroken).state_dict()))
    equal(resumed.train(6, resumed.loss), unbroken.train(6, unbroken.loss))
    assert (unbroken.passes, resumed.passes) == (3 * 9 - 5, 3 * 6 - 3)


def test_a_teacher_that_stops_gradients_needs_none_and_another_does():
    for teacher, passes in ((StopGradTeacher(), 2), (SharedTeacher(), 3)):
        seen, plain = Client(teacher=teacher), Client(teacher=teacher)
        expected = plain.result(plain.plain(torch.no_grad()(plain.square)))
        close(seen.result(seen.loss(torch.no_grad()(seen.square))), expected)
        assert seen.passes == passes


def test_a_copy_of_the_encoder_takes_no_notice():
    client = Client()
    client.term.objective.teacher = EMATeacher(client.term.encoder)
    client.loss()
    assert client.passes == 2  # of the task and of the context; that of the target is the copy's


# ---- what is seen without a check ------------------------------------------------------------------------


class Calls(nn.Module):
    def __init__(self, of: Callable[[], Any]) -> None:
        super().__init__()
        self.of = of

    def forward(self, x: Tensor) -> Tensor:
        return x * self.of()


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count = self.count + 1.0
        return x * self.count


def compiled(module: nn.Module) -> nn.Module:
    module.compile(backend="eager")
    return module


RANDOM_OR_KEEPING: dict[str, Callable[[], nn.Module]] = {
    "dropout": lambda: nn.Dropout(0.5),
    "batch norm": lambda: nn.BatchNorm1d(8),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)),
    "rand": lambda: Calls(lambda: torch.rand(())),
    "buffer": Counting,
    "wrapped": lambda: nn.DataParallel(nn.Identity()),
    "script": lambda: torch.jit.script(nn.Identity()),
    "compiled": lambda: compiled(nn.Identity()),
}


@pytest.mark.parametrize("layer", RANDOM_OR_KEEPING)
@both_teachers
def test_a_module_that_draws_or_keeps_something_runs_again_without_a_warning(layer: str, teacher: Any):
    seen, plain = (Client(model=Net(RANDOM_OR_KEEPING[layer]()), teacher=teacher(), before=0) for _ in range(2))
    plain.model.load_state_dict(seen.model.state_dict())
    torch.manual_seed(2)
    expected = plain.train(3, plain.plain)
    torch.manual_seed(2)
    equal(seen.train(3, seen.loss), expected)
    assert seen.passes == plain.passes


def then(change: Callable[[Client], Any]) -> Callable[[Client], Tensor]:
    def task(client: Client) -> Tensor:
        loss = client.run().mean().detach()
        with torch.no_grad():
            change(client)
        return loss

    return task


def with_other_weights(client: Client) -> Tensor:
    weights = {name: p + 1.0 for name, p in client.model.named_parameters()}
    return torch.func.functional_call(client.model, weights, (FLAT,)).mean()


def fails_at_first(client: Client) -> Tensor:
    client.model.trunk.append(nn.Linear(1, 1))
    with pytest.raises(RuntimeError, match="shape"):
        client.run()
    del client.model.trunk[-1]
    return torch.zeros(())


NOT_THE_SAME: dict[str, Callable[[Client], Tensor]] = {
    "twice": lambda client: client.run().mean() + client.run().mean(),
    "another batch": lambda client: client.run(FLAT + 1.0).mean(),
    "a part of the batch": lambda client: client.run(FLAT[:3]).mean(),
    "half precision": lambda client: torch.autocast("cpu", torch.bfloat16)(client.run)().float().mean(),
    "other weights": with_other_weights,
    "an error": fails_at_first,
    "vmap": lambda client: torch.vmap(client.model)(FLAT).mean(),
    "functorch": lambda client: torch.func.grad(lambda x: (x * client.run()).mean())(torch.tensor(1.0)).detach(),
    "inference mode": lambda client: torch.zeros(len(torch.inference_mode()(client.run)())).mean(),
    "compiled": lambda client: torch.compile(client.model, backend="eager", fullgraph=True)(FLAT).mean(),
    "output": lambda client: torch.no_grad()(client.model.trunk)(client.batch).mul_(2.0).mean(),
    "weights": then(lambda client: client.model.trunk[0].weight.add_(1.0)),
    "mode": then(lambda client: client.model.eval()),
    "input": then(lambda client: client.batch.add_(1.0)),
    "forward": then(lambda client: setattr(client.model.trunk, "forward", lambda x: x @ torch.ones(6, 8))),
}


@pytest.mark.parametrize("task", NOT_THE_SAME)
def test_another_pass_is_not_shared(task: str):
    seen, plain = Client(), Client()
    found = seen.loss(lambda: NOT_THE_SAME[task](seen))
    expected = plain.plain(lambda: NOT_THE_SAME[task](plain))
    assert seen.passes == plain.passes
    equal(found.terms, expected.terms)
    assert ("forward" in vars(seen.model.trunk)) == (task == "forward")  # what the task has put there stays


@both_teachers
def test_a_backward_hook_sees_each_gradient_by_itself(teacher: Any):
    seen, plain = Client("run", teacher()), Client("run", teacher())
    for client in (seen, plain):
        client.model.trunk[1].register_full_backward_hook(lambda module, given, made: None)
    close(seen.result(seen.loss()), plain.result(plain.plain()))
    assert seen.passes == (3 if teacher is SharedTeacher else 2)


@both_teachers
def test_a_hook_that_scales_gradients_does_so_once(teacher: Any):
    def scaled(module: nn.Module, given: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: 0.1 * gradient)

    plain, seen = Client(teacher=teacher()), Client(teacher=teacher())
    for client in (plain, seen):
        client.model.trunk.register_forward_hook(scaled)
    close(seen.result(seen.loss()), plain.result(plain.plain()))


def test_nothing_is_kept_of_a_task_that_raises():
    client = Client()

    def task() -> Tensor:
        raise ArithmeticError(client.run())

    with pytest.raises(ArithmeticError):
        client.loss(task)
    assert not client.term._pass._calls


class Reads(nn.Module):
    passes = 0

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        type(self).passes += 1
        return torch.ones(())


@pytest.mark.parametrize(
    ("passes", "call"),
    [
        (1, lambda m, x: m(x, 1.0)),
        (2, lambda m, x: m(x, 2.0)),
        (2, lambda m, x: m(x, 1)),
        (2, lambda m, x: m(x, scale=1.0)),
        (2, lambda m, x: m([x], 1.0)),
        (2, lambda m, x: m(x.double(), 1.0)),
        (2, lambda m, x: m(x.clone().requires_grad_(), 1.0)),
    ],
)
def test_other_arguments_are_another_call(passes: int, call: Any):
    module, shared, x = Reads(), SharedPass(), torch.zeros(2)
    shared._steps, Reads.passes = 2, 0
    with shared.recorded([module]):
        module(x, 1.0)
    with shared.reused():
        call(module, x)
    assert Reads.passes == passes


class Opaque(nn.Module):
    def forward(self) -> SimpleNamespace:
        return SimpleNamespace()


def test_an_output_that_nobody_can_copy_is_not_shared():
    module, shared = Opaque(), SharedPass()
    shared._steps = 2
    with shared.recorded([module]):
        first = module()
    with shared.reused():
        assert module() is not first


# ---- what only the check sees ----------------------------------------------------------------------------


class WritesData(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        self.weight.data.mul_(1.01)
        return super().forward(input)


def closure(quiet: int = 0) -> nn.Module:
    """Counts its passes in a closure, and returns the same in the first `quiet` ones."""
    passes = 0

    def count() -> float:
        nonlocal passes
        passes += 1
        return 1.0 + max(passes - quiet, 0)

    return Calls(count)


def with_its_own_generator() -> nn.Module:
    own = torch.Generator()
    return Calls(lambda: torch.rand((), generator=own))


HIDDEN: dict[str, Callable[[], nn.Module]] = {
    "numpy": lambda: Calls(np.random.rand),
    "python": lambda: Calls(random.random),
    "own generator": with_its_own_generator,
    "closure": closure,
    "data": lambda: WritesData(8, 8),
}


@pytest.mark.parametrize("layer", HIDDEN)
@pytest.mark.parametrize("kind", ["own", "captured"])
@both_teachers
def test_a_module_with_a_hidden_state_is_found_at_once(layer: str, kind: str, teacher: Any):
    def trained(is_seen: bool) -> tuple[int, list[Tensor]]:
        torch.manual_seed(1)
        client = Client(kind, teacher(), Net(HIDDEN[layer]()), before=0)
        random.seed(2)
        np.random.seed(2)  # noqa: NPY002
        losses = client.train(3, client.loss if is_seen else client.plain)
        return client.passes, losses

    with pytest.warns(UserWarning, match="Sequential returned two outputs|Net returned two outputs") as said:
        found = trained(True)
    assert len(said) == 1
    assert said[0].filename == __file__
    equal(found, trained(False))


@pytest.mark.parametrize(
    "change",
    [
        lambda client: setattr(client.model.trunk, "1", nn.Tanh()),
        lambda client: setattr(client.model.trunk[0].weight, "data", torch.ones(8, 6)),
        lambda client: setattr(client.model.trunk[0], "forward", lambda x: x @ torch.ones(6, 8)),
    ],
)
def test_a_change_that_nobody_counts_is_found_at_once(change: Callable[[Client], None]):
    seen, plain = Client(before=0), Client(before=0)
    with pytest.warns(UserWarning, match="Sequential returned two outputs"):
        found = seen.loss(lambda: then(change)(seen))
    equal(found.terms, plain.plain(lambda: then(change)(plain)).terms)


def test_a_state_that_shows_late_is_found_by_a_later_check():
    client = Client(model=Net(closure(quiet=12)), before=0)
    client.train(7, client.loss)  # 17 passes, so the last ones of the trunk differ, but are not compared
    with pytest.warns(UserWarning, match="two outputs"):
        client.train(1, client.loss)
    client.train(1, client.loss)  # it says so once


def test_checks_become_rare():
    client, extra = Client(before=0), list[int]()
    for step in range(1, 1025):
        client.passes = 0
        client.loss()
        extra += [step] * (client.passes - 2)
    assert extra == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024]


def test_rounding_and_what_is_not_a_number_are_no_difference():
    noise = iter([1.0, 1.0, 1.0 + 1e-6] * 2)
    client = Client(model=Net(Calls(lambda: next(noise))), before=0)
    client.loss()
    with torch.no_grad():
        client.model.trunk[0].bias[0] = torch.nan
    client.loss()
    assert client.term._pass.is_trusted


def test_a_verdict_that_comes_late_counts():
    client = Client()
    client.loss()
    client.term._pass._verdicts.append((client.model.trunk, torch.tensor(False)))  # as a GPU writes it
    with pytest.warns(UserWarning, match="two outputs"):
        client.loss()
    assert client.passes == 2 + 3
