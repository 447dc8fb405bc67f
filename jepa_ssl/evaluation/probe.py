"""Ridge and logistic regression on frozen features, exact and deterministic on a CPU."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from jepa_ssl.checks import whole_number
from jepa_ssl.evaluation.typed import unique

ProbeTask: TypeAlias = Literal["ridge", "logistic"]
PENALTIES = tuple(10.0**k for k in range(-4, 4))
UNCHOSEN = 1.0  # the penalty if a single instance leaves nothing to choose it by
NEWTON_STEPS, GRADIENT = 200, 1e-10
CERTAIN = 1e-6  # the least probability of a held-out label, so that one label cannot decide on the penalty

Path: TypeAlias = Callable[[Tensor, Tensor, Sequence[float]], Tensor]
"""`(features [items, D], targets [items, K], penalties) -> [penalties, D + 1, K]`; the last row is the intercept."""


@dataclass(frozen=True)
class Probe:
    """A fitted probe. Call it with features `[items, D]`.

    It returns values like the labels (ridge), or the probability of class 1 `[items]` (logistic), in float64.
    """

    task: ProbeTask
    penalty: float
    weight: Tensor  # [D, outputs], float64, for standardised features
    intercept: Tensor  # [outputs]
    mean: Tensor  # [D], of the training features
    deviation: Tensor  # [D]
    shape: tuple[int, ...]  # of one prediction

    def __call__(self, features: Tensor) -> Tensor:
        scores = (_checked(features) - self.mean) / self.deviation @ self.weight + self.intercept
        return (scores.sigmoid() if self.task == "logistic" else scores).reshape(-1, *self.shape)


def probe(
    features: Tensor,
    labels: Tensor,
    groups: Tensor | None = None,
    task: ProbeTask = "ridge",
    *,
    penalties: Sequence[float] = PENALTIES,
    folds: int = 5,
) -> Probe:
    """Fit ridge or logistic regression on frozen features; choose the penalty by cross-validation.

    The loss is the mean squared error plus `penalty * |weight|^2`, or the mean log loss plus `penalty / 2 *
    |weight|^2`. The intercept is not penalised. Features are standardised by their mean and deviation on the fitted
    items, separately in each fold. A fold holds whole instances, so the items of one instance are never on both sides.
    Among equally good penalties the largest is chosen. With a single instance the penalty is 1.

    Ridge takes one eigendecomposition per fold, of a matrix of size min(items, D). Logistic regression takes Newton
    steps in float64. The numbers equal those of scikit-learn's `Ridge(alpha)` and `LogisticRegression(C)` with `alpha =
    penalty * items` and `C = 1 / (penalty * items)`.

    Args:
        features: `[items, D]`.
        labels: `[items]` or `[items, outputs]` for ridge; 0 or 1 `[items]` for logistic. If all are equal, the probe
            is constant.
        groups: the instance of each item, int64 `[items]`. By default each item is an instance.
        task: "ridge" or "logistic".
        penalties: positive numbers to choose from.
        folds: at most this many folds; one per instance if there are fewer instances.

    Raises:
        ValueError: a shape or type is wrong, a number is not finite, or a class is not 0 or 1.

    >>> z = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    >>> fitted = probe(z, z[:, 0] - 2.0 * z[:, 1])
    >>> fitted.penalty, fitted(torch.tensor([[1.0, 1.0, 0.0]])).round(decimals=2)
    (0.0001, tensor([-1.], dtype=torch.float64))
    """
    z, y, groups = _checked(features), _targets(labels, features, task), _checked_groups(groups, features)
    if not penalties or not all(0.0 < penalty < float("inf") for penalty in penalties):
        raise ValueError(f"penalties is {penalties}, but must hold positive numbers; leave it out for the usual ones.")
    whole_number("folds", folds, 2, "5 is usual.")
    path, eps = (_ridge if task == "ridge" else _logistic), torch.finfo(features.dtype).eps
    best = _chosen(z, y, groups, sorted(map(float, penalties), reverse=True), folds, path, eps)
    weights, mean, deviation = _fitted(z, y, [best], path, eps)
    return Probe(task, best, weights[0, :-1], weights[0, -1], mean, deviation, tuple(labels.shape[1:]))


def _chosen(z: Tensor, y: Tensor, groups: Tensor, penalties: list[float], folds: int, path: Path, eps: float) -> float:
    """The penalty with the least loss on held-out instances."""
    instances, owner, _ = unique(groups)
    if len(instances) < 2:
        return min(penalties, key=lambda penalty: abs(penalty - UNCHOSEN))
    fold = owner % min(folds, len(instances))
    loss = torch.zeros(len(penalties), dtype=torch.float64)
    for k in range(int(fold.max()) + 1):
        held = fold == k
        weights, mean, deviation = _fitted(z[~held], y[~held], penalties, path, eps)
        scores = (z[held] - mean) / deviation @ weights[:, :-1] + weights[:, -1:]
        y_held = y[held].expand_as(scores)
        each = (scores - y_held).square() if path is _ridge else _log_loss(scores, y_held).clamp(max=_LARGEST)
        loss += each.sum((1, 2))
    return penalties[int(loss.argmin())]


def _fitted(z: Tensor, y: Tensor, penalties: Sequence[float], path: Path, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Weights for standardised features, one set per penalty, and the mean and deviation that standardise."""
    mean, deviation = z.mean(0), z.std(0, correction=0)
    # A feature that is constant but for rounding would be blown up to noise.
    constant = deviation <= 10.0 * eps * z.abs().amax(0)
    deviation = torch.where(constant, 1.0, deviation)
    return path(torch.where(constant, 0.0, (z - mean) / deviation), y, penalties), mean, deviation


def _ridge(z: Tensor, y: Tensor, penalties: Sequence[float]) -> Tensor:
    """All penalties from one eigendecomposition, of the smaller of Z'Z and ZZ'. The columns of Z have mean 0."""
    n, d = z.shape
    middle = y.mean(0)
    gram, moment = (z.T @ z, z.T @ (y - middle)) if n >= d else (z @ z.T, y - middle)
    values, vectors = cast(tuple[Tensor, Tensor], torch.linalg.eigh(gram))  # pyright: ignore[reportUnknownMemberType]
    shrunk = values.clamp(min=0.0) + n * torch.tensor(penalties, dtype=z.dtype).unsqueeze(1)  # [penalties, values]
    weights = vectors @ ((vectors.T @ moment) / shrunk.unsqueeze(2))
    return torch.cat((weights if n >= d else z.T @ weights, middle.expand(len(penalties), 1, -1)), dim=1)


def _logistic(z: Tensor, y: Tensor, penalties: Sequence[float]) -> Tensor:
    """Newton's method, one penalty after the other, each from the weights of the one before."""
    if len(z) < z.size(1):  # the weights lie in the span of the items: rotate into it
        span, rotated = cast(tuple[Tensor, Tensor], torch.linalg.qr(z.T))  # pyright: ignore[reportUnknownMemberType]
        weights = _logistic(rotated.T, y, penalties)
        return torch.cat((span @ weights[:, :-1], weights[:, -1:]), dim=1)
    x = torch.cat((z, z.new_ones(len(z), 1)), dim=1)
    weights = z.new_zeros(x.size(1), 1)
    weights[-1] = y.mean(0).logit(CERTAIN)  # finite, even if one class is missing
    if bool((y == y[0]).all()):
        return weights.expand(len(penalties), -1, -1)
    found: list[Tensor] = []
    for penalty in penalties:
        weights = _newton(x, y, weights, penalty)
        found.append(weights)
    return torch.stack(found)


def _newton(x: Tensor, y: Tensor, weights: Tensor, penalty: float) -> Tensor:
    ridge = torch.full_like(weights, penalty)
    ridge[-1] = 0.0

    def loss(w: Tensor) -> Tensor:
        return _log_loss(x @ w, y).mean() + 0.5 * (ridge * w.square()).sum()

    for _ in range(NEWTON_STEPS):
        p = (x @ weights).sigmoid()
        gradient = x.T @ (p - y) / len(x) + ridge * weights
        if gradient.abs().amax() < GRADIENT:
            break
        hessian = x.T @ (p * (1.0 - p) * x) / len(x) + ridge.flatten().diag()
        move = cast(Tensor, torch.linalg.solve(hessian, gradient))  # pyright: ignore[reportUnknownMemberType]
        scale, slope, now = 1.0, (gradient * move).sum(), loss(weights)
        while loss(weights - scale * move) > now - 1e-4 * scale * slope and scale > 1e-10:
            scale *= 0.5
        weights = weights - scale * move
    return weights


def _log_loss(scores: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(scores, y, reduction="none")


_LARGEST = -torch.tensor(CERTAIN).log().item()


def _targets(labels: Tensor, features: Tensor, task: str) -> Tensor:
    """Targets `[items, outputs]` in float64."""
    if task not in ("ridge", "logistic"):
        raise ValueError(f"task is {task!r}, but must be 'ridge' or 'logistic'; give 'logistic' for classes 0 and 1.")
    if len(labels) != len(features) or labels.ndim > (2 if task == "ridge" else 1):
        raise ValueError(
            f"labels is {list(labels.shape)}, but must be [{len(features)}]"
            f"{' or [items, outputs]' if task == 'ridge' else ''}; give one label per item of features."
        )
    y = _finite("labels", labels).reshape(len(labels), -1)
    if task == "logistic" and not bool(((y == 0.0) | (y == 1.0)).all()):
        raise ValueError("labels holds other numbers than 0 and 1; probe several classes one against the rest.")
    return y


def _checked(features: Tensor) -> Tensor:
    if features.ndim != 2 or not features.is_floating_point() or not len(features):
        raise ValueError(
            f"features is {features.dtype} {list(features.shape)}, but must be floating point [items, dim] with at "
            f"least one item; give one row per item."
        )
    return _finite("features", features)


def _finite(name: str, values: Tensor) -> Tensor:
    values = values.detach().cpu().double()
    if wrong := int((~values.isfinite()).sum()):
        first = int((~values.isfinite()).reshape(len(values), -1).any(1).to(torch.uint8).argmax())
        raise ValueError(
            f"{name} has {wrong} numbers that are not finite, the first for item {first}, but all must be finite; drop "
            f"these items, or find out where the encoder overflows."
        )
    return values


def _checked_groups(groups: Tensor | None, features: Tensor) -> Tensor:
    if groups is None:
        return torch.arange(len(features))
    if groups.shape != features.shape[:1] or groups.is_floating_point():
        raise ValueError(
            f"groups is {groups.dtype} {list(groups.shape)}, but must be whole numbers [{len(features)}]; give the "
            f"number of each item's instance."
        )
    return groups.detach().cpu()
