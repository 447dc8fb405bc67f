"""Maskers of bipartite constraint/variable graphs."""

from dataclasses import replace

import torch
from torch import Tensor

from jepa_ssl.checks import generator_fits, open_fraction
from jepa_ssl.instances import BipartiteGraph
from jepa_ssl.maskers.draw import draw_in_segments
from jepa_ssl.maskers.fill import Fill, Zeros
from jepa_ssl.protocols import CONSTRAINT, VARIABLE, Views


class NodeMasker:
    """Hides the features of `int(ratio * nodes)` constraints and of as many variables, drawn anew in each graph.

    Of each kind every graph hides at least one node and keeps at least one, where it has two; a lone node stays
    visible. Edges stay. The target view is the whole graph, and every graph weighs the same in the loss.

    Args:
        ratio: share of the nodes of each kind to hide, in (0, 1).
        fill: what a hidden node's features become, zero by default.

    >>> edges = torch.tensor([[0, 3], [0, 1]])
    >>> graph = BipartiteGraph.single(torch.ones(4, 1), edges, torch.ones(2, 1), torch.ones(2, 1))
    >>> views = NodeMasker(ratio=0.5)(graph, generator=torch.Generator().manual_seed(0))
    >>> views.context.constraint_features.sum(), views.context.variable_features.sum()
    (tensor(2.), tensor(1.))
    """

    def __init__(self, ratio: float, fill: Fill | None = None) -> None:
        self.ratio = open_fraction("ratio", ratio)
        self.fill = Zeros() if fill is None else fill

    def __call__(self, instance: BipartiteGraph, *, generator: torch.Generator | None = None) -> Views[BipartiteGraph]:
        hidden = self.draw(instance, generator=generator)
        constraint, variable = (
            self.fill(instance.features(kind), hidden[kind].unsqueeze(-1), generator) for kind in (CONSTRAINT, VARIABLE)
        )
        return Views(
            context=replace(instance, constraint_features=constraint, variable_features=variable),
            target=instance,
            hidden=hidden,
            weight={kind: _equal_graphs(hidden[kind], instance, kind) for kind in hidden},
        )

    def draw(self, graph: BipartiteGraph, *, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Which nodes to hide: kind -> bool `[nodes]`."""
        generator_fits(generator, graph.constraint_features.device)
        return {
            kind: draw_in_segments(graph.graph_of(kind), graph.offsets(kind), self.ratio, generator)
            for kind in (CONSTRAINT, VARIABLE)
        }


def _equal_graphs(hidden: Tensor, graph: BipartiteGraph, kind: str) -> Tensor:
    """Weights `[nodes]` that share the weight 1 among the hidden nodes of each graph."""
    owner = graph.graph_of(kind)
    # In float32 at least: float16 cannot count past 2048.
    share = hidden.to(torch.promote_types(graph.features(kind).dtype, torch.float32))
    per_graph = share.new_zeros(graph.num_graphs).index_add_(0, owner, share)
    return share / per_graph.clamp(min=1.0)[owner]
