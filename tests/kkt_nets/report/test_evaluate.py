"""Claims of evaluate.py: measures in original units equal plain loops, an optimum has none, nothing bad is hidden."""

import json
import math
from argparse import Namespace
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
import train
from data.lp import canonical, original_point, unscaled
from data.scaling import ruiz
from data.solve import solve
from loop import checkpoints
from loop.paths import KKT_WEIGHTS, kkt_of_each
from losses import kkt_loss
from models import GNNPolicy
from report import measures, tables, trained
from report.measures import Benchmark

TINY = [
    *("--devices", "cpu", "--epochs", "1", "--batch_size", "4", "--log_every", "1"),
    *("--embedding_size", "8", "--hidden_size", "8"),
    *("--train_instances", "6", "--val_instances", "4", "--test_instances", "6"),
]
SIZES = ["--problems", "set_cover", "random", "--set_cover_size", "4", "6", "--random_size", "3", "4"]
ARMS = {
    "mlp": [],
    "mlp-simsiam": ["--use_jepa", "--jepa_mode", "simsiam"],
    "gnn": ["--use_bipartite_graphs"],
    "gnn-ema": ["--use_bipartite_graphs", "--use_jepa"],
}
SLOW_ARMS = ("mlp", "gnn")
FIGURES = ("training_curves.png", "objectives.png", "spectra.png")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A trained run of each arm: name -> folder."""
    root = tmp_path_factory.mktemp("runs")
    for name, flags in ARMS.items():
        train.main([*TINY, *SIZES, "--data_root", f"{root}/data", "--output_dir", f"{root}/{name}", *flags])
    return {name: root / name for name in ARMS}


def refused(argv, capsys) -> str:
    """What evaluate.py says in its one line, on the way out with 2."""
    with pytest.raises(SystemExit) as caught:
        evaluate.main([str(argument) for argument in argv])
    said = capsys.readouterr().err.splitlines()
    said = [line for line in said if "error:" in line]
    assert caught.value.code == 2
    assert len(said) == 1
    return said[0]


# ---- measures ------------------------------------------------------------------------------------------------


def scaled_lp(seed=0, m=5, n=4, maximize=False):
    """Feasible and bounded, with coefficients of very different sizes."""
    rng = np.random.default_rng(seed)
    A = rng.uniform(0.5, 2.0, (m, n)) * np.exp2(rng.integers(-6, 7, (m, 1)))
    sign = 1.0 if maximize else -1.0
    c = sign * rng.uniform(1.0, 9.0, n)
    return ruiz(
        canonical(
            f"lp{seed}", "file", c, A, -np.inf, A @ rng.uniform(1, 2, n), 0.0, 50.0, maximize=maximize, offset=7.0
        )
    )


def plain_measures(A, b, c, x, lam, optimal):
    """The definitions, row by row and column by column."""
    m, n = A.shape
    objective = sum(c[j] * x[j] for j in range(n))
    excess = [sum(A[i, j] * x[j] for j in range(n)) - b[i] for i in range(m)]
    primal = [max(e, 0.0) for e in excess]
    dual = [abs(c[j] + sum(A[i, j] * lam[i] for i in range(m))) for j in range(n)]
    sign = [max(-value, 0.0) for value in lam]
    slackness = [abs(lam[i] * excess[i]) for i in range(m)]
    values = {"objective": objective, "gap": abs(objective - optimal) / max(1.0, abs(optimal))}
    for name, terms in (("primal", primal), ("dual", dual), ("sign", sign), ("slackness", slackness)):
        values |= {f"{name}_max": max(terms), f"{name}_mean": sum(terms) / len(terms)}
    return values


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_measures_equal_plain_loops_in_original_units(seed, maximize):
    lp = scaled_lp(seed, maximize=maximize)
    assert lp.scaling is not None
    assert max(abs(np.log2(lp.scaling.row))) > 1  # it matters which units are taken
    rng = np.random.default_rng(seed)
    x, lam = rng.normal(size=lp.columns), rng.normal(size=lp.rows)
    original = unscaled(lp)
    optimal = solve(original).objective
    expected = plain_measures(original.A.toarray(), original.b, original.c, *original_point(lp, x, lam), optimal)
    assert measures.measure(lp, x, lam, optimal) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("maximize", [False, True])
def test_an_optimum_has_no_gap_and_no_violation(maximize):
    lp = scaled_lp(3, maximize=maximize)
    optimum = solve(lp)  # in the units of the scaled LP
    measured = measures.measure(lp, optimum.x, optimum.lam, solve(unscaled(lp)).objective)
    objective = measured.pop("objective")
    assert all(value < 1e-6 * max(1.0, abs(objective)) for value in measured.values())
    assert objective < -1.0  # a minimum, also of a maximisation


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_prediction_that_is_not_finite_is_infinitely_bad(bad):
    lp = scaled_lp()
    x = np.ones(lp.columns)
    x[1] = bad
    measured = measures.measure(lp, x, np.ones(lp.rows), 1.0)
    assert measured["gap"] == measured["objective"] == measured["primal_max"] == measured["primal_mean"] == math.inf


def test_an_optimal_objective_of_zero_leaves_the_gap_finite():
    lp = canonical("zero", "file", [0.0, 0.0], [[1.0, 1.0]], -np.inf, 1.0, 0.0, np.inf)
    assert measures.measure(lp, np.zeros(2), np.zeros(lp.rows), 0.0)["gap"] == 0.0


def test_a_summary_has_each_group_and_all_and_counts_what_is_not_finite():
    def instance(family, value):
        return dict.fromkeys(measures.MEASURES, value) | {"family": family, "size": "1"}

    groups = measures.summarise([instance("b", 1.0), instance("a", 2.0), instance("b", 3.0), instance("b", math.inf)])
    assert [(group["family"], group["count"], group["non_finite"]) for group in groups] == [
        ("b", 3, 1),
        ("a", 1, 0),
        ("all", 4, 1),
    ]
    assert groups[0]["mean"]["gap"] == math.inf
    assert groups[0]["median"]["gap"] == 3.0
    assert groups[-1]["median"]["kkt"] == 2.5


# ---- whole evaluations ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", [pytest.param(arm, marks=[pytest.mark.slow] * (arm in SLOW_ARMS)) for arm in ARMS])
def test_each_arm_gets_a_table_a_report_and_figures(runs, arm, tmp_path, capsys):
    evaluate.main([str(runs[arm] / ("best.pt" if arm == "gnn" else "last.pt")), "--output_dir", str(tmp_path)])
    said = capsys.readouterr().out
    assert "set_cover" in said
    assert "effective rank" in said
    [run] = json.loads((tmp_path / "report.json").read_text())["runs"]
    assert run["label"] == arm
    assert run["epoch"] == 1
    assert run["jepa"] == (arm.split("-")[1] if "-" in arm else None)
    assert [(g["family"], g["size"], g["count"]) for g in run["groups"]] == [
        ("set_cover", "4x6", 3),
        ("random", "3x4", 3),
        ("all", "", 6),
    ]
    assert set(run["kkt_weights"]) == set(KKT_WEIGHTS)
    for group in run["groups"]:
        assert set(group["mean"]) == set(group["median"]) == set(measures.MEASURES)
        assert group["mean"]["network_seconds"] > 0
        assert group["mean"]["highs_seconds"] > 0
    for instance in run["instances"]:
        assert set(instance) == {"name", "family", "size", "optimal", "objective", *measures.MEASURES}
    streams = {"constraint", "variable"} if arm.startswith("gnn") else {"instance"}
    kinds = {"trunk", "projector"} if "-" in arm else {"trunk"}
    assert set(run["embeddings"]) == kinds
    assert all(set(found) == streams for found in run["embeddings"].values())
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", *FIGURES}
    for figure in FIGURES:
        assert (tmp_path / figure).read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / figure).stat().st_size > 5000


def test_the_report_of_a_network_equals_that_of_its_predictions_one_by_one(runs):
    [run] = trained.load([runs["gnn"] / "last.pt"], torch.device("cpu"))
    [report] = evaluate.evaluate([run], batch_size=2)
    benchmark = Benchmark(run.args)
    for i, instance in enumerate(report["instances"]):
        lp = benchmark.lps[i]
        batch = run.collate([benchmark.data[i]])
        with torch.no_grad():
            graph = batch.batch_graph
            x, lam = run.model(graph.constraint_features, graph.edge_index, graph.edge_attr, graph.variable_features)
        x, lam = x.double().numpy(), lam.double().numpy()
        assert instance["name"] == lp.name
        original = unscaled(lp)
        optimal = solve(original).objective
        expected = plain_measures(original.A.toarray(), original.b, original.c, *original_point(lp, x, lam), optimal)
        assert {name: instance[name] for name in expected} == pytest.approx(expected, rel=1e-3, abs=1e-4)
        assert instance["optimal"] == optimal

        # The KKT residual is that of the LP as it is trained on: scaled.
        A = lp.A.toarray()
        excess, reduced = A @ x - lp.b, lp.c + A.T @ lam
        residual = (
            0.1 * np.mean(np.maximum(excess, 0) ** 2) + 0.6 * np.mean(reduced**2) + 0.2 * np.mean((lam * excess) ** 2)
        )
        assert instance["kkt"] == pytest.approx(residual, rel=1e-3, abs=1e-6)


@pytest.mark.slow
def test_what_is_not_finite_is_reported_and_the_json_is_valid(runs, tmp_path, capsys):
    state = torch.load(runs["gnn-ema"] / "last.pt", weights_only=True)
    state["model"]["head_x.2.bias"].fill_(math.nan)
    checkpoints.save(tmp_path / "last.pt", state)
    evaluate.main([str(tmp_path / "last.pt")])
    assert "6 of 6 LPs have a prediction or a measure that is not finite" in capsys.readouterr().out

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    text = (tmp_path / "evaluation" / "report.json").read_text()
    [run] = json.loads(text, parse_constant=refuse)["runs"]
    assert run["groups"][-1]["non_finite"] == 6
    assert run["groups"][-1]["mean"]["gap"] is None
    assert all(instance["objective"] is None for instance in run["instances"])
    assert not (tmp_path / "evaluation" / "training_curves.png").exists()  # there is no log beside it


def test_embeddings_that_are_not_finite_have_no_spectrum():
    described = evaluate._describe(torch.tensor([[1.0, math.nan], [0.0, 1.0]]))
    assert described["singular_values"] == []
    assert math.isnan(described["effective_rank"])


def test_singular_values_are_standard_deviations():
    z = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 2.0, 1.0])
    found = evaluate._describe(z)["singular_values"]
    expected = np.linalg.eigvalsh(np.cov(z.double().numpy().T, bias=True))[::-1] ** 0.5
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_several_runs_are_compared_and_solved_once(runs, tmp_path, capsys, monkeypatch):
    calls = []
    monkeypatch.setattr("report.measures.solve", lambda lp: calls.append(lp.name) or solve(lp))
    reports = evaluate.main([*(str(folder / "last.pt") for folder in runs.values()), "--output_dir", str(tmp_path)])
    assert [report["label"] for report in reports] == list(ARMS)
    assert len(calls) == 6
    said = capsys.readouterr().out
    assert all(f"\n{arm} " in said for arm in ARMS)
    optimal = [[instance["optimal"] for instance in report["instances"]] for report in reports]
    assert optimal.count(optimal[0]) == len(ARMS)


def test_two_checkpoints_of_one_run_are_told_apart(runs):
    both = trained.load([runs["gnn"] / "best.pt", runs["gnn"] / "last.pt"], torch.device("cpu"))
    assert [run.label for run in both] == ["gnn/best", "gnn/last"]


def test_the_weights_and_the_projector_are_those_of_the_run(runs):
    path = runs["gnn-ema"] / "last.pt"
    state = torch.load(path, weights_only=True)
    [run] = trained.load([path], torch.device("cpu"))
    assert all(torch.equal(value, state["model"][name]) for name, value in run.model.state_dict().items())
    assert run.jepa is not None
    projector = run.jepa.encoder.projector.state_dict()
    assert all(torch.equal(value, state["jepa"]["projector"][name]) for name, value in projector.items())
    benchmark = Benchmark(run.args)
    embedded = run.embed(run.collate([benchmark.data[0]]))
    for streams in embedded.values():
        for z in streams.values():
            assert torch.allclose(z.norm(dim=1), torch.ones(len(z)))


def test_kkt_of_each_is_the_loss_of_a_batch_of_one(runs):
    [run] = trained.load([runs["mlp"] / "last.pt"], torch.device("cpu"))
    data, weights = Benchmark(run.args).data, dict(zip(KKT_WEIGHTS, (1.0, 2.0, 3.0, 4.0), strict=True))
    batch = run.collate([data[i] for i in range(4)])
    y_pred = torch.randn(4, batch.c.shape[1] + batch.b.shape[1], generator=torch.Generator().manual_seed(0))
    for i, found in enumerate(kkt_of_each(y_pred, batch, Namespace(**weights))):
        expected, _ = kkt_loss(y_pred[i : i + 1], *run.collate([data[i]])[1:], **weights)
        torch.testing.assert_close(found, expected)


# ---- files ---------------------------------------------------------------------------------------------------

SMALL = "Minimize\n obj: x + 2 y\nSubject To\n r: x + y >= {}\nBounds\n 0 <= x <= 4\nEnd\n"


@pytest.fixture
def files(tmp_path):
    """LPs of three sizes, the last one larger than the tiny runs' own."""
    paths = [tmp_path / f"{name}.lp" for name in ("one", "two", "wide")]
    paths[0].write_text(SMALL.format(1))
    paths[1].write_text(SMALL.format(2).replace("r:", "s: x - y <= 3\n r:"))
    wide = " + ".join(f"z{i}" for i in range(30))
    paths[2].write_text(f"Minimize\n obj: {wide}\nSubject To\n r: {wide} >= 3\nEnd\n")
    return [str(path) for path in paths]


