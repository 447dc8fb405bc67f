"""Take what a module made in the task's forward pass, in place of running it again on the same input."""

# pyright: reportPrivateUsage=false
# torch counts the writes to a tensor, and keeps a compiled module's call, under private names.

import random
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from operator import attrgetter, is_
from threading import get_ident
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._pytree import tree_leaves, tree_map_only

from jepa_ssl.sameness import LARGEST, SAME_THING, Leaf, flat, is_unchanged, same, version

_WITH_MEMORY = {Tensor, nn.Parameter}
_MARKS: tuple[Callable[[Tensor], int], ...] = (attrgetter("_version"), attrgetter("requires_grad"), Tensor.data_ptr)
_CHANGING = ("torch.distributed", "torch.nn.parallel", "torch._dynamo", "torch.jit")  # what a call does beyond forward
_OF_TORCH = {*vars(nn.Module()), "forward"}  # what every module has
_RANDOM = frozenset({"random", "numpy", "np"})  # names in a forward that may draw numbers which torch does not


@dataclass
class _Call:
    """A call of a module: what it was given, what the modules around it were then, and what it returned."""

    given: list[Any]
    settings: list[Any]
    state: tuple[list[Any], list[Any]]
    random: list[Any]
    output: Any = None
    made: list[Any] | None = None  # the tensors of the output, and of what its parts returned; None until it has ended
    parts: dict[nn.Module, tuple[Any, Any, Any]] = field(default_factory=dict[nn.Module, tuple[Any, Any, Any]])


