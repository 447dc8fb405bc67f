"""What a frozen trunk knows of the optimum: ridge regression on its features, from a few labelled LPs."""

from collections.abc import Sequence
from typing import Any

import torch
from data.batches import GraphBatch
from models import GNNPolicy
from torch import Tensor

from jepa_ssl import BipartiteGraph
from jepa_ssl.diagnostics import effective_rank, spread
from jepa_ssl.evaluation import probe
from jepa_ssl.evaluation.metrics import auc, r2
from jepa_ssl.integrations.pyg import bipartite_graph
from jepa_ssl.lp import StateFeatures

from .lps import Labels

RANKED_ITEMS = 2000  # of a stream, at most, so that LPs of all sizes are ranked on as many


@torch.no_grad()
def features(policy: GNNPolicy, batches: Sequence[GraphBatch]) -> tuple[Tensor, Tensor]:
    """What the heads read of each constraint `[M, D]` and of each variable `[N, D]`."""
    policy.eval()
    found: list[tuple[Tensor, Tensor]] = []
    for batch in batches:
        g: Any = batch.batch_graph
        found.append(policy.encode(g.constraint_features, g.edge_index, g.edge_attr, g.variable_features))
    c, v = zip(*found, strict=True)
    return torch.cat(c), torch.cat(v)


def states(batches: Sequence[GraphBatch], show: StateFeatures[BipartiteGraph]) -> tuple[Tensor, Tensor]:
    """A solver's states as features: what is known without any network."""
    graphs = [show(bipartite_graph(batch.batch_graph)) for batch in batches]
    return (
        torch.cat([graph.constraint_features[:, -show.numbers :] for graph in graphs]),
        torch.cat([graph.variable_features[:, -show.numbers :] for graph in graphs]),
    )


def ridge(features: Tensor, values: Tensor, owner: Tensor, queries: Tensor) -> Tensor:
    """Predictions `[queries]` of `jepa_ssl.evaluation.probe`: ridge regression, its penalty chosen on LPs left out."""
    return probe(features, values, owner)(queries).float()


def scores(
    known: tuple[Tensor, Tensor], labels: Labels, tested: tuple[Tensor, Tensor], truth: Labels
) -> dict[str, Any]:
    """R2 of x, AUC of active rows and of variables between their bounds, by a probe of what is `known`."""
    (c, v), (test_c, test_v) = known, tested
    return {
        "r2": r2(ridge(v, labels.x, labels.column_owner, test_v), truth.x),
        "auc": auc(ridge(c, labels.active, labels.row_owner, test_c), truth.active),
        "between": auc(ridge(v, labels.between, labels.column_owner, test_v), truth.between),
    }


def geometry(c: Tensor, v: Tensor) -> dict[str, float]:
    """Effective rank and spread of the two streams."""
    found: dict[str, float] = {}
    for stream, z in (("constraint", c), ("variable", v)):
        some = z[:: max(1, len(z) // RANKED_ITEMS)][:RANKED_ITEMS]
        found[f"rank/{stream}"] = effective_rank(some).item()
        found[f"spread/{stream}"] = spread(torch.nn.functional.normalize(some, dim=-1)).item()
    return found
