"""The JEPA objective: views -> embeddings -> predictions -> loss."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from jepa_ssl.checks import non_negative
from jepa_ssl.losses import cosine_loss
from jepa_ssl.monitor.movement import MovementWatch
from jepa_ssl.names import unwrapped
from jepa_ssl.prediction import check_fit, in_target_order, mean_where_hidden
from jepa_ssl.protocols import (
    AdvisingMonitor,
    ConditionalPredictor,
    Embeddings,
    Encoded,
    Encoder,
    JEPALoss,
    Monitor,
    PredictionLoss,
    Predictor,
    Regularizer,
    Setup,
    Teacher,
    ViewMaker,
    Views,
    detached,
)
from jepa_ssl.seeds import Randomness
from jepa_ssl.teachers import TargetNetwork

InstanceT = TypeVar("InstanceT")


class JEPAObjective(nn.Module, Generic[InstanceT]):
    """The JEPA loss: predict a teacher's embeddings of the whole instance from a part of it.

    The objective owns what it adds: the predictor, and the teacher's copy if there is one. The encoder is an argument
    of each call, so your model's checkpoint gains no key. Give the optimizer `jepa.parameters()` as well as your
    encoder's. Call `update` once after each optimizer step.

    The loss of a stream is the weighted mean over its hidden items (`Views.weight`). The prediction loss is the
    weighted mean over streams. A stream in which nothing is hidden contributes exactly 0. If there are several views of
    the instance (`MultiView`), the loss is the mean over them.

    In training, the processes of `torch.distributed`'s default group share one batch. The loss and its terms cover the
    items of all processes. The gradient is right after the processes' gradients are averaged, as DDP does. All must
    call with the same streams. In eval mode each process is alone.

    Args:
        views: makes the context and the target view, `EntryMasker` or `NodeMasker` for example.
        predictor: maps the context's embeddings to predictions of the target's.
        teacher: embeds the target view: `EMATeacher(encoder)`, `StopGradTeacher()`, `SharedTeacher()`,
            `TargetNetwork(...)`.
        loss: prediction loss per item; the cosine loss by default.
        stream_weights: weight of each stream, at least 0 and not all 0; equal by default.
        regularizer: added to the prediction loss, `VICReg()` or `SIGReg()` for example. It sees the encoder's side. If
            the teacher learns, it also sees the teacher's side, and the mean of the two is added.
        regularizer_weight: factor on the regulariser, at least 0.
        regularize: `"embeddings"`, or `"features"` to regularise the features that the encoder returns in `Encoded`.
            For a learned target network without features the regulariser sees the embeddings.
        condition: for a conditional predictor: maps the views to an encoding of each item of the context, stream ->
            `[items, encoding]`.
        monitor: gets each loss in training and each step: `CollapseMonitor(...)`. In a compiled step it gets no loss;
            call `monitor.observe(loss)` after the step.

    Raises:
        TypeError: `teacher` lacks `learns` or `update`.
        ValueError: a weight is negative or not finite, all stream weights are 0, or `regularize` has another value.

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
        _check_teacher(unwrapped(teacher))
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
        self._movement = MovementWatch()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "monitor" and isinstance(value, AdvisingMonitor):
            weight = 0.0 if self.regularizer is None else self.regularizer_weight
            network = isinstance(unwrapped(self.teacher), TargetNetwork)
            value.inform(Setup(weight, self.regularize == "features", network))

    def forward(
        self,
        encoder: Encoder[InstanceT],
        instance: InstanceT,
        *,
        precomputed_target: Embeddings | Encoded | None = None,
        generator: Randomness = None,
    ) -> JEPALoss:
        """Return the loss of `encoder` on a batch.

        Args:
            generator: source of all random numbers: a `torch.Generator`, `Seeds` with the names of the instances, or
                None for torch's global generator.
            precomputed_target: the encoder's output on the whole `instance`, if you have it. Your task's forward pass
                has already run the trunk, so only the projector is left to run. It saves the forward pass of a teacher
                that is the encoder itself. A teacher with its own weights ignores it.

        Raises:
            ValueError: predictions, targets and views name different streams or differ in shape. Or
                `precomputed_target` is given although the target is not the whole instance, or it lacks the gradient or
                features that a teacher that learns needs.
        """
        if self.training and torch.is_grad_enabled():
            self._movement.used = True
        made = self.views(instance, generator=generator)
        targets: list[tuple[Any, Encoded]] = []
        contexts: list[Encoded] = []
        losses: list[JEPALoss] = []
        for views in made if isinstance(made, tuple) else (made,):
            # Before the teacher: older autocast caches the weights it casts under no_grad, and would reuse them here.
            context = Encoded.of(encoder(views.context))
            told = () if self.condition is None else (self.condition(views),)
            predictions = in_target_order(self.predictor(context.embeddings, *told), views)
            # The teacher sees each target once, even if several views predict it. No dict by `id`: a compiler would
            # treat an id as a constant and recompile for each batch.
            target = next((encoded for seen, encoded in targets if seen is views.target), None)
            if target is None:
                target = self._teach(encoder, instance, views.target, precomputed_target)
                targets.append((views.target, target))
            contexts.append(context)
            losses.append(self._loss(predictions, target, views, context))
        loss = losses[0] if len(losses) == 1 else _mean(losses)
        learned = [encoded for _, encoded in targets] if self._teacher_learns else []
        loss = self._regularized(loss, [*contexts, *learned], generator)
        if self.monitor is not None and self.training and not torch.compiler.is_compiling():
            self.monitor.observe(loss)
        return loss

    def update(self, encoder: Encoder[InstanceT]) -> None:
        """Update the teacher and the monitor. Call this once after each optimizer step.

        Warns once if the encoder, the predictor or another trained part never changes: the optimizer does not have it.
        """
        unwrapped(self.teacher).update(encoder)
        if self._movement.used:
            self._movement.step(self, encoder)
        if self.monitor is not None:
            self.monitor.step()

    @property
    def _teacher_learns(self) -> bool:
        return unwrapped(self.teacher).learns

    def _teach(
        self, encoder: Encoder[InstanceT], instance: InstanceT, target: Any, precomputed: Embeddings | Encoded | None
    ) -> Encoded:
        if precomputed is None:
            return Encoded.of(self.teacher(encoder, target))
        if target is not instance:
            raise ValueError(
                f"precomputed_target is given, but the target of {type(self.views).__name__} is not the whole instance "
                f"that it was computed from; leave precomputed_target out."
            )
        if self._teacher_learns and torch.is_grad_enabled():
            self._check_learnable(Encoded.of(precomputed))
        # Building an Encoded in the lambda would break torch.compile's graph.
        return Encoded.of(self.teacher(lambda _: precomputed, target))  # pyright: ignore[reportUnknownLambdaType]

    def _check_learnable(self, precomputed: Encoded) -> None:
        if not any(z.requires_grad for z in precomputed.embeddings.values()):
            raise ValueError(
                f"precomputed_target carries no gradient, but {type(self.teacher).__name__} learns through it; compute "
                f"it outside torch.no_grad()."
            )
        if self.regularizer is not None and self.regularize == "features" and not precomputed.features:
            raise ValueError(
                "precomputed_target has no features, but the regulariser needs them on this side too; give "
                "precomputed_target=Encoded(embeddings, features), as the encoder returns it."
            )

    def _loss(self, predictions: Embeddings, target: Encoded, views: Views[Any, Any], context: Encoded) -> JEPALoss:
        check_fit(predictions, target.embeddings, views)
        terms = mean_where_hidden(self.loss, predictions, target, views, self.training)
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

    def _regularized(self, loss: JEPALoss, sides: list[Encoded], generator: Randomness) -> JEPALoss:
        """Add the regulariser to `loss`: its mean over the sides that gradients flow through."""
        if self.regularizer is None or not self.regularizer_weight:
            return loss
        values = [
            self.regularizer(self._to_regularize(side, side is sides[0]), valid=side.valid, generator=generator)
            for side in sides
        ]
        term = torch.stack(values).mean()
        both = loss.total + self.regularizer_weight * term
        terms = {"prediction": loss.total.detach(), "regularizer": term.detach()}
        return replace(loss, total=both, terms={**loss.terms, **terms, "total": both.detach()})

    def _to_regularize(self, encoded: Encoded, is_encoder: bool) -> Embeddings:
        if self.regularize == "embeddings" or not (encoded.features or is_encoder):
            return encoded.embeddings
        if encoded.features.keys() != encoded.embeddings.keys():
            raise ValueError(
                f"regularize is 'features', but the encoder returns features of {sorted(encoded.features)} and "
                f"embeddings of {sorted(encoded.embeddings)}; let it return Encoded(embeddings, features) with the "
                f"same streams, or regularize the 'embeddings'."
            )
        return encoded.features


def _check_teacher(teacher: object) -> None:
    if isinstance(teacher, Teacher):
        return
    lacking = [name for name in ("learns", "update") if not hasattr(teacher, name)]
    raise TypeError(
        f"teacher is a {type(teacher).__name__}, which lacks {lacking}, but must be a Teacher; give it the method "
        f"update(encoder), and learns = True if gradients flow through its targets, else learns = False."
    )


def _checked(weights: Mapping[str, float] | None) -> dict[str, float] | None:
    if weights is None:
        return None
    checked = {stream: non_negative(f"stream_weights[{stream!r}]", weight) for stream, weight in weights.items()}
    if not any(checked.values()):
        raise ValueError(f"stream_weights is {dict(weights)}, but one of them must be above 0; or use None.")
    return checked


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
