"""What the checks have to know of batches: their tensors, their streams, and how to take them apart."""

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from jepa_ssl.instances import BipartiteGraph, FlatVectors
from jepa_ssl.protocols import CONSTRAINT, EDGE, INSTANCE, VARIABLE

Instance: TypeAlias = Tensor | FlatVectors | BipartiteGraph

KINDS = (CONSTRAINT, VARIABLE)
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def parts_of(instance: Instance) -> dict[str, Tensor]:
    """All tensors of a batch: those of `values_of`, and the rest by the names of their fields."""
    wiring = ("valid", "edge_index", "constraint_offsets", "variable_offsets")
    return values_of(instance) | {name: getattr(instance, name) for name in wiring if hasattr(instance, name)}


def same_contents(a: Instance, b: Instance) -> bool:
    of_a, of_b = parts_of(a), parts_of(b)
    return of_a.keys() == of_b.keys() and all(same_bits(of_a[name], of_b[name]) for name in of_a)


def values_of(instance: Instance) -> dict[str, Tensor]:
    """What can be hidden, by stream."""
    if isinstance(instance, BipartiteGraph):
        return {**{kind: instance.features(kind) for kind in KINDS}, EDGE: instance.edge_attr}
    return {INSTANCE: instance.values if isinstance(instance, FlatVectors) else instance}


def valid_of(instance: Tensor | FlatVectors) -> Tensor:
    return instance.valid if isinstance(instance, FlatVectors) else torch.ones_like(instance, dtype=torch.bool)


def batch_size(instance: Instance) -> int:
    return instance.num_graphs if isinstance(instance, BipartiteGraph) else len(values_of(instance)[INSTANCE])


def owners_of(graph: BipartiteGraph) -> dict[str, Tensor]:
    """The graph that each item belongs to, by stream."""
    owners = {kind: graph.graph_of(kind) for kind in KINDS}
    return {**owners, EDGE: owners[CONSTRAINT][graph.edge_index[0]]}


def sizes_of(instance: Instance) -> dict[str, Tensor]:
    """How many real items each vector or graph has, by stream: int64 `[batch]`."""
    if isinstance(instance, BipartiteGraph):
        owners = owners_of(instance)
        return {stream: torch.bincount(owner, minlength=instance.num_graphs) for stream, owner in owners.items()}
    return {INSTANCE: valid_of(instance).sum(1)}


def items_of(graph: BipartiteGraph, which: Sequence[int]) -> dict[str, Tensor]:
    """The items of the graphs `which`, graph after graph, by stream: int64 `[items]`."""
    return {
        stream: torch.cat([owner[:0], *((owner == place).nonzero().squeeze(1) for place in which)])
        for stream, owner in owners_of(graph).items()
    }


def selected(instance: Instance, which: Sequence[int]) -> Instance:
    """The batch of the vectors or graphs `which`, in this order; one may come more than once."""
    chosen = torch.tensor(which, device=values_of(instance).popitem()[1].device)
    if isinstance(instance, Tensor):
        return instance[chosen]
    if isinstance(instance, FlatVectors):
        return FlatVectors(instance.values[chosen], instance.valid[chosen])
    items = items_of(instance, which)
    sizes = {stream: size[chosen] for stream, size in sizes_of(instance).items()}
    offsets = [torch.cat([chosen[:1] * 0, sizes[kind].cumsum(0)]) for kind in KINDS]
    # The ends of an edge move as the first nodes of its graph do.
    moves = [ends[:-1] - instance.offsets(kind)[chosen] for ends, kind in zip(offsets, KINDS, strict=True)]
    edges = instance.edge_index[:, items[EDGE]] + torch.stack(moves).repeat_interleave(sizes[EDGE], dim=1)
    constraints, variables = (instance.features(kind)[items[kind]] for kind in KINDS)
    return BipartiteGraph(constraints, edges, instance.edge_attr[items[EDGE]], variables, *offsets)


def first_columns(values: Tensor, like: Tensor) -> Tensor:
    return values[:, : like.size(1)] if like.ndim > 1 else values


def equal_bits(a: Tensor, b: Tensor) -> Tensor:
    """Where two tensors are equal, NaN payloads and the sign of zero included."""
    bits = _INTEGERS[a.element_size()]
    return a.detach().view(bits) == b.detach().view(bits)


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and bool(equal_bits(a, b).all())


def share_memory(a: Tensor, b: Tensor) -> bool:
    return not a.numel() or a.data_ptr() == b.data_ptr()


def sums_of(marks: Tensor, owner: Tensor, graphs: int) -> Tensor:
    marks = marks.long() if marks.dtype == torch.bool else marks
    return marks.new_zeros(graphs).index_add_(0, owner, marks)
