"""How far a predicted `(x, lam)` is from the KKT conditions of `min c'x  s.t.  Ax <= b`."""

import torch
from torch import Tensor
from torch.nn import functional as F


def kkt_loss(
    y_pred: Tensor,
    A: Tensor,
    b: Tensor,
    c: Tensor,
    mask_m: Tensor,
    mask_n: Tensor,
    primal_weight: float = 0.1,
    dual_weight: float = 0.1,
    stationarity_weight: float = 0.6,
    complementary_slackness_weight: float = 0.2,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted KKT residual of a padded batch, which is 0 exactly at an optimum.

    The terms are `relu(Ax - b)^2` (primal), `relu(-lam)^2` (dual), `(c + A'lam)^2` (stationarity) and `(lam * (Ax -
    b))^2` (complementary slackness). Each term is a mean over one instance's real rows (columns), then over instances,
    so every LP has the same weight. The padding of `y_pred`, `b` and `c` is never counted, even if it is NaN; the
    padding of `A` need only be finite.

    Args:
        y_pred: `[B, N + M]`, x then lam.
        A, b, c: `[B, M, N]`, `[B, M]`, `[B, N]`.
        mask_m, mask_n: `[B, M]` and `[B, N]`, 1.0 on real rows and columns, 0.0 on padding.

    Returns:
        The loss, a scalar with gradient, and the terms before weighting: detached scalars, by the names above.

    Raises ValueError if a shape does not fit that of `A`; the message names the argument.

    >>> A, b, c = torch.tensor([[[-1.0]]]), torch.tensor([[-2.0]]), torch.tensor([[3.0]])
    >>> loss, terms = kkt_loss(torch.tensor([[2.0, 3.0]]), A, b, c, torch.ones(1, 1), torch.ones(1, 1))
    >>> loss.item()  # min 3x, x >= 2
    0.0
    """
    _check_shapes(A, y_pred=y_pred, b=b, c=c, mask_m=mask_m, mask_n=mask_n)
    columns = A.shape[2]
    row, column = mask_m > 0.5, mask_n > 0.5
    # `where`, since a product with a zero mask would pass NaN on, to the value or to the gradient
    x = torch.where(column, y_pred[:, :columns], 0.0)
    lam = torch.where(row, y_pred[:, columns:], 0.0)
    excess = torch.where(row, (A @ x.unsqueeze(2)).squeeze(2) - b, 0.0)
    reduced_cost = torch.where(column, c + (lam.unsqueeze(1) @ A).squeeze(1), 0.0)
    terms = {
        "primal": _mean(F.relu(excess).square(), row),
        "dual": _mean(F.relu(-lam).square(), row),
        "stationarity": _mean(reduced_cost.square(), column),
        "complementary_slackness": _mean((lam * excess).square(), row),
    }
    weights = primal_weight, dual_weight, stationarity_weight, complementary_slackness_weight
    first, *others = (weight * term for weight, term in zip(weights, terms.values(), strict=True))
    return sum(others, first), {name: term.detach() for name, term in terms.items()}


def _mean(squares: Tensor, real: Tensor) -> Tensor:
    """Mean over each instance's real entries (0 if none), then over instances; `squares` is 0 on padding."""
    return (squares.sum(1) / real.sum(1).clamp_min(1)).mean()


def _check_shapes(A: Tensor, **others: Tensor) -> None:
    if A.dim() != 3:
        raise ValueError(f"A has shape {tuple(A.shape)}, expected [B, M, N]: one dense matrix per instance.")
    batch, m, n = A.shape
    for (name, value), width in zip(others.items(), (n + m, m, n, m, n), strict=True):
        if tuple(value.shape) != (batch, width):
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}, expected {(batch, width)} to fit A of shape {tuple(A.shape)}."
            )


def pad_predictions(x_all: Tensor, lam_all: Tensor, m_sizes: Tensor, n_sizes: Tensor, M: int, N: int) -> Tensor:
    """Lay a graph batch's predictions out as `kkt_loss` reads them: `[B, N + M]`, x then lam, padded with zeros.

    Args:
        x_all, lam_all: `[sum_n]`, `[sum_m]`, graph after graph.
        m_sizes, n_sizes: `[B]` int64, rows and columns of each graph, on the predictions' device.
        M, N: the batch's padded sizes, as in `A` of shape `[B, M, N]`.

    Raises:
        ValueError: the sizes do not add up to the predictions, or exceed the padded size. Checked on the CPU only, and
            not when compiling: on a GPU that would wait for it.

    >>> x, lam = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0])
    >>> pad_predictions(x, lam, torch.tensor([1, 1]), torch.tensor([1, 2]), M=1, N=2)
    tensor([[1., 0., 4.],
            [2., 3., 5.]])
    """
    named = ("n_sizes", n_sizes, "x_all", x_all, N), ("m_sizes", m_sizes, "lam_all", lam_all, M)
    for name, sizes, values_name, values, width in named if m_sizes.device.type == "cpu" else ():
        if not torch.compiler.is_compiling() and (int(sizes.sum()) != len(values) or int(sizes.max()) > width):
            raise ValueError(
                f"{name} is {sizes.tolist()}, expected sizes of at most {width} that add up to "
                f"the {len(values)} items of {values_name}."
            )
    return torch.cat([_padded(x_all, n_sizes, N), _padded(lam_all, m_sizes, M)], dim=1)


def _padded(values: Tensor, sizes: Tensor, width: int) -> Tensor:
    graphs = torch.arange(len(sizes), device=sizes.device)
    graph = graphs.repeat_interleave(sizes, output_size=len(values))  # size given: no waiting for a GPU
    place = torch.arange(len(values), device=sizes.device) - (sizes.cumsum(0) - sizes)[graph]
    return values.new_zeros(len(sizes), width).index_put((graph, place), values)
