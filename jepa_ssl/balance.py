"""Gradient balancing: hold the JEPA gradient on shared parameters at a chosen ratio to the task's."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from jepa_ssl.checks import closed_fraction, warn_caller, whole_number
from jepa_ssl.diagnostics import gradient_share

TRIED = 2  # measurements after the first, until a balance that has none is reported; one read of the device
LARGEST = 1e6  # KKT residuals of LPs have gradients up to a hundred thousand times JEPA's


class GradientBalance(nn.Module):
    """A factor on the JEPA loss that makes its gradient on shared parameters as long as the task's.

    Give it to `JEPATerm`, or to `LossWeights.combine(task, jepa, balance)`. The weight of JEPA is then the ratio of its
    gradient to the task's, not a constant factor on its loss.

    The ratio of the two norms is measured every `every` calls, which costs about one more backward pass each time, and
    its logarithm is averaged. A measurement in which a gradient is zero or not finite is left out; before the first
    valid one the factor is 1. The factor stays below `LARGEST`: without this limit, rounding errors would be trained on
    after a collapse. The state is saved and resumed. Copy a balance together with the trunk: it holds the parameters
    themselves.

    Args:
        shared: the parameters that both losses train, `trunk.parameters()`. The last layer of the trunk costs less.
        every: number of calls from one measurement to the next.
        smoothing: weight of the old average at a measurement; the first measurements count equally.

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
                f"shared holds {len(self.shared)} parameters, but none that is trained; give those of the trunk that "
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
            if self.calls == TRIED * self.every and not int(self.measured):
                warn_caller(
                    f"in {TRIED + 1} measurements the gradient of JEPA or of the task on the shared parameters was 0 "
                    f"or not finite, so GradientBalance has no effect; give it the parameters of the trunk, which "
                    f"both losses train."
                )
        self.calls += 1
        return self.log_ratio.exp().clamp(max=LARGEST)

    def _measure(self, norms: dict[str, Tensor]) -> None:
        log_ratio = norms["task"].log() - norms["jepa"].log()
        counts = log_ratio.isfinite()
        share = (1.0 / (self.measured + 1.0)).clamp(min=1.0 - self.smoothing)
        self.log_ratio.lerp_(torch.where(counts, log_ratio, self.log_ratio), share)
        self.measured += counts

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.calls)

    def set_extra_state(self, state: Tensor) -> None:
        self.calls = int(state)
