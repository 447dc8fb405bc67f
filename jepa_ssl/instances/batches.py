"""Batches of vectors with padding, and of graphs with any streams of nodes and edges."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from jepa_ssl.checks import describe
from jepa_ssl.instances.streams import (
    Edges,
    Nodes,
    check_crossing,
    check_edges,
    check_nodes,
    check_offsets,
    check_one_device,
    check_range,
)
from jepa_ssl.protocols import CONSTRAINT, EDGE, VARIABLE
from jepa_ssl.segments import segment_of

GraphT = TypeVar("GraphT", bound="Graph")


@dataclass(frozen=True)
class FlatVectors:
    """A batch of vectors, and which of their entries are real.

    `values` is `[batch, entries]`, floating point. `valid` is a bool tensor of the same shape, False on padding. A
    batch without padding can be a bare tensor wherever `FlatVectors` are accepted.
    """

    values: Tensor
    valid: Tensor

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or not self.values.is_floating_point():
            raise ValueError(
                f"values is {describe(self.values)}, but must be floating point [batch, entries]; "
                f"flatten each instance first (jepa_ssl.lp.flatten does it for LPs)."
            )
        if self.valid.dtype != torch.bool or self.valid.shape != self.values.shape:
            raise ValueError(
                f"valid is {describe(self.valid)}, but must be bool of values' shape {tuple(self.values.shape)}; "
                f"jepa_ssl.lp.valid_entries builds it from row and column masks."
            )
        check_one_device((("", "values", self.values), ("", "valid", self.valid)), lambda _, part: part)

    def check_values(self) -> "FlatVectors":
        """Return these vectors if their real entries are finite; waits for the device.

        Call it where batches are built. On a CPU it costs about as much as a clone.

        Raises:
            ValueError: a real entry is infinite or NaN. Padding may hold anything.
        """
        if not sums_up(self.values):
            check_finite("values", torch.where(self.valid, self.values, 0.0))
        return self


class Graph:
    """A batch of graphs with any streams of nodes and any streams of edges.

    Each stream of nodes holds the graphs one after the other. Edges may come in any order, may join two nodes of one
    stream, and may be stored in one direction or in both.

    The constructor checks shapes and types, which costs nothing. `check_values` checks numbers too.

    Args:
        nodes: stream -> `Nodes`.
        edges: stream -> `Edges`. A stream of edges must not have the name of a stream of nodes.

    >>> nodes = {
    ...     "row": Nodes(torch.ones(3, 2), offsets=torch.tensor([0, 2, 3])),
    ...     "goal": Nodes(torch.ones(2, 1), offsets=torch.tensor([0, 1, 2])),
    ... }
    >>> edges = {"prices": Edges(("goal", "row"), torch.tensor([[0, 0, 1], [0, 1, 2]]), torch.ones(3, 1))}
    >>> graph = Graph(nodes, edges)
    >>> graph.num_graphs, graph.graph_of("row"), graph.graph_of("prices")
    (2, tensor([0, 0, 1]), tensor([0, 0, 1]))

    Raises:
        ValueError: a shape, a type or a name is wrong, or streams disagree in the number of graphs.
    """

    _nodes: Mapping[str, Nodes]
    _edges: Mapping[str, Edges]

    def __init__(self, nodes: Mapping[str, Nodes], edges: Mapping[str, Edges]) -> None:
        # Not by assignment, which a frozen subclass refuses.
        object.__setattr__(self, "_nodes", dict(nodes))
        object.__setattr__(self, "_edges", dict(edges))
        check_nodes(nodes, self.name_of)
        check_edges(edges, nodes, self.name_of)
        tensors: list[tuple[str, str, Tensor | None]] = []
        for stream, (features, offsets) in nodes.items():
            tensors += [(stream, "features", features), (stream, "offsets", offsets)]
        for stream, (_, index, attr) in edges.items():
            tensors += [(stream, "index", index), (stream, "attr", attr)]
        check_one_device(tensors, self.name_of)

    @property
    def nodes(self) -> Mapping[str, Nodes]:
        return self._nodes

    @property
    def edges(self) -> Mapping[str, Edges]:
        return self._edges

    @property
    def num_graphs(self) -> int:
        return len(next(iter(self.nodes.values())).offsets) - 1

    def features(self, kind: str) -> Tensor:
        """The features of one stream of nodes, `[nodes, features]`."""
        return self.nodes[kind].features

    def offsets(self, kind: str) -> Tensor:
        """Where each graph's nodes of one stream begin, int64 `[graphs + 1]`."""
        return self.nodes[kind].offsets

    def graph_of(self, stream: str) -> Tensor:
        """The graph that each node or edge of a stream belongs to, int64 `[items]`."""
        if stream in self.edges:
            ends, index, _ = self.edges[stream]
            return self.graph_of(ends[0]).index_select(0, index[0])
        return segment_of(self.offsets(stream), len(self.features(stream)))

    def values(self) -> dict[str, Tensor]:
        """What a masker can hide: stream -> features of nodes, or attributes of the edges that have some."""
        features = {stream: part.features for stream, part in self.nodes.items()}
        return features | {stream: part.attr for stream, part in self.edges.items() if part.attr is not None}

    def with_values(self: GraphT, values: Mapping[str, Tensor]) -> GraphT:
        """The same graphs with other features or attributes in the streams of `values`; shares everything else."""
        nodes = {s: Nodes(values.get(s, part.features), part.offsets) for s, part in self.nodes.items()}
        edges = {s: Edges(part.ends, part.index, values.get(s, part.attr)) for s, part in self.edges.items()}
        return self.with_streams(nodes, edges)

    def with_streams(self: GraphT, nodes: Mapping[str, Nodes], edges: Mapping[str, Edges]) -> GraphT:
        """Graphs of the same type with other nodes and edges."""
        return type(self)(nodes, edges)

    def to(self: GraphT, device: torch.device | str) -> GraphT:
        nodes = {stream: Nodes(*(tensor.to(device) for tensor in part)) for stream, part in self.nodes.items()}
        edges = {
            stream: Edges(ends, index.to(device), None if attr is None else attr.to(device))
            for stream, (ends, index, attr) in self.edges.items()
        }
        return self.with_streams(nodes, edges)

    def check_values(self: GraphT) -> GraphT:
        """Return these graphs if their numbers are in order; waits for the device.

        Call it where batches are built. On a CPU it costs a third of hiding nodes, and a tenth of hiding edges.

        Raises:
            ValueError: as `check_features` and `check_wiring`.
        """
        self.check_features()
        self.check_wiring()
        return self

    def check_features(self) -> None:
        """Raise a ValueError if a feature or an attribute is infinite or NaN; waits for the device."""
        for stream, values in self.values().items():
            check_finite(self.name_of(stream, "attr" if stream in self.edges else "features"), values)

    def check_wiring(self) -> None:
        """Check offsets and edges; waits for the device.

        Raises:
            ValueError: offsets fall, or do not span the nodes; an edge leaves the batch, or joins two graphs.
        """
        nodes = self.nodes
        graph_of: dict[str, Tensor] = {}
        for stream, part in nodes.items():
            check_offsets(stream, part, self.name_of)
        for stream, edges in self.edges.items():
            if edges.index.size(1):
                check_range(stream, edges, nodes, self.name_of)
                if self.num_graphs > 1:
                    for end in edges.ends:
                        if end not in graph_of:
                            graph_of[end] = self.graph_of(end).int()  # more of int32 stay in a CPU's cache
                    check_crossing(stream, edges, graph_of, self.name_of)

    def name_of(self, stream: str, part: str) -> str:
        """The name of one part of a stream in errors: `"features"`, `"offsets"`, `"index"` or `"attr"`."""
        return f"{'edges' if stream in self.edges else 'nodes'}[{stream!r}].{part}"


