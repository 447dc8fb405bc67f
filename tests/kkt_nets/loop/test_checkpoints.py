"""Checkpoints: whole or not at all, read without unpickling, and compared with the flags of the run that asks."""

import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from loop import checkpoints
from loop.options import parse
from runs import differences


def state(**changes: Any) -> dict[str, Any]:
    weights = {"w": torch.arange(3.0)}
    whole = {
        "epoch": 2, "step": 6, "best": 0.5, "model": weights, "optimizer": {}, "args": vars(parse([])), "jepa": None,
        "run_id": None, "taken": 1, "meter": {}, "rows": 7,
    }  # fmt: skip
    return {**whole, **changes}


def test_what_is_saved_is_loaded(tmp_path):
    saved = state()
    checkpoints.save(tmp_path / "last.pt", saved)
    assert not differences(checkpoints.load(tmp_path / "last.pt"), saved)
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_a_save_that_fails_leaves_the_last_one(tmp_path):
    path = tmp_path / "last.pt"
    checkpoints.save(path, state())
    before = path.read_bytes()
    with pytest.raises(Exception, match=r"pickle|local object"):
        checkpoints.save(path, state(model=lambda: 1))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("key", sorted(checkpoints.KEYS))
def test_a_checkpoint_without_a_part_is_refused_by_the_name_of_the_part(tmp_path, key):
    checkpoints.save(tmp_path / "x.pt", {name: value for name, value in state().items() if name != key})
    with pytest.raises(ValueError, match=re.escape(f"lacks ['{key}']: not a checkpoint of train.py")):
        checkpoints.load(tmp_path / "x.pt")


def test_flags_that_are_none_are_refused(tmp_path):
    checkpoints.save(tmp_path / "x.pt", state(args=[1]))
    with pytest.raises(ValueError, match="lacks flags: not a checkpoint"):
        checkpoints.load(tmp_path / "x.pt")


def other(value: Any) -> Any:
    """Another value of its kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return ["other"] if value is None or isinstance(value, list) else "other"


@pytest.mark.parametrize("name", sorted(vars(parse([]))))
def test_only_what_changes_no_number_may_differ_when_resuming(name):
    args = Namespace(**{**vars(parse([])), name: other(getattr(parse([]), name))})
    free = ["config", "epochs", "devices", "num_workers", "output_dir", "resume", "data_root", "checkpoint_every"]
    if name in free:
        checkpoints.check_same_run(state(), args, "x.pt")
    else:
        with pytest.raises(ValueError, match=f"x.pt is of a run with other flags: --{name} is .* and was"):
            checkpoints.check_same_run(state(), args, "x.pt")


@pytest.mark.parametrize(("taken", "seen"), [(0, 2), (1, 3)])
def test_a_run_may_go_on_longer_and_not_shorter_and_an_epoch_that_is_begun_counts(taken, seen):
    for epochs in (seen, seen + 1):
        checkpoints.check_same_run(state(taken=taken), parse(["--epochs", str(epochs)]), "x.pt")
    with pytest.raises(ValueError, match=f"has seen {seen} already; raise --epochs"):
        checkpoints.check_same_run(state(taken=taken), parse(["--epochs", str(seen - 1)]), "x.pt")


def test_it_is_loaded_to_the_cpu_and_leaves_the_file_alone(tmp_path: Path):
    checkpoints.save(tmp_path / "last.pt", state())
    before = (tmp_path / "last.pt").read_bytes()
    loaded = checkpoints.load(tmp_path / "last.pt")
    loaded["model"]["w"].zero_()
    assert (tmp_path / "last.pt").read_bytes() == before
