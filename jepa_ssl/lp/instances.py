"""Batches of linear programs, dense and padded or sparse and ragged.

Both hold `min c'x  s.t.  Ax <= b` (`= b` in rows marked `equality`), `lower <= x <= upper`. A dual solution is one
multiplier `lam` a row, at least 0 where the row is an inequality; the multipliers of the bounds are the two signs of
the reduced cost `c + A'lam`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from jepa_ssl.instances import FlatVectors
from jepa_ssl.lp.layout import flatten, valid_entries


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

    @property
    def num_graphs(self) -> int:
        return len(self.constraint_offsets) - 1
