"""The JEPA term of a plain loop: the loss of a step, the teacher's update, and a block in the checkpoint."""

from collections.abc import Callable
from copy import copy
from typing import Any

from torch import Tensor, nn

from jepa_ssl.balance import GradientBalance
from jepa_ssl.joint import JointLoss, JointSchedule
from jepa_ssl.names import unwrapped
from jepa_ssl.objective import JEPAObjective
from jepa_ssl.protocols import Embeddings, Encoded, Encoder, RestartableTeacher
from jepa_ssl.seeds import Randomness

_ALWAYS_BOTH = JointSchedule()
_TEACHER = "objective.teacher."


class JEPATerm(nn.Module):
    """A JEPA objective beside a task: the joint loss, the teacher's update, and one block for the checkpoint.

    The term holds what JEPA adds to your model: the encoder's submodule `projector`, if it has one, the objective, and
    the balance. The encoder is borrowed, so its other parameters are not among the term's, and your model's checkpoint
    gains no key. `to`, `parameters` and `state_dict` are those of `nn.Module`; a teacher's copy takes no gradient.

    If DDP or `torch.compile` wraps your step, write the step as a module that holds the model and the term:
    docs/many_processes.md.

    Args:
        encoder: makes embeddings of instances.
        objective: makes the views, predicts, and compares.
        schedule: the weights of the two losses in each epoch. By default both count from the start, JEPA by 0.2.
        balance: with `GradientBalance(trunk.parameters())` the schedule's `jepa_weight` is the ratio of JEPA's gradient
            to the task's.

    >>> from jepa_ssl import EMATeacher, EntryMasker, MLPPredictor, ModelEncoder
    >>> model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    >>> encoder = ModelEncoder(model, {"instance": 16}, dim=8, captured={"instance": "1"})
    >>> term = JEPATerm(encoder, JEPAObjective(EntryMasker(0.5), MLPPredictor(encoder.dims), EMATeacher(encoder)))
    >>> import torch
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

    @property
    def encoder(self) -> Any:
        """The encoder that was given. Its parameters are not the term's, except for those of the projector."""
        return self._borrowed[0]

    def loss(
        self,
        instance: Any,
        *,
        task: Callable[[], Tensor],
        epoch: int = 0,
        generator: Randomness = None,
        precomputed_target: Embeddings | Encoded | None = None,
    ) -> JointLoss:
        """Weight the two losses as the schedule says for this epoch; a loss of weight 0 is not computed.

        Args:
            instance: the batch, as the objective's views take it.
            task: computes your own loss, a scalar.
            epoch: counted from 0.
            generator, precomputed_target: as in `JEPAObjective.forward`.
        """

        def jepa() -> Any:
            return self.objective(self.encoder, instance, generator=generator, precomputed_target=precomputed_target)

        return self.schedule(epoch).combine(task, jepa, self.balance)

    def update(self) -> None:
        """Update the teacher and the monitor: call it once after each optimizer step."""
        self.objective.update(self.encoder)

    def resume(self, state: dict[str, Any]) -> bool:
        """Load a saved `state_dict`, even one of a run whose teacher kept no state, or that of a run whose did.

        Load the model first: a copy of the encoder that the state lacks restarts from the encoder as it is now. The
        state of a teacher that this term does not keep is ignored. Both make the result False.

        Raises:
            ValueError: the term was built otherwise than the one that was saved.
        """
        own, saved = _of_teacher(self.state_dict()), _of_teacher(state)
        restarted = bool(own) != bool(saved)
        teacher = unwrapped(self.objective.teacher)
        if restarted and (saved or isinstance(teacher, RestartableTeacher)):
            state = copy(state)  # keeps the versions of the modules, which torch saves beside the tensors
            for name in saved:
                del state[name]
            state.update(own)
        try:
            self.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(
                f"state is of a JEPATerm that was built otherwise; build this one alike. {error}"
            ) from None
        if restarted and own:
            teacher.restart(self.encoder)
        return not restarted


def _projector_of(encoder: object) -> nn.Module | None:
    module = unwrapped(encoder)
    return dict(module.named_children()).get("projector") if isinstance(module, nn.Module) else None


def _of_teacher(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name.startswith(_TEACHER)}
