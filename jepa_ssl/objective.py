"""The JEPA objective: views -> embeddings -> predictions -> loss."""

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from jepa_ssl.losses import cosine_loss
from jepa_ssl.protocols import Embeddings, Encoder, JEPALoss, PredictionLoss, Predictor, Teacher, ViewMaker, Views

InstanceT = TypeVar("InstanceT")


class JEPAObjective(nn.Module, Generic[InstanceT]):
    """One more term for a loss you have: predict, in embedding space, what a teacher sees on the whole instance.

    The objective owns what it adds, the predictor and the teacher's copy if it has one. The encoder is borrowed at
    each call, so your model's checkpoint gains no key. Give the optimizer `jepa.parameters()` beside your encoder's,
    and call `update` once after each optimizer step.

    The loss of a stream is the weighted mean over its hidden items (`Views.weight`); the total is the mean over
    streams. A stream in which nothing is hidden contributes exactly 0. Of several views of the instance (`MultiView`)
    the loss is the mean.

    Args:
        views: makes the context and the target view, `EntryMasker` or `NodeMasker` for example.
        predictor: from the context's embeddings to predictions of the target's.
        teacher: embeds the target view: `EMATeacher(encoder)`, `StopGradTeacher()`.
        loss: prediction loss of each item; the cosine loss by default.

    >>> from jepa_ssl import EntryMasker, MLPPredictor, StopGradTeacher
    >>> trunk = nn.Linear(6, 8)
    >>> encoder = lambda flat: {"instance": trunk(flat)}
    >>> jepa = JEPAObjective(EntryMasker(0.5), MLPPredictor({"instance": 8}), StopGradTeacher())
    >>> jepa(encoder, torch.randn(4, 6)).total.backward()
    >>> trunk.weight.grad.shape
    torch.Size([8, 6])
    """

    def __init__(
        self,
        views: ViewMaker[InstanceT],
        predictor: Predictor,
        teacher: Teacher,
        loss: PredictionLoss = cosine_loss,
    ) -> None:
        super().__init__()
        self.views = views
        self.predictor = predictor
        self.teacher = teacher
        self.loss = loss

    def forward(
        self, encoder: Encoder[InstanceT], instance: InstanceT, *, generator: torch.Generator | None = None
    ) -> JEPALoss:
        """The loss of `encoder` on a batch; `generator` decides what is hidden.

        Raises:
            ValueError: predictions, targets and views do not name the same streams, or differ in shape.
        """
        made = self.views(instance, generator=generator)
        targets: dict[int, Embeddings] = {}
        losses: list[JEPALoss] = []
        for views in made if isinstance(made, tuple) else (made,):
            # Before the teacher: older autocast would keep the weights it cast without gradient, and use them here.
            predictions = _in_target_order(self.predictor(encoder(views.context)), views)
            if id(views.target) not in targets:  # the teacher sees each target once, however many views predict it
                targets[id(views.target)] = self.teacher(encoder, views.target)
            losses.append(self._loss(predictions, targets[id(views.target)], views))
        return losses[0] if len(losses) == 1 else _mean(losses)

    def _loss(self, predictions: Embeddings, targets: Embeddings, views: Views[Any, Any]) -> JEPALoss:
        _check(predictions, targets, views)
        terms = {
            stream: _mean_where_hidden(self.loss(prediction, targets[stream]), stream, views)
            for stream, prediction in predictions.items()
        }
        total = torch.stack(list(terms.values())).mean()
        return JEPALoss(
            total=total,
            terms={"total": total.detach()} | {f"prediction/{stream}": term.detach() for stream, term in terms.items()},
            predictions=_detached(predictions),
            targets=_detached(targets),
        )

    def update(self, encoder: Encoder[InstanceT]) -> None:
        """Moves the teacher; once per optimizer step, after it."""
        self.teacher.update(encoder)


def _in_target_order(predictions: Embeddings, views: Views[Any, Any]) -> Embeddings:
    """Symmetries move items, or add some that the target lacks; an embedding of the whole instance stays."""
    return {
        stream: prediction.index_select(0, views.items[stream]) if stream in views.items else prediction
        for stream, prediction in predictions.items()
    }


def _mean_where_hidden(losses: Tensor, stream: str, views: Views[Any, Any]) -> Tensor:
    # In float32 at least, for a float16 sum overflows at 65504.
    counts = torch.ones_like(losses, dtype=torch.promote_types(losses.dtype, torch.float32))
    for mark in (views.hidden.get(stream), views.weight.get(stream)):
        if mark is not None:
            counts = counts * mark
    # No boolean indexing, which would wait for the device; and nothing hidden is 0 / tiny = 0, not NaN.
    return (losses * counts).sum() / counts.sum().clamp(min=torch.finfo(counts.dtype).tiny)


def _check(predictions: Embeddings, targets: Embeddings, views: Views[Any, Any]) -> None:
    if predictions.keys() != targets.keys():
        raise ValueError(
            f"the predictor returns the streams {sorted(predictions)}, but the teacher {sorted(targets)}; "
            f"both must name the same ones, as the encoder does."
        )
    for stream, prediction in predictions.items():
        if prediction.ndim != 2 or prediction.shape != targets[stream].shape:
            raise ValueError(
                f"stream {stream!r}: predictions are {list(prediction.shape)} and targets "
                f"{list(targets[stream].shape)}, but both must be [items, dim]; check the sizes of predictor and "
                f"projector."
            )
    marks: tuple[tuple[str, Mapping[str, Tensor | None]], ...] = (("hidden", views.hidden), ("weight", views.weight))
    for name, per_stream in marks:
        for stream, mark in per_stream.items():
            if stream not in predictions:
                raise ValueError(
                    f"the views name the stream {stream!r} in {name}, but the encoder returns {sorted(predictions)}; "
                    f"name the streams of the encoder as the masker does."
                )
            if mark is not None and mark.shape != predictions[stream].shape[:1]:
                raise ValueError(
                    f"stream {stream!r}: {name} is {list(mark.shape)}, but the encoder returns "
                    f"{predictions[stream].size(0)} items; give one embedding for each item of the instance."
                )


def _mean(losses: list[JEPALoss]) -> JEPALoss:
    if not losses:
        raise ValueError("the view maker returned no views; return Views, or a tuple of at least one.")

    def collected(of_one: Callable[[JEPALoss], Mapping[str, Tensor]]) -> dict[str, list[Tensor]]:
        names = dict.fromkeys(name for loss in losses for name in of_one(loss))
        return {name: [of_one(loss)[name] for loss in losses if name in of_one(loss)] for name in names}

    return JEPALoss(
        total=torch.stack([loss.total for loss in losses]).mean(),
        terms={name: torch.stack(values).mean() for name, values in collected(lambda loss: loss.terms).items()},
        predictions={stream: torch.cat(z) for stream, z in collected(lambda loss: loss.predictions).items()},
        targets={stream: torch.cat(z) for stream, z in collected(lambda loss: loss.targets).items()},
    )


def _detached(embeddings: Embeddings) -> dict[str, Tensor]:
    return {stream: z.detach() for stream, z in embeddings.items()}
