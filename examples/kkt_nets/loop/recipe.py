"""From flags to the parts of a JEPA objective: views, predictor, teacher, loss, regulariser, monitor."""

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from loop.options import READERS
from models import GNNPolicy, KKTNetMLP
from torch import nn

import jepa_ssl
from jepa_ssl import lp
from jepa_ssl.integrations.flags import from_args
from jepa_ssl.maskers import BlockMasker, EdgeMasker, EntryMasker, NodeMasker
from jepa_ssl.teachers import TargetNetwork


def term(encoder: Any, model: KKTNetMLP | GNNPolicy, args: Namespace, updates: int, log: Any) -> jepa_ssl.JEPATerm:
    """The JEPA term that the flags ask for, around `encoder`; arguments as in `jepa_term`."""
    teacher = _reader(encoder, model, args) if args.jepa_mode in READERS else None
    activation = nn.SELU if isinstance(model, KKTNetMLP) else nn.ReLU
    parts: Any = {"trunk": encoder.trunk, "views": _views(model, args), "teacher": teacher, "activation": activation}
    return cast(jepa_ssl.JEPATerm, from_args(args, encoder, updates=updates, log=log, **parts))


def _views(model: Any, args: Namespace) -> Any:
    entries, nodes = args.jepa_mask_ratio_entries, args.jepa_mask_ratio_nodes
    match args.jepa_views:
        case "entries":
            return EntryMasker(entries)
        case "structure":
            return lp.StructureMasker(model.m, model.n, constraints=entries, variables=entries)
        case "solver_state":
            restart_every = args.jepa_solver_restart or None
            return lp.SolverState(args.jepa_solver_steps, restart_every=restart_every, lp_of=lp_of(model))
        case of_graphs:
            return {"nodes": NodeMasker, "edges": EdgeMasker, "blocks": BlockMasker}[of_graphs](nodes)


def lp_of(model: KKTNetMLP | GNNPolicy) -> Callable[[Any], Any]:
    """From a batch to its LPs; in both the bounds of x are rows. States that are shown come after the LP."""
    if isinstance(model, GNNPolicy):
        return lp.SparseLP.inequalities_of
    return partial(lp.DenseLP.of_vectors, m=model.m, n=model.n, numbers=model.state_numbers)


def _reader(encoder: Any, model: Any, args: Namespace) -> Any:
    """The teacher that reads solver states: two numbers per node, or per row and column of a flat LP."""
    numbers = 2 if isinstance(model, GNNPolicy) else 2 * (model.m + model.n)
    sizes = {stream: (numbers, dim) for stream, dim in encoder.dims.items()}
    return TargetNetwork(sizes, learned=args.jepa_mode == "learned", seed=args.seed)
