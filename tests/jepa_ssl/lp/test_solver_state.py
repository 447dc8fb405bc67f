"""Solver states as views: what is in them, how they are standardised, stored and handed back, and what is refused."""

import copy
import re
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from data.generators import FAMILIES, generate
from small_lps import SmallLP, dense, random_lp, sparse
from torch import Tensor, nn

from jepa_ssl import JEPAObjective, MLPPredictor
from jepa_ssl.lp import SolverState, SparseLP, split_states
from jepa_ssl.lp.pdhg import Problem, iterate

KINDS = ("constraint", "variable")
SIZES = [(4, 5), (1, 3), (6, 2), (0, 2), (3, 4)]
LPS = [random_lp(seed, *size) for seed, size in enumerate(SIZES)]
DTYPES = [torch.float32, torch.float64]
FREE = np.array([np.inf])


def fitted(steps: Any = (3, 20), **options: Any) -> SolverState[Any]:
    lp_of = options.get("lp_of")
    return SolverState(steps, **options).fit([sparse(LPS)] if lp_of is None else [("batch", sparse(LPS))])


# What is in them


def test_states_are_the_points_and_their_residuals_by_plain_matrices():
    states = SolverState((3, 20)).states(sparse(LPS))
    pieces = split_states(sparse(LPS), states)
    for lp, piece in zip(LPS, pieces, strict=True):
        A, b, c = (torch.tensor(part) for part in (lp.A, lp.b, lp.c))
        problem = Problem.of(sparse([lp]))
        for h, (x, lam) in enumerate(iterate(problem, (3, 20), problem.zero())):
            expected = {"variable": torch.stack([x, c + A.T @ lam], 1), "constraint": torch.stack([lam, b - A @ x], 1)}
            for kind in KINDS:
                torch.testing.assert_close(piece[kind][:, 2 * h : 2 * h + 2], expected[kind], rtol=1e-12, atol=1e-12)


def test_one_number_of_steps_is_a_sequence_of_one():
    assert torch.equal(SolverState(7).states(sparse(LPS))["variable"], SolverState([7]).states(sparse(LPS))["variable"])


