"""Constraints, variables and coefficients of flat LPs: exact counts, nothing else touched."""

from typing import Any

import oracles
import pytest
import torch
from builders import seeded
from hypothesis import given
from hypothesis import strategies as st
from random_graphs import FLOATS, RATIOS, SEEDS
from scipy.stats import chisquare
from torch import Tensor

from jepa_ssl import EntryMasker, FlatVectors
from jepa_ssl.lp import StructureMasker, flatten, valid_entries
from jepa_ssl.maskers import GaussianNoise, GroupMasker, LearnedToken, Shuffled, Zeros

OFF_OR_RATIO = st.one_of(st.just(0.0), RATIOS)
M, N = 4, 5
SIZES = st.lists(st.tuples(st.integers(0, M), st.integers(0, N)), max_size=4)


def padded_lps(sizes: list[tuple[int, int]], density: float = 1.0, seed: int = 0) -> FlatVectors:
    """LPs of up to M rows and N columns, with random rows and columns as padding, which holds numbers too."""
    g, batch = seeded(seed), len(sizes)
    order_m = torch.rand(batch, M, generator=g).argsort(1).argsort(1)
    order_n = torch.rand(batch, N, generator=g).argsort(1).argsort(1)
    counts = torch.tensor(sizes, dtype=torch.int64).reshape(-1, 2)
    A = torch.randn(batch, M, N, generator=g) * (torch.rand(batch, M, N, generator=g) < density)
    flat = flatten(A, torch.randn(batch, M, generator=g), torch.randn(batch, N, generator=g))
    return FlatVectors(flat, valid_entries((order_m < counts[:, :1]).float(), order_n < counts[:, 1:]))


