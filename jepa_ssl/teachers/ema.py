"""An exponential moving average (EMA) of the encoder as the teacher."""

import weakref
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, cast
from weakref import ReferenceType

import torch
from torch import Tensor, nn

from jepa_ssl.checks import closed_fraction, whole_number
from jepa_ssl.freezing import freeze
from jepa_ssl.names import is_wrapper, unwrapped
from jepa_ssl.protocols import Embeddings, Encoded, Encoder
from jepa_ssl.schedules import Scheduled, value_at, warmed_up
from jepa_ssl.teachers.copies import (
    check_runs_alone,
    check_separate,
    independent_copy,
    take_plain_attributes,
    warn_of_outsiders,
)
from jepa_ssl.teachers.shards import sharded
from jepa_ssl.teachers.tensors import Pairs, version
from jepa_ssl.teachers.watch import StepWatch

_ONE = torch.ones((), dtype=torch.int64, device="cpu")  # creating it each time takes as long as adding it


class EMATeacher(nn.Module):
    """A slow copy of the encoder: after each optimizer step, `t <- momentum * t + (1 - momentum) * o`.

    Parameters and floating point buffers are averaged, including buffers that are not saved. Other buffers are copied,
    and so are buffers with an infinite number, such as an attention mask. The average is kept in float32 or more: in
    bfloat16 it would never move at momentum 0.999. The copy is frozen: it takes no gradient and stays in eval mode.

    With gradient accumulation call `update` after the optimizer step, not after each micro-batch. The teacher warns if
    `update` is called more than once per optimizer step, or never. In a compiled step, or if the teacher's argument is
    not the encoder itself, a missing call is reported at the next `state_dict()`.

    The encoder is copied when the teacher is built. It is copied again at the teacher's first forward pass if `update`
    was not called before. So the copy also has what the encoder's first batch initialises, such as the scale of a
    normalisation. A loaded teacher keeps its loaded weights. The first pass also checks that the copy runs its own
    weights.

    With FSDP2 (fully sharded data parallel) build the teacher first. Then give encoder and `teacher.target_model` to
    the same `fully_shard`, and `teacher.average` too if the encoder is in half precision. Each process then updates its
    own part, without communication (docs/sharded.md).

    Source: BYOL (Grill et al., "Bootstrap your own latent", NeurIPS 2020), equation 1.

    Args:
        encoder: the online encoder; it is copied now.
        momentum: in [0, 1]; at 0 the teacher is the encoder after its last step, at 1 it never moves. Or a function of
            the number of updates so far, such as `CosineSchedule(0.996, 1.0, steps=10_000)`.
        warmup: in this many first updates, limit the momentum of update k to `(1 + k) / (10 + k)`. The teacher then
            soon forgets its random start.
        copy: a second module, built like the encoder, to use if `copy.deepcopy(encoder)` fails. It takes the encoder's
            values.

    Raises:
        TypeError: the encoder is not a module.
        ValueError: an argument is out of range. The encoder is already sharded, has a lazy parameter, or cannot be
            copied. Or `copy` shares a module or tensor with it. In the first pass: the copy runs parameters that are
            not its own. The cause is a function that copies share, such as `net.forward = torch.compile(net.forward)`,
            or a module in a plain list.

    >>> encoder = nn.Linear(2, 2)
    >>> teacher = EMATeacher(encoder, momentum=0.5)
    >>> with torch.no_grad():
    ...     change = encoder.bias.add_(1.0)
    >>> teacher.update(encoder)
    >>> (encoder.bias - teacher.target_model.bias).tolist()
    [0.5, 0.5]
    """

    learns = False
    updates: Tensor  # number of updates so far, int64; a buffer, so that it is saved and resumed

    def __init__(
        self, encoder: nn.Module, momentum: Scheduled = 0.996, *, warmup: int = 0, copy: nn.Module | None = None
    ) -> None:
        super().__init__()
        _check_module(encoder)
        _check_not_sharded(encoder)
        self.momentum = momentum if callable(momentum) else closed_fraction("momentum", momentum)
        self.warmup = whole_number("warmup", warmup, least=0)
        if copy is not None:
            check_separate(copy, encoder)
        self.target_model = freeze(independent_copy(encoder) if copy is None else copy, for_good=True)
        self.average: nn.Module | None = None
        self._keep_average()
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self._passed = _HostCount()
        self._passed.set(self.updates, 0)
        self._momentum()  # raises for a bad schedule now, not hours later
        self._pairs: Pairs | None = None
        self._watch = StepWatch(encoder)
        self._passes_checked = False
        self._copied: ReferenceType[nn.Module] | None = weakref.ref(encoder)
        if copy is not None:
            self._paired(encoder).move(1.0)
        self._written = self._writes()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "EMATeacher":
        known, untouched = self._passed.holds(self.updates), self._writes() == self._written
        super()._apply(fn, recurse)  # pyright: ignore[reportUnknownMemberType]
        if known:
            self._passed.set(self.updates, self._passed.count)
        self._keep_average()  # called by `.to(torch.bfloat16)` of a module that contains the teacher
        if untouched:
            self._written = self._writes()
        return self

    def __getstate__(self) -> dict[str, Any]:
        # A copy follows another encoder, and its counter starts with another version.
        return {**vars(self), "_pairs": None, "_watch": StepWatch(), "_passed": _HostCount(), "_copied": None}

    def _keep_average(self) -> None:
        """Keep a float32 average if the copy runs in half precision."""
        if any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in _tensors(self.target_model)):
            if self.average is None and sharded(self.target_model.modules()):
                raise ValueError(
                    "teacher.target_model was cast to half precision after it was sharded, so it cannot get a float32 "
                    "average; cast before fully_shard, or give fully_shard a MixedPrecisionPolicy."
                )
            self.average = (independent_copy(self.target_model) if self.average is None else self.average).float()
        elif self.average is not None:  # the average is more precise, and no longer needed
            with torch.no_grad():
                for tensor, precise in zip(_tensors(self.target_model), _tensors(self.average), strict=True):
                    tensor.copy_(precise)
            self.average = None

    def forward(self, encoder: Encoder[Any], target: Any) -> Embeddings | Encoded:
        if self.training:
            self._watch.used = True
            if not torch.compiler.is_compiling() and self.momentum != 1.0:
                self._watch.forward(encoder)
        if not (self._passes_checked or torch.compiler.is_compiling() or torch.is_inference_mode_enabled()):
            return self._first_pass(encoder, target)
        with torch.no_grad():
            return self.target_model(target)

    def _first_pass(self, encoder: Encoder[Any], target: Any) -> Embeddings | Encoded:
        """Take the weights that the encoder's first pass left, run the copy, and check that it runs alone."""
        self._passes_checked = True
        copied = None if self._copied is None else self._copied()
        if copied is not None and self._is_stale(copied, encoder):
            self._paired(copied).move(1.0)
        parts = list(
            self.target_model.requires_grad_(False).modules()
        )  # a model that contains the teacher may have been unfrozen
        if not sharded(parts) and not any(map(is_wrapper, parts)):
            with torch.enable_grad():  # the copy is frozen, so this costs nothing
                made = self.target_model(target)
            if not check_runs_alone(self.target_model, made, encoder if copied is None else copied):
                return made
        else:
            warn_of_outsiders(self.target_model)
        with torch.no_grad():
            return self.target_model(target)

    def _is_stale(self, copied: nn.Module, encoder: object) -> bool:
        """Whether the copy may lack what the encoder's first batch initialised."""
        is_other = isinstance(encoder, nn.Module) and unwrapped(encoder) is not unwrapped(copied)
        moved = self.momentum == 1.0 or self._writes() != self._written or self._passed.read(self.updates) > 0
        return not is_other and not moved and not sharded(chain(copied.modules(), self.modules()))

    def _writes(self) -> list[int]:
        return list(map(version, self.target_model.parameters()))

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._copied = None
        super()._load_from_state_dict(*args, **kwargs)  # pyright: ignore[reportUnknownMemberType]

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        if self.momentum != 1.0:
            self._watch.saved()
        super()._save_to_state_dict(destination, prefix, keep_vars)  # pyright: ignore[reportUnknownMemberType]

    def update(self, encoder: nn.Module) -> None:
        """Move the teacher towards `encoder`. Call this once after each optimizer step.

        Raises:
            TypeError: the encoder is not a module.
            ValueError: the encoder's tensors have other names or shapes than the copy's, or are sharded differently.
        """
        pairs = self._pairs
        if pairs is None or not pairs.hold(encoder):
            pairs = self._pairs = self._paired(encoder)
        momentum = self._momentum()
        pairs.move(1.0 - momentum)
        if momentum != 1.0:
            self._watch.update(pairs.trainable)
        self._passed.advance(cast(Tensor, self._buffers["updates"]))  # quicker than self.updates

    def restart(self, encoder: nn.Module) -> None:
        """Become a copy of `encoder` as it is now, and count the updates from 0."""
        pairs = self._pairs = self._paired(encoder)
        pairs.move(1.0)
        self.updates.zero_()

    def _paired(self, encoder: nn.Module) -> Pairs:
        _check_module(encoder)
        if not self._passes_checked:
            warn_of_outsiders(self.target_model)
        take_plain_attributes(self.target_model, unwrapped(encoder))
        average, run = (self.target_model, None) if self.average is None else (self.average, self.target_model)
        return Pairs(self, average, run, encoder)

    def _momentum(self) -> float:
        if not callable(self.momentum) and not self.warmup:
            return self.momentum
        passed = self._passed.read(self.updates)
        momentum = value_at(self.momentum, passed, "momentum", closed_fraction)
        return warmed_up(momentum, passed) if passed < self.warmup else momentum