def test_restarts_reach_the_iteration():
    lp = sparse(LPS)
    problem = Problem.of(lp)
    x = iterate(problem, (20,), problem.zero(), restart_every=5)[0][0]
    found = SolverState(20, restart_every=5).states(lp)["variable"]
    assert torch.equal(found[:, 0], x)
    assert not torch.equal(found, SolverState(20).states(lp)["variable"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_views_of_ragged_lps(dtype: torch.dtype):
    lp = sparse(LPS, dtype)
    views = fitted()(lp)
    assert views.context is lp
    assert views.hidden == {"constraint": None, "variable": None}
    for kind, sizes in zip(KINDS, zip(*SIZES, strict=True), strict=True):
        assert views.target[kind].shape == (sum(sizes), 4)
        assert views.target[kind].dtype == views.weight[kind].dtype == dtype
        expected = [1 / size for size in sizes for _ in range(size)]
        torch.testing.assert_close(views.weight[kind], torch.tensor(expected, dtype=dtype))


@pytest.mark.parametrize("padding", [torch.nan, 7.0])
def test_the_views_of_padded_lps_are_those_of_ragged_ones_laid_out(padding: float):
    batch, view = dense(LPS, padding=padding), fitted()
    views = view(batch)
    assert views.context is batch
    assert views.hidden == {"instance": None}
    assert not views.weight
    _, m, n = batch.A.shape
    constraint, variable = views.target["instance"].split([4 * m, 4 * n], dim=1)
    ragged = view(sparse(LPS)).target
    for found, mask, expected in (
        (constraint.unflatten(1, (m, 4)), batch.mask_m, ragged["constraint"]),
        (variable.unflatten(1, (n, 4)), batch.mask_n, ragged["variable"]),
    ):
        torch.testing.assert_close(found[mask], expected, rtol=1e-10, atol=1e-10)
        assert (found[~mask] == 0).all()


def no_rhs(seed: int, m: int, n: int) -> SmallLP:
    lp = random_lp(seed, m, n)
    return replace(lp, b=0 * lp.b, lower=-np.ones(n))


@pytest.mark.parametrize("lps", [[lp for lp in LPS if len(lp.b)], [no_rhs(0, 3, 4), no_rhs(1, 5, 5)]])
@pytest.mark.parametrize("batch", [sparse, dense])
def test_scaling_the_objective_or_the_right_hand_side_scales_one_side_of_the_state(batch: Any, lps: list[SmallLP]):
    """Without right-hand sides, bounds give x its scale; an LP without rows has neither."""
    view, lp, s = SolverState((5, 30)), batch(lps), 8.0

    def with_scaled_rhs(lp: Any) -> Any:
        return replace(lp, b=s * lp.b, lower=s * lp.lower, upper=s * lp.upper)

    states, objective, rhs = (view.states(each) for each in (lp, replace(lp, c=s * lp.c), with_scaled_rhs(lp)))
    first, second = torch.tensor([s, 1, s, 1]), torch.tensor([1, s, 1, s])
    for found, kind, scales in (
        (objective, "variable", second), (objective, "constraint", first),
        (rhs, "variable", first), (rhs, "constraint", second),
    ):  # fmt: skip
        assert torch.equal(found[kind], states[kind] * scales)
    assert (states["variable"][..., 0] != 0).any()
    # Beyond the limits of the weight it is not exact.
    costly = replace(lp, c=1e9 * lp.c)
    assert not torch.equal(
        view.states(with_scaled_rhs(costly))["variable"][..., 2], s * view.states(costly)["variable"][..., 2]
    )


def test_no_gradient_flows_into_a_target():
    lp = sparse(LPS)
    views = fitted()(replace(lp, c=lp.c.clone().requires_grad_()))
    assert not any(target.requires_grad for target in views.target.values())


# Where they start


def test_a_given_start_is_moved_into_the_bounds_and_started_from():
    lp = sparse(LPS)
    problem, view = Problem.of(lp), SolverState(1)
    start = torch.full_like(lp.c, 5.0), torch.full_like(lp.b, -5.0)
    expected = iterate(problem, (1,), problem.projected(start))[0]
    states = view.states(lp, start=(start[0].float(), start[1].float()))
    assert torch.equal(states["variable"][:, 0], expected[0])
    assert torch.equal(states["constraint"][:, 0], expected[1])
    assert not torch.equal(states["variable"], view.states(lp)["variable"])


# Standardised


@pytest.mark.parametrize("batch", [sparse, dense])
def test_targets_have_mean_zero_and_deviation_one_over_what_was_fitted(batch: Any):
    lps = [random_lp(seed, 3 + seed % 3, 4) for seed in range(60)]
    batches = [batch(lps[:10]), batch(lps[10:])]
    view = SolverState((3, 20)).fit(batches)
    raw = SolverState((3, 20)).states(sparse(lps))
    for kind, states in raw.items():
        torch.testing.assert_close(view.get_buffer(f"{kind}_mean"), states.mean(0).float())
        torch.testing.assert_close(view.get_buffer(f"{kind}_std"), states.std(0, correction=0).float())
        z = view(sparse(lps)).target[kind]
        inside = ((states - states.mean(0)).abs() < 9.9 * states.std(0)).all(0)
        assert inside.any()
        torch.testing.assert_close(z.mean(0)[inside], torch.zeros_like(z[0])[inside], rtol=0, atol=1e-5)
        torch.testing.assert_close(z.std(0, correction=0)[inside], torch.ones_like(z[0])[inside], rtol=0, atol=1e-5)
    assert view.items.tolist() == [len(raw["constraint"]), len(raw["variable"])]


def test_a_number_that_never_changes_becomes_zero():
    lp = SmallLP(np.zeros((1, 1)), np.ones(1), np.zeros(1), np.zeros(1, dtype=bool), -FREE, FREE)
    for target in SolverState(3).fit([sparse([lp])])(sparse([lp])).target.values():
        assert (target == 0).all()


def test_fitting_again_forgets_the_first_time():
    view = fitted()
    again = SolverState((3, 20)).fit([sparse(LPS[:1])])
    view.fit([sparse(LPS[:1])])
    assert all(torch.equal(a, b) for a, b in zip(view.buffers(), again.buffers(), strict=True))


def test_without_statistics_there_are_no_targets():
    with pytest.raises(RuntimeError, match=r"no statistics.*call fit\(batches\).*load the state_dict"):
        SolverState(3)(sparse(LPS))


def test_statistics_are_saved_and_loaded():
    view, copied = fitted(), SolverState((3, 20))
    copied.load_state_dict(view.state_dict())
    for kind in KINDS:
        assert torch.equal(copied(sparse(LPS)).target[kind], view(sparse(LPS)).target[kind])
        assert torch.equal(copy.deepcopy(view)(sparse(LPS)).target[kind], view(sparse(LPS)).target[kind])
    copied.load_state_dict(SolverState((3, 20)).state_dict())
    with pytest.raises(RuntimeError, match="no statistics"):
        copied(sparse(LPS))


@pytest.mark.parametrize("steps", [(3, 30), (3,), (3, 20, 30)])
@pytest.mark.parametrize("strict", [True, False])
def test_statistics_of_other_steps_are_refused_and_leave_the_module_as_it_was(steps: tuple[int, ...], strict: bool):
    for other in (SolverState(steps), fitted(steps)):
        before, was_fitted = copy.deepcopy(other.state_dict()), other.fitted
        message = rf"are of steps=\(3, 20\), but this SolverState takes {re.escape(str(steps))}"
        with pytest.raises(ValueError, match=message):
            other.load_state_dict(fitted().state_dict(), strict=strict)
        assert other.fitted == was_fitted
        assert all(torch.equal(part, before[name]) for name, part in other.state_dict().items())


# Stored


@pytest.mark.parametrize("dtype", DTYPES)
def test_stored_states_are_the_fresh_ones_bit_for_bit_in_any_batch(dtype: torch.dtype):
    view = SolverState((3, 20), restart_every=7).fit([sparse(LPS, dtype)])
    stored = split_states(sparse(LPS, dtype), view.states(sparse(LPS, dtype)))
    for chosen in ([0], [3, 1], [4, 0, 2, 1, 3]):
        lp = sparse([LPS[i] for i in chosen], dtype)
        together = {kind: torch.cat([stored[i][kind] for i in chosen]) for kind in KINDS}
        cached = SolverState((3, 20), restart_every=7, states_of=lambda _, states=together: states)
        cached.load_state_dict(view.state_dict())
        fresh, found = view(lp), cached(lp)
        for kind in KINDS:
            assert torch.equal(found.target[kind], fresh.target[kind])
            assert torch.equal(found.weight[kind], fresh.weight[kind])


def test_states_of_padded_lps_are_cut_up_without_their_padding():
    batch = dense(LPS)
    states = SolverState(5).states(batch)
    for i, (piece, (m, n)) in enumerate(zip(split_states(batch, states), SIZES, strict=True)):
        assert torch.equal(piece["constraint"], states["constraint"][i, :m])
        assert torch.equal(piece["variable"], states["variable"][i, :n])


def test_pieces_do_not_keep_their_batch_in_memory():
    piece = split_states(sparse(LPS), SolverState(5).states(sparse(LPS)))[0]
    assert all(part.untyped_storage().nbytes() == part.numel() * part.element_size() for part in piece.values())


def test_padding_of_stored_states_is_not_read():
    batch = dense(LPS)
    states = SolverState(5).states(batch)
    states["constraint"][~batch.mask_m] = torch.nan
    views = SolverState(5, states_of=lambda _: states).fit([batch])(batch)
    assert torch.equal(views.target["instance"], SolverState(5).fit([batch])(batch).target["instance"])


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (("constraint", "variable"), r"constraint states of shape \[14, 2\], but must have \[14, 4\].*store"),
        (("variable",), "constraint states of shape none"),
        ((), "constraint states of shape none"),
    ],
)
def test_stored_states_of_other_steps_or_without_a_kind_are_refused(kept: tuple[str, ...], message: str):
    stored = {kind: SolverState(3).states(sparse(LPS))[kind] for kind in kept}
    with pytest.raises(ValueError, match=f"what states_of returned has {message}"):
        SolverState((3, 20), states_of=lambda _: stored).fit([sparse(LPS)])