@pytest.mark.slow
def test_a_run_over_files_is_evaluated_on_them_and_says_that_it_knew_them(files, tmp_path, capsys):
    train.main([*TINY, "--use_bipartite_graphs", "--output_dir", f"{tmp_path}/run", "--lp_files", *files])
    [report] = evaluate.main([f"{tmp_path}/run/last.pt"])
    assert [group["size"] for group in report["groups"]] == ["one 4x2", "two 5x2", "wide 31x30", ""]
    assert [instance["optimal"] for instance in report["instances"]] == pytest.approx([1.0, 2.0, 3.0])
    assert "3 of these files were there when it was trained" in capsys.readouterr().out


@pytest.mark.slow
def test_other_files_than_the_run_s_can_be_named(runs, files, tmp_path, capsys):
    [report] = evaluate.main(
        [f"{runs['gnn']}/last.pt", "--lp_files", *files, "--output_dir", str(tmp_path / "out"), "--batch_size", "1"]
    )
    assert [instance["name"] for instance in report["instances"]] == ["one", "two", "wide"]
    assert "were there when it was trained" not in capsys.readouterr().out


def test_lps_larger_than_the_mlp_are_refused_by_name(runs, files, tmp_path, capsys):
    said = refused([runs["mlp"] / "last.pt", "--lp_files", *files, "--output_dir", tmp_path / "out"], capsys)
    for part in ("'wide'", "31 rows and 30 columns", "--use_bipartite_graphs", "mlp/last.pt"):
        assert part in said
    assert not (tmp_path / "out" / "report.json").exists()


