"""The command-line flags of a JEPA term, and the check of their values."""

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jepa_ssl.losses import cosine_loss, smooth_l1_loss, squared_error
from jepa_ssl.regularizers import SIGReg, VICReg
from jepa_ssl.schedules import CosineSchedule, LinearSchedule

MODES: Mapping[str, str] = {
    "ema": "a slow copy of the encoder",
    "simsiam": "the encoder, without gradient",
    "shared": "the encoder, with gradient",
}
"""The choices of `--jepa_mode`."""
VIEWS: Mapping[str, str] = {
    "masks": "hidden entries or nodes",
    "solver_state": "the recipe jepa_ssl.later_state: the state after 300 PDHG steps",
}
"""The choices of `--jepa_views`."""
LOSSES = {"cosine": cosine_loss, "smooth_l1": smooth_l1_loss, "squared": squared_error}
REGULARIZERS = {"none": None, "vicreg": VICReg, "sigreg": SIGReg}
SCHEDULES = {"constant": None, "linear": LinearSchedule, "cosine": CosineSchedule}
BESIDE_THE_MODE = ("jepa_loss", "jepa_regularizer", "jepa_regularize", "ema_schedule", "jepa_balance", "jepa_every")


def add_jepa_arguments(
    parser: Any, *, beyond: Any = None, modes: Mapping[str, str] = MODES, views: Mapping[str, str] = VIEWS
) -> None:
    """Add the flags of a JEPA term to a parser of argparse or configargparse, or to one of its groups.

    Args:
        parser: gets `--use_jepa` and the flags of the teacher, the weights, the ratios and the momentum.
        beyond: gets the flags beyond the plain recipe: views, loss, regulariser, balance, schedule and monitor;
            `parser` by default.
        modes: the choices of `--jepa_mode`, name -> description of the teacher; the first is the default. Give your own
            teachers to `from_args`.
        views: the choices of `--jepa_views`, name -> description; the first is the default. Give your own views to
            `from_args`.

    >>> from argparse import ArgumentParser
    >>> parser = ArgumentParser()
    >>> add_jepa_arguments(parser)
    >>> args = parser.parse_args(["--use_jepa", "--jepa_mode", "simsiam"])
    >>> args.jepa_mode, args.jepa_weight, args.ema_momentum
    ('simsiam', 0.2, 0.996)
    """
    add = parser.add_argument
    add("--use_jepa", action="store_true", help="add the JEPA term")
    add("--jepa_mode", choices=modes, default=next(iter(modes)), help=f"choose the teacher: {_said(modes)}")
    add(
        "--jepa_weight",
        type=float,
        default=0.2,
        help="multiply the JEPA loss by this weight: loss = task loss + jepa_weight * JEPA loss",
    )
    add("--jepa_pretrain_epochs", type=int, default=0, help="train on JEPA alone for this many epochs first")
    add("--jepa_mask_ratio_entries", type=float, default=0.5, help="mask this fraction of the entries of a vector")
    add("--jepa_mask_ratio_nodes", type=float, default=0.3, help="mask this fraction of the nodes of a graph")
    add("--ema_momentum", type=float, default=0.996, help="set the teacher's momentum (mode ema)")
    add = parser.add_argument if beyond is None else beyond.add_argument
    add("--jepa_views", choices=views, default=next(iter(views)), help=f"choose what to predict: {_said(views)}")
    add("--jepa_loss", choices=LOSSES, default="cosine", help="compare prediction and target with this loss")
    add("--jepa_regularizer", choices=REGULARIZERS, default="none", help="add this penalty against collapse")
    places = ("features", "embeddings")
    add(
        "--jepa_regularize",
        choices=places,
        default="features",
        help="apply the regulariser to the trunk's features or to the embeddings",
    )
    add(
        "--jepa_regularizer_weight",
        type=float,
        default=0.3,
        help="multiply the regulariser by this weight; the prediction loss has weight 1",
    )
    balance = "keep the norm of JEPA's gradient on the trunk at --jepa_weight times the task's"
    add("--jepa_balance", action="store_true", help=balance)
    due = "compute the JEPA loss only at every Nth optimizer step that trains the task"
    add("--jepa_every", type=int, default=1, metavar="N", help=due)
    add("--ema_schedule", choices=SCHEDULES, default="constant", help="raise --ema_momentum to 1 by this schedule")
    add("--monitor_every", type=int, default=10, metavar="N", help="check for collapse every N steps (0: off)")


