"""Small LPs as plain arrays, batches of them, sparse and dense, their solutions, and how good a solution is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from builders import offsets
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import block_diag, csr_array
from torch import Tensor

from jepa_ssl.lp import DenseLP, SparseLP

Vector = NDArray[np.float64]
LPs = DenseLP | SparseLP


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


def per_lp(values: Tensor, lp: LPs, of: int) -> list[np.ndarray]:
    """The values of each LP's rows (`of` is 0) or columns (1), without padding."""
    if isinstance(lp, DenseLP):
        return [v[real].numpy() for v, real in zip(values, (lp.mask_m, lp.mask_n)[of], strict=True)]
    return [v.numpy() for v in values.split((lp.constraint_offsets, lp.variable_offsets)[of].diff().tolist())]


def in_form(parts: Sequence[Tensor], lp: LPs, of: int) -> Tensor:
    """Values of each LP's rows or columns in the form of `lp`, NaN on padding."""
    if isinstance(lp, SparseLP):
        return torch.cat([*parts])
    mask = (lp.mask_m, lp.mask_n)[of]
    return torch.full(mask.shape, torch.nan, dtype=torch.float64).masked_scatter(mask, torch.cat([*parts]))


def apart(lp: LPs) -> list[SmallLP]:
    """The LPs of a batch, one by one, without padding."""
    if isinstance(lp, DenseLP):
        blocks = [A[r][:, k].numpy() for A, r, k in zip(lp.A, lp.mask_m, lp.mask_n, strict=True)]
    else:
        whole = csr_array((lp.coefficient.numpy(), lp.edge_index.numpy()), shape=(len(lp.b), len(lp.c)))
        assert whole.nnz == lp.edge_index.size(1), "a coefficient is given twice"
        places = [per_lp(torch.arange(len(items)), lp, of) for of, items in enumerate((lp.b, lp.c))]
        blocks = [whole.toarray()[np.ix_(r, k)] for r, k in zip(*places, strict=True)]
        inside = sum(np.count_nonzero(block) for block in blocks)
        assert inside == np.count_nonzero(whole.data), "a coefficient joins two LPs"
    vectors = ((lp.b, 0), (lp.c, 1), (lp.equality, 0), (lp.lower, 1), (lp.upper, 1))
    return [SmallLP(*parts) for parts in zip(blocks, *(per_lp(v, lp, of) for v, of in vectors), strict=True)]


class Solved(NamedTuple):
    x: Tensor
    lam: Tensor
    value: Tensor  # [LPs]


def solve(lp: LPs) -> Solved:
    """All LPs of the batch at once, as the blocks of one LP, by HiGHS."""
    parts = apart(lp)
    A = csr_array(block_diag([p.A for p in parts]))
    b, c, equality, lower, upper = (
        np.concatenate([getattr(p, name) for p in parts]) for name in ("b", "c", "equality", "lower", "upper")
    )
    result: Any = linprog(
        c,
        A_ub=A[~equality],
        b_ub=b[~equality],
        A_eq=A[equality],
        b_eq=b[equality],
        bounds=np.stack([lower, upper], axis=1),
        method="highs",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    assert result.status == 0, result.message
    lam = np.zeros(len(b))
    lam[~equality], lam[equality] = -result.ineqlin.marginals, -result.eqlin.marginals
    xs = torch.from_numpy(result.x).split([len(p.c) for p in parts])
    lams = torch.from_numpy(lam).split([len(p.b) for p in parts])
    value = torch.stack([x @ torch.from_numpy(p.c) for x, p in zip(xs, parts, strict=True)])
    return Solved(in_form(xs, lp, 1), in_form(lams, lp, 0), value)


def kkt_residual(lp: SmallLP, x: Vector, lam: Vector) -> float:
    """The largest violation of feasibility and of the reduced costs' signs, and the duality gap; relative."""
    slack, reduced = lp.b - lp.A @ x, lp.c + lp.A.T @ lam
    primal = np.where(lp.equality, np.abs(slack), -slack)
    outside = np.maximum(lp.lower - x, x - lp.upper)
    negative = np.where(lp.equality, 0, -lam)
    # A reduced cost may be positive at a lower bound only, negative at an upper bound only.
    bounded = np.where(reduced > 0, lp.lower, lp.upper)
    unbounded = np.where(np.isfinite(bounded), 0, np.abs(reduced))
    at_bounds = (reduced * np.where(np.isfinite(bounded), bounded, 0)).sum()
    objective = lp.c @ x
    gap = abs(objective + lp.b @ lam - at_bounds) / (1 + abs(objective))
    sizes = ((primal, lp.b), (outside, x), (negative, lam), (unbounded, lp.c))
    return max(gap, *(v.max(initial=0) / (1 + np.abs(of).max(initial=0)) for v, of in sizes))


def _joined(parts: Sequence[Vector]) -> Tensor:
    return torch.tensor(np.concatenate(parts))
