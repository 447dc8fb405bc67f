"""Operations of symmetries on dense and sparse LPs: scale and reorder coefficients, add rows and columns."""

from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from jepa_ssl.contrib.symmetries.axes import Axis, DenseAxis, Growth, SparseAxis, dense_growth, sparse_growth
from jepa_ssl.lp.instances import DenseLP, SparseLP

LPT = TypeVar("LPT", DenseLP, SparseLP)


def rows(lp: DenseLP | SparseLP) -> Axis:
    return DenseAxis(lp.mask_m) if isinstance(lp, DenseLP) else SparseAxis(lp.constraint_offsets, len(lp.b))


def columns(lp: DenseLP | SparseLP) -> Axis:
    return DenseAxis(lp.mask_n) if isinstance(lp, DenseLP) else SparseAxis(lp.variable_offsets, len(lp.c))


def product(lp: DenseLP | SparseLP, x: Tensor) -> Tensor:
    """`A x`, one value per row; 0 on padding."""
    if isinstance(lp, DenseLP):
        return _without_padding(lp, lp.A * x.unsqueeze(1)).sum(2)
    row, column = lp.edge_index
    messages = lp.coefficient * x[column]
    return messages.new_zeros(len(lp.b)).index_add_(0, row, messages)


def transposed_product(lp: DenseLP | SparseLP, lam: Tensor) -> Tensor:
    """`A' lam`, one value per column; 0 on padding."""
    if isinstance(lp, DenseLP):
        return _without_padding(lp, lp.A * lam.unsqueeze(2)).sum(1)
    row, column = lp.edge_index
    messages = lp.coefficient * lam[row]
    return messages.new_zeros(len(lp.c)).index_add_(0, column, messages)


def scale_coefficients(lp: LPT, row: Tensor | None = None, column: Tensor | None = None) -> LPT:
    """`lp` with row i of A multiplied by `row[i]`, and column j by `column[j]`."""
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
    column = coefficients.nonzero().squeeze(1)
    edges = torch.stack([columns(lp).owner[column], column])
    return _sparse_rows(lp, torch.arange(len(b), device=b.device), b, equality, edges, coefficients[column])


def add_column(lp: LPT, coefficients: Tensor | None, c: Tensor, lower: Tensor, upper: Tensor) -> tuple[LPT, Growth]:
    """`lp` with one more column at the end of each LP: `coefficients` as b, or None if all are 0; the rest `[LPs]`."""
    added = {"c": c, "lower": lower, "upper": upper}
    if isinstance(lp, DenseLP):
        growth = dense_growth(lp.c, 1)
        column = torch.zeros_like(lp.b) if coefficients is None else coefficients
        added["mask_n"] = torch.ones_like(c, dtype=torch.bool)
        vectors = {name: growth.put(getattr(lp, name), new) for name, new in added.items()}
        return replace(lp, A=torch.cat([lp.A, column.unsqueeze(2)], dim=2), **vectors), growth
    growth, offsets = sparse_growth(lp.variable_offsets, len(lp.c), torch.arange(len(c), device=c.device))
    vectors = {name: growth.put(getattr(lp, name), new) for name, new in added.items()}
    edge_index, coefficient = torch.stack([lp.edge_index[0], growth.positions[lp.edge_index[1]]]), lp.coefficient
    if coefficients is not None:
        row = coefficients.nonzero().squeeze(1)
        new = torch.stack([row, growth.new_positions[rows(lp).owner[row]]])
        edge_index, coefficient = torch.cat([edge_index, new], dim=1), torch.cat([coefficient, coefficients[row]])
    grown = replace(lp, edge_index=edge_index, coefficient=coefficient, variable_offsets=offsets, **vectors)
    return grown, growth