def check_jepa_arguments(args: Namespace) -> None:
    """Raise a ValueError if a flag of `add_jepa_arguments` is out of range or contradicts another.

    The message names the flag, its value, and what to do. `from_args` calls this function. Call it yourself after
    parsing the flags, to fail before any data is read. Raises a TypeError if `args` does not have these flags.
    """
    if not hasattr(args, "use_jepa"):
        raise TypeError(
            f"args is a {type(args).__name__} without use_jepa, but must have the flags of add_jepa_arguments; call "
            f"add_jepa_arguments(parser) before parser.parse_args(), and give Namespace(**config) for a dict."
        )
    for name in ("jepa_mask_ratio_entries", "jepa_mask_ratio_nodes"):
        require(args, name, "strictly between 0 and 1", lambda value: 0 < value < 1)
    require(args, "ema_momentum", "in [0, 1]", lambda value: 0 <= value <= 1)
    for name in ("jepa_weight", "jepa_regularizer_weight"):
        require(args, name, "finite and at least 0", lambda value: math.isfinite(value) and value >= 0)
    for name in ("jepa_pretrain_epochs", "monitor_every"):
        require(args, name, "at least 0 and below 2**31", lambda value: 0 <= value < 2**31)
    require(args, "jepa_every", "at least 1 and below 2**31", lambda value: 1 <= value < 2**31)
    regularized = args.jepa_regularizer != "none"
    if not args.use_jepa:
        if args.jepa_pretrain_epochs:
            raise ValueError("--jepa_pretrain_epochs pretrains with JEPA alone, but JEPA is off; add --use_jepa.")
        for name in changed(args, BESIDE_THE_MODE):
            raise ValueError(f"--{name} belongs to the JEPA term, but JEPA is off; add --use_jepa.")
        return
    if args.ema_schedule != "constant" and args.jepa_mode != "ema":
        raise ValueError(
            f"--ema_schedule is {args.ema_schedule}, but --jepa_mode {args.jepa_mode} has no momentum; leave it out."
        )
    if regularized and not args.jepa_regularizer_weight:
        raise ValueError("--jepa_regularizer_weight is 0, so --jepa_regularizer has no effect; leave it out.")
    if args.jepa_regularize != "features" and not regularized:
        raise ValueError("--jepa_regularize needs a regulariser; add --jepa_regularizer vicreg or sigreg.")
    if args.jepa_mode == "shared" and not regularized:
        raise ValueError(
            f"--jepa_mode is {args.jepa_mode}, so encoder and teacher both learn and would collapse to one point; add "
            f"--jepa_regularizer vicreg or sigreg."
        )
    if not args.jepa_weight and args.jepa_balance:
        raise ValueError("--jepa_balance balances JEPA and the task, but --jepa_weight is 0; leave it out.")
    if not args.jepa_weight and not args.jepa_pretrain_epochs:
        raise ValueError("--jepa_weight and --jepa_pretrain_epochs are 0, so JEPA has no effect; leave --use_jepa out.")


def changed(args: Namespace, names: Iterable[str]) -> list[str]:
    """Return those of the flags that are not at their defaults."""
    defaults = ArgumentParser()
    add_jepa_arguments(defaults)
    return [name for name in names if getattr(args, name) != defaults.get_default(name)]


def _said(choices: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({meaning})" for name, meaning in choices.items())


def require(args: Namespace, name: str, expected: str, holds: Callable[[Any], bool]) -> None:
    """Raise a ValueError that names the flag if `holds(value)` is False."""
    value = getattr(args, name)
    if not holds(value):
        raise ValueError(f"--{name} is {value}, but must be {expected}.")
