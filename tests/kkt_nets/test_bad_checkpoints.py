"""Checkpoints that cannot be resumed, and losses that are not finite: refused by name, with nothing overwritten."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import train
from loop import checkpoints, step
from loop.options import parse
from runs import MODES, PATHS, TINY, checkpoint, contents, differences
from torch import Tensor

each_path = pytest.mark.parametrize("path", PATHS)


# ---- checkpoints to go on from ---------------------------------------------------------------------------------------


def test_a_checkpoint_that_is_missing_a_folder_or_damaged_is_refused(refused, trained, tmp_path):
    last = trained()
    before = contents(last.parent)
    whole = last.read_bytes()
    for damaged in (b"", b"hello", whole[:9], whole[: len(whole) // 2], whole[:-1]):
        (tmp_path / "damaged.pt").write_bytes(damaged)
        assert "damaged.pt cannot be read as a checkpoint" in refused("--resume", tmp_path / "damaged.pt")
    assert "nowhere.pt does not exist" in refused("--resume", tmp_path / "nowhere.pt")
    assert "is a folder; name the checkpoint in it" in refused("--resume", last.parent)
    assert contents(last.parent) == before


@pytest.mark.parametrize("content", [
    {"weights": 1}, torch.zeros(3), [1, 2], {"model": {}, "optimizer": {}, "epoch": 3, "args": {}},
], ids=["dict", "tensor", "list", "other trainer"])  # fmt: skip
def test_a_torch_file_of_another_kind_is_refused(refused, tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    assert "not a checkpoint of train.py" in refused("--resume", tmp_path / "other.pt")


class Command:
    """Runs when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("save", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))])
def test_code_in_a_checkpoint_does_not_run(refused, tmp_path, save):
    save({"model": Command(tmp_path / "ran")}, tmp_path / "evil.pt")
    assert "cannot be read as a checkpoint" in refused("--resume", tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


# test_checkpoints.py has every other flag.
@pytest.mark.parametrize(("trained_with", "resumed_with", "said"), [
    ([], ["--use_bipartite_graphs"], "--use_bipartite_graphs is True"),
    (["--use_jepa"], ["--use_jepa", "--jepa_mode", "simsiam"], "--jepa_mode is simsiam"),
])  # fmt: skip
def test_a_checkpoint_of_a_run_with_other_flags_is_refused(refused, trained, trained_with, resumed_with, said):
    last = trained(*trained_with)
    before = contents(last.parent)
    message = refused("--resume", last, *resumed_with)
    assert said in message
    assert " and was " in message
    assert contents(last.parent) == before


def test_a_checkpoint_that_has_seen_more_epochs_is_refused(refused, trained):
    assert "has seen 2 already; raise --epochs" in refused("--resume", trained("--epochs", 2), "--epochs", 1)


def rewritten(last: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    state = checkpoint(last.parent)
    change(state)
    checkpoints.save(last, state)
    return last


@each_path
@pytest.mark.parametrize("change", [
    lambda state: state["model"].update({name: torch.zeros(2, 3) for name in list(state["model"])[:1]}),
    lambda state: state["model"].clear(),
    lambda state: state["jepa"].pop("projector"),
    lambda state: state.update(jepa=None),
    lambda state: state["optimizer"].update(param_groups=[]),
    lambda state: state["meter"].clear(),
], ids=["sizes", "no weights", "no projector", "no jepa", "optimizer", "losses"])  # fmt: skip
def test_a_checkpoint_of_another_model_is_refused(refused, trained, path, change):
    last = rewritten(trained(*PATHS[path], "--use_jepa"), change)
    before = contents(last.parent)
    assert f"{last} is of another model" in refused(*PATHS[path], "--use_jepa", "--resume", last)
    assert contents(last.parent) == before


@each_path
def test_without_its_teacher_a_run_goes_on_from_the_online_weights_and_says_so(
    run_training, data_root, trained, capsys, path
):
    flags = [*PATHS[path], "--use_jepa"]
    last = rewritten(trained(*flags), lambda state: state.pop("target_model"))
    capsys.readouterr()
    given = map(str, [*TINY, "--data_root", data_root, *flags, "--epochs", 2, "--resume", last])
    run: Any = train.Run(parse(list(given)))
    assert "has no teacher: it starts from the online weights" in capsys.readouterr().err
    assert not differences(run.jepa.objective.teacher.target_model.state_dict(), run.jepa.encoder.state_dict())
    assert run.jepa.encoder.trunk.state_dict().keys()
    run.train()
    assert "target_model" in checkpoint(last.parent)


# ---- a loss that is not finite ---------------------------------------------------------------------------------------


@each_path
@pytest.mark.parametrize("mode", MODES)
def test_a_loss_that_is_not_finite_stops_with_step_instances_and_terms(refused, tmp_path, path, mode):
    said = refused(*PATHS[path], *MODES[mode], "--lr", 1e30, "--log_every", 10)
    assert "the loss is not finite at step 2" in said
    assert "train/stationarity" in said
    assert "set_cover-3x5-" in said
    assert "random-4x3-" in said
    assert said.count("set_cover-") + said.count("random-") == 4  # the batch's, and no others
    assert ("train/loss_jepa" in said) == (mode != "kkt")
    assert not (tmp_path / "new" / "last.pt").exists()


@each_path
def test_the_last_good_checkpoint_survives_a_loss_that_is_not_finite(refused, trained, monkeypatch, path):
    last = trained(*PATHS[path], "--use_jepa")
    before = {name: digest for name, digest in contents(last.parent).items() if name.endswith(".pt")}
    monkeypatch.setattr(step, "kkt", poisoned(step.kkt, call=2))
    said = refused(*PATHS[path], "--use_jepa", "--resume", last)
    assert "the loss is not finite at step 5" in said  # three of the first epoch, and the second of this one
    assert "train/loss_kkt nan" in said
    after = {name: digest for name, digest in contents(last.parent).items() if name.endswith(".pt")}
    assert after == before


def poisoned(kkt: Callable[..., Any], call: int) -> Callable[..., Any]:
    calls: list[int] = []

    def poison(*args: Any) -> tuple[Tensor, dict[str, Tensor]]:
        calls.append(1)
        loss, terms = kkt(*args)
        return loss * (float("nan") if len(calls) == call else 1.0), terms

    return poison


@each_path
def test_a_validation_loss_that_is_not_finite_stops_the_run(refused, trained, monkeypatch, path):
    last = trained(*PATHS[path])
    before = checkpoint(last.parent)
    monkeypatch.setattr(train, "kkt", poisoned(train.kkt, call=1))
    said = refused(*PATHS[path], "--resume", last)
    assert "val/loss_kkt nan" in said
    assert not differences(checkpoint(last.parent), before)


def test_weights_that_are_not_finite_are_not_saved(refused, trained, monkeypatch):
    """The last step's own loss was finite; what it did to the weights would be noticed an epoch later."""
    last = trained("--use_jepa")
    before = checkpoint(last.parent)
    plain_step = torch.optim.Adam.step

    def overflowing(optimizer: torch.optim.Adam, *args: Any) -> None:
        plain_step(optimizer, *args)
        if optimizer.state[optimizer.param_groups[0]["params"][0]]["step"] == 6:
            with torch.no_grad():
                optimizer.param_groups[0]["params"][-1].fill_(torch.inf)  # the predictor's

    monkeypatch.setattr(torch.optim.Adam, "step", overflowing)
    assert "not finite" in refused("--use_jepa", "--resume", last)
    assert not differences(checkpoint(last.parent), before)
