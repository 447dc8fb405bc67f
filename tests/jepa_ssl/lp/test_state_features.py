"""Early states as features: what is added, where, and that nothing else is."""

import warnings
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_lps import SmallLP, dense, random_lp, sparse

from jepa_ssl import BipartiteGraph, FlatVectors
from jepa_ssl.lp import DenseLP, SolverState, SparseLP, StateFeatures
from jepa_ssl.lp.statistics import LIMIT

STEPS = (3, 20)
SIZES = [(4, 5), (1, 3), (6, 2), (3, 4)]


def inequalities(seed: int, m: int, n: int) -> SmallLP:
    """Without bounds and equalities, which flat vectors have no room for."""
    lp = random_lp(seed, m, n, equalities=False)
    free = torch.full((n,), torch.inf).numpy()
    return SmallLP(lp.A, lp.b, lp.c, lp.equality, -free, free)


LPS = [inequalities(seed, *size) for seed, size in enumerate(SIZES)]


def graph_of(lps: Any, dtype: torch.dtype = torch.float32) -> BipartiteGraph:
    lp = sparse(lps, dtype)
    return BipartiteGraph(
        torch.stack([lp.b, torch.arange(len(lp.b)).to(lp.b)], 1),
        lp.edge_index,
        lp.coefficient.unsqueeze(1),
        torch.stack([lp.c, torch.arange(len(lp.c)).to(lp.c)], 1),
        lp.constraint_offsets,
        lp.variable_offsets,
    )


def on_graphs(steps: Any = STEPS) -> StateFeatures[Any]:
    return StateFeatures(steps, lp_of=SparseLP.inequalities_of)


def on_vectors(m: int, n: int, steps: Any = STEPS) -> StateFeatures[Any]:
    return StateFeatures(steps, lp_of=lambda vectors: DenseLP.of_vectors(vectors, m, n))


def test_a_node_gains_the_arsinh_of_its_numbers_and_keeps_what_it_had():
    graph = graph_of(LPS)
    seen, states = on_graphs()(graph), SolverState(STEPS).states(sparse(LPS, torch.float32))
    for kind in ("constraint", "variable"):
        assert torch.equal(seen.features(kind)[:, :2], graph.features(kind))
        expected = torch.log(states[kind] + (states[kind].square() + 1).sqrt())
        torch.testing.assert_close(seen.features(kind)[:, 2:], expected, rtol=1e-4, atol=1e-6)
        assert seen.features(kind).size(1) == 2 + on_graphs().numbers
    for name in ("edge_index", "edge_attr", "constraint_offsets", "variable_offsets"):
        assert getattr(seen, name) is getattr(graph, name)


@given(st.permutations(range(len(LPS))))
def test_an_lp_has_the_same_ones_in_any_company(order: list[int]):
    together = on_graphs()(graph_of([LPS[i] for i in order]))
    for place, i in enumerate(order):
        alone = on_graphs()(graph_of([LPS[i]]))
        for kind in ("constraint", "variable"):
            begin, end = together.offsets(kind)[place : place + 2]
            assert torch.equal(together.features(kind)[begin:end, 2:], alone.features(kind)[:, 2:])


def test_flat_vectors_gain_the_same_numbers_row_after_row_then_column_after_column():
    lp = dense(LPS, torch.float32, padding=0.0)
    m, n = lp.A.shape[1:]
    vectors = lp.vectors()
    seen, graph = on_vectors(m, n)(vectors), on_graphs()(graph_of(LPS))
    width, numbers = vectors.values.size(1), on_graphs().numbers
    assert torch.equal(seen.values[:, :width], vectors.values)
    assert torch.equal(seen.valid[:, :width], vectors.valid)
    rows, columns = seen.values[:, width:].split([numbers * m, numbers * n], 1)
    for i, (of_rows, of_columns) in enumerate(SIZES):
        for kind, found, items in (("constraint", rows, of_rows), ("variable", columns, of_columns)):
            begin = int(graph.offsets(kind)[i])
            expected = graph.features(kind)[begin : begin + items, 2:]
            torch.testing.assert_close(found[i].view(-1, numbers)[:items], expected, rtol=1e-4, atol=1e-5)
            assert not found[i].view(-1, numbers)[items:].any()
    assert torch.equal(seen.valid[:, width:].sum(1), torch.tensor([numbers * sum(size) for size in SIZES]))
    assert not seen.values[~seen.valid].any()


@pytest.mark.filterwarnings("ignore:LP 0")  # it is unbounded, beside a side of 1e30
@pytest.mark.parametrize("b", [1e30, torch.inf, torch.nan])
def test_states_that_are_huge_or_nan_stay_within_the_limit(b: float):
    graph = graph_of(LPS)
    graph.constraint_features[0, 0] = b
    seen = on_graphs()(graph)
    for kind in ("constraint", "variable"):
        added = seen.features(kind)[:, 2:]
        assert added.isfinite().all()
        assert added.abs().max() <= LIMIT