# LPs without an optimum


def tiny(a: float, b: float, c: float, equality: bool = False, lower: float = -np.inf) -> SmallLP:
    """One row and one variable."""
    A, ends = np.array([[a]]), (np.array([lower]), np.array([np.inf]))
    return SmallLP(A, np.array([b]), np.array([c]), np.array([equality]), *ends)


INFEASIBLE, UNBOUNDED = tiny(1.0, -1.0, 1.0, lower=0.0), tiny(-1.0, 1.0, -1.0, lower=0.0)
ROWLESS = SmallLP(np.zeros((0, 1)), np.zeros(0), np.array([1.0]), np.zeros(0, dtype=bool), -FREE, FREE)
EMPTY_ROW = tiny(0.0, -1.0, 0.0, equality=True)


@pytest.mark.parametrize("batch", [sparse, dense])
@pytest.mark.parametrize("lp", [INFEASIBLE, UNBOUNDED, ROWLESS, EMPTY_ROW])
def test_lps_without_an_optimum_have_finite_targets_that_grow_no_further_than_the_limit(lp: SmallLP, batch: Any):
    view = SolverState((500, 1000)).fit([sparse(LPS, torch.float32)])
    alone = batch([lp], torch.float32)
    states = view.states(alone)
    half, whole = (
        max(float(states[kind][..., h : h + 2].abs().max()) for kind in KINDS if states[kind].numel()) for h in (0, 2)
    )
    assert whole == pytest.approx(2 * half, rel=0.01)  # the growth is linear
    targets = view(alone).target.values()
    assert all(target.isfinite().all() and (target.abs() <= 10).all() for target in targets)
    assert any((target.abs() == 10).any() for target in targets)
    neighbours = view(sparse([*LPS, lp], torch.float32)).target["variable"][:-1]
    assert torch.equal(neighbours, view(sparse(LPS, torch.float32)).target["variable"])


