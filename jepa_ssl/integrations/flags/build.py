"""Build a JEPA term from the flags."""

from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import nn

from jepa_ssl.balance import GradientBalance
from jepa_ssl.checks import whole_number
from jepa_ssl.encoders import ModelEncoder, Place
from jepa_ssl.integrations.flags.arguments import LOSSES, REGULARIZERS, SCHEDULES, changed, check_jepa_arguments
from jepa_ssl.joint import JointSchedule, NoTerm
from jepa_ssl.maskers import EntryMasker, NodeMasker
from jepa_ssl.monitor import CollapseMonitor
from jepa_ssl.objective import JEPAObjective
from jepa_ssl.predictors import MLPPredictor
from jepa_ssl.protocols import CONSTRAINT, INSTANCE, VARIABLE, SizedEncoder, Teacher, ViewMaker
from jepa_ssl.recipes import later_state
from jepa_ssl.teachers import EMATeacher, SharedTeacher, StopGradTeacher
from jepa_ssl.term import JEPATerm

OF_THE_RECIPE = (
    *("jepa_mode", "jepa_loss", "jepa_regularizer", "jepa_regularize", "jepa_regularizer_weight"),
    *("jepa_mask_ratio_entries", "jepa_mask_ratio_nodes", "ema_momentum", "ema_schedule"),
)


def from_args(
    args: Namespace,
    model: nn.Module | SizedEncoder[Any],
    widths: Mapping[str, int] | None = None,
    *,
    dim: int | None = None,
    run: Callable[[Any, Any], Any] | None = None,
    captured: Mapping[str, Place] | None = None,
    lp_of: Callable[[Any], Any] | None = None,
    numbers: int = 2,
    trunk: nn.Module | None = None,
    views: ViewMaker[Any] | None = None,
    teacher: Teacher | None = None,
    updates: int | None = None,
    steps_per_epoch: int | None = None,
    activation: Callable[[], nn.Module] = nn.ReLU,
    log: Callable[[Mapping[str, float], int], Any] | None = None,
) -> JEPATerm | NoTerm:
    """Build a JEPA term around your model from the flags of `add_jepa_arguments`.

    Without `--use_jepa` the result is a `NoTerm`, whose loss is the task's, so your loop needs no `if`.

    Args:
        args: the parsed flags; other flags are ignored.
        model: your model, together with `widths`; or an encoder with the size of its embeddings in `dims`.
        widths, run, captured: arguments of the `ModelEncoder` around your model.
        dim: size of the embeddings; the largest of `widths` by default.
        lp_of, numbers: as in `later_state`, for `--jepa_views solver_state`.
        trunk: the part of the model that both losses train, for `--jepa_balance`.
        views: your own views. By default `EntryMasker(args.jepa_mask_ratio_entries)` for the stream `"instance"`, and
            `NodeMasker(args.jepa_mask_ratio_nodes)` for the streams `"constraint"` and `"variable"`.
        teacher: your own teacher, instead of the one that `--jepa_mode` names.
        updates: number of optimizer steps of the run, for `--ema_schedule`.
        steps_per_epoch: optimizer steps per epoch. If given, the term counts the epochs itself, and `loss` needs no
            `epoch`.
        activation: of projector and predictor; use that of your network.
        log: called with `(row, step)` for each row of the collapse monitor.

    Raises:
        ValueError: a flag is out of range, contradicts another, or needs an argument that is not given.
        TypeError: `model` is not an encoder and `widths` is not given, or `widths` or `trunk` has the wrong type.

    >>> from argparse import ArgumentParser
    >>> from jepa_ssl.integrations.flags import add_jepa_arguments
    >>> parser = ArgumentParser()
    >>> add_jepa_arguments(parser)
    >>> args, model = parser.parse_args(["--use_jepa"]), nn.Linear(6, 8)
    >>> from_args(args, model, {"instance": 8}).objective.teacher.momentum
    0.996
    """
    check_jepa_arguments(args)
    if not args.use_jepa:
        return NoTerm()
    balance = _balance(args, model, trunk)  # before a copy of the encoder is made
    encoder = _encoder(model, widths, dim, run, captured, activation)
    if args.jepa_views == "solver_state" and views is None:
        objective = _recipe(args, encoder.dims, lp_of, numbers, activation, teacher)
    else:
        views = _views(args, encoder.dims) if views is None else views
        teacher = _teacher(args, encoder, updates) if teacher is None else teacher
        objective = _objective(args, views, MLPPredictor(encoder.dims, activation=activation), teacher)
    objective.monitor = CollapseMonitor(args.monitor_every, log=log) if args.monitor_every else None
    return JEPATerm(encoder, objective, _schedule(args, steps_per_epoch), balance)