def cut(vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    A, b, c = vectors.split([M * N, M, N], dim=1)
    return A.view(-1, M, N), b, c


@given(SIZES, OFF_OR_RATIO, OFF_OR_RATIO, OFF_OR_RATIO, st.booleans(), SEEDS)
def test_each_kind_hides_exactly_its_share_whole(
    sizes: list[tuple[int, int]], constraints: float, variables: float, coefficients: float, nonzero: bool, seed: int
):
    if not (constraints or variables or coefficients):
        return
    batch = padded_lps(sizes, density=0.5, seed=seed)
    only_nonzero = nonzero and coefficients > 0
    masker = StructureMasker(M, N, constraints, variables, coefficients, only_nonzero=only_nonzero)
    hidden = masker.draw(batch, generator=seeded(seed))["instance"]
    assert not (hidden & ~batch.valid).any()
    (A, b, c), (real, _, _) = cut(hidden), cut(batch.valid)
    values = cut(batch.values)[0]

    def share(ratio: float, size: int) -> int:
        return oracles.hidden_count(size, ratio) if ratio else 0

    for i, (rows, columns) in enumerate(sizes):
        # A row is only real where it has a column, and the other way round; b and c are real by themselves.
        assert int(b[i].sum()) == share(constraints, rows)
        assert int(c[i].sum()) == share(variables, columns)
        whole = (b[i].unsqueeze(1) | c[i]) & real[i]
        assert not (whole & ~A[i]).any()
        singles = A[i] & ~whole
        among = real[i] & (values[i] != 0) if only_nonzero else real[i]
        assert not (singles & ~among).any()
        most = share(coefficients, int(among.sum()))
        assert most - int((whole & among).sum()) <= int(singles.sum()) <= most
        if not constraints and not variables:
            assert int(singles.sum()) == most


@pytest.mark.parametrize("dtype", FLOATS)
def test_what_is_hidden_becomes_zero_and_the_rest_stays(dtype: torch.dtype):
    batch = padded_lps([(4, 5), (2, 3), (1, 1), (0, 0)])
    batch = FlatVectors(batch.values.to(dtype), batch.valid)
    before = batch.values.clone()
    masker = StructureMasker(M, N, 0.5, 0.3, 0.1)
    views = masker(batch, generator=seeded())
    hidden = masker.draw(batch, generator=seeded())["instance"]
    assert views.target is batch
    assert views.context.valid is batch.valid
    assert views.hidden["instance"].tolist() == [True, True, False, False]
    assert torch.equal(batch.values, before)
    assert torch.equal(views.context.values, before.masked_fill(hidden, 0.0))
    assert not torch.equal(views.context.values, before)


def test_a_bare_tensor_is_a_batch_without_padding():
    values = torch.randn(3, M * N + M + N, generator=seeded())
    everything = FlatVectors(values, torch.ones_like(values, dtype=torch.bool))
    masker = StructureMasker(M, N, 0.5, 0.4, 0.3, only_nonzero=True)
    hidden = masker.draw(values, generator=seeded())["instance"]
    assert torch.equal(hidden, masker.draw(everything, generator=seeded())["instance"])
    _, b, c = cut(hidden)
    assert b.sum(1).tolist() == [2] * 3
    assert c.sum(1).tolist() == [2] * 3


def test_only_nonzero_coefficients_are_drawn_and_their_share_is_of_them():
    batch = padded_lps([(4, 5)] * 50, density=0.3)
    hidden = StructureMasker(M, N, coefficients=0.5, only_nonzero=True).draw(batch, generator=seeded())["instance"]
    nonzero = cut(batch.values)[0] != 0
    A, b, c = cut(hidden)
    assert not (A & ~nonzero).any()
    assert not b.any()
    assert not c.any()
    assert A.sum((1, 2)).tolist() == [oracles.hidden_count(int(size), 0.5) for size in nonzero.sum((1, 2))]


def test_constraints_and_variables_are_drawn_uniformly_and_independently_of_each_other():
    draws = 6000
    hidden = StructureMasker(M, N, 0.5, 0.4).draw(torch.ones(draws, M * N + M + N), generator=seeded())["instance"]
    _, b, c = cut(hidden)
    for marks, chosen in ((b, 2), (c, 2)):
        pairs = torch.combinations(torch.arange(marks.size(1)), chosen)
        counts = [int((marks[:, i] & marks[:, j]).sum()) for i, j in pairs.tolist()]
        assert sum(counts) == draws
        assert chisquare(counts).pvalue > 1e-3
    together = torch.bincount(b.int().argmax(1) * N + c.int().argmax(1), minlength=M * N).view(M, N).double()
    expected = together.sum(1, keepdim=True) * together.sum(0) / draws
    seen = expected > 0
    assert float(((together - expected)[seen] ** 2 / expected[seen]).sum()) < 30  # 6 degrees of freedom: p < 1e-4


def test_bad_arguments_of_the_structure_masker_are_refused_by_name():
    bad: tuple[tuple[Any, str], ...] = (
        ((0, 3, 0.5), r"m is 0.*at least 1"),
        ((3, 0, 0.5), r"n is 0.*at least 1"),
        ((3, 3), r"constraints, variables, coefficients are all 0"),
        ((3, 3, 1.0), r"constraints is 1\.0.*strictly between 0 and 1"),
        ((3, 3, 0.5, -0.1), r"variables is -0\.1"),
        ((3, 3, 0.5, 0.0, float("nan")), r"coefficients is nan"),
    )
    for arguments, said in bad:
        with pytest.raises(ValueError, match=said):
            StructureMasker(*arguments)
    with pytest.raises(ValueError, match=r"only_nonzero is True, but coefficients is 0"):
        StructureMasker(3, 3, 0.5, only_nonzero=True)
    with pytest.raises(ValueError, match=r"instance is \[2, 14\].*3 rows and 3 columns have 15 entries"):
        StructureMasker(3, 3, 0.5)(torch.ones(2, 14))
    with pytest.raises(ValueError, match=r"mask_m has shape \[3\].*torch\.arange\(size\) < counts"):
        valid_entries(torch.tensor([1, 2, 3]), torch.ones(3, 2))


# Sizes, empty batches, compilation


def test_empty_batches_have_empty_views():
    for masker, entries in ((StructureMasker(M, N, 0.5, 0.5, 0.5), M * N + M + N), (GroupMasker([[0], [1]], 0.5), 4)):
        for instance in (torch.ones(0, entries), FlatVectors(torch.ones(0, entries), torch.ones(0, entries) > 0)):
            assert masker.draw(instance, generator=seeded())["instance"].shape == (0, entries)
            masker(instance, generator=seeded())


@pytest.mark.slow
def test_draws_compile_without_a_graph_break():
    values = torch.randn(3, M * N + M + N)
    masker = StructureMasker(M, N, 0.5, 0.5, 0.5, only_nonzero=True)
    _, b, c = cut(torch.compile(masker.draw, fullgraph=True)(values)["instance"])
    assert b.sum(1).tolist() == [2] * 3
    assert c.sum(1).tolist() == [2] * 3
    drawn = torch.compile(GroupMasker([[0, 1], [2]], 0.5).draw, fullgraph=True)(values)["instance"]
    assert set(drawn.sum(1).tolist()) <= {1, 2}


@pytest.mark.parametrize("indicator", [False, True])
@pytest.mark.parametrize(
    "fill", [Zeros(), GaussianNoise(), Shuffled(), LearnedToken({"instance": 1})], ids=lambda f: type(f).__name__
)
def test_no_masker_of_vectors_asks_the_device_for_a_number(fill: Any, indicator: bool):
    """A tensor on the meta device has none: whatever would wait for it raises."""
    values = torch.ones(3, M * N + M + N, device="meta")
    for masker in (
        EntryMasker(0.5, fill, indicator=indicator),
        GroupMasker([[0, 1], [2]], 0.5, fill, indicator=indicator),
        StructureMasker(M, N, 0.5, 0.5, 0.5, only_nonzero=True, fill=fill, indicator=indicator),
    ):
        masker = masker.to("meta")
        for instance in (values, FlatVectors(values, values > 0)):
            assert masker(instance).hidden["instance"].is_meta
