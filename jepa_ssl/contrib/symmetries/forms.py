"""What symmetries do to an LP, in both its forms: read and scale coefficients, reorder them, add rows and columns."""

from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from jepa_ssl.lp.axes import DenseAxis, DenseGrowth, SparseAxis, SparseGrowth
from jepa_ssl.lp.instances import DenseLP, SparseLP

LPT = TypeVar("LPT", DenseLP, SparseLP)
Axis = DenseAxis | SparseAxis
Growth = DenseGrowth | SparseGrowth


def rows(lp: DenseLP | SparseLP) -> Axis:
    return DenseAxis(lp.mask_m) if isinstance(lp, DenseLP) else SparseAxis(lp.constraint_offsets, len(lp.b))


def columns(lp: DenseLP | SparseLP) -> Axis:
    return DenseAxis(lp.mask_n) if isinstance(lp, DenseLP) else SparseAxis(lp.variable_offsets, len(lp.c))


def times(lp: DenseLP | SparseLP, x: Tensor) -> Tensor:
    """`A x`, one value a row; 0 in padding."""
    if isinstance(lp, DenseLP):
        return _without_padding(lp, lp.A * x.unsqueeze(1)).sum(2)
    row, column = lp.edge_index
    product = lp.coefficient * x[column]
    return product.new_zeros(len(lp.b)).index_add_(0, row, product)


def transposed_times(lp: DenseLP | SparseLP, lam: Tensor) -> Tensor:
    """`A' lam`, one value a column; 0 in padding."""
    if isinstance(lp, DenseLP):
        return _without_padding(lp, lp.A * lam.unsqueeze(2)).sum(1)
    row, column = lp.edge_index
    product = lp.coefficient * lam[row]
    return product.new_zeros(len(lp.c)).index_add_(0, column, product)


def scale_coefficients(lp: LPT, row: Tensor | None = None, column: Tensor | None = None) -> LPT:
    """`lp` with row i of A times `row[i]`, or column j times `column[j]`."""
    if isinstance(lp, DenseLP):
        by_row = lp.A if row is None else lp.A * row.unsqueeze(2)
        return replace(lp, A=by_row if column is None else by_row * column.unsqueeze(1))
    by_row = lp.coefficient if row is None else lp.coefficient * row[lp.edge_index[0]]
    return replace(lp, coefficient=by_row if column is None else by_row * column[lp.edge_index[1]])


def reorder(lp: LPT, row_order: Tensor, column_order: Tensor) -> LPT:
    """`lp` with row `row_order[i]` in place i, and column `column_order[j]` in place j."""
    b, equality = (rows(lp).take(values, row_order) for values in (lp.b, lp.equality))
    c, lower, upper = (columns(lp).take(values, column_order) for values in (lp.c, lp.lower, lp.upper))
    if isinstance(lp, DenseLP):
        m, n = lp.A.shape[1:]
        by_row = lp.A.gather(1, row_order.unsqueeze(2).expand(-1, -1, n))
        A = by_row.gather(2, column_order.unsqueeze(1).expand(-1, m, -1))
        return replace(lp, A=A, b=b, c=c, equality=equality, lower=lower, upper=upper)
    row, column = lp.edge_index
    edge_index = torch.stack([rows(lp).inverse(row_order)[row], columns(lp).inverse(column_order)[column]])
    return replace(lp, edge_index=edge_index, b=b, c=c, equality=equality, lower=lower, upper=upper)


def add_row(lp: LPT, coefficients: Tensor, b: Tensor, equality: Tensor) -> tuple[LPT, Growth]:
    """`lp` with one more row at the end of each LP: `coefficients` as c, `b` and `equality` `[LPs]`."""
    if isinstance(lp, DenseLP):
        real = torch.ones_like(equality)
        return _dense_rows(lp, coefficients.unsqueeze(1), b.unsqueeze(1), real.unsqueeze(1), equality.unsqueeze(1))
    axis = SparseAxis(lp.variable_offsets, len(lp.c))
    column = coefficients.nonzero().squeeze(1)
    every = torch.arange(axis.lps, device=b.device)
    return _sparse_rows(lp, every, b, equality, torch.stack([axis.owner[column], column]), coefficients[column])


