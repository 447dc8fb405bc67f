"""The log beside the checkpoints."""

import json

import pytest
from runlog import RunLog
from runs import rows


def written(folder, steps, earlier=None, step=0):
    with RunLog(folder, {}, None, earlier, step) as log:
        for number in steps:
            log({"epoch": 0, "loss": 0.1 * number}, number)
    return [row["step"] for row in rows(folder)]


def test_rows_are_lines_of_json_and_hold_numbers_exactly(tmp_path):
    assert written(tmp_path, [1, 2, 3]) == [1, 2, 3]
    assert rows(tmp_path)[2] == {"step": 3, "epoch": 0, "loss": 0.1 * 3}


def test_each_row_is_on_the_disk_at_once(tmp_path):
    with RunLog(tmp_path, {}, None, None, 0) as log:
        log({"loss": 1.0}, 1)
        assert rows(tmp_path) == [{"step": 1, "loss": 1.0}]


def test_a_new_run_starts_a_new_log(tmp_path):
    written(tmp_path, [1, 2, 3])
    assert written(tmp_path, [1]) == [1]


def test_a_resumed_run_drops_the_rows_of_steps_that_it_takes_again(tmp_path):
    written(tmp_path, [1, 2, 3, 4])
    assert written(tmp_path, [3], earlier=tmp_path, step=2) == [1, 2, 3]


def test_a_run_resumed_elsewhere_brings_its_rows_along_and_leaves_the_old_log_alone(tmp_path):
    (tmp_path / "new").mkdir()
    written(tmp_path, [1, 2, 3, 4])
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert written(tmp_path / "new", [3, 4], earlier=tmp_path, step=2) == [1, 2, 3, 4]
    assert (tmp_path / "metrics.jsonl").read_bytes() == before == (tmp_path / "new" / "metrics.jsonl").read_bytes()


def test_a_run_resumed_without_its_log_starts_one(tmp_path):
    (tmp_path / "new").mkdir()
    assert written(tmp_path / "new", [3], earlier=tmp_path, step=2) == [3]


@pytest.mark.parametrize("torn", ['{"step": 4, "lo', '{"step": 4}', "", "{"])
def test_half_a_line_at_the_end_is_dropped(tmp_path, torn):
    written(tmp_path, [1, 2, 3])
    with (tmp_path / "metrics.jsonl").open("a") as log:
        log.write(torn)
    assert written(tmp_path, [4], earlier=tmp_path, step=3) == [1, 2, 3, 4]
    assert all(json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())


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
