"""How much a view really hides."""

from typing import Any

from torch import Tensor

from jepa_ssl.instances import BipartiteGraph, FlatVectors
from jepa_ssl.protocols import CONSTRAINT, EDGE, INSTANCE, VARIABLE, Views


def hidden_share(views: Views[Any, Any], *, indicator: bool = False) -> dict[str, Tensor]:
    """Share of the real values in which context and target differ: stream -> scalar; no wait for the device.

    A fill that equals what stood there hides nothing: half of the entries of a matrix that is nine tenths zero, filled
    with zeros, are a twentieth. The streams are `"instance"`, or `"constraint"`, `"variable"` and `"edge"`; a stream
    without values hides 0.

    Args:
        views: of `[batch, entries]`, `FlatVectors` or a `BipartiteGraph`.
        indicator: the masker appended indicator columns, which are not counted.

    >>> from jepa_ssl import EntryMasker
    >>> hidden_share(EntryMasker(0.5)(torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]])))
    {'instance': tensor(0.2500)}

    Raises:
        TypeError: the views are of something else, or context and target of different things.
        ValueError: context and target differ in shape.
    """
    context, target = views.context, views.target
    if isinstance(context, Tensor) and isinstance(target, Tensor):
        values = slice(None, target.size(-1) // 2 if indicator else None)
        return {INSTANCE: _share(INSTANCE, context[:, values], target[:, values])}
    if isinstance(context, FlatVectors) and isinstance(target, FlatVectors):
        values = slice(None, target.values.size(-1) // 2 if indicator else None)
        real = target.valid[:, values]
        return {INSTANCE: _share(INSTANCE, context.values[:, values], target.values[:, values], real)}
    if isinstance(context, BipartiteGraph) and isinstance(target, BipartiteGraph):
        columns = slice(None, -1 if indicator else None)
        shares = {
            kind: _share(kind, context.features(kind)[:, columns], target.features(kind)[:, columns])
            for kind in (CONSTRAINT, VARIABLE)
        }
        return shares | {EDGE: _share(EDGE, context.edge_attr, target.edge_attr)}
    raise TypeError(
        f"context is a {type(context).__name__} and target a {type(target).__name__}, but both must be a tensor, "
        f"FlatVectors or a BipartiteGraph; other views do not say what became of a value."
    )


def _share(stream: str, context: Tensor, target: Tensor, real: Tensor | None = None) -> Tensor:
    if context.shape != target.shape:
        raise ValueError(
            f"{stream!r} has {list(context.shape)} values in the context and {list(target.shape)} in the target, but "
            f"views of a masker have equally many; compare a masker's views."
        )
    differ = (context != target) & ~(context.isnan() & target.isnan())
    if real is None:
        return differ.sum() / max(differ.numel(), 1)
    return (differ & real).sum() / real.sum().clamp(min=1)
