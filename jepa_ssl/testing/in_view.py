"""Find attributes of PyG data that reveal hidden items.

Nothing here imports PyG: its data are those that have `stores`, one for each type of node and edge.
"""

import copy
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor

from jepa_ssl.protocols import Embeddings, Views


def read_in_view(
    instance: Any, views: Views[Any, Any], embed: Callable[[Any], Embeddings], allowed: Collection[str]
) -> Iterator[str]:
    """Return a sentence for each visible attribute of hidden nodes or edges that changes their embeddings.

    Floating point numbers are changed; other ones change places, so that they stay in their range.

    Args:
        instance, views: the whole batch, and the views of it.
        embed: runs the encoder on a view.
        allowed: attributes that may stay in view.
    """
    before = embed(views.context)
    for store, known in zip(getattr(views.context, "stores", ()), getattr(instance, "stores", ()), strict=False):
        lost = _lost(store, known, views, instance)
        for name, values in _tensors(store):
            rows = lost.get(len(values))
            if name in allowed or rows is None or not bool(rows.any()) or values is not known.get(name):
                continue
            at = rows.view(-1, *(1,) * (values.ndim - 1))
            others = -values - 1 if values.is_floating_point() else values.flip(0)
            after = embed(_with(views.context, store, name, torch.where(at, others, values)))
            if moved := [stream for stream in before if _moves(before[stream], after[stream], views, stream)]:
                owner = "the batch" if store._key is None else f"{store._key}"
                yield (
                    f"streams {moved}: the views hide parts of {owner}, but {name!r} of the same items stays visible "
                    f"and the encoder reads it; put it into the attribute that is hidden, name it in PyGViews (x=, "
                    f"edge_attr=, constraint_features=, ...), or give in_view=[{name!r}] to leave it visible."
                )


def _lost(store: Any, known: Any, views: Views[Any, Any], instance: Any) -> dict[int, Tensor]:
    """Mark the items of a store that the context lost, bool `[items]`, by number. Ambiguous numbers are left out."""
    found: dict[int, Tensor] = {}
    ambiguous: set[int] = set()
    for name, values in _tensors(store):
        if name in known and values is not known[name]:
            rows = _rows_lost(values, known[name])
            if not torch.equal(found.setdefault(len(rows), rows), rows):
                ambiguous.add(len(rows))
    if not found and isinstance(store._key, str | tuple) and _hides_edges(views, instance):
        hidden = _hidden_nodes(store, views)
        found = {} if hidden is None else {len(hidden): hidden}
    return {size: rows for size, rows in found.items() if size not in ambiguous}


def _hides_edges(views: Views[Any, Any], instance: Any) -> bool:
    """Whether all coefficients at hidden nodes are lost, if any coefficients are."""
    some = False
    for store, known in zip(views.context.stores, instance.stores, strict=False):
        if isinstance(store._key, tuple) and (at_hidden := _hidden_nodes(store, views)) is not None:
            for name, values in _tensors(store):
                if len(values) == len(at_hidden) and name in known and values is not known[name]:
                    some = True
                    if bool((at_hidden & ~_rows_lost(values, known[name]) & (values != 0).flatten(1).any(1)).any()):
                        return False
    return some


def _hidden_nodes(store: Any, views: Views[Any, Any]) -> Tensor | None:
    """Return the hidden nodes of a node type, or the edges at hidden nodes of an edge type; None if none can be."""
    if isinstance(store._key, str):
        return views.hidden.get(store._key)
    marks = [
        mark[row]
        for kind, row in zip(store._key[::2], store.edge_index, strict=True)
        if (mark := views.hidden.get(kind)) is not None
    ]
    return torch.stack(marks).any(0) if marks else None


def _rows_lost(values: Tensor, known: Tensor) -> Tensor:
    """Mark items that changed and now hold only zeros: bool `[items]`. An indicator is left out."""
    values = values.flatten(1) if values.ndim > 1 else values.unsqueeze(1)
    known = known.flatten(1) if known.ndim > 1 else known.unsqueeze(1)
    same = values[:, : known.size(1)] == known
    return ~same.all(1) & ~(same & (known != 0)).any(1)


def _tensors(store: Any) -> list[tuple[str, Tensor]]:
    """Return the attributes of items, except those that assign them to graphs or nodes."""
    return [
        (name, value)
        for name, value in store.items()
        if isinstance(value, Tensor) and value.ndim and not name.endswith(("batch", "ptr")) and "index" not in name
    ]


def _with(context: Any, store: Any, name: str, values: Tensor) -> Any:
    view = copy.copy(context)
    (view if store._key is None else view[store._key])[name] = values
    return view


def _moves(before: Tensor, after: Tensor, views: Views[Any, Any], stream: str) -> bool:
    differs = (before - after).abs().amax(1) > 100 * torch.finfo(before.dtype).eps
    hidden = views.hidden.get(stream)
    return stream in views.hidden and bool((differs if hidden is None else differs & hidden).any())
