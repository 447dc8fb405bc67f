"""Numbers that are not finite, or nearly so, in features, coefficients, embeddings and losses.

They are refused, or the result shows them; they never hang a loop, and never reach what does not depend on them.
"""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import lp as lps
import numpy as np
import torch
from torch import Tensor

from jepa_ssl import (
    CollapseMonitor,
    Encoded,
    EntryMasker,
    FlatVectors,
    GradientBalance,
    JEPAObjective,
    SIGReg,
    StopGradTeacher,
    VICReg,
    cosine_loss,
    diagnostics,
    smooth_l1_loss,
)
from jepa_ssl.losses import squared_error
from jepa_ssl.lp import SolverState
from jepa_ssl.protocols import JEPALoss, Views

from ..judging import Input, Target, raised_on_purpose
from .calls import dense_lp, sparse_lp
from .pool import seeded

STRANGE = (math.nan, math.inf, -math.inf, 1e38, -1e38, 1e308, 1e-320, 1e-40, 0.0, -0.0)


def target() -> Target:
    checks = (_masks, _losses, _objective, _regularizers, _measures, _monitor, _balance, _states, _canonical, _ruiz)

    def make(rng: random.Random) -> Input:
        g = seeded(rng)
        check = rng.choice(checks)
        state = rng.getstate()

        def run() -> None:
            rng.setstate(state)
            check(rng, g)

        return Input(check.__name__.strip("_"), run, _refuses)

    return make


def _refuses(error: BaseException) -> bool:
    return isinstance(error, ValueError) and raised_on_purpose(error)


def _spoilt(rng: random.Random, tensor: Tensor) -> Tensor:
    """With some strange numbers, or none."""
    result = tensor.clone()
    for _ in range(rng.choice((0, 1, 1, 2, 10))):
        result.view(-1)[rng.randrange(result.numel())] = torch.tensor(rng.choice(STRANGE), dtype=torch.float64).to(
            tensor
        )
    return result


def _masks(rng: random.Random, g: torch.Generator) -> None:
    valid = torch.arange(8) < torch.randint(0, 9, (5, 1), generator=g)
    values = _spoilt(rng, torch.randn(5, 8, generator=g))
    vectors = FlatVectors(values, valid)
    ratio = rng.choice((0.2, 0.5, 0.9))
    views = EntryMasker(ratio, indicator=rng.random() < 0.5)(vectors, generator=g)
    assert values[valid].isfinite().all(), "a number that is not finite was accepted"
    hidden = views.context.values[:, :8].nan_to_num() != values.nan_to_num()
    assert not (hidden & ~valid).any(), "padding was hidden"
    for row, size in enumerate(valid.sum(1).tolist()):
        wanted = max(min(max(int(ratio * size), 1), size - 1), 0)
        zeros = int((values[row][valid[row]] == 0).sum())
        assert wanted - zeros <= int(hidden[row].sum()) <= wanted, f"{int(hidden[row].sum())} hidden, not {wanted}"


def _losses(rng: random.Random, g: torch.Generator) -> None:
    p, z = (_spoilt(rng, torch.randn(6, 4, generator=g, dtype=torch.float64)) for _ in range(2))
    for loss in (cosine_loss, smooth_l1_loss, squared_error):
        value = loss(p, z)
        assert value.shape == (6,), "another shape"
        strange = p.isnan().any(1) | z.isnan().any(1)
        assert value[strange].isnan().all(), f"{loss.__name__} hides a NaN"
        plain = (p.abs() < 10).all(1) & (z.abs() < 10).all(1)
        assert value[plain].isfinite().all(), f"{loss.__name__} of plain items is not finite"


def _objective(rng: random.Random, g: torch.Generator) -> None:
    """An item whose embedding is NaN shows in the loss if it counts, and nowhere if it does not."""
    embeddings = _spoilt(rng, torch.randn(6, 4, generator=g)).requires_grad_()
    hidden = torch.rand(6, generator=g) < 0.5
    weight = _spoilt(rng, torch.rand(6, generator=g)).abs() * hidden if rng.random() < 0.2 else hidden.float()
    views = Views(0, 1, {"item": hidden}, {"item": weight})
    jepa = JEPAObjective(lambda instance, generator=None: views, lambda z: z, StopGradTeacher(), squared_error)
    total = jepa(lambda view: {"item": embeddings if view == 0 else torch.zeros(6, 4)}, 0).total
    total.backward()
    counted = embeddings.detach()[hidden & (weight != 0)]
    if not counted.isfinite().all() or not weight.isfinite().all():
        assert not total.isfinite(), f"the loss is {total}, but a hidden embedding is not finite"
    elif counted.abs().max() < 10 if len(counted) else True:
        assert total.isfinite(), f"the loss is {total}, but what is hidden is finite"
        grad = embeddings.grad
        assert grad is not None
        assert grad[~hidden].nan_to_num(nan=1.0).eq(0).all(), "a gradient where nothing is predicted"


