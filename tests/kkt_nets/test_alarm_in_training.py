"""Real runs of `train.py`: one that collapses says so on the terminal, in its log and in its report; others do not."""

import shlex
from typing import Any

import evaluate
import pytest
from runs import rows

pytestmark = pytest.mark.slow

RUN = shlex.split(
    "--use_bipartite_graphs --use_jepa --devices cpu --problems set_cover random --set_cover_size 8 10 "
    "--random_size 8 10 --train_instances 128 --val_instances 8 --test_instances 8 --batch_size 8 --embedding_size 32 "
    "--epochs 8 --jepa_pretrain_epochs 8 --log_every 16 --seed 2"
)
PLAIN = ("--jepa_mode", "simsiam")
STATES = ("--jepa_views", "solver_state", "--jepa_mode", "frozen", "--jepa_loss", "smooth_l1")


def warnings_of(run: Any) -> list[str]:
    return [row["monitor/warning"] for row in rows(run.folder) if "monitor/warning" in row]  # pyright: ignore[reportReturnType]


def test_the_plain_recipe_collapses_and_says_so(run_training, tmp_path, capsys):
    run = run_training(*RUN, *PLAIN, "--output_dir", tmp_path / "run")
    terminal = capsys.readouterr().err
    said = warnings_of(run)
    assert any("has collapsed" in sentence for sentence in said)
    for sentence in said:
        assert f"warning: {sentence}" in terminal
    # It began with a loss that fell.
    losses = [row["train/loss_jepa"] for row in rows(run.folder) if "train/loss_jepa" in row]
    assert losses[-1] < losses[0] / 2

    (report,) = evaluate.main([str(run.folder / "last.pt")])
    assert report["alarms"]
    assert all(any(alarm in sentence for sentence in said) for alarm in report["alarms"])
    shown = capsys.readouterr().out
    assert all(f"while it was trained: {alarm}" in shown for alarm in report["alarms"])


def test_solver_states_do_not_and_nothing_is_said(run_training, tmp_path, capsys):
    run = run_training(*RUN, *STATES, "--output_dir", tmp_path / "run")
    assert "warning:" not in capsys.readouterr().err
    assert not warnings_of(run)
    (report,) = evaluate.main([str(run.folder / "last.pt")])
    assert report["alarms"] == []
