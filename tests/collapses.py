"""Six kinds of collapse, planted into a healthy training: what its monitor is shown, in place of what happened."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from builders import seeded
from torch import Tensor

from jepa_ssl import Encoded
from jepa_ssl.protocols import Embeddings, JEPALoss

DRIFT = 0.97  # what one step leaves of a cloud that drifts together


def common(z: Tensor) -> Tensor:
    """A unit vector, the same in each batch."""
    return F.normalize(torch.randn(z.size(1), generator=seeded()), dim=0)


def constant(z: Tensor, age: int) -> Tensor:
    return common(z).expand_as(z)


def one_direction(z: Tensor, age: int) -> Tensor:
    return (z @ common(z)).unsqueeze(1) * common(z)


def tiny_cloud(z: Tensor, age: int) -> Tensor:
    """Mean cosine 0.9999, and the rank that it had."""
    cloud = z - z.mean(dim=0)
    return common(z) + 0.01 * cloud / cloud.norm(dim=1).square().mean().sqrt()


def slow_drift(z: Tensor, age: int) -> Tensor:
    """Together by 3% a step."""
    return common(z) + DRIFT**age * (z - common(z))


def shrinking(z: Tensor, age: int) -> Tensor:
    return 0.7**age * z


def _everywhere(change: Callable[[Tensor, int], Tensor]) -> Callable[[Encoded, int], Encoded]:
    """In the features, and in the embeddings, which are normalised after it."""

    def plant(encoded: Encoded, age: int) -> Encoded:
        embeddings = {s: F.normalize(change(z, age), dim=-1) for s, z in encoded.embeddings.items()}
        return Encoded(embeddings, {s: change(z, age) for s, z in encoded.features.items()}, encoded.valid)

    return plant


def _one_stream_only(encoded: Encoded, age: int) -> Encoded:
    stream = list(encoded.embeddings)[-1]
    planted = PLANTED["constant"](encoded, age)
    return replace(encoded, embeddings={**encoded.embeddings, stream: planted.embeddings[stream]})


def _scale_to_zero(encoded: Encoded, age: int) -> Encoded:
    """Of the features; the embeddings are normalised, and show nothing."""
    return replace(encoded, features={stream: shrinking(z, age) for stream, z in encoded.features.items()})


PLANTED: dict[str, Callable[[Encoded, int], Encoded]] = {
    "constant": _everywhere(constant),
    "one direction": _everywhere(one_direction),
    "scale to zero": _scale_to_zero,
    "tiny cloud": _everywhere(tiny_cloud),
    "one stream only": _one_stream_only,
    "slow drift": _everywhere(slow_drift),
}


def shown(loss: JEPALoss, kind: str, age: int) -> JEPALoss:
    """`loss` as it would be `age` steps after the collapse began; before 0 as it is."""
    return loss if age < 0 else replace(loss, context=PLANTED[kind](loss.context, age))


def has_happened(loss: JEPALoss, kind: str, age: int) -> bool:
    """Is the collapse that was planted complete? All are at once, but those that need their time."""
    if kind == "slow drift":
        return age >= 0 and all(_mean_cosine(z.double()) >= 0.9999 for z in loss.context.embeddings.values())
    return age >= (math.log(0.01) / math.log(0.7) if kind == "scale to zero" else 0)


def _mean_cosine(z: Tensor) -> float:
    return z.mean(dim=0).square().sum().item()  # of normalised items, those with themselves included


def healthy_losses(
    seed: int, *, batch: int = 32, steps: int = 300, streams: tuple[str, ...] = ("a", "b")
) -> Iterator[JEPALoss]:
    """A training that is well, without one: an encoder of mixed items that turns, grows by 3x and loses some rank."""
    g = seeded(seed)
    centres = torch.randn(5, 12, generator=g)
    first = {stream: torch.randn(12, 32, generator=g) for stream in streams}
    second = {stream: torch.randn(32, 16, generator=g) for stream in streams}
    for step in range(steps):
        progress = step / steps
        embeddings: dict[str, Tensor] = {}
        features: dict[str, Tensor] = {}
        for stream in streams:
            kinds = torch.randint(5, (batch,), generator=g)
            items = centres[kinds] + 0.5 * torch.randn(batch, 12, generator=g)
            first[stream] = first[stream] + 0.02 * torch.randn(12, 32, generator=g)
            fading = torch.linspace(1.0, 1.0 - 0.7 * progress, 32)
            features[stream] = (1.0 + 2.0 * progress) * (items @ first[stream]).tanh() * fading + 0.3
            embeddings[stream] = F.normalize(features[stream] @ second[stream], dim=-1)
        targets: Embeddings = {s: z + 0.1 * torch.randn(z.shape, generator=g) for s, z in embeddings.items()}
        total = torch.tensor(1.0 - 0.9 * progress)
        yield JEPALoss(total, {"total": total}, embeddings, targets, Encoded(embeddings, features))
