"""Intervals: the numbers of scipy and scikit-learn, and how often they cover the truth."""

import math

import pytest
import torch
from builders import seeded
from scipy.stats import t, ttest_rel
from sklearn.isotonic import IsotonicRegression
from torch import Tensor

from jepa_ssl.evaluation import interval, probe, r2
from jepa_ssl.evaluation.intervals import Curve, label_overlap, labels_needed, monotone, t_quantile

NONE = torch.empty(8, 0)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.9975])
@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 30, 1000])
def test_the_quantile_of_t_is_scipys(level: float, degrees: int):
    assert t_quantile(level, degrees) == pytest.approx(t.ppf(0.5 + level / 2, degrees), rel=1e-9)


def test_over_seeds_it_is_scipys_paired_t_interval():
    a, b = torch.randn(8), torch.randn(8)
    expected = ttest_rel(a.numpy(), b.numpy()).confidence_interval(0.95)
    found = interval(a - b, NONE)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-5)


def test_what_cannot_be_told_has_no_interval():
    assert math.isnan(interval(torch.tensor([1.0]), NONE[:1]).low)
    assert math.isnan(interval(torch.tensor([1.0, 2.0]), NONE[:2], overlap=1.0).low)  # all seeds saw the same labels
    assert math.isnan(interval(torch.tensor([math.nan]), NONE[:1]).mean)
    partly = interval(torch.tensor([1.0, math.nan, 2.0]), NONE[:3])
    assert (partly.mean, partly.seeds) == (1.5, 2)
    same = interval(torch.zeros(3), torch.zeros(3, 4), overlap=1.0)
    assert (same.low, same.high) == (0.0, 0.0)  # the same arm twice


def test_a_test_set_in_one_block_says_nothing_and_undefined_blocks_are_left_out():
    values = torch.randn(8)
    assert interval(values, torch.randn(8, 1)) == interval(values, NONE)
    blocks = torch.randn(8, 5)
    blocks[0, 0] = math.nan
    assert interval(values, blocks) == interval(values, blocks[:, 1:])


def test_the_jackknife_of_a_mean_is_its_standard_error():
    scores = torch.randn(20, dtype=torch.float64)
    without = torch.stack([scores[torch.arange(20) != i].mean() for i in range(20)])
    found = interval(scores.mean().expand(8), without.expand(8, 20))
    half = t.ppf(0.975, 19) * scores.std().item() / 20**0.5
    assert found.high - found.mean == pytest.approx(half, rel=1e-6)


def test_the_overlap_is_the_correlation_of_means_of_nested_sets():
    g, pool, counts = seeded(0), 40, [5, 10, 30]
    labels = torch.randn(4000, pool, generator=g)
    draws = torch.rand(2, 4000, pool, generator=g).argsort(-1)
    first, second = (torch.stack([labels.gather(1, draw[:, :n]).mean(1) for n in counts]).mean(0) for draw in draws)
    expected = torch.corrcoef(torch.stack((first, second)))[0, 1].item()
    assert label_overlap(counts, pool) == pytest.approx(expected, abs=0.05)
    assert label_overlap([40], 40) == 1.0


def repeated(run: int, pool: int, tests: int, count: int, seeds: int) -> tuple[Tensor, Tensor]:
    """A comparison of two feature sets on one small data set: differences [seeds], and without each test block."""
    g = seeded(run)
    z = torch.randn(pool + tests, 5, generator=g)
    y = z.sum(1) + torch.randn(len(z), generator=g)
    arms, test = (z, z + 0.5 * torch.randn(z.shape, generator=g)), torch.arange(pool, pool + tests)
    blocks = torch.arange(tests) % 10
    found: list[list[float]] = []
    for _ in range(seeds):
        some = torch.randperm(pool, generator=g)[:count]
        a, b = (probe(arm[some], y[some], penalties=[0.1])(arm[test]) for arm in arms)
        kept = [blocks >= 0, *(blocks != block for block in range(10))]
        found.append([r2(a[one], y[test][one]) - r2(b[one], y[test][one]) for one in kept])
    result = torch.tensor(found, dtype=torch.float64)
    return result[:, 0], result[:, 1:]