def test_coefficients_across_the_range_of_float32_leave_states_finite():
    lp = replace(LPS[0], A=LPS[0].A * np.array([1e-6, 1, 1e6, 1, 1]), b=1e8 * LPS[0].b)
    assert all(part.isfinite().all() for part in SolverState(1000).states(sparse([lp], torch.float32)).values())


@pytest.mark.parametrize("batch", [sparse, dense])
@pytest.mark.parametrize(
    ("lp", "finite"),
    [
        (tiny(1.0, 1.0, -3e38), False),
        (tiny(-1.0, 1.0, -3e38, lower=0.0), None),
        (tiny(1e-40, 1.0, -1.0), False),
        (tiny(np.nan, 1.0, -1.0), False),
        (tiny(1.0, 1.0, np.inf), None),
    ],
)
def test_targets_are_finite_whatever_the_numbers_are(lp: SmallLP, finite: bool | None, batch: Any):
    """`finite`: whether the states themselves are; None where that does not matter."""
    view = SolverState((3, 300)).fit([sparse(LPS, torch.float32)])
    targets = view(batch([*LPS, lp], torch.float32)).target
    assert all(target.isfinite().all() and (target.abs() <= 10).all() for target in targets.values())
    if finite is not None:
        states = view.states(batch([lp], torch.float32))
        assert all(part.isfinite().all() for part in states.values()) == finite


# LPs that are not what their owner means


def min_max(values: Tensor) -> Tensor:
    return ((values - values.min()) / (values.max() - values.min())).clamp(1e-5, 1)


def triangle(rescale: Any = lambda values: values) -> SparseLP:
    """max 2x + y  s.t.  x + y <= 4,  0 <= x <= 3,  y at least 0."""
    A = torch.tensor([[1.0, 1], [1, 0], [-1, 0], [0, -1]])
    edges, (b, c) = A.nonzero().T, (torch.tensor([4.0, 3, 0, 0]), torch.tensor([-2.0, -1]))
    sizes = torch.tensor([0, 4]), torch.tensor([0, 2])
    return SparseLP.inequalities(edges, A[tuple(edges)], rescale(b), rescale(c), *sizes)


