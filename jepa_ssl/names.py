"""Names of a module's tensors without the prefixes of `torch.compile` and DDP, and keys for streams."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, cast

from torch import nn

T = TypeVar("T")

# torch refuses these names, because they would hide an attribute of the container.
_TAKEN = frozenset((*dir(nn.ModuleDict()), *dir(nn.ParameterDict())))
_CODED = "stream="


def without_wrappers(module: nn.Module, named: Mapping[str, T]) -> dict[str, T]:
    """Remove the prefixes of `torch.compile` and DDP from the keys of `named`, which are names inside `module`.

    >>> model = nn.Sequential(nn.Linear(1, 1), nn.DataParallel(nn.Linear(1, 1)))
    >>> [*model.state_dict()]
    ['0.weight', '0.bias', '1.module.weight', '1.module.bias']
    >>> [*without_wrappers(model, model.state_dict())]
    ['0.weight', '0.bias', '1.weight', '1.bias']
    """
    clean = dict(named)
    for wrapper in reversed(_wrappers(module)):  # the innermost first
        unwrapped = wrapper[: wrapper.rstrip(".").rfind(".") + 1]
        clean = {
            unwrapped + name.removeprefix(wrapper) if name.startswith(wrapper) else name: value
            for name, value in clean.items()
        }
    return clean


def _wrappers(module: nn.Module) -> list[str]:
    """Prefixes of names that come from a wrapper."""
    prefixes: list[str] = []
    # With duplicates, because a module in two places has two names.
    for path, parent in submodules(module, remove_duplicate=False):
        if is_wrapper(parent):
            (child,) = (name for name, _ in parent.named_children())
            prefixes.append(f"{path}.{child}.".removeprefix("."))
    return prefixes


def submodules(module: nn.Module, *, remove_duplicate: bool = True) -> Iterator[tuple[str, nn.Module]]:
    """`module.named_modules()` with its types, which torch does not declare."""
    named = module.named_modules(remove_duplicate=remove_duplicate)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return cast(Iterator[tuple[str, nn.Module]], named)


def unwrapped(module: Any) -> Any:
    """The module inside the wrappers of `torch.compile` and DDP; anything else unchanged.

    >>> unwrapped(nn.DataParallel(nn.DataParallel(nn.ReLU())))
    ReLU()
    """
    while isinstance(module, nn.Module) and is_wrapper(module):
        (module,) = module.children()
    return module


def is_wrapper(module: nn.Module) -> bool:
    """Whether `torch.compile`, DDP or activation checkpointing made the module: it has no tensors and one child.

    A module that has `module` and other attributes is not a wrapper.
    """
    children = [name for name, _ in module.named_children()]
    own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    return children in (["_orig_mod"], ["module"], ["_checkpoint_wrapped_module"]) and not own


def key_of(stream: str) -> str:
    """The key of a stream in a `ModuleDict` or `ParameterDict`: its name, unless torch refuses that one.

    Raises a TypeError if the name is not a string.

    >>> key_of("constraint"), key_of("items"), key_of("a.b"), key_of("")
    ('constraint', 'stream=items', 'stream=a%2Eb', 'stream=')
    """
    if not isinstance(stream, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"a stream is named {stream!r}, a {type(stream).__name__}, but its name must be a string; name it "
            f"{'__'.join(map(str, stream)) if isinstance(stream, tuple) else str(stream)!r}, for example."
        )
    if stream and "." not in stream and stream not in _TAKEN and not stream.startswith(("_", _CODED)):
        return stream
    return _CODED + stream.replace("%", "%25").replace(".", "%2E")
