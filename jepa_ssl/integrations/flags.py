"""Command-line flags of a JEPA term, and the term that they describe."""

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from jepa_ssl.balance import GradientBalance
from jepa_ssl.joint import JointSchedule
from jepa_ssl.losses import cosine_loss, smooth_l1_loss, squared_error
from jepa_ssl.maskers import EntryMasker, NodeMasker
from jepa_ssl.monitor import CollapseMonitor
from jepa_ssl.objective import JEPAObjective
from jepa_ssl.predictors import MLPPredictor
from jepa_ssl.protocols import CONSTRAINT, INSTANCE, VARIABLE, SizedEncoder, Teacher, ViewMaker
from jepa_ssl.regularizers import SIGReg, VICReg
from jepa_ssl.schedules import CosineSchedule, LinearSchedule
from jepa_ssl.teachers import EMATeacher, SharedTeacher, StopGradTeacher
from jepa_ssl.term import JEPATerm

MODES: Mapping[str, str] = {
    "ema": "a slow copy of the encoder",
    "simsiam": "the encoder, without gradient",
    "shared": "the encoder, with gradient",
}
LOSSES = {"cosine": cosine_loss, "smooth_l1": smooth_l1_loss, "squared": squared_error}
REGULARIZERS = {"none": None, "vicreg": VICReg, "sigreg": SIGReg}
SCHEDULES = {"constant": None, "linear": LinearSchedule, "cosine": CosineSchedule}
BESIDE_THE_MODE = ("jepa_loss", "jepa_regularizer", "jepa_regularize", "ema_schedule", "jepa_balance")


def add_jepa_arguments(parser: Any, *, beyond: Any = None, modes: Mapping[str, str] = MODES) -> None:
    """Add the flags of a JEPA term to a parser of argparse or configargparse, or to a group of one.

    Args:
        parser: has `add_argument`; takes `--use_jepa`, the teacher, the weights, the ratios and the momentum.
        beyond: takes the flags beyond the plain recipe: loss, regulariser, balance, schedule and monitor; `parser` by
            default.
        modes: the choices of `--jepa_mode`, name -> description of the teacher. Give teachers of your own to
            `from_args`.

    >>> from argparse import ArgumentParser
    >>> parser = ArgumentParser()
    >>> add_jepa_arguments(parser)
    >>> args = parser.parse_args(["--use_jepa", "--jepa_mode", "simsiam"])
    >>> args.jepa_mode, args.jepa_weight, args.ema_momentum
    ('simsiam', 0.2, 0.996)
    """
    said = ", ".join(f"{name} ({meaning})" for name, meaning in modes.items())
    add = parser.add_argument
    add("--use_jepa", action="store_true", help="add the JEPA term")
    add("--jepa_mode", choices=modes, default="ema", help=f"choose the teacher: {said}")
    add(
        "--jepa_weight",
        type=float,
        default=0.2,
        help="weigh the JEPA loss: loss = loss of the task + jepa_weight * loss_jepa",
    )
    add("--jepa_pretrain_epochs", type=int, default=0, help="train on JEPA alone for this many epochs first")
    add("--jepa_mask_ratio_entries", type=float, default=0.5, help="mask this fraction of the entries of a vector")
    add("--jepa_mask_ratio_nodes", type=float, default=0.3, help="mask this fraction of the nodes of a graph")
    add("--ema_momentum", type=float, default=0.996, help="set the momentum of the teacher in mode ema")
    add = parser.add_argument if beyond is None else beyond.add_argument
    add("--jepa_loss", choices=LOSSES, default="cosine", help="compare prediction and target by this loss")
    add("--jepa_regularizer", choices=REGULARIZERS, default="none", help="add a regulariser against collapse")
    places = ("features", "embeddings")
    add(
        "--jepa_regularize",
        choices=places,
        default="features",
        help="regularise the trunk's features, or the embeddings",
    )
    add(
        "--jepa_regularizer_weight",
        type=float,
        default=0.3,
        help="weigh the regulariser; the prediction loss has weight 1",
    )
    balance = "hold the ratio of JEPA's gradient on the trunk to the task's at --jepa_weight"
    add("--jepa_balance", action="store_true", help=balance)
    add("--ema_schedule", choices=SCHEDULES, default="constant", help="raise the momentum from --ema_momentum to 1")
    add("--monitor_every", type=int, default=10, metavar="STEPS", help="check for collapse every N steps (0: off)")


