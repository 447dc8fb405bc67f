"""Items 1 to 5 of the specification's acceptance, each on both paths."""

import gc
from typing import Any

import oracles
import pytest
import torch
from loop import paths
from losses import kkt_loss
from runs import MODES, PATHS, RECIPES, differences, prepared, rows, snapshot, train_rows
from torch import Tensor, nn
from wandb_files import wandb_history

from jepa_ssl.teachers import ema

each_path = pytest.mark.parametrize("path", PATHS)
EVERY = MODES | RECIPES
each_mode = pytest.mark.parametrize("mode", MODES)
each_teacher = pytest.mark.parametrize("mode", ["ema", "simsiam"])


# ---- 1: every combination runs ---------------------------------------------------------------------------------------


@each_path
@each_mode
def test_1_every_combination_of_path_and_mode_runs(run_training, tmp_path, path, mode):
    run_training(*PATHS[path], *MODES[mode], "--epochs", 2, "--output_dir", tmp_path / "run")

    assert {file.name for file in (tmp_path / "run").iterdir()} == {"last.pt", "best.pt", "metrics.jsonl"}
    logged = train_rows(tmp_path / "run")
    assert [row["step"] for row in logged] == [1, 2, 3, 4, 5, 6]
    assert all(("train/loss_jepa" in row) == (mode != "kkt") for row in logged)
    jepa = [0.2 * row.get("train/loss_jepa", 0.0) for row in logged]
    expected = [row["train/loss_kkt"] + term for row, term in zip(logged, jepa, strict=True)]
    assert [row["train/loss"] for row in logged] == pytest.approx(expected, rel=1e-5)


@each_path
@pytest.mark.parametrize(("flags", "task", "jepa"), [
    ([], [1, 1, 1], [0, 0, 0]),
    (["--use_jepa", "--jepa_pretrain_epochs", "2", "--jepa_weight", "0"], [0, 0, 1], [1, 1, 0]),
    (["--use_jepa", "--jepa_pretrain_epochs", "2"], [0, 0, 1], [1, 1, 1]),
    (["--use_jepa"], [1, 1, 1], [1, 1, 1]),
], ids=["KKT alone", "JEPA, then KKT", "JEPA, then both", "both"])  # fmt: skip
def test_1_the_four_ways_to_train_are_flags(run_training, tmp_path, path, flags, task, jepa):
    run_training(*PATHS[path], *flags, "--epochs", 3, "--output_dir", tmp_path / "run")

    last_of_epoch = [row for row in train_rows(tmp_path / "run") if row["step"] % 3 == 0]
    assert ["train/loss_kkt" in row for row in last_of_epoch] == list(map(bool, task))
    assert ["train/loss_jepa" in row for row in last_of_epoch] == list(map(bool, jepa))


@each_path
def test_1_jepa_may_be_computed_at_every_second_step(run_training, tmp_path, path):
    run_training(*PATHS[path], *MODES["simsiam"], "--jepa_every", 2, "--epochs", 2, "--output_dir", tmp_path / "run")
    assert ["train/loss_jepa" in row for row in train_rows(tmp_path / "run")] == [True, False] * 3


# ---- 2 and 3: who is the teacher -------------------------------------------------------------------------------------


def living_parameters() -> list[nn.Parameter]:
    gc.collect()
    return [thing for thing in gc.get_objects() if type(thing) is nn.Parameter]


@pytest.mark.slow  # to look at all objects takes a second
@each_path
@each_teacher
def test_2_a_target_model_lives_in_ema_alone(data_root, tmp_path, path, mode):
    """Counted among all objects that are alive after the last step: no hiding place escapes."""
    before = living_parameters()
    run = prepared(data_root, tmp_path / "run", *PATHS[path], *MODES[mode], "--epochs", 1)
    run.train()
    known = {id(p) for group in run.optimizer.param_groups for p in group["params"]} | set(map(id, before))
    untrained = sorted(tuple(p.shape) for p in living_parameters() if id(p) not in known)
    assert untrained == ([] if mode == "simsiam" else sorted(tuple(p.shape) for p in run.jepa.encoder.parameters()))


@each_path
def test_2_simsiam_never_copies(run_training, tmp_path, monkeypatch, path):
    def refuse(*_: Any) -> None:
        raise AssertionError("copied")

    monkeypatch.setattr(ema, "independent_copy", refuse)
    run_training(*PATHS[path], *MODES["simsiam"], "--epochs", 1, "--output_dir", tmp_path / "run")
    with pytest.raises(AssertionError, match="copied"):  # it would have been noticed
        run_training(*PATHS[path], *MODES["ema"], "--epochs", 1, "--output_dir", tmp_path / "other")