def _encoder(
    model: Any, widths: Mapping[str, int] | None, dim: int | None, run: Any, captured: Any, activation: Any
) -> SizedEncoder[Any]:
    given = {name: part for name, part in {"run": run, "captured": captured}.items() if part is not None}
    if widths is not None:
        if not isinstance(widths, Mapping) or not widths:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"widths is {widths!r}, but must be a mapping from streams to the widths of their features; give "
                f"{{'instance': 64}}, for example."
            )
        return ModelEncoder(model, widths, max(widths.values()) if dim is None else dim, activation=activation, **given)
    if not isinstance(model, SizedEncoder):
        raise TypeError(
            f"model is a {type(model).__name__}, which has no dims with the size of its embeddings, and widths is "
            f"None; give from_args the widths of its features, stream -> width, or a ModelEncoder."
        )
    encoder = cast(SizedEncoder[Any], model)
    if unused := [*given, *["dim"] * (dim is not None)]:
        raise ValueError(
            f"{unused} is given without widths, but model is a {type(encoder).__name__}, which is already built; give "
            f"these arguments to the encoder when you build it."
        )
    return encoder


def _recipe(
    args: Namespace,
    dims: Mapping[str, int],
    lp_of: Any,
    numbers: int,
    activation: Callable[[], nn.Module],
    teacher: Teacher | None,
) -> JEPAObjective[Any]:
    if lp_of is None:
        raise ValueError(
            "--jepa_views is solver_state, but lp_of is None; give from_args a function from your batch to its LPs."
        )
    if teacher is not None:
        raise ValueError(
            f"teacher is a {type(teacher).__name__}, but --jepa_views solver_state is a complete recipe with its own "
            f"teacher; leave teacher out, or build a JEPAObjective."
        )
    for name in changed(args, OF_THE_RECIPE):
        raise ValueError(
            f"--{name} is {getattr(args, name)}, but --jepa_views solver_state sets this itself; leave --{name} out."
        )
    return later_state(dims, lp_of=lp_of, numbers=numbers, activation=activation)


def _objective(args: Namespace, views: ViewMaker[Any], predictor: MLPPredictor, teacher: Teacher) -> JEPAObjective[Any]:
    regularizer = REGULARIZERS[args.jepa_regularizer]
    return JEPAObjective(
        views,
        predictor,
        teacher,
        LOSSES[args.jepa_loss],
        regularizer=regularizer and regularizer(on_sphere=args.jepa_regularize == "embeddings"),
        regularizer_weight=args.jepa_regularizer_weight,
        regularize=args.jepa_regularize,
    )


def _schedule(args: Namespace, steps_per_epoch: int | None) -> JointSchedule:
    weight, pretrain, every = args.jepa_weight, args.jepa_pretrain_epochs, args.jepa_every
    if steps_per_epoch is None:
        return JointSchedule(jepa_weight=weight, pretrain=pretrain, every=every)
    steps = pretrain * whole_number("steps_per_epoch", steps_per_epoch, least=1)
    return JointSchedule(jepa_weight=weight, pretrain=steps, every=every, per="step")


def _balance(args: Namespace, model: Any, trunk: nn.Module | None) -> GradientBalance | None:
    if not args.jepa_balance:
        return None
    if trunk is None:
        raise ValueError(
            "--jepa_balance compares gradients on the trunk, but trunk is None; give from_args the part of the model "
            "that both losses train."
        )
    if not isinstance(trunk, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"trunk is {trunk!r}, but must be an nn.Module; give a part of the model, such as model.body.")
    if isinstance(model, nn.Module) and set(trunk.parameters()).isdisjoint(model.parameters()):
        raise ValueError(
            f"trunk is a {type(trunk).__name__} without a parameter of the model, so the losses share no gradient "
            f"there; give a part of the model that from_args gets."
        )
    return GradientBalance(trunk.parameters())


def _views(args: Namespace, dims: Mapping[str, int]) -> ViewMaker[Any]:
    if set(dims) == {INSTANCE}:
        return EntryMasker(args.jepa_mask_ratio_entries)
    if set(dims) == {CONSTRAINT, VARIABLE}:
        return NodeMasker(args.jepa_mask_ratio_nodes)
    raise ValueError(
        f"encoder.dims names the streams {sorted(dims)}, but the flags have no masker for them; give from_args views "
        f"that hide parts of these streams."
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
            raise ValueError(f"--jepa_mode is {mode}, but from_args has no such teacher; give from_args a teacher.")


def _momentum(args: Namespace, updates: int | None) -> float | Callable[[int], float]:
    schedule = SCHEDULES[args.ema_schedule]
    if schedule is None:
        return args.ema_momentum
    if updates is None:
        raise ValueError(
            f"--ema_schedule is {args.ema_schedule}, but updates is None; give from_args the number of optimizer steps."
        )
    return schedule(args.ema_momentum, 1.0, updates)