def test_fit_warns_of_features_that_were_rescaled():
    assert SolverState(300).states(triangle())["variable"][:, 0].tolist() == pytest.approx([3, 1], rel=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SolverState(300).fit([triangle()])
    with pytest.warns(UserWarning, match=r"In none of 2 LPs .* rescaled .* test lp_of with .*check_lp") as found:
        SolverState(300).fit([triangle(min_max)] * 2)
    assert [warning.filename for warning in found] == [__file__]


@pytest.mark.parametrize("batch", [sparse, dense])
def test_fit_names_lps_whose_numbers_lie_apart(batch: Any):
    two = SmallLP(-np.eye(2), np.array([-3.0, -1e10]), np.ones(2), np.zeros(2, dtype=bool), np.zeros(2), FREE[[0, 0]])
    good = replace(LPS[0], A=LPS[0].A[:2, :2], b=LPS[0].b[:2], c=LPS[0].c[:2], equality=LPS[0].equality[:2])
    good = replace(good, lower=good.lower[:2], upper=good.upper[:2])
    with pytest.raises(ValueError, match=r"LP 1 .* has sides of 3 and 1e\+10, .* 3\.3e\+09 apart, and torch\.float32"):
        SolverState(3).fit([batch([good, two], torch.float32)])
    with pytest.warns(UserWarning, match=r"LP 0 .* has sides of 3 and 1e\+10, .* may be far from"):
        SolverState(3).fit([batch([two])])


@pytest.mark.parametrize("batch", [sparse, dense])
@pytest.mark.parametrize("width", [1e4, 1e6, 1e9])
def test_fit_names_lps_whose_solution_is_out_of_reach(batch: Any, width: float):
    """max x  s.t.  x - y <= 1,  x and y at least 0,  y at most `width`."""
    one = SmallLP(np.array([[1.0, -1]]), np.ones(1), np.array([-1.0, 0]), np.zeros(1, bool), np.zeros(2), FREE[[0, 0]])
    far, near = (replace(one, upper=np.array([np.inf, w])) for w in (width, 3.0))
    with pytest.warns(UserWarning, match=r"LP 1 .*: after 1024 steps x still moves in a straight line, .*big-Ms"):
        SolverState(3).fit([batch([near, far], torch.float32)])
    with pytest.warns(UserWarning, match=r"after 2000 steps"):
        SolverState(2000).fit([batch([far], torch.float32)])


@pytest.mark.parametrize("family", FAMILIES)
def test_fit_does_not_warn_of_generated_lps(family: str):
    size = FAMILIES[family].default_size
    lps = [generate(family, size, seed) for seed in range(20)]
    every = [SmallLP(lp.A.toarray(), lp.b, lp.c, lp.b < -np.inf, lp.c - np.inf, lp.c + np.inf) for lp in lps]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SolverState(100).fit([sparse(every, torch.float32)])


# In an objective


def test_it_serves_an_objective_whose_batches_are_no_lps():
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.constraint, self.variable = nn.Linear(1, 8), nn.Linear(1, 8)

        def forward(self, batch: tuple[str, SparseLP]) -> dict[str, Tensor]:
            b, c = batch[1].b.float(), batch[1].c.float()
            return {"constraint": self.constraint(b[:, None]), "variable": self.variable(c[:, None])}

    class TargetAsItIs:
        learns = False

        def __call__(self, encoder: Any, target: Any) -> Any:
            return target

        def update(self, encoder: Any) -> None: ...

    batch = ("batch", sparse(LPS, torch.float32))
    view = fitted(10, lp_of=lambda batch: batch[1])
    predictor = MLPPredictor(dict.fromkeys(KINDS, 8))
    project = nn.ModuleDict({kind: nn.Linear(8, 2) for kind in KINDS})
    jepa = JEPAObjective(view, lambda z: {k: project[k](p) for k, p in predictor(z).items()}, TargetAsItIs())
    encoder = Encoder()
    jepa(encoder, batch).total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())
    empty: SolverState[tuple[str, SparseLP]] = SolverState(10, lp_of=lambda batch: batch[1])
    resumed = JEPAObjective(empty, MLPPredictor({}), TargetAsItIs())
    resumed.load_state_dict({k: v for k, v in jepa.state_dict().items() if k.startswith("views.")}, strict=False)
    for kind in KINDS:
        assert torch.equal(empty(batch).target[kind], view(batch).target[kind])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("batch", [sparse, dense])
