"""All rows of the monitor reach wandb, whose own steps run ahead where gradients are accumulated."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from wandb_files import wandb_history

from jepa_ssl import CollapseMonitor, EntryMasker, JEPAObjective, JEPATerm, MLPPredictor, ModelEncoder, StopGradTeacher

wandb: Any = pytest.importorskip("wandb")

MICRO_BATCHES, STEPS = 4, 40


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = wandb.init(project="any", dir=tmp_path, mode="offline")
    yield run
    run.finish()


def train(log: Callable[[dict[str, Any], int], object]) -> None:
    """A loop that logs each micro-batch, as gradient accumulation does, by its own count."""
    encoder = ModelEncoder(nn.Linear(6, 8), {"instance": 8}, 4)
    monitor = CollapseMonitor(log=log, items=8)
    objective = JEPAObjective(EntryMasker(0.5), MLPPredictor(encoder.dims), StopGradTeacher(), monitor=monitor)
    term = JEPATerm(encoder, objective)
    optimizer = torch.optim.SGD([*encoder.model.parameters(), *term.parameters()], 0.01)
    for count in range(1, MICRO_BATCHES * STEPS + 1):
        joint = term.loss(torch.randn(8, 6), task=torch.zeros(()))
        joint.total.backward()
        wandb.log({"train/loss": joint.total.item()}, step=count)
        if count % MICRO_BATCHES == 0:
            optimizer.step()
            term.update()


def test_all_rows_of_the_monitor_and_of_the_loop_are_recorded(run: Any, tmp_path: Path):
    wandb.define_metric("monitor/*", step_metric="monitor/step")
    steps: list[int] = []

    def log(row: dict[str, Any], step: int) -> None:
        steps.append(row["monitor/step"])
        wandb.log(row)

    train(log)
    run.finish()
    history = wandb_history(tmp_path)
    assert [row["monitor/step"] for row in history if "monitor/step" in row] == steps
    assert len(steps) == STEPS // 10
    assert sum("train/loss" in row for row in history) == MICRO_BATCHES * STEPS


def test_the_log_of_wandb_itself_is_refused_by_name(run: Any):
    for log in (wandb.log, run.log):
        with pytest.raises(ValueError, match=r"log is wandb\.log.*give log=lambda row, step: wandb\.log\(row\)"):
            train(log)
