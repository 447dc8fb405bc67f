"""How much a view really hides."""

from typing import Any

from torch import Tensor

from jepa_ssl.instances import BipartiteGraph, FlatVectors
from jepa_ssl.protocols import CONSTRAINT, EDGE, INSTANCE, VARIABLE, Views


def hidden_share(views: Views[Any, Any], instance: Any = None) -> dict[str, Tensor]:
    """Share of the real values in which context and target differ: stream -> scalar; no wait for the device.

    A fill that equals what stood there hides nothing: half of the entries of a matrix that is nine tenths zero, filled
    with zeros, are a twentieth. The streams are `"instance"`, or `"constraint"`, `"variable"` and `"edge"`; a stream
    without values hides 0.

    Args:
        views: of `[batch, entries]`, `FlatVectors` or a `BipartiteGraph`.
        instance: what the masker was given, if it appended indicator columns: they are not counted.

    >>> import torch
    >>> from jepa_ssl import EntryMasker
    >>> hidden_share(EntryMasker(0.5)(torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]])))
    {'instance': tensor(0.2500)}

    Raises:
        TypeError: the views are of something else, or context, target and instance of different things.
        ValueError: context and target differ in shape.
    """
    context, target = views.context, views.target
    whole = target if instance is None else instance
    if not isinstance(target, Tensor | FlatVectors | BipartiteGraph) or not type(context) is type(target) is type(
        whole
    ):
        raise TypeError(
            f"context is a {type(context).__name__}, target a {type(target).__name__} and instance a "
            f"{type(whole).__name__}, but all must be tensors, FlatVectors or BipartiteGraphs; other views do not say "
            f"what became of a value."
        )
    of_context, of_target = _values(context), _values(target)
    real = whole.valid if isinstance(whole, FlatVectors) else None
    return {
        stream: _share(stream, of_context[stream], of_target[stream], values, real)
        for stream, values in _values(whole).items()
    }


def _values(view: Tensor | FlatVectors | BipartiteGraph) -> dict[str, Tensor]:
    if isinstance(view, BipartiteGraph):
        return {CONSTRAINT: view.constraint_features, VARIABLE: view.variable_features, EDGE: view.edge_attr}
    return {INSTANCE: view.values if isinstance(view, FlatVectors) else view}


def _share(stream: str, context: Tensor, target: Tensor, whole: Tensor, real: Tensor | None) -> Tensor:
    if context.shape != target.shape:
        raise ValueError(
            f"{stream!r} has {list(context.shape)} values in the context and {list(target.shape)} in the target, but "
            f"views of a masker have equally many; compare a masker's views."
        )
    if whole.ndim > 1:
        context, target = context[:, : whole.size(1)], target[:, : whole.size(1)]
    differ = (context != target) & ~(context.isnan() & target.isnan())
    if real is None:
        return differ.sum() / max(differ.numel(), 1)
    return (differ & real).sum() / real.sum().clamp(min=1)
