"""Statistics that standardise solver states."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from jepa_ssl.protocols import CONSTRAINT, VARIABLE

KINDS = (CONSTRAINT, VARIABLE)
LIMIT = 10.0  # standard deviations

Moments: TypeAlias = tuple[int, Tensor, Tensor]
"""Number of rows, and mean and sum of squared deviations of each number, `[2h]` in float64 on the host."""


class StateStatistics(nn.Module):
    """Mean and standard deviation of each number of a state, over all constraints and over all variables.

    They are buffers, so a state dict holds them. `{kind}_mean` and `{kind}_std` are `[2h]` each for h numbers of steps.
    `items`, int64 `[2]`, counts the constraints and variables they were computed from. `horizons`, int64 `[h]`, holds
    the numbers of steps. A state dict of other steps raises a ValueError before anything is loaded.
    """

    items: Tensor
    horizons: Tensor

    def __init__(self, steps: tuple[int, ...]) -> None:
        super().__init__()
        self.steps = steps
        self.fitted = False
        for kind in KINDS:
            self.register_buffer(f"{kind}_mean", torch.zeros(2 * len(steps)))
            self.register_buffer(f"{kind}_std", torch.ones(2 * len(steps)))
        self.register_buffer("items", torch.zeros(2, dtype=torch.int64))
        self.register_buffer("horizons", torch.tensor(steps))

    def standardised(self, states: Tensor, kind: str) -> Tensor:
        """States `[*, 2h]` in standard deviations from the mean, clamped to [-10, 10]; NaN becomes 0."""
        mean, std = (self.get_buffer(f"{kind}_{name}").to(states.dtype) for name in ("mean", "std"))
        # A clamp alone would let NaN through.
        return ((states - mean) / std).nan_to_num(0.0, LIMIT, -LIMIT).clamp(-LIMIT, LIMIT)

    def compute(self, batches: Iterable[Mapping[str, Tensor]]) -> None:
        """Replace the statistics by those of `batches`: kind -> `[items, 2h]`, without padding. Waits for the device.

        Raises:
            ValueError: there is no variable, or a state is not finite.
        """
        numbers = torch.zeros(2 * len(self.steps), dtype=torch.float64)
        moments: dict[str, Moments] = dict.fromkeys(KINDS, (0, numbers, numbers))
        for states in batches:
            moments = {kind: _merged(moments[kind], states[kind].detach().cpu().double()) for kind in KINDS}
        if not moments[VARIABLE][0]:
            raise ValueError("instances has no LP with a variable; give fit some batches of training instances.")
        for i, (kind, (count, mean, squares)) in enumerate(moments.items()):
            if not bool((mean + squares).isfinite().all()):
                raise ValueError(
                    f"instances leads to {kind} states that are not finite, but fit needs finite ones; rescale the LPs "
                    f"so that their coefficients are near 1, or take fewer steps."
                )
            std = (squares / max(count, 1)).sqrt()
            self.get_buffer(f"{kind}_mean").copy_(mean)
            # A constant number has deviation 0, so it is not divided.
            self.get_buffer(f"{kind}_std").copy_(torch.where(std > 1e-6 * mean.abs(), std, 1))
            self.items[i] = count
        self.fitted = True

    def _load_from_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, state_dict: Mapping[str, Any], prefix: str, *rest: Any
    ) -> None:
        horizons = state_dict.get(f"{prefix}horizons")
        saved = self.steps if horizons is None else tuple(int(step) for step in horizons)
        if saved != self.steps:
            raise ValueError(
                f"the statistics in the state_dict are of steps={saved}, but this SolverState takes {self.steps}; "
                f"build it with the same steps, or call fit."
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)  # pyright: ignore[reportUnknownMemberType]
        self.fitted = bool(self.items[1] > 0)  # read here once, not for each batch


def _merged(moments: Moments, rows: Tensor) -> Moments:
    """The moments with those of `rows`, `[items, 2h]`, so that no batch is kept: Chan, Golub and LeVeque, 1979."""
    if not len(rows):
        return moments
    count, mean, squares = moments
    total, own = count + len(rows), rows.mean(0)
    squares = squares + (rows - own).square().sum(0) + (own - mean).square() * count * len(rows) / total
    return total, mean + (own - mean) * len(rows) / total, squares
