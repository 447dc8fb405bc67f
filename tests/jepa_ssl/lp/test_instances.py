"""From LPs to what encoders and maskers read, and back: graphs and flat vectors."""

from dataclasses import fields, replace
from functools import partial
from typing import Any

import pytest
import torch
from builders import offsets, seeded
from data.batches import FlatCollate, collate_graphs, prepare
from data.generators import generate
from data.lp import LP
from hypothesis import given
from hypothesis import strategies as st
from small_lps import dense, random_lp, sparse

from jepa_ssl import BipartiteGraph, EntryMasker, FlatVectors, NodeMasker
from jepa_ssl.contrib.symmetries import BoundsAsRows, Compose, EqualitiesAsInequalities, Permutation, RowScale
from jepa_ssl.integrations.pyg import bipartite_graph
from jepa_ssl.lp import DenseLP, SolverState, SparseLP, valid_entries

SIZES = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5)), min_size=1, max_size=4)
DTYPES = [torch.float16, torch.float32, torch.float64]
LPS = [random_lp(seed, *size) for seed, size in enumerate([(4, 5), (1, 3), (0, 2)])]


def assert_same(found: Any, expected: Any) -> None:
    for field in fields(expected):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        assert a.dtype == b.dtype
        assert torch.equal(a, b), field.name


@pytest.mark.parametrize("dtype", DTYPES)
@given(SIZES)
def test_a_graph_is_finite_and_gives_its_lps_back(dtype: torch.dtype, sizes: list[tuple[int, int]]):
    lp = sparse([random_lp(seed, *size) for seed, size in enumerate(sizes)], dtype)
    graph = lp.graph().check_values()
    assert_same(SparseLP.of_graph(graph), lp)
    assert graph.edge_index is lp.edge_index


def test_a_graphs_features_are_the_lps_numbers():
    lp = sparse(LPS, torch.float32)
    lp = replace(lp, lower=torch.full((10,), -torch.inf), upper=torch.arange(10.0))
    graph = lp.graph()
    assert torch.equal(graph.constraint_features, torch.stack([lp.b, lp.equality.float()], 1))
    zeros, ones = torch.zeros(10), torch.ones(10)
    assert torch.equal(graph.variable_features, torch.stack([lp.c, zeros, zeros, lp.upper, ones], 1))
    assert torch.equal(graph.edge_attr, lp.coefficient[:, None])


def test_features_of_your_own_are_read_by_column_and_not_copied():
    lp = SparseLP.of_graph(sparse(LPS).graph())
    graph = BipartiteGraph(
        torch.stack([-lp.b, lp.b], 1), lp.edge_index, torch.stack([lp.coefficient, -lp.coefficient], 1),
        torch.stack([-lp.c, -lp.c, lp.c], 1), lp.constraint_offsets, lp.variable_offsets,
    )  # fmt: skip
    found = SparseLP.inequalities_of(graph, b=1, c=2)
    assert_same(found, SparseLP.inequalities(*(getattr(lp, f.name) for f in fields(lp)[:6])))
    assert found.b.untyped_storage().data_ptr() == graph.constraint_features.untyped_storage().data_ptr()
    assert torch.equal(SparseLP.inequalities_of(graph, coefficient=1).coefficient, -lp.coefficient)


def test_other_columns_are_refused():
    graph = sparse(LPS).graph()
    for name, column, features in (("b", 2, "constraint"), ("c", 5, "variable"), ("c", -1, "variable")):
        message = rf"{features}_features is \[.*column {column} is asked for.*say which column.*from 0"
        with pytest.raises(ValueError, match=message):
            SparseLP.inequalities_of(graph, **{name: column})
    with pytest.raises(ValueError, match=r"edge_attr is \[\d+\], .*unsqueeze\(-1\)"):
        SparseLP.inequalities_of(replace(graph, edge_attr=graph.edge_attr[:, 0]))
    wider = replace(graph, variable_features=graph.variable_features.repeat(1, 2))
    with pytest.raises(
        ValueError, match=r"variable_features is \[10, 10\], but SparseLP.graph makes 5 .*inequalities_of"
    ):
        SparseLP.of_graph(wider)


