"""The prediction loss of each stream: the weighted mean over its hidden items."""

from collections.abc import Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from jepa_ssl.checks import check_pairs, describe
from jepa_ssl.processes import all_reduce_sum
from jepa_ssl.protocols import Embeddings, Encoded, PredictionLoss, Views


def mean_where_hidden(
    loss: PredictionLoss, predictions: Embeddings, target: Encoded, views: Views[Any, Any], training: bool
) -> dict[str, Tensor]:
    """Mean of `loss` over the hidden, real items of each stream, weighted by `Views.weight`; 0 if there are none.

    In training the mean is over the items of all processes.
    """
    streams = sorted(predictions)  # the same order on all processes, which add their sums
    sums = torch.stack(
        [
            _sum_where(
                loss,
                predictions[stream],
                target.embeddings[stream],
                (views.hidden.get(stream), views.weight.get(stream), target.valid.get(stream)),
            )
            for stream in streams
        ]
    )
    weighed, counts = all_reduce_sum(sums, training).unbind(dim=1)
    # Where nothing is hidden this is 0 / tiny = 0, not NaN.
    means = weighed / counts.clamp(min=torch.finfo(counts.dtype).tiny)
    return dict(zip(streams, means.unbind(), strict=True))


def _sum_where(loss: PredictionLoss, prediction: Tensor, target: Tensor, marks: tuple[Tensor | None, ...]) -> Tensor:
    """Sum of the losses, each times the product of its marks, and sum of these products: `[2]`."""
    given = [mark for mark in marks if mark is not None]
    if not given:
        losses = loss(prediction, target)
        losses = losses.to(torch.promote_types(losses.dtype, torch.float32))  # a float16 sum overflows at 65504
        return torch.stack((losses.sum(), torch.ones_like(losses).sum()))
    count = reduce(torch.mul, given)
    counted = count > 0
    losses = loss(_learning_where(counted, prediction), _learning_where(counted, target))
    counts = count.to(torch.promote_types(torch.promote_types(losses.dtype, torch.float32), count.dtype))
    weighed = torch.where(counted, losses * counts, 0.0)  # boolean indexing would wait for the device
    return torch.stack((weighed.sum(), counts.sum()))


def _learning_where(counted: Tensor, z: Tensor) -> Tensor:
    """`z` with gradient only where it counts; elsewhere a loss that overflows would have the gradient 0 * inf = NaN."""
    return torch.where(counted.unsqueeze(-1), z, z.detach()) if z.requires_grad else z


def in_target_order(predictions: Embeddings, views: Views[Any, Any]) -> Embeddings:
    """Order the predictions like the target's items. A stream that `Views.items` does not name stays as it is."""
    for stream, places in views.items.items():
        if places.ndim != 1 or places.dtype != torch.int64:
            raise ValueError(
                f"items[{stream!r}] is {describe(places)}, but must be int64 [items]; give the place in the context "
                f"of each item of the target."
            )
    return {
        stream: prediction.index_select(0, views.items[stream]) if stream in views.items else prediction
        for stream, prediction in predictions.items()
    }


def check_fit(predictions: Embeddings, targets: Embeddings, views: Views[Any, Any]) -> None:
    """Raise a ValueError unless predictions, targets and views name the same streams, with equally many items."""
    if predictions.keys() != targets.keys():
        raise ValueError(
            f"the predictor returns the streams {sorted(predictions)}, but the teacher {sorted(targets)}; "
            f"both must name the same ones, as the encoder does."
        )
    for stream, prediction in predictions.items():
        names = f"predictions[{stream!r}]", f"targets[{stream!r}]"
        remedy = "check the sizes of predictor and projector, and the length of Views.items."
        check_pairs(names[0], prediction, names[1], targets[stream], remedy)
    marks: tuple[tuple[str, Mapping[str, Tensor | None]], ...] = (("hidden", views.hidden), ("weight", views.weight))
    for name, per_stream in marks:
        for stream, mark in per_stream.items():
            if stream not in predictions:
                # A symmetry gives weights to rows and columns even if the encoder has no stream for them.
                if name == "weight" and stream not in views.hidden:
                    continue
                raise ValueError(
                    f"the views name the stream {stream!r} in {name}, but the encoder returns {sorted(predictions)}; "
                    f"give masker and encoder the same stream names."
                )
            if mark is not None and mark.shape != predictions[stream].shape[:1]:
                raise ValueError(
                    f"{name}[{stream!r}] is {describe(mark)}, but the encoder returns {len(predictions[stream])} "
                    f"items; give one embedding for each item of the instance."
                )
    if views.hidden and (unnamed := predictions.keys() - views.hidden.keys()):
        raise ValueError(
            f"the encoder returns the streams {sorted(unnamed)}, but the views name {sorted(views.hidden)} in hidden; "
            f"name each: with a ratio of 0 in the masker to keep the stream visible, with None to predict every item."
        )
