"""Measure how much a masker really hides."""

from typing import Any

from torch import Tensor

from jepa_ssl.instances import FlatVectors, Graph
from jepa_ssl.protocols import INSTANCE, Views


def hidden_share(views: Views[Any, Any]) -> dict[str, Tensor]:
    """Share of the real values that differ between context and target: stream -> scalar; does not wait for the device.

    A fill that equals the old value hides nothing. If 90% of the entries are 0, filling half of them with zeros changes
    only 5%. The streams are `"instance"`, or those of a graph's nodes and of the edges that have attributes. A stream
    without values hides 0.

    Args:
        views: made by a masker without an indicator; of `[batch, entries]`, `FlatVectors` or a `Graph`.

    >>> import torch
    >>> from jepa_ssl import EntryMasker
    >>> hidden_share(EntryMasker(0.5)(torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]])))
    {'instance': tensor(0.2500)}

    Raises:
        TypeError: the views are of something else, or context and target of different things.
        ValueError: context and target differ in shape.
    """
    context, target = views.context, views.target
    if not isinstance(target, Tensor | FlatVectors | Graph) or type(context) is not type(target):
        raise TypeError(
            f"context is a {type(context).__name__} and target a {type(target).__name__}, but both must be tensors, "
            f"FlatVectors or Graphs; only these can be compared value by value."
        )
    before, real = values_of(target), target.valid if isinstance(target, FlatVectors) else None
    return {stream: _share(stream, values, before[stream], real) for stream, values in values_of(context).items()}


def values_of(view: Tensor | FlatVectors | Graph) -> dict[str, Tensor]:
    """Return the values that can be hidden: stream -> values."""
    if isinstance(view, Graph):
        return view.values()
    return {INSTANCE: view.values if isinstance(view, FlatVectors) else view}


def _share(stream: str, context: Tensor, target: Tensor, real: Tensor | None) -> Tensor:
    if context.shape != target.shape:
        raise ValueError(
            f"{stream!r} has {list(context.shape)} values in the context and {list(target.shape)} in the target, but "
            f"both views of a masker have the same shape; compare the views of one masker."
        )
    differ = (context != target) & ~(context.isnan() & target.isnan())
    if real is None:
        return differ.sum() / max(differ.numel(), 1)
    return (differ & real).sum() / real.sum().clamp(min=1)
