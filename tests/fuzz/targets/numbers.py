"""Numbers that are not finite, or barely, in features, coefficients, embeddings and losses.

They are refused, or the result shows them. They never hang a loop, and never reach what does not depend on them.
"""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from data.lp import canonical, unscaled
from data.scaling import ruiz
from data.solve import solve
from hypothesis import strategies as st
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

from ..judging import Input, raised_on_purpose
from .calls import dense_lp, sparse_lp
from .pool import Draw, chance, made_by, one, seeded, with_some

STRANGE = (math.nan, math.inf, -math.inf, 1e38, -1e38, 1e308, 1e-320, 1e-40, 0.0, -0.0)


def inputs() -> st.SearchStrategy[Input]:
    checks = (_masks, _losses, _objective, _regularizers, _measures, _monitor, _balance, _states, _canonical, _ruiz)

    def make(draw: Draw) -> Input:
        g, check = seeded(draw), one(draw, checks)
        return Input(check.__name__.strip("_"), check(draw, g), _refuses)

    return made_by(make)


def _refuses(error: BaseException) -> bool:
    return isinstance(error, ValueError) and raised_on_purpose(error)


def _strange(draw: Draw, g: torch.Generator, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw normal numbers, some of them exchanged for strange ones."""
    return with_some(draw, torch.randn(*shape, generator=g, dtype=dtype), STRANGE, 10)


def _masks(draw: Draw, g: torch.Generator) -> Any:
    valid = torch.arange(8) < torch.randint(0, 9, (5, 1), generator=g)
    values, ratio = _strange(draw, g, 5, 8), one(draw, (0.2, 0.5, 0.9))
    masker = EntryMasker(ratio, indicator=draw(st.booleans()))

    def run() -> None:
        views = masker(FlatVectors(values, valid), generator=g)
        assert values[valid].isfinite().all(), "a number that is not finite was accepted"
        hidden = views.context.values[:, :8].nan_to_num() != values.nan_to_num()
        assert not (hidden & ~valid).any(), "padding was hidden"
        for row, size in enumerate(valid.sum(1).tolist()):
            wanted = max(min(max(int(ratio * size), 1), size - 1), 0)
            zeros, found = int((values[row][valid[row]] == 0).sum()), int(hidden[row].sum())
            assert wanted - zeros <= found <= wanted, f"{found} hidden, not {wanted}"

    return run


def _losses(draw: Draw, g: torch.Generator) -> Any:
    p, z = (_strange(draw, g, 6, 4, dtype=torch.float64) for _ in range(2))

    def run() -> None:
        strange, plain = p.isnan().any(1) | z.isnan().any(1), (p.abs() < 10).all(1) & (z.abs() < 10).all(1)
        for loss in (cosine_loss, smooth_l1_loss, squared_error):
            value = loss(p, z)
            assert value.shape == (6,), "another shape"
            assert value[strange].isnan().all(), f"{loss.__name__} hides a NaN"
            assert value[plain].isfinite().all(), f"{loss.__name__} of plain items is not finite"

    return run


def _objective(draw: Draw, g: torch.Generator) -> Any:
    """An item whose embedding is NaN shows in the loss if it counts, and nowhere if it does not."""
    embeddings, hidden = _strange(draw, g, 6, 4).requires_grad_(), torch.rand(6, generator=g) < 0.5
    weight = _strange(draw, g, 6).abs() * hidden if chance(draw, 20) else hidden.float()

    def run() -> None:
        views = Views(0, 1, {"item": hidden}, {"item": weight})
        jepa = JEPAObjective(lambda instance, generator=None: views, lambda z: z, StopGradTeacher(), squared_error)
        total = jepa(lambda view: {"item": embeddings if view == 0 else torch.zeros(6, 4)}, 0).total
        total.backward()
        counted = embeddings.detach()[hidden & (weight != 0)]
        if not counted.isfinite().all() or not weight.isfinite().all():
            assert not total.isfinite(), f"the loss is {total}, but a hidden embedding is not finite"
        elif (counted.abs() < 10).all():
            assert total.isfinite(), f"the loss is {total}, but what is hidden is finite"
            assert embeddings.grad is not None
            assert embeddings.grad[~hidden].eq(0).all(), "a gradient where nothing is predicted"

    return run


def _regularizers(draw: Draw, g: torch.Generator) -> Any:
    plain, valid = torch.randn(9, 4, generator=g), torch.rand(9, generator=g) < 0.7
    spoilt = with_some(draw, plain, STRANGE, 10)
    z = (spoilt if chance(draw, 30) else torch.where(valid.unsqueeze(1), plain, spoilt)).requires_grad_()
    both = (VICReg(on_sphere=draw(st.booleans())), SIGReg(slices=4, items=one(draw, (4, 20))))

    def run() -> None:
        for regularizer in both:
            value = regularizer({"item": z}, valid={"item": valid}, generator=g)
            (grad,) = torch.autograd.grad(value, [z])
            if (z.detach()[valid].abs() < 100).all():
                assert value.isfinite(), f"{type(regularizer).__name__} is {value}"
                assert grad[valid].isfinite().all(), "a gradient is not finite"
                assert grad[~valid].eq(0).all(), "a gradient on padding"

    return run


def _measures(draw: Draw, g: torch.Generator) -> Any:
    a, b = (_strange(draw, g, 7, 4) for _ in range(2))
    valid = None if draw(st.booleans()) else torch.rand(7, generator=g) < 0.6
    cloud = ("spread", "effective_rank", "mean_cosine")

    def run() -> None:
        real = a if valid is None else a[valid]
        for name in cloud if real.isnan().any() and len(real) > 1 else ():
            assert getattr(diagnostics, name)(a, valid).isnan().any(), f"{name} of NaN is a number"
        for name in ("teacher_distance", "prediction_cosine"):
            value = getattr(diagnostics, name)(a, b, valid)
            assert value.isnan() or not real.isnan().any(), f"{name} is {value} of NaN"

    return run


def _monitor(draw: Draw, g: torch.Generator) -> Any:
    clouds = [_strange(draw, g, one(draw, (1, 5, 9, 20)), 4) for _ in range(8)]
    masks = [torch.rand(len(z), generator=g) < 0.7 if draw(st.booleans()) else None for z in clouds]
    totals, norms = ([torch.tensor(one(draw, (0.5, *STRANGE))) for _ in range(8)] for _ in range(2))

    def run() -> None:
        monitor = CollapseMonitor(every=2, items=8, log=lambda row, step: None)
        for cloud, mask, total, norm in zip(clouds, masks, totals, norms, strict=True):
            z = {"item": cloud}
            encoded = Encoded(z, z, {} if mask is None else {"item": mask})
            monitor.observe(JEPALoss(total, {"total": total}, z, z, encoded))
            monitor.observe_gradients({"task": norm.abs(), "jepa": total.abs()})
            monitor.step()
        CollapseMonitor(every=2, items=8).set_extra_state(monitor.get_extra_state())

    return run


def _balance(draw: Draw, g: torch.Generator) -> Any:
    pairs = [[one(draw, (1.0, 0.1, *STRANGE)) for _ in range(2)] for _ in range(6)]

    def run() -> None:
        w = torch.ones(3, requires_grad=True)
        balance = GradientBalance([w], every=1)
        for task, jepa in pairs:
            factor = balance(task * w.sum(), jepa * w.sum())
            assert 0 <= float(factor) <= 1e6, f"the factor is {factor}"

    return run


def _states(draw: Draw, g: torch.Generator) -> Any:
    plain: Any = one(draw, (sparse_lp, dense_lp))(g)
    fields = [name for name in ("A", "coefficient", "b", "c", "lower", "upper") if hasattr(plain, name)]
    chosen = draw(st.lists(st.sampled_from(fields), max_size=2, unique=True))
    changes = {name: with_some(draw, getattr(plain, name), STRANGE, 10) for name in chosen}
    view = SolverState((3, 7), restart_every=one(draw, (None, 2)))

    def run() -> None:
        lp = replace(plain, **changes)
        view.states(lp)
        target = view.fit([plain])(lp).target
        assert all(part.isfinite().all() for part in target.values()), "a target is not finite"
        view.fit([lp])

    return run


def _model(draw: Draw, g: torch.Generator) -> dict[str, Any]:
    m, n = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    numbers = lambda *shape: _strange(draw, g, *shape, dtype=torch.float64).numpy()  # noqa: E731
    bounds = {"row_upper": numbers(m), "column_lower": -abs(numbers(n)), "column_upper": abs(numbers(n))}
    return {"c": numbers(n), "A": numbers(m, n), "row_lower": -np.inf, **bounds}


def _canonical(draw: Draw, g: torch.Generator) -> Any:
    return partial(_solve, _model(draw, g))


def _solve(model: dict[str, Any]) -> None:
    lp = canonical("odd", "fuzz", **model)
    assert all(np.isfinite(part).all() for part in (lp.A.data, lp.b, lp.c)), "a number is not finite"
    assert np.isfinite(solve(lp).x).all(), "x is not finite"


def _ruiz(draw: Draw, g: torch.Generator) -> Any:
    return partial(_scale, _model(draw, g), one(draw, (1, 10, 50)))


def _scale(model: dict[str, Any], rounds: int) -> None:
    lp = canonical("odd", "fuzz", **model)
    scaled = ruiz(lp, rounds)
    assert all(np.isfinite(part).all() for part in (scaled.A.data, scaled.b, scaled.c)), "a number is not finite"
    assert np.array_equal(unscaled(scaled).A.data, lp.A.data), "undoing the scaling does not give the LP back"