@each_path
def test_3_each_optimizer_step_moves_the_teacher_by_the_formula(data_root, tmp_path, monkeypatch, path):
    flags = [*PATHS[path], *MODES["ema"], "--ema_momentum", 0.75, "--epochs", 2]
    run = prepared(data_root, tmp_path / "run", *flags)
    assert not differences(run.jepa.objective.teacher.target_model.state_dict(), run.jepa.encoder.state_dict())
    online: list[dict[str, Tensor]] = []
    teacher: list[dict[str, Tensor]] = [snapshot(run.jepa.objective.teacher.target_model)]
    step, update = torch.optim.Adam.step, run.jepa.update

    def recorded_step(*args: Any) -> None:
        assert not differences(snapshot(run.jepa.objective.teacher.target_model), teacher[-1])  # moved by update alone
        step(*args)
        online.append(snapshot(run.jepa.encoder))

    def recorded_update() -> None:
        update()
        teacher.append(snapshot(run.jepa.objective.teacher.target_model))

    monkeypatch.setattr(torch.optim.Adam, "step", recorded_step)
    run.jepa.update = recorded_update
    run.train()

    assert len(online) == len(teacher) - 1 == 6 == int(run.jepa.objective.teacher.updates)
    for before, o, after in zip(teacher, online, teacher[1:], strict=False):
        for name, moved in after.items():
            expected = oracles.ema_update(before[name], o[name], 0.75)
            torch.testing.assert_close(moved.double(), expected, rtol=1e-6, atol=1e-8)
        assert any((after[name] != before[name]).any() for name in after)


# ---- 4: epochs of JEPA alone -----------------------------------------------------------------------------------------


@each_path
@each_teacher
def test_4_the_first_epochs_are_of_jepa_alone(data_root, tmp_path, monkeypatch, path, mode):
    flags = [*PATHS[path], *MODES[mode], "--epochs", 3, "--jepa_pretrain_epochs", 2]
    run = prepared(data_root, tmp_path / "run", *flags)
    paid: dict[str, set[int]] = {"forward": set(), "head_x": set(), "head_lam": set(), "kkt_loss": set()}

    def pay(name: str) -> None:
        paid[name].add(run.epoch)
        assert name != "forward" or run.epoch >= 2

    def paid_loss(*args: Any, **weights: Any) -> Any:
        pay("kkt_loss")
        return kkt_loss(*args, **weights)

    for name, module in (("forward", run.model), ("head_x", run.model.head_x), ("head_lam", run.model.head_lam)):
        module.register_forward_hook(lambda *_, name=name: pay(name))
    monkeypatch.setattr(paths, "kkt_loss", paid_loss)
    run.train()

    # The third epoch, and its validation, when the third is finished.
    assert paid == {name: {2, 3} for name in paid}
    pretraining = [row for row in train_rows(tmp_path / "run") if row["epoch"] < 2]
    assert len(pretraining) == 6
    for row in pretraining:
        assert row["train/loss"] == row["train/loss_jepa"]
        assert not {"train/loss_kkt", "train/primal", "val/loss_kkt"} & row.keys()


@each_path
@each_teacher
def test_4_heads_do_not_move_and_nothing_is_best_before_kkt_is_trained(data_root, tmp_path, path, mode):
    flags = [*PATHS[path], *MODES[mode], "--epochs", 2, "--jepa_pretrain_epochs", 2]
    run = prepared(data_root, tmp_path / "run", *flags)
    before = snapshot(run.model)
    run.train()

    moved = {name for name, tensor in run.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved
    assert not any(name.startswith("head_") for name in moved)
    assert {file.name for file in (tmp_path / "run").iterdir()} == {"last.pt", "metrics.jsonl"}


# ---- 5: what wandb recorded ------------------------------------------------------------------------------------------


@each_path
def test_5_wandb_gets_the_jepa_loss_every_log_every_steps(run_training, tmp_path, monkeypatch, path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "run"
    flags = ["--log_every", 2, "--epochs", 4, "--jepa_pretrain_epochs", 2, "--output_dir", folder]
    run_training(*PATHS[path], *MODES["ema"], *flags)

    history = {int(row["_step"]): row for row in wandb_history(folder)}
    assert [step for step, row in history.items() if "train/loss_jepa" in row] == [2, 4, 6, 8, 10, 12]
    for row in rows(folder):
        for name, value in row.items():
            assert history[int(row["step"])]["_step" if name == "step" else name] == value
