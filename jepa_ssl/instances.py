"""Batches of instances as plain tensors: vectors with padding, and bipartite constraint/variable graphs."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from jepa_ssl.checks import can_read_without_sync
from jepa_ssl.protocols import CONSTRAINT, VARIABLE
from jepa_ssl.segments import segment_of


@dataclass(frozen=True)
class FlatVectors:
    """A batch of vectors, and which of their entries are real.

    `values` is `[batch, entries]`, floating point; `valid` is a bool tensor of the same shape, False on padding. A
    batch without padding may as well be a bare tensor wherever a `FlatVectors` is taken.
    """

    values: Tensor
    valid: Tensor

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or not self.values.is_floating_point():
            raise ValueError(
                f"values is {_describe(self.values)}, but must be floating point [batch, entries]; "
                f"flatten each instance first (jepa_ssl.lp.flatten does it for LPs)."
            )
        if self.valid.dtype != torch.bool or self.valid.shape != self.values.shape:
            raise ValueError(
                f"valid is {_describe(self.valid)}, but must be bool of values' shape {tuple(self.values.shape)}; "
                f"jepa_ssl.lp.valid_entries builds it from row and column masks."
            )
        _on_one_device(self)

    def check_values(self) -> "FlatVectors":
        """These vectors, if their real entries are finite; waits for the device, so call it where batches are built.

        On a CPU it costs about a clone.

        Raises:
            ValueError: a real entry is infinite or NaN. What stands in the padding does not matter.
        """
        if not sums_up(self.values):
            check_finite("values", torch.where(self.valid, self.values, 0.0))
        return self


@dataclass(frozen=True)
class BipartiteGraph:
    """A batch of bipartite graphs, one after the other: their nodes, their edges, and where each graph begins.

    Shapes, for M constraints, N variables, E edges and G graphs in all: `constraint_features [M, *]`,
    `edge_index [2, E]` int64 (row 0 the constraint, row 1 the variable, both counted over the whole batch),
    `edge_attr [E, *]`, `variable_features [N, *]`, `constraint_offsets [G + 1]` and `variable_offsets [G + 1]` int64,
    rising from 0 to M and to N.

    The constructor looks at shapes and types, which costs nothing. `check_values` looks at numbers too.
    """

    constraint_features: Tensor
    edge_index: Tensor
    edge_attr: Tensor
    variable_features: Tensor
    constraint_offsets: Tensor
    variable_offsets: Tensor

    def __post_init__(self) -> None:
        for kind in (CONSTRAINT, VARIABLE):
            features = self.features(kind)
            if features.ndim != 2 or not features.is_floating_point():
                raise ValueError(
                    f"{kind}_features is {_describe(features)}, but must be floating point [nodes, features]; "
                    f"use .unsqueeze(-1) for a single feature and .float() for integers."
                )
        if self.edge_index.ndim != 2 or len(self.edge_index) != 2 or self.edge_index.dtype != torch.int64:
            raise ValueError(
                f"edge_index is {_describe(self.edge_index)}, but must be int64 [2, edges] with the constraint in "
                f"row 0 and the variable in row 1; use .long(), and .t() if it is [edges, 2]."
            )
        if self.edge_attr.ndim < 1 or len(self.edge_attr) != self.edge_index.size(1):
            raise ValueError(
                f"edge_attr is {_describe(self.edge_attr)}, but edge_index has {self.edge_index.size(1)} edges; "
                f"give one row per edge."
            )
        for kind in (CONSTRAINT, VARIABLE):
            offsets = self.offsets(kind)
            if offsets.ndim != 1 or len(offsets) < 1 or offsets.dtype != torch.int64:
                raise ValueError(
                    f"{kind}_offsets is {_describe(offsets)}, but must be int64 [graphs + 1], starting at 0; "
                    f"it is what PyG calls ptr."
                )
        if len(self.constraint_offsets) != len(self.variable_offsets):
            raise ValueError(
                f"constraint_offsets counts {len(self.constraint_offsets) - 1} graphs and variable_offsets "
                f"{len(self.variable_offsets) - 1}; both must come from the same batch."
            )
        _on_one_device(self)

    @classmethod
    def single(
        cls, constraint_features: Tensor, edge_index: Tensor, edge_attr: Tensor, variable_features: Tensor
    ) -> "BipartiteGraph":
        """A batch of one graph."""
        # Not len(), of which a tensor without dimensions has none; it is refused by name.
        ends = (
            torch.tensor([0, f.shape[:1].numel()], device=f.device) for f in (constraint_features, variable_features)
        )
        return cls(constraint_features, edge_index, edge_attr, variable_features, *ends)

    @property
    def num_graphs(self) -> int:
        return len(self.constraint_offsets) - 1

    def features(self, kind: str) -> Tensor:
        """The features of the nodes of `kind`, `"constraint"` or `"variable"`."""
        return self.constraint_features if kind == CONSTRAINT else self.variable_features

    def offsets(self, kind: str) -> Tensor:
        """Where each graph's nodes of `kind` begin, `[graphs + 1]`."""
        return self.constraint_offsets if kind == CONSTRAINT else self.variable_offsets

    def graph_of(self, kind: str) -> Tensor:
        """The graph that each node of `kind` belongs to, `[nodes]` int64."""
        return segment_of(self.offsets(kind), len(self.features(kind)))

    def to(self, device: torch.device | str) -> "BipartiteGraph":
        return BipartiteGraph(*(getattr(self, f.name).to(device) for f in fields(self)))

    def check_values(self) -> "BipartiteGraph":
        """This graph, if its numbers are in order; waits for the device, so call it where batches are built.

        On a CPU it costs a third of what hiding nodes does, and a tenth of what hiding edges does.

        Raises:
            ValueError: as `check_features` and `check_wiring`.
        """
        self.check_features()
        self.check_wiring()
        return self

    def check_features(self) -> None:
        """Raises a ValueError where a feature is infinite or NaN; waits for the device, as `check_values` does."""
        for name in ("constraint_features", "edge_attr", "variable_features"):
            check_finite(name, getattr(self, name))

    def check_wiring(self) -> None:
        """Waits for the device, as `check_values` does.

        Raises:
            ValueError: offsets fall, or do not span the nodes; an edge leaves the batch, or joins two graphs.
        """
        self._check_offsets()
        if self.edge_index.size(1):
            self._check_edge_range()
            self._check_crossing()

    def _check_offsets(self) -> None:
        for kind in (CONSTRAINT, VARIABLE):
            offsets, nodes = self.offsets(kind), len(self.features(kind))
            if int(offsets[0]) != 0 or int(offsets[-1]) != nodes or bool((offsets.diff() < 0).any()):
                raise ValueError(
                    f"{kind}_offsets goes from {int(offsets[0])} to {int(offsets[-1])}, but must rise from 0 to the "
                    f"{nodes} {kind} nodes; build it as the cumulative sum of the graphs' sizes."
                )

    def _check_edge_range(self) -> None:
        for row, kind in enumerate((CONSTRAINT, VARIABLE)):
            ends, nodes = self.edge_index[row], len(self.features(kind))
            low, high = map(int, ends.aminmax())
            if low < 0 or high >= nodes:
                raise ValueError(
                    f"edge_index[{row}] reaches from {low} to {high}, but there are {nodes} "
                    f"{kind} nodes; row 0 counts constraints, row 1 variables."
                )

    def _check_crossing(self) -> None:
        # In int32, of which more stay in a CPU's cache.
        graph_of = (self.graph_of(kind).int() for kind in (CONSTRAINT, VARIABLE))
        ends = [graphs.index_select(0, nodes) for graphs, nodes in zip(graph_of, self.edge_index, strict=True)]
        if not torch.equal(*ends):
            edge = int((ends[0] != ends[1]).nonzero()[0])
            raise ValueError(
                f"edge_index[:, {edge}] joins a constraint of graph {int(ends[0][edge])} to a variable of graph "
                f"{int(ends[1][edge])}; each edge must stay inside its own graph: check the increments of the collate."
            )


