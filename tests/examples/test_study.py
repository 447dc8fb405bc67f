"""The study: its measures against plain formulas, its pieces, and that its pages say what its results say."""

import dataclasses
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.lp import canonical
from data.scaling import ruiz
from data.solve import solve

from examples.study import __main__ as study
from examples.study import arms, experiments, found, lps, pieces, plan, probe, report, shipped, solving, views
from jepa_ssl.integrations.pyg import bipartite_graph
from jepa_ssl.lp import SparseLP

ROOT = Path(__file__).parents[2]

# Optimal are all x with x0 + x1 = 4 and 0 <= x0 <= 1.
FACE = canonical("face", "doc", [-1, -1], [[1, 0], [1, 1]], -np.inf, [1, 4], 0, 10)


# Labels


def test_active_rows_and_variables_between_bounds_of_an_lp_solved_by_hand():
    (row,) = [i for i in range(FACE.rows) if FACE.A[[i]].nnz == 2]
    active = lps.is_active(FACE, lps.interior_optimum(FACE))
    assert [i for i in range(FACE.rows) if active[i]] == [row]  # x0 <= 1 is tight at an end of the face alone
    assert lps.is_between_bounds(FACE, active).tolist() == [1.0, 1.0]


def test_an_interior_optimum_is_not_a_corner():
    """min 0 over the unit square: every point is optimal; HiGHS' simplex method ends at a corner."""
    lp = canonical("square", "doc", [0, 0], [[1, 1]], -np.inf, 10, 0, 1)
    inside, corner = lps.interior_optimum(lp).x, solve(lp).x
    assert ((inside > 0.01) & (inside < 0.99)).all()
    assert np.isclose(corner, 0).all() | np.isclose(corner, 1).any()


def test_a_variable_at_its_bound_is_not_between():
    lp = canonical("bound", "doc", [1, -1], [[1, 1]], -np.inf, 4, 0, 10)  # x = (0, 4)
    active = lps.is_active(lp, lps.interior_optimum(lp))
    assert lps.is_between_bounds(lp, active).tolist() == [0.0, 1.0]


def test_roles_share_no_lp():
    drawn = [{lp.name for lp in lps.lps(("random",), 20, 5, role)} for role in lps.ROLES]
    assert all(not a & b for a, b in itertools.combinations(drawn, 2))


@pytest.mark.parametrize("family", plan.FAMILIES)
@pytest.mark.parametrize("n", [20, 50, 200])
def test_an_lp_of_size_n_has_about_n_variables(family: str, n: int):
    (lp,) = lps.lps((family,), n, 1, "validation")
    assert lp.columns == pytest.approx(n, rel=0.06)


# Measures


def test_intervals_are_those_of_student():
    of = found.paired([1.0, 2.0, 4.0], [0.5, 1.0, 2.5])
    differences = np.array([0.5, 1.0, 1.5])
    assert of.mean == pytest.approx(differences.mean())
    assert of.high - of.mean == pytest.approx(4.302653 * differences.std(ddof=1) / 3**0.5, rel=1e-5)
    assert np.isnan(found.interval([1.0]).high)


# Views


def test_a_graph_of_an_lp_has_the_features_of_the_data_set_and_an_equivalent_one_its_solution():
    some = lps.lps(plan.FAMILIES, 20, 5, "validation")
    (batch,) = lps.graphs(some, 5, False)
    graph = bipartite_graph(batch.batch_graph)
    again = views.graph_of(SparseLP.inequalities_of(graph))
    torch.testing.assert_close(again.constraint_features, graph.constraint_features)
    torch.testing.assert_close(again.variable_features, graph.variable_features)
    made = views.EquivalentGraphs()(graph, generator=torch.Generator().manual_seed(0))
    assert made.target is graph
    assert made.items.keys() == {"constraint"}  # two rows are added, and no column
    assert len(made.context.constraint_features) == len(graph.constraint_features) + 2 * len(some)
    equivalent = SparseLP.inequalities_of(made.context)
    x = torch.tensor(np.concatenate([solve(lp).x for lp in some]), dtype=torch.float32)
    slack = equivalent.b - torch.zeros_like(equivalent.b).index_add(
        0, equivalent.edge_index[0], equivalent.coefficient * x[equivalent.edge_index[1]]
    )
    assert slack.min() > -1e-3