class SharedPass:
    """What some modules made in one forward pass, for another pass on the same input.

    A call is shared only if a second call would give the same. The module ran once, on the same tensors (on a CPU also
    on equal ones), with the same weights, attributes, modes, autocast and precision. It drew no random numbers, wrote
    to no buffer or attribute, and nobody wrote to its output later or went backward through it. It is not compiled,
    sharded, or wrapped by DDP for example. All other calls run as they would without this class. What cannot be seen:
    state in a global variable, a class or a closure; a write through `.data` or NumPy; a backward that clips gradients.
    """

    def __init__(self) -> None:
        self._calls: dict[nn.Module, list[_Call]] = {}
        self._served: set[nn.Module] = set()  # those whose calls were reused the last time; others need not be recorded
        self._repeatable: dict[nn.Module, tuple[list[nn.Module], bool]] = {}

    def __reduce__(self) -> Any:
        return SharedPass, ()  # nothing of it outlives a step

    @contextmanager
    def recorded(self, modules: Iterable[nn.Module], parts: Iterable[nn.Module] = ()) -> Generator[None]:
        """Keep what `modules` return in the block, and what `parts`, submodules of theirs, return in each call."""
        thread, self._calls = get_ident(), {}
        modules = [module for module in modules if not self._served or module in self._served]
        self._served = set()

        def begin(module: nn.Module, args: Any, kwargs: Any) -> None:
            if not torch.compiler.is_compiling() and get_ident() == thread:
                inside = _inside(module)
                given = flat((args, kwargs)) if self._is_repeatable(module, inside) else [object()]  # equals nothing
                call = _Call(given, _settings(given), _state(inside), _random_states(given))
                self._calls.setdefault(module, []).append(call)

        def end(module: nn.Module, _: Any, output: Any) -> None:
            if not torch.compiler.is_compiling() and get_ident() == thread and module in self._calls:
                call = self._calls[module][-1]
                made = [output, [made for *_, made in call.parts.values()]]
                call.output, call.made = output, flat(made)
                if not all(map(_is_equal, call.random, _random_states(call.given))) or not _can_be_copied(made):
                    call.given = [object()]
                for tensor in _with_graph(call):  # a graph that the task went through may be freed
                    hooks.callback(_when_passed(tensor, lambda: setattr(call, "given", [object()])))

        def keep(part: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if not torch.compiler.is_compiling() and get_ident() == thread:
                for *_, call in self._calls.values():
                    if call.made is None:
                        call.parts[part] = args, kwargs, output

        with ExitStack() as hooks:
            for module in modules:
                hooks.callback(module.register_forward_pre_hook(begin, with_kwargs=True).remove)
                hooks.callback(module.register_forward_hook(end, prepend=True).remove)
            for part in parts:
                hooks.callback(part.register_forward_hook(keep, prepend=True, with_kwargs=True).remove)
            try:
                yield
            except BaseException:
                self._calls = {}
                raise

    @contextmanager
    def reused(self) -> Generator[None]:
        """Return what was kept wherever a call in the block would give the same; forget it afterwards."""
        once = {module: calls[0] for module, calls in self._calls.items() if len(calls) == 1}
        calls = {module: call for module, call in once.items() if not any(map(_is_patched, _inside(module)))}
        self._calls = {}
        with ExitStack() as stack:
            for module, call in calls.items():
                if call.made is not None:
                    stack.enter_context(_forward(module, self._reusing(module, call)))
            yield

    def _reusing(self, module: nn.Module, call: _Call) -> Callable[..., Any]:
        """A `forward` that returns what `call` did if it would again."""
        forward, thread = module.forward, get_ident()

        def reuse(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling() or get_ident() != thread or not _fits(module, call, flat((args, kwargs))):
                return forward(*args, **kwargs)
            self._served.add(module)
            for part, (part_args, part_kwargs, made) in call.parts.items():
                with _forward(part, _returning(_copied(made))):
                    part(*part_args, **part_kwargs)  # for the hooks of the encoder
            return _copied(call.output)

        return reuse

    def _is_repeatable(self, module: nn.Module, inside: list[nn.Module]) -> bool:
        known = self._repeatable.get(module)
        if known is None or known[0] != inside:
            is_repeatable = all(map(is_plain, inside)) and not any(map(_draws_alone, inside))
            known = self._repeatable[module] = inside, is_repeatable
        is_itself = not _has_any_global_hook() and all(part._compiled_call_impl is None for part in inside)  # pyright: ignore
        return known[1] and is_itself


def _inside(module: nn.Module) -> list[nn.Module]:
    """A module and its submodules; quicker than `modules()`."""
    inside = [module]
    for part in inside:  # which grows
        inside += filter(None, part._modules.values())
    return inside


def is_plain(module: nn.Module) -> bool:
    """Whether a call is one of the `forward` of its class: it is not compiled, wrapped or sharded."""
    is_own = not _is_patched(module) and module._compiled_call_impl is None  # pyright: ignore
    return is_own and not any(kind.__module__.startswith(_CHANGING) for kind in type(module).__mro__)


def _is_patched(module: nn.Module) -> bool:
    return "forward" in vars(module)


def _copied(made: Any) -> Any:
    """Tensors of its own, as a second call makes: who writes to them or hooks them leaves those of the task alone."""
    return tree_map_only(Tensor, Tensor.clone, made)


def _can_be_copied(made: Any) -> bool:
    return all(isinstance(leaf, (Tensor, *SAME_THING)) for leaf in tree_leaves(made))


def _returning(made: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: made


@contextmanager
def _forward(module: nn.Module, forward: Callable[..., Any]) -> Generator[None]:
    vars(module)["forward"] = forward
    try:
        yield
    finally:
        del vars(module)["forward"]


def _fits(module: nn.Module, call: _Call, given: list[Any]) -> bool:
    """Whether `module` would give the same again: what must be equal is compared, the cheapest first."""
    with_gradient = torch.is_grad_enabled()
    if with_gradient and (not call.settings[0] or _sees_gradients(module)):
        return False
    return (
        call.settings[1:] == _settings(given)[1:]
        and all(same(one, other, with_gradient) for one, other in zip(call.given, given, strict=False))
        and all(is_unchanged(thing) for thing in call.made or [])
        and _is_in_state(module, call.state)
    )


def _sees_gradients(module: nn.Module) -> bool:
    """Whether hooks may change its gradients: one pass would show them the sum of two."""
    hooks: list[Any] = [module._forward_hooks]  # pyright: ignore[reportUnknownMemberType]
    for part in _inside(module):
        hooks += part._backward_hooks, part._backward_pre_hooks  # pyright: ignore[reportUnknownMemberType]
    return any(hooks)


def _draws_alone(part: nn.Module) -> bool:
    """Whether it may draw random numbers that are not torch's global ones."""
    held = vars(part).values()
    has_own = any(
        isinstance(value, torch.Generator) or type(value).__module__.startswith(("random", "numpy.random"))
        for value in held
    )
    return has_own or not _RANDOM.isdisjoint(_names_in_methods(part))


def _names_in_methods(part: nn.Module) -> Iterator[str]:
    for kind in type(part).__mro__:
        if not kind.__module__.startswith("torch."):
            for name, value in vars(kind).items():
                if isinstance(value, FunctionType) and name != "__init__":
                    yield from _names(value.__code__)
                    for helper in map(value.__globals__.get, _names(value.__code__)):
                        if isinstance(helper, FunctionType):
                            yield from {"random"}.intersection(_names(helper.__code__))


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


def _state(inside: list[nn.Module]) -> tuple[list[Any], list[Any]]:
    """What a module holds, and how each tensor of it was written to, where it is, and the mode of each part."""
    places = (tensors for part in inside for tensors in (part._parameters, part._buffers))
    tensors = [tensor for place in places for tensor in place.values() if tensor is not None]
    others = [*inside, *_attributes(inside)]
    if not set(map(type, tensors)) <= _WITH_MEMORY:
        return tensors, [object()]
    try:
        marks = [list(map(mark, tensors)) for mark in _MARKS]
    except RuntimeError:  # of tensors in inference mode, whose writes nobody counts, and of sparse ones
        return tensors, [object()]
    versions = [version(other) for other in others if isinstance(other, Tensor)]
    return [*tensors, *others], [len(others), versions, [part.training for part in inside], marks]


def _attributes(inside: list[nn.Module]) -> Iterator[Any]:
    """What modules hold beside weights, buffers and modules: counters and caches, also in a container or an object."""
    for part in inside:
        for name in vars(part).keys() - _OF_TORCH:
            value = vars(part)[name]
            yield value
            if type(value) in SAME_THING or isinstance(value, (Tensor, *SAME_THING)):
                continue
            held: Any = value if isinstance(value, list | tuple | set) else ()  # pyright: ignore
            if isinstance(value, Mapping) or (not held and hasattr(value, "__dict__")):  # pyright: ignore
                held = (value if isinstance(value, Mapping) else vars(value)).values()  # pyright: ignore
            yield from held if len(held) <= LARGEST else [object()]  # pyright: ignore


def _is_in_state(module: nn.Module, state: tuple[list[Any], list[Any]]) -> bool:
    held, marks = _state(_inside(module))
    return marks == state[1] and all(map(is_, held, state[0]))


def _settings(given: Sequence[Any]) -> list[Any]:
    """Whether there are gradients, and then all that decides what an operation computes."""
    kinds = sorted({leaf.tensor.device.type for leaf in given if isinstance(leaf, Leaf)} | {"cpu"})
    precision = [(torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds]
    stream = torch.cuda.current_stream() if "cuda" in kinds else None
    settings = [torch.is_grad_enabled(), precision, torch.get_float32_matmul_precision(), stream]
    return [*settings, object()] if _is_transformed() else settings


def _is_transformed() -> bool:
    return torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore


def _random_states(given: Sequence[Any]) -> list[Any]:
    """The global random numbers of Python and the devices; on an unknown device what equals nothing."""
    devices = {leaf.tensor.device for leaf in given if isinstance(leaf, Leaf)}
    states: list[Any] = [random.getstate(), torch.get_rng_state()]
    for device in devices:
        if device.type == "cuda" and not torch.cuda.is_current_stream_capturing():
            states.append(torch.cuda.get_rng_state(device))
        elif device.type != "cpu":
            states.append(object())
    return states


def _is_equal(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) else one == other


def _when_passed(tensor: Any, do: Callable[[], None]) -> Callable[[], None]:
    """Call `do` at a backward pass through `tensor`, until what is returned is called."""
    return tensor.register_hook(lambda _: do()).remove  # pyright: ignore


def _with_graph(call: _Call) -> list[Tensor]:
    """The tensors of an output that take a hook."""
    tensors = [thing.tensor for thing in call.made or [] if isinstance(thing, Leaf)]
    return [tensor for tensor in tensors if tensor.requires_grad and not _is_transformed()]
