"""Copy an encoder so that the copy shares nothing with it, or explain why that is impossible."""

# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false
# torch's test whether a tensor overlaps itself has a private name.

from collections.abc import Iterator
from copy import deepcopy
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn

from jepa_ssl.checks import warn_caller
from jepa_ssl.names import submodules
from jepa_ssl.teachers.reach import attributes, outsiders, reached
from jepa_ssl.teachers.shards import sharded

_PLAIN = (bool, int, float, type(None))
_SPARSE = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


def independent_copy(encoder: nn.Module) -> nn.Module:
    """Return a deep copy of `encoder` in which each parameter and buffer has its own memory.

    Tensors that torch cannot copy are copied without their graph: cached activations, for example, or the weights that
    `weight_norm` and pruning compute.

    Raises:
        ValueError: something cannot be copied, or the copy would share it; the message names the attribute.
    """
    _check_tensors(encoder)
    memo = without_graph(encoder)
    try:
        copied = deepcopy(encoder, dict(memo))
    except Exception as error:  # any exception: each module may define how it is copied
        raise ValueError(
            f"encoder cannot be copied, because of {_culprit(encoder, memo)} ({type(error).__name__}: {error}); remove "
            f"it while EMATeacher is built, or build a second encoder in the same way and give it: "
            f"EMATeacher(encoder, copy=second)."
        ) from error
    check_separate(copied, encoder)
    _give_own_memory(copied)
    return copied


def without_graph(module: nn.Module) -> dict[int, Any]:
    """Copy the tensors in `module` that torch cannot copy: the memo of a `deepcopy`, by id."""
    plain = [thing for _, value in attributes(module) for thing in reached(value) if isinstance(thing, Tensor)]
    return {
        id(tensor): tensor.detach().clone()
        for tensor in chain(plain, module.buffers())
        if not tensor.is_leaf or tensor.layout in _SPARSE
    }


def check_separate(copied: nn.Module, encoder: nn.Module) -> None:
    """Raise a ValueError if `copied` has a module, a parameter or a buffer of `encoder`."""
    own = {id(part) for part in encoder.modules()} | {_memory(tensor) for tensor in _tensors(encoder)}
    shared = [name or type(part).__name__ for name, part in submodules(copied) if id(part) in own]
    named = chain(copied.named_parameters(), copied.named_buffers())
    shared += [name for name, tensor in named if _memory(tensor) in own]
    if shared:
        raise ValueError(
            f"the copy of encoder shares {shared} with it, but EMATeacher needs its own weights; let __deepcopy__ copy "
            f"them, or build a second encoder in the same way and give it: EMATeacher(encoder, copy=second)."
        )


def take_plain_attributes(copied: nn.Module, encoder: nn.Module) -> None:
    """Set flags and numbers of the copy to those of the encoder, such as the `self.ready = True` of a first batch."""
    named = dict(submodules(encoder))
    for path, part in submodules(copied):
        of_encoder = vars(named[path]) if path in named else {}
        for name, value in vars(part).items():
            new = of_encoder.get(name, value)
            if name != "training" and type(value) in _PLAIN and type(new) in _PLAIN and new != value:
                vars(part)[name] = new


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return chain(module.parameters(), module.buffers())


def _memory(tensor: Tensor) -> int:
    """The address of a tensor's storage, or the tensor's id if it has none."""
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided and not tensor.is_meta
    return (plain and tensor.untyped_storage().data_ptr()) or id(tensor)