def _regularizers(rng: random.Random, g: torch.Generator) -> None:
    plain = torch.randn(9, 4, generator=g)
    valid = torch.rand(9, generator=g) < 0.7
    z = torch.where(valid.unsqueeze(1), plain, _spoilt(rng, plain)).requires_grad_()
    if rng.random() < 0.3:
        z = _spoilt(rng, plain).requires_grad_()
    for regularizer in (VICReg(on_sphere=rng.random() < 0.5), SIGReg(slices=4, items=rng.choice((4, 20)))):
        value = regularizer({"item": z}, valid={"item": valid}, generator=g)
        (grad,) = torch.autograd.grad(value, [z])
        real = z.detach()[valid]
        if real.isfinite().all() and (not len(real) or real.abs().max() < 100):
            assert value.isfinite(), f"{type(regularizer).__name__} is {value}"
            assert grad[valid].isfinite().all(), "a gradient is not finite"
            assert grad[~valid].eq(0).all(), "a gradient on padding"


def _measures(rng: random.Random, g: torch.Generator) -> None:
    a, b = (_spoilt(rng, torch.randn(7, 4, generator=g)) for _ in range(2))
    valid = None if rng.random() < 0.5 else torch.rand(7, generator=g) < 0.6
    one: tuple[Callable[..., Tensor], ...] = (
        diagnostics.spread_per_dimension,
        diagnostics.spread,
        diagnostics.effective_rank,
        diagnostics.mean_cosine,
        diagnostics.uniformity,
    )
    real = a if valid is None else a[valid]
    for measure in one:
        value = measure(a, valid)
        if real.isnan().any() and len(real) > 1:
            assert value.isnan().any(), f"{measure.__name__} is {value} of NaN"
    for measure in (diagnostics.alignment, diagnostics.teacher_distance, diagnostics.prediction_cosine):
        value = measure(a, b, valid)
        if real.isnan().any():
            assert value.isnan(), f"{measure.__name__} is {value} of NaN"


def _monitor(rng: random.Random, g: torch.Generator) -> None:
    monitor = CollapseMonitor(every=2, items=8, log=lambda row, step: None)
    for _ in range(8):
        z = {"item": _spoilt(rng, torch.randn(rng.choice((0, 1, 5, 9, 20)) or 1, 4, generator=g))}
        valid = {"item": torch.rand(len(z["item"]), generator=g) < 0.7} if rng.random() < 0.5 else {}
        total = torch.tensor(rng.choice((0.5, *STRANGE)))
        monitor.observe(JEPALoss(total, {"total": total}, z, z, Encoded(z, z, valid)))
        if rng.random() < 0.5:
            monitor.observe_gradients({k: torch.tensor(abs(rng.choice((0.5, *STRANGE)))) for k in ("task", "jepa")})
        monitor.step()
    copy = CollapseMonitor(every=2, items=8)
    copy.set_extra_state(monitor.get_extra_state())


def _balance(rng: random.Random, g: torch.Generator) -> None:
    w = torch.ones(3, requires_grad=True)
    balance = GradientBalance([w], every=1)
    for _ in range(6):
        factor = balance(rng.choice((1.0, 2.0, *STRANGE)) * w.sum(), rng.choice((1.0, 0.1, *STRANGE)) * w.sum())
        assert factor.isfinite(), f"the factor is {factor}"
        assert 0 <= float(factor) <= 1e6, f"the factor is {factor}"


def _states(rng: random.Random, g: torch.Generator) -> None:
    lp: Any = rng.choice((sparse_lp, dense_lp))(g)
    fields = [name for name in ("A", "coefficient", "b", "c", "lower", "upper") if hasattr(lp, name)]
    plain = lp
    for name in rng.sample(fields, rng.choice((0, 1, 1, 2))):
        lp = replace(lp, **{name: _spoilt(rng, getattr(lp, name))})
    view = SolverState((3, 7), restart_every=rng.choice((None, 2)), average=rng.random() < 0.5)
    view.states(lp)
    view.fit([plain])
    target = view(lp).target
    assert all(part.isfinite().all() for part in target.values()), "a target is not finite"
    view.fit([lp])


def _model(rng: random.Random, g: torch.Generator) -> dict[str, Any]:
    m, n = rng.randint(1, 4), rng.randint(1, 4)
    spoil = lambda *shape: _spoilt(rng, torch.randn(*shape, generator=g, dtype=torch.float64)).numpy()  # noqa: E731
    bounds = {"row_upper": spoil(m), "column_lower": -abs(spoil(n)), "column_upper": abs(spoil(n))}
    return {"c": spoil(n), "A": spoil(m, n), "row_lower": -np.inf, **bounds}


def _canonical(rng: random.Random, g: torch.Generator) -> None:
    lp = lps.canonical("odd", "fuzz", **_model(rng, g))
    assert all(np.isfinite(part).all() for part in (lp.A.data, lp.b, lp.c)), "a number is not finite"
    solution = lps.solve(lp)
    assert np.isfinite(solution.x).all(), "x is not finite"


def _ruiz(rng: random.Random, g: torch.Generator) -> None:
    lp = lps.canonical("odd", "fuzz", **_model(rng, g))
    scaled = lps.ruiz(lp, rng.choice((1, 10, 50)))
    assert all(np.isfinite(part).all() for part in (scaled.A.data, scaled.b, scaled.c)), "a number is not finite"
    back = lps.unscaled(scaled)
    assert np.array_equal(back.A.data, lp.A.data), "to undo the scaling does not give the LP back"
