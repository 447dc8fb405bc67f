"""Metrics: the numbers of scikit-learn, ties, and labels that leave a metric undefined."""

import math
from itertools import permutations

import pytest
import torch
from sklearn.metrics import accuracy_score, r2_score, roc_auc_score, top_k_accuracy_score

from jepa_ssl.evaluation import accuracy, auc, r2, top_k
from jepa_ssl.evaluation.metrics import bounded_r2


def test_r2_auc_and_accuracy_are_scikit_learns():
    y, p = torch.randn(50, 3), torch.randn(50, 3)
    assert r2(p, y) == pytest.approx(r2_score(y, p))
    labels, scores = torch.rand(50) < 0.3, torch.randn(50).round(decimals=1)  # with ties
    assert auc(scores, labels.long()) == pytest.approx(roc_auc_score(labels, scores))
    assert accuracy(scores, labels.long()) == pytest.approx(accuracy_score(labels, scores > 0.5))


def test_top_k_is_scikit_learns_with_groups_as_rows():
    scores, best = torch.randn(20, 6), torch.randint(6, (20,))
    labels = torch.nn.functional.one_hot(best, 6)
    groups = torch.arange(20).repeat_interleave(6)
    order = torch.randperm(120)  # items of a group need not stand together
    for k in (1, 2, 5):
        expected = top_k_accuracy_score(best.numpy(), scores.numpy(), k=k, labels=range(6))
        found = top_k(k)(scores.flatten()[order], labels.flatten()[order], groups[order])
        assert found == pytest.approx(expected)


def plain_top_k(k: int, scores: torch.Tensor, labels: torch.Tensor, groups: torch.Tensor) -> float:
    """The mean over groups, each over all orders of its items; sorting keeps those that tie in that order."""
    shares: list[float] = []
    for group in groups.unique():
        items = [*zip(scores[groups == group].tolist(), labels[groups == group].tolist(), strict=True)]
        best = max(label for _, label in items)
        orders = [sorted(order, key=lambda item: -item[0])[:k] for order in permutations(items)]
        if any(label != best for _, label in items):
            shares.append(sum(any(label == best for _, label in first) for first in orders) / len(orders))
    return sum(shares) / len(shares)


@pytest.mark.parametrize("k", [1, 2, 3, 9])
def test_top_k_is_the_mean_over_all_orders_of_what_ties(k: int):
    groups = torch.arange(40).repeat_interleave(torch.arange(40) % 5 + 1)
    for _ in range(5):
        scores, labels = torch.randint(4, (2, len(groups)))
        order = torch.randperm(len(groups))
        found = top_k(k)(scores[order], labels[order], groups[order])
        assert found == pytest.approx(plain_top_k(k, scores, labels, groups))


def test_ties_count_as_chance():
    labels, groups = torch.tensor([0.2, 0.9, 0.1, 0.9]), torch.zeros(4, dtype=torch.int64)
    flat = torch.zeros(4)
    assert auc(flat, (labels > 0.5).long()) == 0.5
    assert top_k(1)(flat, labels, groups) == 0.5
    assert top_k(2)(flat, labels, groups) == pytest.approx(1 - 1 / 6)
    assert top_k(9)(flat, labels, groups) == 1.0
    assert top_k(2)(torch.tensor([1.0, 0.0, 0.0, 0.0]), labels, groups) == pytest.approx(2 / 3)


def test_labels_without_a_difference_leave_it_undefined():
    ones = torch.ones(3)
    assert math.isnan(r2(torch.randn(3), ones))
    assert math.isnan(bounded_r2(torch.randn(3), ones))
    assert math.isnan(auc(torch.randn(3), ones))
    assert math.isnan(top_k(1)(torch.randn(3), ones, torch.arange(3)))  # groups of one
    assert r2(torch.zeros(4, 2), torch.tensor([[1.0, 5.0], [-1.0, 5.0]]).repeat(2, 1)) == 0.0  # one output left


def test_in_a_label_curve_r2_is_at_least_minus_1():
    y = torch.tensor([0.0, 1.0])
    assert r2(y + 10, y) < -100
    assert bounded_r2(y + 10, y) == -1.0
    assert bounded_r2(y, y) == 1.0
