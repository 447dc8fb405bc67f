"""Match the tensors of a teacher and its student by name, until one of them is replaced."""

# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false
# torch's operations on lists of tensors have private names.

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor, nn

from jepa_ssl.names import is_wrapper
from jepa_ssl.teachers.shards import layout, local, part_here, sharded

Walk = list[tuple[str, nn.Module]]
Lists = tuple[list[Tensor], list[Tensor]]  # teacher, student

version: Callable[[Tensor], int] = attrgetter("_version")  # number of writes to a tensor
_dtype: Callable[[Tensor], torch.dtype] = attrgetter("dtype")
_AVERAGED = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128)
_END = object()  # without it, a removal at the end would go unnoticed


def _walk(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield all submodules by path, `"trunk.1."`, without the prefixes of `torch.compile` and DDP."""
    yield path, module
    wraps = is_wrapper(module)
    for name, child in module.named_children():
        yield from _walk(child, path if wraps else f"{path}{name}.")


def named_tensors(modules: Walk) -> dict[str, Tensor]:
    """Return parameters and buffers by name. A shared tensor has its first name."""
    named = {path + name: tensor for path, module in modules for name, tensor in _own(module).items()}
    first = {id(tensor): name for name, tensor in reversed(named.items())}
    return {name: tensor for name, tensor in named.items() if first[id(tensor)] == name}


def _own(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}


def _floating(module: nn.Module) -> list[Tensor]:
    return [tensor for tensor in _own(module).values() if tensor.is_floating_point()]


class Pairs:
    """Pair each tensor of the teacher with the tensor of the student that it follows.

    Building the pairs takes longer than the average itself. So they are built once, and again if `hold` returns False
    because a tensor or module was replaced: by `.to`, by loading or by hand. Each process updates its own part of
    sharded tensors, without communication.

    Args:
        owner: the teacher, with `average` and `run` as children.
        average: follows the student.
        run: a copy of `average` in another precision, if there is one.

    Raises:
        ValueError: teacher and student have different tensors, or are sharded differently.
    """

    def __init__(self, owner: nn.Module, average: nn.Module, run: nn.Module | None, student: nn.Module) -> None:
        walks = [list(_walk(root)) for root in (student, average, run) if root is not None]
        self._sharded = sharded(module for modules in walks for _, module in modules)
        self._reshard()
        named = [named_tensors(modules) for modules in walks]
        online, teacher = named[:2]
        _check_match(teacher, online)
        _check_layouts(named)
        parameters = {id(p) for p in average.parameters()}
        moving = {
            name: tensor
            for name, tensor in teacher.items()
            if can_be_averaged(tensor) and (id(tensor) in parameters or _is_finite(tensor))
        }
        alike = [name for name, tensor in moving.items() if tensor.dtype == online[name].dtype]
        self._alike = _both(teacher, online, alike)
        self._unlike = _both(teacher, online, [name for name in moving if teacher[name].dtype != online[name].dtype])
        copied = [name for name in teacher if name not in moving]
        self._copied = _both(teacher, online, [name for name in copied if teacher[name].layout == torch.strided])
        self._sparse = _both(teacher, online, [name for name in copied if teacher[name].layout != torch.strided])
        self._run: Lists = ([], [])
        if run is not None:
            dense = [name for name in teacher if teacher[name].layout == torch.strided]
            self._run = _both(named[2], teacher, dense)
            sparse = _both(named[2], teacher, [name for name in teacher if name not in dense])
            self._sparse = self._sparse[0] + sparse[0], self._sparse[1] + sparse[1]
        plain = all(type(tensor) in (Tensor, nn.Parameter) for tensor in chain(teacher.values(), online.values()))
        # inference_mode is faster, but works for plain tensors only.
        self._without_grad = torch.inference_mode() if plain else torch.no_grad()
        self.trainable = [tensor for tensor in online.values() if tensor.requires_grad]
        self._distributed = [tensor for tensors in named for tensor in tensors.values() if layout(tensor)]
        self._parts_here = list(map(part_here, self._distributed))
        self._remember(owner, student, walks)

    def _remember(self, owner: nn.Module, student: nn.Module, walks: list[Walk]) -> None:
        self._student = student
        places = [vars(m)[kind] for w in walks for _, m in w for kind in ("_parameters", "_buffers", "_modules")]
        of_student = 3 * len(walks[0])  # empty places are kept here too, because they may be filled later
        # Views of dictionaries stay up to date.
        self._places: list[Any] = [place.values() for i, place in enumerate(places) if place or i < of_student]
        self._places.append(vars(owner)["_modules"].values())
        self._places.append((_END,))
        self._things = list(chain.from_iterable(self._places))
        # `.half()` keeps the parameter objects. It casts whole modules, so checking one tensor of each is enough.
        firsts = [[tensor for _, m in w for tensor in _floating(m)[:1]] for w in walks]
        self._some = [*firsts[0], *(tensor for of_teacher in firsts[1:] for tensor in of_teacher[:1])]
        self._dtypes = list(map(_dtype, self._some))

    def hold(self, student: nn.Module) -> bool:
        """Whether these are still the tensors of teacher and student."""
        self._reshard()
        return (
            student is self._student
            and all(map(is_, chain.from_iterable(self._places), self._things))
            and list(map(_dtype, self._some)) == self._dtypes
            and all(map(is_, map(part_here, self._distributed), self._parts_here))
        )

    def _reshard(self) -> None:
        # After a forward pass without a backward pass FSDP leaves the root unsharded, with other parameters.
        for module in self._sharded:
            module.reshard()

    def move(self, share: float) -> None:
        """Set the teacher to `teacher + share * (student - teacher)`."""
        # lerp instead of mul and add, so that a teacher that equals its student stays exactly equal.
        with self._without_grad:
            if share:  # at share 0 NaNs of a diverged encoder must not reach the teacher
                if self._alike[0]:
                    torch._foreach_lerp_(*self._alike, share)
                if self._unlike[0]:
                    teacher, student = self._unlike
                    torch._foreach_lerp_(teacher, [o.to(t.dtype) for t, o in zip(teacher, student, strict=True)], share)
            if self._copied[0]:
                torch._foreach_copy_(*self._copied)
            for teacher, student in zip(*self._sparse, strict=True):
                _copy_sparse(teacher, student)
            if self._run[0]:
                torch._foreach_copy_(*self._run)


def can_be_averaged(tensor: Tensor) -> bool:
    """Whether torch can average such tensors: not sparse ones, and not those of 8 bits."""
    return tensor.layout == torch.strided and tensor.dtype in _AVERAGED


def _copy_sparse(teacher: Tensor, student: Tensor) -> None:
    if teacher.layout != torch.sparse_coo:  # the other layouts keep their number of values
        teacher.resize_as_sparse_(student)
    teacher.copy_(student)


def _is_finite(buffer: Tensor) -> bool:
    """Whether a buffer can be averaged: an attention mask of -inf and 0 would become NaN."""
    return buffer.is_meta or bool(local(buffer).isfinite().all())


def _both(teacher: Mapping[str, Tensor], student: Mapping[str, Tensor], names: list[str]) -> Lists:
    return [local(teacher[name]) for name in names], [local(student[name]) for name in names]


def _check_match(teacher: Mapping[str, Tensor], student: Mapping[str, Tensor]) -> None:
    if teacher.keys() != student.keys():
        raise ValueError(
            f"encoder lacks {sorted(teacher.keys() - student.keys())} and adds "
            f"{sorted(student.keys() - teacher.keys())} compared with the encoder that EMATeacher copied; update with "
            f"that encoder, and build it in full before the copy."
        )
    for name, tensor in teacher.items():
        if tensor.shape != student[name].shape:
            raise ValueError(
                f"encoder has {name} of shape {list(student[name].shape)}, but EMATeacher copied it as "
                f"{list(tensor.shape)}; update with the encoder that was copied."
            )


def _check_layouts(named: list[dict[str, Tensor]]) -> None:
    """Raise a ValueError if encoder, average and running copy are sharded differently."""
    parts = ("encoder", *(("teacher.average",) if len(named) > 2 else ()), "teacher.target_model")
    for name in named[0]:
        layouts = [layout(tensors[name]) for tensors in named]
        if any(other != layouts[0] for other in layouts):
            raise ValueError(
                f"{name} is {', '.join(f'{_said(lay)} in {part}' for lay, part in zip(layouts, parts, strict=True))}; "
                f"apply the same fully_shard to all of these, and call reshard() of a sharded module that holds one."
            )


def _said(layout: tuple[object, object] | None) -> str:
    return "whole" if layout is None else f"sharded by {layout[1]} over {layout[0]}"
