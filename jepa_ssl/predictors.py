"""Projector and predictor networks, a two-layer MLP for each stream; and what a predictor may be told of a node."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa_ssl.checks import whole_number
from jepa_ssl.instances import BipartiteGraph
from jepa_ssl.protocols import CONSTRAINT, VARIABLE, Embeddings, Views


class _StreamMLPs(nn.Module):
    """One `Linear - activation - Linear` a stream, applied to the stream of that name."""

    def __init__(self, sizes: Mapping[str, tuple[int, int, int]], activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        for stream, size in sizes.items():
            for name, each in zip(("input", "hidden", "output"), size, strict=True):
                whole_number(f"{name} size of stream {stream!r}", each, 1, "give the widths of trunk and embedding.")
        self.streams = nn.ModuleDict(
            {
                stream: nn.Sequential(nn.Linear(inputs, hidden), activation(), nn.Linear(hidden, outputs))
                for stream, (inputs, hidden, outputs) in sizes.items()
            }
        )

        self.widths = {stream: inputs for stream, (inputs, _, _) in sizes.items()}

    def forward(self, embeddings: Embeddings) -> dict[str, Tensor]:
        _check("embeddings", embeddings, self.widths, self)
        return {stream: mlp(embeddings[stream]) for stream, mlp in self.streams.items()}


class MLPProjector(_StreamMLPs):
    """From trunk features to L2-normalised embeddings: stream -> `[items, width]` to stream -> `[items, dim]`.

    Args:
        widths: trunk width of each stream.
        dim: size of the embedding, the same for all streams.
        activation: `nn.ReLU` by default.
    """

    def __init__(self, widths: Mapping[str, int], dim: int, activation: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__({stream: (width, width, dim) for stream, width in widths.items()}, activation)

    def forward(self, embeddings: Embeddings) -> dict[str, Tensor]:
        return {stream: _unit(z) for stream, z in super().forward(embeddings).items()}


def _unit(z: Tensor) -> Tensor:
    # torch's 1e-12, which keeps zeros from becoming NaN, is itself 0 in float16.
    return F.normalize(z, dim=-1, eps=max(1e-12, torch.finfo(z.dtype).tiny))


class MLPPredictor(_StreamMLPs):
    """From the context's embeddings to predictions of the target's: stream -> `[items, dim]`, of the same shape.

    Args:
        dims: size of the embedding of each stream.
        hidden: width of the hidden layer; that of the embedding by default. A smaller one is a bottleneck: the
            prediction of an item then has that many degrees of freedom.
        activation: `nn.ReLU` by default.

    >>> import torch
    >>> MLPPredictor({"instance": 8})({"instance": torch.zeros(3, 8)})["instance"].shape
    torch.Size([3, 8])
    """

    def __init__(
        self, dims: Mapping[str, int], hidden: int | None = None, activation: Callable[[], nn.Module] = nn.ReLU
    ) -> None:
        super().__init__(
            {stream: (dim, dim if hidden is None else hidden, dim) for stream, dim in dims.items()}, activation
        )


class ConditionalMLPPredictor(nn.Module):
    """An `MLPPredictor` that is told what it predicts: it sees each item's embedding and encoding side by side.

    Give the objective a `condition` that makes the encodings: `hidden_and_degree`, or a function of your own.

    Args:
        dims: size of the embedding of each stream.
        condition_sizes: size of the encoding of each of these streams.
        hidden: width of the hidden layer; that of the embedding by default.
        activation: `nn.ReLU` by default.

    >>> predictor = ConditionalMLPPredictor({"instance": 8}, {"instance": 2})
    >>> predictor({"instance": torch.zeros(3, 8)}, {"instance": torch.ones(3, 2)})["instance"].shape
    torch.Size([3, 8])
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        condition_sizes: Mapping[str, int],
        hidden: int | None = None,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        if dims.keys() != condition_sizes.keys():
            raise ValueError(
                f"condition_sizes names the streams {sorted(condition_sizes)}, but dims {sorted(dims)}; name the same "
                f"streams in both."
            )
        self.dims = dict(dims)
        self.condition_sizes = {
            stream: whole_number(f"condition_sizes[{stream!r}]", size, least=1)
            for stream, size in condition_sizes.items()
        }
        sizes = {
            stream: (dim + condition_sizes[stream], dim if hidden is None else hidden, dim)
            for stream, dim in dims.items()
        }
        self.mlps = _StreamMLPs(sizes, activation)

    def forward(self, embeddings: Embeddings, condition: Embeddings | None = None) -> dict[str, Tensor]:
        if condition is None:
            raise ValueError(
                "condition is None, but a ConditionalMLPPredictor predicts from one; give JEPAObjective a condition, "
                "hidden_and_degree for example, or use an MLPPredictor."
            )
        _check("embeddings", embeddings, self.dims, self)
        _check("condition", condition, self.condition_sizes, self)
        return self.mlps({s: torch.cat((z, condition[s].to(z.dtype)), dim=-1) for s, z in embeddings.items()})


