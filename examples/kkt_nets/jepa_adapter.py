"""The thin adapter between the KKT networks and `jepa_ssl`."""

from argparse import Namespace
from collections.abc import Iterable, Mapping
from typing import Any

import recipe
import torch
from dataset import FlatBatch, GraphBatch
from models import GNNPolicy, KKTNetMLP
from torch import Tensor, nn

import jepa_ssl
from jepa_ssl.diagnostics import gradient_share
from jepa_ssl.integrations.pyg import bipartite_graph
from jepa_ssl.lp import valid_entries
from jepa_ssl.protocols import JEPALoss


class FlatEncoder(nn.Module):
    """The trunk of `KKTNetMLP` and a projector: one embedding an LP. The heads stay outside."""

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
        """What the trunk made of a batch, and its embeddings."""
        return jepa_ssl.Encoded(self.projector({"instance": features}), {"instance": features})

    def forward(self, instance: jepa_ssl.FlatVectors) -> jepa_ssl.Encoded:
        return self.project(self.encode_trunk(torch.where(instance.valid, instance.values, 0.0)))


class GraphEncoder(nn.Module):
    """The trunk of `GNNPolicy` and a projector a node type: one embedding a node. The heads stay outside."""

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
        """What the trunk made of a batch, and its embeddings."""
        of_stream = dict(zip(self.dims, features, strict=True))
        return jepa_ssl.Encoded(self.projector(of_stream), of_stream)

    def forward(self, g: jepa_ssl.BipartiteGraph) -> jepa_ssl.Encoded:
        return self.project(self.trunk(g.constraint_features, g.edge_index, g.edge_attr, g.variable_features))


class KKTJepa(jepa_ssl.JEPATerm):
    """The JEPA term of one run: its encoder and its objective.

    Args:
        model: a `KKTNetMLP` or a `GNNPolicy`.
        updates: how many optimizer steps the run will take, for `--ema_schedule`.
        log: takes the rows of the collapse monitor, `(row, step)`.
    """

    objective: Any  # whose parts the flags decide

    def __init__(self, model: Any, args: Namespace, device: torch.device, updates: int = 1, log: Any = None) -> None:
        encoder: Any = FlatEncoder if isinstance(model, KKTNetMLP) else GraphEncoder
        term = recipe.term(encoder(model).to(device), model, args, updates, log)
        super().__init__(term.encoder, term.objective.to(device), term.schedule, term.balance)
        # Whose target is what the trunk makes of the whole instance, as the KKT loss needs it too.
        self.shares_trunk = args.jepa_mode in ("simsiam", "shared")

    def prepare(self, batches: Iterable[Any]) -> None:
        """On some batches of the training set, before the first step."""
        recipe.prepare(self.objective.views, map(instance, batches))

    def jepa_loss(self, batch: Any, trunk: Any = None, generator: Any = None, seeds: Any = None) -> JEPALoss:
        """On a batch as the KKT loss takes it; `trunk` is what the trunk made of it there, to save a second pass."""
        whole = self.encoder.project(trunk) if trunk is not None and self.shares_trunk else None
        return self.objective(self.encoder, instance(batch), whole=whole, generator=generator, seeds=seeds)

    def watch(self, losses: Mapping[str, Tensor]) -> None:
        """Shows the monitor how long the gradients of the two losses on the trunk are, before they are freed."""
        monitor = self.objective.monitor
        if isinstance(monitor, jepa_ssl.CollapseMonitor) and len(losses) == 2:
            monitor.observe_gradients(gradient_share(losses, list(self.encoder.trunk.parameters())))


def instance(batch: FlatBatch | GraphBatch) -> jepa_ssl.FlatVectors | jepa_ssl.BipartiteGraph:
    """A batch as `jepa_ssl` reads it."""
    if isinstance(batch, FlatBatch):
        _, m, n = batch.A.shape
        state_numbers = (batch.model_input.size(1) - m * n) // (m + n) - 1
        return jepa_ssl.FlatVectors(batch.model_input, valid_entries(batch.mask_m, batch.mask_n, state_numbers))
    graph = batch.batch_graph
    return graph if isinstance(graph, jepa_ssl.BipartiteGraph) else bipartite_graph(graph)
