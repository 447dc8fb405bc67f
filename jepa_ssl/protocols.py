"""The protocols of views, encoders, teachers, losses and monitors. No class has to inherit from them.

`generator` is always a `jepa_ssl.seeds.Randomness`: a `torch.Generator`, `Seeds`, or None for torch's global generator.
Its type here is `Any` because your own class may accept fewer types.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

from torch import Tensor

Embeddings = Mapping[str, Tensor]
"""Stream -> `[items, dim]`. A flat instance has the stream `"instance"`; a bipartite graph has `"constraint"`
and `"variable"`."""

INSTANCE, CONSTRAINT, VARIABLE = "instance", "constraint", "variable"
EDGE = "edge"  # has features, which can be hidden, but no embedding

ContextT = TypeVar("ContextT")
TargetT = TypeVar("TargetT")
InstanceT_contra = TypeVar("InstanceT_contra", contravariant=True)


def _nothing() -> dict[str, Any]:
    return {}  # torch.compile traces this, but not dict[str, Any]()


# ---- values ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Views(Generic[ContextT, TargetT]):
    """Two views of a batch: the encoder sees `context`, the teacher sees `target`, and `hidden` marks the difference.

    `hidden[stream]` is a bool tensor `[items]`, True where the context lost the item. The prediction loss is taken on
    these items only. `None` means every item. An empty `hidden` means every item of every stream; otherwise it names
    every stream that the encoder returns. `weight[stream]`, float `[items]`, is the weight of each item in the loss, 0
    where nothing is hidden. Without it all hidden items count equally. Graph maskers give each graph a total weight of
    1, so large and small graphs count equally.

    All of these follow the order of the target's items. `items[stream]` is an int64 tensor `[items]`: the place in the
    context of each item of the target. Without it the places are the same in both, as after every masker.
    """

    context: ContextT
    target: TargetT
    hidden: Mapping[str, Tensor | None] = field(default_factory=_nothing)
    weight: Mapping[str, Tensor] = field(default_factory=_nothing)
    items: Mapping[str, Tensor] = field(default_factory=_nothing)


@dataclass(frozen=True)
class Encoded:
    """Embeddings, the features that they were computed from, and the mask of real items.

    An encoder may return this instead of plain embeddings. `features[stream]`, `[items, width]`, is the input of
    projector and normalisation. A regulariser can be applied to it, and a collapse in scale is visible only there.
    `valid[stream]` is a bool tensor `[items]`, False on padding, which no statistic counts. Without it all items are
    real.
    """

    embeddings: Embeddings
    features: Embeddings = field(default_factory=_nothing)
    valid: Mapping[str, Tensor] = field(default_factory=_nothing)

    @staticmethod
    def of(encoded: "Embeddings | Encoded") -> "Encoded":
        return encoded if isinstance(encoded, Encoded) else Encoded(encoded)

    def detach(self) -> "Encoded":
        return Encoded(detached(self.embeddings), detached(self.features), self.valid)


def detached(embeddings: Embeddings) -> dict[str, Tensor]:
    """Detach all embeddings."""
    return {stream: z.detach() for stream, z in embeddings.items()}


@dataclass(frozen=True)
class JEPALoss:
    """What `JEPAObjective` returns. Only `total` carries a gradient. Nothing has been copied to the host.

    If the view maker made several views, their embeddings are concatenated, view by view.
    """

    total: Tensor  # scalar
    terms: Mapping[str, Tensor]  # detached scalars, by name
    predictions: Embeddings  # detached
    targets: Embeddings  # detached
    context: Encoded  # of the context view; detached


# ---- views -------------------------------------------------------------------------------------------------


class ViewMaker(Protocol[InstanceT_contra]):
    """Make the two views of a batch of instances, or a tuple of several such pairs. All maskers are view makers.

    A view maker never sees a model.
    """

    def __call__(
        self, instance: InstanceT_contra, *, generator: Any = None
    ) -> Views[Any, Any] | tuple[Views[Any, Any], ...]: ...


@runtime_checkable
class FittedViews(Protocol):
    """A view maker that computes statistics of training batches before the first step, such as `SolverState`."""

    def fit(self, instances: Iterable[Any], /) -> Any: ...


class Fill(Protocol):
    """Replace hidden values: return `values` with other content where `hidden` is True, without writing to `values`.

    `hidden` is a bool tensor that broadcasts to `values`. `stream` is the stream of the values: `"instance"`, a kind of
    node, or `"edge"`. `others()` returns a tensor like `values` in which each item is replaced by another real item of
    the same instance, drawn uniformly. `noise()` returns standard normal numbers in the same shape. Both draw from
    `generator` when they are called.
    """

    def __call__(
        self,
        values: Tensor,
        hidden: Tensor,
        /,
        *,
        stream: str,
        generator: Any,
        others: Callable[[], Tensor],
        noise: Callable[[], Tensor],
    ) -> Tensor: ...


# ---- encoders and predictors -------------------------------------------------------------------------------


class Encoder(Protocol[InstanceT_contra]):
    """Embed a batch of instances: usually your trunk with a projector into the embedding space."""

    def __call__(self, instance: InstanceT_contra, /) -> Embeddings | Encoded: ...


@runtime_checkable
class SizedEncoder(Encoder[InstanceT_contra], Protocol[InstanceT_contra]):
    """An encoder with a `dims` property, from which a predictor can be built; `ModelEncoder`, for example."""

    @property
    def dims(self) -> Mapping[str, int]:
        """Stream -> size of the embedding."""
        ...


class Predictor(Protocol):
    """Predict the teacher's embeddings from the encoder's. Runs on the online branch only."""

    def __call__(self, embeddings: Embeddings, /) -> Embeddings: ...


class ConditionalPredictor(Protocol):
    """A predictor that also takes a condition for each item: stream -> `[items, encoding]`."""

    def __call__(self, embeddings: Embeddings, condition: Embeddings, /) -> Embeddings: ...


# ---- teachers ----------------------------------------------------------------------------------------------


@runtime_checkable
class Teacher(Protocol):
    """Embed the target view. A teacher changes only in `update` and never sees a mask."""

    @property
    def learns(self) -> bool:
        """Whether gradients flow through its targets; then the regulariser sees them too. `learns = False` suffices."""
        ...

    def __call__(self, encoder: Any, target: Any, /) -> Embeddings | Encoded: ...

    def update(self, encoder: Any, /) -> None:
        """Follow the encoder; called once after each optimizer step."""
        ...


@runtime_checkable
class RestartableTeacher(Teacher, Protocol):
    """A teacher that can start again from its encoder; `EMATeacher`, for example."""

    def restart(self, encoder: Any, /) -> None:
        """Become a copy of the current encoder."""
        ...


# ---- losses ------------------------------------------------------------------------------------------------


class PredictionLoss(Protocol):
    """Compare predictions with targets: `(predictions [items, dim], targets [items, dim]) -> [items]`."""

    def __call__(self, predictions: Tensor, targets: Tensor, /) -> Tensor: ...


class Regularizer(Protocol):
    """Penalise embeddings that collapse: stream -> `[items, dim]` to a scalar that is small if they spread out.

    `valid[stream]`, bool `[items]`, is False on padding. All random numbers come from `generator`.
    """

    def __call__(self, embeddings: Embeddings, /, *, valid: Mapping[str, Tensor], generator: Any = None) -> Tensor: ...


class Monitor(Protocol):
    """Watch training and warn of a collapse; `CollapseMonitor`, for example."""

    def observe(self, loss: JEPALoss, /) -> None:
        """Take the loss of a forward pass in training."""
        ...

    def step(self) -> None:
        """Count an optimizer step."""
        ...


class Setup(NamedTuple):
    """The measures against collapse that an objective already has."""

    regularizer_weight: float = 0.0  # 0 without a regulariser
    regularizes_features: bool = False
    has_target_network: bool = False


@runtime_checkable
class AdvisingMonitor(Monitor, Protocol):
    """A monitor whose warnings give advice. It is told what the objective already does against collapse."""

    def inform(self, setup: Setup, /) -> None: ...