def hidden_and_degree(views: Views[Any, Any]) -> dict[str, Tensor]:
    """A condition for bipartite graphs: is the node hidden (0 or 1), and log(1 + its degree in the context graph).

    Stream -> `[nodes, 2]`, in the context's order. Of which kind a node is, a predictor knows from its stream.

    Raises:
        TypeError: the context is no `BipartiteGraph`.

    >>> star = BipartiteGraph.single(
    ...     torch.ones(1, 1), torch.tensor([[0, 0, 0], [0, 1, 2]]), torch.ones(3, 1), torch.ones(3, 1)
    ... )
    >>> views = Views(context=star, target=star, hidden={"variable": torch.tensor([True, False, False])})
    >>> hidden_and_degree(views)["variable"]
    tensor([[1.0000, 0.6931],
            [0.0000, 0.6931],
            [0.0000, 0.6931]])
    """
    graph = views.context
    if not isinstance(graph, BipartiteGraph):
        raise TypeError(
            f"views.context is a {type(graph).__name__}, but must be a BipartiteGraph; write a condition of your own "
            f"for other instances: a function from views to stream -> [items, encoding]."
        )
    condition: dict[str, Tensor] = {}
    for ends, stream in zip(graph.edge_index, (CONSTRAINT, VARIABLE), strict=True):
        ones = torch.ones_like(ends, dtype=torch.float32)
        degree = ones.new_zeros(len(graph.features(stream))).index_add_(0, ends, ones)
        hidden = _hidden_in_context(views, stream, like=degree)
        condition[stream] = torch.stack((hidden, degree.log1p()), dim=-1)
    return condition


def _hidden_in_context(views: Views[Any, Any], stream: str, like: Tensor) -> Tensor:
    """1 where an item of the context is hidden, else 0. `Views` says it of the target's items; an added one is not."""
    hidden, places = views.hidden.get(stream), views.items.get(stream)
    if hidden is None:
        hidden = torch.ones_like(like if places is None else places)
    hidden = hidden.to(like.dtype)
    return hidden if places is None else torch.zeros_like(like).index_copy_(0, places, hidden)


def _check(name: str, given: Embeddings, widths: Mapping[str, int], network: nn.Module) -> None:
    if given.keys() != widths.keys():
        raise ValueError(
            f"{name} has the streams {sorted(given)}, but this {type(network).__name__} was built for "
            f"{sorted(widths)}; name the same streams in both places."
        )
    for stream, width in widths.items():
        z = given[stream]
        if z.shape[-1:] != (width,) or not z.is_floating_point():
            raise ValueError(
                f"{name}[{stream!r}] is {z.dtype} {list(z.shape)}, but this {type(network).__name__} was built for "
                f"floating point [items, {width}]; give it that width."
            )
