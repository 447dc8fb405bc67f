"""Balanced weighting: the JEPA gradient on shared parameters is held at a chosen share of the task's."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from jepa_ssl.checks import closed_fraction, whole_number
from jepa_ssl.diagnostics import gradient_share

LARGEST = 1e6  # KKT residuals of LPs have gradients up to a hundred thousand times JEPA's


class GradientBalance(nn.Module):
    """The factor on the JEPA loss that makes its gradient on the shared parameters as long as the task's.

    Give it to `LossWeights.combine(task, jepa, balance)`: the weight of JEPA is then the share of the task's gradient
    that its own is held at, 0.3 for example, instead of a constant factor on its loss.

    The ratio of the two norms is measured every `every` calls, each time at the cost of about one more backward pass,
    and its logarithm averaged. A measurement in which one of the gradients is zero or not finite is left out; before
    the first that counts, the factor is 1. It stays below `LARGEST`: where a collapse or a solved task leaves JEPA
    without a gradient, its rounding errors would be trained on. The state is saved and resumed. Copy it together with
    the trunk, for it holds the parameters themselves.

    Args:
        shared: what both losses train, `trunk.parameters()`. The last layer of the trunk alone costs less.
        every: calls from one measurement to the next.
        smoothing: what the average keeps at a measurement; the first ones count alike.

    >>> from jepa_ssl import Encoded
    >>> from jepa_ssl.joint import LossWeights
    >>> from jepa_ssl.protocols import JEPALoss
    >>> w = torch.ones(4, requires_grad=True)
    >>> task, jepa = 50.0 * w.sum(), JEPALoss(0.1 * w.sum(), {}, {}, {}, Encoded({}))
    >>> joint = LossWeights(task=1.0, jepa=0.3).combine(lambda: task, lambda: jepa, GradientBalance([w]))
    >>> norms = gradient_share(joint.parts, [w])
    >>> round((norms["jepa"] / norms["task"]).item(), 4)
    0.3
    """

    log_ratio: Tensor  # the average; buffers, so that they are saved, and move with the module
    measured: Tensor  # how many measurements counted, int64

    def __init__(self, shared: Iterable[Tensor], *, every: int = 20, smoothing: float = 0.9) -> None:
        super().__init__()
        self.shared = list(shared)
        if not any(parameter.requires_grad for parameter in self.shared):
            raise ValueError(
                f"shared holds {len(self.shared)} parameters, and none that is trained; give those of the trunk that "
                f"both losses train."
            )
        self.every = whole_number("every", every, least=1)
        self.smoothing = closed_fraction("smoothing", smoothing)
        self.calls = 0
        self.register_buffer("log_ratio", torch.zeros((), device=self.shared[0].device))
        self.register_buffer("measured", torch.zeros((), dtype=torch.int64, device=self.shared[0].device))

    def forward(self, task: Tensor, jepa: Tensor) -> Tensor:
        """The factor for these two losses, each with its graph: a scalar without gradient."""
        if self.calls % self.every == 0:
            self._measure(gradient_share({"task": task, "jepa": jepa}, self.shared))
        self.calls += 1
        return self.log_ratio.exp().clamp(max=LARGEST)

    def _measure(self, norms: dict[str, Tensor]) -> None:
        log_ratio = norms["task"].log() - norms["jepa"].log()
        counts = log_ratio.isfinite()
        share = (1.0 / (self.measured + 1.0)).clamp(min=1.0 - self.smoothing)
        self.log_ratio.lerp_(torch.where(counts, log_ratio, self.log_ratio), share)
        self.measured += counts

    def get_extra_state(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.calls = state["calls"]
