"""examples/branching: candidates and columns, gains, labels, determinism, and a small run from end to end."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

pytest.importorskip("pyscipopt")

from examples.branching import __main__ as branching
from examples.branching import arms, collect, instances, pretraining, solve
from examples.branching.trunk import NodeBatch, Nodes, Scaling

SIZES = {"setcover": 50, "auction": 40}
PRICE, VALUE = (collect.COLUMNS.index(name) for name in ("obj_coef", "sol_val"))


def collected(family: str, seed: int = 3) -> collect.Tree:
    inst = instances.instance(family, "pool", 1, SIZES[family])
    return collect.Tree(**collect.collect(inst, seed, nodes=12, every=3, labels=3))


@pytest.fixture(scope="module", params=instances.FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def tree(family: str) -> collect.Tree:
    return collected(family)


def test_the_root_bound_is_that_of_scipy(family: str, tree: collect.Tree):
    inst = instances.instance(family, "pool", 1, SIZES[family])
    sums = np.zeros((len(inst.rows), len(inst.costs)))
    for i, row in enumerate(inst.rows):
        sums[i, row] = 1.0
    sign = -1.0 if inst.cover else 1.0
    bound = linprog(inst.costs, sign * sums, np.full(len(sums), sign), bounds=(0, 1)).fun
    assert tree.bounds[0] == pytest.approx(bound / np.abs(inst.costs).max(), rel=1e-5)


def test_gains_are_differences_of_the_optimal_values_of_lps(tree: collect.Tree):
    values = (tree.columns[:, :, PRICE] * tree.columns[:, :, VALUE]).sum(1)
    parent, child, _, _ = tree.branchings.T
    assert len(parent) > 3
    np.testing.assert_allclose(values, tree.bounds, atol=1e-4)
    np.testing.assert_allclose(values[child] - values[parent], tree.gains, atol=1e-4)
    assert (tree.gains >= -1e-6).all()


def test_the_branched_column_was_fractional_and_is_at_the_bound_of_its_direction(tree: collect.Tree):
    parent, child, column, up = tree.branchings.T
    before, after = tree.columns[parent, column, VALUE], tree.columns[child, column, VALUE]
    assert ((before > 1e-6) & (before < 1.0 - 1e-6)).all()
    np.testing.assert_allclose(after, up, atol=1e-6)
    assert len(set(up.tolist())) == 2


def test_labels_are_of_all_fractional_columns_and_the_best_is_1(tree: collect.Tree):
    assert len(set(tree.labelled)) == 3
    for node in set(tree.labelled.tolist()):
        here = tree.labelled == node
        values = tree.columns[node, :, VALUE]
        fractional = np.flatnonzero(np.abs(values - values.round()) > 1e-5)
        assert sorted(tree.candidates[here]) == fractional.tolist()
        assert tree.scores[here].max() == 1.0
        assert (tree.scores[here] > 0.0).all()


def test_a_candidate_that_is_not_its_column_is_noticed():
    class Column:
        def getLPPos(self) -> int:
            return 0

    class Candidate:
        def getCol(self) -> Column:
            return Column()

    class SCIP:
        def getLPBranchCands(self) -> tuple[Any, ...]:
            return [Candidate()], [0.5], [0.5], 1, 1, 0

    columns = np.zeros((2, len(collect.COLUMNS)), dtype=np.float32)
    with pytest.raises(AssertionError, match="is not that of its column"):
        collect.candidate_columns(SCIP(), {"columns": columns})  # pyright: ignore[reportArgumentType]
    columns[0, VALUE] = 0.5
    assert collect.candidate_columns(SCIP(), {"columns": columns})[1].tolist() == [0]  # pyright: ignore[reportArgumentType]


def test_the_same_seed_collects_the_same_tree(family: str, tree: collect.Tree):
    again = collected(family)
    assert all(np.array_equal(value, vars(again)[name]) for name, value in vars(tree).items())


def test_no_instance_has_two_roles():
    costs = [instances.instance("auction", role, 0, 10).costs for role in instances.ROLES]
    assert len({tuple(some) for some in costs}) == len(instances.ROLES)


def test_a_batch_holds_each_node_and_counts_its_columns(tree: collect.Tree):
    nodes = Nodes([tree, tree], Scaling.of([tree]))
    batch = nodes.batch([1, len(tree.bounds)], [np.array([2]), np.array([0, 3])])
    batch.graph.check_values()
    width = tree.columns.shape[1]
    assert batch.columns.tolist() == [2, width, width + 3]
    torch.testing.assert_close(batch.graph.variable_features[width:], nodes.columns[1][0])


def test_the_child_is_predicted_at_the_rows_of_the_branched_column(tree: collect.Tree):
    nodes = Nodes([tree], Scaling.of([tree]))
    parent, child, column, up = tree.branchings[0]
    batch = nodes.batch([parent], [np.array([column])], torch.tensor([up]))
    views = pretraining.ChildViews()((batch, nodes.graph([child])))
    row, of_column = tree.edges
    rows = set(row[of_column == column].tolist())
    hidden = {stream: mask.nonzero().flatten().tolist() for stream, mask in views.hidden.items() if mask is not None}
    assert set(hidden["constraint"]) == rows
    assert set(hidden["variable"]) == {j for i, j in zip(row, of_column, strict=True) if i in rows}
    assert pretraining.action(views)["constraint"].unique(dim=0).tolist() == [[column, up]]


def test_a_learned_rule_branches_on_the_highest_score(family: str, tree: collect.Tree):
    shown: list[int] = []

    def encode(batch: NodeBatch) -> torch.Tensor:
        shown.append(len(batch.columns))
        return batch.graph.variable_features[batch.columns]

    inst, scaling = instances.instance(family, "pool", 1, SIZES[family]), Scaling.of([tree])
    learned = solve.solve(inst, 0, (encode, lambda z: z[:, VALUE]), scaling)
    own = solve.solve(inst, 0, "pscost", scaling)
    assert learned["status"] == own["status"] == "optimal"
    assert len(shown) > 1
    assert learned["nodes"] > 1


def test_a_shifted_mean_by_hand():
    assert solve.shifted_mean([6.0, 30.0], 10.0) == pytest.approx(640.0**0.5 - 10.0)


@pytest.mark.slow
def test_a_small_run_from_end_to_end_goes_on_where_it_was(tmp_path: Path, capsys: Any, monkeypatch: Any):
    asked = ["--scale", "small", "--family", "setcover", "--folder", str(tmp_path)]
    branching.main(asked)
    first = capsys.readouterr().out
    results = (tmp_path / "setcover.json").read_bytes(), (tmp_path / "setcover-solved.json").read_bytes()
    files = [path for folder in ("trees", "pieces") for path in (tmp_path / folder).rglob("*.*")]
    stored = {path: path.stat().st_mtime_ns for path in files}
    lost = next(path for path in stored if path.suffix == ".json")
    lost.unlink()
    monkeypatch.setattr(collect, "collect", lambda *_, **__: pytest.fail("a stored tree was collected again"))
    branching.main(asked)
    again = capsys.readouterr().out
    assert results == ((tmp_path / "setcover.json").read_bytes(), (tmp_path / "setcover-solved.json").read_bytes())
    assert all(path.stat().st_mtime_ns == then for path, then in stored.items() if path != lost)
    assert first.rpartition("seconds.")[0].rsplit("\n", 2)[0] == again.rpartition("seconds.")[0].rsplit("\n", 2)[0]
    for name in (*arms.PRETRAINED, "no label: random trunk", "from scratch", "relpscost"):
        assert f"| {name} |" in first
    assert (tmp_path / "setcover.png").exists()
