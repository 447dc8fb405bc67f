"""Warn if training never changes the encoder, the predictor or the projector: the optimizer lacks them."""

# pyright: reportPrivateUsage=false
# torch's count of the writes to a tensor has a private name.

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from jepa_ssl.checks import warn_caller
from jepa_ssl.names import unwrapped

STEPS = 30  # by now each part must have changed; a GradScaler skips fewer steps at the start
PERIOD = 1000  # look again after this many steps, in case the optimizer was rebuilt

State = list[tuple[Tensor, int]]  # parameters that take gradients, each with its number of writes


class MovementWatch:
    """Compare the parameters at two steps of every `PERIOD`, and warn once.

    A parameter counts as changed if it is written to, which an optimizer does even at learning rate 0. Frozen parts are
    left out.
    """

    def __init__(self) -> None:
        self.used = False  # a loss was computed in training; a compiled pass may change nothing else
        self._steps = 0
        self._warned = False
        self._before: dict[str, State] = {}
        self._samples: dict[str, list[Tensor]] = {}

    def __reduce__(self) -> Any:
        return MovementWatch, ()  # a copy watches its own parameters

    def step(self, objective: nn.Module, encoder: object) -> None:
        """Count an optimizer step after a JEPA loss."""
        self.used = False
        place = self._steps % PERIOD
        self._steps += 1
        if self._warned or place not in (0, STEPS):
            return
        now = {name: _state(parameters) for name, parameters in _parts(objective, encoder).items()}
        if place == 0:
            self._before = now
            self._samples = {name: _samples(state) for name, state in now.items()}
            return
        still = [name for name, state in now.items() if state and self._is_still(name, state)]
        self._before, self._samples = {}, {}
        if still:
            self._warned = True
            _warn(still)

    def _is_still(self, name: str, state: State) -> bool:
        before = self._before.get(name, [])
        if len(before) != len(state) or any(p is not q or n != m for (p, n), (q, m) in zip(before, state, strict=True)):
            return False
        # The count misses fused optimizers and those that write to `p.data`, so compare the numbers too.
        return all(map(torch.equal, self._samples[name], _samples(state)))


def _parts(objective: nn.Module, encoder: object) -> dict[str, Iterable[nn.Parameter]]:
    """Return the parts that JEPA trains, those of the objective first."""
    parts: dict[str, Iterable[nn.Parameter]]
    parts = {name: part.parameters() for name, part in objective.named_children() if name in ("predictor", "teacher")}
    if isinstance(encoder, nn.Module):
        own: Mapping[str, nn.Module] = dict(unwrapped(encoder).named_children())
        if "projector" in own:
            parts["projector"] = list(own["projector"].parameters())
        added = set(parts.get("projector", ()))
        parts["encoder"] = [p for p in encoder.parameters() if p not in added]
    return parts


def _state(parameters: Iterable[nn.Parameter]) -> State:
    return [(p, p._version) for p in parameters if p.requires_grad]


def _samples(state: State) -> list[Tensor]:
    """Sample numbers of every parameter: a single one might belong to a head, which no JEPA loss changes."""
    held: list[Any] = [p.detach() for p, _ in state]
    here: list[Tensor] = [p.to_local() if hasattr(p, "to_local") else p for p in held]  # FSDP2's, without a message
    return [p.reshape(-1)[:: p.numel() // 64 + 1].clone() for p in here]


def _warn(still: list[str]) -> None:
    lacking = ["the encoder's parameters"] * ("encoder" in still) + ["*jepa.parameters()"] * (still != ["encoder"])
    warn_caller(
        f"no parameter of the {' or the '.join(still)} was changed in {STEPS} calls of update, each after a JEPA loss; "
        f"give {' and '.join(lacking)} to the optimizer, again whenever you build a new one, or call "
        f"requires_grad_(False) on what must not change."
    )
