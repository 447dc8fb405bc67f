"""The matrix A of a batch of LPs, by its nonzero coefficients or as padded blocks, and sums along its rows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

Product: TypeAlias = Callable[[Tensor, Tensor], None]
"""`product(out, v)` adds a fixed matrix times v to out, in place."""


@dataclass(frozen=True)
class Edges:
    """A by its nonzero coefficients.

    Sums run over the edges in their order. So on a CPU an LP's numbers do not depend on its neighbours in the batch,
    bit for bit. A CSR product of MKL takes a third of the time from 10^5 edges on, but one row in twenty then has other
    bits in another batch. torch's `segment_reduce`, `embedding_bag` and `_sparse_mm_reduce_impl` keep the bits, but are
    slower on short rows.
    """

    row: Tensor  # [E]
    column: Tensor  # [E]
    values: Tensor  # [E]
    rows: int
    columns: int

    def transposed(self) -> "Edges":
        return Edges(self.column, self.row, self.values, self.columns, self.rows)

    def at_rows(self, per_row: Tensor) -> Tensor:
        """The number of its row at each value."""
        return per_row[self.row]

    def at_columns(self, per_column: Tensor) -> Tensor:
        return per_column[self.column]

    def row_sums(self, values: Tensor) -> Tensor:
        return values.new_zeros(self.rows).index_add_(0, self.row, values)

    def row_minima(self, values: Tensor) -> Tensor:
        """The least of each row; infinite in an empty row."""
        return values.new_full((self.rows,), torch.inf).scatter_reduce_(0, self.row, values, "amin")

    def column_minima(self, values: Tensor) -> Tensor:
        return self.transposed().row_minima(values)

    def product(self, factor: Tensor) -> Product:
        """Multiplication by `diag(factor) A`; one factor per row."""
        value = factor[self.row] * self.values
        message = torch.empty_like(value)

        def add(out: Tensor, v: Tensor) -> None:
            torch.index_select(v, 0, self.column, out=message)
            message.mul_(value)
            out.scatter_add_(0, self.row, message)  # in the order of index_add_, in less time

        return add


@dataclass(frozen=True)
class Blocks:
    """A as one dense block per LP, `[batch, m, n]`.

    Uses a product and a sum, because `bmm` adds in another order when the batch has another size. In its column form
    `bmm` is also slower.
    """

    values: Tensor

    def transposed(self) -> "Blocks":
        return Blocks(self.values.mT)

    def at_rows(self, per_row: Tensor) -> Tensor:
        """The number of its row at each value."""
        return per_row.unsqueeze(2)

    def at_columns(self, per_column: Tensor) -> Tensor:
        return per_column.unsqueeze(1)

    def row_sums(self, values: Tensor) -> Tensor:
        return values.sum(2)

    def row_minima(self, values: Tensor) -> Tensor:
        """The least of each row; infinite in an empty row."""
        return torch.nn.functional.pad(values, (0, 1), value=torch.inf).amin(2)

    def column_minima(self, values: Tensor) -> Tensor:
        return self.row_minima(values.mT)

    def product(self, factor: Tensor) -> Product:
        """Multiplication by `diag(factor) A`; one factor per row."""
        matrix = (factor[:, :, None] * self.values).mT.contiguous()  # [batch, n, m]
        message, received = torch.empty_like(matrix), torch.empty_like(factor)

        def add(out: Tensor, v: Tensor) -> None:
            torch.mul(matrix, v.unsqueeze(2), out=message)
            torch.sum(message, 1, out=received)
            out.add_(received)

        return add


Matrix: TypeAlias = Edges | Blocks
