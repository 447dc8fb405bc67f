"""What a frozen trunk knows of the optimum: ridge regression on its features, from a few labelled LPs."""

from collections.abc import Sequence
from typing import Any

import torch
from data.batches import GraphBatch
from models import GNNPolicy
from torch import Tensor

from jepa_ssl import BipartiteGraph
from jepa_ssl.diagnostics import effective_rank, spread
from jepa_ssl.integrations.pyg import bipartite_graph
from jepa_ssl.lp import StateFeatures

from .lps import Labels

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
FOLDS = 5
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
    """Predictions `[queries]` of a ridge regression on standardised features `[items, D]`; the mean is not penalised.

    The penalty is the one of `PENALTIES` that does best on LPs left out, in five folds of whole LPs.
    """
    mean, deviation = features.mean(0), features.std(0) + 1e-6

    def standardised(z: Tensor) -> Tensor:
        return ((z - mean) / deviation).double()

    z, middle = standardised(features), values.double().mean()
    y = values.double() - middle
    fold = owner % FOLDS
    grams = [(z[fold == k].T @ z[fold == k], z[fold == k].T @ y[fold == k]) for k in range(FOLDS)]
    gram, moment = (torch.stack(parts).sum(0) for parts in zip(*grams, strict=True))

    def weights(gram: Tensor, moment: Tensor, penalty: float, items: int) -> Tensor:
        return torch.linalg.solve(gram + penalty * items * torch.eye(len(gram), dtype=gram.dtype), moment)

    def error(penalty: float) -> float:
        total = 0.0
        for k in range(FOLDS):
            kept = weights(gram - grams[k][0], moment - grams[k][1], penalty, int((fold != k).sum()))
            total += (z[fold == k] @ kept - y[fold == k]).square().sum().item()
        return total

    best = min(PENALTIES, key=error)
    return (standardised(queries) @ weights(gram, moment, best, len(z)) + middle).float()


def r2(predictions: Tensor, values: Tensor) -> float:
    """The share of the variance over all variables of the LPs that is explained.

    >>> r2(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]))
    1.0
    """
    return 1.0 - ((predictions - values).square().mean() / values.var(correction=0)).item()


def auc(scores: Tensor, labels: Tensor) -> float:
    """The probability that an item labelled 1 scores above one labelled 0, ties half; NaN without both.

    >>> auc(torch.tensor([0.1, 0.9, 0.5, 0.5]), torch.tensor([0.0, 1.0, 0.0, 1.0]))
    0.875
    """
    _, place, count = torch.unique(scores, return_inverse=True, return_counts=True)
    rank = (count.cumsum(0) - (count - 1) / 2)[place].double()  # the mean rank of those that tie
    positive = labels > 0.5
    p, n = int(positive.sum()), int((~positive).sum())
    return (rank[positive].sum().item() - p * (p + 1) / 2) / (p * n) if p and n else float("nan")


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
