"""The losses between two log rows: kept on the device, and read in one go."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor


class NonFiniteLossError(RuntimeError):
    """The training loss is NaN or infinite; the message says where it began."""


class Meter:
    """Collects scalars step by step without waiting for the device; `read` waits once, and checks them.

    Args:
        name: of the instance with a given number, for the message about a loss that is not finite.
    """

    def __init__(self, name: Callable[[int], str]) -> None:
        self._name = name
        self._steps: list[tuple[int, Sequence[int], Mapping[str, Tensor]]] = []
        self._embeddings: list[Mapping[str, Tensor]] = []

    def add(
        self, step: int, instances: Sequence[int], losses: Mapping[str, Tensor], embeddings: Mapping[str, Tensor] | None
    ) -> None:
        """One step: its instances, its losses as detached scalars, the encoder's embeddings if there are any."""
        self._steps.append((step, instances, losses))
        if embeddings is not None:
            self._embeddings.append(embeddings)

    def read(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """The mean of each loss, and the embeddings of all steps, stream by stream; then starts anew.

        Raises:
            NonFiniteLossError: naming the first step, its instances and its losses.
        """
        steps, embeddings = self._steps, self._embeddings
        self._steps, self._embeddings = [], []
        if not steps:
            return {}, {}
        names = list(steps[0][2])
        table = torch.stack([torch.stack([losses[name] for name in names]) for _, _, losses in steps]).double().cpu()
        bad = (~table.isfinite().all(dim=1)).nonzero()
        if len(bad):
            step, instances, _ = steps[int(bad[0])]
            values = ", ".join(
                f"{name} {value:g}" for name, value in zip(names, table[bad[0, 0]].tolist(), strict=True)
            )
            raise NonFiniteLossError(
                f"the loss is not finite at step {step}: {values}; on the instances "
                f"{', '.join(map(self._name, instances))}. Lower --lr, or look at these instances; "
                f"the checkpoints hold the state before this epoch."
            )
        means = dict(zip(names, table.mean(dim=0).tolist(), strict=True))
        streams = {
            stream: torch.cat([e[stream] for e in embeddings]) for stream in (embeddings[0] if embeddings else ())
        }
        return means, streams
