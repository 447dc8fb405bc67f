"""Maskers that hide nodes of bipartite graphs, and what gives hidden nodes away."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from jepa_ssl.instances import BipartiteGraph, check_numbers
from jepa_ssl.maskers.draw import draw_in_segments
from jepa_ssl.maskers.fill import Fill, fill_or_zeros
from jepa_ssl.maskers.graph import (
    KINDS,
    Derived,
    Ratio,
    apply_mask,
    check_graph,
    derived_columns,
    edges_at,
    node_views,
    ratio_of_kinds,
)
from jepa_ssl.protocols import EDGE, Views
from jepa_ssl.seeds import Randomness


class GraphMasker(nn.Module, ABC):
    """Hides the features of nodes, and what gives them away; which nodes, a subclass says in `_hidden`.

    The target view is the whole graph, and every graph weighs the same in the loss.
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
        super().__init__()
        if derived and not hide_edges:
            raise ValueError(
                f"derived is {dict(derived)}, but hide_edges is False: columns that follow from coefficients in plain "
                f"view hide nothing; set hide_edges=True, or leave derived out."
            )
        self.ratio = ratio
        self.ratio_of = ratio_of_kinds(ratio)
        self.fill = fill_or_zeros(fill)
        self.indicator = indicator
        self.hide_edges = hide_edges
        self.derived = derived_columns(derived)

    def forward(
        self, instance: BipartiteGraph, *, generator: Randomness = None
    ) -> Views[BipartiteGraph, BipartiteGraph]:
        check_numbers(instance)
        return self.hide(instance, self.draw(instance, generator=generator), generator)

    def hide(
        self, graph: BipartiteGraph, hidden: Mapping[str, Tensor], generator: Randomness
    ) -> Views[BipartiteGraph, BipartiteGraph]:
        """The views in which the nodes that are `hidden`, kind -> bool `[nodes]`, are filled."""
        nodes = {kind: mark for kind, mark in hidden.items() if self.ratio_of[kind]}
        edges = edges_at(hidden, graph) if self.hide_edges else None
        context = apply_mask(self.fill, graph, generator, nodes=nodes, edges=edges, derived=self.derived)
        columns = dict(hidden) if self.indicator else {}
        if self.indicator and edges is not None:
            columns[EDGE] = edges
        return node_views(context, graph, hidden, columns)

    def draw(self, graph: BipartiteGraph, *, generator: Randomness = None) -> dict[str, Tensor]:
        """Which nodes to hide: kind -> bool `[nodes]`."""
        check_graph(graph, self.derived, generator, hides_edges=self.hide_edges, indicator=self.indicator)
        return self._hidden(graph, generator)

    @abstractmethod
    def _hidden(self, graph: BipartiteGraph, generator: Randomness) -> dict[str, Tensor]: ...


class NodeMasker(GraphMasker):
    """Hides the features of `int(ratio * nodes)` constraints and of as many variables, drawn anew in each graph.

    Of each kind every graph hides at least one node and keeps at least one, where it has two; a lone node stays
    visible. The target view is the whole graph, and every graph weighs the same in the loss.

    By default the edges stay, with their coefficients: what is to be predicted of a hidden node is what its
    coefficients do not say (a right-hand side, a cost). If a node's features follow from its coefficients, they can be
    computed from the context, and the task teaches arithmetic: then set `hide_edges`. What the coefficients went into
    at the other ends (a degree, a mean, a rank) gives them away in turn: name those columns in `derived`. The edges
    themselves always stay, so that a degree can be counted in any view.

    The graphs of a batch are drawn independently, but from one stream of random numbers: to get the same mask for a
    graph in every batch, give `Seeds` in place of the generator.

    Args:
        ratio: share of the nodes to hide, in (0, 1); or kind -> share, where one kind may have 0 and stays whole.
        fill: what hidden features and coefficients become, zero by default.
        indicator: append to the features of every node, in both views, a column that is 1 where the context lost it;
            in the target it is 0. With `hide_edges` each row of `edge_attr` gets one, too.
        hide_edges: hide the coefficients of the edges at hidden nodes, too.
        derived: kind -> columns of its features that are computed from coefficients. They are hidden at every node
            that loses a coefficient. Goes with `hide_edges`. A column computed from a whole graph (a coefficient's rank
            in all of it) knows of coefficients that are hidden elsewhere: leave such columns out of the features.

    >>> edges = torch.tensor([[0, 3], [0, 1]])
    >>> graph = BipartiteGraph.single(torch.ones(4, 1), edges, torch.ones(2, 1), torch.ones(2, 1))
    >>> views = NodeMasker(ratio=0.5)(graph, generator=torch.Generator().manual_seed(0))
    >>> views.context.constraint_features.sum(), views.context.variable_features.sum()
    (tensor(2.), tensor(1.))
    >>> views = NodeMasker({"constraint": 0, "variable": 0.5}, hide_edges=True)(graph)
    >>> views.context.constraint_features is graph.constraint_features, views.context.edge_attr.sum()
    (True, tensor(1.))
    """

    def _hidden(self, graph: BipartiteGraph, generator: Randomness) -> dict[str, Tensor]:
        def of_kind(kind: str) -> Tensor:
            offsets, nodes = graph.offsets(kind), len(graph.features(kind))
            if not self.ratio_of[kind]:
                return torch.zeros(nodes, dtype=torch.bool, device=offsets.device)
            return draw_in_segments(offsets, nodes, self.ratio_of[kind], generator)

        return {kind: of_kind(kind) for kind in KINDS}