@dataclass(frozen=True)
class BipartiteGraph(Graph):
    """A `Graph` of constraints and variables: the node streams "constraint" and "variable", the edge stream "edge".

    Shapes, for M constraints, N variables, E edges and G graphs in total:

    - `constraint_features [M, *]`, `variable_features [N, *]` and `edge_attr [E, *]`.
    - `edge_index [2, E]` int64: row 0 the constraint, row 1 the variable, both counted over the whole batch.
    - `constraint_offsets [G + 1]` int64, rising from 0 to M, and `variable_offsets [G + 1]` int64, from 0 to N.

    `dataclasses.replace` exchanges tensors.
    """

    constraint_features: Tensor
    edge_index: Tensor
    edge_attr: Tensor
    variable_features: Tensor
    constraint_offsets: Tensor
    variable_offsets: Tensor

    def __post_init__(self) -> None:
        nodes = {
            CONSTRAINT: Nodes(self.constraint_features, self.constraint_offsets),
            VARIABLE: Nodes(self.variable_features, self.variable_offsets),
        }
        super().__init__(nodes, {EDGE: Edges((CONSTRAINT, VARIABLE), self.edge_index, self.edge_attr)})

    @classmethod
    def single(
        cls, constraint_features: Tensor, edge_index: Tensor, edge_attr: Tensor, variable_features: Tensor
    ) -> "BipartiteGraph":
        """A batch of one graph."""
        # Not len(), which a tensor without dimensions does not have; the constructor refuses it by name.
        ends = (
            torch.tensor([0, f.shape[:1].numel()], device=f.device) for f in (constraint_features, variable_features)
        )
        return cls(constraint_features, edge_index, edge_attr, variable_features, *ends)

    def with_streams(self, nodes: Mapping[str, Nodes], edges: Mapping[str, Edges]) -> "BipartiteGraph":
        (constraints, first), (variables, second), (_, index, attr) = nodes[CONSTRAINT], nodes[VARIABLE], edges[EDGE]
        assert attr is not None
        return BipartiteGraph(constraints, index, attr, variables, first, second)

    def name_of(self, stream: str, part: str) -> str:
        return f"{stream}_{part}"


def check_finite(name: str, values: Tensor) -> None:
    """Raise a ValueError if a number is infinite or NaN; waits for the device."""
    if sums_up(values):
        return
    wrong = (~values.isfinite()).nonzero()
    if len(wrong):
        place: list[int] = wrong[0].tolist()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        raise ValueError(
            f"{name}{place} is {float(values[tuple(place)])}, but must be finite; leave the instance out, or encode "
            f"what is missing or unbounded as a number and a column that says so."
        )


def sums_up(values: Tensor) -> bool:
    """Whether the sum is finite: then each number is. Quick, but large finite numbers may overflow."""
    return bool(values.detach().sum().isfinite())
