"""The JEPA objective: views -> embeddings -> predictions -> loss."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import reduce
from typing import Any, Generic, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from jepa_ssl.checks import non_negative
from jepa_ssl.losses import cosine_loss
from jepa_ssl.maskers import Seeds
from jepa_ssl.names import unwrapped
from jepa_ssl.processes import all_reduce_sum
from jepa_ssl.protocols import (
    ConditionalPredictor,
    Embeddings,
    Encoded,
    Encoder,
    JEPALoss,
    Monitor,
    PredictionLoss,
    Predictor,
    Regularizer,
    Teacher,
    ViewMaker,
    Views,
    detached,
)

InstanceT = TypeVar("InstanceT")


class JEPAObjective(nn.Module, Generic[InstanceT]):
    """One more term for a loss you have: predict, in embedding space, what a teacher sees on the whole instance.

    The objective owns what it adds, the predictor and the teacher's copy if it has one. The encoder is borrowed at
    each call, so your model's checkpoint gains no key. Give the optimizer `jepa.parameters()` beside your encoder's,
    and call `update` once after each optimizer step.

    The loss of a stream is the weighted mean over its hidden items (`Views.weight`); the prediction loss is the
    weighted mean over streams. A stream in which nothing is hidden contributes exactly 0. Of several views of the
    instance (`MultiView`) the loss is the mean.

    Several processes (`torch.distributed`, its default group) see one batch together in training: the loss and its
    terms are those of all their items, the same everywhere, and the gradient is right once the processes' gradients
    have been averaged, as DDP does. All must call with the same streams. In eval mode each is alone.

    Args:
        views: makes the context and the target view, `EntryMasker` or `NodeMasker` for example.
        predictor: from the context's embeddings to predictions of the target's.
        teacher: embeds the target view: `EMATeacher(encoder)`, `StopGradTeacher()`, `SharedTeacher()`,
            `TargetNetwork(...)`.
        loss: prediction loss of each item; the cosine loss by default.
        stream_weights: how much each stream counts, at least 0 and not all 0; by default all count alike.
        regularizer: added to the prediction loss, `VICReg()` or `SIGReg()` for example. It is taken on the encoder's
            side, and as a mean with the teacher's side where gradients flow through that one too.
        regularizer_weight: what the regulariser counts, at least 0.
        regularize: whether it sees the embeddings, or the features that the encoder names in `Encoded`; of a learned
            target network that names none it sees the embeddings either way.
        condition: from the views to what a conditional predictor is told of each item of the context, beside its
            embedding: stream -> `[items, encoding]`.
        monitor: is shown each loss in training, and told of each step: `CollapseMonitor(...)`. A compiled step does not
            show it; call `monitor.observe(loss)` behind it.

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
        predictor: Predictor | ConditionalPredictor,
        teacher: Teacher,
        loss: PredictionLoss = cosine_loss,
        *,
        stream_weights: Mapping[str, float] | None = None,
        regularizer: Regularizer | None = None,
        regularizer_weight: float = 1.0,
        regularize: Literal["embeddings", "features"] = "embeddings",
        condition: Callable[[Views[Any, Any]], Embeddings] | None = None,
        monitor: Monitor | None = None,
    ) -> None:
        super().__init__()
        if regularize not in ("embeddings", "features"):
            raise ValueError(f"regularize is {regularize!r}, but must be 'embeddings' or 'features'.")
        self.views = views
        self.predictor: Callable[..., Embeddings] = predictor
        self.teacher = teacher
        self.loss = loss
        self.stream_weights = _checked(stream_weights)
        self.regularizer = regularizer
        self.regularizer_weight = non_negative("regularizer_weight", regularizer_weight)
        self.regularize = regularize
        self.condition = condition
        self.monitor = monitor

    def forward(
        self,
        encoder: Encoder[InstanceT],
        instance: InstanceT,
        *,
        whole: Embeddings | Encoded | None = None,
        generator: torch.Generator | None = None,
        seeds: Seeds | None = None,
    ) -> JEPALoss:
        """The loss of `encoder` on a batch; `generator` decides all that is drawn.

        Args:
            seeds: names of the instances, to decide in the generator's place what is hidden of each.
            whole: what the encoder makes of `instance` as it is, if you have it: your task's forward pass has already
                run the trunk on it, so give its features to the projector alone. A teacher that is the encoder itself
                then saves its pass. Of no use to a teacher with weights of its own.

        Raises:
            ValueError: predictions, targets and views do not name the same streams, or differ in shape; `whole` is
                given, but the target is not the instance as it is, or lacks what a teacher needs that learns from it.
        """
        # Not every view maker takes Seeds; one that does not says so itself.
        drawn_by = generator if seeds is None else cast(torch.Generator, seeds)
        made = self.views(instance, generator=drawn_by)
        targets: list[tuple[Any, Encoded]] = []
        contexts: list[Encoded] = []
        losses: list[JEPALoss] = []
        for views in made if isinstance(made, tuple) else (made,):
            # Before the teacher: older autocast would keep the weights it cast without gradient, and use them here.
            context = Encoded.of(encoder(views.context))
            predictions = _in_target_order(self._predict(context.embeddings, views), views)
            # The teacher sees each target once, however many views predict it. No key by `id`: a compiler would take it
            # for a constant, and compile anew for each batch.
            target = next((encoded for seen, encoded in targets if seen is views.target), None)
            if target is None:
                target = self._teach(encoder, instance, views.target, whole)
                targets.append((views.target, target))
            contexts.append(context)
            losses.append(self._loss(predictions, target, views, context))
        loss = losses[0] if len(losses) == 1 else _mean(losses)
        learned = [encoded for _, encoded in targets] if self._teacher_learns else []
        loss = self._regularized(loss, [*contexts, *learned], generator)
        if self.monitor is not None and self.training and not torch.compiler.is_compiling():
            self.monitor.observe(loss)
        return loss

    def _predict(self, embeddings: Embeddings, views: Views[Any, Any]) -> Embeddings:
        return self.predictor(embeddings, *(() if self.condition is None else (self.condition(views),)))

    def _teach(
        self, encoder: Encoder[InstanceT], instance: InstanceT, target: Any, whole: Embeddings | Encoded | None
    ) -> Encoded:
        if whole is None:
            return Encoded.of(self.teacher(encoder, target))
        if target is not instance:
            raise ValueError(
                f"whole is given, but the target of {type(self.views).__name__} is not the instance as it is, of which "
                f"those are the embeddings; leave whole out."
            )
        given = Encoded.of(whole)
        if self._teacher_learns and torch.is_grad_enabled():
            if not any(z.requires_grad for z in given.embeddings.values()):
                raise ValueError(
                    f"whole carries no gradient, but {type(self.teacher).__name__} learns through it; compute it "
                    f"outside torch.no_grad()."
                )
            if self.regularizer is not None and self.regularize == "features" and not given.features:
                raise ValueError(
                    "whole names no features, but they are regularised on this side too; give "
                    "whole=Encoded(embeddings, features), as the encoder returns it."
                )

        def encoded(_: Any) -> Any:  # a type that is put together here would break torch.compile's graph
            return whole

        return Encoded.of(self.teacher(encoded, target))

    @property
    def _teacher_learns(self) -> bool:
        return getattr(unwrapped(self.teacher), "learns", False)

    def _loss(self, predictions: Embeddings, target: Encoded, views: Views[Any, Any], context: Encoded) -> JEPALoss:
        _check(predictions, target.embeddings, views)
        streams = sorted(predictions)  # in one order on all processes, which add up their sums
        sums = torch.stack(
            [
                _sum_where(
                    self.loss,
                    predictions[stream],
                    target.embeddings[stream],
                    (views.hidden.get(stream), views.weight.get(stream), target.valid.get(stream)),
                )
                for stream in streams
            ]
        )
        weighed, counts = all_reduce_sum(sums, self.training).unbind(dim=1)
        # Nothing hidden is 0 / tiny = 0, not NaN.
        means = weighed / counts.clamp(min=torch.finfo(counts.dtype).tiny)
        terms = dict(zip(streams, means.unbind(), strict=True))
        mean = self._mean_over_streams(terms)
        return JEPALoss(
            total=mean,
            terms={"total": mean.detach()} | {f"prediction/{stream}": term.detach() for stream, term in terms.items()},
            predictions=detached(predictions),
            targets=detached(target.embeddings),
            context=context.detach(),
        )

    def _mean_over_streams(self, terms: Mapping[str, Tensor]) -> Tensor:
        if self.stream_weights is None:
            return torch.stack(list(terms.values())).mean()
        if self.stream_weights.keys() != terms.keys():
            raise ValueError(
                f"stream_weights names the streams {sorted(self.stream_weights)}, but the encoder returns "
                f"{sorted(terms)}; give each of them a weight, 0 to leave it out."
            )
        weighted = [weight * terms[stream] for stream, weight in self.stream_weights.items() if weight]
        return torch.stack(weighted).sum() / sum(self.stream_weights.values())

    def _regularized(self, loss: JEPALoss, sides: list[Encoded], generator: torch.Generator | None) -> JEPALoss:
        """`loss` and the regulariser, which is the mean over the sides that gradients flow through."""
        if self.regularizer is None or not self.regularizer_weight:
            return loss
        values: list[Tensor] = []
        for encoded in sides:
            seen = encoded.embeddings
            # A target network has a trunk of its own, whose features are its own affair.
            if self.regularize == "features" and (encoded.features or encoded is sides[0]):
                seen = encoded.features
                if seen.keys() != encoded.embeddings.keys():
                    raise ValueError(
                        f"regularize is 'features', but the encoder names features of {sorted(seen)} for embeddings of "
                        f"{sorted(encoded.embeddings)}; let it return Encoded(embeddings, features) with the same "
                        f"streams, or regularize the 'embeddings'."
                    )
            values.append(self.regularizer(seen, valid=encoded.valid, generator=generator))
        term = torch.stack(values).mean()
        both = loss.total + self.regularizer_weight * term
        terms = {"prediction": loss.total.detach(), "regularizer": term.detach()}
        return replace(loss, total=both, terms={**loss.terms, **terms, "total": both.detach()})

    def update(self, encoder: Encoder[InstanceT]) -> None:
        """Moves the teacher; once per optimizer step, after it."""
        unwrapped(self.teacher).update(encoder)
        if self.monitor is not None:
            self.monitor.step()


