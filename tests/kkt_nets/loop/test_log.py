"""The losses between two log rows, and the log beside the checkpoints."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from loop.log import Meter, NonFiniteLossError, RunLog
from runs import differences, rows


def written(folder, steps, earlier=None, kept=0):
    with RunLog(folder, {}, None, earlier, kept) as log:
        for number in steps:
            log({"epoch": 0, "loss": 0.1 * number}, number)
    return [row["step"] for row in rows(folder)]


def test_a_mean_is_over_the_steps_that_have_the_loss():
    meter = Meter(str)
    for step, losses in enumerate([{"a": 1.0}, {"a": 2.0, "b": 5.0}, {"a": 6.0, "b": 7.0}, {"a": 3.0}]):
        meter.add(step, [0], {name: torch.tensor(value) for name, value in losses.items()}, {})
    assert meter.read()[0] == {"a": 3.0, "b": 6.0}


def test_rows_are_lines_of_json_and_hold_numbers_exactly(tmp_path):
    assert written(tmp_path, [1, 2, 3]) == [1, 2, 3]
    assert rows(tmp_path)[2] == {"step": 3, "epoch": 0, "loss": 0.1 * 3}


def test_each_row_is_on_the_disk_at_once(tmp_path):
    with RunLog(tmp_path, {}, None, None, 0) as log:
        log({"loss": 1.0}, 1)
        assert rows(tmp_path) == [{"step": 1, "loss": 1.0}]


def test_it_counts_its_rows_those_that_it_kept_included(tmp_path):
    written(tmp_path, [1, 2, 3])
    with RunLog(tmp_path, {}, None, tmp_path, 2) as log:
        assert log.rows == 2
        log({"loss": 1.0}, 3)
        log.sync()
        assert log.rows == 3


def test_a_run_resumed_elsewhere_brings_its_rows_along_and_leaves_the_old_log_alone(tmp_path):
    (tmp_path / "new").mkdir()
    written(tmp_path, [1, 2, 3, 4])
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert written(tmp_path / "new", [3, 4], earlier=tmp_path, kept=2) == [1, 2, 3, 4]
    assert (tmp_path / "metrics.jsonl").read_bytes() == before == (tmp_path / "new" / "metrics.jsonl").read_bytes()


def test_a_run_resumed_without_its_log_starts_one(tmp_path):
    (tmp_path / "new").mkdir()
    assert written(tmp_path / "new", [3], earlier=tmp_path, kept=2) == [3]


HALF = '{"step": 4, "lo'


@pytest.mark.parametrize(("before", "torn", "kept", "then", "found"), [
    ([1, 2, 3], "", None, [1], [1]),  # a new run starts a new log
    ([1, 2, 3, 4], "", 2, [3], [1, 2, 3]),  # steps that are taken again
    ([1, 2, 2], "", 2, [2, 3], [1, 2, 2, 3]),  # validation, logged after the checkpoint of its step
    *(([1, 2, 3], torn, 3, [4], [1, 2, 3, 4]) for torn in (HALF, '{"step": 4}', "", "{")),
    ([1, 2], HALF, 4, [5], [1, 2, 5]),  # a power cut took two rows
])  # fmt: skip
def test_a_resumed_run_keeps_the_rows_of_its_checkpoint_and_no_half_line(tmp_path, before, torn, kept, then, found):
    written(tmp_path, before)
    with (tmp_path / "metrics.jsonl").open("a") as log:
        log.write(torn)
    assert written(tmp_path, then, earlier=None if kept is None else tmp_path, kept=kept or 0) == found
    assert all(json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_said_with_the_name_of_the_log_and_does_not_keep_it_from_being_closed(tmp_path):
    log, full = RunLog(tmp_path, {}, None, None, 0), os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, log._file.fileno())
    os.close(full)
    with log, pytest.raises(OSError, match=re.escape(f"{log.path} cannot be written (No space left on")):
        log({"loss": 1.0}, 1)
    assert log._file.closed
    assert log.rows == 0


def test_without_wandb_the_run_has_no_id_and_nothing_is_written_but_the_log(tmp_path):
    log = RunLog(tmp_path, {}, None, None, 0)
    with log:
        assert log.run_id is None
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_wandb_is_offline_by_default_and_goes_on_with_the_same_run(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    with RunLog(tmp_path, {"lr": 0.1}, None, None, 0) as log:
        log({"loss": 1.0}, 1)
    assert log.run_id
    with RunLog(tmp_path, {"lr": 0.1}, log.run_id, tmp_path, 1) as again:
        again({"loss": 2.0}, 2)
    assert again.run_id == log.run_id
    assert len(list(tmp_path.glob(f"wandb/offline-run-*/run-{log.run_id}.wandb"))) >= 1
    assert [row["step"] for row in rows(tmp_path)] == [1, 2]


def test_a_mode_that_wandb_does_not_know_is_refused_before_the_run(run_training, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "offlin")
    with pytest.raises(SystemExit):
        run_training("--output_dir", tmp_path / "run")
    assert "WANDB_MODE is 'offlin'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(os.name != "posix", reason="this system has no such locks")
def test_two_runs_do_not_write_one_log_at_once(tmp_path):
    with RunLog(tmp_path, {}, None, None, 0) as log:
        log({"loss": 1.0}, 1)
        child = os.fork()
        if not child:
            try:
                RunLog(tmp_path, {}, None, tmp_path, 0)
            except OSError as error:
                os._exit(7 * str(error).startswith(f"{log.path} is written by another run; wait for its end"))
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert written(tmp_path, [2], earlier=tmp_path, kept=1) == [1, 2]


# ---- losses between two rows


def meter() -> Meter:
    return Meter("lp{}".format)


def losses(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def test_it_returns_means_and_all_embeddings_and_starts_anew():
    m = meter()
    m.add(1, [0], losses(a=1.0, b=2.0), {"row": torch.zeros(2, 3)})
    m.add(2, [1], losses(b=4.0, a=0.5), {"row": torch.ones(1, 3)})
    means, embeddings = m.read()
    assert means == {"a": 0.75, "b": 3.0}
    assert embeddings["row"].tolist() == [[0.0] * 3, [0.0] * 3, [1.0] * 3]
    assert m.read() == ({}, {})
    loss = torch.tensor(0.1)  # in float32: a single loss is returned as it is
    m.add(3, [0], {"a": loss}, {})
    assert m.read() == ({"a": loss.item()}, {})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["a", "b"])
def test_the_first_step_that_is_not_finite_is_named_with_its_instances_and_terms(name, value):
    m = meter()
    m.add(7, [1, 2], losses(a=1.0, b=2.0), {})
    m.add(8, [3, 4], losses(**{"a": 1.0, "b": 2.0, name: value}), {})
    m.add(9, [5, 6], losses(a=float("nan"), b=float("nan")), {})
    with pytest.raises(NonFiniteLossError) as raised:
        m.read()
    message = str(raised.value)
    assert "at step 8" in message
    assert "lp3, lp4." in message
    assert f"{name} {value:g}" in message
    assert ("a 1" in message) == (name == "b")
    assert "lp1" not in message
    assert "lp5" not in message


def test_it_keeps_no_graph_alive_by_itself():
    m = meter()
    weight = torch.ones((), requires_grad=True)
    m.add(1, [0], {"a": (weight * 2).detach()}, {})
    means, _ = m.read()
    assert means == {"a": 2.0}


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_resumed_between_two_rows_it_reads_what_an_unbroken_one_does(tmp_path, cut):
    torch.manual_seed(0)
    steps = [(step, [step], losses(a=torch.rand(()).item()), {"row": torch.rand(2, 3)}) for step in range(3)]
    unbroken, first, second = meter(), meter(), meter()
    for step in steps:
        unbroken.add(*step)
    for step in steps[:cut]:
        first.add(*step)
    torch.save(first.state_dict(), tmp_path / "meter.pt")
    second.load_state_dict(torch.load(tmp_path / "meter.pt", weights_only=True), torch.device("cpu"))
    for step in steps[cut:]:
        second.add(*step)
    assert not differences(second.read(), unbroken.read())


def test_what_is_not_finite_is_not_saved():
    m = meter()
    m.add(1, [3], losses(a=float("nan")), {})
    with pytest.raises(NonFiniteLossError, match="at step 1: a nan; on the instances lp3"):
        m.state_dict()
