"""Mixed precision around the joint step, and gradients accumulated over micro-batches."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from builders import GraphEncoder, LinearEncoder, ragged_graphs, seeded
from small_lps import random_lp, sparse
from torch import Tensor, nn

from jepa_ssl import (
    BipartiteGraph,
    BlockMasker,
    EdgeMasker,
    EMATeacher,
    EntryMasker,
    JEPAObjective,
    MLPPredictor,
    NodeMasker,
    SIGReg,
    StopGradTeacher,
    TargetNetwork,
    VICReg,
)
from jepa_ssl.losses import cosine_loss, smooth_l1_loss, squared_error
from jepa_ssl.lp import SolverState, SparseLP, StructureMasker
from jepa_ssl.maskers import ComposeMaskers, GroupMasker, MultiView, Seeds
from jepa_ssl.testing.batches import selected

GRAPH_DIMS = {"constraint": 4, "variable": 4}
FLAT_DIMS = {"instance": 4}
NAMES = torch.tensor([5, 0, 3, 8, 2])
LINEAR = partial(LinearEncoder, {"instance": 19})


class LPEncoder(nn.Module):
    """`GraphEncoder` on what SparseLP.graph makes."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = GraphEncoder()
        self.encoder.constraint, self.encoder.variable = nn.Linear(2, 4), nn.Linear(5, 4)

    def forward(self, lp: SparseLP) -> dict[str, Tensor]:
        return self.encoder(lp.graph())


def graphs() -> BipartiteGraph:
    return ragged_graphs([3, 4, 6, 2, 9], [2, 5, 3, 7, 4])


def vectors() -> Tensor:
    return torch.randn(5, 19, generator=seeded())


PATHS = [
    pytest.param(GraphEncoder, graphs, NodeMasker(0.4), GRAPH_DIMS, id="graph"),
    pytest.param(LINEAR, vectors, EntryMasker(0.4), FLAT_DIMS, id="flat"),
]


def joint_loss(encoder: nn.Module, jepa: JEPAObjective[Any], batch: Any) -> Tensor:
    task = torch.stack([z.square().mean() for z in encoder(batch).values()]).sum()
    result = jepa(encoder, batch, generator=Seeds(NAMES))
    assert {term.dtype for term in result.terms.values()} | {result.total.dtype} == {torch.float32}
    return task + 0.2 * result.total


def gradient(*modules: nn.Module) -> Tensor:
    grads = [p.grad for module in modules for p in module.parameters() if p.grad is not None]
    return torch.cat([grad.flatten() for grad in grads])


@pytest.mark.parametrize(("Encoder", "batch", "views", "dims"), PATHS)
@pytest.mark.parametrize("loss", [cosine_loss, smooth_l1_loss, squared_error])
@pytest.mark.parametrize("regularizer", [VICReg(), SIGReg(16)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_losses_and_teacher_stay_in_float32(
    Encoder: Callable[[], nn.Module],
    batch: Callable[[], Any],
    views: Any,
    dims: dict[str, int],
    loss: Any,
    regularizer: Any,
    dtype: torch.dtype,
):
    torch.manual_seed(1)
    encoder, predictor = Encoder(), MLPPredictor(dims)
    teacher = EMATeacher(encoder, 0.5)
    jepa = JEPAObjective(views, predictor, teacher, loss, regularizer=regularizer, regularizer_weight=0.1)
    joint_loss(encoder, jepa, batch()).backward()
    expected = gradient(encoder, predictor)
    encoder.zero_grad()
    predictor.zero_grad()
    before = [t.clone() for t in teacher.target_model.parameters()]
    with torch.autocast("cpu", dtype=dtype):
        total = joint_loss(encoder, jepa, batch())
    total.backward()
    found = gradient(encoder, predictor)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    # bfloat16 has eight bits of mantissa, float16 eleven.
    assert (found - expected).norm() < (0.05 if dtype == torch.bfloat16 else 0.01) * expected.norm()
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.target_model.parameters(), strict=True))
    with torch.no_grad():
        for p in encoder.parameters():
            p.add_(1e-4)  # a step that bfloat16 would not notice
    teacher.update(encoder)
    for a, b in zip(before, teacher.target_model.parameters(), strict=True):
        torch.testing.assert_close(b, a + 0.5e-4, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("Encoder", "batch", "views", "dims"), PATHS)
def test_float16_with_a_scaler_skips_the_step_that_overflows_and_takes_the_next(
    Encoder: Callable[[], nn.Module], batch: Callable[[], Any], views: Any, dims: dict[str, int]
):
    encoder = Encoder()
    jepa = JEPAObjective(views, MLPPredictor(dims), EMATeacher(encoder, 0.5))
    parameters = [*encoder.parameters(), *jepa.parameters()]
    optimizer = torch.optim.SGD([p for p in parameters if p.requires_grad], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=1000)
    before = [p.detach().clone() for p in parameters]
    moved: list[bool] = []
    for _ in range(40):  # the scale is halved until the float16 gradients no longer overflow
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = joint_loss(encoder, jepa, batch())
        scaler.scale(loss).backward()  # pyright: ignore[reportUnknownMemberType]
        scaler.step(optimizer)  # pyright: ignore[reportUnknownMemberType]
        scaler.update()
        jepa.update(encoder)
        moved.append(not all(torch.equal(a, b) for a, b in zip(before, parameters, strict=True)))
        if moved[-1]:
            break
    assert moved[0] is False
    assert moved[-1] is True
    assert all(p.isfinite().all() and p.dtype == torch.float32 for p in parameters)


