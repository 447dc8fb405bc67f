"""Batches of linear programs: `DenseLP` is padded, `SparseLP` is ragged.

Both hold `min c'x  s.t.  Ax <= b` (`= b` in rows marked `equality`), `lower <= x <= upper`. A dual solution has one
multiplier `lam` per row, at least 0 where the row is an inequality. The multipliers of the bounds are the positive and
the negative part of the reduced cost `c + A'lam`.

The constructors check shapes and types, which costs nothing, and raise a ValueError. `check_values` checks numbers too.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jepa_ssl.instances import BipartiteGraph, FlatVectors, check_finite
from jepa_ssl.lp.layout import flatten, unflatten, valid_entries
from jepa_ssl.protocols import CONSTRAINT, VARIABLE
from jepa_ssl.segments import equal_shares


@dataclass(frozen=True)
class DenseLP:
    """A batch of LPs padded to common sizes. Values on the padding are never read.

    `A [batch, m, n]`, `b [batch, m]`, `c [batch, n]`, `lower [batch, n]` and `upper [batch, n]` have one floating point
    type. A missing bound is infinite. `mask_m [batch, m]`, `mask_n [batch, n]` and `equality [batch, m]` are bool; the
    masks are True on real rows and columns. `of_vectors` and `vectors` convert from and to flat vectors.
    """

    A: Tensor
    b: Tensor
    c: Tensor
    mask_m: Tensor
    mask_n: Tensor
    equality: Tensor
    lower: Tensor
    upper: Tensor

    def __post_init__(self) -> None:
        if self.A.ndim != 3:
            raise ValueError(
                f"A is {list(self.A.shape)}, but must be [batch, m, n]; use .unsqueeze(0) for a single LP."
            )
        batch, m, n = self.A.shape
        _check_shapes(self, "row", [batch, m], ("b", "mask_m", "equality"))
        _check_shapes(self, "column", [batch, n], ("c", "mask_n", "lower", "upper"))
        _check_types(self, ("A", "b", "c", "lower", "upper"), ("mask_m", "mask_n", "equality"))

    @classmethod
    def inequalities(cls, A: Tensor, b: Tensor, c: Tensor, mask_m: Tensor, mask_n: Tensor) -> "DenseLP":
        """LPs `Ax <= b` with free x; bounds, if any, are rows of A. Masks may be numbers, 0 on padding."""
        never, free = torch.zeros_like(b, dtype=torch.bool), torch.full_like(c, torch.inf)
        return cls(A, b, c, mask_m != 0, mask_n != 0, never, -free, free)

    @classmethod
    def of_vectors(cls, vectors: Tensor | FlatVectors, m: int, n: int, numbers: int = 0) -> "DenseLP":
        """The LPs `Ax <= b` with free x of flat vectors `[vec(A), b, c]`, padded to m rows and n columns.

        The inverse of `vectors`. All entries of a bare tensor are real. With `numbers=show.numbers` vectors to which
        `show`, a `StateFeatures`, appended states are taken too; the states are not read.

        Raises:
            ValueError: the vectors are not of LPs with m rows and n columns.

        >>> lp = DenseLP.of_vectors(torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]]), m=1, n=2)
        >>> lp.A, lp.b, lp.c
        (tensor([[[1., 2.]]]), tensor([[3.]]), tensor([[4., 5.]]))
        """
        if isinstance(vectors, Tensor):
            vectors = FlatVectors(vectors, torch.ones_like(vectors, dtype=torch.bool))
        width = m * n + m + n
        if vectors.values.shape[1:] == (width + numbers * (m + n),):
            vectors = FlatVectors(vectors.values[:, :width], vectors.valid[:, :width])
        _, mask_m, mask_n = unflatten(vectors.valid, m, n)
        return cls.inequalities(*unflatten(vectors.values, m, n), mask_m, mask_n)

    def vectors(self) -> FlatVectors:
        """The flat form `[vec(A), b, c]`, without equalities and bounds: turn those into rows first.

        `jepa_ssl.contrib.symmetries` does that with `EqualitiesAsInequalities` and `BoundsAsRows`.
        """
        return FlatVectors(flatten(self.A, self.b, self.c), valid_entries(self.mask_m, self.mask_n))

    def check_values(self) -> "DenseLP":
        """These LPs, if their real numbers are in order. Waits for the device, so call it where batches are built.

        Raises:
            ValueError: a number of A, b or c is not finite, or bounds cross or are NaN.
        """
        cells = self.mask_m[:, :, None] & self.mask_n[:, None, :]
        for name, real in (("A", cells), ("b", self.mask_m), ("c", self.mask_n)):
            check_finite(name, getattr(self, name).masked_fill(~real, 0))
        _check_bounds(self, self.mask_n)
        return self


@dataclass(frozen=True)
class SparseLP:
    """A batch of LPs of any sizes, one after the other, by their nonzero coefficients.

    Shapes, for M rows, N columns, E coefficients and G LPs in total:

    - `edge_index [2, E]` int64: row 0 the row of A, row 1 the column, both counted over the whole batch.
    - `constraint_offsets [G + 1]` int64, rising from 0 to M, and `variable_offsets [G + 1]` int64, from 0 to N.
    - `equality [M]` bool.
    - `coefficient [E]`, `b [M]`, `c [N]`, `lower [N]` and `upper [N]` of one floating point type. A missing bound is
      infinite.

    `of_graph` and `graph` convert from and to graphs. `inequalities_of` reads graphs with your own features.
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

    def __post_init__(self) -> None:
        for name in ("coefficient", "b", "c"):
            if getattr(self, name).ndim != 1:
                raise ValueError(
                    f"{name} is {list(getattr(self, name).shape)}, but must be a vector over the whole batch; use "
                    f"torch.cat, not torch.stack, to join LPs, and .squeeze(-1) on an edge_attr with one column."
                )
        if self.edge_index.shape[:-1] == (2,) and len(self.coefficient) != self.edge_index.size(1):
            raise ValueError(
                f"coefficient has {len(self.coefficient)} numbers, but edge_index has {self.edge_index.size(1)} edges; "
                f"give one coefficient per edge."
            )
        _check_shapes(self, "row", list(self.b.shape), ("equality",))
        _check_shapes(self, "column", list(self.c.shape), ("lower", "upper"))
        _check_types(self, ("coefficient", "b", "c", "lower", "upper"), ("equality",))
        self._wiring()

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
        """LPs `Ax <= b` with free x; bounds, if any, are rows of A."""
        never, free = torch.zeros_like(b, dtype=torch.bool), torch.full_like(c, torch.inf)
        return cls(edge_index, coefficient, b, c, constraint_offsets, variable_offsets, never, -free, free)

    @classmethod
    def inequalities_of(cls, graph: BipartiteGraph, *, b: int = 0, c: int = 0, coefficient: int = 0) -> "SparseLP":
        """The LPs `Ax <= b` with free x of graphs with your own features; nothing is copied.

        Args:
            b: the column of `constraint_features` that is b.
            c: the column of `variable_features` that is c.
            coefficient: the column of `edge_attr` that is the coefficient.

        Raises:
            ValueError: a column does not exist.
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
        """The LPs of graphs that `graph` made; its inverse.

        Raises:
            ValueError: the graph's features are not those that `graph` makes.
        """
        for name, width in (("constraint_features", 2), ("edge_attr", 1), ("variable_features", 5)):
            found = list(getattr(graph, name).shape)
            if found[1:] != [width]:
                raise ValueError(
                    f"{name} is {found}, but SparseLP.graph makes {width} columns; for features of your own use "
                    f"SparseLP.inequalities_of, which takes the columns of b, c and the coefficient."
                )
        _, lower, has_lower, upper, has_upper = graph.variable_features.unbind(1)
        return replace(
            cls.inequalities_of(graph),
            equality=graph.constraint_features[:, 1] != 0,
            lower=lower.where(has_lower != 0, -torch.inf),
            upper=upper.where(has_upper != 0, torch.inf),
        )

    def graph(self) -> BipartiteGraph:
        """The graph that encoders and graph maskers read. All its numbers are finite.

        Constraints have the features `[b, equality]`, variables `[c, lower, has_lower, upper, has_upper]`, and edges
        `[coefficient]`. Flags are 0 or 1, and a missing bound is 0.

        >>> edges, ends = torch.tensor([[0, 0], [0, 1]]), torch.tensor([0, 1])
        >>> lp = SparseLP.inequalities(edges, torch.ones(2), torch.tensor([4.0]), -torch.ones(2), ends, 2 * ends)
        >>> lp.graph().variable_features
        tensor([[-1.,  0.,  0.,  0.,  0.],
                [-1.,  0.,  0.,  0.,  0.]])
        """
        # Only a missing bound becomes 0. A wrong one, NaN or infinite on the other side, stays visible.
        has_lower, has_upper = self.lower != -torch.inf, self.upper != torch.inf
        bounds = self.lower.where(has_lower, 0), has_lower, self.upper.where(has_upper, 0), has_upper
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
        return {
            CONSTRAINT: equal_shares(self.constraint_offsets, len(self.b), self.b.dtype),
            VARIABLE: equal_shares(self.variable_offsets, len(self.c), self.c.dtype),
        }

    def check_values(self) -> "SparseLP":
        """These LPs, if their numbers are in order. Waits for the device, so call it where batches are built.

        Raises:
            ValueError: a number of A, b or c is not finite; bounds cross or are NaN; or as `check_wiring`.
        """
        for name in ("coefficient", "b", "c"):
            check_finite(name, getattr(self, name))
        _check_bounds(self, torch.ones_like(self.c, dtype=torch.bool))
        self.check_wiring()
        return self

    def check_wiring(self) -> None:
        """Raises a ValueError if offsets or edges leave the batch, or an edge joins two LPs; waits for the device."""
        self._wiring().check_wiring()

    def _wiring(self) -> BipartiteGraph:
        """The graph of rows, columns and coefficients, whose constructor checks edges and offsets."""
        b, coefficient, c = (part.unsqueeze(-1) for part in (self.b, self.coefficient, self.c))
        return BipartiteGraph(b, self.edge_index, coefficient, c, self.constraint_offsets, self.variable_offsets)

    @property
    def num_graphs(self) -> int:
        """The number of LPs."""
        return len(self.constraint_offsets) - 1


def _check_shapes(lp: DenseLP | SparseLP, item: str, shape: list[int], names: tuple[str, ...]) -> None:
    for name in names:
        found = list(getattr(lp, name).shape)
        if found != shape:
            raise ValueError(
                f"{name} is {found}, but must be {shape}, one number per {item} of A; pad and collate it as A is."
            )


def _check_types(lp: DenseLP | SparseLP, numbers: tuple[str, ...], flags: tuple[str, ...]) -> None:
    first: torch.dtype = getattr(lp, numbers[0]).dtype
    for name in numbers:
        dtype: torch.dtype = getattr(lp, name).dtype
        if not dtype.is_floating_point:
            raise ValueError(f"{name} is {dtype}, but must be floating point; use .float().")
        if dtype != first:
            raise ValueError(
                f"{name} is {dtype}, but {numbers[0]} is {first}, and all numbers of an LP must have one type; use "
                f".to({numbers[0]}.dtype)."
            )
    for name in flags:
        if getattr(lp, name).dtype != torch.bool:
            raise ValueError(f"{name} is {getattr(lp, name).dtype}, but must be bool; write {name} != 0.")


def _check_bounds(lp: DenseLP | SparseLP, real: Tensor) -> None:
    # A NaN makes the comparison false, so it is found too.
    in_order = (lp.lower <= lp.upper) & (lp.lower < torch.inf) & (lp.upper > -torch.inf)
    wrong = (real & ~in_order).nonzero()
    if len(wrong):
        place: list[int] = wrong[0].tolist()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        at = tuple(place)
        raise ValueError(
            f"lower{place} is {float(lp.lower[at])} and upper{place} is {float(lp.upper[at])}, but a number must fit "
            f"between them; correct the bounds, or leave this infeasible LP out."
        )


def _column(graph: BipartiteGraph, name: str, column: int) -> Tensor:
    values: Tensor = getattr(graph, name)
    if values.ndim != 2 or not 0 <= column < values.size(1):
        raise ValueError(
            f"{name} is {list(values.shape)}, but column {column} is asked for and does not exist; say which column "
            f"holds the LP's numbers, counted from 0, and use .unsqueeze(-1) for a single feature."
        )
    return values[:, column]