# ---- bad input -----------------------------------------------------------------------------------------------


def test_bad_checkpoints_are_refused(runs, tmp_path, capsys):
    (tmp_path / "truncated.pt").write_bytes((runs["gnn"] / "last.pt").read_bytes()[:2000])
    torch.save({"model": {}}, tmp_path / "other.pt")
    assert "does not exist" in refused([tmp_path / "missing" / "last.pt"], capsys)
    assert "is a folder" in refused([runs["gnn"]], capsys)
    assert "truncated" in refused([tmp_path / "truncated.pt"], capsys)
    assert "not a checkpoint" in refused([tmp_path / "other.pt"], capsys)
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("part", ["model", "jepa"])
def test_a_checkpoint_whose_parts_do_not_fit_is_refused_in_one_line(runs, part, tmp_path, capsys):
    state = torch.load(runs["gnn-ema"] / "last.pt", weights_only=True)
    state["args"]["embedding_size"] = 16
    if part == "jepa":
        state["model"] = GNNPolicy(Namespace(**state["args"])).state_dict()
    checkpoints.save(tmp_path / "last.pt", state)
    said = refused([tmp_path / "last.pt"], capsys)
    assert "last.pt" in said
    assert "Use another checkpoint" in said
    assert ("JEPA" in said) == (part == "jepa")