@pytest.mark.slow
@pytest.mark.parametrize(("pool", "tests", "count"), [(40, 40, 20), (200, 100, 20)])
def test_it_covers_the_truth_where_the_usual_interval_does_not(pool: int, tests: int, count: int):
    """The truth is the mean difference over new data sets."""
    truth = torch.stack([repeated(1000 + run, count, tests, count, 1)[0] for run in range(300)]).mean()
    found = [repeated(run, pool, tests, count, 5) for run in range(100)]
    ours = [interval(*one, label_overlap([count], pool)) for one in found]
    usual = [interval(values, NONE[:5]) for values, _ in found]
    covered, plainly = (sum(bool(one.low <= truth <= one.high) for one in some) for some in (ours, usual))
    assert covered >= 90
    assert plainly < covered


# Labels saved


def test_the_monotone_curve_is_scikit_learns():
    values = torch.randn(12, dtype=torch.float64)
    expected = IsotonicRegression().fit_transform(range(12), values.numpy())
    torch.testing.assert_close(monotone(values), torch.from_numpy(expected))


COUNTS = [4, 8, 16, 32]


def lines(lead: float, run: int, noise: float = 0.05, seeds: int = 6) -> tuple[Curve, Curve]:
    """Two arms whose scores rise by 0.1 with each doubling; the first is `lead` doublings ahead."""
    g = seeded(run)
    line = 0.1 * torch.arange(4.0, dtype=torch.float64).unsqueeze(1)
    shared = noise * torch.randn(4, seeds, generator=g, dtype=torch.float64)
    own = [noise * torch.randn(4, seeds, generator=g, dtype=torch.float64) for _ in range(2)]
    arm, control = line + 0.1 * lead + shared + own[0], line + shared + own[1]
    return tuple(Curve(values, torch.empty(4, seeds, 0)) for values in (arm, control))  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("lead", [0.5, 1.0, 2.0])
def test_labels_needed_is_exact_without_noise(lead: float):
    arm, control = lines(lead, 0, noise=0.0)
    found = labels_needed(COUNTS, arm, control, 3, math.inf)
    assert found.labels == pytest.approx(32 / 2**lead)
    assert found.low == pytest.approx(found.high, rel=0.02)


def test_labels_needed_beyond_both_ends():
    behind, ahead = lines(-1.0, 0, noise=0.01), lines(5.0, 0, noise=0.01)
    assert labels_needed(COUNTS, *behind, 3, math.inf).low == math.inf
    assert str(labels_needed(COUNTS, *behind, 3, math.inf)).startswith("more than all [more than all to")
    found = labels_needed(COUNTS, *ahead, 3, math.inf)
    assert (found.labels, found.high) == pytest.approx((4, 4))
    assert str(found) == "at most 4 [at most 4 to at most 4] labels instead of 32"
    single = Curve(torch.zeros(1, 3), torch.empty(1, 3, 0))
    assert labels_needed([8], single, single, 0, math.inf).labels == pytest.approx(8)


def test_labels_needed_covers_the_truth():
    covered = 0
    for run in range(40):
        found = labels_needed(COUNTS, *lines(1.0, run), 3, math.inf)
        covered += found.low * 0.99 <= 16 <= found.high * 1.01
    assert covered >= 36


def test_an_undefined_score_between_two_counts_leaves_the_others():
    curve = Curve(torch.tensor([[0.0, 0.0], [1.0, math.nan], [2.0, 2.0]]), torch.empty(3, 2, 0))
    logs = torch.tensor([4.0, 8.0, 16.0], dtype=torch.float64).log()
    assert curve.interpolated(logs, math.log(4.0)).values.tolist() == [[0.0, 0.0]]
    assert curve.interpolated(logs, math.log(16.0)).values.tolist() == [[2.0, 2.0]]
    half = curve.interpolated(logs, math.log(32**0.5))
    assert half.values[0, 0].item() == pytest.approx(0.5)
    assert half.values[0, 1].isnan()