def add_column(lp: LPT, coefficients: Tensor | None, c: Tensor, lower: Tensor, upper: Tensor) -> tuple[LPT, Growth]:
    """`lp` with one more column at the end of each LP: `coefficients` as b, or None if all are 0; the rest `[LPs]`."""
    growth = columns(lp).grown_by_one()
    vectors = {"c": growth.put(lp.c, c), "lower": growth.put(lp.lower, lower), "upper": growth.put(lp.upper, upper)}
    if isinstance(lp, DenseLP):
        column = torch.zeros_like(lp.b) if coefficients is None else coefficients
        mask_n = growth.put(lp.mask_n, torch.ones_like(c, dtype=torch.bool))
        return replace(lp, A=torch.cat([lp.A, column.unsqueeze(2)], dim=2), mask_n=mask_n, **vectors), growth
    assert isinstance(growth, SparseGrowth)
    edge_index, coefficient = torch.stack([lp.edge_index[0], growth.positions[lp.edge_index[1]]]), lp.coefficient
    if coefficients is not None:
        row = coefficients.nonzero().squeeze(1)
        owner = SparseAxis(lp.constraint_offsets, len(lp.b)).owner[row]
        edge_index = torch.cat([edge_index, torch.stack([row, growth.new_positions[owner]])], dim=1)
        coefficient = torch.cat([coefficient, coefficients[row]])
    image = replace(lp, edge_index=edge_index, coefficient=coefficient, variable_offsets=growth.offsets, **vectors)
    return image, growth


def add_opposites(lp: LPT, which: Tensor) -> tuple[LPT, Growth, Tensor]:
    """`lp` with the opposite `-a'x <= -b` of the rows `which` (bool, as b), at the end of each LP.

    The third value is the index of a row for each new one: what a value of the row is to be taken by.
    """
    if isinstance(lp, DenseLP):
        image, growth = _dense_rows(lp, -lp.A, -lp.b, which, torch.zeros_like(which))
        return image, growth, torch.arange(which.size(1), device=which.device).expand(which.shape)
    chosen = which.nonzero().squeeze(1)
    number = which.cumsum(0) - 1
    edge = which[lp.edge_index[0]].nonzero().squeeze(1)
    row, column = lp.edge_index[:, edge]
    image, growth = _sparse_rows(
        lp,
        SparseAxis(lp.constraint_offsets, len(lp.b)).owner[chosen],
        -lp.b[chosen],
        torch.zeros_like(chosen, dtype=torch.bool),
        torch.stack([number[row], column]),
        -lp.coefficient[edge],
    )
    return image, growth, chosen


def add_bound_rows(lp: LPT, bound: Tensor, sign: int) -> tuple[LPT, Growth, Tensor]:
    """`lp` with a row `sign x <= sign bound` for each finite `bound` (as c), at the end of each LP.

    The third value is the index of a column for each new row.
    """
    finite = bound.isfinite()
    if isinstance(lp, DenseLP):
        batch, n = bound.shape
        unit = sign * torch.eye(n, dtype=lp.A.dtype, device=bound.device).expand(batch, n, n)
        side = (sign * bound).masked_fill(~finite, 0)
        image, growth = _dense_rows(lp, unit, side, finite & lp.mask_n, torch.zeros_like(finite))
        return image, growth, torch.arange(n, device=bound.device).expand(batch, n)
    column = finite.nonzero().squeeze(1)
    image, growth = _sparse_rows(
        lp,
        SparseAxis(lp.variable_offsets, len(lp.c)).owner[column],
        sign * bound[column],
        torch.zeros_like(column, dtype=torch.bool),
        torch.stack([torch.arange(len(column), device=bound.device), column]),
        torch.full_like(bound[column], sign),
    )
    return image, growth, column


def _dense_rows(lp: DenseLP, A: Tensor, b: Tensor, real: Tensor, equality: Tensor) -> tuple[DenseLP, DenseGrowth]:
    growth = DenseGrowth(lp.b.size(1))
    image = replace(
        lp,
        A=torch.cat([lp.A, A], dim=1),
        b=growth.put(lp.b, b),
        mask_m=growth.put(lp.mask_m, real),
        equality=growth.put(lp.equality, equality),
    )
    return image, growth


def _sparse_rows(
    lp: SparseLP, owner: Tensor, b: Tensor, equality: Tensor, edge_index: Tensor, coefficient: Tensor
) -> tuple[SparseLP, SparseGrowth]:
    """`lp` with a row for each of `owner`; `edge_index[0]` counts the new rows alone."""
    growth = SparseGrowth(SparseAxis(lp.constraint_offsets, len(lp.b)), owner)
    old = torch.stack([growth.positions[lp.edge_index[0]], lp.edge_index[1]])
    new = torch.stack([growth.new_positions[edge_index[0]], edge_index[1]])
    image = replace(
        lp,
        edge_index=torch.cat([old, new], dim=1),
        coefficient=torch.cat([lp.coefficient, coefficient]),
        b=growth.put(lp.b, b),
        constraint_offsets=growth.offsets,
        equality=growth.put(lp.equality, equality),
    )
    return image, growth


def _without_padding(lp: DenseLP, values: Tensor) -> Tensor:
    return values.masked_fill(~(lp.mask_m.unsqueeze(2) & lp.mask_n.unsqueeze(1)), 0)
