"""Helpers of the checks for batches: their tensors, their streams, and how to split them."""

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from jepa_ssl.instances import FlatVectors, Graph
from jepa_ssl.instances.streams import Edges, Nodes
from jepa_ssl.maskers.share import values_of
from jepa_ssl.protocols import INSTANCE
from jepa_ssl.segments import group_sizes, offsets_of

Instance: TypeAlias = Tensor | FlatVectors | Graph

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def parts_of(instance: Instance) -> dict[str, Tensor]:
    """All tensors of a batch: those of `values_of`, and the rest by the names that errors use."""
    if isinstance(instance, Graph):
        return values_of(instance) | wiring_of(instance)
    return values_of(instance) | ({"valid": instance.valid} if isinstance(instance, FlatVectors) else {})


def wiring_of(graph: Graph) -> dict[str, Tensor]:
    offsets = {graph.name_of(stream, "offsets"): nodes.offsets for stream, nodes in graph.nodes.items()}
    return offsets | {graph.name_of(stream, "index"): edges.index for stream, edges in graph.edges.items()}


def same_contents(a: Instance, b: Instance) -> bool:
    of_a, of_b = parts_of(a), parts_of(b)
    return of_a.keys() == of_b.keys() and all(same_bits(of_a[name], of_b[name]) for name in of_a)


def valid_of(instance: Tensor | FlatVectors) -> Tensor:
    return instance.valid if isinstance(instance, FlatVectors) else torch.ones_like(instance, dtype=torch.bool)


def batch_size(instance: Instance) -> int:
    return instance.num_graphs if isinstance(instance, Graph) else len(values_of(instance)[INSTANCE])


def owners_of(instance: Instance) -> dict[str, Tensor]:
    """The vector or graph that each real item belongs to, by stream."""
    if isinstance(instance, Graph):
        return {stream: instance.graph_of(stream) for stream in (*instance.nodes, *instance.edges)}
    return {INSTANCE: valid_of(instance).nonzero()[:, 0]}


def sizes_of(instance: Instance) -> dict[str, Tensor]:
    """How many real items each vector or graph has, by stream: int64 `[batch]`."""
    return {stream: group_sizes(owner, batch_size(instance)) for stream, owner in owners_of(instance).items()}


def items_of(graph: Graph, which: Sequence[int]) -> dict[str, Tensor]:
    """The items of the graphs `which`, graph after graph, by stream: int64 `[items]`."""
    return {
        stream: torch.cat([owner[:0], *((owner == place).nonzero().squeeze(1) for place in which)])
        for stream, owner in owners_of(graph).items()
    }


def selected(instance: Instance, which: Sequence[int]) -> Instance:
    """The batch of the vectors or graphs `which`, in this order; one may come more than once."""
    chosen = torch.tensor(which, dtype=torch.int64, device=next(iter(parts_of(instance).values())).device)
    if isinstance(instance, Tensor):
        return instance[chosen]
    if isinstance(instance, FlatVectors):
        return FlatVectors(instance.values[chosen], instance.valid[chosen])
    items, sizes = items_of(instance, which), {stream: size[chosen] for stream, size in sizes_of(instance).items()}
    offsets = {stream: offsets_of(sizes[stream]) for stream in instance.nodes}
    # The ends of an edge move as the first nodes of its graph do.
    moves = {stream: offsets[stream][:-1] - instance.offsets(stream)[chosen] for stream in instance.nodes}
    edges: dict[str, Edges] = {}
    for stream, (ends, index, attr) in instance.edges.items():
        moved = torch.stack([moves[end] for end in ends]).repeat_interleave(sizes[stream], dim=1)
        attr = None if attr is None else attr[items[stream]]
        edges[stream] = Edges(ends, index[:, items[stream]] + moved, attr)
    nodes = {stream: Nodes(instance.features(stream)[items[stream]], offsets[stream]) for stream in instance.nodes}
    return instance.with_streams(nodes, edges)


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