# Micro-batches


LPS = [random_lp(i, 3 + i, 4 + i) for i in range(5)]


def part_of(batch: Any, first: int, last: int) -> Any:
    return sparse(LPS[first:last]) if isinstance(batch, SparseLP) else selected(batch, range(first, last))


def accumulated(encoder: nn.Module, jepa: JEPAObjective[Any], batch: Any, cuts: Sequence[int]) -> Tensor:
    """The gradient of the prediction loss, over micro-batches weighted by their shares of the instances."""
    encoder.zero_grad()
    jepa.zero_grad()
    for first, last in pairwise(cuts):
        loss = jepa(encoder, part_of(batch, first, last), generator=Seeds(NAMES[first:last], epoch=1)).total
        ((last - first) / cuts[-1] * loss).backward()
    return gradient(encoder, jepa)


FLAT_WAYS = [
    EntryMasker(0.4),
    GroupMasker([[0, 1], [2, 3, 4]], 0.5),
    StructureMasker(3, 4, 0.4, 0.4, 0.4),
    ComposeMaskers(EntryMasker(0.4), EntryMasker(0.3)),
    MultiView(EntryMasker(0.4), EntryMasker(0.2)),
]
GRAPH_WAYS = [
    NodeMasker(0.4, hide_edges=True),
    EdgeMasker(0.4),
    BlockMasker(0.4, blocks=2),
    ComposeMaskers(NodeMasker(0.4), EdgeMasker(0.3)),
    MultiView(NodeMasker(0.4), BlockMasker(0.2)),
]
WAYS: list[Any] = [
    *((views, LINEAR, vectors, FLAT_DIMS) for views in FLAT_WAYS),
    *((views, GraphEncoder, graphs, GRAPH_DIMS) for views in GRAPH_WAYS),
    (SolverState((2, 5)).double().fit([sparse(LPS)]), LPEncoder, lambda: sparse(LPS), GRAPH_DIMS),
]


@pytest.mark.parametrize(("views", "Encoder", "batch", "dims"), WAYS)
def test_accumulated_micro_batches_are_the_large_batch(
    views: Any, Encoder: Callable[[], nn.Module], batch: Callable[[], Any], dims: dict[str, int]
):
    torch.manual_seed(1)
    encoder = Encoder()
    states = isinstance(views, SolverState)
    sizes = dict.fromkeys(dims, (4, 4))
    jepa = JEPAObjective(views, MLPPredictor(dims), TargetNetwork(sizes) if states else StopGradTeacher())
    encoder, jepa, whole = encoder.double(), jepa.double(), batch()
    if isinstance(whole, Tensor):
        whole = whole.double()
    elif isinstance(whole, BipartiteGraph):
        whole = whole.with_values({stream: values.double() for stream, values in whole.values().items()})
    large = accumulated(encoder, jepa, whole, [0, 5])
    assert large.norm() > 1e-3
    for cuts in ([0, 1, 5], [0, 2, 4, 5], range(6)):
        torch.testing.assert_close(accumulated(encoder, jepa, whole, cuts), large, rtol=1e-10, atol=1e-10)


def test_micro_batches_in_which_a_graph_hides_nothing_are_not():
    """A lone node stays visible: its graph counts in no mean, but it does in the micro-batch's share."""
    encoder = GraphEncoder().double()
    jepa = JEPAObjective(NodeMasker(0.4), MLPPredictor(GRAPH_DIMS), StopGradTeacher()).double()
    graph = ragged_graphs([3, 1, 6, 1, 9], [2, 5, 3, 7, 4], torch.float64)
    large, small = (accumulated(encoder, jepa, graph, cuts) for cuts in ([0, 5], [0, 2, 5]))
    assert (large - small).norm() > 1e-3 * large.norm()
    # By the graphs that hide something, stream by stream, it would be exact.
    counts = [(2, 1, 2), (3, 2, 3)]  # graphs, and how many of them hide constraints and variables
    parts: list[Tensor] = []
    for stream in range(2):
        weights = {"constraint": float(stream == 0), "variable": float(stream == 1)}
        of_stream = JEPAObjective(jepa.views, jepa.predictor, jepa.teacher, stream_weights=weights)  # pyright: ignore
        encoder.zero_grad()
        of_stream.zero_grad()
        for (first, last), count in zip(((0, 2), (2, 5)), counts, strict=True):
            loss = of_stream(encoder, part_of(graph, first, last), generator=Seeds(NAMES[first:last], epoch=1)).total
            (0.5 * count[1 + stream] / sum(c[1 + stream] for c in counts) * loss).backward()
        parts.append(gradient_or_zeros(encoder, of_stream))
    accumulated(encoder, jepa, graph, [0, 5])
    torch.testing.assert_close(parts[0] + parts[1], gradient_or_zeros(encoder, jepa), rtol=1e-10, atol=1e-10)


def gradient_or_zeros(*modules: nn.Module) -> Tensor:
    parameters = [p for module in modules for p in module.parameters()]
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