@pytest.mark.parametrize("dtype", DTYPES)
@given(SIZES)
def test_vectors_give_their_lps_back(dtype: torch.dtype, sizes: list[tuple[int, int]]):
    lps = dense([random_lp(seed, *size) for seed, size in enumerate(sizes)], dtype, padding=0.0)
    lps = DenseLP.inequalities(lps.A, lps.b, lps.c, lps.mask_m, lps.mask_n)
    vectors, (m, n) = lps.vectors(), lps.A.shape[1:]
    assert_same(DenseLP.of_vectors(vectors, m, n), lps)
    bare = DenseLP.of_vectors(vectors.values, m, n)
    assert bare.mask_m.all()
    assert bare.mask_n.all()
    assert torch.equal(bare.A, lps.A)


def test_a_bound_that_is_wrong_is_seen_in_the_graph():
    lp = sparse(LPS)
    for wrong in (torch.nan, torch.inf):
        graph = replace(lp, lower=lp.lower.index_fill(0, torch.tensor([1]), wrong)).graph()
        assert graph.variable_features[1, 1:3].tolist() == pytest.approx([wrong, 1.0], nan_ok=True)
        with pytest.raises(ValueError, match="variable_features"):
            graph.check_values()


# What is refused


@pytest.mark.parametrize(
    ("batch", "name", "change", "message"),
    [
        (sparse, "coefficient", lambda a: a.int(), r"coefficient is torch.int32, but must be floating.*\.float\(\)"),
        (sparse, "b", lambda b: b.long(), r"b is torch.int64, but must be floating"),
        (sparse, "c", lambda c: c.long(), r"c is torch.int64, but must be floating"),
        (sparse, "upper", lambda u: u.float(), r"upper is torch.float32, but coefficient is torch.float64.*use \.to"),
        (dense, "A", lambda a: a.long(), r"A is torch.int64, but must be floating"),
        (dense, "lower", lambda u: u.bool(), r"lower is torch.bool, but must be floating"),
        (dense, "b", lambda b: b.float(), r"b is torch.float32, but A is torch.float64.*use .to\(A.dtype\)"),
        (sparse, "coefficient", lambda a: a[1:], r"coefficient has \d+ numbers, but edge_index has \d+ edges"),
        (sparse, "b", lambda b: b[None], r"b is \[1, 5\].*torch.cat"),
        (sparse, "coefficient", lambda a: a[:, None], r"coefficient is .*squeeze"),
        (sparse, "constraint_offsets", lambda o: o[None], r"constraint_offsets is .*must be int64 \[graphs \+ 1\]"),
        (sparse, "variable_offsets", lambda o: o[1:], r"constraint_offsets counts 3 graphs and variable_offsets 2"),
        (sparse, "edge_index", lambda e: e.t(), r"edge_index is "),
        (sparse, "lower", lambda v: v[1:], r"lower is \[9\], but must be \[10\], one number per column"),
        (sparse, "equality", lambda e: e.double(), r"equality is torch.float64, but must be bool"),
        (dense, "A", lambda a: a[0], r"A is \[5, 6\], but must be \[batch, m, n\]"),
        (dense, "b", lambda b: b[:, 1:], r"b is \[3, 4\], but must be \[3, 5\], one number per row"),
        (dense, "mask_n", lambda m: m.sum(1), r"mask_n is \[3\]"),
        (dense, "mask_m", lambda m: m.float(), r"mask_m is torch.float32, but must be bool; write mask_m != 0"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_when_lps_are_built(batch: Any, name: str, change: Any, message: str):
    lp = batch(LPS)
    with pytest.raises(ValueError, match=message):
        replace(lp, **{name: change(getattr(lp, name))})


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize(
    ("batch", "name"), [*((sparse, name) for name in ("coefficient", "b", "c")), *((dense, name) for name in "Abc")]
)
def test_numbers_that_are_not_finite_are_named(batch: Any, name: str, value: float):
    lp = batch(LPS)
    bad = getattr(lp, name).clone()
    bad[(0,) * bad.ndim] = value
    with pytest.raises(ValueError, match=rf"{name}\[0.*\] is {value}, but must be finite"):
        replace(lp, **{name: bad}).check_values()


@pytest.mark.parametrize("batch", [sparse, dense])
@pytest.mark.parametrize(("lower", "upper"), [(2.0, 1.0), (torch.nan, 1.0), (torch.inf, torch.inf)])
def test_bounds_that_no_number_fits_between_are_named(batch: Any, lower: float, upper: float):
    lp = batch(LPS)
    bounds = {name: getattr(lp, name).clone() for name in ("lower", "upper")}
    bounds["lower"][..., 1], bounds["upper"][..., 1] = lower, upper
    with pytest.raises(ValueError, match=r"lower\[.*1\] is .* and upper.*; correct the bounds"):
        replace(lp, **bounds).check_values()


def test_edges_and_offsets_that_leave_the_batch_are_named():
    lp = sparse(LPS)
    with pytest.raises(ValueError, match=r"edge_index\[0\] reaches"):
        replace(lp, edge_index=lp.edge_index + 100).check_values()
    with pytest.raises(ValueError, match=r"constraint_offsets goes from"):
        replace(lp, constraint_offsets=lp.constraint_offsets + 1).check_wiring()


@pytest.mark.parametrize("padding", [torch.nan, 3.0])
def test_values_on_padding_are_not_checked(padding: float):
    lp = dense(LPS, padding=padding)
    assert lp.check_values() is lp


# Together with symmetries, maskers and states


def test_a_masker_of_graphs_hides_after_a_symmetry():
    lp = sparse(LPS, torch.float32)
    transformed = Compose([RowScale(), Permutation()]).apply(lp, generator=seeded()).instance
    views = NodeMasker(0.4)(transformed.graph(), generator=seeded())
    assert_same(SparseLP.of_graph(views.target), transformed)
    hidden = views.hidden["variable"]
    assert hidden is not None
    assert hidden.sum() == 4
    assert (views.context.variable_features[hidden] == 0).all()
    assert torch.equal(views.context.variable_features[~hidden], views.target.variable_features[~hidden])


def test_a_masker_of_vectors_hides_after_a_symmetry():
    rows = Compose([EqualitiesAsInequalities(), BoundsAsRows(), Permutation()])
    lp = rows.apply(dense(LPS, padding=0.0), generator=seeded()).instance
    views = EntryMasker(0.4)(lp.vectors(), generator=seeded())
    assert_same(DenseLP.of_vectors(views.target, *lp.A.shape[1:]), lp)


def matrix_of(lp: LP) -> SparseLP:
    coo: Any = lp.A.tocoo()
    coefficient, b, c = (torch.tensor(part).float() for part in (coo.data, lp.b, lp.c))
    edges = torch.stack([torch.tensor(coo.row), torch.tensor(coo.col)]).long()
    return SparseLP.inequalities(edges, coefficient, b, c, offsets([lp.rows]), offsets([lp.columns]))


@pytest.mark.parametrize("path", ["graph", "flat"])
def test_the_state_of_a_clients_batch_is_that_of_its_lps(path: str):
    kinds: Any = (("set_cover", (3, 5)), ("random", (4, 3)), ("auction", (4, 6)))
    lps = [generate(family, size, seed=3) for family, size in kinds]
    samples = [prepare(lp) for lp in lps]
    instance: Any
    if path == "graph":
        instance, lp_of = bipartite_graph(collate_graphs(samples).batch_graph), SparseLP.inequalities_of
    else:
        m, n = (max(sizes) for sizes in zip(*((lp.rows, lp.columns) for lp in lps), strict=True))
        batch = FlatCollate(m, n)(samples)
        instance = FlatVectors(batch.model_input, valid_entries(batch.mask_m, batch.mask_n))
        lp_of = partial(DenseLP.of_vectors, m=m, n=n)
    view: SolverState[Any] = SolverState((5, 40), lp_of=lp_of)
    states = view.states(lp_of(instance))
    alone = [SolverState((5, 40)).states(matrix_of(lp)) for lp in lps]
    for kind in ("constraint", "variable"):
        expected = [state[kind] for state in alone]
        if path == "flat":
            assert all(
                torch.allclose(states[kind][i, : len(one)], one, rtol=1e-4, atol=1e-4 * (1 + float(one.abs().max())))
                for i, one in enumerate(expected)
            )
            assert all((states[kind][i, len(one) :] == 0).all() for i, one in enumerate(expected))
        else:
            torch.testing.assert_close(states[kind], torch.cat(expected), rtol=1e-4, atol=1e-4)
    views = view.fit([instance])(instance)
    assert views.context is instance
