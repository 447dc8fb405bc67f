"""Write the same batch in other ways: in other orders, with other padding."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from jepa_ssl.instances import FlatVectors, Graph
from jepa_ssl.instances.streams import Edges, Nodes
from jepa_ssl.protocols import INSTANCE
from jepa_ssl.segments import inverse
from jepa_ssl.testing.batches import batch_size, items_of, selected

Rewritten: TypeAlias = Mapping[str, tuple[Any, Mapping[str, Tensor]]]
"""What differs -> the batch written this way, and the places of its items there, stream -> int64 `[items]`."""


def written_otherwise(instance: Any) -> Rewritten:
    """Return the same batch written in other ways, and the new places of its items."""
    if not isinstance(instance, Tensor | FlatVectors | Graph) or not batch_size(instance):
        return {}
    backwards = list(range(batch_size(instance)))[::-1]
    order = {INSTANCE: torch.tensor(backwards)}
    if isinstance(instance, Graph):
        order |= {kind: inverse(places) for kind, places in items_of(instance, backwards).items()}
    made: dict[str, tuple[Any, Mapping[str, Tensor]]] = {
        "the order of the instances in the batch": (selected(instance, backwards), order)
    }
    if isinstance(instance, FlatVectors):
        noise = torch.linspace(-3, 5, instance.values.numel(), device=instance.values.device).view_as(instance.values)
        padded = torch.where(instance.valid, instance.values, noise.to(instance.values))
        made["what stands in the padding"] = (
            FlatVectors(padded, instance.valid),
            {INSTANCE: torch.arange(batch_size(instance))},
        )
    if isinstance(instance, Graph):
        made["the order of the nodes and edges in a graph"] = _permuted(instance)
    return made


def _permuted(graph: Graph) -> tuple[Graph, dict[str, Tensor]]:
    """Reorder the nodes of each graph, and reverse the order of the edges."""
    generator = torch.Generator().manual_seed(0)
    order = {
        stream: (graph.graph_of(stream).cpu() + torch.rand(len(nodes.features), generator=generator)).argsort()
        for stream, nodes in graph.nodes.items()
    }
    order = {stream: before.to(graph.offsets(stream).device) for stream, before in order.items()}
    places = {stream: inverse(before) for stream, before in order.items()}
    nodes = {stream: Nodes(part.features[order[stream]], part.offsets) for stream, part in graph.nodes.items()}
    edges: dict[str, Edges] = {}
    for stream, (ends, index, attr) in graph.edges.items():
        moved = torch.stack([places[end][row] for end, row in zip(ends, index, strict=True)])
        edges[stream] = Edges(ends, moved.flip(1), None if attr is None else attr.flip(0))
    return graph.with_streams(nodes, edges), {**places, INSTANCE: torch.arange(graph.num_graphs)}
