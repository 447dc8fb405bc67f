"""The measured recipe: its parts against the formula written out, and that it learns on both paths."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_lps import dense, random_lp, sparse
from torch import Tensor, nn

from jepa_ssl import BipartiteGraph, Encoded, FlatVectors, MLPProjector, VICReg
from jepa_ssl.diagnostics import effective_rank
from jepa_ssl.lp import DenseLP, SolverState, SparseLP
from jepa_ssl.recipes import later_state

DIM = 8
LPS = [random_lp(seed, 4, 5, equalities=False) for seed in range(6)]
STREAMS = ("constraint", "variable")


class Nodes(nn.Module):
    """Sees its own features alone: enough for shapes and gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.trunks = nn.ModuleDict({stream: nn.Linear(1, DIM) for stream in STREAMS})
        self.projector = MLPProjector(dict.fromkeys(STREAMS, DIM), dim=DIM)

    def forward(self, graph: BipartiteGraph) -> Encoded:
        features = {stream: self.trunks[stream](graph.features(stream)) for stream in STREAMS}
        return Encoded(self.projector(features), features)


def graph() -> BipartiteGraph:
    lp = sparse(LPS, torch.float32)
    parts = lp.b[:, None], lp.edge_index, lp.coefficient[:, None], lp.c[:, None]
    return BipartiteGraph(*parts, lp.constraint_offsets, lp.variable_offsets)


@pytest.mark.parametrize("weight", [0.0, 0.2])
def test_the_loss_is_the_formula_written_out(weight: float):
    encoder, instance = Nodes(), graph()
    objective = later_state(
        dict.fromkeys(STREAMS, DIM), lp_of=SparseLP.inequalities_of, steps=20, restart_every=10,
        regularizer_weight=weight,
    )  # fmt: skip
    views: Any = objective.views
    views.fit([instance])
    found = objective(encoder, instance).total

    solver = SolverState(20, restart_every=10, lp_of=SparseLP.inequalities_of).fit([instance])
    embeddings: Any = encoder(instance).embeddings
    predictions = objective.predictor(embeddings)
    targets: Any = objective.teacher(encoder, solver(instance).target)
    terms: list[Tensor] = []
    for stream in STREAMS:
        z = F.layer_norm(targets[stream], (DIM,))
        distance = (predictions[stream] - z).abs()
        loss = torch.where(distance < 1, distance.square() / 2, distance - 0.5).mean(1)
        terms.append(loss.view(len(LPS), -1).mean(1).mean())  # all LPs here are of one size
    expected = sum(terms) / 2 + weight * VICReg(on_sphere=True)(embeddings, valid={})
    torch.testing.assert_close(found, expected)


def trained(objective: Any, encoder: nn.Module, instance: Any, steps: int = 150) -> list[float]:
    objective.views.fit([instance])
    optimizer = torch.optim.Adam([*encoder.parameters(), *objective.parameters()], lr=1e-2)
    losses: list[float] = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = objective(encoder, instance).total
        loss.backward()
        optimizer.step()
        objective.update(encoder)
        losses.append(loss.item())
    return losses


def test_it_learns_on_graphs_and_vicreg_keeps_the_rank():
    encoder = Nodes()
    before = {name: weights.clone() for name, weights in encoder.named_parameters()}
    objective = later_state(
        dict.fromkeys(STREAMS, DIM), lp_of=SparseLP.inequalities_of, steps=20, restart_every=None,
        regularizer_weight=0.2,
    )  # fmt: skip
    losses = trained(objective, encoder, graph())
    assert losses[-1] < 0.7 * losses[0]
    assert all(not torch.equal(weights, before[name]) for name, weights in encoder.named_parameters())
    embeddings: Any = encoder(graph()).embeddings
    assert all(effective_rank(embeddings[stream]) > 2 for stream in STREAMS)


def test_it_learns_on_flat_vectors():
    lp = dense(LPS, torch.float32, padding=0.0)
    m, n = lp.A.shape[1:]
    vectors = DenseLP.inequalities(lp.A, lp.b, lp.c, lp.mask_m, lp.mask_n).vectors()
    projector = MLPProjector({"instance": vectors.values.size(1)}, dim=DIM)

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.projector = projector

        def forward(self, instance: FlatVectors) -> Any:
            return self.projector({"instance": instance.values})

    objective = later_state(
        {"instance": DIM}, lp_of=lambda each: DenseLP.of_vectors(each, m, n), numbers=2 * (m + n), steps=20
    )
    losses = trained(objective, Flat(), vectors)
    assert losses[-1] < 0.7 * losses[0]


def test_stored_states_are_taken_as_they_are():
    instance = graph()
    solver = SolverState(20, lp_of=SparseLP.inequalities_of)
    stored = solver.states(SparseLP.inequalities_of(instance))
    options: Any = {"lp_of": SparseLP.inequalities_of, "steps": 20, "restart_every": None}
    encoder, losses = Nodes(), []
    stored_with_it: Any = {"states_of": lambda _: stored}
    for more in ({}, stored_with_it):
        torch.manual_seed(0)
        objective = later_state(dict.fromkeys(STREAMS, DIM), **options, **more)
        views: Any = objective.views
        views.fit([instance])
        losses.append(objective(encoder, instance).total)
    assert torch.equal(*losses)


def test_the_seed_decides_the_target_network():
    options: Any = {"lp_of": SparseLP.inequalities_of}
    teachers: list[Any] = [later_state({"variable": 4}, seed=seed, **options).teacher for seed in (0, 0, 1)]
    weights = [next(teacher.parameters()) for teacher in teachers]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="regularizer_weight is -1"):
        later_state({"variable": 4}, lp_of=SparseLP.inequalities_of, regularizer_weight=-1)
