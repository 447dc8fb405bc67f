"""The streams of a graph, nodes and edges, and whether they fit together.

`name(stream, part)` is the caller's name for one part of a stream; errors use it.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from jepa_ssl.checks import describe

Name = Callable[[str, str], str]


class Nodes(NamedTuple):
    """The nodes of one stream of a `Graph`.

    `features` is `[nodes, features]`, floating point. `offsets`, int64 `[graphs + 1]`, says where each graph's nodes
    begin: it rises from 0 to the number of nodes.
    """

    features: Tensor
    offsets: Tensor


class Edges(NamedTuple):
    """The edges of one stream of a `Graph`, from nodes of the stream `ends[0]` to nodes of the stream `ends[1]`.

    `index` is int64 `[2, edges]`; both rows count nodes over the whole batch. `attr` is `[edges, *]`, or None.
    """

    ends: tuple[str, str]
    index: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]  # of tuples, which nobody needs here
    attr: Tensor | None = None


def check_nodes(nodes: Mapping[str, Nodes], name: Name) -> None:
    """Raise a ValueError if a shape or a type is wrong, or if streams disagree in the number of graphs."""
    before: tuple[str, int] | None = None
    for stream, (features, offsets) in nodes.items():
        if features.ndim != 2 or not features.is_floating_point():
            raise ValueError(
                f"{name(stream, 'features')} is {describe(features)}, but must be floating point [nodes, features]; "
                f"use .unsqueeze(-1) for a single feature and .float() for integers."
            )
        if offsets.ndim != 1 or len(offsets) < 1 or offsets.dtype != torch.int64:
            raise ValueError(
                f"{name(stream, 'offsets')} is {describe(offsets)}, but must be int64 [graphs + 1], starting at 0; "
                f"PyG calls it ptr."
            )
        if before and before[1] != len(offsets):
            raise ValueError(
                f"{name(before[0], 'offsets')} counts {before[1] - 1} graphs and {name(stream, 'offsets')} "
                f"{len(offsets) - 1}; both must come from the same batch."
            )
        before = stream, len(offsets)


def check_edges(edges: Mapping[str, Edges], nodes: Mapping[str, Nodes], name: Name) -> None:
    """Raise a ValueError if a name, a shape or a type is wrong."""
    if not nodes or nodes.keys() & edges.keys():
        raise ValueError(
            f"nodes has the streams {sorted(nodes)} and edges {sorted(edges)}, but there must be nodes, and no name "
            f"may be used twice; add nodes, or rename the edges."
        )
    for stream, (ends, index, attr) in edges.items():
        if len(ends) != 2 or ends[0] not in nodes or ends[1] not in nodes:
            raise ValueError(
                f"{name(stream, 'ends')} is {ends}, but must be two of the node streams {sorted(nodes)}; correct it."
            )
        if index.ndim != 2 or len(index) != 2 or index.dtype != torch.int64:
            raise ValueError(
                f"{name(stream, 'index')} is {describe(index)}, but must be int64 [2, edges] with the {ends[0]} in row "
                f"0 and the {ends[1]} in row 1; use .long(), and .t() if it is [edges, 2]."
            )
        if attr is not None and (attr.ndim < 1 or len(attr) != index.size(1)):
            raise ValueError(
                f"{name(stream, 'attr')} is {describe(attr)}, but {name(stream, 'index')} has {index.size(1)} edges; "
                f"give one row per edge."
            )


def check_offsets(stream: str, nodes: Nodes, name: Name) -> None:
    """Raise a ValueError unless the offsets rise from 0 to the number of nodes; waits for the device."""
    features, offsets = nodes
    if int(offsets[0]) != 0 or int(offsets[-1]) != len(features) or bool((offsets.diff() < 0).any()):
        raise ValueError(
            f"{name(stream, 'offsets')} goes from {int(offsets[0])} to {int(offsets[-1])}, but must rise from 0 to the "
            f"{len(features)} {stream} nodes; build it as the cumulative sum of the graphs' sizes (of PyG data, take "
            f"subgraphs before you batch: a batch's subgraph keeps where the graphs began in the whole batch)."
        )


def check_range(stream: str, edges: Edges, nodes: Mapping[str, Nodes], name: Name) -> None:
    """Raise a ValueError if an edge leaves the batch; waits for the device."""
    first, last = edges.ends
    for row, end in enumerate(edges.ends):
        count = len(nodes[end].features)
        low, high = map(int, edges.index[row].aminmax())
        if low < 0 or high >= count:
            raise ValueError(
                f"{name(stream, 'index')}[{row}] reaches from {low} to {high}, but there are {count} {end} nodes; "
                f"row 0 counts {first} nodes, row 1 {last} nodes."
            )


def check_crossing(stream: str, edges: Edges, graph_of: Mapping[str, Tensor], name: Name) -> None:
    """Raise a ValueError if an edge joins two graphs; waits for the device. `graph_of` is node stream -> `[nodes]`."""
    first, last = (graph_of[end].index_select(0, row) for end, row in zip(edges.ends, edges.index, strict=True))
    if not torch.equal(first, last):
        edge = int((first != last).nonzero()[0])
        raise ValueError(
            f"{name(stream, 'index')}[:, {edge}] joins a {edges.ends[0]} of graph {int(first[edge])} to a "
            f"{edges.ends[1]} of graph {int(last[edge])}; each edge must stay inside its own graph: check the "
            f"increments of the collate."
        )


def check_one_device(tensors: Iterable[tuple[str, str, Tensor | None]], name: Name) -> None:
    """Raise a ValueError unless all tensors are on one device; each comes with its stream and its part."""
    first = None
    for stream, part, tensor in tensors:
        if tensor is None:
            continue
        first = first or (stream, part, tensor.device)
        if tensor.device != first[2]:
            raise ValueError(
                f"{name(stream, part)} is on {tensor.device}, but {name(*first[:2])} on {first[2]}; put all of an "
                f"instance on one device, with .to({str(first[2])!r})."
            )
