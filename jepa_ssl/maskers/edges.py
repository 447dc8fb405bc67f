"""A masker that hides coefficients of graphs."""

from collections.abc import Mapping

import torch
from torch import Tensor

from jepa_ssl.checks import can_read_without_sync
from jepa_ssl.instances import Graph
from jepa_ssl.instances.streams import Edges
from jepa_ssl.maskers.draw import draw_in_groups
from jepa_ssl.maskers.fill import Fill
from jepa_ssl.maskers.graph import Derived, GraphMasker, Ratio, nodes_at
from jepa_ssl.seeds import Randomness


class EdgeMasker(GraphMasker):
    """Hide `int(ratio * edges)` coefficients of each stream of edges, drawn independently in each graph.

    In each stream, a graph with two coefficients or more hides at least one and keeps at least one. The edges
    themselves stay: the context shows which variables a constraint has, but not their coefficients. Edges may come in
    any order.

    Edges have no embedding, so the encoder predicts the nodes that lost a coefficient. In each stream every graph has
    the same weight in the loss. The target view is the whole graph.

    Args:
        ratio: share of the edges to hide, in (0, 1), for all streams; or stream -> share. A stream that is not named
            stays visible.
        fill: what a hidden coefficient becomes, zero by default.
        indicator: append a column to the attributes of the edges. In the context it is 1 at hidden edges, in the target
            0.
        derived: stream of nodes -> columns of its features that are computed from coefficients (a mean, a rank). They
            are hidden at every node that loses a coefficient, because a visible mean reveals a single hidden
            coefficient.
        reverse: stream -> the stream with the same edges in the other direction, in the same order. It loses the same
            coefficients; otherwise they would stay visible there. Within one stream each edge is drawn by itself, so
            store an undirected edge once. `jepa_ssl.testing.check_masker` finds both faults.

    >>> from jepa_ssl import BipartiteGraph
    >>> edges = torch.tensor([[0, 0, 1, 2], [0, 1, 1, 1]])
    >>> graph = BipartiteGraph.single(torch.ones(3, 1), edges, torch.ones(4, 1), torch.ones(2, 1))
    >>> views = EdgeMasker(ratio=0.25)(graph, generator=torch.Generator().manual_seed(0))
    >>> views.context.edge_attr.sum(), views.hidden["constraint"].sum(), views.hidden["variable"].sum()
    (tensor(3.), tensor(1), tensor(1))

    Raises:
        ValueError: a ratio is out of range. In a forward pass: `ratio`, `derived` or `reverse` names a stream that the
            graph lacks, or edges to hide have no attributes. Or the edges in `reverse` are not each other's reverse.
    """

    def __init__(
        self,
        ratio: Ratio,
        fill: Fill | None = None,
        *,
        indicator: bool = False,
        derived: Derived | None = None,
        reverse: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(ratio, fill, indicator, derived)
        self.reverse = dict(reverse or {})
        if isinstance(self.ratio, Mapping) and (both := self.ratio.keys() & self.reverse.keys()):
            raise ValueError(
                f"ratio and reverse both name {sorted(both)}, but a stream in reverse loses what the other one loses; "
                f"leave it out of ratio."
            )

    def lost(self, instance: Graph, marks: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        ratios = self._drawn(instance)
        edges = {stream: mark for stream, mark in marks.items() if ratios[stream]}
        return edges | {back: edges[there] for back, there in self.reverse.items() if there in edges}

    def _hidden(self, graph: Graph, generator: Randomness) -> dict[str, Tensor]:
        hidden: dict[str, Tensor] = {}
        for stream, ratio in self._drawn(graph).items():
            index = graph.edges[stream].index
            none = torch.zeros(index.size(1), dtype=torch.bool, device=index.device)
            hidden[stream] = (
                draw_in_groups(graph.graph_of(stream), graph.num_graphs, ratio, generator) if ratio else none
            )
        return hidden

    def _predicted(self, graph: Graph, marks: Mapping[str, Tensor], lost: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = {stream: nodes_at({**marks, **lost}, graph, stream) for stream in graph.nodes}
        return {stream: mark for stream, mark in found.items() if mark is not None}

    def _edges(self, graph: Graph) -> Mapping[str, Edges]:
        drawn = {stream for stream, ratio in self._drawn(graph).items() if ratio}
        return {s: edges for s, edges in graph.edges.items() if self.reverse.get(s, s) in drawn}

    def _drawn(self, graph: Graph) -> dict[str, float]:
        """The ratio of each stream that is not in `reverse`."""
        return self._ratios({stream: edges for stream, edges in graph.edges.items() if stream not in self.reverse})

    def _check(self, graph: Graph, generator: Randomness) -> None:
        for back, there in self.reverse.items():
            edges, turned = graph.edges.get(there), graph.edges.get(back)
            if edges is None or turned is None or turned.ends != edges.ends[::-1]:
                raise ValueError(
                    f"reverse says that {back!r} is {there!r} in the other direction, but the graph's edges are "
                    f"{ {stream: part.ends for stream, part in graph.edges.items()} }; name two streams that fit."
                )
            if can_read_without_sync(edges.index) and not torch.equal(edges.index, turned.index.flip(0)):
                raise ValueError(
                    f"reverse says that {back!r} is {there!r} in the other direction, but their edges differ; store "
                    f"both in the same order."
                )
        if not self._drawn(graph):
            raise ValueError(f"the graph has the edges {sorted(graph.edges)}, but none can be drawn; add some.")
        super()._check(graph, generator)
