"""Teachers: who embeds the target view. They differ in whose weights they use, and are exchanged by one argument."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn

from jepa_ssl.checks import closed_fraction
from jepa_ssl.protocols import Embeddings, Encoded, Encoder


class StopGradTeacher:
    """The encoder itself, without gradient: SimSiam. No copy, no state.

    Source: Chen and He, "Exploring simple Siamese representation learning", CVPR 2021.
    """

    def __call__(self, encoder: Encoder[Any], target: Any) -> Embeddings | Encoded:
        with torch.no_grad():
            return encoder(target)

    def update(self, encoder: Encoder[Any]) -> None:
        """Nothing to do: the teacher is the encoder."""


class EMATeacher(nn.Module):
    """A slow copy of the encoder: after each optimizer step, `t <- momentum * t + (1 - momentum) * o`.

    Parameters and floating point buffers are averaged (buffers that are not saved, too), other buffers are copied. The
    average is kept in float32 at least, for in bfloat16 at momentum 0.999 it would never move. The copy stays in eval
    mode whatever happens to the module that holds it, and takes no gradient.

    Source: BYOL (Grill et al., "Bootstrap your own latent", NeurIPS 2020), equation 1.

    Args:
        encoder: the online encoder; copied as it is now.
        momentum: in [0, 1]; at 0 the teacher is the encoder after its last step, at 1 it never moves.
    """

    updates: Tensor  # how many there have been, int64; a buffer, so that it is saved and resumed

    def __init__(self, encoder: nn.Module, momentum: float = 0.996) -> None:
        super().__init__()
        self.momentum = closed_fraction("momentum", momentum)
        self.target_model = deepcopy(encoder).requires_grad_(False).eval()
        self.average: nn.Module | None = None
        self._keep_average()
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def train(self, mode: bool = True) -> "EMATeacher":
        super().train(mode)
        self.target_model.eval()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "EMATeacher":
        super()._apply(fn, recurse)  # pyright: ignore[reportUnknownMemberType]
        self._keep_average()  # `.to(torch.bfloat16)` of the module that holds the teacher arrives here
        return self

    def _keep_average(self) -> None:
        """Where the copy that runs is in half precision, its float32 average is kept beside it."""
        if _has_low_precision(self.target_model):
            self.average = (deepcopy(self.target_model) if self.average is None else self.average).float()

    def forward(self, encoder: Encoder[Any], target: Any) -> Embeddings | Encoded:
        with torch.no_grad():
            return self.target_model(target)

    @torch.no_grad()
    def update(self, encoder: nn.Module) -> None:
        """Moves the teacher towards `encoder`: once per optimizer step, after it.

        Raises:
            ValueError: the encoder's tensors are not those of the encoder that was copied.
        """
        teacher = _tensors(self.target_model if self.average is None else self.average)
        student = _tensors(encoder)
        _check_match(teacher, student)
        averaged = [name for name, tensor in teacher.items() if tensor.is_floating_point()]
        # lerp, not mul and add: a teacher that equals its student stays exactly equal.
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
            [teacher[name] for name in averaged],
            [student[name].to(teacher[name].dtype) for name in averaged],
            1.0 - self.momentum,
        )
        for name in teacher.keys() - set(averaged):
            teacher[name].copy_(student[name])
        if self.average is not None:
            for run, kept in zip(_tensors(self.target_model).values(), teacher.values(), strict=True):
                run.copy_(kept)
        self.updates += 1


def _has_low_precision(module: nn.Module) -> bool:
    return any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in _tensors(module).values())


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, without the prefixes that `torch.compile` and DDP put in front."""
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for wrapper in reversed(_wrappers(module)):  # the innermost first
        unwrapped = wrapper[: wrapper.rstrip(".").rfind(".") + 1]
        named = {
            unwrapped + name.removeprefix(wrapper) if name.startswith(wrapper) else name: tensor
            for name, tensor in named.items()
        }
    return named


def _wrappers(module: nn.Module) -> list[str]:
    """Prefixes of names that stand for a wrapper: a module with nothing of its own but one child of a wrapper's name.

    A model's own attribute `module` with others beside it is no wrapper, and keeps its name.
    """
    prefixes: list[str] = []
    modules = cast(Iterator[tuple[str, nn.Module]], module.named_modules())  # pyright: ignore[reportUnknownMemberType]
    for path, parent in modules:
        children = [name for name, _ in parent.named_children()]
        own = (*parent.parameters(recurse=False), *parent.buffers(recurse=False))
        if children in (["_orig_mod"], ["module"]) and not own:
            prefixes.append(f"{path}.{children[0]}.".removeprefix("."))
    return prefixes


def _check_match(teacher: dict[str, Tensor], student: dict[str, Tensor]) -> None:
    if teacher.keys() != student.keys():
        raise ValueError(
            f"encoder lacks {sorted(teacher.keys() - student.keys())} and adds "
            f"{sorted(student.keys() - teacher.keys())} against the encoder that EMATeacher copied; update with that "
            f"same encoder, built in full before the copy."
        )
    for name, tensor in teacher.items():
        if tensor.shape != student[name].shape:
            raise ValueError(
                f"encoder has {name} of shape {list(student[name].shape)}, but EMATeacher copied it as "
                f"{list(tensor.shape)}; update with the encoder that was copied."
            )
