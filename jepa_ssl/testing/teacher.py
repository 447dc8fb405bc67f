"""Check on one batch that a teacher keeps its promises."""

import copy
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from jepa_ssl.names import unwrapped, without_wrappers
from jepa_ssl.protocols import Embeddings, Encoded, Teacher
from jepa_ssl.teachers import EMATeacher
from jepa_ssl.teachers.copies import without_graph
from jepa_ssl.testing.batches import same_bits


class TeacherCheck:
    """Collect the faults of a teacher, one sentence each. Works on copies of teacher and encoder."""

    def __init__(self, teacher: Teacher, encoder: Any, target: Any) -> None:
        self.teacher, self.encoder = _copies(teacher, encoder)
        self.target = target
        self.faults: list[str] = []
        # isinstance would check the compiled wrapper, not the teacher in it.
        self.learns = isinstance(unwrapped(teacher), Teacher) and unwrapped(teacher).learns
        if not isinstance(unwrapped(teacher), Teacher):
            self.faults.append(
                "the teacher lacks learns or update: give it update(encoder), and learns = False, or True."
            )
        if isinstance(self.encoder, nn.Module):
            self.encoder.train()
        self.module = self.teacher if isinstance(self.teacher, nn.Module) else None
        if self.module is not None:
            self.module.train()

    def run(self, instance: Any) -> None:
        before, weights = _snapshot(self.teacher), _snapshot(self.encoder, weights=True)
        try:
            targets = self._targets()
        except ValueError as error:  # EMATeacher raises this if its copy runs weights that are not its own
            self.faults.append(str(error))
            return
        self._check_streams(targets, instance)
        self._check_gradient(targets)
        if self.module is not None:
            again = self._targets()
            if not all(same_bits(targets[stream], again[stream]) for stream in targets):
                self.faults.append(
                    "two passes over one batch give different targets: dropout is active in the teacher while the "
                    "objective is in training mode; override its train() to keep it in eval mode."
                )
            if moved := _differences(before, _state(self.teacher)):
                self.faults.append(
                    f"a pass over a batch moves {moved} of the teacher; only update may move it. BatchNorm in "
                    f"train mode does that: override the teacher's train() to keep it in eval mode."
                )
        if moved := _differences(weights, _state(self.encoder)):
            self.faults.append(f"a pass over a batch moves {moved} of the encoder; only the optimizer may do that.")
        self._check_update()

    def _targets(self) -> Embeddings:
        return Encoded.of(self.teacher(self.encoder, self.target)).embeddings

    def _check_streams(self, targets: Embeddings, instance: Any) -> None:
        embeddings = Encoded.of(self.encoder(instance)).embeddings
        shapes = ({stream: list(z.shape) for stream, z in each.items()} for each in (targets, embeddings))
        of_teacher, of_encoder = shapes
        if of_teacher != of_encoder:
            self.faults.append(
                f"the teacher returns {of_teacher}, but the encoder {of_encoder}; both must return the same streams, "
                f"with equally many items of the same size."
            )

    def _check_gradient(self, targets: Embeddings) -> None:
        through = sorted(stream for stream, z in targets.items() if z.requires_grad)
        if through and not self.learns:
            self.faults.append(
                f"gradients flow into the targets of {through}; run the teacher under torch.no_grad(), or set "
                f"learns = True and add a regulariser."
            )
        if self.module is None or self.learns:
            return
        trained = sorted(name for name, parameter in self.module.named_parameters() if parameter.requires_grad)
        if trained:
            self.faults.append(
                f"the teacher's {trained} require a gradient, so an optimizer of jepa.parameters() would train "
                f"them; call requires_grad_(False) on its copy."
            )

    def _check_update(self) -> None:
        moved, new = _copies(self.encoder, self.module)
        for tensor in _state(moved).values():
            if tensor.is_floating_point():
                now = tensor.detach()
                now.add_((1 + now.abs()).where(now.isfinite(), 0))  # a change that half precision can represent
            elif not tensor.ndim and tensor.dtype != torch.bool:
                tensor.add_(1)  # a counter; a buffer with a shape may be an index
        student, before = _snapshot(moved), _snapshot(_follower(self.teacher))
        self.teacher.update(moved)
        if changed := _differences(student, _state(moved)):
            self.faults.append(f"update moves {changed} of the encoder; it may move only the teacher.")
        after = _state(_follower(self.teacher))
        behind = sorted(
            name
            for name in after.keys() & student.keys()
            if not _is_nearer(before[name], after[name].detach(), student[name])
        )
        moves = any(before[name].is_floating_point() for name in _differences(before, after))
        if before and not moves and not _stands_still(self.teacher):
            self.faults.append(
                "update moves nothing of the teacher's target_model: are the names of its tensors those of the "
                "encoder's, without the prefixes of torch.compile and DDP?"
            )
        elif behind and moves:
            self.faults.append(
                f"update does not move {behind} of the teacher, but moves the rest towards the encoder: average "
                f"parameters and floating buffers, copy the other buffers, and match names without the prefixes of "
                f"torch.compile and DDP."
            )
        if self.module is not None and new is not None:
            new.load_state_dict(copy.deepcopy(self.module.state_dict()))
            targets = self._targets()
            self.teacher = cast(Teacher, new)
            resumed = self._targets()
            if not all(same_bits(targets[stream], resumed[stream]) for stream in targets):
                self.faults.append(
                    "a teacher that is loaded from another's state_dict gives other targets: something that changes is "
                    "not saved; register it as a buffer."
                )


def _copies(*parts: Any) -> tuple[Any, ...]:
    """Deep copies that belong together.

    Raises:
        AssertionError: one of them cannot be copied.
    """
    memo: dict[int, Any] = {}
    for part in parts:
        memo |= without_graph(part) if isinstance(part, nn.Module) else {}
    try:
        return copy.deepcopy(parts, memo)
    except Exception as error:
        raise AssertionError(
            f"teacher or encoder cannot be copied, and only copies are checked: {type(error).__name__}: {error}; "
            f"remove what copy.deepcopy cannot copy."
        ) from error


def _state(part: Any) -> dict[str, Tensor]:
    """Return the tensors that a state_dict saves; they change with the module."""
    if not isinstance(part, nn.Module):
        return {}
    saved: dict[str, Any] = part.state_dict(keep_vars=True)
    return without_wrappers(part, {name: tensor for name, tensor in saved.items() if isinstance(tensor, Tensor)})


def _snapshot(part: Any, weights: bool = False) -> dict[str, Tensor]:
    """A copy of the current state; `weights` leaves buffers out."""
    return {
        name: tensor.detach().clone()
        for name, tensor in _state(part).items()
        if not weights or isinstance(tensor, nn.Parameter)
    }


def _follower(teacher: Any) -> Any:
    """The teacher's copy of the encoder, or its more precise average; None if it has neither."""
    parts = dict(teacher.named_children()) if isinstance(teacher, nn.Module) else {}
    return parts.get("average") or parts.get("target_model")


def _stands_still(teacher: Any) -> bool:
    return isinstance(unwrapped(teacher), EMATeacher) and unwrapped(teacher).momentum == 1.0


def _differences(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    return sorted(name for name in before if not same_bits(before[name].detach(), after[name].detach()))


def _is_nearer(before: Tensor, after: Tensor, goal: Tensor) -> bool:
    if torch.equal(after.to(goal.dtype), goal):
        return True
    return goal.is_floating_point() and bool(((after - goal).abs() < (before - goal).abs()).all())
