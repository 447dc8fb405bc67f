"""Draws: how many items, which ones, and other items of the same instance; those of a CPU and those of a GPU."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import oracles
import pytest
import torch
from builders import offsets, seeded
from hypothesis import example, given
from hypothesis import strategies as st
from random_graphs import RATIOS, SEEDS
from scipy.stats import chisquare
from torch import Tensor

from jepa_ssl.maskers.draw import (
    draw_in_groups,
    draw_in_rows,
    draw_in_segments,
    groups_by_sort,
    hidden_count,
    hidden_counts,
    other_in_groups,
    other_in_rows,
    rows_by_topk,
)
from jepa_ssl.maskers.repair import repaired_rows, repaired_segments
from jepa_ssl.seeds import Seeds
from jepa_ssl.segments import segment_of

CPU = torch.device("cpu")


def rows_by_repair(shape: torch.Size, valid: Tensor | None, ratio: float, generator: torch.Generator) -> Tensor:
    sizes = torch.full((shape[0],), shape[1]) if valid is None else valid.sum(1)
    return repaired_rows(valid, sizes, hidden_counts(sizes, ratio), shape[1], ratio, generator)


def segments_by_repair(ends: Tensor, items: int, ratio: float, generator: torch.Generator) -> Tensor:
    return repaired_segments(ends, items, hidden_counts(ends.diff(), ratio), ratio, generator)


def segments_by_sort(ends: Tensor, items: int, ratio: float, generator: torch.Generator) -> Tensor:
    return groups_by_sort(segment_of(ends, items), ends, ratio, generator)


ROWS = [
    pytest.param(rows_by_repair, id="repair"),
    pytest.param(partial(rows_by_topk, device=CPU), id="topk"),
    pytest.param(partial(draw_in_rows, device=CPU), id="short keys"),
]
SEGMENTS = [pytest.param(segments_by_repair, id="repair"), pytest.param(segments_by_sort, id="sort")]
PADDED = st.integers(0, 40).flatmap(lambda e: st.tuples(st.just(e), st.lists(st.integers(0, e), max_size=6)))
SHARES = [0.2, 0.34, 0.5, 0.67]


def per_segment(marks: Tensor, sizes: list[int]) -> list[int]:
    return [int(part.sum()) for part in marks.split(sizes)] if sizes else []


# How many


@given(RATIOS, st.lists(st.integers(0, 10**6), min_size=1))
@example(0.29, [100])  # 29 in float32, and in Python int(28.999999999999996)
@example(0.7, [10])
def test_counts_are_int_of_ratio_times_size(ratio: float, sizes: list[int]):
    assert hidden_counts(torch.tensor(sizes), ratio).tolist() == [oracles.hidden_count(s, ratio) for s in sizes]
    assert [hidden_count(s, ratio) for s in sizes] == [oracles.hidden_count(s, ratio) for s in sizes]


@pytest.mark.parametrize("draw", ROWS)
@given(PADDED, RATIOS, SEEDS)
def test_each_row_hides_exactly_its_share_and_padding_never(
    draw: Callable[..., Tensor], case: tuple[int, list[int]], ratio: float, seed: int
):
    entries, sizes = case
    valid = [torch.randperm(entries, generator=seeded(seed + i)) < size for i, size in enumerate(sizes)]
    padded = torch.stack(valid) if valid else torch.zeros(0, entries, dtype=torch.bool)
    hidden = draw(padded.shape, padded, ratio, seeded(seed))
    assert hidden.sum(-1).tolist() == [oracles.hidden_count(size, ratio) for size in sizes]
    assert not (hidden & ~padded).any()
    unpadded = draw(padded.shape, None, ratio, seeded(seed))
    assert unpadded.shape == padded.shape
    assert unpadded.sum(-1).tolist() == [oracles.hidden_count(entries, ratio)] * len(sizes)


@pytest.mark.parametrize("draw", ROWS)
@pytest.mark.parametrize("ratio", [1e-9, 0.3, 0.5, 0.6, 1 - 1e-9])
def test_few_real_entries_among_much_padding_are_found(draw: Callable[..., Tensor], ratio: float):
    valid = torch.zeros(6, 50_000, dtype=torch.bool)
    valid[0, 7] = valid[1, 7:9] = valid[2, -3:] = valid[3, ::1000] = valid[4] = True
    hidden = draw(valid.shape, valid, ratio, seeded())
    assert hidden.sum(-1).tolist() == [oracles.hidden_count(size, ratio) for size in (1, 2, 3, 50, 50_000, 0)]
    assert not (hidden & ~valid).any()


@pytest.mark.parametrize("draw", SEGMENTS)
@given(st.lists(st.one_of(st.integers(0, 90), st.integers(0, 3000)), max_size=8), RATIOS, SEEDS)
def test_each_segment_hides_exactly_its_share(draw: Callable[..., Tensor], sizes: list[int], ratio: float, seed: int):
    hidden = draw(offsets(sizes), sum(sizes), ratio, seeded(seed))
    assert per_segment(hidden, sizes) == [oracles.hidden_count(size, ratio) for size in sizes]


def test_a_million_items_in_uneven_segments_hide_exactly_their_share():
    sizes = [1, 2, 3, 4] * 50_000 + [500_000]
    hidden = draw_in_segments(offsets(sizes), 1_000_000, 0.3, seeded())
    assert int(hidden.sum()) == sum(oracles.hidden_count(size, 0.3) for size in sizes)


# Which: uniformly at random


def p_value(draws: Tensor, hidden: int) -> float:
    """Chi-square over all subsets of `hidden` of the columns, from `[draws, columns]` bool."""
    subsets = len(torch.combinations(torch.arange(draws.size(1)), hidden))
    seen = Counter(map(tuple, draws.tolist()))
    return float(chisquare(list(seen.values()) + [0] * (subsets - len(seen))).pvalue)


@pytest.mark.parametrize("draw", ROWS)
@pytest.mark.parametrize("ratio", SHARES)
def test_every_subset_of_a_row_is_equally_likely(draw: Callable[..., Tensor], ratio: float):
    hidden = draw(torch.Size([8000, 6]), None, ratio, seeded())
    assert p_value(hidden, oracles.hidden_count(6, ratio)) > 1e-3
    valid = torch.tensor([True, False, True, True, False, False, True, True, False, True]).expand(8000, 10)
    hidden = draw(valid.shape, valid, ratio, seeded())[:, valid[0]]
    assert p_value(hidden, oracles.hidden_count(6, ratio)) > 1e-3


@pytest.mark.parametrize("draw", SEGMENTS)
@pytest.mark.parametrize("ratio", SHARES)
def test_every_subset_of_a_segment_is_equally_likely(draw: Callable[..., Tensor], ratio: float):
    sizes = [6, 0, 1] * 8000
    hidden = draw(offsets(sizes), sum(sizes), ratio, seeded()).view(8000, 7)
    assert not hidden[:, -1].any()  # the lone item of each third segment
    assert p_value(hidden[:, :6], oracles.hidden_count(6, ratio)) > 1e-3
    neighbours = hidden[:, 0].view(-1, 2).int() @ torch.tensor([2, 1], dtype=torch.int32)
    chance = hidden[:, 0].double().mean()
    expected = torch.stack([(1 - chance) ** 2, chance * (1 - chance), chance * (1 - chance), chance**2])
    assert chisquare(torch.bincount(neighbours, minlength=4).tolist(), (expected * 4000).tolist()).pvalue > 1e-3


@pytest.mark.parametrize("ratio", [0.3, 0.6])
def test_segments_that_are_repaired_many_times_stay_uniform(ratio: float):
    draws, size = 2000, 300  # most rows need a dozen repairs
    counts = segments_by_repair(torch.arange(draws + 1) * size, draws * size, ratio, seeded()).view(draws, size).sum(0)
    # Exact counts make the columns' totals vary less than independent ones, by a factor of 1 - ratio.
    statistic = float(((counts - draws * ratio) ** 2 / (draws * ratio * (1 - ratio))).sum())
    assert abs(statistic - (size - 1)) < 5 * (2 * size) ** 0.5


def test_every_subset_of_a_group_is_equally_likely_in_any_order():
    apart = torch.arange(6000).repeat(5)  # each group's items far apart
    assert p_value(draw_in_groups(apart, 6000, 0.4, seeded()).view(5, 6000).t(), 2) > 1e-3
    in_order = torch.arange(6000).repeat_interleave(5)
    assert p_value(draw_in_groups(in_order, 6000, 0.4, seeded()).view(6000, 5), 2) > 1e-3


@pytest.mark.parametrize("entries", [6, 2600, 20_003])  # of 20,003 keys of 16 bits, the last often ties
def test_seeds_draw_the_same_on_a_cpu_as_elsewhere_and_in_padded_rows(entries: int):
    shape, names = torch.Size([40, entries]), torch.arange(40)
    drawn = draw_in_rows(shape, None, 0.3, Seeds(names), CPU)
    assert torch.equal(drawn, rows_by_topk(shape, None, 0.3, Seeds(names), CPU))
    valid = torch.arange(entries + 5).expand(40, -1) % (entries + 1) != 2
    valid = valid & (valid.cumsum(1) <= entries)
    padded = draw_in_rows(valid.shape, valid, 0.3, Seeds(names), CPU)
    assert torch.equal(drawn, padded[valid].view(shape))


def test_the_plain_loops_are_uniform_and_the_same_test_finds_a_biased_draw():
    ones = torch.ones(2000, 6)
    assert p_value(oracles.flat_view(ones, ones.bool(), 0.5, seeded())[1], 3) > 1e-3
    nodes = oracles.graph_view(torch.ones(12_000, 1), [6] * 2000, 0.5, seeded())[1]
    assert p_value(nodes.view(2000, 6), 3) > 1e-3

    keys = torch.rand(8000, 6, generator=seeded()) + 0.05 * torch.arange(6)
    biased = torch.zeros(8000, 6, dtype=torch.bool).scatter_(1, keys.argsort()[:, :3], True)
    assert p_value(biased, 3) < 1e-6
    block = (torch.arange(6) - torch.randint(6, (8000, 1), generator=seeded())) % 6 < 3
    assert p_value(block, 3) < 1e-6
    repaired = segments_by_repair(torch.arange(8001) * 6, 48_000, 0.34, seeded()).view(8000, 6)
    repaired[:800] = torch.arange(6) < 2  # as if one in ten were repaired at the first free items
    assert p_value(repaired, 2) < 1e-6


@pytest.mark.slow
def test_draws_compile_without_a_graph_break():
    whole = partial(torch.compile, fullgraph=True, backend="eager")
    for valid in (torch.ones(4, 10, dtype=torch.bool), None):
        rows = whole(partial(draw_in_rows, torch.Size([4, 10]), valid, 0.5, None, CPU))
        assert rows().sum(-1).tolist() == [5] * 4
    segments = whole(partial(draw_in_segments, offsets([4, 6]), 10, 0.5, None))
    assert per_segment(segments(), [4, 6]) == [2, 3]


# Other items of the same instance


@given(st.lists(st.integers(0, 6), min_size=1, max_size=6), SEEDS)
def test_another_item_of_a_group_is_another_one_if_there_is_any(sizes: list[int], seed: int):
    group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    group = group[torch.randperm(len(group), generator=seeded(seed))]  # in any order
    other = other_in_groups(group, len(sizes), seeded(seed))
    assert torch.equal(group[other], group)
    alone = torch.tensor(sizes)[group] == 1
    assert torch.equal(other == torch.arange(len(group)), alone)


@given(st.lists(st.integers(0, 7), min_size=1, max_size=5), SEEDS)
def test_another_entry_of_a_row_is_another_real_one_if_there_is_any(sizes: list[int], seed: int):
    valid = torch.stack([torch.randperm(7, generator=seeded(seed + i)) < size for i, size in enumerate(sizes)])
    for marks in (valid, None):
        other = other_in_rows(valid.shape, marks, seeded(seed), CPU)
        real = torch.ones_like(valid) if marks is None else marks
        assert real.gather(1, other)[real].all()
        alone = (real.sum(1, keepdim=True) == 1).expand_as(real)
        assert torch.equal((other == torch.arange(7))[real], alone[real])


def test_other_items_are_drawn_uniformly():
    draws = 6000
    in_groups: Any = other_in_groups(torch.arange(draws).repeat_interleave(5), draws, seeded()).view(draws, 5) % 5
    valid = torch.tensor([True, False, True, True, False, True, True]).expand(draws, 7)
    in_rows = other_in_rows(valid.shape, valid, seeded(), CPU)[:, valid[0]]
    unpadded = other_in_rows(torch.Size([draws, 5]), None, seeded(), CPU)
    for others in (in_groups, in_rows, unpadded):
        for item in range(5):
            counts = torch.bincount(others[:, item])
            assert chisquare(counts[counts > 0].tolist()).pvalue > 1e-4
            assert int((counts > 0).sum()) == 4
