"""The teacher that follows the encoder slowly."""

from collections.abc import Callable, Collection, Iterator
from copy import deepcopy
from itertools import chain
from typing import Any, Literal, NoReturn, cast

import torch
from torch import Tensor, nn

from jepa_ssl.checks import closed_fraction, whole_number
from jepa_ssl.protocols import Embeddings, Encoded, Encoder
from jepa_ssl.schedules import Scheduled, value_at, warmed_up
from jepa_ssl.teachers.seeding import reset_parameters
from jepa_ssl.teachers.shards import sharded
from jepa_ssl.teachers.tensors import Pairs, version, walk
from jepa_ssl.teachers.watch import StepWatch

_ONE = torch.ones((), dtype=torch.int64, device="cpu")  # making it anew costs as much as adding it


class EMATeacher(nn.Module):
    """A slow copy of the encoder: after each optimizer step, `t <- momentum * t + (1 - momentum) * o`.

    Parameters and floating point buffers are averaged (buffers that are not saved, too); other buffers are copied, and
    so are those with an infinite number, as a mask of attention has. The average is kept in float32 at least, for in
    bfloat16 at momentum 0.999 it would never move. The copy takes no gradient, and stays in its mode whatever happens
    to the module that holds it.

    With gradient accumulation the call stands where the optimizer's step does, behind the last micro-batch. A call too
    many is noticed and said in a warning, and so is a call that never comes: of a compiled step, and where the teacher
    is not shown the encoder itself, when its state is next saved.

    With FSDP2 build it first, then give encoder and `teacher.target_model` to the same `fully_shard`, and
    `teacher.average` too if the encoder is in half precision; each process then moves its own part, without
    communication (docs/sharded.md).

    Source: BYOL (Grill et al., "Bootstrap your own latent", NeurIPS 2020), equation 1.

    Args:
        encoder: the online encoder; copied as it is now.
        momentum: in [0, 1]; at 0 the teacher is the encoder after its last step, at 1 it never moves. Or a function
            from how many updates there have been to a momentum: `CosineSchedule(0.996, 1.0, steps=10_000)`.
        warmup: for so many updates the momentum of update k is at most `(1 + k) / (10 + k)`, so that the teacher soon
            leaves the random start behind.
        buffers: "average" floating point buffers like parameters, or "copy" them.
        mode: the copy runs in "eval" mode, or in "train" mode: with dropout, and the batch's own statistics.
        exclude: names of submodules that the target branch never runs, such as a task's heads; they are not copied.
        reinitialize: a seed; the copy starts from other random weights than the encoder, drawn by each submodule's
            `reset_parameters` (BGRL: Thakoor et al., "Large-scale representation learning on graphs via
            bootstrapping", ICLR 2022). The global random numbers neither matter nor move.

    Raises:
        TypeError: the encoder is no module.
        ValueError: an argument is out of its range, `exclude` names what the encoder does not have, a submodule cannot
            be reinitialised, or the encoder is sharded already.

    >>> encoder = nn.Linear(2, 2)
    >>> teacher = EMATeacher(encoder, momentum=0.5)
    >>> with torch.no_grad():
    ...     change = encoder.bias.add_(1.0)
    >>> teacher.update(encoder)
    >>> (encoder.bias - teacher.target_model.bias).tolist()
    [0.5, 0.5]
    """

    updates: Tensor  # how many there have been, int64; a buffer, so that it is saved and resumed

    def __init__(
        self,
        encoder: nn.Module,
        momentum: Scheduled = 0.996,
        *,
        warmup: int = 0,
        buffers: Literal["average", "copy"] = "average",
        mode: Literal["eval", "train"] = "eval",
        exclude: Collection[str] = (),
        reinitialize: int | None = None,
    ) -> None:
        super().__init__()
        _check_module(encoder)
        self.momentum = momentum if callable(momentum) else closed_fraction("momentum", momentum)
        self.warmup = whole_number("warmup", warmup, least=0)
        self._averages_buffers = _is_first("buffers", buffers, "average", "copy")
        self._sleeps = _is_first("mode", mode, "eval", "train")
        self.target_model = _copy(encoder, {exclude} if isinstance(exclude, str) else set(exclude))
        self._left_out = {path for path, module in walk(self.target_model) if isinstance(module, _Excluded)}
        if reinitialize is not None:
            reset_parameters(self.target_model, reinitialize)
        self.target_model.requires_grad_(False)
        self.train()
        self.average: nn.Module | None = None
        self._keep_average()
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self._passed = _HostCount()
        self._passed.set(self.updates, 0)
        self._momentum()  # a bad schedule is refused now, not hours later
        self._pairs: Pairs | None = None
        self._watch = StepWatch(encoder)

    def train(self, mode: bool = True) -> "EMATeacher":
        super().train(mode)
        self.target_model.train(not self._sleeps)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "EMATeacher":
        known = self._passed.holds(self.updates)
        super()._apply(fn, recurse)  # pyright: ignore[reportUnknownMemberType]
        if known:
            self._passed.set(self.updates, self._passed.count)
        self._keep_average()  # `.to(torch.bfloat16)` of the module that holds the teacher arrives here
        return self

    def __getstate__(self) -> dict[str, Any]:
        # A copy follows another encoder, and its counter starts with another version.
        return {**vars(self), "_pairs": None, "_watch": StepWatch(), "_passed": _HostCount()}

    def _keep_average(self) -> None:
        """Where the copy that runs is in half precision, its float32 average is kept beside it."""
        if any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in _tensors(self.target_model)):
            if self.average is None and sharded(self.target_model.modules()):
                raise ValueError(
                    "teacher.target_model is in half precision now and was sharded before, so its float32 average "
                    "cannot be put beside it; cast before fully_shard, or give fully_shard a MixedPrecisionPolicy."
                )
            self.average = (deepcopy(self.target_model) if self.average is None else self.average).float()
        elif self.average is not None:  # the more precise of the two, and no longer of use
            with torch.no_grad():
                for tensor, precise in zip(_tensors(self.target_model), _tensors(self.average), strict=True):
                    tensor.copy_(precise)
            self.average = None

    def forward(self, encoder: Encoder[Any], target: Any) -> Embeddings | Encoded:
        if self.training:
            self._watch.used = True
            if not torch.compiler.is_compiling() and self.momentum != 1.0:
                self._watch.forward(encoder)
        with torch.no_grad():
            return self.target_model(target)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        if self.momentum != 1.0:
            self._watch.saved()
        super()._save_to_state_dict(destination, prefix, keep_vars)  # pyright: ignore[reportUnknownMemberType]

    def update(self, encoder: nn.Module) -> None:
        """Moves the teacher towards `encoder`: once per optimizer step, after it.

        Raises:
            TypeError: the encoder is no module.
            ValueError: the encoder's tensors are not those of the encoder that was copied, or not sharded alike.
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
        """Becomes a copy of `encoder` as it is now, and counts its updates from 0."""
        pairs = self._pairs = self._paired(encoder)
        pairs.move(1.0)
        self.updates.zero_()

    def _paired(self, encoder: nn.Module) -> Pairs:
        _check_module(encoder)
        average, run = (self.target_model, None) if self.average is None else (self.average, self.target_model)
        return Pairs(self, average, run, encoder, self._left_out, self._averages_buffers)

    def _momentum(self) -> float:
        if not callable(self.momentum) and not self.warmup:
            return self.momentum
        passed = self._passed.read(self.updates)
        momentum = value_at(self.momentum, passed, "momentum", closed_fraction)
        return warmed_up(momentum, passed) if passed < self.warmup else momentum


class _HostCount:
    """The value of a counter that lives on the device, as long as nobody else wrote to it: no need to wait for it."""

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
        if not self.holds(counter):  # it was loaded, perhaps
            self.set(counter, int(counter))
        return self.count


class _Excluded(nn.Module):
    """Stands where a submodule was that the target branch does not run."""

    name = ""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def _sentence(self) -> str:
        return f"the target branch uses {self.name!r}, which EMATeacher excludes and has no copy of; do not exclude it."

    def forward(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError(self._sentence())

    __getitem__ = forward  # heads in a list

    def __getattr__(self, _: str) -> NoReturn:
        raise AttributeError(self._sentence())


def _copy(encoder: nn.Module, exclude: set[str]) -> nn.Module:
    found: dict[str, nn.Module] = {}
    for path, module in walk(encoder):
        found.setdefault(path.removesuffix("."), module)  # a wrapper comes before what it wraps
    if unknown := sorted(name for name in exclude if not name or name not in found):
        raise ValueError(
            f"exclude names {unknown}, but the encoder's submodules are {sorted(filter(None, found))}; name some of "
            f"these."
        )
    if sharded(module for _, module in walk(encoder, {f"{name}." for name in exclude})):
        raise ValueError(
            "encoder was given to fully_shard already, and torch cannot copy what is sharded; build "
            "EMATeacher(encoder) first, then apply fully_shard to encoder and teacher.target_model alike."
        )
    # deepcopy takes what its memo has for the copy, so nothing of what is excluded is copied.
    return deepcopy(encoder, {id(found[name]): _Excluded(name) for name in exclude})


def _check_module(encoder: object) -> None:
    if not isinstance(encoder, nn.Module):
        raise TypeError(
            f"encoder is a {type(encoder).__name__}, but EMATeacher copies and follows an nn.Module; make your encoder "
            f"one, or use StopGradTeacher, which takes any callable."
        )


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return chain(module.parameters(), module.buffers())


def _is_first(name: str, value: str, first: str, second: str) -> bool:
    if value not in (first, second):
        raise ValueError(f"{name} is {value!r}, but must be {first!r} or {second!r}.")
    return value == first
