"""The two paths, flat and graph: which network, which batches, and how one is run on the other."""

from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import seen
import torch
from dataset import FlatBatch, FlatCollate, GraphBatch, LPDataset, check_flat_fits, collate_graphs
from devices import precision
from losses import kkt_loss, pad_predictions
from models import FlatTrunk, GNNPolicy, GNNTrunk, KKTNetMLP
from seen import SeenStates
from torch import Tensor

KKT_WEIGHTS = ("primal_weight", "dual_weight", "stationarity_weight", "complementary_slackness_weight")


def build(args: Namespace, m: int, n: int) -> tuple[KKTNetMLP | GNNPolicy, Callable[..., Any]]:
    """The network of the run, and the function that makes its batches, for LPs of at most m rows and n columns.

    Raises:
        ValueError: the MLP's dense input would not fit into memory.
    """
    steps = tuple(args.seen_steps or ())
    if args.use_bipartite_graphs:
        return GNNPolicy(args), SeenStates(collate_graphs, steps)
    check_flat_fits(m, n, args.batch_size, args.hidden_size)
    return KKTNetMLP(m, n, args.hidden_size, seen.numbers(args)), SeenStates(FlatCollate(m, n), steps)


def restore(state: dict[str, Any], path: str | Path) -> tuple[KKTNetMLP | GNNPolicy, Callable[..., Any]]:
    """As `build`, with the weights of the checkpoint `state` that was read from `path`.

    Raises:
        ValueError: it holds no such network, or the MLP's dense input would not fit into memory.
    """
    args, weights = Namespace(**state["args"]), state["model"]
    try:
        # The MLP's sizes are those of its heads; a GNN has none.
        sizes = (0, 0) if args.use_bipartite_graphs else (len(weights["head_lam.0.bias"]), len(weights["head_x.bias"]))
        model, collate = build(args, *sizes)
        model.load_state_dict(weights)
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())  # torch's message has many lines
        raise ValueError(f"{path} holds no network of its options: {reason} Use another checkpoint.") from error
    return model, collate


def largest(*datasets: LPDataset) -> tuple[int, int]:
    """The largest rows and columns of some data sets, so that one MLP takes them all."""
    return max(d.max_rows for d in datasets), max(d.max_columns for d in datasets)


def predict(model: KKTNetMLP | GNNPolicy, batch: FlatBatch | GraphBatch) -> Tensor:
    """x and lam of a batch, `[B, N + M]`, padded as the batch is."""
    if isinstance(batch, FlatBatch):
        return model(batch.model_input)
    graph: Any = batch.batch_graph
    x, lam = model(graph.constraint_features, graph.edge_index, graph.edge_attr, graph.variable_features)
    _, M, N = batch.A.shape
    return pad_predictions(x, lam, batch.m_sizes, batch.n_sizes, M, N)


def trunk_of(model: KKTNetMLP | GNNPolicy) -> FlatTrunk | GNNTrunk:
    return model.net if isinstance(model, KKTNetMLP) else model.trunk


@contextmanager
def trunk_output(model: KKTNetMLP | GNNPolicy) -> Iterator[list[Any]]:
    """What the trunk returns in the forward passes inside the block, one after the other."""
    outputs: list[Any] = []
    handle = trunk_of(model).register_forward_hook(lambda _, __, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


def kkt(
    model: KKTNetMLP | GNNPolicy, batch: FlatBatch | GraphBatch, args: Namespace
) -> tuple[Tensor, dict[str, Tensor]]:
    """The KKT loss of the network on a batch, with the run's weights and precision, and its terms."""
    with precision(args.precision, batch.A.device):
        y_pred = predict(model, batch)
    return kkt_loss(y_pred.to(batch.A.dtype), batch.A, batch.b, batch.c, batch.mask_m, batch.mask_n, **_weights(args))


def kkt_of_each(y_pred: Tensor, batch: FlatBatch | GraphBatch, args: Namespace) -> Tensor:
    """The KKT loss of each instance of a batch by itself, `[B]`, for predictions `[B, N + M]`."""
    parts: Any = (y_pred, batch.A, batch.b, batch.c, batch.mask_m, batch.mask_n)
    instances = zip(*(part.split(1) for part in parts), strict=True)
    return torch.stack([kkt_loss(*instance, **_weights(args))[0] for instance in instances])


def _weights(args: Namespace) -> dict[str, float]:
    return {name: getattr(args, name) for name in KKT_WEIGHTS}
