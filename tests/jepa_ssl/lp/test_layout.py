"""The flat layout of an LP, compared entry by entry with loops."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jepa_ssl.lp import flatten, unflatten, valid_entries
from jepa_ssl.lp.layout import flatten_states


@given(st.integers(0, 3), st.integers(0, 4), st.integers(0, 4))
def test_flatten_is_a_row_by_row_then_b_then_c(batch: int, m: int, n: int):
    A, b, c = torch.randn(batch, m, n), torch.randn(batch, m), torch.randn(batch, n)
    flat = flatten(A, b, c)
    assert flat.shape == (batch, m * n + m + n)
    for lp in range(batch):
        expected = [A[lp, i, j] for i in range(m) for j in range(n)] + list(b[lp]) + list(c[lp])
        assert flat[lp].tolist() == [float(x) for x in expected]


@given(st.integers(0, 3), st.integers(0, 4), st.integers(0, 4))
def test_unflatten_undoes_flatten_and_shares_its_memory(batch: int, m: int, n: int):
    parts = torch.randn(batch, m, n), torch.randn(batch, m), torch.randn(batch, n)
    flat = flatten(*parts)
    for part, found in zip(parts, unflatten(flat, m, n), strict=True):
        assert torch.equal(found, part)
        assert found.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr()


@pytest.mark.parametrize("shape", [(2, 10), (11,)])
def test_vectors_of_other_sizes_are_not_unflattened(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"vectors is \[.*LPs of 2 rows and 3 columns are \[batch, 11\].*padded sizes"):
        unflatten(torch.ones(shape), 2, 3)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.int64])
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=4))
def test_valid_entries_are_those_of_real_rows_and_columns(dtype: torch.dtype, sizes: list[tuple[int, int]]):
    m, n = 3, 4
    mask_m = torch.tensor([[i < rows for i in range(m)] for rows, _ in sizes]).to(dtype)
    mask_n = torch.tensor([[j < columns for j in range(n)] for _, columns in sizes]).to(dtype)
    valid = valid_entries(mask_m, mask_n)
    assert valid.dtype == torch.bool
    for lp, (rows, columns) in enumerate(sizes):
        in_A = [i < rows and j < columns for i in range(m) for j in range(n)]
        assert valid[lp].tolist() == in_A + [i < rows for i in range(m)] + [j < columns for j in range(n)]


def test_a_padded_lp_keeps_its_numbers_in_its_valid_entries():
    A, b, c = torch.randn(1, 2, 3), torch.randn(1, 2), torch.randn(1, 3)
    padded = torch.zeros(1, 4, 5), torch.zeros(1, 4), torch.zeros(1, 5)
    padded[0][:, :2, :3], padded[1][:, :2], padded[2][:, :3] = A, b, c
    valid = valid_entries(torch.arange(4)[None] < 2, torch.arange(5)[None] < 3)
    assert torch.equal(flatten(*padded)[valid], flatten(A, b, c)[0])


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"A is \[2, 3, 4\], b \[2, 4\].*pad the LPs"):
        flatten(torch.ones(2, 3, 4), torch.ones(2, 4), torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"A is \[3, 4\]"):
        flatten(torch.ones(3, 4), torch.ones(3), torch.ones(4))
    with pytest.raises(ValueError, match=r"mask_n has shape \[2\].*torch.arange\(size\) < counts"):
        valid_entries(torch.ones(2, 3), torch.tensor([3, 2]))
    with pytest.raises(ValueError, match="mask_m has 2 instances and mask_n 3, but must"):
        valid_entries(torch.ones(2, 3), torch.ones(3, 4))


@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 4))
def test_states_are_laid_out_item_after_item(batch: int, m: int, n: int, numbers: int):
    constraint, variable = torch.randn(batch, m, numbers), torch.randn(batch, n, numbers)
    flat = flatten_states(constraint, variable)
    assert flat.shape == (batch, numbers * (m + n))
    for lp in range(batch):
        expected = [x for items in (constraint[lp], variable[lp]) for item in items for x in item.tolist()]
        assert flat[lp].tolist() == expected


@given(st.integers(0, 3), st.integers(0, 4), st.integers(0, 3))
def test_the_numbers_of_real_rows_and_columns_are_valid(rows: int, columns: int, numbers: int):
    mask_m, mask_n = (torch.arange(size)[None] < real for size, real in ((3, rows), (4, columns)))
    valid = valid_entries(mask_m, mask_n, numbers)
    appended = flatten_states(mask_m[..., None].expand(1, 3, numbers), mask_n[..., None].expand(1, 4, numbers))
    assert torch.equal(valid, torch.cat([valid_entries(mask_m, mask_n), appended], 1))
