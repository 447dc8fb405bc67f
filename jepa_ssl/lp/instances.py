"""Batches of linear programs, dense and padded or sparse and ragged.

Both hold `min c'x  s.t.  Ax <= b` (`= b` in rows marked `equality`), `lower <= x <= upper`. A dual solution is one
multiplier `lam` a row, at least 0 where the row is an inequality; the multipliers of the bounds are the two signs of
the reduced cost `c + A'lam`.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jepa_ssl.instances import BipartiteGraph, FlatVectors
from jepa_ssl.lp.layout import flatten, unflatten, valid_entries
from jepa_ssl.protocols import CONSTRAINT, VARIABLE
from jepa_ssl.segments import equal_shares


@dataclass(frozen=True)
class DenseLP:
    """A batch of LPs padded to common sizes. What stands in the padding is never read.

    `A [batch, m, n]`, `b [batch, m]`, `c [batch, n]`, `mask_m [batch, m]` and `mask_n [batch, n]` bool, True on real
    rows and columns, `equality [batch, m]` bool, `lower [batch, n]`, `upper [batch, n]`, infinite where there is none.
    """

    A: Tensor
    b: Tensor
    c: Tensor
    mask_m: Tensor
    mask_n: Tensor
    equality: Tensor
    lower: Tensor
    upper: Tensor

    @classmethod
    def inequalities(cls, A: Tensor, b: Tensor, c: Tensor, mask_m: Tensor, mask_n: Tensor) -> "DenseLP":
        """LPs `Ax <= b` with free x: bounds, if any, are rows of A. Masks may be numbers that are not 0 where real."""
        never = torch.zeros_like(b, dtype=torch.bool)
        return cls(
            A, b, c, mask_m != 0, mask_n != 0, never, torch.full_like(c, -torch.inf), torch.full_like(c, torch.inf)
        )

    @classmethod
    def of_vectors(cls, vectors: Tensor | FlatVectors, m: int, n: int) -> "DenseLP":
        """The LPs `Ax <= b` with free x of flat vectors `[vec(A), b, c]`, padded to m rows and n columns.

        Undoes `vectors`. In a bare tensor all entries are real.

        >>> lp = DenseLP.of_vectors(torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]]), m=1, n=2)
        >>> lp.A, lp.b, lp.c
        (tensor([[[1., 2.]]]), tensor([[3.]]), tensor([[4., 5.]]))
        """
        if isinstance(vectors, Tensor):
            vectors = FlatVectors(vectors, torch.ones_like(vectors, dtype=torch.bool))
        _, mask_m, mask_n = unflatten(vectors.valid, m, n)
        return cls.inequalities(*unflatten(vectors.values, m, n), mask_m, mask_n)

    def vectors(self) -> FlatVectors:
        """The flat form `[vec(A), b, c]`, which has no room for equalities and bounds: turn them into rows first."""
        return FlatVectors(flatten(self.A, self.b, self.c), valid_entries(self.mask_m, self.mask_n))


@dataclass(frozen=True)
class SparseLP:
    """A batch of LPs of any sizes, one after the other, by their nonzero coefficients.

    For M rows, N columns, E coefficients and G LPs in all: `edge_index [2, E]` int64 (the row over the column, counted
    over the whole batch), `coefficient [E]`, `b [M]`, `c [N]`, `constraint_offsets [G + 1]` and `variable_offsets
    [G + 1]` int64, `equality [M]` bool, `lower [N]`, `upper [N]`.
    """

    edge_index: Tensor
    coefficient: Tensor
    b: Tensor
    c: Tensor
    constraint_offsets: Tensor
    variable_offsets: Tensor
    equality: Tensor
    lower: Tensor
    upper: Tensor

    @classmethod
    def inequalities(
        cls,
        edge_index: Tensor,
        coefficient: Tensor,
        b: Tensor,
        c: Tensor,
        constraint_offsets: Tensor,
        variable_offsets: Tensor,
    ) -> "SparseLP":
        """LPs `Ax <= b` with free x: bounds, if there are any, are rows of A."""
        never = torch.zeros_like(b, dtype=torch.bool)
        free = torch.full_like(c, torch.inf)
        return cls(edge_index, coefficient, b, c, constraint_offsets, variable_offsets, never, -free, free)

    @classmethod
    def inequalities_of(cls, graph: BipartiteGraph, *, b: int = 0, c: int = 0, coefficient: int = 0) -> "SparseLP":
        """The LPs `Ax <= b` with free x of graphs with features of your own; nothing is copied.

        Args:
            b: which column of `constraint_features` is b.
            c: which column of `variable_features` is c.
            coefficient: which column of `edge_attr` is the coefficient.

        Raises:
            ValueError: there is no such column.
        """
        return cls.inequalities(
            graph.edge_index,
            _column(graph, "edge_attr", coefficient),
            _column(graph, "constraint_features", b),
            _column(graph, "variable_features", c),
            graph.constraint_offsets,
            graph.variable_offsets,
        )

    @classmethod
    def of_graph(cls, graph: BipartiteGraph) -> "SparseLP":
        """Undoes `graph`.

        Raises:
            ValueError: the graph has other features than `graph` makes.
        """
        for name, width in (("constraint_features", 2), ("edge_attr", 1), ("variable_features", 5)):
            found = list(getattr(graph, name).shape)
            if found[1:] != [width]:
                raise ValueError(
                    f"{name} is {found}, but SparseLP.graph makes {width} columns; for features of your own use "
                    f"SparseLP.inequalities_of, and say where b, c and the coefficient are."
                )
        _, lower, has_lower, upper, has_upper = graph.variable_features.unbind(1)
        return replace(
            cls.inequalities_of(graph),
            equality=graph.constraint_features[:, 1] != 0,
            lower=lower.where(has_lower != 0, -torch.inf),
            upper=upper.where(has_upper != 0, torch.inf),
        )

    def graph(self) -> BipartiteGraph:
        """The graph that encoders and graph maskers read, of finite numbers.

        Features are `[b, equality]` of constraints, `[c, lower, has_lower, upper, has_upper]` of variables, and
        `[coefficient]` of edges: 0 for a bound that there is none of, marks as 0 and 1.

        >>> edges, ends = torch.tensor([[0, 0], [0, 1]]), torch.tensor([0, 1])
        >>> lp = SparseLP.inequalities(edges, torch.ones(2), torch.tensor([4.0]), -torch.ones(2), ends, 2 * ends)
        >>> lp.graph().variable_features
        tensor([[-1.,  0.,  0.,  0.,  0.],
                [-1.,  0.,  0.,  0.,  0.]])
        """
        _check_vectors(self)
        # Only a bound that is missing becomes 0: one that is wrong, NaN or infinite to the other side, is still seen.
        there = ((self.lower, self.lower != -torch.inf), (self.upper, self.upper != torch.inf))
        bounds = [part for bound, is_there in there for part in (bound.where(is_there, 0), is_there)]
        return BipartiteGraph(
            torch.stack([self.b, self.equality.to(self.b)], dim=1),
            self.edge_index,
            self.coefficient.unsqueeze(1),
            torch.stack([self.c, *(part.to(self.c) for part in bounds)], dim=1),
            self.constraint_offsets,
            self.variable_offsets,
        )

    def equal_weights(self) -> dict[str, Tensor]:
        """`{"constraint": [M], "variable": [N]}`: the rows of each LP share the weight 1, and so do its columns."""
        _check_vectors(self)
        return {
            CONSTRAINT: equal_shares(self.constraint_offsets, len(self.b), self.b.dtype),
            VARIABLE: equal_shares(self.variable_offsets, len(self.c), self.c.dtype),
        }

    @property
    def num_graphs(self) -> int:
        return len(self.constraint_offsets) - 1


def _check_vectors(lp: SparseLP) -> None:
    """Raises a ValueError unless rows and columns have vectors of one length; `lp.checks` looks at the rest."""
    for names in (("b", "equality"), ("c", "lower", "upper"), ("constraint_offsets", "variable_offsets")):
        shapes = [list(getattr(lp, name).shape) for name in names]
        if len(shapes[0]) != 1 or shapes.count(shapes[0]) < len(shapes):
            raise ValueError(
                f"{', '.join(names)} have the shapes {shapes}, but must be vectors of one length, over the whole "
                f"batch; use torch.cat, not torch.stack, to put LPs one after the other."
            )


def _column(graph: BipartiteGraph, name: str, column: int) -> Tensor:
    values: Tensor = getattr(graph, name)
    if values.ndim != 2 or not 0 <= column < values.size(1):
        raise ValueError(
            f"{name} is {list(values.shape)}, so it has no column {column}; say which one the LP's numbers are "
            f"in, counted from 0, and use .unsqueeze(-1) for a single feature."
        )
    return values[:, column]
