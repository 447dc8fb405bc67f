"""Symmetries of LPs against HiGHS: the transformed LP has the solution that the map says, and back."""

import itertools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import astuple, fields, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from builders import seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from small_lps import LPs, SmallLP, Solved, apart, dense, in_form, kkt_residual, per_lp, random_lp, solve, sparse
from torch import Tensor

from jepa_ssl import JEPAObjective, MLPPredictor, StopGradTeacher, cosine_loss
from jepa_ssl.contrib.symmetries import (
    BoundsAsRows,
    ColumnScale,
    ColumnSplit,
    Compose,
    DuplicateRow,
    EqualitiesAsInequalities,
    IdleVariable,
    Negation,
    ObjectiveScale,
    Permutation,
    RedundantRow,
    RHSScale,
    RowScale,
    Symmetry,
    TransformedLP,
    Translation,
)
from jepa_ssl.lp import DenseLP, SparseLP
from jepa_ssl.seeds import Randomness, Seeds

IN_PLACE = (Permutation, RowScale, ColumnScale, ObjectiveScale, RHSScale, Translation, Negation)
ADDING = (RedundantRow, DuplicateRow, ColumnSplit, IdleVariable, EqualitiesAsInequalities, BoundsAsRows)
ALL: dict[str, Symmetry] = {kind.__name__: kind() for kind in (*IN_PLACE, *ADDING)}
ALL["tight RedundantRow"] = RedundantRow(terms=1, slack=0.0)
NOT_DRAWN = ("EqualitiesAsInequalities", "BoundsAsRows")

each_symmetry = pytest.mark.parametrize("symmetry", ALL.values(), ids=ALL.keys())
each_form = pytest.mark.parametrize("form", [dense, sparse])


@cache
def ragged_lps(seed: int, count: int = 70) -> list[SmallLP]:
    """Feasible and bounded LPs of many sizes, without rows, without columns and without both among them."""
    sizes = [(0, 2), (2, 0), (0, 0), (1, 1), *np.random.default_rng(seed).integers(1, 8, size=(count - 4, 2)).tolist()]
    return [random_lp(1000 * seed + i, *size) for i, size in enumerate(sizes)]


def real(values: Tensor, lp: LPs, of: int) -> np.ndarray:
    return np.concatenate(per_lp(values, lp, of))


def assert_same(first: list[SmallLP], second: list[SmallLP]) -> None:
    for one, other in zip(first, second, strict=True):
        for name, mine in vars(one).items():
            np.testing.assert_allclose(mine, getattr(other, name), rtol=1e-12, atol=1e-12, err_msg=name)


def assert_optimal(lp: LPs, x: Tensor, lam: Tensor) -> None:
    """The KKT conditions, LP by LP."""
    for part, x_, lam_ in zip(apart(lp), per_lp(x, lp, 1), per_lp(lam, lp, 0), strict=True):
        assert kkt_residual(part, x_, lam_) < 1e-7  # False for NaN too


@cache
def batch_and_solution(form: Any, seed: int, count: int = 70) -> tuple[Any, Solved]:
    lp = form(ragged_lps(seed, count))
    return lp, solve(lp)


