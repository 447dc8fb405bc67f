"""From flags to the parts of a JEPA objective: views, predictor, teacher, loss, regulariser, monitor."""

from argparse import Namespace
from collections.abc import Callable, Iterable
from typing import Any

from models import GNNPolicy, KKTNetMLP
from options import READERS
from torch import nn

import jepa_ssl
from jepa_ssl import lp
from jepa_ssl.integrations.flags import from_args


def term(encoder: Any, model: KKTNetMLP | GNNPolicy, args: Namespace, updates: int, log: Any) -> jepa_ssl.JEPATerm:
    """The JEPA term that the flags ask for, around `encoder`; arguments as in `KKTJepa`."""
    return from_args(
        args,
        encoder,
        trunk=encoder.trunk,
        views=_views(model, args),
        teacher=_reader(encoder, model, args) if args.jepa_mode in READERS else None,
        updates=updates,
        activation=nn.SELU if isinstance(model, KKTNetMLP) else nn.ReLU,
        log=log,
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


def _reader(encoder: Any, model: Any, args: Namespace) -> jepa_ssl.TargetNetwork:
    """The teacher that reads solver states: two numbers of a node, or of each row and column of a flat LP."""
    numbers = 2 if isinstance(model, GNNPolicy) else 2 * (model.m + model.n)
    sizes = {stream: (numbers, dim) for stream, dim in encoder.dims.items()}
    return jepa_ssl.TargetNetwork(sizes, learned=args.jepa_mode == "learned", seed=args.seed)
