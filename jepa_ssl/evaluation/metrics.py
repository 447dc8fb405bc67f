"""Metrics of predictions. Larger is better; NaN means that the test labels leave the metric undefined."""

from collections.abc import Callable
from math import comb
from typing import TypeAlias

import torch
from torch import Tensor

from jepa_ssl.evaluation.typed import as_list, midranks, unique
from jepa_ssl.segments import group_sums

Metric: TypeAlias = Callable[[Tensor, Tensor, Tensor], float]
"""`(predictions, labels, groups [items]) -> float`, where larger is better. For an error, return its negative."""


def r2(predictions: Tensor, labels: Tensor, groups: Tensor | None = None) -> float:
    """Share of the variance of the labels that is explained: `[items]` or `[items, outputs]`.

    Returns the mean over the outputs, without those whose labels are all equal; NaN if none is left.

    >>> import torch
    >>> r2(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0])), r2(torch.ones(2), torch.ones(2))
    (1.0, nan)
    """
    y = labels.double().reshape(len(labels), -1)
    error = (predictions.double().reshape(y.shape) - y).square().sum(0)
    total = (y - y.mean(0)).square().sum(0)
    # Compare the labels themselves: the variance of equal numbers is not exactly 0.
    varies = (y != y[:1]).any(0)
    return (1.0 - error[varies] / total[varies]).mean().item()


def auc(predictions: Tensor, labels: Tensor, groups: Tensor | None = None) -> float:
    """Probability that an item labelled 1 scores above one labelled 0: two `[items]`. A tie counts one half.

    Returns NaN if one of the two labels is missing.

    >>> import torch
    >>> auc(torch.tensor([0.1, 0.9, 0.5, 0.5]), torch.tensor([0, 1, 0, 1]))
    0.875
    """
    rank, positive = midranks(predictions), labels > 0.5
    p, n = int(positive.sum()), int((~positive).sum())
    return (rank[positive].sum().item() - p * (p + 1) / 2) / (p * n) if p and n else float("nan")


def accuracy(predictions: Tensor, labels: Tensor, groups: Tensor | None = None) -> float:
    """Share of items whose class, 0 or 1, is right: probabilities of class 1 `[items]`.

    >>> import torch
    >>> accuracy(torch.tensor([0.2, 0.9, 0.6]), torch.tensor([0, 1, 0]))
    0.6666666666666666
    """
    return ((predictions > 0.5) == (labels > 0.5)).double().mean().item()


def top_k(k: int = 1) -> Metric:
    """Make the metric "one of the k items of a group that score highest is a best one, by its label".

    It is a mean over groups, for example the branching candidates of one node. Items that tie are taken in random
    order, and the metric is the exact expectation. A group whose labels are all equal has nothing to choose and is
    left out; NaN if none is left.

    >>> import torch
    >>> scores, labels = torch.tensor([0.1, 0.9, 0.3, 0.3]), torch.tensor([0, 1, 0, 1])
    >>> top_k(1)(scores, labels, torch.tensor([0, 0, 1, 1]))
    0.75
    """

    def metric(predictions: Tensor, labels: Tensor, groups: Tensor) -> float:
        _, owner, sizes = unique(groups)
        labels = labels.double()
        highest = labels.new_zeros(len(sizes)).scatter_reduce(0, owner, labels, "amax", include_self=False)
        best = labels == highest[owner]
        order = predictions.argsort(descending=True)
        order = order[owner[order].argsort(stable=True)]  # group by group, in each from the highest score
        places = sizes.clamp(max=k)
        last = predictions[order][sizes.cumsum(0) - sizes + places - 1][owner]
        above, tied = predictions > last, predictions == last

        def count(marks: Tensor) -> Tensor:
            return group_sums(marks.long(), owner, len(sizes))

        numbers = torch.stack([count(above & best), places - count(above), count(tied), count(tied & best)], 1)
        hits = [_hit(*of_group) for of_group in as_list(numbers[count(best) < sizes])]
        return sum(hits) / len(hits) if hits else float("nan")

    return metric


def _hit(found: int, places: int, tied: int, best: int) -> float:
    """Probability that a best item is among the first: above the tied ones, or in the places left to these."""
    return 1.0 if found else 1.0 - comb(tied - best, places) / comb(tied, places)


def bounded_r2(predictions: Tensor, labels: Tensor, groups: Tensor | None = None) -> float:
    """`r2`, with -1 for everything below: one wild fit to few labels must not decide a mean over seeds."""
    found = r2(predictions, labels)
    return -1.0 if found < -1.0 else found


METRICS: dict[str, Metric] = {"r2": bounded_r2, "auc": auc, "accuracy": accuracy, "top1": top_k(1), "top5": top_k(5)}