def check_jepa_arguments(args: Namespace) -> None:
    """Raise a ValueError for a flag of `add_jepa_arguments` that is out of range or contradicts another.

    The message names the flag, its value, and what to do. `from_args` calls this. Call it yourself where the flags are
    parsed, to fail before any data is read.
    """
    for name in ("jepa_mask_ratio_entries", "jepa_mask_ratio_nodes"):
        require(args, name, "strictly between 0 and 1", lambda value: 0 < value < 1)
    require(args, "ema_momentum", "in [0, 1]", lambda value: 0 <= value <= 1)
    for name in ("jepa_weight", "jepa_regularizer_weight"):
        require(args, name, "finite and at least 0", lambda value: math.isfinite(value) and value >= 0)
    for name in ("jepa_pretrain_epochs", "monitor_every"):
        require(args, name, "at least 0 and below 2**31", lambda value: 0 <= value < 2**31)
    regularized = args.jepa_regularizer != "none"
    if not args.use_jepa:
        if args.jepa_pretrain_epochs:
            raise ValueError("--jepa_pretrain_epochs asks for epochs of JEPA alone, but JEPA is off; add --use_jepa.")
        defaults = ArgumentParser()
        add_jepa_arguments(defaults)
        for name in BESIDE_THE_MODE:
            if getattr(args, name) != defaults.get_default(name):
                raise ValueError(f"--{name} is of the JEPA term, but JEPA is off; add --use_jepa.")
        return
    if args.ema_schedule != "constant" and args.jepa_mode != "ema":
        raise ValueError(
            f"--ema_schedule is {args.ema_schedule}, but --jepa_mode {args.jepa_mode} has no momentum; leave it out."
        )
    if regularized and not args.jepa_regularizer_weight:
        raise ValueError("--jepa_regularizer_weight is 0, so that --jepa_regularizer does nothing; leave it out.")
    if args.jepa_regularize != "features" and not regularized:
        raise ValueError("--jepa_regularize needs a regulariser; add --jepa_regularizer vicreg or sigreg.")
    if args.jepa_mode == "shared" and not regularized:
        raise ValueError(
            f"--jepa_mode is {args.jepa_mode}, where both sides learn and would agree on one point; add "
            f"--jepa_regularizer vicreg or sigreg."
        )
    if not args.jepa_weight and args.jepa_balance:
        raise ValueError("--jepa_balance weighs JEPA against the task, but --jepa_weight is 0; leave it out.")
    if not args.jepa_weight and not args.jepa_pretrain_epochs:
        raise ValueError(
            "--jepa_weight is 0 and --jepa_pretrain_epochs too, so JEPA does nothing; leave --use_jepa out."
        )


