"""A masker that hides coefficients of bipartite graphs."""

from torch import Tensor, nn

from jepa_ssl.checks import open_fraction
from jepa_ssl.instances import BipartiteGraph, check_numbers
from jepa_ssl.maskers.draw import draw_in_groups
from jepa_ssl.maskers.fill import Fill, fill_or_zeros
from jepa_ssl.maskers.graph import (
    KINDS,
    Derived,
    apply_mask,
    check_graph,
    derived_columns,
    edge_owner,
    node_views,
    nodes_at,
)
from jepa_ssl.protocols import EDGE, Views
from jepa_ssl.seeds import Randomness


class EdgeMasker(nn.Module):
    """Hides `int(ratio * edges)` coefficients, rows of `edge_attr`, drawn anew in each graph.

    Every graph hides at least one coefficient and keeps at least one, where it has two. The edges themselves stay: the
    context says which variables a constraint has, but not with what coefficients. Edges may come in any order.

    Edges have no embedding. What is predicted are the nodes that lost a coefficient, and of each kind every graph
    weighs the same in the loss. The target view is the whole graph.

    Args:
        ratio: share of the edges to hide, in (0, 1).
        fill: what a hidden coefficient becomes, zero by default.
        indicator: append to every row of `edge_attr`, in both views, a column that is 1 where the context lost it; in
            the target it is 0.
        derived: kind -> columns of its features that are computed from coefficients (a mean, a rank). They are hidden
            at every node that loses a coefficient: a mean in plain view gives a single hidden coefficient away.

    >>> import torch
    >>> edges = torch.tensor([[0, 0, 1, 2], [0, 1, 1, 1]])
    >>> graph = BipartiteGraph.single(torch.ones(3, 1), edges, torch.ones(4, 1), torch.ones(2, 1))
    >>> views = EdgeMasker(ratio=0.25)(graph, generator=torch.Generator().manual_seed(0))
    >>> views.context.edge_attr.sum(), views.hidden["constraint"].sum(), views.hidden["variable"].sum()
    (tensor(3.), tensor(1), tensor(1))
    """

    def __init__(
        self, ratio: float, fill: Fill | None = None, *, indicator: bool = False, derived: Derived | None = None
    ) -> None:
        super().__init__()
        self.ratio = open_fraction("ratio", ratio)
        self.fill = fill_or_zeros(fill)
        self.indicator = indicator
        self.derived = derived_columns(derived)

    def forward(
        self, instance: BipartiteGraph, *, generator: Randomness = None
    ) -> Views[BipartiteGraph, BipartiteGraph]:
        check_numbers(instance)
        return self.hide(instance, self.draw(instance, generator=generator), generator)

    def hide(
        self, graph: BipartiteGraph, edges: Tensor, generator: Randomness
    ) -> Views[BipartiteGraph, BipartiteGraph]:
        """The views in which the coefficients of `edges`, bool `[edges]`, are filled."""
        context = apply_mask(self.fill, graph, generator, edges=edges, derived=self.derived)
        columns = {EDGE: edges} if self.indicator else {}
        return node_views(context, graph, {kind: nodes_at(edges, graph, kind) for kind in KINDS}, columns)

    def draw(self, graph: BipartiteGraph, *, generator: Randomness = None) -> Tensor:
        """Which edges to hide: bool `[edges]`."""
        check_graph(graph, self.derived, generator, hides_edges=True, indicator=self.indicator)
        return draw_in_groups(edge_owner(graph), graph.num_graphs, self.ratio, generator)
