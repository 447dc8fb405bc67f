"""Small LPs as plain arrays, and batches of them, sparse and dense."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from builders import offsets
from numpy.typing import NDArray
from torch import Tensor

from jepa_ssl.lp.instances import DenseLP, SparseLP

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class SmallLP:
    """`min c'x  s.t.  Ax <= b` (`= b` where `equality`), `lower <= x <= upper`."""

    A: Vector  # [m, n]
    b: Vector
    c: Vector
    equality: NDArray[np.bool_]
    lower: Vector
    upper: Vector


def random_lp(seed: int, m: int, n: int, equalities: bool = True) -> SmallLP:
    """Feasible and bounded, built around a vertex: rows of all three kinds, bounds of all four, zeros in A."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((m, n)) * (rng.random((m, n)) < 0.6)
    lower = np.where(rng.random(n) < 0.6, rng.uniform(-1, 0, n), -np.inf)
    upper = np.where(rng.random(n) < 0.6, rng.uniform(0.5, 2, n), np.inf)
    x = np.clip(rng.uniform(-2, 3, n), lower, upper)
    equality = (rng.random(m) < 0.3) & equalities
    tight = equality | (rng.random(m) < 0.5)
    lam = np.where(equality, rng.standard_normal(m), np.where(tight, rng.uniform(0.1, 1, m), 0))
    pull = rng.uniform(0.1, 1, n)
    reduced_cost = np.where(x == lower, pull, np.where(x == upper, -pull, 0))
    b = A @ x + np.where(tight, 0, rng.uniform(0.1, 1, m))
    return SmallLP(A, b, reduced_cost - A.T @ lam, equality, lower, upper)


def sparse(lps: Sequence[SmallLP], dtype: torch.dtype = torch.float64) -> SparseLP:
    rows, columns = offsets([len(lp.b) for lp in lps]), offsets([len(lp.c) for lp in lps])
    edges = [
        torch.tensor(np.array(lp.A.nonzero())) + torch.stack([rows[i], columns[i]])[:, None] for i, lp in enumerate(lps)
    ]
    return SparseLP(
        edge_index=torch.cat(edges, 1),
        coefficient=_joined([lp.A[lp.A.nonzero()] for lp in lps]).to(dtype),
        b=_joined([lp.b for lp in lps]).to(dtype),
        c=_joined([lp.c for lp in lps]).to(dtype),
        constraint_offsets=rows,
        variable_offsets=columns,
        equality=torch.cat([torch.tensor(lp.equality) for lp in lps]),
        lower=_joined([lp.lower for lp in lps]).to(dtype),
        upper=_joined([lp.upper for lp in lps]).to(dtype),
    )


def dense(
    lps: Sequence[SmallLP], dtype: torch.dtype = torch.float64, extra: int = 1, padding: float = torch.nan
) -> DenseLP:
    """Padded to the largest sizes and `extra` more, with numbers and marks that must not be read."""
    m, n = (max(len(part) for part in parts) + extra for parts in ([lp.b for lp in lps], [lp.c for lp in lps]))
    A = torch.full((len(lps), m, n), padding, dtype=dtype)
    b = torch.full((len(lps), m), padding, dtype=dtype)
    c, lower, upper = (torch.full((len(lps), n), padding, dtype=dtype) for _ in range(3))
    mask_m = torch.zeros(len(lps), m, dtype=torch.bool)
    equality = torch.full_like(mask_m, padding != 0)
    mask_n = torch.zeros(len(lps), n, dtype=torch.bool)
    for i, lp in enumerate(lps):
        rows, columns = lp.A.shape
        A[i, :rows, :columns] = torch.tensor(lp.A)
        mask_m[i, :rows], mask_n[i, :columns] = True, True
        equality[i, :rows] = torch.tensor(lp.equality)
        b[i, :rows] = torch.tensor(lp.b)
        for to, part in ((c, lp.c), (lower, lp.lower), (upper, lp.upper)):
            to[i, :columns] = torch.tensor(part)
    return DenseLP(A, b, c, mask_m, mask_n, equality, lower, upper)


def _joined(parts: Sequence[Vector]) -> Tensor:
    return torch.tensor(np.concatenate(parts))