def _check_tensors(encoder: nn.Module) -> None:
    for name, part in submodules(encoder):
        if isinstance(part, torch.jit.ScriptModule):
            raise ValueError(
                f"encoder is a ScriptModule{name and ' in its ' + name}, which cannot be frozen; give EMATeacher the "
                f"module that torch.jit compiled, or use torch.compile."
            )
    for name, tensor in chain(encoder.named_parameters(), encoder.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            raise ValueError(
                f"encoder's {name} has no shape yet; run the encoder on one batch before EMATeacher(encoder)."
            )
        if tensor.is_inference() or torch.is_inference_mode_enabled():
            raise ValueError(
                f"encoder's {name} is built or copied under torch.inference_mode(), which is for tensors that never "
                f"change; build encoder and EMATeacher outside it."
            )
        if tensor.is_nested or (tensor.layout in _SPARSE and isinstance(tensor, nn.Parameter)):
            kind = "a nested tensor" if tensor.is_nested else "a sparse parameter"
            raise ValueError(
                f"encoder's {name} is {kind}, which EMATeacher cannot average; make it dense, or a sparse buffer, "
                f"which is copied."
            )


def _culprit(encoder: nn.Module, memo: dict[int, Any]) -> str:
    """Describe the attribute that `deepcopy` fails on."""
    modules = {id(part): part for part in encoder.modules()}  # each is tried by itself
    registered = chain(encoder.named_parameters(), encoder.named_buffers())
    for name, value in chain(attributes(encoder), registered):
        try:
            deepcopy(value, {**memo, **modules})
        except Exception:
            return f"its attribute {name}, a {type(value).__name__}"
    return f"the __deepcopy__ or __getstate__ of {type(encoder).__name__} or of a part of it"


def _give_own_memory(copied: nn.Module) -> None:
    """Give expanded and overlapping tensors their own memory, because they cannot be averaged in place."""
    taken: dict[int, list[tuple[int, int]]] = {}
    for tensor in _tensors(copied):
        if (memory := _memory(tensor)) == id(tensor):
            continue
        last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        start, end = tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()
        parts = taken.setdefault(memory, [])
        if torch._debug_has_internal_overlap(tensor) or any(start < there and begin < end for begin, there in parts):
            tensor.data = tensor.detach().clone(memory_format=torch.contiguous_format)
        else:
            parts.append((start, end))


# ---- does the copy run its own weights? --------------------------------------------------------------------


def check_runs_alone(copied: nn.Module, made: Any, encoder: object) -> bool:
    """Check that `made`, the output of the frozen copy with gradients enabled, depends on no other parameters.

    Returns whether `made` carries a gradient, which can then only come from the target.

    Raises:
        ValueError: it depends on parameters that are not the copy's.
    """
    with_gradient = [z for z in reached(made) if isinstance(z, Tensor) and z.requires_grad]
    leaves = list(leaves_of(with_gradient))
    held = {id(thing) for _, value in attributes(copied) if leaves for thing in reached(value)}
    others = [leaf for leaf in leaves if isinstance(leaf, nn.Parameter) or id(leaf) in held]
    if others:
        names = {id(p): n for n, p in encoder.named_parameters()} if isinstance(encoder, nn.Module) else {}
        found = sorted(names[id(p)] for p in others if id(p) in names)
        what = f"the encoder's own {found}" if found else f"{len(others)} trained tensors that are not registered in it"
        raise ValueError(f"the teacher's copy of the encoder runs {what}, which update does not move{_where(copied)}")
    return bool(with_gradient)


def warn_of_outsiders(copied: nn.Module) -> None:
    """Warn if attributes of the copy reach trained parameters outside it, when no forward pass could be checked."""
    # A sharded module reaches the other modules of its group.
    if not sharded(copied.modules()) and outsiders(copied):
        warn_caller(
            f"the teacher's copy of the encoder reaches trained parameters that update does not move{_where(copied)}"
        )


def _where(copied: nn.Module) -> str:
    found = outsiders(copied)
    if not found:
        return "; keep every module as an attribute of the encoder, and call it as self.name."
    name, value = found[0]
    if not callable(value) or isinstance(value, nn.Module):
        return (
            f": they are in its attribute {name}, a {type(value).__name__}; register them, in an nn.ModuleList, an "
            f"nn.ModuleDict or as nn.Parameter."
        )
    owner, _, last = name.rpartition(".")
    if last == "run":
        return f": its {name} calls a model from outside; call its argument instead, run=lambda model, x: model(x)."
    if hasattr(value, "_torchdynamo_orig_callable"):
        return (
            f": its {name} is a compiled function, and copies share functions; use {owner or 'encoder'}.compile() "
            f"instead, or assign it after EMATeacher(encoder)."
        )
    return (
        f": its {name} is a function that holds a module, and copies share functions; let it use an attribute of the "
        f"encoder, self.model, or assign it after EMATeacher(encoder)."
    )


def leaves_of(tensors: list[Tensor]) -> Iterator[Tensor]:
    """Yield the leaves of the graph of `tensors`, all of which require gradients."""
    nodes: list[Any] = [cast(Any, torch.autograd.graph.get_gradient_edge(z)).node for z in tensors]
    seen: set[Any] = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        nodes += [following for following, _ in node.next_functions]
