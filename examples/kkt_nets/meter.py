"""The losses between two log rows: kept on the device, and read in one go."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
        means = self._means()
        embeddings, self._steps, self._embeddings = self._embeddings, [], []
        streams = {
            stream: torch.cat([e[stream] for e in embeddings]) for stream in (embeddings[0] if embeddings else ())
        }
        return means, streams

    def state_dict(self) -> dict[str, Any]:
        """What waits to be read. It is checked: what is saved must be worth going on from.

        Raises:
            NonFiniteLossError: as `read`.
        """
        self._means()
        return {"steps": list(self._steps), "embeddings": list(self._embeddings)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        self._steps = [(step, instances, _to(losses, device)) for step, instances, losses in state["steps"]]
        self._embeddings = [_to(embeddings, device) for embeddings in state["embeddings"]]

    def _means(self) -> dict[str, float]:
        if not self._steps:
            return {}
        names = list(self._steps[0][2])
        rows = [torch.stack([losses[name] for name in names]) for _, _, losses in self._steps]
        table = torch.stack(rows).double().cpu()
        bad = (~table.isfinite().all(dim=1)).nonzero()
        if len(bad):
            step, instances, _ = self._steps[int(bad[0])]
            values = ", ".join(
                f"{name} {value:g}" for name, value in zip(names, table[bad[0, 0]].tolist(), strict=True)
            )
            raise NonFiniteLossError(
                f"the loss is not finite at step {step}: {values}; on the instances "
                f"{', '.join(map(self._name, instances))}. Lower --lr, or look at these instances; "
                f"the checkpoints hold the state before this step."
            )
        return dict(zip(names, table.mean(dim=0).tolist(), strict=True))


def _to(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in tensors.items()}
