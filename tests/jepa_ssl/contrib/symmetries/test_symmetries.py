"""Symmetries of LPs, held against HiGHS: the image has the solution that the map says, and back."""

import itertools
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from builders import offsets, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.sparse import csr_array
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
from jepa_ssl.contrib.symmetries.additions import add_idle_variables, combine_rows, duplicate_rows, split_columns
from jepa_ssl.contrib.symmetries.permutation import permute
from jepa_ssl.contrib.symmetries.scales import scale_columns, scale_objective, scale_rhs, scale_rows, translate
from jepa_ssl.lp.instances import DenseLP, SparseLP

KINDS: dict[str, Callable[[], Symmetry]] = {
    "permutation": Permutation,
    "row scale": RowScale,
    "column scale": ColumnScale,
    "objective scale": ObjectiveScale,
    "side scale": RHSScale,
    "translation": Translation,
    "negation": Negation,
    "redundant row": RedundantRow,
    "tight redundant row": lambda: RedundantRow(terms=1, slack=0.0),
    "duplicate row": DuplicateRow,
    "column split": ColumnSplit,
    "idle variable": IdleVariable,
    "equalities as inequalities": EqualitiesAsInequalities,
    "bounds as rows": BoundsAsRows,
}
EVERY = [pytest.param(make(), id=name.replace(" ", "-")) for name, make in KINDS.items()]


# The batches: feasible and bounded, for x0 and lam0 are feasible for the primal and the dual.


class Plain(NamedTuple):
    """One LP in numpy."""

    A: np.ndarray
    b: np.ndarray
    c: np.ndarray
    equality: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def random_lp(rng: np.random.Generator, m: int, n: int) -> Plain:
    A = rng.normal(size=(m, n)) * (rng.random((m, n)) < 0.7)
    x0, equality = rng.normal(size=n), rng.random(m) < 0.3
    slack = np.where(equality, 0.0, rng.exponential(size=m) * (rng.random(m) < 0.5))
    lower = np.where(rng.random(n) < 0.7, x0 - rng.exponential(size=n) * (rng.random(n) < 0.7), -np.inf)
    upper = np.where(rng.random(n) < 0.7, x0 + rng.exponential(size=n), np.inf)
    lam0 = np.where(equality, rng.normal(size=m), rng.exponential(size=m))
    push = rng.normal(size=n)
    reduced = np.where(push > 0, push * np.isfinite(lower), push * np.isfinite(upper))
    return Plain(A, A @ x0 + slack, reduced - A.T @ lam0, equality, lower, upper)


def sparse_batch(lps: list[Plain]) -> SparseLP:
    rows, columns = offsets([len(lp.b) for lp in lps]), offsets([len(lp.c) for lp in lps])
    places = [np.argwhere(lp.A).T for lp in lps]
    edges = [torch.from_numpy(p) + torch.stack([rows[g], columns[g]])[:, None] for g, p in enumerate(places)]
    coefficients = [torch.from_numpy(lp.A[p[0], p[1]]) for lp, p in zip(lps, places, strict=True)]

    def joined(name: str) -> Tensor:
        return torch.from_numpy(np.concatenate([getattr(lp, name) for lp in lps]))

    return SparseLP(
        torch.cat(edges, dim=1),
        torch.cat(coefficients),
        joined("b"),
        joined("c"),
        rows,
        columns,
        joined("equality"),
        joined("lower"),
        joined("upper"),
    )


def dense_batch(lps: list[Plain], extra: int = 2, padding: float = torch.nan) -> DenseLP:
    """Padded beyond the largest, with NaN in the padding if nothing else is said: who reads it is found out."""
    m, n = (max(len(side) for side in sides) + extra for sides in zip(*((lp.b, lp.c) for lp in lps), strict=True))
    A = torch.full((len(lps), m, n), padding, dtype=torch.float64)
    for g, lp in enumerate(lps):
        A[g, : len(lp.b), : len(lp.c)] = torch.from_numpy(lp.A)
    b, equality = (padded([torch.from_numpy(getattr(lp, f)) for lp in lps], m, padding) for f in ("b", "equality"))
    c, lower, upper = (
        padded([torch.from_numpy(getattr(lp, f)) for lp in lps], n, padding) for f in ("c", "lower", "upper")
    )
    masks = [
        torch.arange(k) < torch.tensor([len(s) for s in sides])[:, None]
        for k, sides in ((m, [lp.b for lp in lps]), (n, [lp.c for lp in lps]))
    ]
    return DenseLP(A, b, c, masks[0], masks[1], equality, lower, upper)


