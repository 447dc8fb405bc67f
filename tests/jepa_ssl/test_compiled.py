"""The joint step under torch.compile(fullgraph=True), as a loop of one's own compiles it; and the other engines."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from builders import FlatEncoder, GraphEncoder, ragged_graphs, seeded, tensors
from random_graphs import three_types
from runs import differences
from small_lps import random_lp, sparse
from torch import Tensor, nn
from torch._dynamo.exc import Unsupported
from torch.utils.checkpoint import checkpoint

from jepa_ssl import (
    BipartiteGraph,
    BlockMasker,
    EdgeMasker,
    EMATeacher,
    EntryMasker,
    FlatVectors,
    Graph,
    JEPAObjective,
    MLPPredictor,
    NodeMasker,
    SharedTeacher,
    SIGReg,
    StopGradTeacher,
    VICReg,
)
from jepa_ssl.losses import smooth_l1_loss, squared_error
from jepa_ssl.lp import SolverState, SparseLP, StructureMasker
from jepa_ssl.maskers import ComposeMaskers, GaussianNoise, GroupMasker, LearnedToken, MultiView, Seeds, Shuffled
from jepa_ssl.names import without_wrappers

KINDS = ("constraint", "variable")
DIMS: dict[str, int] = dict.fromkeys(KINDS, 4)
GRAPHS = 3  # in each batch

GRAPH_MASKERS = MultiView(
    NodeMasker(0.3, GaussianNoise(), hide_edges=True, derived={"variable": [0]}),
    EdgeMasker(0.3, Shuffled(), indicator=True),
    ComposeMaskers(BlockMasker(0.4, blocks=2), NodeMasker(0.6, LearnedToken({"constraint": 3, "variable": 2}))),
)
THREE_TYPES_MASKERS = MultiView(
    NodeMasker(0.5, hide_edges=True, derived={"row": [1, 2], "goal": [0]}),
    EdgeMasker({"has": 0.5, "near": 0.4, "prices": 0}, derived={"column": [0]}, reverse={"back": "has"}),
    BlockMasker({"row": 0.5, "column": 0.3}, 1, 2, hide_edges=True),
)
FLAT_MASKERS = MultiView(
    EntryMasker(0.5, GaussianNoise(), indicator=True),
    StructureMasker(3, 4, 0.4, 0.4, 0.4, only_nonzero=True, fill=LearnedToken({"instance": 1})),
    ComposeMaskers(GroupMasker([[0, 1], [2], [3, 4, 5]], 0.5, Shuffled()), EntryMasker(0.9)),
)


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> None:
    torch._dynamo.reset()


class Counted:
    """A backend of torch.compile that counts how often it is asked."""

    def __init__(self, backend: str = "eager") -> None:
        self.count = 0
        self.backend: Any = torch._dynamo.lookup_backend(backend)

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.count += 1
        return self.backend(graph, inputs)


def graphs(number: int) -> BipartiteGraph:
    """A batch of sizes that no other number has."""
    return ragged_graphs([3 + number, 4, 6 + number], [2 + number, 3, 5 + 2 * number], seed=number)


def graphs_of_three_types(number: int) -> Graph:
    return three_types([(7 + 3 * number, 4, 20), (6, 5 + 3 * number, 14), (5, 8, 9 + 2 * number)], number)


def vectors(number: int) -> Tensor:
    return torch.randn(GRAPHS, 19, generator=seeded(number))


def padded(number: int) -> FlatVectors:
    valid = torch.ones(GRAPHS, 19, dtype=torch.bool)
    valid[1, 7 + number % 4 :] = False
    return FlatVectors(vectors(number), valid)


def lps(number: int) -> SparseLP:
    return sparse([random_lp(number + i, 3 + number + i, 4 + number + i) for i in range(GRAPHS)], torch.float32)


def gradients(module: nn.Module) -> list[Tensor]:
    found = [p.grad for p in module.parameters() if p.grad is not None]
    module.zero_grad()
    return found


# Views


@pytest.mark.slow
@pytest.mark.parametrize(
    ("views", "instances"),
    [
        pytest.param(GRAPH_MASKERS, graphs, id="graphs"),
        pytest.param(THREE_TYPES_MASKERS, graphs_of_three_types, id="graphs of three types"),
        pytest.param(FLAT_MASKERS, padded, id="vectors"),
        pytest.param(MultiView(SolverState((2, 5)).fit([lps(0)])), lps, id="solver states"),
    ],
)
def test_compiled_views_are_the_eager_ones_and_sizes_do_not_recompile(
    views: MultiView, instances: Callable[[int], Any]
):
    def make(instance: Any, names: Tensor) -> Any:
        return views(instance, generator=Seeds(names))

    backend = Counted()
    # Dynamic from the start, where sizes change: only so are all maskers quickly compiled.
    compiled = torch.compile(make, fullgraph=True, backend=backend, dynamic=True if instances is not padded else None)
    for number in range(4):
        instance, names = instances(number), torch.arange(GRAPHS) + number
        found, expected = (tensors(way(instance, names)) for way in (compiled, make))
        assert len(found) > 4
        assert len(found) == len(expected)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert backend.count == 1


@pytest.mark.slow
def test_views_compile_without_names_too():
    backend, nodes, entries = Counted(), NodeMasker(0.3, GaussianNoise()), EntryMasker(0.5, Shuffled())
    compiled = torch.compile(lambda graph, x: (nodes(graph), entries(x)), fullgraph=True, backend=backend)
    for number in range(4):
        made = compiled(graphs(number), vectors(number))
        assert all(marks.any() for view in made for marks in view.hidden.values())
    assert backend.count == 2  # the first sizes, and any sizes


@pytest.mark.slow
def test_a_generator_does_not_compile_to_one_graph():
    """torch knows no way to pass one; when it does, the page on engines has to say so."""
    compiled = torch.compile(lambda x, g: EntryMasker(0.5)(x, generator=g).context, fullgraph=True, backend="eager")
    with pytest.raises(Unsupported):
        compiled(vectors(0), seeded())


# The joint step


class Step(nn.Module):
    """The task's loss and several objectives on one encoder."""

    def __init__(self, encoder: nn.Module, *objectives: JEPAObjective[Any]) -> None:
        super().__init__()
        self.encoder = encoder
        self.objectives: Any = nn.ModuleList(objectives)

    def forward(self, instance: Any, names: Tensor, epoch: int = 0) -> Tensor:
        loss = torch.stack([z.square().mean() for z in self.encoder(instance).values()]).sum()
        for jepa in self.objectives:
            loss = loss + 0.2 * jepa(self.encoder, instance, generator=Seeds(names, epoch)).total
        return loss


