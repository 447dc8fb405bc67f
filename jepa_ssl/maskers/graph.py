"""The base class for maskers of graphs."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from jepa_ssl.checks import can_read_without_sync, open_fraction, whole_number
from jepa_ssl.instances import Graph
from jepa_ssl.instances.streams import Edges
from jepa_ssl.maskers.base import Items, Masker
from jepa_ssl.maskers.draw import other_in_groups
from jepa_ssl.maskers.fill import Fill
from jepa_ssl.protocols import Views
from jepa_ssl.seeds import Randomness, check_randomness, normal_like
from jepa_ssl.segments import any_in_groups, shares_of_marked

Ratio = float | Mapping[str, float]
Derived = Mapping[str, Sequence[int]]


class GraphMasker(Masker):
    """Base class for maskers of graphs; `_hidden` chooses the nodes or edges to hide.

    Every graph has the same weight in the loss. For the arguments see `NodeMasker`; their streams are those of the
    items that are hidden, nodes or edges.
    """

    def __init__(self, ratio: Ratio, fill: Fill | None, indicator: bool, derived: Derived | None) -> None:
        super().__init__(fill, indicator)
        self.ratio = _checked_ratio(ratio)
        remedy = "columns count from 0."
        self.derived = {
            stream: tuple(whole_number(f"derived[{stream!r}]", column, 0, remedy) for column in columns)
            for stream, columns in (derived or {}).items()
        }

    @abstractmethod
    def _hidden(self, graph: Graph, generator: Randomness) -> dict[str, Tensor]:
        """Choose the items to hide: stream -> bool `[items]`."""

    @abstractmethod
    def _predicted(self, graph: Graph, marks: Mapping[str, Tensor], lost: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the nodes to predict, stream -> bool `[nodes]`, if `marks` were drawn and the context loses `lost`."""

    @abstractmethod
    def _edges(self, graph: Graph) -> Mapping[str, Edges]:
        """Return the streams of edges whose attributes this masker hides."""

    def draw(self, instance: Graph, *, generator: Randomness = None) -> dict[str, Tensor]:
        """Choose the nodes or edges to hide: stream -> bool `[items]`."""
        self._check(instance, generator)
        return self._hidden(instance, generator)

    def hide(self, instance: Graph, marks: Mapping[str, Tensor], generator: Randomness) -> Views[Any, Any]:
        lost = self.lost(instance, marks)
        hidden = self._predicted(instance, marks, lost)
        context, target = instance.with_values(self._filled(instance, lost, generator)), instance
        if self.indicator:
            columns = {stream: mark for stream, mark in marks.items() if stream in instance.nodes}
            columns |= {stream: lost[stream] for stream in self._edges(instance)}
            context = _with_columns(context, columns)
            target = _with_columns(target, {stream: torch.zeros_like(mark) for stream, mark in columns.items()})
        return Views(context, target, hidden, self.weights(instance, hidden))

    def check_numbers(self, instance: Graph) -> None:
        if can_read_without_sync(_some_offsets(instance)):
            instance.check_features()

    def items(self, instance: Graph, stream: str) -> Items:
        return Items(instance.graph_of(stream), instance.num_graphs)

    def weights(self, instance: Graph, hidden: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            stream: shares_of_marked(mark, instance.offsets(stream), instance.features(stream).dtype)
            for stream, mark in hidden.items()
        }

    def _ratios(self, streams: Iterable[str]) -> dict[str, float]:
        """Return the ratios of the graph's `streams` that have one, in their order."""
        if not isinstance(self.ratio, Mapping):
            return dict.fromkeys(streams, self.ratio)
        ratios = {stream: self.ratio[stream] for stream in streams if stream in self.ratio}
        if len(ratios) < len(self.ratio):
            raise ValueError(
                f"ratio names the streams {sorted(self.ratio)}, but the graph has {sorted(streams)}; name those."
            )
        return ratios

    def _check(self, graph: Graph, generator: Randomness) -> None:
        """Raise unless this masker can hide parts of `graph`."""
        offsets = _some_offsets(graph)
        check_randomness(generator, graph.num_graphs, offsets.device)
        for stream, columns in self.derived.items():
            if stream not in graph.nodes:
                raise ValueError(
                    f"derived names the stream {stream!r}, but the nodes are {sorted(graph.nodes)}; use one of them."
                )
            width = graph.features(stream).size(1)
            if columns and max(columns) >= width:
                raise ValueError(
                    f"derived[{stream!r}] names column {max(columns)}, but {graph.name_of(stream, 'features')} has "
                    f"{width} columns; columns count from 0."
                )
        for stream, edges in self._edges(graph).items():
            _check_attr(graph.name_of(stream, "attr"), edges.attr, self.indicator)
        # Wrong node numbers would cause an index error far from their origin.
        if can_read_without_sync(offsets):
            graph.check_wiring()

    def _filled(self, graph: Graph, lost: Mapping[str, Tensor], generator: Randomness) -> dict[str, Tensor]:
        """Fill the values of each stream of `graph` that loses some: stream -> `[items, *]`."""
        filled: dict[str, Tensor] = {}
        for stream, values in graph.values().items():
            hidden = lost[stream].view(-1, *(1,) * (values.ndim - 1)) if stream in lost else None
            if (columns := self.derived.get(stream)) and (at := nodes_at(lost, graph, stream)) is not None:
                hidden = torch.zeros_like(at).unsqueeze(-1) if hidden is None else hidden
                hidden = hidden.repeat(1, values.size(1))
                for column in columns:
                    hidden[:, column] |= at
            if hidden is not None:
                filled[stream] = self._fill(graph, stream, values, hidden, generator)
        return filled

    def _fill(self, graph: Graph, stream: str, values: Tensor, hidden: Tensor, generator: Randomness) -> Tensor:
        def others() -> Tensor:
            return values[other_in_groups(graph.graph_of(stream), graph.num_graphs, generator)]

        def noise() -> Tensor:
            return normal_like(values, generator, lambda: graph.graph_of(stream))

        return self.fill(values, hidden, stream=stream, generator=generator, others=others, noise=noise)


