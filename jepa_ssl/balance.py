"""Gradient balancing: hold the JEPA gradient on shared parameters at a chosen ratio to the task's."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from jepa_ssl.checks import closed_fraction, warn_caller, whole_number
from jepa_ssl.diagnostics import gradient_share

TRIED = 2  # warn after 1 + this many measurements if none was valid; the check reads the device once
LARGEST = 1e6  # KKT residuals of LPs have gradients up to 100,000 times JEPA's


class GradientBalance(nn.Module):
    """A factor on the JEPA loss that gives its gradient on shared parameters the norm of the task's.

    Give it to `JEPATerm`, or to `LossWeights.combine(task, jepa, balance)`. The weight of JEPA is then the ratio of its
    gradient to the task's, not a constant factor on its loss.

    The ratio of the two norms is measured every `every` calls, and its logarithm is averaged. A measurement takes about
    as long as a backward pass. It is left out if a gradient is zero or not finite. Before the first valid measurement
    the factor is 1. The factor is at most `LARGEST`: without a limit, training would amplify rounding errors after a
    collapse. The state is saved and resumed. Copy a balance together with the trunk, because it holds the trunk's
    parameters.

    Args:
        shared: the parameters that both losses train, `trunk.parameters()`. Those of the trunk's last layer take less
            time.
        every: measure once in this many calls.
        smoothing: weight of the old average at each measurement; the first measurements count equally.

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

    log_ratio: Tensor  # the average; a buffer, so that it is saved and moves with the module
    measured: Tensor  # number of valid measurements, int64

    def __init__(self, shared: Iterable[Tensor], *, every: int = 20, smoothing: float = 0.9) -> None:
        super().__init__()
        self.shared = list(shared)
        if not any(parameter.requires_grad for parameter in self.shared):
            raise ValueError(
                f"shared has {len(self.shared)} parameters, but none requires a gradient; give those of the trunk that "
                f"both losses train."
            )
        self.every = whole_number("every", every, least=1)
        self.smoothing = closed_fraction("smoothing", smoothing)
        self.calls = 0
        self.register_buffer("log_ratio", torch.zeros((), device=self.shared[0].device))
        self.register_buffer("measured", torch.zeros((), dtype=torch.int64, device=self.shared[0].device))

    def forward(self, task: Tensor, jepa: Tensor) -> Tensor:
        """Return the factor for these two losses, a scalar without gradient. Both losses need their graph."""
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
