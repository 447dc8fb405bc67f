"""The contracts between the parts. Any callable of the right shape fits; nothing has to inherit from these.

`generator` is always a `jepa_ssl.seeds.Randomness`: a `torch.Generator`, `Seeds`, or None for the global random
numbers. It is `Any` here because your own part may take less.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

from torch import Tensor

Embeddings = Mapping[str, Tensor]
"""Stream -> `[items, dim]`. A flat instance has the stream `"instance"`; a bipartite graph has `"constraint"`
and `"variable"`."""

INSTANCE, CONSTRAINT, VARIABLE = "instance", "constraint", "variable"
EDGE = "edge"  # has features, which may be hidden, but no embedding

ContextT = TypeVar("ContextT")
TargetT = TypeVar("TargetT")
InstanceT_contra = TypeVar("InstanceT_contra", contravariant=True)


def _nothing() -> dict[str, Any]:
    return {}  # torch.compile traces this, but not dict[str, Any]()


# ---- values ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Views(Generic[ContextT, TargetT]):
    """Two views of one batch of instances: what the encoder sees, what the teacher sees, and where they differ.

    `hidden[stream]` is a bool tensor `[items]`, True where the context lost the item. The prediction loss is taken
    there and only there. `None` means every item. An empty `hidden` means every item of every stream; otherwise it
    names every stream that the encoder returns. `weight[stream]`, float `[items]`, says how much each item counts, and
    is zero where nothing is hidden. Without it all hidden items count equally. Maskers of graphs give each graph the
    weight 1 in total, so that a large graph counts as much as a small one.

    All of these follow the order of the target's items. `items[stream]` is an int64 tensor `[items]`: the place of each
    of them in the context. Without it each item has the same place in both, as after every masker.
    """

    context: ContextT
    target: TargetT
    hidden: Mapping[str, Tensor | None] = field(default_factory=_nothing)
    weight: Mapping[str, Tensor] = field(default_factory=_nothing)
    items: Mapping[str, Tensor] = field(default_factory=_nothing)


@dataclass(frozen=True)
class Encoded:
    """Embeddings together with the features they were made of and the mask of real items.

    An encoder may return it instead of bare embeddings. `features[stream]` is `[items, width]`, before projector and
    normalisation: a regulariser may be applied there, and only there does a collapse in scale show. `valid[stream]` is
    a bool tensor `[items]`, False on padding, which no statistic counts; without it all items are real.
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
    """The same embeddings without gradient."""
    return {stream: z.detach() for stream, z in embeddings.items()}


@dataclass(frozen=True)
class JEPALoss:
    """What `JEPAObjective` returns. Only `total` carries a gradient; nothing here has been copied to the host.

    If the view maker made several views, the embeddings are those of all of them, one view after the other.
    """

    total: Tensor  # scalar
    terms: Mapping[str, Tensor]  # detached scalars, by name
    predictions: Embeddings  # detached
    targets: Embeddings  # detached
    context: Encoded  # what the encoder made of the context view; detached


# ---- views -------------------------------------------------------------------------------------------------


class ViewMaker(Protocol[InstanceT_contra]):
    """Makes the two views of a batch of instances, or a tuple of several such pairs: a masker, for example.

    It never sees a model.
    """

    def __call__(
        self, instance: InstanceT_contra, *, generator: Any = None
    ) -> Views[Any, Any] | tuple[Views[Any, Any], ...]: ...


@runtime_checkable
class FittedViews(Protocol):
    """A view maker that takes statistics of training batches before the first step: `SolverState` for example."""

    def fit(self, instances: Iterable[Any], /) -> Any: ...


class Fill(Protocol):
    """Replaces hidden values: returns `values` with other content where `hidden` is True, and does not write to it.

    `hidden` is a bool tensor that broadcasts to `values`. `stream` says whose values they are: `"instance"`, a kind of
    node, or `"edge"`. `others()` returns a tensor like `values` with another real item of the same instance, drawn
    uniformly, in the place of each item. `noise()` returns one of standard normal numbers. Both draw with `generator`,
    and only when they are called.
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
    """Embeds a batch of instances: the trunk of a solver's repository, and a projector into the embedding space."""

    def __call__(self, instance: InstanceT_contra, /) -> Embeddings | Encoded: ...


@runtime_checkable
class SizedEncoder(Encoder[InstanceT_contra], Protocol[InstanceT_contra]):
    """An encoder that gives the size of its embeddings, to build a predictor: `ModelEncoder` for example."""

    @property
    def dims(self) -> Mapping[str, int]:
        """Stream -> size of the embedding."""
        ...


class Predictor(Protocol):
    """Predicts the teacher's embeddings from the encoder's. Runs on the online branch only."""

    def __call__(self, embeddings: Embeddings, /) -> Embeddings: ...


class ConditionalPredictor(Protocol):
    """A predictor that also takes what it predicts of each item: `condition` is stream -> `[items, encoding]`."""

    def __call__(self, embeddings: Embeddings, condition: Embeddings, /) -> Embeddings: ...


# ---- teachers ----------------------------------------------------------------------------------------------


@runtime_checkable
class Teacher(Protocol):
    """Embeds the target view, and changes only in `update`. It never sees a mask."""

    @property
    def learns(self) -> bool:
        """Whether gradients flow through its targets; the regulariser then sees them too. `learns = False` will do."""
        ...

    def __call__(self, encoder: Any, target: Any, /) -> Embeddings | Encoded: ...

    def update(self, encoder: Any, /) -> None:
        """Follow the encoder; called once after each optimizer step."""
        ...


@runtime_checkable
class RestartableTeacher(Teacher, Protocol):
    """A teacher that can follow its encoder from a new start: `EMATeacher` for example."""

    def restart(self, encoder: Any, /) -> None:
        """Become a copy of the current encoder."""
        ...


# ---- losses ------------------------------------------------------------------------------------------------


class PredictionLoss(Protocol):
    """Compares predictions with targets: `(predictions [items, dim], targets [items, dim]) -> [items]`."""

    def __call__(self, predictions: Tensor, targets: Tensor, /) -> Tensor: ...


class Regularizer(Protocol):
    """Penalises embeddings that collapse: stream -> `[items, dim]` to a scalar that is small where they spread out.

    `valid[stream]`, bool `[items]`, is False on padding. `generator` decides all that is drawn.
    """

    def __call__(self, embeddings: Embeddings, /, *, valid: Mapping[str, Tensor], generator: Any = None) -> Tensor: ...


class Monitor(Protocol):
    """Watches training and warns of a collapse: `CollapseMonitor` for example."""

    def observe(self, loss: JEPALoss, /) -> None:
        """Take the loss of a forward pass in training."""
        ...

    def step(self) -> None:
        """Count an optimizer step."""
        ...


class Setup(NamedTuple):
    """What an objective already does against collapse."""

    regularizer_weight: float = 0.0  # 0 without a regulariser
    regularizes_features: bool = False
    has_target_network: bool = False


@runtime_checkable
class AdvisingMonitor(Monitor, Protocol):
    """A monitor whose warnings give advice: it takes what the objective already does against collapse."""

    def inform(self, setup: Setup, /) -> None: ...
