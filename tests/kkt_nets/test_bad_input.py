"""Input that cannot be used: refused by name in one line, with an exit code that is not 0 and nothing overwritten."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import train
from data import batches as dataset
from data.readers import read_lp
from loop.options import parse
from runs import MODES, PATHS, TINY, contents, rows

each_path = pytest.mark.parametrize("path", PATHS)

# ---- as a user sees it -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_process_ends_with_2_and_one_line(tmp_path, data_root):
    script = Path(train.__file__)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[2])}
    command = [sys.executable, str(script), *TINY, "--data_root", str(data_root), "--lr", "1e30", "--output_dir", "new"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    last = done.stderr.replace("\r", "\n").splitlines()[-1]
    assert last.startswith("train.py: error: the loss is not finite at step 2")
    assert "Traceback" not in done.stderr


# ---- model files -----------------------------------------------------------------------------------------------------

# Of each kind that `read_lp` refuses, test_lp.py has more.
MODELS = {
    "garbage.lp": "\\^%(^%(T&*)(lkszdvhf6v54y,x,\ndvhfalkm,x,^%(^%\n",
    "nan_cost.mps": "NAME chip\nROWS\n L r\n N cost\nCOLUMNS\n x r 1 cost nan\n y r 2 cost -2\nRHS\n h r 8\nENDATA\n",
    "infeasible.lp": "Minimize\n obj: x\nSubject To\n a: x >= 2\n b: x <= 1\nEnd\n",
    "model.txt": "Minimize\n obj: x\nSubject To\n a: x >= 2\nEnd\n",
}
GOOD = "Minimize\n obj: x + 2 y\nSubject To\n a: x + y >= 2\n b: x - y <= 3\nEnd\n"


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_cannot_be_trained_on_is_refused_by_name(refused, tmp_path, name):
    (tmp_path / name).write_text(MODELS[name])
    (tmp_path / "good.lp").write_text(GOOD)
    before = contents(tmp_path)
    assert str(tmp_path / name) in refused("--lp_files", tmp_path / "good.lp", tmp_path / name)
    assert contents(tmp_path) == before


def test_a_missing_file_and_a_folder_are_refused_by_name(refused, tmp_path):
    (tmp_path / "folder.mps").mkdir()
    assert "missing.mps does not exist" in refused("--lp_files", tmp_path / "missing.mps")
    assert "folder.mps is a folder" in refused("--lp_files", tmp_path / "folder.mps")


@each_path
def test_a_graph_without_edges_is_refused_by_name_before_training(refused, tmp_path, path):
    (tmp_path / "edgeless.lp").write_text("Minimize\n obj: 0 x\nSubject To\n a: 0 x <= 1\nBounds\n x free\nEnd\n")
    (tmp_path / "good.lp").write_text(GOOD)
    files = [tmp_path / "good.lp", tmp_path / "edgeless.lp"]
    said = refused(*PATHS[path], "--lp_files", *files, "--num_workers", 0)
    assert "edgeless" in said
    assert not (tmp_path / "new" / "metrics.jsonl").exists()


@each_path
@pytest.mark.parametrize("mode", MODES)
def test_a_batch_of_one_graph_with_one_variable_trains(run_training, tmp_path, path, mode):
    """Nothing can be hidden of a lone node; the run goes on, and all it logs is finite."""
    (tmp_path / "lone.lp").write_text("Minimize\n obj: x\nSubject To\n a: x >= 1\nBounds\n x free\nEnd\n")
    pretrain = 1 if mode != "kkt" else 0
    flags = [*PATHS[path], *MODES[mode], "--jepa_pretrain_epochs", pretrain, "--epochs", 2, "--batch_size", 1]
    run = run_training(*flags, "--lp_files", tmp_path / "lone.lp", "--output_dir", tmp_path / "run")

    lp = read_lp(tmp_path / "lone.lp")
    assert (lp.rows, lp.columns) == (1, 1)
    assert all(torch.tensor(list(row.values())).isfinite().all() for row in rows(run.folder))
    if path == "graph" and mode != "kkt":
        assert rows(run.folder)[0]["train/loss_jepa"] == 0.0


def test_an_mlp_whose_input_does_not_fit_says_how_large_it_is_and_where_to_go(refused, monkeypatch):
    class Memory:
        available = 10_000

    monkeypatch.setattr(dataset.psutil, "virtual_memory", Memory)
    said = refused("--hidden_size", 256)
    assert "GiB" in said
    assert "--use_bipartite_graphs" in said


# ---- flags and configs -----------------------------------------------------------------------------------------------


RANGES = {
    "strictly between 0 and 1": (["jepa_mask_ratio_entries", "jepa_mask_ratio_nodes"], "0 1 -0.1 1.5 nan inf"),
    "in [0, 1]": (["ema_momentum"], "-0.01 1.01 nan inf"),
    "finite and at least 0": (
        [f"{name}_weight" for name in ("jepa", "primal", "dual", "stationarity", "complementary_slackness")],
        "-0.1 nan inf -inf",
    ),
}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [(name, v, expected) for expected, (names, vs) in RANGES.items() for name in names for v in vs.split()],
)
def test_a_number_out_of_range_is_refused(refused, name, value, expected):
    assert f"--{name} is {float(value)}, but must be {expected}" in refused("--use_jepa", f"--{name}={value}")


@pytest.mark.parametrize(("flags", "said"), [
    (["--epochs", "0"], "--epochs is 0"),
    (["--epochs", "two"], "invalid int value: 'two'"),
    (["--batch_size", "0"], "--batch_size is 0"),
    (["--train_instances", "0"], "--train_instances is 0"),
    (["--log_every", "0"], "--log_every is 0"),
    (["--lr", "nan"], "--lr is nan"),
    (["--seed", "-1"], "--seed is -1"),
    (["--seed", str(2**64)], "--seed is 18446744073709551616"),
    (["--num_workers", "-1"], "--num_workers is -1"),
    (["--devices", "gpu"], "--devices is gpu"),
    (["--jepa_views", "nodes"], "--jepa_views is nodes, but the MLP has entries, structure, solver_state"),
    (["--jepa_regularizer", "vicreg"], "--jepa_regularizer belongs to the JEPA term, but JEPA is off; add --use_jepa"),
    (["--jepa_views", "structure"], "--jepa_views belongs to the JEPA term, but JEPA is off; add --use_jepa"),
    (["--trunk", "solver"], "the MLP has no such trunk; add --use_bipartite_graphs"),
    (["--use_bipartite_graphs", "--rounds", "3"], "--trunk convolutions always has two; add --trunk solver"),
    (
        ["--use_bipartite_graphs", "--trunk", "solver", "--compile", "--checkpoint_activations"],
        "leave out --compile or --checkpoint_activations",
    ),
    (["--jepa_balance"], "--jepa_balance belongs to the JEPA term, but JEPA is off"),
    (["--use_jepa", "--jepa_mode", "frozen"], "but the modes frozen and learned embed solver states"),
    (["--use_jepa", "--jepa_views", "solver_state"], "--jepa_mode is ema and --jepa_views solver_state"),
    (["--use_jepa", "--jepa_mode", "simsiam", "--ema_schedule", "linear"], "simsiam has no momentum; leave it out"),
    (["--use_jepa", "--jepa_mode", "shared"], "would collapse to one point; add --jepa_regularizer vicreg or sigreg"),
    (["--use_jepa", "--jepa_regularizer", "sigreg", "--jepa_regularizer_weight", "0"], "has no effect; leave it out"),
    (["--use_jepa", "--jepa_balance", "--jepa_weight", "0", "--jepa_pretrain_epochs", "2"], "weight is 0; leave"),
    (["--use_jepa", "--jepa_weight", "0"], "so JEPA has no effect; leave --use_jepa out"),
    (["--monitor_every", "-1"], "--monitor_every is -1, but must be at least 0"),
    (["--jepa_solver_steps", "0"], "--jepa_solver_steps is 0, but must be at least 1"),
    (["--jepa_mode", "byol"], "invalid choice: 'byol'"),
    (["--problems", "setcover"], "--problems is setcover, but family 'setcover' is unknown: did you mean 'set_cover'?"),
    (["--problems", "zzz"], "choose one of set_cover"),
    (["--problems", "random", "random"], "names random twice"),
    (["--set_cover_size", "0", "5"], "--set_cover_size is 0 5, but must have rows >= 1, columns >="),
    (["--jepa_pretrain_epochs", "1"], "JEPA is off; add --use_jepa"),
    (["--use_jepa", "--jepa_pretrain_epochs", "9"], "the run has 3 epochs in all"),
    (["--use_jepas"], "unknown flag or config key 'use_jepas': did you mean --use_jepa?"),
    (["--jepa_weigth=0.2"], "did you mean --jepa_weight?"),
    (["--use_jep"], "did you mean --use_jepa?"),  # no abbreviations: they hide spelling mistakes
    (["epochs"], "did you mean --epochs?"),
    (["--resume", "auto"], "--resume is auto, but --output_dir is not given"),
    (["--qqqq"], "unknown flag or config key 'qqqq': --help lists them all"),
])  # fmt: skip
def test_a_flag_that_is_unknown_or_out_of_range_is_refused(refused, flags, said):
    assert said in refused(*flags)


@pytest.mark.parametrize(("text", "said"), [
    ("jepa_wieght: 0.3", "unknown flag or config key 'jepa_wieght': did you mean --jepa_weight?"),
    ("jepa_wieght:", "unknown flag or config key 'jepa_wieght'"),
    ("jepa_wieght: []", "unknown flag or config key 'jepa_wieght'"),
    ("jepa_wieght: {a: 1}", "unknown flag or config key 'jepa_wieght'"),
    ("3: 4", "unknown flag or config key '3'"),
    ("ema_momentum: 1.5", "--ema_momentum is 1.5, but must be in [0, 1]"),
    ("jepa_mode: byol", "invalid choice: 'byol'"),
    ("lr: fast", "invalid float value: 'fast'"),
    ("lr:", "invalid float value: ''"),
    ("lr: true", "lr is True, but must be a value of its flag"),
    ("problems: [--lr, 3]", "--problems"),
    ("use_jepa: perhaps", "use_jepa is perhaps, but must be true or false"),
    ("use_jepa: [true, false]", "use_jepa is [True, False], but must be true or false"),
    ("batch_size: [4, 8]", "batch_size is the list [4, 8], but must be one value"),
    ("lr: [1,\nb: {", "is not YAML"),
    ("epochs: 1\nlr: 1\nepochs: 2", "it gives epochs twice; keep one of the two"),
    ("lr: &a 1\nprimal_weight: *a", "is not YAML: it has an alias (an asterisk and a name); write the value out"),
    (f"lr: {'[' * 2000}{']' * 2000}", "is nested too deeply"),
    (f"jepa_weight: {'9' * 5000}", "is not YAML: Exceeds the limit"),
    ("jepa_pretrain_epochs: --", "--jepa_pretrain_epochs"),  # no value, or from Python 3.13 on no whole number
    ("".join(f"key{i}: 1\n" for i in range(3000)), "unknown flag or config key 'key0'"),
    ("train_instances: 2147483648", "--train_instances is 2147483648, but must be at least 1 and below 2**31"),
    ("random_size: [3, 2147483648]", "all below 2**31"),
    ("config: other.yaml", "unknown flag or config key 'config'"),
    ("random_size: [4, 0]", "--random_size is 4 0, but must have rows >= 1, columns >= 1"),
    ("", "holds no flags"),
    ("- lr", "holds no flags"),
])  # fmt: skip
def test_a_config_that_is_broken_unknown_or_out_of_range_is_refused(tmp_path, capsys, text, said):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(SystemExit) as stopped:
        parse(["--config", str(tmp_path / "run.yaml")])
    shown = capsys.readouterr().err
    assert (stopped.value.code, shown.count("\n")) == (2, 1)
    assert said in shown


def test_a_config_that_is_missing_a_folder_or_binary_is_refused(refused, tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "missing.yaml" in refused("--config", tmp_path / "missing.yaml")
    assert "folder.yaml" in refused("--config", tmp_path / "folder.yaml")
    assert "binary.yaml is not YAML" in refused("--config", tmp_path / "binary.yaml")


# ---- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--output_dir", "--data_root"])
def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_generated(refused, tmp_path, flag):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        said = refused(*(["--data_root", tmp_path / "data"] if flag == "--output_dir" else []), flag, folder)
        assert f"{flag} {folder} cannot be written to" in said
        assert "name another folder" in said
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "data").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_refused(refused, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "cannot be written to" in refused("--output_dir", tmp_path / "locked")


def test_a_run_is_never_overwritten_by_another(refused, trained, tmp_path):
    first, second = trained(name="first"), trained(name="second")
    before = contents(tmp_path)
    assert "holds a run already; continue it with --resume" in refused("--output_dir", first.parent)
    assert "holds a run already" in refused("--resume", first, "--output_dir", second.parent)
    second.unlink()  # killed between its first best.pt and its first last.pt
    del before["second/last.pt"]
    assert "holds a run already" in refused("--output_dir", second.parent)
    assert contents(tmp_path) == before


def test_damaged_data_in_the_cache_are_refused_by_name(refused, data_root, tmp_path, trained):
    trained()
    shutil.copytree(data_root, tmp_path / "data")
    for file in (tmp_path / "data").glob("train-*.lps"):
        file.write_text("{")
    said = refused("--data_root", tmp_path / "data")
    assert ".lps is damaged" in said
    assert "generate it again" in said
