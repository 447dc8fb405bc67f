"""Use any model as an encoder, through its return value or the outputs of its submodules."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from difflib import get_close_matches
from inspect import ismethod, signature
from threading import get_ident
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor, nn

from jepa_ssl.checks import describe
from jepa_ssl.names import submodules, unwrapped, without_wrappers
from jepa_ssl.predictors import MLPProjector
from jepa_ssl.protocols import Encoded

Place: TypeAlias = str | tuple[str, int | str]
"""The name of a submodule, or the name and a part of its output: `("layers.1", 0)`, `("layers.1", "variable")`."""


class _Captured(NamedTuple):
    name: str  # as it was given
    path: str  # with the names of wrappers
    which: int | str | None


def _call(model: Any, instance: Any) -> Any:
    return model(instance)


class ModelEncoder(nn.Module):
    """Your model as an encoder: its features of an instance, and a projector to embeddings.

    The model is not changed, and its checkpoint gains no key. The features are what `run(model, instance)` returns. If
    your model returns only the outputs of its heads, name in `captured` the submodules that make the features. If a
    submodule runs several times, its last output is used. The hooks exist only during a forward pass, so a copy of the
    encoder, such as a teacher's, captures from its own model.

    Capturing does not compile: in a compiled step the encoder runs eagerly, with the same result, and `fullgraph=True`
    raises. A compiled model calls no hooks and raises; give the uncompiled model, which has the same weights.

    Args:
        model: your model. It is trained through the encoder.
        widths: stream -> number of features of an item.
        dim: size of the embeddings, which have length 1.
        run: function of `(model, instance)` that calls the model; `model(instance)` by default. Needed if `forward`
            takes several arguments. It returns a mapping or a `NamedTuple` with the streams' names, or a tuple in the
            order of `widths`. If there is one stream it may return a tensor. With `captured` the return value is
            ignored.
        captured: stream -> name in `model.named_modules()` of the submodule that makes its features. If it returns a
            tuple or a mapping, give `(name, which)`: `("layers.2", 0)` or `("layers.2", "rows")`.
        activation: of the projector, `nn.ReLU` by default.

    Raises:
        TypeError: `run` cannot be called with a model and an instance, or is a method of a module. Or `run` is not
            given and the model's `forward` cannot be called with an instance alone.
        ValueError: `captured` names an unknown submodule, or other streams than `widths`. In a forward pass: features
            are missing or have the wrong shape.
        RuntimeError: in a forward pass: a captured submodule did not run, runs compiled, or its output was overwritten.

    >>> model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    >>> encoder = ModelEncoder(model, {"instance": 16}, dim=8, captured={"instance": "1"})
    >>> encoder(torch.zeros(4, 6)).embeddings["instance"].shape
    torch.Size([4, 8])
    """

    def __init__(
        self,
        model: nn.Module,
        widths: Mapping[str, int],
        dim: int,
        *,
        run: Callable[[Any, Any], Any] = _call,
        captured: Mapping[str, Place] | None = None,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        _check_call(model, run)
        if not widths:
            raise ValueError(f"widths is {widths}, which names no stream; give the width of each stream's features.")
        self.model, self.run, self.widths = model, run, dict(widths)
        self.projector = MLPProjector(self.widths, dim, activation)
        if (like := next((p for p in model.parameters() if p.is_floating_point()), None)) is not None:
            self.projector.to(like.device, like.dtype)
        self.dims = dict.fromkeys(self.widths, dim)  # from which a predictor is built
        self.captured = None if captured is None else _places(model, captured, self.widths)
        self._disable_compiler()

    def _disable_compiler(self) -> None:
        # Not at import time, because this imports the compiler.
        self._capture: Callable[..., Any] = torch.compiler.disable(_capture)  # pyright: ignore[reportUnknownMemberType]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_capture"}  # which cannot be pickled

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # pyright: ignore[reportUnknownMemberType]
        self._disable_compiler()

    def forward(self, instance: Any) -> Encoded:
        if self.captured is None:
            output = self.run(self.model, instance)
        else:
            output = self._capture(self, instance, self.captured)
        features = _by_stream(output, self.widths)
        return Encoded(self.projector(features), features)


def _check_call(model: nn.Module, run: Callable[..., Any]) -> None:
    """Raise a TypeError if the first call would fail, or if a copy would call the original model."""
    name = type(unwrapped(model)).__name__
    if not isinstance(model, nn.Module) or not callable(run):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"model is a {name} and run {run!r}, but must be an nn.Module and a function of model and instance; give "
            f"the model itself, and run=lambda model, instance: ..., or leave run out."
        )
    if ismethod(run) and isinstance(run.__self__, nn.Module):
        method = run.__func__.__name__
        raise TypeError(
            f"run is the method {method!r} of one {type(run.__self__).__name__}, but run is called with the model and "
            f"the instance, so that a copy calls its own model; give run=lambda model, instance: "
            f"model.{method}(instance)."
        )
    if run is _call and (given := unfit_signature(unwrapped(model).forward, 1)):
        raise TypeError(
            f"the forward of {name} takes {given}, but is called with the instance alone; give run=lambda model, "
            f"instance: model(...), which calls it with the parts of the instance."
        )
    if given := unfit_signature(run, 2):
        raise TypeError(
            f"run takes {given}, but is called with the model and the instance; give run=lambda model, instance: ..."
        )


def unfit_signature(function: Callable[..., Any], arguments: int) -> str | None:
    """Return the signature of `function` if it cannot be called with this number of positional arguments, else None.

    >>> unfit_signature(lambda rows, columns: 0, 1), unfit_signature(lambda batch, train=True: 0, 1)
    ('(rows, columns)', None)
    """
    try:
        taken = signature(function)
    except (TypeError, ValueError):  # written in C, so its signature is unknown
        return None
    try:
        taken.bind(*[None] * arguments)
    except TypeError:
        return f"({', '.join(taken.parameters)})"
    return None


def _capture(encoder: ModelEncoder, instance: Any, captured: Mapping[str, _Captured]) -> Any:
    """Run the model and return the outputs of the captured submodules: stream -> features."""
    found: dict[str, Any] = {}
    versions: dict[str, int | None] = {}
    thread = get_ident()

    def keep(stream: str, place: _Captured) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if get_ident() == thread:  # another thread runs another forward pass
                found[stream] = output if place.which is None else _part(output, place.name, place.which)
                versions[stream] = _version(found[stream])

        return hook

    with ExitStack() as hooks:
        for stream, place in captured.items():
            hooks.callback(_hooked(encoder.model, place).register_forward_hook(keep(stream, place)).remove)
        encoder.run(encoder.model, instance)
    for stream, (name, *_) in captured.items():
        if stream not in found:
            raise RuntimeError(
                f"the submodule {name!r} did not run or its caller is compiled, so stream {stream!r} has no features; "
                f"capture one that the model calls, as module(...) and not as module.forward(...)."
            )
        if _version(found[stream]) != versions[stream]:
            raise RuntimeError(
                f"the output of {name!r} is overwritten in place afterwards, perhaps by ReLU(inplace=True); capture "
                f"the submodule that overwrites it."
            )
    return found


def _version(output: Any) -> int | None:
    return output._version if isinstance(output, Tensor) and not output.is_inference() else None


def _places(model: nn.Module, captured: Mapping[str, Place], widths: Mapping[str, int]) -> dict[str, _Captured]:
    if captured.keys() != widths.keys():
        raise ValueError(
            f"captured names the streams {sorted(captured)}, but widths {sorted(widths)}; name the same ones in both."
        )
    whole = {name: name for name, _ in submodules(model) if name}
    named = {**without_wrappers(model, whole), **whole}  # each with its wrappers' prefixes and without
    places: dict[str, _Captured] = {}
    for stream, place in captured.items():
        name, which = (place, None) if isinstance(place, str) else _checked(stream, place)
        if name not in named:
            raise ValueError(
                f"captured[{stream!r}] names the submodule {name!r}, but {type(unwrapped(model)).__name__} has no such "
                f"submodule; {_suggestion(name, named)}"
            )
        places[stream] = _Captured(name, named[name], which)
    return places


def _checked(stream: str, place: Any) -> tuple[str, int | str]:
    if not isinstance(place, tuple | list) or len(cast(Sequence[Any], place)) != 2:
        raise TypeError(
            f"captured[{stream!r}] is {place!r}, but must be the name of a submodule, or (name, which) if that "
            f"returns a tuple or a mapping; give 'layers.2' or ('layers.2', 'rows'), for example."
        )
    name, which = cast(tuple[str, int | str], place)
    return name, which


def _suggestion(name: str, named: Mapping[str, str]) -> str:
    if near := get_close_matches(name, named, n=3):
        return f"did you mean {' or '.join(map(repr, near))}?"
    top = sorted(known for known in named if "." not in known)
    return f"name one of model.named_modules(), which begin with {top}."


def _hooked(model: nn.Module, place: _Captured) -> nn.Module:
    """Return the submodule in that place; raise a RuntimeError if its hooks are not called."""
    parts = place.path.split(".")
    around = [model.get_submodule(".".join(parts[:depth])) for depth in range(len(parts) + 1)]
    if any(map(_is_compiled, around)):
        raise RuntimeError(
            f"the submodule {place.name!r} runs inside a compiled module, which calls no hooks; give ModelEncoder "
            f"the uncompiled model (both have the same weights), or a run that returns the features."
        )
    return around[-1]


def _is_compiled(module: nn.Module) -> bool:
    """Whether the module comes from `torch.compile(module)`, or `module.compile()` was called."""
    return hasattr(module, "_orig_mod") or module._compiled_call_impl is not None  # pyright: ignore


def _part(output: Any, name: str, which: int | str) -> Any:
    try:
        return (_fields(output) or output)[which] if isinstance(which, str) else output[which]
    except (LookupError, AttributeError, TypeError) as error:
        raise ValueError(
            f"captured asks for part {which!r} of the output of {name!r}, but that is {_described(output)}; name a "
            f"part that it has."
        ) from error


def _by_stream(output: Any, widths: Mapping[str, int]) -> dict[str, Tensor]:
    """Read the features of each stream from the output of a model."""
    named = _named(output, widths)
    if not set(widths) <= set(named):
        raise ValueError(
            f"the model returned {_described(output)}, but widths names the streams {sorted(widths)}; let run return "
            f"their features as a mapping, stream -> [items, width], or a tuple in this order; or name the submodules "
            f"that make them in captured."
        )
    features = {stream: named[stream] for stream in widths}
    for stream, width in widths.items():
        given = features[stream]
        if not isinstance(given, Tensor) or given.ndim != 2 or given.size(1) != width:
            raise ValueError(
                f"the features of stream {stream!r} are {_described(given)}, but must be [items, {width}]; correct "
                f"widths, or return one row per item."
            )
    return features


def _named(output: Any, streams: Mapping[str, int]) -> Mapping[str, Any]:
    """Return the output of a model by stream; empty if the streams cannot be told apart."""
    if isinstance(output, Mapping):
        return cast(Mapping[str, Any], output)
    if isinstance(output, Tensor):
        return dict.fromkeys(streams, output) if len(streams) == 1 else {}
    if not isinstance(output, tuple | list):
        return {}
    if set(streams) <= set(named := _fields(output)):
        return named
    parts = cast(Sequence[Any], output)
    return dict(zip(streams, parts, strict=True)) if len(parts) == len(streams) else {}


def _fields(output: Any) -> dict[str, Any]:
    """The parts of a `NamedTuple` by name; empty for anything else."""
    return output._asdict() if hasattr(output, "_asdict") else {}


def _described(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor {describe(output)}"
    if isinstance(output, Mapping):
        return f"a mapping with {sorted(map(str, cast(Mapping[Any, Any], output)))}"
    if isinstance(output, tuple | list):
        return f"a {type(cast(object, output)).__name__} of {len(cast(Sequence[Any], output))}"
    return f"a {type(output).__name__}"