def _checked(weights: Mapping[str, float] | None) -> dict[str, float] | None:
    if weights is None:
        return None
    checked = {stream: non_negative(f"stream_weights[{stream!r}]", weight) for stream, weight in weights.items()}
    if not any(checked.values()):
        raise ValueError(f"stream_weights is {dict(weights)}, but one of them must be above 0; or use None.")
    return checked


def _in_target_order(predictions: Embeddings, views: Views[Any, Any]) -> Embeddings:
    """Symmetries move items, or add some that the target lacks; an embedding of the whole instance stays."""
    for stream, places in views.items.items():
        if places.ndim != 1 or places.dtype != torch.int64:
            raise ValueError(
                f"stream {stream!r}: items is {places.dtype} {list(places.shape)}, but must be int64 [items], where in "
                f"the context each item of the target stands."
            )
    return {
        stream: prediction.index_select(0, views.items[stream]) if stream in views.items else prediction
        for stream, prediction in predictions.items()
    }


def _sum_where(loss: PredictionLoss, prediction: Tensor, target: Tensor, marks: tuple[Tensor | None, ...]) -> Tensor:
    """The sum of the losses, each counting by the product of its marks, and the sum of what they count: `[2]`."""
    given = [mark for mark in marks if mark is not None]
    if not given:
        losses = loss(prediction, target)
        losses = losses.to(torch.promote_types(losses.dtype, torch.float32))  # a float16 sum overflows at 65504
        return torch.stack((losses.sum(), torch.ones_like(losses).sum()))
    count = reduce(torch.mul, given)
    counted = count > 0
    losses = loss(_learning_where(counted, prediction), _learning_where(counted, target))
    counts = count.to(torch.promote_types(torch.promote_types(losses.dtype, torch.float32), count.dtype))
    weighed = torch.where(counted, losses * counts, 0.0)  # no boolean indexing, which would wait for the device
    return torch.stack((weighed.sum(), counts.sum()))