def padded(parts: list[Tensor], size: int, padding: float) -> Tensor:
    out = torch.full((len(parts), size), padding if parts[0].is_floating_point() else 1).to(parts[0].dtype)
    for row, part in zip(out, parts, strict=True):
        row[: len(part)] = part
    return out


def plain(lp: DenseLP | SparseLP) -> list[Plain]:
    """The LPs of a batch, one by one, without padding."""
    if isinstance(lp, DenseLP):
        return [
            Plain(
                lp.A[g][rows][:, columns].numpy(),
                lp.b[g][rows].numpy(),
                lp.c[g][columns].numpy(),
                lp.equality[g][rows].numpy(),
                lp.lower[g][columns].numpy(),
                lp.upper[g][columns].numpy(),
            )
            for g, (rows, columns) in enumerate(zip(lp.mask_m, lp.mask_n, strict=True))
        ]
    whole = csr_array((lp.coefficient.numpy(), lp.edge_index.numpy()), shape=(len(lp.b), len(lp.c)))
    assert whole.nnz == lp.edge_index.size(1), "a coefficient is given twice"
    blocks = whole.toarray()  # small enough, and faster to cut
    slices = [
        (slice(*rows), slice(*columns))
        for rows, columns in zip(
            itertools.pairwise(lp.constraint_offsets.tolist()),
            itertools.pairwise(lp.variable_offsets.tolist()),
            strict=True,
        )
    ]
    b, c, equality, lower, upper = (t.numpy() for t in (lp.b, lp.c, lp.equality, lp.lower, lp.upper))
    out = [Plain(blocks[r, k], b[r], c[k], equality[r], lower[k], upper[k]) for r, k in slices]
    assert sum(np.count_nonzero(p.A) for p in out) == np.count_nonzero(whole.data), "a coefficient joins two LPs"
    return out


def assert_same(first: list[Plain], second: list[Plain]) -> None:
    for one, other in zip(first, second, strict=True):
        for name, mine, yours in zip(Plain._fields, one, other, strict=True):
            np.testing.assert_allclose(mine, yours, rtol=1e-12, atol=1e-12, err_msg=name)


@dataclass
class Solved:
    x: Tensor
    lam: Tensor
    value: Tensor  # [LPs]