def test_a_gpu_is_not_waited_for_and_agrees(batch: Any):
    on_cpu = batch(LPS)
    on_gpu = type(on_cpu)(**{name: part.cuda() for name, part in vars(on_cpu).items()})
    view = SolverState((3, 20)).fit([on_cpu])
    expected = view(on_cpu).target
    view.cuda()
    view(on_gpu)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = view(on_gpu).target
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for stream, target in expected.items():
        torch.testing.assert_close(found[stream].cpu(), target, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("batch", [sparse, dense])
def test_no_value_is_read(batch: Any):
    """On the meta device, whose tensors have none: a GPU is not waited for."""
    lp = batch(LPS)
    unknown = type(lp)(**{name: part.to("meta") for name, part in vars(lp).items()})
    view = SolverState((2, 6), restart_every=2)
    expected = view.states(lp)
    view.fitted = True
    assert {kind: part.shape for kind, part in view.states(unknown).items()} == {
        kind: part.shape for kind, part in expected.items()
    }
    assert all(target.is_meta for target in view.to("meta")(unknown).target.values())


# Refused


@pytest.mark.parametrize(
    ("steps", "error", "message"),
    [
        *((bad, ValueError, "each larger than the one before.*100 is usual") for bad in ((), (10, 10), (100, 10))),
        *((bad, ValueError, "whole number that is at least 1; 100 is usual") for bad in (0, -1, 2.5, 100.0, torch.nan)),
        *(((bad, 200), TypeError, "must be a number") for bad in (True, "100")),
    ],
)
def test_steps_that_are_not_rising_whole_numbers_are_refused(steps: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=f"steps is .*{message}"):
        SolverState(steps)


def test_other_counts_of_steps():
    assert SolverState(np.array([3, 20]), restart_every=np.int64(7)).steps == (3, 20)  # pyright: ignore
    for bad in (0, 2.5, torch.nan):
        with pytest.raises(ValueError, match=r"restart_every is .*whole number that is at least 1; use None"):
            SolverState(3, restart_every=bad)  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match=r"steps is .*whole number that is at least 1"):
            SolverState((bad, 200))  # pyright: ignore[reportArgumentType]


def test_what_is_not_an_lp_is_refused():
    with pytest.raises(TypeError, match=r"instance is a Tensor, but a SparseLP or a DenseLP is needed; pass lp_of="):
        fitted()(torch.ones(3))
    lp_of: Any = tuple
    with pytest.raises(TypeError, match=r"lp_of returned a tuple"):
        SolverState(3, lp_of=lp_of).fit([(1, 2)])


def test_starts_that_do_not_fit_are_refused():
    lp = sparse(LPS)
    with pytest.raises(ValueError, match=r"start's x is \[2\], but the LPs need \[16\]"):
        SolverState(3).states(lp, start=(torch.ones(2), torch.ones(2)))
    start: Any = ()
    with pytest.raises(ValueError, match=r"start has 0 parts, but must be \(x, lam\)"):
        SolverState(3).states(lp, start=start)


@pytest.mark.parametrize("batch", [sparse, dense])
def test_fit_checks_numbers_and_edges(batch: Any):
    lp = batch(LPS)
    with pytest.raises(ValueError, match=r"c\[.*\] is nan, but must be finite"):
        SolverState(3).fit([replace(lp, c=torch.full_like(lp.c, torch.nan))])
    with pytest.raises(ValueError, match="give fit some batches"):
        SolverState(3).fit([])


def test_states_check_edges():
    lp = sparse(LPS)
    crossing = replace(lp, edge_index=torch.stack([lp.edge_index[0], lp.edge_index[1].flip(0)]))
    for use in (SolverState(3).states, fitted(3)):
        with pytest.raises(ValueError, match=r"joins a constraint of graph 0 to a variable of graph 4"):
            use(crossing)


def test_states_that_overflow_are_refused_by_fit():
    lp = replace(LPS[0], A=1e-30 * LPS[0].A, c=1e30 * LPS[0].c, lower=LPS[0].lower - np.inf)
    with pytest.raises(ValueError, match=r"states that are not finite, .*; rescale"):
        SolverState(3).fit([sparse([replace(lp, upper=lp.upper + np.inf)], torch.float32)])


@pytest.mark.parametrize("batch", [sparse, dense])
def test_autocast_leaves_states_as_they_are(batch: Any):
    lp, view = batch(LPS, torch.float32), SolverState((3, 20), restart_every=5)
    expected = view.states(lp)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = view.states(lp)
    for kind in KINDS:
        assert found[kind].dtype == torch.float32
        assert torch.equal(found[kind], expected[kind])


def test_states_of_other_lps_are_not_split():
    lp = sparse(LPS, torch.float32)
    states = SolverState(3).states(lp)
    with pytest.raises(ValueError, match=r"states has variable states of shape none, but must have \[16, '2h'\]"):
        split_states(lp, {"constraint": states["constraint"]})
    with pytest.raises(ValueError, match=r"states has constraint states of shape \[3, 2\], but must have \[14"):
        split_states(lp, {**states, "constraint": states["constraint"][:3]})
