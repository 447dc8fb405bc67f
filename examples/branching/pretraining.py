"""Pretraining of the trunk without strong-branching labels: from the nodes, or from the log of branchings."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from jepa_ssl import EMATeacher, JEPAObjective, MLPPredictor, ModelEncoder, NodeMasker, VICReg, Views

from .trunk import WIDTH, WIDTHS, NodeBatch, Trunk

if TYPE_CHECKING:
    from .arms import Study

DIM, BATCH, LR, MOMENTUM = 32, 8, 1e-3, 0.99


class ChildViews:
    """Context: the parent's node LP. Target: the child's. Predicted: the branched column's rows, and their columns."""

    def __call__(self, instance: tuple[NodeBatch, Any], *, generator: Any = None) -> Views[NodeBatch, Any]:
        parent, child = instance
        row, column = parent.graph.edge_index
        branched = torch.zeros(len(parent.graph.variable_features), dtype=torch.bool)
        branched[parent.columns] = True
        rows = torch.zeros(len(parent.graph.constraint_features), dtype=torch.bool)
        rows[row[branched[column]]] = True
        near = branched.clone()
        near[column[rows[row]]] = True
        return Views(parent, NodeBatch(child, parent.columns), {"constraint": rows, "variable": near})


def action(views: Views[NodeBatch, Any]) -> dict[str, Tensor]:
    """The predictor's condition for each item: its graph's branched column, and 1 if the branching was upwards."""
    batch = views.context
    assert batch.up is not None
    told = torch.stack((batch.columns, batch.up), 1)
    return {stream: told[batch.graph.graph_of(stream)] for stream in WIDTHS}


class ActionPredictor(nn.Module):
    """Predicts an item's embedding in the child from the parent's, the branched column's, and the direction."""

    def __init__(self) -> None:
        super().__init__()
        self.streams = nn.ModuleDict(
            {s: nn.Sequential(nn.Linear(2 * DIM + 2, 2 * DIM), nn.ReLU(), nn.Linear(2 * DIM, DIM)) for s in WIDTHS}
        )

    def forward(self, embeddings: Any, condition: Any) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for stream, mlp in self.streams.items():
            z, (column, up) = embeddings[stream], condition[stream].unbind(1)
            direction = nn.functional.one_hot(up, 2).to(z)
            found[stream] = z + mlp(torch.cat((z, embeddings["variable"][column], direction), 1))
        return found


def masked(study: "Study", trunk: Trunk, seed: int) -> Trunk:
    """Predict the embeddings of hidden rows and columns of a node LP."""
    encoder = ModelEncoder(trunk, WIDTHS, DIM)
    teacher, predictor = EMATeacher(encoder, momentum=MOMENTUM), MLPPredictor(encoder.dims)
    jepa = JEPAObjective(NodeMasker(0.3), predictor, teacher, regularizer=VICReg(), regularizer_weight=0.2)
    batches = (study.log.graph(some.tolist()) for some in _drawn(len(study.log.place), study.scale.steps, seed))
    return _train(encoder, jepa, batches, trunk)


def child(study: "Study", trunk: Trunk, seed: int) -> Trunk:
    """Predict the embedding of the child's node LP from the parent's, the variable and the direction."""
    encoder = ModelEncoder(trunk, WIDTHS, DIM, run=lambda model, batch: model(batch.graph))
    teacher = EMATeacher(encoder, momentum=MOMENTUM)
    jepa = JEPAObjective(
        ChildViews(), ActionPredictor(), teacher, condition=action, regularizer=VICReg(), regularizer_weight=0.2
    )
    listed, _ = study.log.branchings
    picked = (listed[some] for some in _drawn(len(listed), study.scale.steps, seed))
    return _train(
        encoder, jepa, ((study.log.branched(some), study.log.graph(some[:, 1].tolist())) for some in picked), trunk
    )


def gains(study: "Study", trunk: Trunk, seed: int) -> Trunk:
    """Predict the logged gain of a branching, by supervision."""
    listed, known = study.log.branchings
    known, head = (known - known.mean()) / known.std(), nn.Linear(WIDTH, 2)
    optimizer = torch.optim.Adam([*trunk.parameters(), *head.parameters()], lr=LR)
    for some in _drawn(len(listed), study.scale.steps, seed):
        batch = study.log.branched(listed[some])
        assert batch.up is not None
        found = head(trunk(batch.graph)["variable"][batch.columns]).gather(1, batch.up.unsqueeze(1)).squeeze(1)
        optimizer.zero_grad()
        (found - known[some]).square().mean().backward()
        optimizer.step()
    return trunk


PRETRAINED: dict[str, Callable[["Study", Trunk, int], Trunk]] = {
    "masked EMA": masked,
    "action-conditioned JEPA": child,
    "logged gains": gains,
}


def _drawn(count: int, steps: int, seed: int) -> Iterator[Any]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        yield torch.randint(count, (BATCH,), generator=generator).numpy()


def _train(encoder: ModelEncoder, jepa: JEPAObjective[Any], batches: Iterator[Any], trunk: Trunk) -> Trunk:
    optimizer = torch.optim.Adam([*encoder.parameters(), *jepa.parameters()], lr=LR)
    for batch in batches:
        loss = jepa(encoder, batch).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        jepa.update(encoder)
    return trunk