def check_numbers(instance: object) -> None:
    """Raises a ValueError where a number is infinite or NaN, if to look does not wait: on a CPU, and not compiling.

    Of what is none of the instances here, nothing is asked.
    """
    if isinstance(instance, Tensor):
        if can_read_without_sync(instance):
            check_finite("instance", instance)
    elif isinstance(instance, FlatVectors):
        if can_read_without_sync(instance.values):
            instance.check_values()
    elif isinstance(instance, BipartiteGraph) and can_read_without_sync(instance.edge_attr):
        instance.check_features()


def check_finite(name: str, values: Tensor) -> None:
    """Raises ValueError where a number is infinite or NaN; waits for the device."""
    if sums_up(values):
        return
    wrong = (~values.isfinite()).nonzero()
    if len(wrong):
        place: list[int] = wrong[0].tolist()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        raise ValueError(
            f"{name}{place} is {float(values[tuple(place)])}, but must be finite; leave the instance out, or encode "
            f"what is missing or unbounded as a number and a column that says so."
        )


def sums_up(values: Tensor) -> bool:
    """Whether the sum is finite, for then each number is: the quick half of a check, as large numbers may overflow."""
    return bool(values.detach().sum().isfinite())


def _on_one_device(instance: FlatVectors | BipartiteGraph) -> None:
    tensors: dict[str, Tensor] = vars(instance)
    device = next(iter(tensors.values())).device
    for name, tensor in tensors.items():
        if tensor.device != device:
            raise ValueError(
                f"{name} is on {tensor.device}, but {next(iter(tensors))} on {device}; put all of an instance on one "
                f"device, with .to({str(device)!r})."
            )


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
