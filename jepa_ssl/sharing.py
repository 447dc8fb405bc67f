"""Take what a module made in the task's forward pass, in place of running it again on the same input."""

# pyright: reportPrivateUsage=false
# torch counts the writes to a tensor, and keeps a compiled module's call, under private names.

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from operator import attrgetter, is_
from threading import get_ident
from types import CodeType, FunctionType, MethodType
from typing import Any, NamedTuple, cast
from weakref import ReferenceType

import torch
from torch import Tensor, nn

DEPTH, LARGEST = 8, 1000  # of containers and objects in each other; of what is compared in a call
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_SAME_THING = (*_PLAIN, type, FunctionType, MethodType, ReferenceType, nn.Module, torch.device, torch.dtype)
_EQUAL = (*_PLAIN, tuple)
_WITH_MEMORY = {Tensor, nn.Parameter}
_MARKS: tuple[Callable[[Tensor], int], ...] = (attrgetter("_version"), attrgetter("requires_grad"), Tensor.data_ptr)
_CHANGING = ("torch.distributed", "torch.nn.parallel", "torch._dynamo", "torch.jit")  # what a call does beyond forward
_RANDOM = frozenset({"random", "numpy", "np"})  # names in a forward that may draw numbers which torch does not


class _Leaf(NamedTuple):
    tensor: Tensor
    version: object  # how often it was written to; in inference mode nobody counts, and it equals no other


@dataclass
class _Call:
    """A call of a module: what it was given, what the modules around it were then, and what it returned."""

    given: list[Any]
    settings: list[Any]
    state: tuple[list[Tensor], list[Any]]
    random: list[Tensor]
    output: Any = None
    made: list[Any] | None = None  # the tensors of the output, and of what its parts returned; None until it has ended
    parts: dict[nn.Module, tuple[Any, Any, Any]] = field(default_factory=dict[nn.Module, tuple[Any, Any, Any]])