def add_opposites(lp: LPT, which: Tensor) -> tuple[LPT, Growth, Tensor]:
    """`lp` with the opposite `-a'x <= -b` of the rows `which` (bool, as b), at the end of each LP.

    The third value is the index of the old row for each new one.
    """
    if isinstance(lp, DenseLP):
        grown, growth = _dense_rows(lp, -lp.A, -lp.b, which, torch.zeros_like(which))
        return grown, growth, torch.arange(which.size(1), device=which.device).expand(which.shape)
    chosen = which.nonzero().squeeze(1)
    edge = which[lp.edge_index[0]].nonzero().squeeze(1)
    row, column = lp.edge_index[:, edge]
    edges = torch.stack([(which.cumsum(0) - 1)[row], column])
    never = torch.zeros_like(chosen, dtype=torch.bool)
    grown, growth = _sparse_rows(lp, rows(lp).owner[chosen], -lp.b[chosen], never, edges, -lp.coefficient[edge])
    return grown, growth, chosen


def add_bound_rows(lp: LPT, lower: Tensor, upper: Tensor) -> tuple[LPT, Growth, Tensor, Tensor]:
    """`lp` with a row `-x <= -lower` and then `x <= upper` for each finite bound (as c), at the end of each LP.

    The third value is the index of a column for each new row, the fourth its sign: -1 or 1.
    """
    bound = torch.cat([lower, upper], dim=-1)
    sign = torch.cat([-torch.ones_like(lower), torch.ones_like(upper)], dim=-1)
    if isinstance(lp, DenseLP):
        batch, n = lower.shape
        unit = torch.eye(n, dtype=lp.A.dtype, device=bound.device).expand(batch, n, n)
        real = bound.isfinite() & torch.cat([lp.mask_n, lp.mask_n], dim=1)
        rhs = (sign * bound).masked_fill(~bound.isfinite(), 0)
        grown, growth = _dense_rows(lp, torch.cat([-unit, unit], dim=1), rhs, real, torch.zeros_like(real))
        return grown, growth, torch.arange(2 * n, device=bound.device).remainder(n).expand(batch, 2 * n), sign
    finite = bound.isfinite().nonzero().squeeze(1)
    owner, order = columns(lp).owner[finite.remainder(len(lower))].sort(stable=True)
    finite = finite[order]
    column, sign = finite.remainder(len(lower)), sign[finite]
    edges = torch.stack([torch.arange(len(column), device=bound.device), column])
    never = torch.zeros_like(column, dtype=torch.bool)
    grown, growth = _sparse_rows(lp, owner, sign * bound[finite], never, edges, sign)
    return grown, growth, column, sign


def _dense_rows(lp: DenseLP, A: Tensor, b: Tensor, real: Tensor, equality: Tensor) -> tuple[DenseLP, Growth]:
    """`lp` with the additional rows `A [batch, rows, n]`; `real` is False on padding."""
    growth = dense_growth(lp.b, b.size(1))
    added = {"b": b, "mask_m": real, "equality": equality}
    vectors = {name: growth.put(getattr(lp, name), new) for name, new in added.items()}
    return replace(lp, A=torch.cat([lp.A, A], dim=1), **vectors), growth


def _sparse_rows(
    lp: SparseLP, owner: Tensor, b: Tensor, equality: Tensor, edge_index: Tensor, coefficient: Tensor
) -> tuple[SparseLP, Growth]:
    """`lp` with a row for each of `owner`; `edge_index[0]` counts only the new rows."""
    growth, offsets = sparse_growth(lp.constraint_offsets, len(lp.b), owner)
    old = torch.stack([growth.positions[lp.edge_index[0]], lp.edge_index[1]])
    new = torch.stack([growth.new_positions[edge_index[0]], edge_index[1]])
    grown = replace(
        lp,
        edge_index=torch.cat([old, new], dim=1),
        coefficient=torch.cat([lp.coefficient, coefficient]),
        b=growth.put(lp.b, b),
        constraint_offsets=offsets,
        equality=growth.put(lp.equality, equality),
    )
    return grown, growth


def _without_padding(lp: DenseLP, values: Tensor) -> Tensor:
    return values.masked_fill(~(lp.mask_m.unsqueeze(2) & lp.mask_n.unsqueeze(1)), 0)
