"""Take what a module returned in the task's forward pass, in place of running it again on the same input."""

# pyright: reportPrivateUsage=false
# torch counts the writes to a tensor, and keeps a compiled module's call, under private names.

from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from itertools import zip_longest
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only

from jepa_ssl.checks import warn_caller

_PLAIN = (bool, int, float, str, type(None))
_WRAPPERS = ("torch.distributed", "torch.nn.parallel", "torch._dynamo", "torch.jit")  # do more than `forward`


class SharedPass:
    """What some modules returned in one forward pass, for another pass on the same input.

    A call is shared if the module ran once, and if nothing has changed that is cheap to see: arguments (on a CPU, equal
    tensors count as the same), weights, buffers, modes, autocast, output. The call must not draw from torch's random
    numbers, and no module in it may be compiled, sharded, or a wrapper such as DDP.

    A check finds the rest, for example a counter in a closure or random numbers of NumPy. At the 1st, 2nd, 4th, 8th,
    ... and at each 256th step that shares a call, the module runs as well. If it returns something else, up to
    rounding, this is used, a warning says so, and nothing is shared any more. The check does not wait for a GPU: there
    the warning comes a few steps later, and the first output is used until then.
    """

    def __init__(self) -> None:
        self.is_trusted = True
        self._calls: dict[nn.Module, list[_Call]] = {}
        self._parts: set[nn.Module] = set()
        self._served: set[nn.Module] = set()  # those whose calls were shared the last time; others need no record
        self._steps = 0
        self._verdicts: list[tuple[nn.Module, Tensor]] = []  # did a module return the same in the last check?

    def __reduce__(self) -> Any:
        return SharedPass, ()  # a copy begins with a check

    @contextmanager
    def recorded(self, modules: Iterable[nn.Module], parts: Iterable[nn.Module] = ()) -> Generator[None]:
        """Keep what `modules` return in the block, and `parts`, submodules whose hooks a shared call must call."""
        calls: dict[nn.Module, list[_Call]] = {}
        served, self._served, self._calls, self._parts = self._served, set(), {}, set(parts)

        def begin(module: nn.Module, args: Any, kwargs: Any) -> None:
            if _is_eager():
                calls.setdefault(module, []).append(_Call(module, args, kwargs))

        def end(module: nn.Module, _: Any, output: Any) -> None:
            if _is_eager() and module in calls:
                calls[module][-1].end(output)

        with ExitStack() as hooks:
            for module in (*modules, *self._parts) if self._judge() else ():
                if module in served or (not served and all(map(is_plain, _inside(module)))):
                    hooks.callback(module.register_forward_pre_hook(begin, with_kwargs=True).remove)
                    hooks.callback(module.register_forward_hook(end, prepend=True).remove)
            yield
        self._calls = calls

    @contextmanager
    def reused(self) -> Generator[None]:
        """Return what was kept wherever a call in the block would give the same; forget it afterwards."""
        once = {module: calls[0] for module, calls in self._calls.items() if len(calls) == 1}
        calls = {m: call for m, call in once.items() if call.is_repeatable and "forward" not in vars(m)}
        parts = {part: calls.get(part) for part in self._parts}
        self._calls = {}
        number = self._steps + 1
        is_check = number & (number - 1) == 0 or number % 256 == 0
        if is_check:
            self._verdicts.clear()
        with ExitStack() as stack:
            for module, call in calls.items():
                call.with_gradient &= not vars(module)["_forward_hooks"]  # they may hook the output's gradient
                inside = {} if module in parts else parts
                vars(module)["forward"] = self._reusing(module, call, inside, is_check)
                stack.callback(vars(module).pop, "forward")
            yield
        self._steps += bool(self._served)

    def _reusing(self, module: nn.Module, call: "_Call", parts: Any, is_check: bool) -> Callable[..., Any]:
        """A `forward` that returns what `call` did if it would again."""
        forward = module.forward

        def reuse(*args: Any, **kwargs: Any) -> Any:
            fits = _is_eager() and self.is_trusted and call.fits(args, kwargs)
            if not fits or not all(inner and inner.fits(*inner.given) for inner in parts.values()):
                return forward(*args, **kwargs)
            self._served.add(module)
            made = tree_map_only(Tensor, Tensor.clone, call.output)  # nobody may write to that of the task
            if is_check:
                again = forward(*args, **kwargs)
                pairs = zip_longest(tree_leaves(made), tree_leaves(again))
                self._verdicts += ((module, _are_close(*pair)) for pair in pairs)
                return made if self._judge() else again
            for part, inner in parts.items():
                part(*inner.given[0], **inner.given[1])
            return made

        return reuse

    def _judge(self) -> bool:
        """Whether no check has found a difference; warns of the first."""
        differing = [type(module).__name__ for module, is_same in self._verdicts if not is_same]
        if self.is_trusted and differing:
            self.is_trusted = False
            warn_caller(
                f"{differing[0]} returned two outputs for one input in one step, so its forward depends on something "
                f"that JEPATerm cannot see, such as NumPy's random numbers or a global variable; the teacher runs its "
                f"own pass from now on. Give loss(task=...) a tensor in place of a function to avoid this check."
            )
        return self.is_trusted


