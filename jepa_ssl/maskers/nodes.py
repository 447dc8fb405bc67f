"""A masker that hides nodes of graphs, and the coefficients that reveal them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from jepa_ssl.instances import Graph
from jepa_ssl.instances.streams import Edges
from jepa_ssl.maskers.draw import draw_in_segments
from jepa_ssl.maskers.fill import Fill
from jepa_ssl.maskers.graph import Derived, GraphMasker, Ratio, edges_at
from jepa_ssl.seeds import Randomness


class NodeMasker(GraphMasker):
    """Hide the features of `int(ratio * nodes)` nodes of each stream of a graph, drawn independently in each graph.

    In each stream, a graph with two nodes or more hides at least one and keeps at least one. A lone node stays visible.
    The target view is the whole graph. Every graph has the same weight in the loss.

    By default the edges keep their coefficients. The encoder then has to predict what the coefficients of a hidden node
    do not show: its right-hand side or its cost. If a node's features are computed from its coefficients, set
    `hide_edges`; otherwise the task teaches arithmetic. Features at the other ends that are computed from coefficients
    (a mean, a rank) reveal them too; name these columns in `derived`. The edges themselves always stay, so a degree can
    be counted in any view.

    The graphs of a batch are drawn independently, but from one sequence of random numbers. To give a graph the same
    mask in every batch, use `Seeds` as the generator.

    Args:
        ratio: share of the nodes to hide, in (0, 1), for all streams; or stream -> share. A stream with 0 stays visible
            and contributes a loss of 0. A stream that is not named stays visible and is not predicted, so the encoder
            must not return it: a lone objective node, for example.
        fill: what hidden features and coefficients become, zero by default.
        indicator: append a column to the features of every node. In the context it is 1 at hidden nodes, in the target
            0. With `hide_edges` edges get one too.
        hide_edges: also hide the coefficients of the edges at hidden nodes, in all streams and both directions. At
            least one of these streams must have coefficients.
        derived: stream -> columns of its features that are computed from coefficients. They are hidden at every node
            that loses a coefficient. Needs `hide_edges`. A column computed from the whole graph, such as a
            coefficient's rank in it, also reveals coefficients that are hidden elsewhere. Leave such columns out of the
            features.

    >>> from jepa_ssl import BipartiteGraph
    >>> edges = torch.tensor([[0, 3], [0, 1]])
    >>> graph = BipartiteGraph.single(torch.ones(4, 1), edges, torch.ones(2, 1), torch.ones(2, 1))
    >>> views = NodeMasker(ratio=0.5)(graph, generator=torch.Generator().manual_seed(0))
    >>> views.context.constraint_features.sum(), views.context.variable_features.sum()
    (tensor(2.), tensor(1.))
    >>> views = NodeMasker({"constraint": 0, "variable": 0.5}, hide_edges=True)(graph)
    >>> views.context.constraint_features is graph.constraint_features, views.context.edge_attr.sum()
    (True, tensor(1.))

    Raises:
        ValueError: a ratio is out of range, or `derived` is given without `hide_edges`. In a forward pass: `ratio` or
            `derived` names a stream that the graph lacks, a stream to hide has no features, or `hide_edges` finds no
            coefficients.
    """

    def __init__(
        self,
        ratio: Ratio,
        fill: Fill | None = None,
        *,
        indicator: bool = False,
        hide_edges: bool = False,
        derived: Derived | None = None,
    ) -> None:
        super().__init__(ratio, fill, indicator, derived)
        if derived and not hide_edges:
            raise ValueError(
                f"derived is {dict(derived)}, but hide_edges is False: hiding columns that follow from visible "
                f"coefficients hides nothing; set hide_edges=True, or leave derived out."
            )
        self.hide_edges = hide_edges

    def lost(self, instance: Graph, marks: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        ratios = self._ratios(instance.nodes)
        nodes = {stream: mark for stream, mark in marks.items() if ratios[stream]}
        return nodes | {stream: edges_at(nodes, edges) for stream, edges in self._edges(instance).items()}

    def _hidden(self, graph: Graph, generator: Randomness) -> dict[str, Tensor]:
        hidden: dict[str, Tensor] = {}
        for stream, ratio in self._ratios(graph.nodes).items():
            features, offsets = graph.nodes[stream]
            none = torch.zeros(len(features), dtype=torch.bool, device=offsets.device)
            hidden[stream] = draw_in_segments(offsets, len(features), ratio, generator) if ratio else none
        return hidden

    def _predicted(self, graph: Graph, marks: Mapping[str, Tensor], lost: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(marks)

    def _edges(self, graph: Graph) -> Mapping[str, Edges]:
        return {s: e for s, e in self._edges_at_hidden(graph).items() if e.attr is not None} if self.hide_edges else {}

    def _edges_at_hidden(self, graph: Graph) -> dict[str, Edges]:
        """The streams of edges, with or without coefficients, that touch a stream with hidden nodes."""
        hidden = {stream for stream, ratio in self._ratios(graph.nodes).items() if ratio}
        return {stream: edges for stream, edges in graph.edges.items() if hidden & {*edges.ends}}

    def _check(self, graph: Graph, generator: Randomness) -> None:
        super()._check(graph, generator)
        if self.hide_edges and not self._edges(graph) and (bare := self._edges_at_hidden(graph)):
            raise ValueError(
                f"hide_edges is True, but {graph.name_of(next(iter(bare)), 'attr')} is None, as in all of the edges "
                f"{sorted(bare)}, so there is no coefficient to hide; give them attributes (in PyG data edge_attr, "
                f"edge_weight, or what PyGViews(masker, edge_attr=...) names), or leave hide_edges out."
            )
        for stream, ratio in self._ratios(graph.nodes).items():
            features = graph.features(stream)
            if ratio and not self.hide_edges and len(features) and not features.size(1):
                raise ValueError(
                    f"{graph.name_of(stream, 'features')} is {list(features.shape)}, so there is nothing to hide; give "
                    f"floating point features, set hide_edges=True, or leave the stream out of ratio."
                )
