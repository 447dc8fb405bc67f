"""A Lightning callback that updates the teacher and logs the monitor. Needs the extra `jepa_ssl[lightning]`."""

from contextlib import ExitStack
from functools import partial
from operator import attrgetter
from typing import Any, cast

from torch import nn
from torch.optim import Optimizer

from jepa_ssl.monitor import CollapseMonitor
from jepa_ssl.names import unwrapped
from jepa_ssl.objective import JEPAObjective

try:
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import Callback
except ImportError as error:
    raise ImportError(
        "JEPACallback needs lightning, which is not installed; pip install 'jepa_ssl[lightning]'."
    ) from error


class JEPACallback(Callback):
    """Call the objective's `update` once after each optimizer step, and give the monitor's rows to the loggers.

    Your module holds the encoder and the objective. Its `training_step` adds `self.jepa(self.encoder, batch).total` to
    the loss, and its optimizer takes the parameters of both. Then pass `Trainer(callbacks=JEPACallback())`. Teacher,
    predictor and monitor are parts of the module, so they are saved and resumed with it. The callback has no state.

    It hooks into the step of the optimizer that trains the encoder. So the teacher is updated once per optimizer step,
    for any number of micro-batches and with manual optimization. It is not updated if automatic mixed precision skips a
    step. If several optimizers train parts of the encoder, the last one's step counts. A monitor that has a `log` keeps
    it.

    Args:
        objective: name of the module's attribute that holds the `JEPAObjective`; dots reach further down.
        encoder: name of the one that holds the encoder.

    Raises, when a fit begins:
        AttributeError: the module has no such attribute.
        TypeError: the attribute is not an objective, or not a module.
        ValueError: no optimizer has a parameter of the encoder.
    """

    def __init__(self, objective: str = "jepa", encoder: str = "encoder") -> None:
        self.objective = objective
        self.encoder = encoder
        self._undo = ExitStack()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._undo.close()  # a fit that failed was not torn down
        objective = _part(pl_module, "objective", self.objective, JEPAObjective)
        encoder = _part(pl_module, "encoder", self.encoder, nn.Module)

        def move(*_: object) -> None:
            objective.update(encoder)

        hook = _optimizer_of(encoder, self.encoder, trainer, pl_module).register_step_post_hook(move)
        self._undo.callback(hook.remove)
        if isinstance(objective.monitor, CollapseMonitor) and objective.monitor.log is None:
            objective.monitor.log = partial(_log, trainer)
            self._undo.callback(setattr, objective.monitor, "log", None)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._undo.close()


def _part(module: LightningModule, argument: str, name: str, kind: type[Any]) -> Any:
    try:
        part = attrgetter(name)(module)
    except AttributeError as error:
        raise AttributeError(
            f"{argument} is {name!r}, but {type(module).__name__} has no such attribute; name the one that holds its "
            f"{kind.__name__}: JEPACallback(objective=..., encoder=...)."
        ) from error
    if not isinstance(unwrapped(part), kind):
        raise TypeError(
            f"{argument} is {name!r}, which is a {type(part).__name__} in {type(module).__name__}, but must be a "
            f"{kind.__name__}; name the attribute that holds it."
        )
    return part


def _optimizer_of(encoder: nn.Module, name: str, trainer: Trainer, module: LightningModule) -> Optimizer:
    """The last one that trains a part of the encoder: after its step, all parts have moved."""
    trained = set(encoder.parameters())
    for optimizer in reversed(trainer.optimizers):
        if any(trained.intersection(group["params"]) for group in optimizer.param_groups):
            return optimizer
    raise ValueError(
        f"encoder is {name!r}, but no optimizer of {type(module).__name__} has a parameter of it, so that it would "
        f"not learn; give them to the one that configure_optimizers returns."
    )


def _log(trainer: Trainer, row: dict[str, Any], step: int) -> None:
    """Log the numbers of the row. Its text becomes a warning, because not every logger takes text."""
    numbers = {name: cast(float, value) for name, value in row.items() if not isinstance(value, str)}
    for logger in trainer.loggers:
        logger.log_metrics(numbers, step)
