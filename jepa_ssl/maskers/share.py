"""How much a view really hides."""

from typing import Any

from torch import Tensor

from jepa_ssl.instances import FlatVectors, Graph
from jepa_ssl.protocols import INSTANCE, Views


def hidden_share(views: Views[Any, Any], instance: Any = None) -> dict[str, Tensor]:
    """Share of the real values in which context and target differ: stream -> scalar; does not wait for the device.

    A fill that equals the old value hides nothing: filling half of the entries of a matrix that is nine tenths zero
    with zeros hides a twentieth. The streams are `"instance"`, or those of a graph's nodes and of the edges that have
    attributes. A stream without values hides 0.

    Args:
        views: of `[batch, entries]`, `FlatVectors` or a `Graph`.
        instance: what the masker was given, if it appended indicator columns: these are not counted.

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
    known = isinstance(target, Tensor | FlatVectors | Graph)
    if not known or not type(context) is type(target) is type(whole):
        raise TypeError(
            f"context is a {type(context).__name__}, target a {type(target).__name__} and instance a "
            f"{type(whole).__name__}, but all must be tensors, FlatVectors or Graphs; other views do not say what "
            f"became of a value."
        )
    of_context, of_target = _values(context), _values(target)
    real = whole.valid if isinstance(whole, FlatVectors) else None
    return {
        stream: _share(stream, of_context[stream], of_target[stream], values, real)
        for stream, values in _values(whole).items()
    }


def _values(view: Tensor | FlatVectors | Graph) -> dict[str, Tensor]:
    if isinstance(view, Graph):
        return view.values()
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
