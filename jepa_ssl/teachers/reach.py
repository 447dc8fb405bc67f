"""Find what the attributes and functions of a module reach outside `parameters()` and `deepcopy`."""

import dis
from collections.abc import Iterator, Mapping
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, cast
from weakref import ReferenceType

from torch import Tensor, nn

from jepa_ssl.names import submodules

DEPTH = 10  # limit on the nesting of containers, closures and objects
_REGISTERED = ("_modules", "_parameters", "_buffers")


def attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the unregistered attributes and hooks of a module and its submodules: dotted name and value."""
    for path, part in submodules(module):
        for name, value in vars(part).items():
            dotted = f"{path}.{name}".removeprefix(".")
            if name.endswith("_hooks") and isinstance(value, Mapping):
                yield from ((dotted, hook) for hook in cast(Mapping[int, Any], value).values())
            elif name not in _REGISTERED:
                yield dotted, value


def outsiders(module: nn.Module) -> list[tuple[str, Any]]:
    """Return the attributes of `module` that reach a trained tensor outside it."""
    registered = {id(thing) for part in module.modules() for thing in (part, *part.parameters(recurse=False))}

    def is_outside(thing: object) -> bool:
        if id(thing) in registered:
            return False
        parameters = thing.parameters() if isinstance(thing, nn.Module) else [thing]
        return any(
            isinstance(p, Tensor) and p.is_leaf and p.requires_grad and id(p) not in registered for p in parameters
        )

    held = [*attributes(module), *_forwards(module)]
    return [(name, value) for name, value in held if any(map(is_outside, reached(value)))]


def _forwards(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the `forward` of each class, because it may use a global module."""
    for path, part in submodules(module):
        for kind in type(part).__mro__:
            if "forward" in vars(kind) and not kind.__module__.startswith("torch."):
                yield f"{path}.forward".removeprefix("."), vars(kind)["forward"]


def reached(value: object, depth: int = DEPTH, seen: dict[int, object] | None = None) -> Iterator[object]:
    """Yield the modules and tensors that `value` reaches through containers, functions and objects, but not modules."""
    seen = {} if seen is None else seen
    if id(value) in seen or depth == 0:
        return
    seen[id(value)] = value  # kept alive, so that no other object gets its id
    if isinstance(value, nn.Module | Tensor):
        yield value
        return
    for part in _parts(value):
        yield from reached(part, depth - 1, seen)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(cast(Mapping[Any, Any], value).values())
    if isinstance(value, list | tuple | set | frozenset):
        return list(cast(list[Any], value))
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, FunctionType):
        return [_of_closure(value), value.__defaults__, value.__kwdefaults__, vars(value), _globals(value)]
    if isinstance(value, ReferenceType):
        return [cast("ReferenceType[Any]", value)()]
    if isinstance(value, type | ModuleType):
        return []
    return [vars(value)] if hasattr(value, "__dict__") else []


def _of_closure(function: FunctionType) -> list[Any]:
    cells: list[Any] = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # not filled yet
            continue
    return cells


def _globals(function: FunctionType) -> list[Any]:
    """Return the global modules and tensors that a function names, and the functions of the same file."""
    known = function.__globals__
    values = [known[name] for name in _global_names(function.__code__) if name in known]
    return [
        value
        for value in values
        if isinstance(value, nn.Module | Tensor) or (isinstance(value, FunctionType) and value.__globals__ is known)
    ]


def _global_names(code: CodeType) -> Iterator[str]:
    yield from (str(step.argval) for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _global_names(inner)
