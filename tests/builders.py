"""Small batches and encoders that several tests share."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from itertools import accumulate
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from jepa_ssl import BipartiteGraph, Graph
from jepa_ssl.testing.batches import values_of


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def offsets(sizes: list[int]) -> Tensor:
    return torch.tensor([0, *accumulate(sizes)])


def ragged_graphs(
    constraints: list[int], variables: list[int], dtype: torch.dtype = torch.float32, seed: int = 0
) -> BipartiteGraph:
    """A batch in which the constraints of each graph take turns with its variables, one edge a constraint."""
    g = seeded(seed)
    ends = [
        (first_row + row, first_column + row % columns)
        for first_row, rows, first_column, columns in zip(
            offsets(constraints).tolist(), constraints, offsets(variables).tolist(), variables, strict=False
        )
        for row in range(rows if columns else 0)
    ]
    edges = torch.tensor(ends, dtype=torch.int64).reshape(-1, 2).t()
    return BipartiteGraph(
        torch.randn(sum(constraints), 3, generator=g, dtype=torch.float64).to(dtype),
        edges,
        torch.randn(edges.size(1), 1, generator=g, dtype=torch.float64).to(dtype),
        torch.randn(sum(variables), 2, generator=g, dtype=torch.float64).to(dtype),
        offsets(constraints),
        offsets(variables),
    ).check_values()


class FlatEncoder(nn.Module):
    """`[batch, entries]` -> `{"instance": [batch, dim]}`, with the parts that teachers get wrong."""

    def __init__(self, entries: int = 6, dim: int = 4) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Linear(entries, dim), nn.BatchNorm1d(dim), nn.ReLU(), nn.Dropout(0.5), nn.Linear(dim, dim)
        )
        self.register_buffer("scale", torch.ones(dim), persistent=False)

    def forward(self, flat: Tensor) -> dict[str, Tensor]:
        return {"instance": self.trunk(flat) * self.get_buffer("scale")}


class LinearEncoder(nn.Module):
    """A linear layer for each stream of vectors, of a dictionary or of a graph."""

    def __init__(self, widths: Mapping[str, int], dim: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({stream: nn.Linear(width, dim) for stream, width in widths.items()})

    def forward(self, instance: Any) -> dict[str, Tensor]:
        values = instance if isinstance(instance, dict) else values_of(instance)
        return {stream: layer(values[stream]) for stream, layer in self.layers.items()}


class GraphEncoder(nn.Module):
    """A linear layer for each kind of node, and one round of messages along the edges, both ways."""

    def __init__(self, dim: int = 4) -> None:
        super().__init__()
        self.constraint, self.variable = nn.Linear(3, dim), nn.Linear(2, dim)

    def forward(self, graph: BipartiteGraph) -> dict[str, Tensor]:
        zc, zv = self.constraint(graph.constraint_features), self.variable(graph.variable_features)
        row, column = graph.edge_index
        return {"constraint": zc.index_add(0, row, zv[column]), "variable": zv.index_add(0, column, zc[row])}


def lines_run(call: Callable[[], object]) -> int:
    """Count the lines of Python that `call` runs. A loop over instances runs more of them for more instances."""
    count, before = 0, sys.gettrace()

    def trace(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


class _Counted(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def operations(call: Callable[[], object]) -> int:
    """Count the operations of torch that `call` runs."""
    with _Counted() as counted:
        call()
    return counted.count


def tensors(made: Any) -> list[Tensor]:
    """All tensors of views, graphs, dictionaries and tuples."""
    if isinstance(made, Tensor):
        return [made.detach()]
    if isinstance(made, Graph):
        return tensors(made.values())
    if isinstance(made, dict | tuple):
        parts: Any = made.values() if isinstance(made, dict) else made
    else:
        parts = [getattr(made, f.name) for f in fields(made)] if is_dataclass(made) else []
    return [tensor for part in parts for tensor in tensors(part)]