def solve(lp: DenseLP | SparseLP) -> Solved:
    """All LPs of the batch at once, as the blocks of one, by HiGHS; in lp's form, with NaN in its padding."""
    parts = plain(lp)
    ragged = sparse_batch(parts)
    A = csr_array((ragged.coefficient.numpy(), ragged.edge_index.numpy()), shape=(len(ragged.b), len(ragged.c)))
    b, equality = ragged.b.numpy(), ragged.equality.numpy()
    result: Any = linprog(
        ragged.c.numpy(),
        A_ub=A[~equality],
        b_ub=b[~equality],
        A_eq=A[equality],
        b_eq=b[equality],
        bounds=np.stack([ragged.lower.numpy(), ragged.upper.numpy()], axis=1),
        method="highs",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    assert result.status == 0, result.message
    lam = np.zeros(len(b))
    lam[~equality], lam[equality] = -result.ineqlin.marginals, -result.eqlin.marginals
    xs = torch.from_numpy(result.x).split([len(p.c) for p in parts])
    lams = torch.from_numpy(lam).split([len(p.b) for p in parts])
    value = torch.stack([x @ torch.from_numpy(p.c) for x, p in zip(xs, parts, strict=True)])
    if isinstance(lp, SparseLP):
        return Solved(torch.cat(xs), torch.cat(lams), value)
    return Solved(in_slots(xs, lp.mask_n), in_slots(lams, lp.mask_m), value)


def in_slots(parts: tuple[Tensor, ...], mask: Tensor) -> Tensor:
    return torch.full(mask.shape, torch.nan, dtype=torch.float64).masked_scatter(mask, torch.cat(parts))


def per_lp(values: Tensor, lp: DenseLP | SparseLP, kind: str) -> list[np.ndarray]:
    if isinstance(lp, DenseLP):
        mask = lp.mask_m if kind == "row" else lp.mask_n
        return [v[real].numpy() for v, real in zip(values, mask, strict=True)]
    ends = lp.constraint_offsets if kind == "row" else lp.variable_offsets
    return [v.numpy() for v in values.split(ends.diff().tolist())]


def assert_optimal(lp: DenseLP | SparseLP, x: Tensor, lam: Tensor, tolerance: float = 1e-7) -> None:
    """The KKT conditions, LP by LP."""
    for p, x_, lam_ in zip(plain(lp), per_lp(x, lp, "column"), per_lp(lam, lp, "row"), strict=True):
        slack, reduced = p.b - p.A @ x_, p.c + p.A.T @ lam_
        size = tolerance * (1 + max([0.0, *np.abs(x_), *np.abs(lam_)]))
        assert np.isfinite(x_).all()
        assert np.isfinite(lam_).all()
        assert (np.where(p.equality, -np.abs(slack), slack) >= -size).all(), "a row is violated"
        assert (np.minimum(x_ - p.lower, p.upper - x_) >= -size).all(), "a bound is violated"
        assert (lam_[~p.equality] >= -size).all(), "a multiplier is negative"
        assert (np.abs(lam_ * slack) <= size * 10).all(), "a row with a multiplier is not tight"
        distance = np.where(reduced > 0, x_ - p.lower, p.upper - x_)
        assert np.minimum(np.abs(reduced), np.abs(distance)).max(initial=0.0) <= size, (
            "a reduced cost without its bound"
        )


@cache
def ragged_lps(seed: int, count: int = 70) -> list[Plain]:
    rng = np.random.default_rng(seed)
    sizes = [(0, 2), (2, 0), (0, 0), (1, 1), *rng.integers(1, 8, size=(count - 4, 2)).tolist()]
    return [random_lp(rng, m, n) for m, n in sizes]


@cache
def batch_and_solution(form: str, seed: int, count: int = 70) -> tuple[Any, Solved]:
    lps = ragged_lps(seed, count)
    lp = sparse_batch(lps) if form == "sparse" else dense_batch(lps)
    return lp, solve(lp)


def real(values: Tensor, lp: DenseLP | SparseLP, kind: str) -> np.ndarray:
    return np.concatenate(per_lp(values, lp, kind))


def assert_solutions_correspond(image: TransformedLP[Any], solved: Solved) -> None:
    source, instance, there = image.source, image.instance, solve(image.instance)
    expected = image.map_objective(solved.value)
    torch.testing.assert_close(there.value, expected, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(image.unmap_objective(there.value), solved.value, rtol=1e-7, atol=1e-7)

    x, lam = image.map_solution(solved.x, solved.lam)
    assert_optimal(instance, x, lam)
    back = image.unmap_solution(x, lam)
    for kind, mine, original in (("column", back[0], solved.x), ("row", back[1], solved.lam)):
        np.testing.assert_allclose(real(mine, source, kind), real(original, source, kind), rtol=1e-12, atol=1e-12)
    assert_optimal(source, *image.unmap_solution(there.x, there.lam))


@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("symmetry", EVERY)
def test_image_has_the_mapped_solution(symmetry: Symmetry, seed: int, form: str) -> None:
    lp, solved = batch_and_solution(form, seed)
    assert_optimal(lp, solved.x, solved.lam)  # or nothing below means anything
    assert_solutions_correspond(symmetry.apply(lp, generator=seeded(seed)), solved)


@settings(max_examples=15)
@given(
    st.lists(st.sampled_from(sorted(KINDS)), max_size=4), st.integers(0, 2**31), st.sampled_from(["dense", "sparse"])
)
def test_symmetries_compose(names: list[str], seed: int, form: str) -> None:
    lp, solved = batch_and_solution(form, 7, 12)
    image = Compose([KINDS[name]() for name in names]).apply(lp, generator=seeded(seed))
    assert_solutions_correspond(image, solved)


def test_equivalences_lead_to_the_flat_form() -> None:
    """`[vec(A), b, c]` has no room for equalities and bounds: then there are none, and the optimum is the same."""
    lp, solved = batch_and_solution("dense", 0)
    image = Compose([EqualitiesAsInequalities(), BoundsAsRows()]).apply(lp)
    flat = image.instance
    assert not flat.equality[flat.mask_m].any()
    assert flat.lower[flat.mask_n].isneginf().all()
    assert flat.upper[flat.mask_n].isposinf().all()
    assert flat.vectors().values[flat.vectors().valid].isfinite().all()
    torch.testing.assert_close(solve(flat).value, solved.value, rtol=1e-7, atol=1e-7)


def test_a_wrong_map_is_found_out() -> None:
    """The checks above can fail: rows scaled, and the multipliers not."""
    lp, solved = batch_and_solution("sparse", 0)
    image = RowScale().apply(lp, generator=seeded())
    with pytest.raises(AssertionError):
        assert_optimal(image.instance, solved.x, solved.lam)


# One transformation, in several forms: parameters drawn ragged, then padded or cut.

Transformation = Callable[..., TransformedLP[Any]]
TRANSFORMATIONS: list[tuple[Transformation, list[str]]] = [
    (scale_rows, ["row"]),
    (scale_columns, ["column"]),
    (scale_objective, ["lp"]),
    (scale_rhs, ["lp"]),
    (translate, ["column"]),
    (permute, ["row order", "column order"]),
    (combine_rows, ["row", "lp"]),
    (duplicate_rows, ["which row"]),
    (split_columns, ["which column", "lp"]),
    (add_idle_variables, ["lp", "lp"]),
    (lambda lp: EqualitiesAsInequalities().apply(lp), []),
    (lambda lp: BoundsAsRows().apply(lp), []),
]


def random_parameters(kinds: list[str], lps: list[Plain]) -> list[list[Tensor]]:
    """For each kind, a tensor for each LP."""
    g = seeded(3)

    def one(kind: str, lp: Plain) -> Tensor:
        size = len(lp.b) if "row" in kind else len(lp.c) if "column" in kind else 1
        if "order" in kind:
            return torch.randperm(size, generator=g)
        if "which" in kind:
            return torch.arange(size) == torch.randint(max(size, 1), (), generator=g)
        return torch.rand(size, generator=g, dtype=torch.float64) + 0.1

    return [[one(kind, lp) for lp in lps] for kind in kinds]


def for_sparse(kind: str, parts: list[Tensor]) -> Tensor:
    if "order" in kind:  # counted over the whole batch
        parts = [part + first for part, first in zip(parts, offsets([len(p) for p in parts]), strict=False)]
    return torch.cat(parts)


def for_dense(kind: str, parts: list[Tensor], lp: DenseLP) -> Tensor:
    if kind == "lp":
        return torch.cat(parts)
    slots = lp.b.size(1) if "row" in kind else lp.c.size(1)
    tails = [torch.arange(len(p), slots) if "order" in kind else torch.zeros(slots - len(p)).to(p.dtype) for p in parts]
    return torch.stack([torch.cat([p, tail]) for p, tail in zip(parts, tails, strict=True)])


@pytest.mark.parametrize("padding", [torch.nan, 2.0])
@pytest.mark.parametrize(("transform", "kinds"), TRANSFORMATIONS)
def test_forms_and_batches_agree(transform: Transformation, kinds: list[str], padding: float) -> None:
    """Dense as sparse, and batched as one by one."""
    lps = ragged_lps(1, 20)
    parameters = random_parameters(kinds, lps)
    sparse = transform(sparse_batch(lps), *(for_sparse(*pair) for pair in zip(kinds, parameters, strict=True)))
    dense_lp = dense_batch(lps, padding=padding)
    dense = transform(dense_lp, *(for_dense(kind, p, dense_lp) for kind, p in zip(kinds, parameters, strict=True)))
    assert_same(plain(sparse.instance), plain(dense.instance))

    x, lam = (torch.randn(len(v), dtype=torch.float64, generator=seeded()) for v in (sparse.source.c, sparse.source.b))
    image_x, image_lam = sparse.map_solution(x, lam)
    slots = [
        in_slots(tuple(v.split([len(side) for side in sides])), mask)
        for v, sides, mask in (
            (x, [lp.c for lp in lps], dense_lp.mask_n),
            (lam, [lp.b for lp in lps], dense_lp.mask_m),
        )
    ]
    dense_x, dense_lam = dense.map_solution(slots[0], slots[1])
    np.testing.assert_allclose(real(dense_x, dense.instance, "column"), image_x.numpy(), atol=1e-12)
    np.testing.assert_allclose(real(dense_lam, dense.instance, "row"), image_lam.numpy(), atol=1e-12)

    single = [
        plain(transform(sparse_batch([lp]), *(parts[g] for parts in parameters)).instance)[0]
        for g, lp in enumerate(lps)
    ]
    assert_same(plain(sparse.instance), single)


@pytest.mark.parametrize("symmetry", EVERY)
def test_same_draw_in_both_forms_without_padding(symmetry: Symmetry) -> None:
    rng = np.random.default_rng(0)
    lps = [random_lp(rng, 4, 5) for _ in range(10)]
    sparse = symmetry.apply(sparse_batch(lps), generator=seeded(5))
    dense = symmetry.apply(dense_batch(lps, extra=0), generator=seeded(5))
    assert_same(plain(sparse.instance), plain(dense.instance))


@pytest.mark.parametrize("symmetry", EVERY)
@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_draws_come_from_the_generator_alone(symmetry: Symmetry, form: str) -> None:
    lp, _ = batch_and_solution(form, 2)
    before = [t.clone() for t in astuple(lp)]
    state = torch.get_rng_state()
    one, same, other = (plain(symmetry.apply(lp, generator=seeded(s)).instance) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(one, same)
    if not isinstance(symmetry, (EqualitiesAsInequalities, BoundsAsRows)):
        with pytest.raises(AssertionError):
            assert_same(one, other)
    for old, new in zip(before, astuple(lp), strict=True):
        torch.testing.assert_close(old, new, rtol=0, atol=0, equal_nan=True)  # unwritten


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


IN_PLACE = ("permutation", "row scale", "column scale", "objective scale", "side scale", "translation", "negation")


@pytest.mark.parametrize(
    ("form", "kind"),
    [("dense", kind) for kind in KINDS] + [("sparse", kind) for kind in (*IN_PLACE, "idle variable")],
)
def test_no_value_is_read(form: str, kind: str) -> None:
    """On the meta device, whose tensors have none: a GPU is not waited for, but to count new sparse coefficients."""
    lp, _ = batch_and_solution(form, 2)
    unknown = type(lp)(*(t.to("meta") for t in astuple(lp)))
    image = KINDS[kind]().apply(unknown)
    x, lam = image.map_solution(unknown.c, unknown.b)
    assert [t.shape for t in image.unmap_solution(x, lam)] == [unknown.c.shape, unknown.b.shape]


@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("kind", SHARED)
def test_what_does_not_change_is_shared(kind: type[Symmetry], form: str) -> None:
    lp, _ = batch_and_solution(form, 2)
    views = kind()(lp, generator=seeded())
    assert views.target is lp
    assert views.context is views.image.instance
    assert type(views.context) is type(lp)
    shared = {f.name for f in fields(lp) if getattr(views.context, f.name) is getattr(lp, f.name)}
    rows_or_columns = {"mask_m", "mask_n", "constraint_offsets", "variable_offsets"}
    assert shared - rows_or_columns == SHARED[kind] & {f.name for f in fields(lp)}


@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_rows_and_columns_are_found_again(form: str) -> None:
    """Through symmetries that move and add items, but leave x and lam of the old ones: the solution is found there."""
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
    image = Compose(moves).apply(lp, generator=seeded())
    x, lam = image.map_solution(solved.x, solved.lam)
    assert image.rows is not None
    assert image.columns is not None
    found = [
        values[at] if form == "sparse" else values.gather(1, at)
        for values, at in ((x, image.columns), (lam, image.rows))
    ]
    np.testing.assert_array_equal(real(found[0], lp, "column"), real(solved.x, lp, "column"))
    np.testing.assert_array_equal(real(found[1], lp, "row"), real(solved.lam, lp, "row"))


def test_symmetry_makes_views_for_the_objective() -> None:
    """Streams of items where they stay in their places; an embedding of the whole LP for any symmetry."""
    lp, _ = batch_and_solution("sparse", 2)

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
    lp, _ = batch_and_solution("sparse", 4)
    b, c = (torch.arange(1.0, len(part) + 1, dtype=part.dtype) for part in (lp.b, lp.c))
    lp = replace(lp, b=b, c=c)

    def name(batch: SparseLP) -> dict[str, Tensor]:
        angles = {"constraint": batch.b / (len(lp.b) + 1), "variable": batch.c / (len(lp.c) + 1)}
        return {stream: torch.stack([angle.cos(), angle.sin()], dim=1) for stream, angle in angles.items()}

    jepa = JEPAObjective(symmetry, dict, StopGradTeacher())
    assert jepa(name, lp, generator=seeded()).total.abs() < 1e-6


@pytest.mark.parametrize("symmetry", EVERY)
def test_each_lp_weighs_the_same_in_the_order_of_the_target(symmetry: Symmetry) -> None:
    rng, sizes = np.random.default_rng(0), [(2, 9), (7, 3), (1, 1)]
    views = symmetry(sparse_batch([random_lp(rng, *size) for size in sizes]), generator=seeded())
    for stream, counts in zip(("constraint", "variable"), zip(*sizes, strict=True), strict=True):
        expected = torch.tensor([1 / count for count in counts for _ in range(count)], dtype=torch.float64)
        torch.testing.assert_close(views.weight[stream], expected)
    assert not symmetry(dense_batch([random_lp(rng, 3, 2)]), generator=seeded()).weight


def test_a_large_lp_does_not_outvote_a_small_one() -> None:
    """The image of the large one is embedded as its source is, that of the small one as its opposite."""
    rng = np.random.default_rng(0)
    lp = sparse_batch([random_lp(rng, 30, 30), random_lp(rng, 2, 2)])
    small = torch.arange(len(lp.c)) >= 30

    def encoder(batch: SparseLP) -> dict[str, Tensor]:
        return {"variable": torch.where(small & (batch is not lp), -1.0, 1.0).unsqueeze(1)}

    jepa = JEPAObjective(RowScale(), dict, StopGradTeacher())
    assert (
        jepa(encoder, lp, generator=seeded()).total
        == cosine_loss(torch.ones(2, 1), torch.tensor([[1.0], [-1.0]])).mean()
    )


def test_dtype_is_kept() -> None:
    lp, _ = batch_and_solution("sparse", 2)
    for dtype, symmetry in itertools.product((torch.float16, torch.float32), (make() for make in KINDS.values())):
        values = {f.name: getattr(lp, f.name) for f in fields(lp)}
        cast = SparseLP(**{k: v.to(dtype) if v.is_floating_point() else v for k, v in values.items()})
        image = symmetry.apply(cast, generator=seeded()).instance
        assert {t.dtype for t in astuple(image) if t.is_floating_point()} == {dtype}


def test_picked_items_are_uniform() -> None:
    """Which row is doubled: of 5, each 200 times in 1000; chi-square with 4 degrees of freedom, 1 in 10^5."""
    lp = sparse_batch([random_lp(np.random.default_rng(0), 5, 3)] * 1000)
    image = DuplicateRow().apply(lp, generator=seeded()).instance
    last = image.b.reshape(1000, 6)[:, 5:]
    counts = (image.b.reshape(1000, 6)[:, :5] == last).sum(0).double()
    assert counts.sum() == 1000
    assert ((counts - 200) ** 2 / 200).sum() < 28.5


def test_scales_are_bounded() -> None:
    lp, _ = batch_and_solution("sparse", 2)
    scale = scale_of_rows(RowScale(factor=3.0), lp)
    assert 1 / 3 <= scale.min() < 0.5
    assert 2 < scale.max() <= 3


def scale_of_rows(symmetry: Symmetry, lp: Any) -> Tensor:
    return symmetry.apply(replace(lp, b=torch.ones_like(lp.b)), generator=seeded()).instance.b


WRONG_COUNTS: list[Any] = [0, -1, 1.5, 2.0, torch.nan]


@pytest.mark.parametrize(
    ("make", "name"),
    [
        *(
            (lambda kind=kind, bad=bad: kind(bad), "factor")
            for kind in (RowScale, ColumnScale, ObjectiveScale, RHSScale, IdleVariable)
            for bad in (0.0, 1.0, -2.0, torch.inf, torch.nan)
        ),
        (lambda: Translation(-1.0), "std"),
        *((lambda bad=bad: RedundantRow(terms=bad), "terms") for bad in WRONG_COUNTS),
        (lambda: RedundantRow(slack=-0.1), "slack"),
    ],
)
def test_bad_arguments_are_named(make: Callable[[], Symmetry], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} is .*but must be"):
        make()


def test_numbers_out_of_order_are_named() -> None:
    lp, _ = batch_and_solution("sparse", 2)
    nan = replace(lp, c=torch.full_like(lp.c, torch.nan))
    with pytest.raises(ValueError, match=r"c\[0\] is nan, but must be finite"):
        Permutation().apply(nan)
    with pytest.raises(ValueError, match=r"edge_index\[:, \d+\] joins a constraint of graph"):
        RowScale()(replace(lp, edge_index=torch.stack([lp.edge_index[0], lp.edge_index[1].flip(0)])))


@pytest.mark.parametrize("bad", [RowScale(), [1], [RowScale(), None], RowScale, "ab", None])
def test_compose_takes_a_list_of_symmetries(bad: Any) -> None:
    with pytest.raises(TypeError, match=r"symmetries is .*list of symmetries; write Compose\(\["):
        Compose(bad)


def test_bad_instances_and_solutions_are_named() -> None:
    with pytest.raises(TypeError, match=r"instance is a Tensor, .* give a DenseLP or a SparseLP"):
        RowScale()(torch.zeros(2, 3))  # pyright: ignore
    lp, solved = batch_and_solution("sparse", 2)
    image = IdleVariable().apply(lp, generator=seeded())
    with pytest.raises(ValueError, match=r"x is .* but this LP has"):
        image.unmap_solution(solved.x, solved.lam)
    with pytest.raises(ValueError, match=r"lam is .* but this LP has"):
        image.map_solution(solved.x, solved.lam[1:])


@pytest.mark.parametrize("symmetry", EVERY)
def test_empty_batches(symmetry: Symmetry) -> None:
    none = sparse_batch([random_lp(np.random.default_rng(0), 3, 2)])
    lp = SparseLP(
        none.edge_index[:, :0], none.coefficient[:0], none.b[:0], none.c[:0], torch.zeros(1).long(),
        torch.zeros(1).long(), none.equality[:0], none.lower[:0], none.upper[:0],
    )  # fmt: skip
    assert symmetry.apply(lp, generator=seeded()).instance.num_graphs == 0
    dense = dense_batch([random_lp(np.random.default_rng(0), 3, 2)])
    assert len(symmetry.apply(DenseLP(*(t[:0] for t in astuple(dense))), generator=seeded()).instance.b) == 0


# What is no symmetry, though it looks harmless.


def optimum(lp: Plain) -> float:
    result: Any = linprog(lp.c, lp.A, lp.b, bounds=np.stack([lp.lower, lp.upper], axis=1), method="highs")
    return result.fun if result.status == 0 else np.nan


def without_a_row(lp: Plain, rng: np.random.Generator) -> Plain:
    keep = np.arange(len(lp.b)) != rng.integers(len(lp.b))
    return lp._replace(A=lp.A[keep], b=lp.b[keep])


def without_a_fifth_of_A(lp: Plain, rng: np.random.Generator) -> Plain:
    return lp._replace(A=lp.A * (rng.permutation(lp.A.size) >= lp.A.size // 5).reshape(lp.A.shape))


@pytest.mark.parametrize(("change", "least"), [(without_a_row, 25), (without_a_fifth_of_A, 75)])
def test_invalid_views_change_the_optimum(change: Callable[[Plain, np.random.Generator], Plain], least: int) -> None:
    """Counterexamples are no rarity: `least` of 100 bounded feasible LPs with 8 rows and 6 variables, or more."""
    rng = np.random.default_rng(0)
    changed = 0
    for _ in range(100):
        A, x0 = rng.normal(size=(8, 6)), rng.random(6)
        lp = Plain(A, A @ x0 + rng.random(8), rng.normal(size=6), np.zeros(8, bool), np.zeros(6), np.ones(6))
        changed += not np.isclose(optimum(lp), optimum(change(lp, rng)), rtol=1e-7, atol=1e-7)
    print(f"{change.__name__}: the optimum of {changed} in 100 LPs changes")  # pytest -s shows it
    assert changed >= least
