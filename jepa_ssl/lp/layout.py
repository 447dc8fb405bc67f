"""The flat layout of an LP, `[vec(A), b, c]`, and which entries are real in a padded batch."""

import torch
from einops import rearrange, repeat
from torch import Tensor


def flatten(A: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """One vector per LP, `[batch, m * n + m + n]`: A row by row, then b, then c.

    Args:
        A: `[batch, m, n]`.
        b: `[batch, m]`.
        c: `[batch, n]`.

    Raises:
        ValueError: b or c does not fit A.
    """
    if A.ndim != 3 or b.shape != A.shape[:2] or c.shape != (A.shape[0], A.shape[2]):
        raise ValueError(
            f"A is {list(A.shape)}, b {list(b.shape)}, c {list(c.shape)}, but must be [batch, m, n], [batch, m], "
            f"[batch, n]; pad the LPs of a batch to common m and n."
        )
    return torch.cat([rearrange(A, "batch m n -> batch (m n)"), b, c], dim=1)


def unflatten(vectors: Tensor, m: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """`A [batch, m, n]`, `b [batch, m]` and `c [batch, n]` of `vectors [batch, m * n + m + n]`; nothing is copied.

    Raises:
        ValueError: the vectors are not of LPs with m rows and n columns.
    """
    if vectors.ndim != 2 or vectors.size(1) != m * n + m + n:
        entries, items = m * n + m + n, m + n
        remedy = "give the padded sizes that the batch was flattened with"
        more = vectors.shape[-1] - entries if vectors.ndim == 2 else 0
        if more > 0 and items and more % (2 * items) == 0:
            remedy = (
                f"if states follow, as StateFeatures appends them, use DenseLP.of_vectors with numbers={more // items}"
            )
        raise ValueError(
            f"vectors is {list(vectors.shape)}, but LPs of {m} rows and {n} columns are [batch, {entries}], "
            f"[vec(A), b, c]; {remedy}."
        )
    A = rearrange(vectors[:, : m * n], "batch (m n) -> batch m n", m=m, n=n)
    return A, vectors[:, m * n : m * n + m], vectors[:, m * n + m :]


def flatten_states(constraint: Tensor, variable: Tensor) -> Tensor:
    """One vector per LP, `[batch, numbers * (m + n)]`: the numbers of the rows, item by item, then of the columns.

    Args:
        constraint: `[batch, m, numbers]`.
        variable: `[batch, n, numbers]`.
    """
    pattern = "batch items numbers -> batch (items numbers)"
    return torch.cat([rearrange(part, pattern) for part in (constraint, variable)], dim=1)


def valid_entries(mask_m: Tensor, mask_n: Tensor, numbers: int = 0) -> Tensor:
    """Which entries of `[vec(A), b, c]` are real: bool `[batch, m * n + m + n]`.

    Args:
        mask_m: `[batch, m]`, bool or numbers, not 0 on real rows.
        mask_n: `[batch, n]`, the same for columns.
        numbers: how many numbers per row and column follow each vector, as `StateFeatures` appends them. The result
            is then `[batch, m * n + (1 + numbers) * (m + n)]`.

    Raises:
        ValueError: a mask is not two-dimensional (counts are not masks), or the masks are of different batches.
    """
    for name, mask in (("mask_m", mask_m), ("mask_n", mask_n)):
        if mask.ndim != 2:
            raise ValueError(
                f"{name} has shape {list(mask.shape)}, but must be [batch, rows or columns] with 1 on real ones; "
                f"from counts, build it as torch.arange(size) < counts[:, None]."
            )
    if len(mask_m) != len(mask_n):
        raise ValueError(
            f"mask_m has {len(mask_m)} instances and mask_n {len(mask_n)}, but must have equally many; give the two "
            f"masks of one batch."
        )
    rows, columns = mask_m != 0, mask_n != 0
    coefficients = rearrange(rows, "batch m -> batch m 1") & rearrange(columns, "batch n -> batch 1 n")
    states = [repeat(mask, "batch items -> batch (items numbers)", numbers=numbers) for mask in (rows, columns)]
    return torch.cat([flatten(coefficients, rows, columns), *states], 1)