def test_no_gradient_flows_into_a_state():
    graph = graph_of(LPS)
    graph.constraint_features.requires_grad_()
    added = on_graphs()(graph).variable_features
    assert not added.requires_grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_they_have_the_type_of_the_features(dtype: torch.dtype):
    graph = graph_of(LPS, dtype)
    assert on_graphs()(graph).variable_features.dtype == dtype


def test_a_state_target_is_the_same_with_and_without_them():
    """The LP is still found: its numbers are in the columns that they were in."""
    view = SolverState(30, lp_of=SparseLP.inequalities_of).fit([graph_of(LPS)])
    plain, seen = view(graph_of(LPS)), view(on_graphs()(graph_of(LPS)))
    assert torch.equal(plain.target["variable"], seen.target["variable"])


def test_vectors_that_carry_states_still_hold_their_lps():
    lp = dense(LPS, torch.float32, padding=0.0)
    m, n = lp.A.shape[1:]
    without = partial(DenseLP.of_vectors, m=m, n=n)
    show = StateFeatures(STEPS, lp_of=without)
    seen, lp_of = show(lp.vectors()), partial(without, numbers=show.numbers)
    plain, again = lp_of(lp.vectors()), lp_of(seen)
    for name, part in vars(without(lp.vectors())).items():
        assert torch.equal(getattr(plain, name), part)
        assert torch.equal(getattr(again, name), part)
    assert torch.equal(lp_of(seen.values).A, plain.A)
    later = SolverState(30, lp_of=lp_of).fit([seen])
    assert torch.equal(later(seen).target["instance"], later(lp.vectors()).target["instance"])
    with pytest.raises(ValueError, match=r"if states follow, .* use DenseLP\.of_vectors with numbers=4"):
        without(seen)
    with pytest.raises(ValueError, match=r"if states follow, .* with numbers=4"):
        without(seen, numbers=2)
    with pytest.raises(ValueError, match="padded sizes that the batch was flattened with"):
        without(seen.values[:, :-1])


def test_graphs_with_other_features_say_where_their_lp_is():
    """With bounds and equalities, which `SparseLP.graph` writes into features of its own."""
    lp = sparse([random_lp(seed, 3, 4) for seed in range(3)])
    seen = StateFeatures(STEPS, lp_of=SparseLP.of_graph)(lp.graph())
    expected = SolverState(STEPS).states(lp)["variable"].asinh()
    torch.testing.assert_close(seen.variable_features[:, -4:], expected.to(seen.variable_features))


def refuse(show: StateFeatures[Any], instance: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        show(instance)


def test_what_is_not_an_lp_or_another_lp_is_refused():
    graph, lp = graph_of(LPS), dense(LPS, torch.float32, padding=0.0)
    m, n = lp.A.shape[1:]
    refuse(on_graphs(), torch.zeros(2, 3), TypeError, "instance is a Tensor, .*BipartiteGraph or to FlatVectors")
    refuse(StateFeatures(3, lp_of=lambda _: lp), graph, TypeError, "a DenseLP for a BipartiteGraph.*return a SparseLP")
    refuse(
        StateFeatures(3, lp_of=lambda _: sparse(LPS)), lp.vectors(), TypeError, "SparseLP for a FlatVectors.*DenseLP"
    )
    refuse(
        StateFeatures(3, lp_of=lambda _: sparse(LPS[:1])), graph, ValueError, "LPs of 4 constraints for graphs of 14"
    )
    wide = FlatVectors(torch.zeros(4, 99), torch.ones(4, 99, dtype=torch.bool))
    refuse(
        StateFeatures(3, lp_of=lambda _: lp),
        wide,
        ValueError,
        rf"instance is \[4, 99\], but its LPs take \[4, {m * n + m + n}\]",
    )
    with pytest.raises(ValueError, match="steps is"):
        on_graphs((20, 3))


def test_the_first_call_warns_of_features_that_were_rescaled():
    """And no later one, for looking would wait for the device."""
    graph = graph_of(LPS)
    scaled = replace(
        graph,
        constraint_features=graph.constraint_features.abs().clamp(0.1, 1),
        variable_features=graph.variable_features.abs().clamp(0.1, 1) * 0 + 1,
        edge_attr=graph.edge_attr.abs() + 0.1,
    )
    show = on_graphs(300)
    with pytest.warns(UserWarning, match=r"In none of 4 LPs .*check_lp"):
        show(scaled)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        show(scaled)
        on_graphs(300)(graph)