def graph_step() -> Step:
    encoder = GraphEncoder()
    return Step(
        encoder,
        JEPAObjective(EdgeMasker(0.3), MLPPredictor(DIMS), EMATeacher(encoder), regularizer=VICReg()),
        JEPAObjective(
            NodeMasker(0.3), MLPPredictor(DIMS), SharedTeacher(), smooth_l1_loss, regularizer=SIGReg(8, items=20)
        ),
    )


def flat_step() -> Step:
    encoder = FlatEncoder(19).eval()
    streams = {"instance": 4}
    return Step(
        encoder,
        JEPAObjective(EntryMasker(0.3), MLPPredictor(streams), EMATeacher(encoder), squared_error),
        JEPAObjective(
            MultiView(StructureMasker(3, 4, 0.4), GroupMasker([[0, 1], [2]], 0.5)),
            MLPPredictor(streams),
            StopGradTeacher(),
            smooth_l1_loss,
            regularizer=VICReg(),
        ),
    )


PATHS = [pytest.param(graph_step, graphs, id="graph"), pytest.param(flat_step, vectors, id="flat")]


@pytest.mark.slow
@pytest.mark.parametrize(("make", "instances"), PATHS)
def test_a_compiled_step_has_the_loss_and_the_gradients_of_the_eager_one(
    make: Callable[[], Step], instances: Callable[[int], Any]
):
    step, counted = make(), Counted("aot_eager")
    compiled: Any = torch.compile(step, fullgraph=True, backend=counted)
    for number in range(4 if instances is graphs else 6):  # the fifth batch is of the second epoch
        found: list[Any] = []
        for way in (compiled, step):
            torch.manual_seed(number)  # SIGReg's directions
            loss = way(instances(number), torch.arange(GRAPHS) + number, number // 4)
            loss.backward()
            found.append([loss.detach(), *gradients(step)])
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)
        step.objectives[0].update(step.encoder)
    # Sizes, any sizes, and another epoch.
    assert counted.count <= (2 if instances is graphs else 3)


@pytest.mark.slow
def test_seeds_made_outside_and_a_smaller_last_batch_compile_no_more_often():
    encoder = FlatEncoder(6).eval()
    jepa = JEPAObjective(EntryMasker(0.3), MLPPredictor({"instance": 4}), StopGradTeacher())
    backend = Counted()
    compiled = torch.compile(lambda x, seeds: jepa(encoder, x, generator=seeds).total, fullgraph=True, backend=backend)
    for epoch in range(3):
        for size in (8, 8, 5):
            x, names = torch.randn(size, 6), torch.arange(size)
            assert compiled(x, Seeds(names, epoch)) == jepa(encoder, x, generator=Seeds(names, epoch)).total
    assert backend.count == 2  # eight instances, and any number


# Names


def as_it_is(step: Step) -> Any:
    return step


def compiled_whole(step: Step) -> Any:
    return torch.compile(step, backend="eager")


def compiled_in_place(step: Step) -> Any:
    step.encoder.compile(backend="eager")
    return step


def compiled_encoder(step: Step) -> Any:
    step.encoder = torch.compile(step.encoder, backend="eager")  # pyright: ignore[reportAttributeAccessIssue]
    return step


