"""The thin adapter between the KKT networks and `jepa_ssl`."""

from argparse import Namespace
from collections.abc import Iterable
from typing import Any

import torch
from data.batches import FlatBatch, GraphBatch
from loop import recipe
from models import GNNPolicy, KKTNetMLP
from torch import Tensor, nn

import jepa_ssl
from jepa_ssl.integrations.pyg import bipartite_graph
from jepa_ssl.lp import valid_entries


class FlatEncoder(nn.Module):
    """The trunk of `KKTNetMLP` and a projector: one embedding per LP. The heads stay outside."""

    def __init__(self, model: KKTNetMLP) -> None:
        super().__init__()
        self.trunk, self.dims = model.net, {"instance": model.hidden}
        self.projector = jepa_ssl.MLPProjector(self.dims, dim=model.hidden, activation=nn.SELU)

    def encode_trunk(self, flat: Tensor) -> Tensor:
        """Trunk features `[B, hidden]` of flat LPs `[B, m*n + m + n]`."""
        return self.trunk(flat)

    def jepa_embed(self, flat: Tensor) -> Tensor:
        """L2-normalised embeddings `[B, D]`."""
        return self.project(self.encode_trunk(flat)).embeddings["instance"]

    def project(self, features: Tensor) -> jepa_ssl.Encoded:
        """The trunk's features of a batch, and its embeddings."""
        return jepa_ssl.Encoded(self.projector({"instance": features}), {"instance": features})

    def forward(self, instance: jepa_ssl.FlatVectors) -> jepa_ssl.Encoded:
        return self.project(self.encode_trunk(torch.where(instance.valid, instance.values, 0.0)))


class GraphEncoder(nn.Module):
    """The trunk of `GNNPolicy` and a projector per node type: one embedding per node. The heads stay outside."""

    def __init__(self, model: GNNPolicy) -> None:
        super().__init__()
        self.trunk, dim = model.trunk, model.embedding_size
        self.dims = {"constraint": dim, "variable": dim}
        self.projector = jepa_ssl.MLPProjector(self.dims, dim=dim)

    def jepa_embed_nodes(
        self, constraint_features: Tensor, edge_index: Tensor, edge_attr: Tensor, variable_features: Tensor
    ) -> tuple[Tensor, Tensor]:
        """L2-normalised embeddings of constraints `[sum_m, D]` and variables `[sum_n, D]`."""
        features = self.trunk(constraint_features, edge_index, edge_attr, variable_features)
        z = self.project(features).embeddings
        return z["constraint"], z["variable"]

    def project(self, features: tuple[Tensor, Tensor]) -> jepa_ssl.Encoded:
        """The trunk's features of a batch, and its embeddings."""
        of_stream = dict(zip(self.dims, features, strict=True))
        return jepa_ssl.Encoded(self.projector(of_stream), of_stream)

    def forward(self, g: jepa_ssl.BipartiteGraph) -> jepa_ssl.Encoded:
        return self.project(self.trunk(g.constraint_features, g.edge_index, g.edge_attr, g.variable_features))


def jepa_term(
    model: KKTNetMLP | GNNPolicy, args: Namespace, device: torch.device, updates: int = 1, log: Any = None
) -> jepa_ssl.JEPATerm:
    """The JEPA term that the flags ask for.

    `updates` is the number of optimizer steps of the run, for `--ema_schedule`; `log` takes the rows of the collapse
    monitor, `(row, step)`.
    """
    encoder = FlatEncoder(model) if isinstance(model, KKTNetMLP) else GraphEncoder(model)
    return recipe.term(encoder.to(device), model, args, updates, log).to(device)


def prepare(term: jepa_ssl.JEPATerm, batches: Iterable[Any]) -> None:
    """Show the views batches of the training set, for statistics of solver states, before the first step."""
    term.fit(map(instance, batches))


def instance(batch: FlatBatch | GraphBatch) -> jepa_ssl.FlatVectors | jepa_ssl.BipartiteGraph:
    """A batch as `jepa_ssl` reads it."""
    if isinstance(batch, FlatBatch):
        _, m, n = batch.A.shape
        state_numbers = (batch.model_input.size(1) - m * n) // (m + n) - 1
        return jepa_ssl.FlatVectors(batch.model_input, valid_entries(batch.mask_m, batch.mask_n, state_numbers))
    graph = batch.batch_graph
    return graph if isinstance(graph, jepa_ssl.BipartiteGraph) else bipartite_graph(graph)
