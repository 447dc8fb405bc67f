"""Networks of the example that are shown states: on both paths, trained, resumed, evaluated; and flags refused."""

import shlex
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest
import torch
from data.batches import FlatCollate, collate_graphs, prepare
from data.generators import generate
from data.seen import SeenStates
from loop.options import parse
from loop.paths import build, predict
from models import KKTNetMLP
from runs import PATHS, checkpoint, differences

from jepa_ssl import FlatVectors
from jepa_ssl.lp import DenseLP, SolverState, valid_entries

SAMPLES = [prepare(generate("set_cover", (3, 5), seed)) for seed in range(3)]
M, N = max(len(s.b) for s in SAMPLES), max(len(s.c) for s in SAMPLES)
RECIPE = shlex.split(
    "--seen_steps 3 9 --use_jepa --jepa_views solver_state --jepa_solver_steps 20 --jepa_solver_restart 10 "
    "--jepa_mode frozen --jepa_loss smooth_l1 --jepa_regularizer vicreg --jepa_regularize embeddings "
    "--jepa_regularizer_weight 0.2 --jepa_pretrain_epochs 1 --jepa_weight 0"
)
each_path = pytest.mark.parametrize("path", PATHS)


def test_both_paths_see_the_same_states():
    flat, graph = SeenStates(FlatCollate(M, N), (3, 9))(SAMPLES), SeenStates(collate_graphs, (3, 9))(SAMPLES)
    assert isinstance(graph, tuple)
    assert isinstance(flat, tuple)
    g: Any = graph[0]
    rows = flat[0][:, M * N + M + N :].split([4 * M, 4 * N], 1)[0].view(len(SAMPLES), M, 4)
    on_nodes = g.constraint_features[:, 3:].split([len(s.b) for s in SAMPLES])
    for i, states in enumerate(on_nodes):
        torch.testing.assert_close(rows[i, : len(states)], states, rtol=1e-4, atol=1e-5)


def test_without_steps_a_batch_is_what_it_was():
    plain: Any = collate_graphs(SAMPLES)
    seen: Any = SeenStates(collate_graphs)(SAMPLES)
    assert torch.equal(plain.batch_graph.constraint_features, seen.batch_graph.constraint_features)


@each_path
def test_a_network_takes_the_batches_of_its_run(path: str):
    args = parse([*PATHS[path], "--seen_steps", "3", "9", "--hidden_size", "8", "--embedding_size", "8"])
    model, collate = build(args, M, N)
    assert predict(model, collate(SAMPLES)).shape == (3, N + M)


def test_a_vector_without_states_is_refused_by_name():
    with pytest.raises(ValueError, match=r"expected m\*n\+5\*\(m\+n\) = 31 as its last dimension"):
        KKTNetMLP(2, 3, state_numbers=4)(torch.zeros(1, 11))


@pytest.mark.slow
@each_path
def test_the_recipe_trains_resumes_bit_for_bit_and_is_evaluated(path: str, run_training: Any, tmp_path: Path):
    flags = [*PATHS[path], *RECIPE]
    run_training(*flags, "--epochs", 3, "--output_dir", tmp_path / "whole")
    run_training(*flags, "--epochs", 2, "--output_dir", tmp_path / "part")
    run_training(*flags, "--epochs", 3, "--output_dir", tmp_path / "part", "--resume", tmp_path / "part" / "last.pt")
    whole, part = (checkpoint(tmp_path / name) for name in ("whole", "part"))
    for kept in ("model", "optimizer", "jepa"):
        assert differences(whole[kept], part[kept]) == []
    (report,) = evaluate.evaluate(evaluate.load([tmp_path / "whole" / "last.pt"], torch.device("cpu")))
    assert np.isfinite(report["groups"][-1]["mean"]["kkt"])


def test_the_target_of_the_flat_path_is_of_the_lp_alone(run_training: Any, tmp_path: Path):
    """States that are shown stand behind the LP, and are not taken for a part of it."""
    run = run_training(*RECIPE, "--epochs", 1, "--output_dir", tmp_path / "run")
    batch = next(iter(run._batches(run.data, [[0, 1]])))
    m, n = run.model.m, run.model.n
    width = m * n + m + n
    from jepa_adapter import instance

    shown: Any = instance(batch)
    lp = DenseLP.of_vectors(FlatVectors(batch.model_input[:, :width], valid_entries(batch.mask_m, batch.mask_n)), m, n)
    views = run.jepa.objective.views
    plain = SolverState(20, restart_every=10)
    plain.load_state_dict(views.state_dict())
    assert torch.equal(views(shown).target["instance"], plain(lp).target["instance"])


@pytest.mark.parametrize(("flags", "said"), [
    (["--seen_steps", "9", "3"], "--seen_steps is 9 3, but must be numbers of steps"),
    (["--seen_steps", "0"], "--seen_steps is 0, but must be numbers of steps"),
    (["--use_jepa", "--jepa_regularize", "embeddings"], "--jepa_regularize needs a regulariser"),
    (["--use_jepa", "--jepa_solver_restart", "5"], "--jepa_solver_restart belongs to --jepa_views solver_state"),
    (["--jepa_solver_restart", "5"], "--jepa_solver_restart belongs to the JEPA term, but JEPA is off"),
], ids=lambda flags: " ".join(flags) if isinstance(flags, list) else "")  # fmt: skip
def test_flags_that_cannot_be_used_are_refused(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        parse(flags)
    assert said in capsys.readouterr().err
