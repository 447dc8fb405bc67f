"""Node LPs as batches of graphs, and a trunk: messages from columns to rows and back, as Gasse et al. (2019) do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from jepa_ssl import BipartiteGraph

from .collect import COLUMNS, ROWS, Tree

WIDTH = 64
WIDTHS = {"constraint": WIDTH, "variable": WIDTH}


@dataclass(frozen=True)
class Scaling:
    """Mean and deviation of the features of rows and columns, taken from unlabelled nodes."""

    rows: tuple[Tensor, Tensor]
    columns: tuple[Tensor, Tensor]

    @staticmethod
    def of(trees: Sequence[Tree]) -> "Scaling":
        def moments(tables: list[np.ndarray]) -> tuple[Tensor, Tensor]:
            flat = torch.from_numpy(np.concatenate([table.reshape(-1, table.shape[-1]) for table in tables]))
            return flat.mean(0), flat.std(0).clamp(min=1e-3)

        return Scaling(moments([tree.rows for tree in trees]), moments([tree.columns for tree in trees]))


@dataclass(frozen=True)
class NodeBatch:
    """Nodes as one batch, with columns of them: candidates, or the column that was branched on in each node."""

    graph: BipartiteGraph
    columns: Tensor  # int64, counted over the batch
    up: Tensor | None = None  # int64 [nodes]: 1 if the branching was upwards, else 0


Rule = tuple[Callable[[NodeBatch], Tensor], Callable[[Tensor], Tensor]]
"""A branching rule: an encoder of candidates, and a function from its features to scores."""


class Nodes:
    """All nodes of some trees, numbered through."""

    def __init__(self, trees: Sequence[Tree], scaling: Scaling) -> None:
        self.trees = trees
        sizes = [len(tree.bounds) for tree in trees]
        self.place = [(t, i) for t, size in enumerate(sizes) for i in range(size)]
        self.first = np.concatenate(([0], np.cumsum(sizes)))  # of each tree's nodes
        self.edges = [torch.from_numpy(tree.edges) for tree in trees]
        self.coefficients = [torch.from_numpy(tree.coefficients).unsqueeze(1) for tree in trees]
        self.rows = [(torch.from_numpy(tree.rows) - scaling.rows[0]) / scaling.rows[1] for tree in trees]
        self.columns = [(torch.from_numpy(tree.columns) - scaling.columns[0]) / scaling.columns[1] for tree in trees]

    def graph(self, nodes: Sequence[int]) -> BipartiteGraph:
        places = [self.place[node] for node in nodes]
        rows, columns = ([table[t][i] for t, i in places] for table in (self.rows, self.columns))
        starts = [torch.tensor([0, *map(len, some)]).cumsum(0) for some in (rows, columns)]
        edges = [
            self.edges[t] + torch.stack((starts[0][k], starts[1][k])).unsqueeze(1) for k, (t, _) in enumerate(places)
        ]
        coefficients = torch.cat([self.coefficients[t] for t, _ in places])
        return BipartiteGraph(torch.cat(rows), torch.cat(edges, 1), coefficients, torch.cat(columns), *starts)

    def batch(self, nodes: Sequence[int], columns: Sequence[np.ndarray], up: Tensor | None = None) -> NodeBatch:
        """Nodes with the places of some columns of each."""
        graph = self.graph(nodes)
        starts = graph.variable_offsets.tolist()
        found = [torch.from_numpy(some) + start for some, start in zip(columns, starts, strict=False)]
        return NodeBatch(graph, torch.cat(found), up)

    @cached_property
    def branchings(self) -> tuple[np.ndarray, Tensor]:
        """All branchings `[branchings, 4]`, see `Tree`, with nodes numbered through; and their gains."""
        listed = [tree.branchings + [k, k, 0, 0] for tree, k in zip(self.trees, self.first, strict=False)]  # noqa: RUF005
        return np.concatenate(listed), torch.from_numpy(np.concatenate([tree.gains for tree in self.trees]))

    def branched(self, some: np.ndarray) -> NodeBatch:
        """The parents of some branchings, with the columns that were branched on."""
        return self.batch(some[:, 0].tolist(), [each[2:3] for each in some], torch.from_numpy(some[:, 3].copy()))


class Trunk(nn.Module):
    """A bipartite graph to features `[items, WIDTH]` of rows and columns."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.columns = nn.Linear(len(ROWS), WIDTH), nn.Linear(len(COLUMNS), WIDTH)
        self.to_rows, self.to_columns = nn.Linear(2 * WIDTH, WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, graph: BipartiteGraph) -> dict[str, Tensor]:
        row, column = graph.edge_index
        rows, columns = self.rows(graph.constraint_features).relu(), self.columns(graph.variable_features).relu()
        heard = torch.zeros_like(rows).index_add(0, row, graph.edge_attr * columns[column])
        rows = self.to_rows(torch.cat((rows, 0.1 * heard), 1)).relu()  # about ten columns in a row
        heard = torch.zeros_like(columns).index_add(0, column, graph.edge_attr * rows[row])
        columns = self.to_columns(torch.cat((columns, 0.1 * heard), 1)).relu()
        return {"constraint": rows, "variable": columns}


class Candidates(nn.Module):
    """A trunk whose output is the features of the columns that a batch names, `[columns, WIDTH]`."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, batch: NodeBatch) -> Tensor:
        return self.trunk(batch.graph)["variable"][batch.columns]
