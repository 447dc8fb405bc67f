"""Use any model as an encoder, by what it returns or by the outputs of its submodules."""

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
"""The name of a submodule; or that, and which part of its output: `("layers.1", 0)`, `("layers.1", "variable")`."""


class _Captured(NamedTuple):
    name: str  # as it was given
    path: str  # with the names of wrappers
    which: int | str | None


def _call(model: Any, instance: Any) -> Any:
    return model(instance)


class ModelEncoder(nn.Module):
    """Your model as an encoder: the features that it makes of an instance, and a projector to embeddings.

    The model is not changed, and its checkpoint gains no key. The features are what `run(model, instance)` returns. For
    a model that returns only the outputs of its heads, they are the outputs of the submodules in `captured`. If a
    submodule runs several times, its last output is used. The hooks exist only during a forward pass, so that a copy of
    the encoder, such as a teacher's, captures from its own model.

    Capturing does not compile: in a compiled step the encoder runs eagerly, with the same result, and `fullgraph=True`
    raises. A compiled model calls no hooks and is refused: give the model before it was compiled, which has the same
    weights.

    Args:
        model: yours; the encoder trains it, and an `EMATeacher` copies it.
        widths: stream -> features of an item.
        dim: size of the embeddings, which have length 1.
        run: calls the model it is given on an instance; `model(instance)` by default, so give it where `forward` takes
            several arguments. What it returns is read by `widths`: a tensor if there is one stream; a mapping or a
            `NamedTuple` by the streams' names; another tuple in their order. With `captured` it only says how the
            model is called, and what it returns is ignored.
        captured: stream -> the submodule that makes its features, by its name in `model.named_modules()`; if that
            returns a tuple or a mapping, `(name, which)`: `("layers.2", 0)`, `("layers.2", "rows")`.
        activation: of the projector, `nn.ReLU` by default.

    Raises:
        TypeError: `run` is a method of the model, which is not called with the model besides; or it cannot be called
            with a model and an instance, or without it the model's `forward` with an instance alone.
        ValueError: a name in `captured` is not that of a submodule, or names other streams than `widths`; in a
            forward pass: features are missing or of another shape.
        RuntimeError: a submodule did not run, or runs compiled.

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
        self.dims = dict.fromkeys(self.widths, dim)  # what a predictor is built for
        self.captured = None if captured is None else _places(model, captured, self.widths)
        self._disable_compiler()

    def _disable_compiler(self) -> None:
        # Not where this module is imported, for it imports the compiler, as an optimizer does too.
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
    """Raise a TypeError where Python would at the first call, or where a copy would call the original."""
    name = type(unwrapped(model)).__name__
    if not isinstance(model, nn.Module) or not callable(run):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"model is a {name} and run {run!r}, but must be an nn.Module and a function of model and instance; give "
            f"the model itself, and run=lambda model, instance: ..., or leave run out."
        )
    if ismethod(run) and isinstance(run.__self__, nn.Module):
        method = run.__func__.__name__
        raise TypeError(
            f"run is the method {method!r} of one {type(run.__self__).__name__}, but is called with the model and "
            f"the instance, so that a copy calls its own; give run=lambda model, instance: model.{method}(instance)."
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
    """The signature of `function` if it cannot be called with so many positional arguments; None if it can.

    >>> unfit_signature(lambda rows, columns: 0, 1), unfit_signature(lambda batch, train=True: 0, 1)
    ('(rows, columns)', None)
    """
    try:
        taken = signature(function)
    except (TypeError, ValueError):  # written in C, so nobody knows
        return None
    try:
        taken.bind(*[None] * arguments)
    except TypeError:
        return f"({', '.join(taken.parameters)})"
    return None


def _capture(encoder: ModelEncoder, instance: Any, captured: Mapping[str, _Captured]) -> Any:
    """What the submodules return while the model runs: stream -> features."""
    found: dict[str, Any] = {}
    versions: dict[str, int | None] = {}
    thread = get_ident()

    def keep(stream: str, place: _Captured) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if get_ident() == thread:  # another's pass is another's
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
                f"the submodule {name!r} did not run, so stream {stream!r} has no features, or its caller is compiled; "
                f"capture one that the model calls, as module(...) and not as module.forward(...)."
            )
        if _version(found[stream]) != versions[stream]:
            raise RuntimeError(
                f"what {name!r} returns is overwritten in place afterwards, by ReLU(inplace=True) perhaps; capture the "
                f"submodule that does so."
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
                f"captured[{stream!r}] names the submodule {name!r}, but {type(unwrapped(model)).__name__} has none of "
                f"that name; {_suggestion(name, named)}"
            )
        places[stream] = _Captured(name, named[name], which)
    return places


def _checked(stream: str, place: Any) -> tuple[str, int | str]:
    if not isinstance(place, tuple | list) or len(cast(Sequence[Any], place)) != 2:
        raise TypeError(
            f"captured[{stream!r}] is {place!r}, but must be the name of a submodule, or (name, which) where that "
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
    """The submodule in that place, if a hook on it is called."""
    parts = place.path.split(".")
    around = [model.get_submodule(".".join(parts[:depth])) for depth in range(len(parts) + 1)]
    if any(map(_is_compiled, around)):
        raise RuntimeError(
            f"the submodule {place.name!r} runs inside of a compiled module, which calls no hooks; give ModelEncoder "
            f"the model before it is compiled (both have the same weights), or a run that returns the features."
        )
    return around[-1]


def _is_compiled(module: nn.Module) -> bool:
    """Whether `torch.compile(module)` made it, or `module.compile()` changed it in place."""
    return hasattr(module, "_orig_mod") or module._compiled_call_impl is not None  # pyright: ignore


def _part(output: Any, name: str, which: int | str) -> Any:
    try:
        return (_fields(output) or output)[which] if isinstance(which, str) else output[which]
    except (LookupError, AttributeError, TypeError) as error:
        raise ValueError(
            f"captured asks for part {which!r} of what {name!r} returns, but that is {_described(output)}; name a part "
            f"that it has."
        ) from error


def _by_stream(output: Any, widths: Mapping[str, int]) -> dict[str, Tensor]:
    """The features of each stream in what a model returned."""
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
                f"the features of stream {stream!r} are {_described(given)}, but must be [items, {width}]; give widths "
                f"what the model returns, and each item a row."
            )
    return features


def _named(output: Any, streams: Mapping[str, int]) -> Mapping[str, Any]:
    """What a model returned by stream; empty if it does not say."""
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