def _learning_where(counted: Tensor, z: Tensor) -> Tensor:
    """`z`, with gradient where it counts alone: elsewhere that of a loss which overflows is 0 * inf, and NaN."""
    return torch.where(counted.unsqueeze(-1), z, z.detach()) if z.requires_grad else z


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
                f"projector{', and the length of items' if stream in views.items else ''}."
            )
    marks: tuple[tuple[str, Mapping[str, Tensor | None]], ...] = (("hidden", views.hidden), ("weight", views.weight))
    for name, per_stream in marks:
        for stream, mark in per_stream.items():
            if stream not in predictions:
                # A symmetry weighs and moves rows and columns whether or not the encoder has a stream for them.
                if name == "weight" and stream not in views.hidden:
                    continue
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
    terms = _collected([loss.terms for loss in losses])
    return JEPALoss(
        total=torch.stack([loss.total for loss in losses]).mean(),
        terms={name: torch.stack(values).mean() for name, values in terms.items()},
        predictions=_joined([loss.predictions for loss in losses]),
        targets=_joined([loss.targets for loss in losses]),
        context=Encoded(
            _joined([loss.context.embeddings for loss in losses]),
            _joined([loss.context.features for loss in losses]),
            _joined([loss.context.valid for loss in losses]),
        ),
    )


def _joined(parts: list[Embeddings]) -> dict[str, Tensor]:
    return {stream: torch.cat(z) for stream, z in _collected(parts).items()}


def _collected(parts: list[Embeddings]) -> dict[str, list[Tensor]]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: [part[name] for part in parts if name in part] for name in names}
