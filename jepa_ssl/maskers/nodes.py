"""A masker that hides nodes of graphs, and what gives hidden nodes away."""

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
    """Hides the features of `int(ratio * nodes)` nodes of each stream of a graph, drawn independently in each graph.

    In each stream every graph hides at least one node and keeps at least one, if it has two; a lone node stays visible.
    The target view is the whole graph, and every graph weighs the same in the loss.

    By default the edges keep their coefficients: then what has to be predicted of a hidden node is what its
    coefficients do not say (a right-hand side, a cost). If a node's features follow from its coefficients, they can be
    computed from the context, and the task teaches arithmetic: then set `hide_edges`. What the coefficients went into
    at the other ends (a degree, a mean, a rank) gives them away too: name those columns in `derived`. The edges
    themselves always stay, so that a degree can be counted in any view.

    The graphs of a batch are drawn independently, but from one stream of random numbers: to get the same mask for a
    graph in every batch, give `Seeds` in place of the generator.

    Args:
        ratio: share of the nodes to hide, in (0, 1), for all streams; or stream -> share. A stream with 0 stays whole
            and contributes a loss of 0. A stream that is not named stays whole and is not predicted, so the encoder
            must not return it: a lone objective node, for example.
        fill: what hidden features and coefficients become, zero by default.
        indicator: append to the features of every node, in both views, a column that is 1 where the context lost it;
            in the target it is 0. With `hide_edges` edges get one too.
        hide_edges: also hide the coefficients of the edges at hidden nodes, in all streams and both directions. One of
            these streams at least has to have some.
        derived: stream -> columns of its features that are computed from coefficients. They are hidden at every node
            that loses a coefficient. Needs `hide_edges`. A column computed from a whole graph (a coefficient's rank in
            all of it) knows of coefficients that are hidden elsewhere: leave such columns out of the features.

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
        ValueError: a ratio is out of range; in a forward pass: `ratio` or `derived` names a stream that the
            graph lacks, a stream to be hidden has no features, or `hide_edges` finds no coefficients.
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
                f"derived is {dict(derived)}, but hide_edges is False: columns that follow from coefficients in plain "
                f"view hide nothing; set hide_edges=True, or leave derived out."
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
        """The streams of edges, with or without coefficients, that have an end in a stream that is hidden."""
        hidden = {stream for stream, ratio in self._ratios(graph.nodes).items() if ratio}
        return {stream: edges for stream, edges in graph.edges.items() if hidden & {*edges.ends}}

    def _check(self, graph: Graph, generator: Randomness) -> None:
        super()._check(graph, generator)
        if self.hide_edges and not self._edges(graph) and (bare := self._edges_at_hidden(graph)):
            raise ValueError(
                f"hide_edges is True, but {graph.name_of(next(iter(bare)), 'attr')} is None, as in all of the edges "
                f"{sorted(bare)}, so there is no coefficient to hide; give them attributes (of PyG data edge_attr, "
                f"edge_weight, or what PyGViews(masker, edge_attr=...) names), or leave hide_edges out."
            )
        for stream, ratio in self._ratios(graph.nodes).items():
            features = graph.features(stream)
            if ratio and not self.hide_edges and len(features) and not features.size(1):
                raise ValueError(
                    f"{graph.name_of(stream, 'features')} is {list(features.shape)}, so there is nothing to hide; give "
                    f"floating point features, set hide_edges=True, or leave the stream out of ratio."
                )
