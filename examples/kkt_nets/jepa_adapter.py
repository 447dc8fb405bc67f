"""The thin adapter between the KKT networks and `jepa_ssl`: all that this repository had to add."""

from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import torch
from dataset import FlatBatch, GraphBatch
from models import GNNPolicy, KKTNetMLP
from torch import Tensor, nn

from jepa_ssl import (
    BipartiteGraph,
    EMATeacher,
    EntryMasker,
    FlatVectors,
    JEPALoss,
    JEPAObjective,
    MLPPredictor,
    MLPProjector,
    NodeMasker,
    StopGradTeacher,
)
from jepa_ssl.integrations.pyg import bipartite_graph
from jepa_ssl.lp import valid_entries


class FlatEncoder(nn.Module):
    """The trunk of `KKTNetMLP` and a projector: one embedding an LP. The heads stay outside."""

    def __init__(self, model: KKTNetMLP) -> None:
        super().__init__()
        self.trunk = model.net
        self.projector = MLPProjector({"instance": model.hidden}, dim=model.hidden, activation=nn.SELU)

    def encode_trunk(self, flat: Tensor) -> Tensor:
        """Trunk features `[B, hidden]` of flat LPs `[B, m*n + m + n]`."""
        return self.trunk(flat)

    def jepa_embed(self, flat: Tensor) -> Tensor:
        """L2-normalised embeddings `[B, D]`."""
        return self.projector({"instance": self.encode_trunk(flat)})["instance"]

    def forward(self, instance: FlatVectors) -> dict[str, Tensor]:
        return {"instance": self.jepa_embed(instance.values)}


class GraphEncoder(nn.Module):
    """The trunk of `GNNPolicy` and a projector a node type: one embedding a node. The heads stay outside."""

    def __init__(self, model: GNNPolicy) -> None:
        super().__init__()
        dim = model.embedding_size
        self.trunk = model.trunk
        self.projector = MLPProjector({"constraint": dim, "variable": dim}, dim=dim)

    def jepa_embed_nodes(
        self, constraint_features: Tensor, edge_index: Tensor, edge_attr: Tensor, variable_features: Tensor
    ) -> tuple[Tensor, Tensor]:
        """L2-normalised embeddings of constraints `[sum_m, D]` and variables `[sum_n, D]`."""
        c, v = self.trunk(constraint_features, edge_index, edge_attr, variable_features)
        z = self.projector({"constraint": c, "variable": v})
        return z["constraint"], z["variable"]

    def forward(self, instance: BipartiteGraph) -> dict[str, Tensor]:
        graph = (instance.constraint_features, instance.edge_index, instance.edge_attr, instance.variable_features)
        return dict(zip(("constraint", "variable"), self.jepa_embed_nodes(*graph), strict=True))


class KKTJepa:
    """The JEPA term of one run: its encoder, its objective, and the generator that decides what is hidden."""

    def __init__(self, model: KKTNetMLP | GNNPolicy, args: Namespace, device: torch.device) -> None:
        views: Any
        if isinstance(model, KKTNetMLP):
            self.encoder, views = FlatEncoder(model), EntryMasker(args.jepa_mask_ratio_entries)
            self.predictor = MLPPredictor({"instance": model.hidden}, activation=nn.SELU)
        else:
            self.encoder, views = GraphEncoder(model), NodeMasker(args.jepa_mask_ratio_nodes)
            self.predictor = MLPPredictor(dict.fromkeys(("constraint", "variable"), model.embedding_size))
        self.encoder.to(device)
        teacher = EMATeacher(self.encoder, args.ema_momentum) if args.jepa_mode == "ema" else StopGradTeacher()
        self.objective = JEPAObjective(views, self.predictor, teacher).to(device)
        self.generator = torch.Generator(device).manual_seed(args.seed)

    def parameters(self) -> Iterator[nn.Parameter]:
        """What the optimizer trains beside the model: projector and predictor."""
        yield from self.encoder.projector.parameters()
        yield from self.predictor.parameters()

    def loss(self, batch: FlatBatch | GraphBatch) -> JEPALoss:
        if isinstance(batch, FlatBatch):
            instance = FlatVectors(batch.model_input, valid_entries(batch.mask_m, batch.mask_n))
        else:
            instance = bipartite_graph(batch.batch_graph)
        return self.objective(self.encoder, instance, generator=self.generator)

    def update(self) -> None:
        """Once after each optimizer step."""
        self.objective.update(self.encoder)

    def state_dict(self) -> dict[str, Any]:
        """The block `jepa` of a checkpoint. A run without teacher copy has no `target_model`."""
        state = {"projector": self.encoder.projector.state_dict(), "predictor": self.predictor.state_dict()}
        if isinstance(teacher := self.objective.teacher, EMATeacher):
            state |= {"target_model": teacher.target_model.state_dict(), "updates": teacher.updates}
        return state | {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Resumes; the model must have been loaded before. False if the teacher had to start from its weights."""
        self.encoder.projector.load_state_dict(state["projector"])
        self.predictor.load_state_dict(state["predictor"])
        self.generator.set_state(state["generator"])
        if not isinstance(teacher := self.objective.teacher, EMATeacher):
            return True
        found = "target_model" in state
        teacher.target_model.load_state_dict(state["target_model"] if found else self.encoder.state_dict())
        teacher.updates.fill_(state.get("updates", 0))
        return found
