"""From flags to the parts of a JEPA objective: views, predictor, teacher, loss, regulariser, monitor."""

from argparse import Namespace
from collections.abc import Callable, Iterable
from typing import Any

from models import GNNPolicy, KKTNetMLP
from torch import nn

import jepa_ssl
from jepa_ssl import lp

LOSSES = {
    "cosine": jepa_ssl.cosine_loss,
    "smooth_l1": jepa_ssl.smooth_l1_loss,
    "squared": jepa_ssl.squared_error,
}
REGULARIZERS = {"none": None, "vicreg": jepa_ssl.VICReg, "sigreg": jepa_ssl.SIGReg}


def objective(
    encoder: Any, model: KKTNetMLP | GNNPolicy, args: Namespace, updates: int, log: Any
) -> jepa_ssl.JEPAObjective[Any]:
    """The objective that the flags ask for, around `encoder`; arguments as in `KKTJepa`."""
    activation = nn.SELU if isinstance(model, KKTNetMLP) else nn.ReLU
    regularizer = REGULARIZERS[args.jepa_regularizer]
    return jepa_ssl.JEPAObjective(
        _views(model, args),
        jepa_ssl.MLPPredictor(encoder.widths, activation=activation),
        _teacher(encoder, model, args, updates),
        LOSSES[args.jepa_loss],
        regularizer=regularizer and regularizer(on_sphere=args.jepa_regularize == "embeddings"),
        regularizer_weight=args.jepa_regularizer_weight,
        regularize=args.jepa_regularize,
        monitor=jepa_ssl.CollapseMonitor(args.monitor_every, log=log) if args.monitor_every else None,
    )


def prepare(views: Any, instances: Iterable[Any]) -> None:
    """What the views have to know of the training set: the statistics of solver states."""
    if isinstance(views, lp.SolverState):
        views.fit(instances)


def _views(model: Any, args: Namespace) -> Any:
    entries, nodes = args.jepa_mask_ratio_entries, args.jepa_mask_ratio_nodes
    match args.jepa_views:
        case "entries":
            return jepa_ssl.EntryMasker(entries)
        case "structure":
            return lp.StructureMasker(model.m, model.n, constraints=entries, variables=entries)
        case "nodes":
            return jepa_ssl.NodeMasker(nodes)
        case "edges":
            return jepa_ssl.EdgeMasker(nodes)
        case "blocks":
            return jepa_ssl.BlockMasker(nodes)
        case _:
            restart_every = args.jepa_solver_restart or None
            return lp.SolverState(args.jepa_solver_steps, restart_every=restart_every, lp_of=lp_of(model))


def lp_of(model: KKTNetMLP | GNNPolicy) -> Callable[[Any], Any]:
    """From a batch to its LPs; in both the bounds of x are rows. States that are shown stand behind the LP."""
    if isinstance(model, KKTNetMLP):
        m, n = model.m, model.n
        width = m * n + m + n
        return lambda vectors: lp.DenseLP.of_vectors(
            jepa_ssl.FlatVectors(vectors.values[:, :width], vectors.valid[:, :width]), m, n
        )
    return lp.SparseLP.inequalities_of


def _teacher(encoder: Any, model: Any, args: Namespace, updates: int) -> Any:
    match args.jepa_mode:
        case "ema":
            return jepa_ssl.EMATeacher(encoder, _momentum(args, updates))
        case "simsiam":
            return jepa_ssl.StopGradTeacher()
        case "shared":
            return jepa_ssl.SharedTeacher()
        case mode:
            numbers = 2 if isinstance(model, GNNPolicy) else 2 * (model.m + model.n)
            sizes = {stream: (numbers, width) for stream, width in encoder.widths.items()}
            return jepa_ssl.TargetNetwork(sizes, learned=mode == "learned", seed=args.seed)


def _momentum(args: Namespace, updates: int) -> Any:
    match args.ema_schedule:
        case "linear":
            return jepa_ssl.LinearMomentum(args.ema_momentum, 1.0, updates)
        case "cosine":
            return jepa_ssl.CosineMomentum(args.ema_momentum, 1.0, updates)
        case _:
            return args.ema_momentum