@pytest.mark.slow
@pytest.mark.parametrize("teacher_first", [True, False])
def test_whatever_is_compiled_weights_teachers_and_keys_are_the_same(teacher_first: bool):
    def trained(compile_: Callable[[Step], Any]) -> dict[str, Tensor]:
        torch.manual_seed(0)
        step = Step(FlatEncoder(6).eval())

        def objective() -> JEPAObjective[Any]:
            torch.manual_seed(1)
            return JEPAObjective(EntryMasker(0.3), MLPPredictor({"instance": 4}), EMATeacher(step.encoder, 0.5))

        if teacher_first:
            step.objectives.append(objective())
        run = compile_(step)
        if not teacher_first:
            step.objectives.append(objective())
        optimizer = torch.optim.SGD(run.parameters(), lr=0.1)
        for number in range(3):
            optimizer.zero_grad()
            run(torch.randn(4, 6, generator=seeded(number)), torch.arange(4)).backward()
            optimizer.step()
            step.objectives[0].update(step.encoder)
        return without_wrappers(run, run.state_dict())

    expected = trained(as_it_is)
    teacher = "objectives.0.teacher.target_model.trunk.0.weight"
    assert not torch.equal(expected[teacher], expected["encoder.trunk.0.weight"])
    for way in (compiled_whole, compiled_in_place, compiled_encoder):
        assert not differences(expected, trained(way)), way


# Activation checkpointing


class Layered(nn.Module):
    """Layers with dropout, each of which may be computed again in the backward pass."""

    def __init__(self, again: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.3), nn.Tanh()) for _ in range(3))
        self.again = again
        self.passes = 0

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        for layer in self.layers:
            x = checkpoint(self._through, layer, x, use_reentrant=False) if self.again else layer(x)  # pyright: ignore
        return {"instance": x}

    def _through(self, layer: nn.Module, x: Tensor) -> Tensor:
        self.passes += 1
        return layer(x)


def test_checkpointed_layers_leave_gradients_teacher_and_masks_as_they_are():
    def trained(again: bool) -> tuple[Layered, Tensor]:
        torch.manual_seed(0)
        encoder, generator = Layered(again), seeded()
        teacher = EMATeacher(encoder, 0.5)
        jepa = JEPAObjective(EntryMasker(0.5), MLPPredictor({"instance": 6}), teacher)
        optimizer = torch.optim.SGD([*encoder.parameters(), *jepa.parameters()], lr=0.1)
        for number in range(3):
            optimizer.zero_grad()
            x = torch.randn(8, 6, generator=seeded(number))
            (encoder(x)["instance"].square().mean() + jepa(encoder, x, generator=generator).total).backward()
            optimizer.step()
            jepa.update(encoder)
        flat = torch.cat([t.flatten() for t in (*encoder.parameters(), *teacher.parameters())])
        return encoder, torch.cat([flat, generator.get_state(), torch.get_rng_state()])

    (plain, expected), (encoder, found) = trained(False), trained(True)
    assert torch.equal(found, expected)
    assert plain.passes == 0
    assert encoder.passes == 3 * 3 * 2 * 2  # steps, layers, the task's pass and the context's, each twice


# On a GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("make", "instances"), PATHS)
def test_a_whole_step_waits_for_no_gpu(make: Callable[[], Step], instances: Callable[[int], Any]):
    step, batch, names = make().cuda(), instances(0).to("cuda"), torch.arange(GRAPHS).cuda()
    optimizer = torch.optim.SGD(step.parameters(), lr=0.1)
    step(batch, names).backward()  # what is set up once may wait
    optimizer.step()
    step.objectives[0].update(step.encoder)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(batch, names).backward()
        optimizer.step()
        step.objectives[0].update(step.encoder)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_is_captured_and_replayed_as_a_cuda_graph():
    step = flat_step().cuda()
    x, names = vectors(0).cuda(), torch.arange(GRAPHS).cuda()
    stream: Any = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(x, names).backward()
            step.zero_grad(set_to_none=True)
    torch.cuda.current_stream().wait_stream(stream)
    captured = torch.cuda.CUDAGraph()
    step.objectives[0].regularizer = None  # SIGReg draws: a replay would draw anew, and not as the eager step does
    with torch.cuda.graph(captured):
        loss = step(x, names)
        loss.backward()
    for number in range(1, 4):
        x.copy_(vectors(number))
        names.add_(1)
        captured.replay()
        found = [loss.detach().clone(), *(p.grad.clone() for p in step.parameters() if p.grad is not None)]
        kept = [p.grad for p in step.parameters()]
        for p in step.parameters():
            p.grad = None
        expected = step(x, names)
        expected.backward()
        torch.testing.assert_close(found, [expected.detach(), *gradients(step)], rtol=1e-4, atol=1e-6)
        for p, grad in zip(step.parameters(), kept, strict=True):
            p.grad = grad  # the captured graph writes to these