def edges_at(nodes: Mapping[str, Tensor], edges: Edges) -> Tensor:
    """Mark the edges with an end in `nodes`, bool `[edges]`; `nodes` names one of their streams or both."""
    found = [nodes[end].index_select(0, row) for end, row in zip(edges.ends, edges.index, strict=True) if end in nodes]
    return found[0] if len(found) == 1 else found[0] | found[1]


def nodes_at(lost: Mapping[str, Tensor], graph: Graph, stream: str) -> Tensor | None:
    """Mark the nodes of `stream` that are an end of a lost edge, bool `[nodes]`; None if no lost edges join it."""
    found: Tensor | None = None
    for name, edges in graph.edges.items():
        for row, end in enumerate(edges.ends):
            if name in lost and end == stream:
                here = any_in_groups(lost[name], edges.index[row], len(graph.features(stream)))
                found = here if found is None else found | here
    return found


def _checked_ratio(ratio: Ratio) -> Ratio:
    if not isinstance(ratio, Mapping):
        return open_fraction("ratio", ratio)
    if not any(ratio.values()):
        raise ValueError(f"ratio is {dict(ratio)}, which hides nothing; give at least one stream a ratio in (0, 1).")
    return {stream: 0.0 if r == 0 else open_fraction(f"ratio[{stream!r}]", r) for stream, r in ratio.items()}


def _some_offsets(graph: Graph) -> Tensor:
    """Return the offsets of one stream, to read the device from. Raises a TypeError if `graph` is not a `Graph`."""
    if not isinstance(graph, Graph):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"instance is a {type(graph).__name__}, but must be a Graph or a BipartiteGraph; "
            f"for PyG data use jepa_ssl.integrations.pyg.PyGViews(masker)."
        )
    return graph.offsets(next(iter(graph.nodes)))


def _check_attr(name: str, attr: Tensor | None, indicator: bool) -> None:
    if attr is None:
        raise ValueError(
            f"{name} is None, so these edges have no coefficients to hide; give them attributes, or leave their stream "
            f"out of ratio: {{stream: share}}."
        )
    if not attr.is_floating_point():
        raise ValueError(f"{name} is {attr.dtype}, but must be floating point to hide coefficients; use .float().")
    if indicator and attr.ndim != 2:
        raise ValueError(
            f"{name} is {list(attr.shape)}, but must be [edges, features] to take an indicator column; use "
            f".unsqueeze(-1) for a single feature, or leave indicator out."
        )


def _with_columns(graph: Graph, columns: Mapping[str, Tensor]) -> Graph:
    """Append one column to each stream of `columns`, stream -> bool `[items]`."""
    values = graph.values()
    return graph.with_values(
        {s: torch.cat([values[s], mark.unsqueeze(-1).to(values[s])], dim=-1) for s, mark in columns.items()}
    )