class SharedPass:
    """What some modules made in one forward pass, for another pass on the same input.

    A call is shared only if a second call is sure to give the same. The module ran once, on the same tensors (on a CPU
    also on equal ones), with the same weights, modes, autocast and precision. It drew no random numbers, wrote to no
    buffer, and nobody wrote to its output later. It is not compiled, sharded, or wrapped by DDP for example. All other
    calls run as they would without this class.
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
                given = _flat((args, kwargs)) if self._is_repeatable(module, inside) else [object()]  # equals nothing
                call = _Call(given, _settings(given), _state(inside), _random_states(given))
                self._calls.setdefault(module, []).append(call)

        def end(module: nn.Module, _: Any, output: Any) -> None:
            if not torch.compiler.is_compiling() and get_ident() == thread and module in self._calls:
                call = self._calls[module][-1]
                call.output, call.made = output, _flat([output, [made for *_, made in call.parts.values()]])
                if not all(map(torch.equal, call.random, _random_states(call.given))):
                    call.given = [object()]

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
            yield

    @contextmanager
    def reused(self) -> Generator[None]:
        """Return what was kept wherever a call in the block would give the same; forget it afterwards."""
        calls = {module: of_module[0] for module, of_module in self._calls.items() if len(of_module) == 1}
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
            if torch.compiler.is_compiling() or get_ident() != thread or not _fits(module, call, _flat((args, kwargs))):
                return forward(*args, **kwargs)
            self._served.add(module)
            for part, (part_args, part_kwargs, made) in call.parts.items():
                with _forward(part, _returning(made)):
                    part(*part_args, **part_kwargs)  # for the hooks of the encoder
            return call.output

        return reuse

    def _is_repeatable(self, module: nn.Module, inside: list[nn.Module]) -> bool:
        known = self._repeatable.get(module)
        if known is None or known[0] != inside:
            is_repeatable = all(map(is_plain, inside)) and not any(map(_draws_alone, inside))
            known = self._repeatable[module] = inside, is_repeatable
        return known[1] and all(part._compiled_call_impl is None for part in inside)  # pyright: ignore


def _inside(module: nn.Module) -> list[nn.Module]:
    """A module and its submodules; quicker than `modules()`."""
    inside = [module]
    for part in inside:  # which grows
        inside += filter(None, part._modules.values())
    return inside


def is_plain(module: nn.Module) -> bool:
    """Whether a call is one of the `forward` of its class: it is not compiled, wrapped or sharded."""
    is_own = "forward" not in vars(module) and module._compiled_call_impl is None  # pyright: ignore
    return is_own and not any(kind.__module__.startswith(_CHANGING) for kind in type(module).__mro__)


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
    if with_gradient and not call.settings[0]:
        return False
    return (
        call.settings[1:] == _settings(given)[1:]
        and all(_same(one, other, with_gradient) for one, other in zip(call.given, given, strict=False))
        and all(_is_unchanged(thing) for thing in call.made or [])
        and _is_in_state(module, call.state)
    )


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


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


def _state(inside: list[nn.Module]) -> tuple[list[Tensor], list[Any]]:
    """The tensors of a module, and how each was written to, where it is, and the mode of each part."""
    places = (tensors for part in inside for tensors in (part._parameters, part._buffers))
    tensors = [tensor for place in places for tensor in place.values() if tensor is not None]
    if not set(map(type, tensors)) <= _WITH_MEMORY:
        return tensors, [object()]
    try:
        marks = [list(map(mark, tensors)) for mark in _MARKS]
    except RuntimeError:  # of tensors in inference mode, whose writes nobody counts, and of sparse ones
        return tensors, [object()]
    return tensors, [[part.training for part in inside], marks]


def _is_in_state(module: nn.Module, state: tuple[list[Tensor], list[Any]]) -> bool:
    tensors, marks = _state(_inside(module))
    return marks == state[1] and all(map(is_, tensors, state[0]))


def _settings(given: Sequence[Any]) -> list[Any]:
    """Whether there are gradients, and then all that decides what an operation computes."""
    kinds = sorted({leaf.tensor.device.type for leaf in given if isinstance(leaf, _Leaf)} | {"cpu"})
    precision = [(torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds]
    stream = torch.cuda.current_stream() if "cuda" in kinds else None
    is_transformed = torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore
    settings = [torch.is_grad_enabled(), precision, torch.get_float32_matmul_precision(), stream]
    return [*settings, object()] if is_transformed else settings


def _random_states(given: Sequence[Any]) -> list[Tensor]:
    """The global random numbers of the devices; on a device that is not known here, what never equals itself."""
    devices = {leaf.tensor.device for leaf in given if isinstance(leaf, _Leaf)}
    states = [torch.get_rng_state()]
    for device in devices:
        if device.type == "cuda" and not torch.cuda.is_current_stream_capturing():
            states.append(torch.cuda.get_rng_state(device))
        elif device.type != "cpu":
            states.append(torch.full((), torch.nan))
    return states


def _version(tensor: Tensor) -> object:
    return object() if tensor.is_inference() else tensor._version  # nobody counts in inference mode


def _flat(value: Any, flat: list[Any] | None = None, depth: int = DEPTH) -> list[Any]:
    """The tensors in `value` with their versions, and between them what holds them; `object()` for the unknown."""
    flat = [] if flat is None else flat
    if isinstance(value, Tensor):
        flat.append(_Leaf(value, _version(value)))
        return flat
    if isinstance(value, _SAME_THING):
        flat.append(value)
        return flat
    names: Any = ()
    if isinstance(value, list | tuple):
        parts = list(cast(Sequence[Any], value))
    elif isinstance(value, Mapping) or hasattr(value, "__dict__"):
        held = cast(Mapping[Any, Any], value if isinstance(value, Mapping) else vars(value))
        names, parts = tuple(held), list(held.values())
    else:
        parts = None
    if parts is None or not depth or len(flat) + len(parts) > LARGEST:
        flat.append(object())
        return flat
    flat += type(cast(object, value)), names, len(parts)
    for part in parts:
        _flat(part, flat, depth - 1)
    return flat


def _is_unchanged(thing: Any) -> bool:
    """Whether nobody wrote to a tensor in what a call returned; False for the unknown."""
    return thing.version == _version(thing.tensor) if isinstance(thing, _Leaf) else type(thing) is not object


def _same(one: Any, other: Any, with_gradient: bool = False) -> bool:
    if not (isinstance(one, _Leaf) and isinstance(other, _Leaf)):
        return one is other or (type(one) is type(other) and isinstance(one, _EQUAL) and one == other)
    a, b = one.tensor, other.tensor
    if a is b:
        return one.version == other.version
    if not (
        type(a) is type(b) is Tensor and a.device.type in ("cpu", "cuda") and a.layout == b.layout == torch.strided
    ):
        return False
    if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device) or one.version != _version(a):
        return False
    if with_gradient and (a.requires_grad or b.requires_grad):
        return False
    in_one_place = a.data_ptr() == b.data_ptr() and a.stride() == b.stride()
    return in_one_place or (a.device.type == "cpu" and torch.equal(a, b))  # elsewhere the comparison would wait
