"""The contracts between the parts. Nobody inherits from them: any callable of the right shape will do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch
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
    return {}  # torch.compile, which knows no dict[str, Any](), traces it


@dataclass(frozen=True)
class Views(Generic[ContextT, TargetT]):
    """Two views of one batch of instances: what the encoder sees, what the teacher sees, and where they differ.

    `hidden[stream]` is a bool tensor `[items]`, True where the context lost the item: the prediction loss is taken
    there and only there. `None`, or no entry, means every item. `weight[stream]` is a float tensor `[items]`, zero
    where nothing is hidden, that says how much each item counts; without it all hidden items count alike. Maskers of
    graphs give each graph the weight 1 in total, so that a large graph does not outvote a small one.

    All this is in the order of the target's items. `items[stream]` is an int64 tensor `[items]` that says where each of
    them stands in the context; without it each is in its old place, as every masker leaves it.
    """

    context: ContextT
    target: TargetT
    hidden: Mapping[str, Tensor | None] = field(default_factory=_nothing)
    weight: Mapping[str, Tensor] = field(default_factory=_nothing)
    items: Mapping[str, Tensor] = field(default_factory=_nothing)


@dataclass(frozen=True)
class Encoded:
    """What an encoder may return in place of bare embeddings, where it has more to say of its items.

    `features[stream]` is `[items, width]`: what the embeddings were made of, before projector and normalisation. A
    regulariser may be put there, and a collapse in scale is seen there alone. `valid[stream]` is a bool tensor
    `[items]`, False on padding, which no statistic counts; without it all items are real.
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


class ViewMaker(Protocol[InstanceT_contra]):
    """Makes the two views of a batch of instances, or a tuple of several such pairs: a masker, for example.

    Never sees a model.
    """

    def __call__(
        self, instance: InstanceT_contra, *, generator: torch.Generator | None = None
    ) -> Views[Any, Any] | tuple[Views[Any, Any], ...]: ...


class Encoder(Protocol[InstanceT_contra]):
    """What a solver's repository provides: its trunk, and a projector into the embedding space."""

    def __call__(self, instance: InstanceT_contra, /) -> Embeddings | Encoded: ...


class Predictor(Protocol):
    """Predicts the teacher's embeddings from the encoder's. Runs on the online branch only."""

    def __call__(self, embeddings: Embeddings, /) -> Embeddings: ...


class ConditionalPredictor(Protocol):
    """A predictor that is told, beside each item's embedding, what it predicts: stream -> `[items, encoding]`."""

    def __call__(self, embeddings: Embeddings, condition: Embeddings, /) -> Embeddings: ...


class Teacher(Protocol):
    """Embeds the target view, and moves in `update` alone. Never sees a mask.

    One through which gradients flow has an attribute `learns` that is True; its side is regularised too.
    """

    def __call__(self, encoder: Any, target: Any, /) -> Embeddings | Encoded: ...

    def update(self, encoder: Any, /) -> None: ...


class PredictionLoss(Protocol):
    """`(predictions [items, dim], targets [items, dim]) -> [items]`. Never sees an instance."""

    def __call__(self, predictions: Tensor, targets: Tensor, /) -> Tensor: ...


class Regularizer(Protocol):
    """Keeps embeddings from collapsing: stream -> `[items, dim]` to a scalar that is small where they spread out.

    `valid[stream]`, bool `[items]`, is False on padding. `generator` decides all that is drawn.
    """

    def __call__(
        self,
        embeddings: Embeddings,
        /,
        *,
        valid: Mapping[str, Tensor],
        generator: torch.Generator | None = None,
    ) -> Tensor: ...


class Monitor(Protocol):
    """Watches the training, and says when nothing is learned: `CollapseMonitor` for example."""

    def observe(self, loss: JEPALoss, /) -> None: ...  # at each forward pass in training

    def step(self) -> None: ...  # once per optimizer step