# Warm starts


@pytest.mark.parametrize("family", plan.FAMILIES)
def test_the_basis_of_a_corner_takes_no_iteration(family: str):
    """Rows scored by how tight they are at HiGHS' own corner, and priced ones first."""
    for lp in lps.lps((family,), 20, 3, "validation"):
        corner = solve(lp)
        slack = lp.b - lp.A @ corner.x
        scores = corner.lam - 10 * slack
        warm, cold = (solving.simplex(lp, given, "dual") for given in (scores, None))
        assert warm <= max(3, cold // 3)


def test_a_warm_start_ends_at_the_optimum_whatever_is_predicted():
    """A bad basis costs iterations, and nothing else: it is always nonsingular."""
    for lp in lps.lps(("facility",), 20, 3, "validation"):
        scores = np.random.default_rng(0).standard_normal(lp.rows)
        model, bound_of, general = solving.bounded(lp)
        chosen = solving.basis(lp, scores, bound_of, general)
        basic = [*chosen.col_status, *chosen.row_status].count(solving.highspy.HighsBasisStatus.kBasic)
        assert basic == len(general)
        highs = solving.highspy.Highs()
        highs.setOptionValue("output_flag", False)
        highs.setOptionValue("presolve", "off")
        highs.passModel(model)
        assert highs.setBasis(chosen) == solving.highspy.HighsStatus.kOk
        highs.run()
        assert highs.getInfo().objective_function_value == pytest.approx(solve(lp).objective, abs=1e-6)
        assert highs.getInfo().simplex_iteration_count == solving.simplex(lp, scores, "dual")


def test_a_basis_that_determines_no_point_is_mended_and_an_lp_without_optimum_refused():
    free = canonical("free", "doc", [0, 0], [[1, 1]], -np.inf, 1, -np.inf, np.inf)
    assert solving.simplex(free, np.zeros(1), "dual") >= 0
    unbounded = canonical("unbounded", "doc", [1, 1], [[1, 1]], -np.inf, 1, -np.inf, np.inf)
    with pytest.raises(ValueError, match="unbounded: HiGHS ended 'Unbounded', not optimal"):
        solving.simplex(unbounded, None, "dual")


def test_from_the_optimum_a_first_order_method_is_done_at_once():
    some = lps.lps(("set_cover",), 20, 2, "validation")
    (batch,) = lps.graphs(some, 2, False)
    lp, optima = SparseLP.inequalities_of(bipartite_graph(batch.batch_graph)), [solve(one) for one in some]
    x, lam = (
        torch.tensor(np.concatenate(part), dtype=torch.float32)
        for part in ([o.x for o in optima], [o.lam for o in optima])
    )
    assert solving.steps_to_solve(lp, (x, lam), 200) == [solving.CHECKED_EVERY] * 2
    cold = solving.steps_to_solve(lp, None, 2000)
    assert all(steps is not None and steps > solving.CHECKED_EVERY for steps in cold)
    assert solving.steps_to_solve(lp, None, solving.CHECKED_EVERY) == [None] * 2


# Arms and pieces


def test_every_training_has_a_cost_and_every_named_arm_exists():
    assert {arm.training for arm in plan.ARMS.values()} - {"none"} == plan.COSTS.keys()
    named = {*plan.EQUAL_COMPUTE, *plan.FILES, *plan.WARM_STARTS, *plan.FRESH, *plan.FINETUNED, *plan.SUPERVISED}
    named |= {*plan.MORE_ROUNDS, plan.SHIPPED}
    named -= {"states", "shown_states"}  # no arms, but what there is without a network
    assert named <= plan.ARMS.keys()


@pytest.mark.parametrize("stage", study.STAGES)
def test_the_pieces_of_a_stage_have_names_of_their_own(stage: str):
    for scale in plan.SCALES.values():
        names = [piece.name for piece in study.planned(stage, scale, Path(), ("afiro.mps",))]
        assert names
        assert len(set(names)) == len(names)


def test_seed_and_offset_decide_a_network():
    random, again, states = (plan.ARMS[name] for name in ("random", "solver_lp_again", "random_s"))

    def first(policy: Any) -> float:
        return next(policy.parameters()).sum().item()

    assert first(arms.build(random, 0)) == first(arms.build(random, 0)) != first(arms.build(random, 1))
    assert first(arms.build(again, 0)) == first(arms.build(plan.ARMS["solver_lp"], plan.FLOOR))
    assert arms.build(states, 0).trunk.features == (3 + 6, 5 + 6)


def counted(folder: Path) -> float:
    (folder / "calls").write_text(f"{int((folder / 'calls').read_text()) + 1}" if (folder / "calls").exists() else "1")
    return 1 / 3


@pytest.mark.slow
def test_a_piece_is_computed_once_and_its_file_is_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    piece = pieces.Piece("stage", "one", counted, (tmp_path,))
    for _ in range(2):
        pieces.run([piece], tmp_path / "results", jobs=1)
    assert (tmp_path / "calls").read_text() == "1"
    assert pieces.read(tmp_path / "results", "stage") == {"one": 0.33333}
    threads = lambda workers, context, initializer: ThreadPoolExecutor(workers)  # noqa: E731 - start at once
    monkeypatch.setattr(pieces, "ProcessPoolExecutor", threads)
    pieces.run([piece], tmp_path / "results", jobs=1, is_whole=lambda _: False)
    assert (tmp_path / "calls").read_text() == "2"


SMALLEST = plan.Plan(
    seeds=1, budget=8, pretraining_lps={20: 6}, labels={20: (3, 5), 30: (3, 5)}, test_lps={20: 4, 30: 4},
    validation_lps=4, few_lps=4, finetuning_steps=2, measured_every=1, supervised_steps=2, solved_lps=1,
    solver_steps=100,
)  # fmt: skip
KINDS = {(arm.training, arm.sees_states, arm.rounds, arm.target, arm.larger): name for name, arm in plan.ARMS.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS.values())
def test_an_arm_is_pretrained_probed_and_scored(name: str, tmp_path: Path):
    arm = plan.ARMS[name]
    if arm.training != "none":
        record = arms.pretrain(SMALLEST, tmp_path, name, 0)
        assert np.isfinite(record["last_loss"])
        fresh, kept = arms.build(arm, 0), arms.load(tmp_path, name, 0)
        assert any(not torch.equal(a, b) for a, b in zip(fresh.parameters(), kept.parameters(), strict=True))
        heads = [torch.cat([weights.flatten() for weights in policy.head_x.parameters()]) for policy in (fresh, kept)]
        trained_heads = not torch.equal(*heads)
        assert trained_heads == (arm.training in ("kkt", "then", "joint"))
    scores = experiments.probed(SMALLEST, tmp_path, name, 0)["20"]
    assert scores.keys() == set(plan.FAMILIES)
    assert scores["auction"]["3"]["auc"] <= 1
    assert experiments.scored(SMALLEST, tmp_path, name, 0)["variable"]["lidar"] > 0


@pytest.mark.slow
def test_the_other_experiments_run(tmp_path: Path):
    found_of = experiments.supervised(SMALLEST, tmp_path, "solver_random", 0, 5)
    assert found_of.keys() == set(plan.FAMILIES)
    assert found_of["auction"]["hit_cap"]
    curves = experiments.finetuned(SMALLEST, tmp_path, "random_s", 0, 20)
    assert all(len(curve["residual"]) == 3 for curve in curves.values())
    for which in ("shown", "predicted"):
        assert experiments.probed_states(SMALLEST, tmp_path, which, 0).keys() == {"20"}
    for name in ("shown_states", "random_s"):
        assert experiments.probed_on_fresh(SMALLEST, tmp_path, name, 0).keys() == set(plan.FAMILIES)
    more, fewer = (experiments.probed(SMALLEST, tmp_path, "solver_random", 0, rounds) for rounds in (12, None))
    assert more != fewer


def test_seeds_have_labelled_lps_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    used: list[list[str]] = []

    class Noted(lps.Labels):
        def __init__(self, some: Any, optima: Any) -> None:
            super().__init__(some, optima)
            used.append([lp.name for lp in some])

    monkeypatch.setattr(experiments, "Labels", Noted)
    two = dataclasses.replace(SMALLEST, labels={20: (2, 4)})
    for seed in range(3):
        experiments.probed_states(two, tmp_path, "shown", seed)
    of_two = [names for names in used if len(names) == 2 and "auction" in names[0]]
    assert len(of_two) == 3
    assert of_two[0] == of_two[2]  # four are enough for two seeds
    assert not {*of_two[0]} & {*of_two[1]}


# What is published


def test_the_shipped_trunk_is_read_and_knows_something():
    encode = shipped.load()
    metadata = shipped.read_metadata(shipped.TRUNK)
    assert (metadata["arm"], metadata["seed"], metadata["sees"]) == (plan.SHIPPED, 0, list(plan.SEEN))
    assert shipped.TRUNK.stat().st_size < 2 * 2**20
    assert not any(parameter.requires_grad for parameter in encode.parameters())
    untrained = shipped.ShippedEncoder(arms.build(plan.ARMS["solver_random_s"], 0).trunk, plan.SEEN)
    aucs: list[float] = []
    for read in (untrained, encode):
        known, test = (
            read(bipartite_graph(lps.graphs(lps.lps(("random",), 20, 10, role), 10, False)[0].batch_graph))
            for role in ("labelled", "validation")
        )
        labels, truth = (
            lps.Labels(lps.lps(("random",), 20, 10, role), lps.optima(("random",), 20, 10, role))
            for role in ("labelled", "validation")
        )
        aucs.append(probe.scores(known, labels, test, truth)["auc"])
    assert aucs[1] > max(0.98, aucs[0])


def test_the_pages_say_what_the_results_say():
    results = found.Found(study.RESULTS)
    for page in (ROOT / "README.md", ROOT / "docs" / "study.md", ROOT / "docs" / "study" / "arms.md"):
        text = page.read_text()
        assert report.MARK.search(text)
        assert report.filled(text, results) == text


def test_results_are_small_and_whole():
    files = list(study.RESULTS.rglob("*.json"))
    assert files
    assert sum(path.stat().st_size for path in files) < 2**21
    for path in files:
        json.loads(path.read_text())
    scale = plan.SCALES["full"]
    planned = {stage: study.planned(stage, scale, Path(), ("any",)) for stage in study.STAGES}
    missing = [f"{stage}/{piece.name}" for stage, some in planned.items() for piece in some
               if not piece.path(study.RESULTS).exists()]  # fmt: skip
    assert missing == []


def test_a_table_that_there_is_none_of_is_an_error():
    with pytest.raises(KeyError, match="nonsense"):
        report.filled("<!-- table: nonsense -->\n<!-- end -->", found.Found(study.RESULTS))


def test_jobs_must_be_at_least_one(refused: Any):
    assert "--jobs is 0" in refused(study.main, "run", "--jobs", "0")


def test_scaling_does_not_change_what_is_active():
    lp = lps.lps(("auction",), 20, 1, "validation")[0]
    again = ruiz(canonical("again", "doc", lp.c, lp.A, -np.inf, lp.b, -np.inf, np.inf))
    assert np.array_equal(
        lps.is_active(lp, lps.interior_optimum(lp)), lps.is_active(again, lps.interior_optimum(again))
    )