def from_args(
    args: Namespace,
    encoder: SizedEncoder[Any],
    *,
    trunk: nn.Module | None = None,
    views: ViewMaker[Any] | None = None,
    teacher: Teacher | None = None,
    updates: int | None = None,
    activation: Callable[[], nn.Module] = nn.ReLU,
    log: Callable[[Mapping[str, float], int], Any] | None = None,
) -> JEPATerm:
    """Build the JEPA term that the flags of `add_jepa_arguments` describe, around `encoder`.

    Args:
        args: with the flags; may have others.
        encoder: tells the size of its embeddings in `dims`, as a `ModelEncoder` does.
        trunk: the part of the model that both losses train, for `--jepa_balance`.
        views: in place of `EntryMasker(args.jepa_mask_ratio_entries)` for the stream `"instance"`, and of
            `NodeMasker(args.jepa_mask_ratio_nodes)` for the streams `"constraint"` and `"variable"`.
        teacher: in place of the one that `--jepa_mode` names.
        updates: how many optimizer steps the run will take, for `--ema_schedule`.
        activation: of the predictor; that of your network.
        log: takes the rows of the collapse monitor, `(row, step)`.

    Raises:
        ValueError: a flag is out of range, contradicts another, or asks for what is not given here.

    >>> from argparse import ArgumentParser
    >>> from jepa_ssl import ModelEncoder
    >>> parser = ArgumentParser()
    >>> add_jepa_arguments(parser)
    >>> encoder = ModelEncoder(nn.Linear(6, 8), {"instance": 8}, dim=4)
    >>> from_args(parser.parse_args(["--use_jepa"]), encoder).objective.teacher.momentum
    0.996
    """
    check_jepa_arguments(args)
    balance = _balance(args, trunk)  # before a copy of the encoder is made
    dims = encoder.dims
    regularizer = REGULARIZERS[args.jepa_regularizer]
    objective: JEPAObjective[Any] = JEPAObjective(
        _views(args, dims) if views is None else views,
        MLPPredictor(dims, activation=activation),
        _teacher(args, encoder, updates) if teacher is None else teacher,
        LOSSES[args.jepa_loss],
        regularizer=regularizer and regularizer(on_sphere=args.jepa_regularize == "embeddings"),
        regularizer_weight=args.jepa_regularizer_weight,
        regularize=args.jepa_regularize,
        monitor=CollapseMonitor(args.monitor_every, log=log) if args.monitor_every else None,
    )
    schedule = JointSchedule(jepa_weight=args.jepa_weight, pretrain_epochs=args.jepa_pretrain_epochs)
    return JEPATerm(encoder, objective, schedule, balance)


def _balance(args: Namespace, trunk: nn.Module | None) -> GradientBalance | None:
    if not args.jepa_balance:
        return None
    if trunk is None:
        raise ValueError(
            "--jepa_balance compares gradients on the trunk, but trunk is None; give from_args the part of the model "
            "that both losses train."
        )
    return GradientBalance(trunk.parameters())


def _views(args: Namespace, dims: Mapping[str, int]) -> ViewMaker[Any]:
    if set(dims) == {INSTANCE}:
        return EntryMasker(args.jepa_mask_ratio_entries)
    if set(dims) == {CONSTRAINT, VARIABLE}:
        return NodeMasker(args.jepa_mask_ratio_nodes)
    raise ValueError(
        f"encoder.dims names the streams {sorted(dims)}, of which the flags know no masker; give from_args views that "
        f"hide something of these."
    )


def _teacher(args: Namespace, encoder: Any, updates: int | None) -> Teacher:
    match args.jepa_mode:
        case "ema":
            return EMATeacher(encoder, _momentum(args, updates))
        case "simsiam":
            return StopGradTeacher()
        case "shared":
            return SharedTeacher()
        case mode:
            raise ValueError(f"--jepa_mode is {mode}, of which from_args knows no teacher; give it one.")


def _momentum(args: Namespace, updates: int | None) -> float | Callable[[int], float]:
    schedule = SCHEDULES[args.ema_schedule]
    if schedule is None:
        return args.ema_momentum
    if updates is None:
        raise ValueError(
            f"--ema_schedule is {args.ema_schedule}, but updates is None; give from_args the number of optimizer steps."
        )
    return schedule(args.ema_momentum, 1.0, updates)


def require(args: Namespace, name: str, expected: str, holds: Callable[[Any], bool]) -> None:
    """Raise a ValueError that names the flag unless its value `holds`."""
    value = getattr(args, name)
    if not holds(value):
        raise ValueError(f"--{name} is {value}, but must be {expected}.")