def assert_solutions_correspond(transformed: TransformedLP[Any], solved: Solved) -> None:
    source, instance, there = transformed.source, transformed.instance, solve(transformed.instance)
    objective = transformed.objective
    torch.testing.assert_close(there.value, objective.forward(solved.value), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(objective.backward(there.value), solved.value, rtol=1e-7, atol=1e-7)
    x, lam = transformed.map_solution(solved.x, solved.lam)
    assert_optimal(instance, x, lam)
    back = transformed.unmap_solution(x, lam)
    for of, mine, original in ((1, back[0], solved.x), (0, back[1], solved.lam)):
        np.testing.assert_allclose(real(mine, source, of), real(original, source, of), rtol=1e-12, atol=1e-12)
    assert_optimal(source, *transformed.unmap_solution(there.x, there.lam))


def test_the_lp_package_does_not_load_the_symmetries() -> None:
    code = "import sys, jepa_ssl, jepa_ssl.lp; print([name for name in sys.modules if 'contrib' in name])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@each_form
@pytest.mark.parametrize("seed", range(3))
@each_symmetry
def test_the_mapped_solution_is_optimal(symmetry: Symmetry, seed: int, form: Any) -> None:
    lp, solved = batch_and_solution(form, seed)
    assert_optimal(lp, solved.x, solved.lam)  # or nothing below means anything
    assert_solutions_correspond(symmetry.apply(lp, generator=seeded(seed)), solved)


@settings(max_examples=15)
@given(st.lists(st.sampled_from(sorted(ALL)), max_size=4), st.integers(0, 2**31), st.sampled_from([dense, sparse]))
def test_symmetries_compose(names: list[str], seed: int, form: Any) -> None:
    lp, solved = batch_and_solution(form, 7, 12)
    transformed = Compose([ALL[name] for name in names]).apply(lp, generator=seeded(seed))
    assert_solutions_correspond(transformed, solved)


def test_equivalences_lead_to_the_flat_form() -> None:
    """`[vec(A), b, c]` has no room for equalities and bounds. Without them the optimum is the same."""
    lp, solved = batch_and_solution(dense, 0)
    flat = Compose([EqualitiesAsInequalities(), BoundsAsRows()]).apply(lp).instance
    assert not flat.equality[flat.mask_m].any()
    assert flat.lower[flat.mask_n].isneginf().all()
    assert flat.upper[flat.mask_n].isposinf().all()
    assert flat.vectors().values[flat.vectors().valid].isfinite().all()
    torch.testing.assert_close(solve(flat).value, solved.value, rtol=1e-7, atol=1e-7)


def test_a_wrong_map_is_found() -> None:
    """The checks above can fail: rows are scaled, and the multipliers are not."""
    lp, solved = batch_and_solution(sparse, 0)
    with pytest.raises(AssertionError):
        assert_optimal(RowScale().apply(lp, generator=seeded()).instance, solved.x, solved.lam)


# Draws


@pytest.mark.parametrize("padding", [torch.nan, 2.0])
@each_symmetry
def test_with_names_an_lp_is_transformed_alike_in_any_form_and_company(symmetry: Symmetry, padding: float) -> None:
    lps = ragged_lps(1, 20)
    names = torch.arange(20) * 7 + 3

    def apply(lp: Any, names: Tensor) -> TransformedLP[Any]:
        return symmetry.apply(lp, generator=Seeds(names, epoch=2))

    ragged, padded = apply(sparse(lps), names), apply(dense(lps, padding=padding), names)
    assert_same(apart(ragged.instance), apart(padded.instance))
    x, lam = (torch.randn(len(v), dtype=torch.float64, generator=seeded()) for v in (ragged.source.c, ragged.source.b))
    x_slots = in_form(x.split([len(lp.c) for lp in lps]), padded.source, 1)
    lam_slots = in_form(lam.split([len(lp.b) for lp in lps]), padded.source, 0)
    mapped, mapped_slots = ragged.map_solution(x, lam), padded.map_solution(x_slots, lam_slots)
    for of, found, expected in ((1, mapped_slots[0], mapped[0]), (0, mapped_slots[1], mapped[1])):
        np.testing.assert_allclose(real(found, padded.instance, of), expected.numpy(), atol=1e-12)

    order = [5, 0, 19, 7]
    some = apart(apply(sparse([lps[i] for i in order]), names[order]).instance)
    assert_same([apart(ragged.instance)[i] for i in order], some)


@each_symmetry
def test_same_draw_in_both_forms_without_padding(symmetry: Symmetry) -> None:
    lps = [random_lp(seed, 4, 5) for seed in range(10)]
    ragged = symmetry.apply(sparse(lps), generator=seeded(5))
    padded = symmetry.apply(dense(lps, extra=0), generator=seeded(5))
    assert_same(apart(ragged.instance), apart(padded.instance))


@pytest.mark.parametrize("randomness", [seeded, lambda seed: Seeds(torch.arange(70), epoch=seed)])
@each_symmetry
@each_form
def test_draws_come_from_the_generator_alone(symmetry: Symmetry, form: Any, randomness: Any) -> None:
    lp, _ = batch_and_solution(form, 2)
    before = [t.clone() for t in astuple(lp)]

    def drawn(seed: int, global_seed: int) -> list[SmallLP]:
        torch.manual_seed(global_seed)
        state = torch.get_rng_state()
        transformed = symmetry.apply(lp, generator=randomness(seed))
        assert torch.equal(torch.get_rng_state(), state)
        return apart(transformed.instance)

    one = drawn(1, 0)
    assert_same(one, drawn(1, 99))
    if type(symmetry).__name__ not in NOT_DRAWN:
        with pytest.raises(AssertionError):
            assert_same(one, drawn(2, 0))
    for old, new in zip(before, astuple(lp), strict=True):
        torch.testing.assert_close(old, new, rtol=0, atol=0, equal_nan=True)  # unwritten


@pytest.mark.parametrize("randomness", [seeded(), Seeds(torch.arange(1000))])
def test_picked_items_are_uniform(randomness: Randomness) -> None:
    """Which row is doubled: of 5, each 200 times in 1000; chi-square with 4 degrees of freedom, 1 in 10^5."""
    lp = sparse([random_lp(0, 5, 3)] * 1000)
    rhs = DuplicateRow().apply(lp, generator=randomness).instance.b.reshape(1000, 6)
    counts = (rhs[:, :5] == rhs[:, 5:]).sum(0).double()
    assert counts.sum() == 1000
    assert ((counts - 200) ** 2 / 200).sum() < 28.5


@pytest.mark.parametrize("randomness", [seeded(), Seeds(torch.arange(70))])
def test_scales_are_bounded_and_translations_normal(randomness: Randomness) -> None:
    lp, _ = batch_and_solution(sparse, 2)
    ones = replace(lp, b=torch.ones_like(lp.b))
    scale = RowScale(factor=3.0).apply(ones, generator=randomness).instance.b
    assert 1 / 3 <= scale.min() < 0.5
    assert 2 < scale.max() <= 3
    bounded = replace(lp, lower=torch.zeros_like(lp.c), upper=torch.ones_like(lp.c))
    shift = Translation(std=2.0).apply(bounded, generator=randomness).instance.lower
    assert abs(float(shift.mean())) < 0.5
    assert float(shift.std()) == pytest.approx(2.0, rel=0.15)


def test_names_of_other_lps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Seeds of 2 names, but there are 3 instances"):
        RowScale().apply(sparse([random_lp(0, 2, 2)] * 3), generator=Seeds(torch.arange(2)))


# Tensors

SHARED: dict[type[Symmetry], set[str]] = {
    Permutation: {"coefficient"},
    RowScale: {"edge_index", "c", "equality", "lower", "upper"},
    ColumnScale: {"edge_index", "b", "equality"},
    ObjectiveScale: {"A", "edge_index", "coefficient", "b", "equality", "lower", "upper"},
    RHSScale: {"A", "edge_index", "coefficient", "c", "equality"},
    Translation: {"A", "edge_index", "coefficient", "c", "equality"},
    Negation: {"edge_index", "b", "equality"},
    RedundantRow: {"c", "lower", "upper"},
    DuplicateRow: {"c", "lower", "upper"},
    ColumnSplit: {"b", "equality"},
    IdleVariable: {"coefficient", "b", "equality"},
    EqualitiesAsInequalities: {"c", "lower", "upper"},
    BoundsAsRows: {"c"},
}


@pytest.mark.parametrize(
    ("form", "kind"),
    [*itertools.product([dense], (*IN_PLACE, *ADDING)), *itertools.product([sparse], (*IN_PLACE, IdleVariable))],
)
def test_no_value_is_read(form: Any, kind: type[Symmetry]) -> None:
    """On the meta device, which has no values: a GPU is not waited for, except to count new sparse coefficients."""
    lp, _ = batch_and_solution(form, 2)
    unknown = type(lp)(*(t.to("meta") for t in astuple(lp)))
    transformed = kind().apply(unknown)
    x, lam = transformed.map_solution(unknown.c, unknown.b)
    assert [t.shape for t in transformed.unmap_solution(x, lam)] == [unknown.c.shape, unknown.b.shape]


@each_form
@pytest.mark.parametrize("kind", SHARED)
def test_what_does_not_change_is_shared(kind: type[Symmetry], form: Any) -> None:
    lp, _ = batch_and_solution(form, 2)
    views = kind()(lp, generator=seeded())
    assert views.target is lp
    assert views.context is views.transformed.instance
    assert type(views.context) is type(lp)
    shared = {f.name for f in fields(lp) if getattr(views.context, f.name) is getattr(lp, f.name)}
    rows_or_columns = {"mask_m", "mask_n", "constraint_offsets", "variable_offsets"}
    assert shared - rows_or_columns == SHARED[kind] & {f.name for f in fields(lp)}


def test_dtype_is_kept() -> None:
    lp, _ = batch_and_solution(sparse, 2)
    for dtype, symmetry in itertools.product((torch.float16, torch.float32), ALL.values()):
        cast = SparseLP(*(t.to(dtype) if t.is_floating_point() else t for t in astuple(lp)))
        transformed = symmetry.apply(cast, generator=seeded()).instance
        assert {t.dtype for t in astuple(transformed) if t.is_floating_point()} == {dtype}


@each_symmetry
def test_empty_batches(symmetry: Symmetry) -> None:
    values, ends = torch.zeros(0), torch.zeros(1).long()
    never = torch.zeros(0, dtype=torch.bool)
    none = SparseLP(torch.zeros(2, 0).long(), values, values, values, ends, ends, never, values, values)
    assert symmetry.apply(none, generator=seeded()).instance.num_graphs == 0
    padded = DenseLP(*(t[:0] for t in astuple(dense([random_lp(0, 3, 2)]))))
    assert len(symmetry.apply(padded, generator=seeded()).instance.b) == 0


# Views


@each_form
def test_rows_and_columns_are_found_again(form: Any) -> None:
    """Through symmetries that move and add items but leave x and lam of the old ones: the solution is found there."""
    lp, solved = batch_and_solution(form, 3)
    moves = [
        IdleVariable(),
        RedundantRow(),
        Permutation(),
        BoundsAsRows(),
        Permutation(),
        IdleVariable(),
        RedundantRow(),
    ]
    transformed = Compose(moves).apply(lp, generator=seeded())
    mapped = transformed.map_solution(solved.x, solved.lam)
    places: Any = transformed.columns, transformed.rows
    for of, values, at, expected in zip((1, 0), mapped, places, solved[:2], strict=True):
        found = values[at] if form is sparse else values.gather(1, at)
        np.testing.assert_array_equal(real(found, lp, of), real(expected, lp, of))


def test_a_symmetry_makes_views_for_the_objective() -> None:
    """Streams of items if they stay in their places; an embedding of the whole LP for any symmetry."""
    lp, _ = batch_and_solution(sparse, 2)

    def items(lp: SparseLP) -> dict[str, Tensor]:
        return {"variable": torch.stack([lp.c, lp.c.new_ones(len(lp.c))], dim=1)}

    def whole(lp: SparseLP) -> dict[str, Tensor]:
        size = torch.stack([lp.variable_offsets.diff(), lp.constraint_offsets.diff()], dim=1)
        return {"instance": size.double() + 1}

    for symmetry, encoder, stream in ((ColumnScale(), items, "variable"), (DuplicateRow(), whole, "instance")):
        jepa = JEPAObjective(symmetry, MLPPredictor({stream: 2}).double(), StopGradTeacher())
        assert jepa(encoder, lp, generator=seeded()).total.isfinite()


@pytest.mark.parametrize(
    "symmetry", [Permutation(), DuplicateRow(), ColumnSplit(), Compose([IdleVariable(), Permutation()])]
)
def test_items_are_compared_with_themselves_wherever_they_went(symmetry: Symmetry) -> None:
    """An encoder that names each item by a number that the symmetry leaves alone predicts its target exactly."""
    lp, _ = batch_and_solution(sparse, 4)
    b, c = (torch.arange(1.0, len(part) + 1, dtype=part.dtype) for part in (lp.b, lp.c))
    lp = replace(lp, b=b, c=c)

    def name(batch: SparseLP) -> dict[str, Tensor]:
        angles = {"constraint": batch.b / (len(lp.b) + 1), "variable": batch.c / (len(lp.c) + 1)}
        return {stream: torch.stack([angle.cos(), angle.sin()], dim=1) for stream, angle in angles.items()}

    jepa = JEPAObjective(symmetry, dict, StopGradTeacher())
    assert jepa(name, lp, generator=seeded()).total.abs() < 1e-6


@each_symmetry
def test_each_lp_weighs_the_same_in_the_order_of_the_target(symmetry: Symmetry) -> None:
    sizes = [(2, 9), (7, 3), (1, 1)]
    views = symmetry(sparse([random_lp(i, *size) for i, size in enumerate(sizes)]), generator=seeded())
    for stream, counts in zip(("constraint", "variable"), zip(*sizes, strict=True), strict=True):
        expected = torch.tensor([1 / count for count in counts for _ in range(count)], dtype=torch.float64)
        torch.testing.assert_close(views.weight[stream], expected)
    assert not symmetry(dense([random_lp(0, 3, 2)]), generator=seeded()).weight


def test_a_large_lp_does_not_outvote_a_small_one() -> None:
    """The large LP is embedded as its source is, the small one as the opposite of its source."""
    lp = sparse([random_lp(0, 30, 30), random_lp(1, 2, 2)])
    small = torch.arange(len(lp.c)) >= 30

    def encoder(batch: SparseLP) -> dict[str, Tensor]:
        return {"variable": torch.where(small & (batch is not lp), -1.0, 1.0).unsqueeze(1)}

    jepa = JEPAObjective(RowScale(), dict, StopGradTeacher())
    expected = cosine_loss(torch.ones(2, 1), torch.tensor([[1.0], [-1.0]])).mean()
    assert jepa(encoder, lp, generator=seeded()).total == expected


# Errors

WRONG_FACTORS = (0.0, 1.0, -2.0, torch.inf, torch.nan)


@pytest.mark.parametrize(
    ("kind", "name", "bad"),
    [
        *itertools.product((RowScale, ColumnScale, ObjectiveScale, RHSScale, IdleVariable), ["factor"], WRONG_FACTORS),
        (Translation, "std", -1.0),
        *itertools.product([RedundantRow], ["terms"], (0, -1, 1.5, 2.0, torch.nan)),
        (RedundantRow, "slack", -0.1),
    ],
)
def test_bad_arguments_are_named(kind: Any, name: str, bad: float) -> None:
    with pytest.raises(ValueError, match=f"^{name} is .*but must be"):
        kind(**{name: bad})


def test_numbers_out_of_order_are_named() -> None:
    lp, _ = batch_and_solution(sparse, 2)
    with pytest.raises(ValueError, match=r"c\[0\] is nan, but must be finite"):
        Permutation().apply(replace(lp, c=torch.full_like(lp.c, torch.nan)))
    with pytest.raises(ValueError, match=r"edge_index\[:, \d+\] joins a constraint of graph"):
        RowScale()(replace(lp, edge_index=torch.stack([lp.edge_index[0], lp.edge_index[1].flip(0)])))


@pytest.mark.parametrize("bad", [RowScale(), [1], [RowScale(), None], RowScale, "ab", None])
def test_compose_takes_a_list_of_symmetries(bad: Any) -> None:
    with pytest.raises(TypeError, match=r"symmetries is .*list of symmetries; write Compose\(\["):
        Compose(bad)


def test_bad_instances_and_solutions_are_named() -> None:
    with pytest.raises(TypeError, match=r"instance is a Tensor, .* give a DenseLP or a SparseLP"):
        RowScale()(torch.zeros(2, 3))  # pyright: ignore
    lp, solved = batch_and_solution(sparse, 2)
    transformed = IdleVariable().apply(lp, generator=seeded())
    with pytest.raises(ValueError, match=r"x is .* but this LP has"):
        transformed.unmap_solution(solved.x, solved.lam)
    with pytest.raises(ValueError, match=r"lam is .* but this LP has"):
        transformed.map_solution(solved.x, solved.lam[1:])


# Transformations that look harmless and are not symmetries


def optimum(lp: SmallLP) -> float:
    result: Any = linprog(lp.c, lp.A, lp.b, bounds=np.stack([lp.lower, lp.upper], axis=1), method="highs")
    return result.fun if result.status == 0 else np.nan


def without_a_row(lp: SmallLP, rng: np.random.Generator) -> SmallLP:
    keep = np.arange(len(lp.b)) != rng.integers(len(lp.b))
    return replace(lp, A=lp.A[keep], b=lp.b[keep])


def without_a_fifth_of_A(lp: SmallLP, rng: np.random.Generator) -> SmallLP:
    return replace(lp, A=lp.A * (rng.permutation(lp.A.size) >= lp.A.size // 5).reshape(lp.A.shape))


@pytest.mark.parametrize(("change", "least"), [(without_a_row, 25), (without_a_fifth_of_A, 75)])
def test_invalid_views_change_the_optimum(
    change: Callable[[SmallLP, np.random.Generator], SmallLP], least: int
) -> None:
    """Counterexamples are common: at least `least` of 100 bounded feasible LPs with 8 rows and 6 variables."""
    rng = np.random.default_rng(0)
    changed = 0
    for _ in range(100):
        A, x0 = rng.normal(size=(8, 6)), rng.random(6)
        lp = SmallLP(A, A @ x0 + rng.random(8), rng.normal(size=6), np.zeros(8, bool), np.zeros(6), np.ones(6))
        changed += not np.isclose(optimum(lp), optimum(change(lp, rng)), rtol=1e-7, atol=1e-7)
    print(f"{change.__name__}: the optimum of {changed} in 100 LPs changes")  # pytest -s shows it
    assert changed >= least
