"""Whole runs that are killed, asked to end, or left without room on the disk, and go on."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kills
import numpy as np
import pytest
import torch
import train
from data import splits
from kills import compare
from loop import checkpoints
from runs import PATHS, TINY, checkpoint, contents, rows

from jepa_ssl import JEPATerm

FLAGS = ["--use_jepa", "--epochs", "3", "--checkpoint_every", "2", "--log_every", "2", "--monitor_every", "2"]
each_path = pytest.mark.parametrize("path", PATHS)
pytestmark = pytest.mark.slow


def test_a_run_that_is_killed_at_random_moments_equals_an_unbroken_one():
    """`python tests/kills.py --kills 200` does it for longer."""
    settings = ["flat=6", "graph=4", "workers=1", "processes=2"]
    subprocess.run([sys.executable, "-X", "faulthandler", kills.__file__, *settings], check=True)


@pytest.fixture(scope="module")
def unbroken(data_root, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    train.main([*TINY, *FLAGS, "--data_root", str(data_root), "--output_dir", str(folder)])
    return folder


def interrupted(run: Callable[[], Any], number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped:
        run()
    assert stopped.value.code == 128 + number
    assert signal.getsignal(number) == before


def sent(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, number: int, call: int) -> None:
    """Lets the signal come within the `call`-th call of a function."""
    whole, calls = getattr(owner, name), []

    def function(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return whole(*args, **options)

    monkeypatch.setattr(owner, name, function)


@pytest.mark.parametrize(("owner", "name", "call", "step", "number"), [
    (JEPATerm, "update", 1, 1, signal.SIGTERM), (JEPATerm, "update", 5, 5, signal.SIGINT),
    (JEPATerm, "update", 9, 9, signal.SIGTERM), (train.Run, "_validate", 1, 3, signal.SIGINT),
    (checkpoints, "save", 2, 3, signal.SIGTERM), (checkpoints, "save", 1, 2, signal.SIGINT),
], ids=["first step", "mid-epoch", "last step", "validation", "best.pt", "last.pt"])  # fmt: skip
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint_to_go_on_from(
    run_training, unbroken, tmp_path, monkeypatch, capsys, owner, name, call, step, number
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patched:
        sent(patched, owner, name, number, call)
        interrupted(lambda: run_training(*FLAGS, "--output_dir", folder), number)
    last = folder / "last.pt"
    assert checkpoint(folder)["step"] == step
    said = f"interrupted by {signal.Signals(number).name} after step {step}; go on with the same command and"
    assert capsys.readouterr().err.endswith(f"train.py: {said} --resume {last}\n")
    run_training(*FLAGS, "--resume", last)
    compare(folder, unbroken)


def test_a_signal_while_lps_are_generated_ends_at_once_and_leaves_nothing_that_hinders(
    run_training, tmp_path, monkeypatch, capsys
):
    flags = [*FLAGS, "--resume", "auto", "--data_root", tmp_path / "data", "--output_dir", tmp_path / "run"]
    with monkeypatch.context() as patched:
        sent(patched, splits, "ruiz", signal.SIGTERM, 5)
        interrupted(lambda: run_training(*flags), signal.SIGTERM)
    assert "interrupted by SIGTERM before the first step" in capsys.readouterr().err
    assert not list(tmp_path.glob("data/*.lps"))
    assert run_training(*flags).step == 9


# ---- one command line that may be started at will --------------------------------------------------------------------


def test_auto_starts_goes_on_and_leaves_a_run_that_is_done_as_it_is(run_training, unbroken, tmp_path, monkeypatch):
    flags = [*FLAGS, "--resume", "auto", "--output_dir", tmp_path / "run"]
    for call in (1, 3, 2):
        with monkeypatch.context() as patched:
            sent(patched, JEPATerm, "update", signal.SIGTERM, call)
            interrupted(lambda: run_training(*flags), signal.SIGTERM)
    run_training(*flags)
    compare(tmp_path / "run", unbroken)
    before = contents(tmp_path / "run")
    assert run_training(*flags).step == 9
    assert contents(tmp_path / "run") == before


def test_global_random_numbers_go_on_where_they_were(run_training, tmp_path, monkeypatch):
    drawn: list[tuple[float, ...]] = []
    update = JEPATerm.update

    def drawing_update(jepa: JEPATerm) -> None:
        update(jepa)
        drawn.append((random.random(), np.random.rand(), torch.rand(()).item()))  # noqa: NPY002

    monkeypatch.setattr(JEPATerm, "update", drawing_update)
    run_training(*FLAGS, "--output_dir", tmp_path / "unbroken")
    expected, drawn = drawn, []
    with monkeypatch.context() as patched:
        sent(patched, JEPATerm, "update", signal.SIGTERM, 4)
        interrupted(lambda: run_training(*FLAGS, "--output_dir", tmp_path / "run"), signal.SIGTERM)
    run_training(*FLAGS, "--resume", tmp_path / "run" / "last.pt")
    assert drawn == expected
    assert len(set(drawn)) == 9


@pytest.mark.parametrize("every", [0, 3])
def test_killed_in_the_writing_at_the_end_of_an_epoch_it_goes_on(run_training, unbroken, tmp_path, monkeypatch, every):
    """Validation is logged already; and what became the best one is the last one too, if there is none."""
    flags = ["--use_jepa", "--epochs", 3, "--checkpoint_every", every, "--log_every", 2, "--monitor_every", 2]
    flags += ["--resume", "auto", "--output_dir", tmp_path / "run"]
    with monkeypatch.context() as patched:
        patched.setattr(train.checkpoints, "save", killed_at(2, checkpoints.save))
        with pytest.raises(KeyboardInterrupt):
            run_training(*flags)
    written = {"last.pt"} if every else {"best.pt"}
    assert {file.name for file in (tmp_path / "run").iterdir()} == {"metrics.jsonl"} | written
    run_training(*flags)
    compare(tmp_path / "run", unbroken)


def killed_at(call: int, function: Callable[..., Any]) -> Callable[..., Any]:
    calls = []

    def killed(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return function(*args)

    return killed


def test_what_a_killed_run_left_half_written_is_removed_and_no_row_of_it_stays(run_training, unbroken, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in (".last.pt.123.tmp", ".best.pt.4.tmp", ".metrics.jsonl.123.tmp"):
        (folder / name).write_bytes(b"half")
    (folder / "metrics.jsonl").write_text('{"step": 1, "train/loss": 7.0}\n{"step": 2, "tr')  # of before a checkpoint
    run_training(*FLAGS, "--resume", "auto", "--output_dir", folder)
    compare(folder, unbroken)


@pytest.mark.parametrize("rank", range(2))
def test_of_two_processes_one_of_which_is_killed_the_other_says_so_and_ends(data_root, tmp_path, rank):
    """Without torchrun, where the first one takes the count of failures along."""
    flags = [*FLAGS, "--epochs", "500", "--data_root", str(data_root)]
    attempt = kills.Attempt(flags, tmp_path / "run", processes=2)
    while attempt.runs() and kills.size(attempt.folder) < 300:
        time.sleep(0.001)
    os.kill(attempt.children[rank], signal.SIGKILL)
    codes = attempt.wait()
    assert (codes[rank], codes[1 - rank]) == (-signal.SIGKILL, 2)
    said = attempt.said()
    assert said.count("train.py: error: another process of this run has ended, and this one with it.") == 1
    assert "Traceback" not in said
    assert "frame #" not in said


# ---- the loader, and the disk ----------------------------------------------------------------------------------------


def test_a_resumed_epoch_reads_no_batch_that_it_has_seen(run_training, tmp_path, monkeypatch):
    flags = [*FLAGS, "--resume", "auto", "--output_dir", tmp_path / "run"]
    orders: list[list[list[int]]] = []
    make_loader = train.make_loader

    def recorded(data: Any, collate: Any, order: Any, workers: int) -> Any:
        orders.append(order)
        return make_loader(data, collate, order, workers)

    monkeypatch.setattr(train, "make_loader", recorded)
    with monkeypatch.context() as patched:
        sent(patched, JEPATerm, "update", signal.SIGTERM, 2)
        interrupted(lambda: run_training(*flags), signal.SIGTERM)
    run_training(*flags)
    assert orders[1] == orders[0][2:]
    assert len(orders[1]) == 1


@each_path
def test_a_full_disk_leaves_the_last_checkpoint_and_says_so(run_training, tmp_path, capsys, path):
    flags = [*PATHS[path], *FLAGS, "--resume", "auto", "--output_dir", tmp_path / "run"]
    run_training(*flags, "--epochs", 1)
    before = contents(tmp_path / "run")
    child = os.fork()
    if not child:
        size = (tmp_path / "run" / "last.pt").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
        descriptor = os.open(tmp_path / "terminal", os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, 2)
        sys.stderr = os.fdopen(2, "w")
        try:
            run_training(*flags)
        except SystemExit as stopped:
            sys.stderr.flush()
            os._exit(stopped.code)  # pyright: ignore[reportArgumentType]
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    said = (tmp_path / "terminal").read_text().splitlines()[-1]
    assert f"train.py: error: {tmp_path / 'run' / 'last.pt'} cannot be written (File too large)" in said
    assert contents(tmp_path / "run")["last.pt"] == before["last.pt"]
    assert not list(tmp_path.glob("run/.*"))
    run_training(*flags)
    assert rows(tmp_path / "run")[-1]["step"] == 9
