"""A masker of `HeteroData` with any node types and edge types."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch_geometric has no stubs.

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, HeteroData  # pyright: ignore[reportMissingTypeStubs]

from jepa_ssl.checks import can_read_without_sync, open_fraction
from jepa_ssl.instances import check_finite
from jepa_ssl.integrations.pyg.offsets import offsets_of
from jepa_ssl.maskers import Fill
from jepa_ssl.maskers.draw import draw_in_segments
from jepa_ssl.maskers.fill import fill_or_zeros
from jepa_ssl.maskers.graph import beside, equal_where_hidden, fill_items
from jepa_ssl.protocols import EDGE, Views
from jepa_ssl.seeds import Randomness, check_randomness
from jepa_ssl.segments import segment_of


class HeteroNodeMasker(nn.Module):
    """Hides the features of nodes of `HeteroData`: `int(ratio * nodes)` of each type, drawn anew in each graph.

    As in `NodeMasker` every graph hides at least one node of a type and keeps at least one, where it has two; a lone
    node stays visible. The target view is the batch itself, and every graph weighs the same. The streams are the node
    types that `ratio` names. The context is a copy of the batch with another `x` and, with `hide_edges`, `edge_attr`.

    Args:
        ratio: share of the nodes to hide, in (0, 1), of all types; or type -> share. A type that is not named stays
            whole and has no stream, as befits a lone objective node; one with 0 stays whole and has a stream.
        fill: what hidden features become, zero by default. As stream it is told the node type, or `"edge"`.
        hide_edges: hide `edge_attr` of all edges at hidden nodes, too, of whatever type and direction. Without it what
            a node's edges say of it stays in view: where they say all that there is to know, nothing is hidden.

    Raises:
        ValueError: a ratio is out of range; in a forward pass: the data lack a type, or its `x`.
    """

    def __init__(
        self, ratio: float | Mapping[str, float], fill: Fill | None = None, *, hide_edges: bool = False
    ) -> None:
        super().__init__()
        self.ratio: float | dict[str, float]
        if not isinstance(ratio, Mapping):
            self.ratio = open_fraction("ratio", ratio)
        elif not any(ratio.values()):
            raise ValueError(f"ratio is {dict(ratio)}, which hides nothing; give one type a ratio in (0, 1).")
        else:
            self.ratio = {
                kind: 0.0 if share == 0 else open_fraction(f"ratio[{kind!r}]", share) for kind, share in ratio.items()
            }
        self.fill = fill_or_zeros(fill)
        self.hide_edges = hide_edges

    def forward(self, instance: HeteroData | Batch, *, generator: Randomness = None) -> Views[Any, Any]:
        graph = _Graphs(instance, self.ratio)
        check_randomness(generator, graph.number, graph.device)
        hidden = {
            kind: draw_in_segments(offsets, graph.nodes(kind), graph.ratio[kind], generator)
            if graph.ratio[kind]
            else torch.zeros(graph.nodes(kind), dtype=torch.bool, device=graph.device)
            for kind, offsets in graph.offsets.items()
        }
        context: Any = copy.copy(instance)
        for kind, mark in hidden.items():
            if graph.ratio[kind]:
                x, owner = graph.data[kind].x, _graph_of(graph.offsets[kind], graph.nodes(kind))
                context[kind].x = fill_items(self.fill, x, beside(mark, x), kind, owner, graph.number, generator)
        for edge_type, store in graph.edges() if self.hide_edges else ():
            ends = [
                (kind, nodes) for kind, nodes in zip(edge_type[::2], store.edge_index, strict=True) if kind in hidden
            ]
            at_hidden = torch.stack([hidden[kind].index_select(0, nodes) for kind, nodes in ends]).any(0)
            owner = _graph_of(graph.offsets[ends[0][0]], graph.nodes(ends[0][0]), of=ends[0][1])
            attr = store.edge_attr
            context[edge_type].edge_attr = fill_items(
                self.fill, attr, beside(at_hidden, attr), EDGE, owner, graph.number, generator
            )
        weight = {
            kind: equal_where_hidden(mark, graph.offsets[kind], graph.data[kind].x.dtype)
            for kind, mark in hidden.items()
        }
        return Views(context, instance, hidden, weight)


class _Graphs:
    """What a draw has to know of a batch: which node types have a ratio, and where each graph begins in these."""

    def __init__(self, data: Any, ratio: float | Mapping[str, float]) -> None:
        if not isinstance(data, HeteroData):
            raise TypeError(
                f"instance is a {type(data).__name__}, but must be HeteroData or a Batch of it; for Data with "
                f"constraint and variable features use BipartiteViews(NodeMasker(...))."
            )
        self.data: Any = data
        self.ratio = ratio if isinstance(ratio, Mapping) else dict.fromkeys(data.node_types, ratio)
        for kind in self.ratio:
            x = self.data[kind].get("x") if kind in data.node_types else None
            if not isinstance(x, Tensor) or not x.is_floating_point():
                raise ValueError(
                    f"ratio names the node type {kind!r}, but data[{kind!r}].x is "
                    f"{None if x is None else x.dtype}; give floating point features [nodes, features], or leave the "
                    f"type out of ratio: {{type: share}} of {data.node_types}."
                )
            if can_read_without_sync(x):
                check_finite(f"data[{kind!r}].x", x)
        self.offsets = {kind: offsets_of(data, self.data[kind], "x", (kind, "x"), "ptr") for kind in self.ratio}
        first = next(iter(self.offsets.values()))
        self.number, self.device = getattr(data, "num_graphs", 1), first.device
        for kind, offsets in self.offsets.items():
            if len(offsets) != self.number + 1:
                raise ValueError(
                    f"{len(offsets) - 1} of {self.number} graphs have nodes of type {kind!r}, so that these cannot be "
                    f"told apart; give the graphs that lack it an empty x, [0, features]."
                )

    def nodes(self, kind: str) -> int:
        return len(self.data[kind].x)

    def edges(self) -> list[tuple[tuple[str, str, str], Any]]:
        """The edge types with features and an end among the types that have a ratio."""
        return [
            (edge_type, self.data[edge_type])
            for edge_type in self.data.edge_types
            if "edge_attr" in self.data[edge_type] and {*edge_type[::2]} & self.ratio.keys()
        ]


def _graph_of(offsets: Tensor, nodes: int, of: Tensor | None = None) -> Callable[[], Tensor]:
    """The graph of each node, or of those that `of` names; computed by a fill that asks for it."""
    return lambda: segment_of(offsets, nodes) if of is None else segment_of(offsets, nodes).index_select(0, of)
