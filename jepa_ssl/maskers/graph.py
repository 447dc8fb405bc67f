"""What the maskers of bipartite constraint/variable graphs share: what is hidden where, and what that weighs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from jepa_ssl.checks import can_read_without_sync, open_fraction, whole_number
from jepa_ssl.instances import BipartiteGraph
from jepa_ssl.maskers.draw import other_in_segments
from jepa_ssl.maskers.fill import Fill
from jepa_ssl.protocols import CONSTRAINT, EDGE, VARIABLE, Views
from jepa_ssl.seeds import Randomness, check_randomness, normal_like
from jepa_ssl.segments import equal_shares, segment_sums

KINDS = (CONSTRAINT, VARIABLE)

Ratio = float | Mapping[str, float]
Derived = Mapping[str, Sequence[int]]


def ratio_of_kinds(ratio: Ratio) -> dict[str, float]:
    """The ratio of each kind of node, from one for both or one for each, of which all but one may be 0."""
    if not isinstance(ratio, Mapping):
        return dict.fromkeys(KINDS, open_fraction("ratio", ratio))
    if set(ratio) != set(KINDS):
        raise ValueError(
            f"ratio names the kinds {sorted(ratio)}, but must name {sorted(KINDS)}; give 0 to the kind that stays."
        )
    if not any(ratio.values()):
        raise ValueError(f"ratio is {dict(ratio)}, which hides nothing; give at least one kind a ratio in (0, 1).")
    return {kind: 0.0 if ratio[kind] == 0 else open_fraction(f"ratio[{kind!r}]", ratio[kind]) for kind in KINDS}


def derived_columns(derived: Derived | None) -> dict[str, tuple[int, ...]]:
    """The derived columns of each kind of node."""
    derived = derived or {}
    for kind in derived:
        if kind not in KINDS:
            raise ValueError(f"derived names the kind {kind!r}, but the kinds are {sorted(KINDS)}; use one of them.")
    remedy = "columns count from 0."
    return {
        kind: tuple(whole_number(f"derived[{kind!r}]", column, 0, remedy) for column in of_kind)
        for kind, of_kind in derived.items()
    }


def check_graph(
    graph: BipartiteGraph,
    derived: Mapping[str, tuple[int, ...]],
    generator: Randomness,
    *,
    hides_edges: bool = False,
    indicator: bool = False,
) -> None:
    """Raises unless a masker with these `derived` columns, which hides and marks edges or not, fits `graph`."""
    if not isinstance(graph, BipartiteGraph):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"instance is a {type(graph).__name__}, but must be a BipartiteGraph; "
            f"jepa_ssl.integrations.pyg.bipartite_graph makes one of PyG data."
        )
    check_randomness(generator, graph.num_graphs, graph.constraint_features.device)
    for kind, columns in derived.items():
        width = graph.features(kind).size(1)
        if columns and max(columns) >= width:
            raise ValueError(
                f"derived[{kind!r}] names column {max(columns)}, but {kind}_features has {width} columns; "
                f"columns count from 0."
            )
    if hides_edges and not graph.edge_attr.is_floating_point():
        raise ValueError(
            f"edge_attr is {graph.edge_attr.dtype}, but must be floating point where coefficients are hidden; "
            f"use .float()."
        )
    if hides_edges and indicator and graph.edge_attr.ndim != 2:
        raise ValueError(
            f"edge_attr is {list(graph.edge_attr.shape)}, but must be [edges, features] to take an indicator "
            f"column; use .unsqueeze(-1) for a single feature, or leave indicator out."
        )
    # Wrong numbers would end in an index error far from their cause.
    if can_read_without_sync(graph.constraint_offsets):
        graph.check_wiring()


def edge_owner(graph: BipartiteGraph) -> Tensor:
    """The graph that each edge belongs to: int64 `[edges]`."""
    return graph.graph_of(CONSTRAINT).index_select(0, graph.edge_index[0])


def edges_at(nodes: Mapping[str, Tensor], graph: BipartiteGraph) -> Tensor:
    """Which edges have an end among `nodes`, kind -> bool `[nodes]`: bool `[edges]`."""
    constraint, variable = graph.edge_index
    return nodes[CONSTRAINT].index_select(0, constraint) | nodes[VARIABLE].index_select(0, variable)


def nodes_at(edges: Tensor, graph: BipartiteGraph, kind: str) -> Tensor:
    """Which nodes of `kind` are an end of one of `edges`, bool `[edges]`: bool `[nodes]`."""
    nodes = len(graph.features(kind))
    # The other edges mark a node too many: to pick out the edges, a GPU would have to be asked how many they are.
    ends = graph.edge_index[KINDS.index(kind)].where(edges, nodes)
    return torch.zeros(nodes + 1, dtype=torch.bool, device=edges.device).scatter_(0, ends, True)[:nodes]


def apply_mask(
    fill: Fill,
    graph: BipartiteGraph,
    generator: Randomness,
    *,
    nodes: Mapping[str, Tensor] | None = None,
    edges: Tensor | None = None,
    derived: Mapping[str, tuple[int, ...]] | None = None,
) -> BipartiteGraph:
    """`graph` without the features of `nodes`, the coefficients of `edges`, and what is derived from those.

    `nodes` is kind -> bool `[nodes]`, `edges` bool `[edges]`; `derived` are the columns that the ends of `edges` lose.
    What is not named is shared with `graph`.
    """
    nodes, derived, filled = nodes or {}, derived or {}, {}
    for kind in KINDS:
        hidden = nodes[kind].unsqueeze(-1) if kind in nodes else None
        if edges is not None and derived.get(kind):
            lost = nodes_at(edges, graph, kind)
            whole = torch.zeros_like(lost).unsqueeze(-1) if hidden is None else hidden
            hidden = whole.repeat(1, graph.features(kind).size(1))
            for column in derived[kind]:
                hidden[:, column] |= lost
        if hidden is not None:
            filled[f"{kind}_features"] = fill_nodes(fill, graph, kind, hidden, generator)
    if edges is not None:
        filled["edge_attr"] = fill_edges(fill, graph, edges, generator)
    return replace(graph, **filled)


def fill_nodes(fill: Fill, graph: BipartiteGraph, kind: str, hidden: Tensor, generator: Randomness) -> Tensor:
    """The features of `kind`, filled where `hidden`, bool `[nodes, 1]` or `[nodes, features]`."""
    return fill_items(
        fill, graph.features(kind), hidden, kind, lambda: graph.graph_of(kind), graph.num_graphs, generator
    )


def fill_edges(fill: Fill, graph: BipartiteGraph, hidden: Tensor, generator: Randomness) -> Tensor:
    """`edge_attr`, filled at the edges that are `hidden`, bool `[edges]`."""
    attr = graph.edge_attr
    return fill_items(fill, attr, beside(hidden, attr), EDGE, lambda: edge_owner(graph), graph.num_graphs, generator)


def beside(marks: Tensor, values: Tensor) -> Tensor:
    """`marks`, bool `[items]`, in a shape that is broadcast to `values`, `[items, *]`."""
    return marks.view(-1, *(1,) * (values.ndim - 1))


def fill_items(
    fill: Fill,
    values: Tensor,
    hidden: Tensor,
    stream: str,
    graph_of: Callable[[], Tensor],
    graphs: int,
    generator: Randomness,
) -> Tensor:
    """`values`, filled where `hidden`; item i belongs to graph `graph_of()[i]`, which a fill that draws asks for."""

    def others() -> Tensor:
        return values[other_in_segments(graph_of(), graphs, generator)]

    def noise() -> Tensor:
        return normal_like(values, generator, graph_of)

    return fill(values, hidden, stream=stream, generator=generator, others=others, noise=noise)


def node_views(
    context: BipartiteGraph, target: BipartiteGraph, hidden: Mapping[str, Tensor], columns: Mapping[str, Tensor]
) -> Views[BipartiteGraph, BipartiteGraph]:
    """Views in which the nodes that are `hidden`, kind -> bool `[nodes]`, are predicted and each graph weighs 1.

    `columns`, stream -> bool `[items]`, are the indicator columns that the context gets; the target gets zeros.
    """
    weight = {kind: equal_graphs(hidden[kind], target, kind) for kind in hidden}
    if columns:
        context = _with_columns(context, columns)
        target = _with_columns(target, {stream: torch.zeros_like(mark) for stream, mark in columns.items()})
    return Views(context, target, dict(hidden), weight)


def equal_graphs(hidden: Tensor, graph: BipartiteGraph, kind: str) -> Tensor:
    """Weights `[nodes]` that share the weight 1 among the hidden nodes of each graph."""
    return equal_where_hidden(hidden, graph.offsets(kind), graph.features(kind).dtype)


def equal_where_hidden(hidden: Tensor, offsets: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights `[items]` that share 1 among the `hidden` items of each graph, which begins at `offsets`."""
    return equal_shares(offsets, len(hidden), dtype, segment_sums(hidden, offsets)) * hidden


def _with_columns(graph: BipartiteGraph, marks: Mapping[str, Tensor]) -> BipartiteGraph:
    names = {stream: "edge_attr" if stream == EDGE else f"{stream}_features" for stream in marks}
    features = {stream: getattr(graph, name) for stream, name in names.items()}
    wider = {
        names[stream]: torch.cat([features[stream], mark.unsqueeze(-1).to(features[stream])], dim=-1)
        for stream, mark in marks.items()
    }
    return replace(graph, **wider)
