"""The thin adapter between the KKT networks and `jepa_ssl`."""

from argparse import Namespace
from typing import Any

import torch
from dataset import FlatBatch, GraphBatch
from models import GNNPolicy, KKTNetMLP
from resumable import Resumable
from torch import Tensor, nn

import jepa_ssl
from jepa_ssl.integrations.pyg import bipartite_graph
from jepa_ssl.lp import valid_entries


class FlatEncoder(nn.Module):
    """The trunk of `KKTNetMLP` and a projector: one embedding an LP. The heads stay outside."""

    def __init__(self, model: KKTNetMLP) -> None:
        super().__init__()
        self.trunk = model.net
        self.projector = jepa_ssl.MLPProjector({"instance": model.hidden}, dim=model.hidden, activation=nn.SELU)

    def encode_trunk(self, flat: Tensor) -> Tensor:
        """Trunk features `[B, hidden]` of flat LPs `[B, m*n + m + n]`."""
        return self.trunk(flat)

    def jepa_embed(self, flat: Tensor) -> Tensor:
        """L2-normalised embeddings `[B, D]`."""
        return self.projector({"instance": self.encode_trunk(flat)})["instance"]

    def forward(self, instance: jepa_ssl.FlatVectors) -> dict[str, Tensor]:
        return {"instance": self.jepa_embed(instance.values)}


class GraphEncoder(nn.Module):
    """The trunk of `GNNPolicy` and a projector a node type: one embedding a node. The heads stay outside."""

    def __init__(self, model: GNNPolicy) -> None:
        super().__init__()
        self.trunk, dim = model.trunk, model.embedding_size
        self.projector = jepa_ssl.MLPProjector({"constraint": dim, "variable": dim}, dim=dim)

    def jepa_embed_nodes(
        self, constraint_features: Tensor, edge_index: Tensor, edge_attr: Tensor, variable_features: Tensor
    ) -> tuple[Tensor, Tensor]:
        """L2-normalised embeddings of constraints `[sum_m, D]` and variables `[sum_n, D]`."""
        c, v = self.trunk(constraint_features, edge_index, edge_attr, variable_features)
        z = self.projector({"constraint": c, "variable": v})
        return z["constraint"], z["variable"]

    def forward(self, graph: jepa_ssl.BipartiteGraph) -> dict[str, Tensor]:
        c, v = self.jepa_embed_nodes(
            graph.constraint_features, graph.edge_index, graph.edge_attr, graph.variable_features
        )
        return {"constraint": c, "variable": v}


class KKTJepa(Resumable):
    """The JEPA term of one run: its encoder, its objective, and the generator that decides what is hidden."""

    def __init__(self, model: KKTNetMLP | GNNPolicy, args: Namespace, device: torch.device) -> None:
        views: Any
        if isinstance(model, KKTNetMLP):
            self.encoder, views = FlatEncoder(model).to(device), jepa_ssl.EntryMasker(args.jepa_mask_ratio_entries)
            self.predictor = jepa_ssl.MLPPredictor({"instance": model.hidden}, activation=nn.SELU)
        else:
            self.encoder, views = GraphEncoder(model).to(device), jepa_ssl.NodeMasker(args.jepa_mask_ratio_nodes)
            self.predictor = jepa_ssl.MLPPredictor(dict.fromkeys(("constraint", "variable"), model.embedding_size))
        is_ema = args.jepa_mode == "ema"
        teacher = jepa_ssl.EMATeacher(self.encoder, args.ema_momentum) if is_ema else jepa_ssl.StopGradTeacher()
        self.objective = jepa_ssl.JEPAObjective(views, self.predictor, teacher).to(device)
        self.generator = torch.Generator(device).manual_seed(args.seed)

    def loss(self, batch: FlatBatch | GraphBatch) -> jepa_ssl.JEPALoss:
        """On a batch as the KKT loss takes it."""
        if isinstance(batch, FlatBatch):
            instance = jepa_ssl.FlatVectors(batch.model_input, valid_entries(batch.mask_m, batch.mask_n))
        else:
            instance = bipartite_graph(batch.batch_graph)
        return self.objective(self.encoder, instance, generator=self.generator)

    def update(self) -> None:
        """Once after each optimizer step."""
        self.objective.update(self.encoder)