class _Call:
    """A call of a module: what decides its result, as far as this is cheap to see, and what it returned."""

    def __init__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.given, (self.leaves, self.structure) = (args, kwargs), tree_flatten((args, kwargs))
        self.modules, self.with_gradient = _inside(module), torch.is_grad_enabled()
        self.places = [place for part in self.modules for place in (part._parameters, part._buffers) if place]
        self.state, self.random = self._state(), self._random_states()
        self.tensors = [x for x in self.leaves + self.state if isinstance(x, Tensor)]
        self.versions = _versions(self.tensors)
        self.output: Any = None
        self.is_repeatable = False

    def end(self, output: Any) -> None:
        self.output, leaves = output, tree_leaves(output)
        made = [x for x in leaves if isinstance(x, Tensor)]
        self.tensors, self.versions = self.tensors + made, self.versions + _versions(made)
        draws_nothing = all(map(torch.equal, self.random, self._random_states()))
        self.is_repeatable = draws_nothing and all(isinstance(x, (Tensor, *_PLAIN)) for x in leaves)

    def fits(self, args: Any, kwargs: Any) -> bool:
        """Whether a call now would return the same; what differs most often is compared first."""
        leaves, structure = tree_flatten((args, kwargs))
        if structure != self.structure or not all(map(_is_same, self.leaves, leaves)):
            return False
        # A backward hook would see the sum of two gradients.
        hooks = (vars(part)[kind] for part in self.modules for kind in ("_backward_hooks", "_backward_pre_hooks"))
        if torch.is_grad_enabled() and (not self.with_gradient or any(hooks)):
            return False
        state = self._state()
        is_unchanged = len(state) == len(self.state) and all(map(is_, state, self.state))
        return is_unchanged and _versions(self.tensors) == self.versions

    def _state(self) -> list[Any]:
        """Autocast's settings, modes, weights and buffers."""
        state = [f(kind) for f in (torch.is_autocast_enabled, torch.get_autocast_dtype) for kind in ("cpu", "cuda")]
        state += [module.training for module in self.modules]
        return state + [tensor for place in self.places for tensor in place.values()]

    def _random_states(self) -> list[Tensor]:
        devices = {x.device for x in self.leaves if isinstance(x, Tensor) and x.is_cuda}
        return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, devices)]


def is_plain(module: nn.Module) -> bool:
    """Whether a call is one of the module's `forward`: it is not compiled, wrapped or sharded."""
    is_wrapper = any(kind.__module__.startswith(_WRAPPERS) for kind in type(module).__mro__)
    return module._compiled_call_impl is None and not is_wrapper  # pyright: ignore


def _is_eager() -> bool:
    """Whether nothing compiles, transforms or captures the pass."""
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None:  # pyright: ignore
        return False
    return not (torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing())


def _inside(module: nn.Module) -> list[nn.Module]:
    """A module and its submodules; quicker than `modules()`."""
    inside = [module]
    for part in inside:  # which grows
        inside += filter(None, part._modules.values())
    return inside


def _is_same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return type(one) is type(other) and isinstance(one, _PLAIN) and one == other
    kinds = [(type(x), x.shape, x.dtype, x.layout, x.device.type, x.requires_grad) for x in (one, other)]
    return kinds[0] == kinds[1] and kinds[0][3:] == (torch.strided, "cpu", False) and torch.equal(one, other)


def _versions(tensors: list[Tensor]) -> list[object]:
    """How often each was written to; nobody counts in inference mode."""
    try:
        return [tensor._version for tensor in tensors]
    except RuntimeError:
        return [object()]


def _are_close(one: Any, other: Any) -> Tensor:
    """Whether two outputs are equal up to rounding, on the CPU; True until a GPU has found out."""
    if not (isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape):
        return torch.tensor(isinstance(other, _PLAIN) and one == other)
    a, b = one.detach().double(), other.detach().double()
    size, slack = a.square().mean().sqrt(), torch.finfo(one.dtype).eps ** (2 / 3) if one.is_floating_point() else 0.0
    are_close = torch.isclose(a / size, b / size, rtol=0.0, atol=slack, equal_nan=True).all()
    return torch.ones((), dtype=torch.bool, pin_memory=one.is_cuda).copy_(are_close, non_blocking=True)