def test_one_checkpoint_twice_is_refused(runs, capsys):
    assert "named twice" in refused([runs["gnn"] / "last.pt"] * 2, capsys)


def test_an_output_folder_that_cannot_be_written_is_refused(runs, tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    said = refused([runs["gnn"] / "last.pt", "--output_dir", tmp_path / "file" / "out"], capsys)
    assert "--output_dir" in said
    assert (tmp_path / "file").read_text() == "not a folder"


@pytest.mark.parametrize(("flag", "value"), [("--batch_size", "0"), ("--devices", "gpu"), ("--lp_files", "none.mps")])
def test_a_bad_flag_is_refused(runs, flag, value, tmp_path, capsys):
    said = refused([runs["gnn"] / "last.pt", "--output_dir", tmp_path, flag, value], capsys)
    assert value in said


def test_a_damaged_log_is_refused(runs, tmp_path, capsys):
    (tmp_path / "last.pt").write_bytes((runs["gnn"] / "last.pt").read_bytes())
    (tmp_path / "metrics.jsonl").write_text('{"step": 1')
    assert "metrics.jsonl is damaged" in refused([tmp_path / "last.pt"], capsys)


def test_a_table_is_as_wide_as_its_cells():
    text = tables.table(["name", "n"], [["a", "1"], ["longer", "10"]], text_columns=1)
    assert text.splitlines() == ["name     n", "----------", "a        1", "longer  10"]


@pytest.mark.slow
def test_real_files_train_and_evaluate(tmp_path):
    folder = Path(__file__).resolve().parents[4] / "shared" / "lp"
    paths = sorted(map(str, folder.glob("*.mps")))
    if not paths:
        pytest.skip("the real LPs are not here")
    train.main([*TINY, "--use_bipartite_graphs", "--use_jepa", "--output_dir", f"{tmp_path}/run", "--lp_files", *paths])
    [report] = evaluate.main([f"{tmp_path}/run/last.pt"])
    assert len(report["instances"]) == len(paths)
    afiro = next(instance for instance in report["instances"] if instance["name"] == "afiro")
    assert afiro["optimal"] == pytest.approx(-464.7531428571)  # Netlib's
