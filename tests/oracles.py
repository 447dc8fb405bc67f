"""The formulas of the method written out plainly: in float64, with loops. The package is compared with these.

Nothing here imports the package.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def hidden_count(size: int, ratio: float) -> int:
    """`int(ratio * size)`, but at least one and never all; a lone item stays visible."""
    return 0 if size < 2 else min(max(int(ratio * size), 1), size - 1)


def ema_update(teacher: Tensor, student: Tensor, momentum: float) -> Tensor:
    """`t <- m t + (1 - m) o`, number by number."""
    moved = [momentum * t + (1.0 - momentum) * o for t, o in zip(_numbers(teacher), _numbers(student), strict=True)]
    return torch.tensor(moved, dtype=torch.float64).reshape(teacher.shape)


def cosine_loss(prediction: Sequence[float], target: Sequence[float]) -> float:
    """`2 - 2 cos(p, z)` of one item."""
    product = sum(p * z for p, z in zip(prediction, target, strict=True))
    return 2.0 - 2.0 * product / (math.hypot(*prediction) * math.hypot(*target))


def flat_jepa_loss(predictions: Tensor, targets: Tensor) -> float:
    """Mean of the cosine loss over the instances of a batch."""
    return _mean([cosine_loss(p, z) for p, z in zip(_rows(predictions), _rows(targets), strict=True)])


def graph_jepa_loss(
    predictions: dict[str, Tensor], targets: dict[str, Tensor], hidden: dict[str, Tensor], sizes: dict[str, list[int]]
) -> float:
    """Mean of the streams' terms; each is the mean over graphs of the mean over the graph's hidden nodes.

    Graphs that hide no node of a kind do not count in its term; where no graph hides any, the term is 0.
    """
    terms: list[float] = []
    for stream, graphs in sizes.items():
        per_graph: list[float] = []
        first = 0
        for size in graphs:
            nodes = [node for node in range(first, first + size) if bool(hidden[stream][node])]
            first += size
            if nodes:
                p, z = _rows(predictions[stream]), _rows(targets[stream])
                per_graph.append(_mean([cosine_loss(p[node], z[node]) for node in nodes]))
        terms.append(_mean(per_graph) if per_graph else 0.0)
    return _mean(terms)


def plain_graph_jepa_loss(
    predictions: dict[str, Tensor], targets: dict[str, Tensor], hidden: dict[str, Tensor]
) -> float:
    """Mean of the streams' terms; each is the mean over all hidden nodes of the batch, whatever graph they are in."""
    return _mean(
        [
            _mean(
                [
                    cosine_loss(p, z)
                    for p, z, lost in zip(
                        _rows(predictions[stream]), _rows(targets[stream]), hidden[stream].tolist(), strict=True
                    )
                    if lost
                ]
            )
            for stream in predictions
        ]
    )


def flat_view(
    flat: Tensor, valid: Tensor, ratio: float, generator: torch.Generator, std: float | None = None
) -> tuple[Tensor, Tensor]:
    """The context view of a batch of vectors, and what it hides: a permutation a row, zeros or Gaussian noise."""
    context, hidden = flat.clone(), torch.zeros_like(flat, dtype=torch.bool)
    for row in range(len(flat)):
        real = valid[row].nonzero().flatten()
        shuffled = real[torch.randperm(len(real), generator=generator)]
        for entry in shuffled[: hidden_count(len(real), ratio)].tolist():
            hidden[row, entry] = True
            context[row, entry] = 0.0 if std is None else std * torch.randn((), generator=generator).item()
    return context, hidden


def graph_view(
    features: Tensor, sizes: Sequence[int], ratio: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The context view of the nodes of one kind, and which of them it hides: a permutation a graph, zeros."""
    context, hidden = features.clone(), torch.zeros(len(features), dtype=torch.bool)
    first = 0
    for size in sizes:
        shuffled = first + torch.randperm(size, generator=generator)
        for node in shuffled[: hidden_count(size, ratio)].tolist():
            hidden[node] = True
            context[node] = 0.0
        first += size
    return context, hidden


def singular_entropy_rank(embeddings: Tensor) -> float:
    """exp of the entropy of the normalised singular values of the centred embeddings."""
    z = embeddings.double()
    singular = torch.linalg.svdvals(z - z.mean(dim=0)).tolist()
    total = sum(singular)
    return math.exp(-sum(s / total * math.log(s / total) for s in singular if s > 0.0))


def spread(embeddings: Tensor) -> float:
    """Mean over the dimensions of the standard deviation over the items, times sqrt(dim)."""
    deviations: list[float] = []
    for column in _rows(embeddings.T):
        centre = _mean(column)
        deviations.append(math.sqrt(_mean([(x - centre) ** 2 for x in column])))
    return _mean(deviations) * math.sqrt(len(deviations))


def _numbers(tensor: Tensor) -> list[float]:
    return tensor.detach().double().flatten().tolist()


def _rows(tensor: Tensor) -> list[list[float]]:
    return tensor.detach().double().tolist()


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
