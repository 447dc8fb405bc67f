"""A masker that hides neighbourhoods of bipartite graphs."""

import torch
from torch import Tensor

from jepa_ssl.checks import whole_number
from jepa_ssl.instances import BipartiteGraph
from jepa_ssl.maskers.draw import hidden_counts
from jepa_ssl.maskers.fill import Fill
from jepa_ssl.maskers.graph import KINDS, Derived, Ratio, check_graph
from jepa_ssl.maskers.nodes import GraphMasker
from jepa_ssl.protocols import CONSTRAINT
from jepa_ssl.seeds import Randomness, random_keys
from jepa_ssl.segments import places_in


class BlockMasker(GraphMasker):
    """Hides neighbourhoods: the nodes within `hops` edges of random seeds, until the ratio is met.

    A node that is hidden among visible neighbours can often be guessed from them; in a hidden neighbourhood it cannot.
    As many nodes are hidden as by `NodeMasker`: exactly `int(ratio * nodes)` of each kind and graph, at least one and
    never all.

    The nodes of a graph, of both kinds, are its seeds in random order. The first hides its ball, the nearest nodes
    first, then the second hides what is left of its own, and so on; a kind whose share is met stays as it is. On a
    graph in which `hops` edges reach everything, this is one ball, cut to size.

    With several `blocks`, each grows in this way among the nodes that the earlier ones left, up to its part of the
    share: the blocks are disjoint, together exactly the share, and in each graph and kind as large as each other, or
    one node larger. The context lacks all of them (the targets of I-JEPA, Assran et al., CVPR 2023); all are predicted,
    and `draw_blocks` says which node is in which.

    The cost is `blocks * hops` passes over the edges and a few sorts of the nodes.

    Args:
        ratio: share of the nodes to hide, in (0, 1); or kind -> share, where one kind may have 0 and stays whole.
        hops: radius of a neighbourhood, in edges; from a variable to the next there are 2.
        blocks: how many target blocks.
        fill, indicator, hide_edges, derived: as in `NodeMasker`.

    >>> chain = torch.tensor([[0, 0, 1, 1, 2, 2, 3], [0, 1, 1, 2, 2, 3, 3]])
    >>> graph = BipartiteGraph.single(torch.ones(4, 1), chain, torch.ones(7, 1), torch.ones(4, 1))
    >>> masker, generator = BlockMasker(ratio=0.5, hops=1, blocks=2), torch.Generator().manual_seed(0)
    >>> blocks = masker.draw_blocks(graph, generator=generator)
    >>> blocks["variable"].sort().values
    tensor([-1, -1,  0,  1])
    """

    def __init__(
        self,
        ratio: Ratio,
        hops: int = 2,
        blocks: int = 1,
        fill: Fill | None = None,
        *,
        indicator: bool = False,
        hide_edges: bool = False,
        derived: Derived | None = None,
    ) -> None:
        super().__init__(ratio, fill, indicator=indicator, hide_edges=hide_edges, derived=derived)
        self.hops = whole_number("hops", hops, least=1)
        self.blocks = whole_number("blocks", blocks, least=1)

    def draw_blocks(self, graph: BipartiteGraph, *, generator: Randomness = None) -> dict[str, Tensor]:
        """Which block each node is in: kind -> int64 `[nodes]`, from 0 to `blocks - 1`, -1 where visible.

        The same generator gives the blocks that the views lack.
        """
        check_graph(
            graph,
            self.derived,
            generator,
            hides_edges=self.hide_edges,
            indicator=self.indicator,
        )
        owner = torch.cat([graph.graph_of(kind) for kind in KINDS])
        block = torch.full_like(owner, -1)
        for number in range(self.blocks):
            wanted = {kind: self._wanted(graph, kind, number) for kind in KINDS}
            chosen = grow(graph, owner, block >= 0, self.hops, wanted, generator)
            block = torch.where(chosen, number, block)
        return _split(block, graph)

    def _hidden(self, graph: BipartiteGraph, generator: Randomness) -> dict[str, Tensor]:
        return {kind: block >= 0 for kind, block in self.draw_blocks(graph, generator=generator).items()}

    def _wanted(self, graph: BipartiteGraph, kind: str, number: int) -> Tensor:
        """How many nodes of `kind` each graph's block `number` has, `[graphs]`."""
        sizes = graph.offsets(kind).diff()
        counts = hidden_counts(sizes, self.ratio_of[kind]) if self.ratio_of[kind] else torch.zeros_like(sizes)
        return counts * (number + 1) // self.blocks - counts * number // self.blocks


def grow(
    graph: BipartiteGraph,
    owner: Tensor,
    taken: Tensor,
    hops: int,
    wanted: dict[str, Tensor],
    generator: Randomness,
) -> Tensor:
    """One block of `wanted` nodes, kind -> `[graphs]`, around random seeds that are not `taken`: bool `[nodes]`.

    `owner`, int64, and `taken`, bool, are about the nodes of the batch, the constraints before the variables.
    """
    nodes = len(owner)
    hops = min(hops, nodes)  # no path is longer
    rank = seed_ranks(owner, taken, generator)
    nearest = nearest_seeds(graph, rank, hops)
    nearest = torch.where(taken, rank * (hops + 1), nearest)  # a taken node comes last in its graph
    # Nodes that are equally far from one seed come in the order of their own ranks, which is random. As ranks rise from
    # graph to graph, so does the order.
    order = _split(nearest * nodes + rank, graph)
    return torch.cat([_first(order[kind], graph, kind, wanted[kind]) for kind in KINDS])


def seed_ranks(owner: Tensor, taken: Tensor, generator: Randomness) -> Tensor:
    """A random order of the nodes of each graph, those that are `taken` last: int64 `[nodes]`, graph after graph."""
    tickets = random_keys(generator, owner, lambda: places_in(owner)) >> 30
    order = (owner << 33 | taken.long() << 32 | tickets).argsort(stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    return rank


def nearest_seeds(graph: BipartiteGraph, rank: Tensor, hops: int) -> Tensor:
    """For each node the lowest rank within `hops` edges, and how far it is: int64 `rank * (hops + 1) + distance`."""
    constraint, variable = graph.edge_index
    variable = variable + len(graph.constraint_features)
    narrow = torch.int32 if len(rank) * (hops + 1) < 2**31 else torch.int64  # half the memory to run about in
    nearest = (rank * (hops + 1)).to(narrow)
    for _ in range(hops):
        beyond = nearest + 1
        # index_select, which on a CPU is three times as fast as brackets.
        nearest = nearest.scatter_reduce(0, constraint, beyond.index_select(0, variable), "amin")
        nearest = nearest.scatter_reduce(0, variable, beyond.index_select(0, constraint), "amin")
    return nearest.long()


def _first(order: Tensor, graph: BipartiteGraph, kind: str, wanted: Tensor) -> Tensor:
    """Which nodes of `kind` are among the `wanted` lowest of their graph in `order`: bool `[nodes]`."""
    by_order = order.argsort()
    owner = graph.graph_of(kind)
    place = torch.arange(len(order), device=order.device) - graph.offsets(kind)[owner]
    chosen = torch.empty(len(order), dtype=torch.bool, device=order.device)
    chosen[by_order] = place < wanted[owner]
    return chosen


def _split(nodes: Tensor, graph: BipartiteGraph) -> dict[str, Tensor]:
    constraints = len(graph.features(CONSTRAINT))
    return dict(zip(KINDS, (nodes[:constraints], nodes[constraints:]), strict=True))
