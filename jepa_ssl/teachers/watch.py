"""Warn if a teacher is not updated once per optimizer step, by watching whether the encoder's weights change."""

import weakref
from collections.abc import Sequence

from torch import Tensor, nn

from jepa_ssl.checks import warn_caller
from jepa_ssl.teachers.tensors import version

STEPS_WITHOUT_UPDATE = 30
REPEATED = 4  # a GradScaler skips a step now and then, but not before each of four steps


class StepWatch:
    """Watch the encoder's weights and give each warning once. An encoder that never changes causes no warning.

    Args:
        copied: the encoder that the teacher copied.
    """

    def __init__(self, copied: nn.Module | None = None) -> None:
        self.used = False  # the teacher ran in training; a compiled pass may change nothing else
        self._copied = None if copied is None else weakref.ref(copied)
        self._writes_before = 0 if copied is None else _writes(copied)
        self._updated = False
        self._forgotten = 0
        self._idle = 0
        self._repeated = 0
        self._encoder: weakref.ref[nn.Module] | None = None
        self._trainable: Sequence[Tensor] | None = None
        self._seen: Sequence[Tensor] = ()
        self._versions: list[int] = []

    def forward(self, encoder: object) -> None:
        """Note a forward pass of the teacher in training; `encoder` may be any callable."""
        if self._updated or not isinstance(encoder, nn.Module):
            return
        if self._encoder is None or self._encoder() is not encoder:
            self._encoder = weakref.ref(encoder)
            self._look_at([p for p in encoder.parameters() if p.requires_grad][:8])
        elif self._moved():
            self._forgotten += 1
            if self._forgotten == STEPS_WITHOUT_UPDATE:
                self._say_forgotten()

    def saved(self) -> None:
        """Note that the teacher's state is saved: the last chance to warn of a missing `update`."""
        if not self.used or self._updated or self._forgotten >= STEPS_WITHOUT_UPDATE:
            return
        copied = None if self._copied is None else self._copied()
        # An optimizer step writes once or twice.
        if copied is not None and _writes(copied) - self._writes_before >= 2 * STEPS_WITHOUT_UPDATE:
            self._forgotten = STEPS_WITHOUT_UPDATE
            self._say_forgotten()

    def _say_forgotten(self) -> None:
        warn_caller(
            f"the encoder has moved {STEPS_WITHOUT_UPDATE} times and EMATeacher never; call update(encoder) after each "
            f"optimizer step, or give momentum=1 to keep the teacher as it is."
        )

    def update(self, trainable: Sequence[Tensor]) -> None:
        """Note an update; `trainable` is the same list each time, unless one of its tensors was replaced."""
        self._updated = True
        if trainable is not self._trainable:
            self._trainable = trainable
            self._look_at(trainable[:: len(trainable) // 4 + 1])
        elif not self._moved():
            self._idle += 1
            self._look_at(trainable)  # a second optimizer may move others than those in the sample
        else:
            self._repeated = self._repeated + 1 if self._idle else 0
            self._idle = 0
            if self._repeated == REPEATED:
                warn_caller(
                    f"EMATeacher.update was called more than once between two optimizer steps, {REPEATED} times in a "
                    f"row; call it once, after optimizer.step(), and not after each micro-batch."
                )

    def _look_at(self, sample: Sequence[Tensor]) -> None:
        self._seen, self._versions = sample, list(map(version, sample))

    def _moved(self) -> bool:
        versions = list(map(version, self._seen))
        moved = versions != self._versions
        self._versions = versions
        return moved


def _writes(module: nn.Module) -> int:
    """The number of writes to the parameter that was written to most often."""
    return max((version(p) for p in module.parameters() if p.requires_grad), default=0)