class _HostCount:
    """A host copy of a counter on a device, valid while nothing else writes to it, so that reading does not wait."""

    def __init__(self) -> None:
        self.count = 0
        self._counter: Tensor | None = None
        self._version = 0

    def set(self, counter: Tensor, count: int) -> None:
        self.count, self._counter, self._version = count, counter, version(counter)

    def holds(self, counter: Tensor) -> bool:
        return counter is self._counter and version(counter) == self._version

    def advance(self, counter: Tensor) -> None:
        known = self.holds(counter)
        counter.add_(_ONE)
        if known:
            self.count += 1
            self._version = version(counter)

    def read(self, counter: Tensor) -> int:
        if not self.holds(counter):  # it may have been loaded
            self.set(counter, int(counter))
        return self.count


def _check_not_sharded(encoder: nn.Module) -> None:
    if sharded(encoder.modules()):
        raise ValueError(
            "encoder is already sharded by fully_shard, and torch cannot copy a sharded module; build "
            "EMATeacher(encoder) first, then apply fully_shard to encoder and teacher.target_model alike."
        )


def _check_module(encoder: object) -> None:
    if not isinstance(encoder, nn.Module):
        raise TypeError(
            f"encoder is a {type(encoder).__name__}, but EMATeacher needs an nn.Module; make your encoder an "
            f"nn.Module, or use StopGradTeacher, which takes any callable."
        )


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return chain(module.parameters(), module.buffers())
