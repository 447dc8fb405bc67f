"""The JEPA term of a plain loop: the loss of a step, the teacher's update, and a block in the checkpoint."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

from jepa_ssl.balance import GradientBalance
from jepa_ssl.checks import warn_caller, whole_number
from jepa_ssl.encoders import ModelEncoder
from jepa_ssl.joint import JointLoss, JointSchedule, LossWeights
from jepa_ssl.names import unwrapped
from jepa_ssl.objective import JEPAObjective
from jepa_ssl.processes import rank
from jepa_ssl.protocols import Embeddings, Encoded, Encoder, FittedViews, RestartableTeacher
from jepa_ssl.seeds import Randomness, mixed, seeded
from jepa_ssl.sharing import SharedPass, is_plain
from jepa_ssl.teachers import SharedTeacher, StopGradTeacher

_ALWAYS_BOTH = JointSchedule()
_TEACHER = "objective.teacher."


class JEPATerm(nn.Module):
    """A JEPA objective beside a task: the joint loss, the teacher's update, and one block for the checkpoint.

    The term holds what JEPA adds to your model: the encoder's submodule `projector`, if it has one, the objective, and
    the balance. The encoder is borrowed, so its other parameters are not among the term's, and your model's checkpoint
    gains no key. `to`, `parameters` and `state_dict` are those of `nn.Module`; a teacher's copy takes no gradient. When
    it is built, the term moves itself to the encoder's device, and the predictor to the encoder's dtype.

    The term does not move torch's global random numbers, so your data order, dropout and initial weights are those of a
    run without it. What it draws follows from `torch.initial_seed()` when it was built and from the number of its
    losses; both are in its `state_dict`, so that a resumed run goes on as it would have. A compiled step draws from the
    global numbers instead, and so do the layers of your model if you give `loss` a `generator`.

    A teacher that is the encoder itself, `StopGradTeacher` or `SharedTeacher`, needs the features of the whole
    instance, which your model has just computed for the task. If `task` is a function that runs the model once on the
    same tensors, the term takes them from that pass, with the same loss and gradients. It runs the teacher's own pass
    if a module draws random numbers or keeps state (dropout, BatchNorm in training), is compiled, or wrapped by DDP or
    FSDP, or if weights, mode or autocast differ. A check at some steps finds state that the term cannot see, and warns
    (docs/engines.md). With `SharedTeacher` the two losses then share a graph: call `joint.total.backward()`, or keep
    the graph between the backward passes of `joint.parts`.

    To save time, `JointSchedule(every=4)` computes the JEPA loss at every fourth optimizer step. The teacher still
    follows the encoder, and counts for its momentum schedule, at each of them.

    If DDP or `torch.compile` wraps your step, write the step as a module that holds the model and the term:
    docs/many_processes.md.

    Args:
        encoder: makes embeddings of instances.
        objective: makes the views, predicts, and compares.
        schedule: the weights of the two losses over time. By default both count from the start, JEPA by 0.2.
        balance: with `GradientBalance(trunk.parameters())` the schedule's `jepa_weight` is the ratio of JEPA's gradient
            to the task's.

    >>> from jepa_ssl import EMATeacher, EntryMasker, MLPPredictor, ModelEncoder
    >>> model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    >>> encoder = ModelEncoder(model, {"instance": 16}, dim=8, captured={"instance": "1"})
    >>> term = JEPATerm(encoder, JEPAObjective(EntryMasker(0.5), MLPPredictor(encoder.dims), EMATeacher(encoder)))
    >>> optimizer = torch.optim.Adam([*model.parameters(), *term.parameters()])
    >>> batch = torch.randn(4, 6)
    >>> joint = term.loss(batch, task=lambda: model(batch).square().mean())
    >>> joint.total.backward()
    >>> optimizer.step()
    >>> term.update()
    >>> sorted(joint.terms), [name for name, _ in term.named_children()]
    (['loss', 'loss_jepa', 'loss_task'], ['projector', 'objective'])
    """

    def __init__(
        self,
        encoder: Encoder[Any],
        objective: JEPAObjective[Any],
        schedule: JointSchedule = _ALWAYS_BOTH,
        balance: GradientBalance | None = None,
    ) -> None:
        super().__init__()
        self._borrowed = (encoder,)  # a module in a tuple is not registered
        self.projector = _projector_of(encoder)
        self.objective = objective
        self.schedule = schedule
        self.balance = balance
        self._seed, self._losses, self.steps = torch.initial_seed() & (2**62 - 1), 0, 0
        self._pass = SharedPass()
        self._placed = False  # on the encoder's device, as the first JEPA loss finds
        self._weights, self._is_due = schedule(0), True  # now, if the schedule counts steps
        if (like := _weights_of(encoder)) is not None:
            self.to(like.device)
            if isinstance(objective.predictor, nn.Module):
                objective.predictor.to(like.dtype)

    @property
    def encoder(self) -> Any:
        """The encoder that was given. Its parameters are not the term's, except for those of the projector."""
        return self._borrowed[0]

    def fit(self, instances: Iterable[Any]) -> None:
        """Show training batches to views that take statistics, such as `SolverState`; other views need none.

        Call it once before the first step. A few hundred instances are enough. A term that has taken steps, in a
        resumed run, keeps the statistics that it has. The order of your data stays what it would be without this pass.

        Args:
            instances: batches as the objective's views take them, `(instance_of(batch) for batch in loader)`.
        """
        if self.steps:
            return
        views = self.objective.views
        with seeded(self._seed):
            for part in views.modules() if isinstance(views, nn.Module) else (views,):
                if isinstance(part, FittedViews):
                    part.fit(instances)

    def loss(
        self,
        instance: Any,
        *,
        task: Tensor | Callable[[], Tensor],
        epoch: int | None = None,
        generator: Randomness = None,
        precomputed_target: Embeddings | Encoded | None = None,
    ) -> JointLoss:
        """Weight the two losses as the schedule says; a JEPA loss of weight 0 is not computed.

        Args:
            instance: the batch, as the objective's views take it.
            task: your own loss, a scalar, or a function that computes it. The function is not called while its loss
                has weight 0, which saves the forward pass.
            epoch: counted from 0. You may leave it out if the schedule is constant or counts steps.
            generator, precomputed_target: as in `JEPAObjective.forward`.

        Raises:
            ValueError: the schedule counts epochs, but `epoch` is missing; both losses have weight 0; or the model and
                the term are on different devices.
        """

        def jepa() -> Any:
            if not (self._placed or torch.compiler.is_compiling()):
                self._check_device()
            with self._own_random_numbers(generator), self._pass.reused() if shares else nullcontext():
                return self.objective(
                    self.encoder, instance, generator=generator, precomputed_target=precomputed_target
                )

        def recorded_task() -> Tensor:
            assert callable(task)
            with self._pass.recorded(*_called(self.encoder)):
                return task()

        weights = self._weights if self.schedule.per == "step" else self.schedule(self._epoch(epoch))
        if weights.task and not self._is_due:
            weights = LossWeights(weights.task, 0.0)
        shares = weights.jepa and callable(task) and precomputed_target is None and self._may_share_a_pass()
        if not torch.compiler.is_compiling():
            self._losses += 1
        return weights.combine(recorded_task if shares else task, jepa, self.balance)

    def _may_share_a_pass(self) -> bool:
        """Whether the teacher runs the encoder itself, as Python code that is not compiled around it."""
        if torch.compiler.is_compiling() or not isinstance(self.objective.teacher, StopGradTeacher | SharedTeacher):
            return False
        return isinstance(self.encoder, nn.Module) and is_plain(self.encoder) and is_plain(self.objective)

    def update(self) -> None:
        """Update the teacher and the monitor: call it once after each optimizer step."""
        self.objective.update(self.encoder)
        self.steps += 1
        self._take_weights()

    def _take_weights(self) -> None:
        # Now, because a compiler takes the number of a step for a constant.
        self._is_due = self.schedule.is_due(self.steps)
        if self.schedule.per == "step":
            self._weights = self.schedule(self.steps)

    def _epoch(self, epoch: int | None) -> int:
        if self.schedule.is_constant:
            return 0
        if epoch is None:
            raise ValueError(
                "epoch is missing, but the schedule's weights depend on it; give loss(..., epoch=...), counted from 0, "
                "or count optimizer steps with JointSchedule(per='step')."
            )
        now = whole_number("epoch", epoch, least=0, remedy="count epochs from 0.")
        if now == 1 and not torch.compiler.is_compiling() and not self._losses:
            warn_caller(
                "the first epoch of this JEPATerm is 1, but epochs count from 0, so pretraining would end one epoch "
                "early; give epoch - 1 if your loop counts from 1."
            )
        return now

    def _check_device(self) -> None:
        model, own = _weights_of(self.encoder), _weights_of(self.objective.predictor)
        if model is not None and own is not None and model.device != own.device:
            raise ValueError(
                f"the encoder is on {model.device}, but this JEPATerm is on {own.device}; move both, or build the term "
                f"after you have moved your model."
            )
        self._placed = True

    def _own_random_numbers(self, generator: Randomness) -> AbstractContextManager[None]:
        if generator is not None or torch.compiler.is_compiling():
            return nullcontext()
        weights = _weights_of(self.encoder)
        return seeded(mixed(self._seed, self._losses, rank()), None if weights is None else weights.device)

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self._seed, self._losses, self.steps])

    def set_extra_state(self, state: Tensor) -> None:
        self._seed, self._losses, self.steps = (int(number) for number in state)
        self._take_weights()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a saved `state_dict`, as any module does.

        Raises:
            ValueError: it is of a run without JEPA, or of a term that was built otherwise.
        """
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except RuntimeError as error:
            raise ValueError(self._unlike(state_dict, error)) from None

    def _unlike(self, state: Mapping[str, Any], error: RuntimeError) -> str:
        if not state:
            return (
                "state is empty, as that of a run without JEPA is (a NoTerm); to add JEPA to that run, load the model "
                "and leave out the term's state."
            )
        if bool(_of_teacher(state)) != bool(_of_teacher(self.state_dict())):
            return f"state is of a JEPATerm with another teacher; call resume(state), which loads the rest. {error}"
        return f"state is of a JEPATerm that was built otherwise; build this one alike. {error}"

    def resume(self, state: dict[str, Any]) -> bool:
        """Load a saved `state_dict`, even one of a run whose teacher kept no state, or that of a run whose did.

        Load the model first: a copy of the encoder that the state lacks restarts from the encoder as it is now. The
        state of a teacher that this term does not keep is ignored. Both make the result False.

        Raises:
            ValueError: as `load_state_dict`.
        """
        if not state:
            self.load_state_dict(state)
        own, saved = _of_teacher(self.state_dict()), _of_teacher(state)
        restarted = bool(own) != bool(saved)
        teacher = unwrapped(self.objective.teacher)
        if restarted and (saved or isinstance(teacher, RestartableTeacher)):
            state = copy(state)  # keeps the versions of the modules, which torch saves beside the tensors
            for name in saved:
                del state[name]
            state.update(own)
        self.load_state_dict(state)
        if restarted and own:
            teacher.restart(self.encoder)
        return not restarted


def _projector_of(encoder: object) -> nn.Module | None:
    module = unwrapped(encoder)
    return dict(module.named_children()).get("projector") if isinstance(module, nn.Module) else None


def _called(encoder: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    """The modules of an encoder that the task may run as well, and those in them whose outputs it captures."""
    modules = [part for name, part in encoder.named_children() if name != "projector"]
    if not isinstance(encoder, ModelEncoder):
        return modules, []
    if encoder.captured is None:  # its run may call a part of the model alone
        return [*modules, *encoder.model.children()], []
    return modules, [encoder.model.get_submodule(place.path) for place in encoder.captured.values()]


def _weights_of(part: object) -> Tensor | None:
    """A parameter of an encoder or a predictor, for its device and dtype; None if it is a function."""
    module = unwrapped(part)
    parameters = module.parameters() if isinstance(module, nn.Module) else iter(())
    return next((weights for weights in parameters if weights.is_floating_point()), None)


def _of_teacher(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name.startswith(_TEACHER)}
