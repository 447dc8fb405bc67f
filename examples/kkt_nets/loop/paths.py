"""The two paths, flat and graph: which network, which batches, and how one is run on the other."""

from argparse import Namespace
from collections.abc import Callable
from typing import Any

import torch
from data import seen
from data.batches import FlatBatch, FlatCollate, GraphBatch, check_flat_fits, collate_graphs
from graph_trunks import GNNTrunk, SolverTrunk
from loop.options import KKT_WEIGHTS
from losses import kkt_loss, pad_predictions
from models import FlatTrunk, GNNPolicy, KKTNetMLP
from torch import Tensor


def build(args: Namespace, m: int, n: int) -> tuple[KKTNetMLP | GNNPolicy, Callable[..., Any]]:
    """The network of the run, and the function that makes its batches, for LPs of at most m rows and n columns.

    Raises ValueError if the MLP's dense input would not fit into memory.
    """
    steps = tuple(args.seen_steps or ())
    if args.use_bipartite_graphs:
        return GNNPolicy(args), seen.SeenStates(collate_graphs, steps)
    check_flat_fits(m, n, args.batch_size, args.hidden_size)
    return KKTNetMLP(m, n, args.hidden_size, seen.numbers(args)), seen.SeenStates(FlatCollate(m, n), steps)


def predict(model: KKTNetMLP | GNNPolicy, batch: FlatBatch | GraphBatch) -> Tensor:
    """x and lam of a batch, `[B, N + M]`, padded as the batch is."""
    if isinstance(batch, FlatBatch):
        return model(batch.model_input)
    graph: Any = batch.batch_graph
    x, lam = model(graph.constraint_features, graph.edge_index, graph.edge_attr, graph.variable_features)
    _, M, N = batch.A.shape
    return pad_predictions(x, lam, batch.m_sizes, batch.n_sizes, M, N)


def trunk_of(model: KKTNetMLP | GNNPolicy) -> FlatTrunk | GNNTrunk | SolverTrunk:
    return model.net if isinstance(model, KKTNetMLP) else model.trunk


def precision(name: str, device: torch.device) -> torch.autocast:
    """Inside it networks compute as `--precision` says. Their weights, and so a teacher's average, stay in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=name == "bf16")


def kkt(
    model: KKTNetMLP | GNNPolicy, batch: FlatBatch | GraphBatch, args: Namespace
) -> tuple[Tensor, dict[str, Tensor]]:
    """The KKT loss of the network on a batch, with the run's weights and precision, and its terms."""
    with precision(args.precision, batch.A.device):
        y_pred = predict(model, batch)
    return _kkt_loss(y_pred.to(batch.A.dtype), *batch[1:6], args)


def kkt_of_each(y_pred: Tensor, batch: FlatBatch | GraphBatch, args: Namespace) -> Tensor:
    """The KKT loss of each instance of a batch by itself, `[B]`, for predictions `[B, N + M]`."""
    instances = zip(*(part.split(1) for part in (y_pred, *batch[1:6])), strict=True)
    return torch.stack([_kkt_loss(*instance, args)[0] for instance in instances])


def _kkt_loss(*inputs: Any) -> tuple[Tensor, dict[str, Tensor]]:
    *tensors, args = inputs
    return kkt_loss(*tensors, **{name: getattr(args, name) for name in KKT_WEIGHTS})
