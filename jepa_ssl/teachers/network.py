"""A separate network as the teacher, for targets that the encoder cannot read."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa_ssl.checks import check_items, whole_number
from jepa_ssl.freezing import freeze
from jepa_ssl.names import key_of
from jepa_ssl.protocols import Embeddings, Encoded, Encoder
from jepa_ssl.seeds import seeded


class TargetNetwork(nn.Module):
    """Embed targets that are not instances, such as the state of a solver: stream -> `[items, numbers]`.

    By default the network is frozen at its random initialisation, which depends on the seed only. Embeddings of an
    informative target are then informative and cannot collapse. With `learned=True` it is trained with the encoder and
    needs a regulariser.

    Source of frozen random targets: Burda et al., "Exploration by random network distillation", ICLR 2019.

    Args:
        sizes: `(numbers, dim)` of each stream: the numbers of an item in the target, and the size of its embedding. The
            network of a stream is `Linear(numbers, hidden) - GELU - Linear(hidden, dim)`, then layer norm without scale
            and shift. Or your own module, which maps the target to embeddings and is used as it is.
        hidden: width of the hidden layer; twice that of the embedding by default.
        learned: train the network; its parameters are then among the objective's.
        seed: of the initialisation; torch's global generator is neither used nor changed.

    >>> teacher = TargetNetwork({"constraint": (2, 8), "variable": (2, 8)})
    >>> states = {"constraint": torch.randn(3, 2), "variable": torch.randn(5, 2)}
    >>> {stream: list(z.shape) for stream, z in teacher(None, states).items()}
    {'constraint': [3, 8], 'variable': [5, 8]}
    """

    def __init__(
        self,
        sizes: Mapping[str, tuple[int, int]] | nn.Module,
        *,
        hidden: int | None = None,
        learned: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.learns = learned
        if isinstance(sizes, nn.Module):
            if hidden is not None:
                raise ValueError(f"hidden is {hidden}, but your own module already has its width; leave hidden out.")
            self.network = sizes
        else:
            _check(sizes, hidden)
            with seeded(_seed(seed)), torch.device("cpu"):
                self.network = _StateMLPs(sizes, hidden)
        if not learned:
            freeze(self.network, for_good=True)

    def forward(self, encoder: Encoder[Any] | None, target: Any) -> Embeddings | Encoded:
        """Embed a target; `encoder` is not used.

        Raises:
            TypeError: the target is not a mapping from streams to numbers.
            ValueError: its streams or their numbers differ from `sizes`.
        """
        with torch.set_grad_enabled(self.learns and torch.is_grad_enabled()):
            return self.network(target)

    def update(self, encoder: Encoder[Any]) -> None:
        """Do nothing: the network is frozen, or the optimizer trains it."""


class _StateMLPs(nn.Module):
    def __init__(self, sizes: Mapping[str, tuple[int, int]], hidden: int | None) -> None:
        super().__init__()
        self.numbers = {stream: numbers for stream, (numbers, _) in sizes.items()}
        self.streams = nn.ModuleDict(
            {
                key_of(stream): _mlp(numbers, 2 * dim if hidden is None else hidden, dim)
                for stream, (numbers, dim) in sizes.items()
            }
        )

    def forward(self, target: Any) -> dict[str, Tensor]:
        states = self._checked(target)
        embeddings: dict[str, Tensor] = {}
        for stream, mlp in zip(self.numbers, self.streams.values(), strict=True):
            z = mlp(states[stream].to(next(mlp.parameters()).dtype))  # solvers work in float64
            embeddings[stream] = F.layer_norm(z, z.shape[-1:])
        return embeddings

    def _checked(self, target: Any) -> Mapping[str, Tensor]:
        if not isinstance(target, Mapping):
            raise TypeError(
                f"the target is a {type(target).__name__}, but a TargetNetwork built from sizes embeds a mapping from "
                f"streams to [items, numbers], such as the target of SolverState; give TargetNetwork your own module, "
                f"which reads your target, or use another teacher."
            )
        states = cast(Mapping[str, Tensor], target)
        if states.keys() != self.numbers.keys():
            raise ValueError(
                f"the target has the streams {sorted(states)}, but this TargetNetwork was built for "
                f"{sorted(self.numbers)}; name the same streams in sizes."
            )
        for stream, numbers in self.numbers.items():
            remedy = "correct the numbers of an item in sizes of TargetNetwork."
            check_items(f"target[{stream!r}]", states[stream], numbers, remedy)
        return states


def _seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 2**63:
        raise ValueError(f"the seed is {seed!r}, but must be a whole number from 0 to 2**63 - 1; give an int.")
    return int(seed)


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))


def _check(sizes: Mapping[str, tuple[int, int]], hidden: int | None) -> None:
    if not isinstance(sizes, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"sizes is a {type(sizes).__name__}, but must be a mapping from streams to (numbers, dim), or an nn.Module "
            f"that embeds the target; give one of these."
        )
    if not sizes:
        raise ValueError("sizes is empty, but must have (numbers, dim) for each stream of the target.")
    for stream, size in sizes.items():
        if len(size) != 2:
            raise ValueError(
                f"sizes[{stream!r}] is {size}, but must be (numbers, dim): how many numbers an item has in the target, "
                f"and the size of its embedding."
            )
        for i, each in enumerate(size):
            whole_number(f"sizes[{stream!r}][{i}]", each, 1, "give (numbers, dim), of an item and its embedding.")
    if hidden is not None:
        whole_number("hidden", hidden, 1, "leave it out for twice the embedding's size.")
