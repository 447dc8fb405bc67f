"""Items 6 and 7 of the specification's acceptance, and other promises about whole runs, each on both paths."""

import math
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
import train
from data.batches import FlatCollate, LPDataset, batches, collate_graphs, epoch_order
from data.splits import open_split
from loop import random_state
from loop.options import parse
from losses import kkt_loss, pad_predictions
from models import GNNPolicy, KKTNetMLP
from runs import MODES, PATHS, RECIPES, checkpoint, differences, prepared, rows, snapshot, train_rows
from torch import Tensor, nn

each_path = pytest.mark.parametrize("path", PATHS)
EVERY = MODES | RECIPES
each_mode = pytest.mark.parametrize("mode", MODES)
each_teacher = pytest.mark.parametrize("mode", ["ema", "simsiam"])


# ---- 6: checkpoints, and going on from them --------------------------------------------------------------------------


def without_names(state: dict[str, Any]) -> dict[str, Any]:
    """All that is computed, less what names the run: its flags (of which --epochs and --resume differ), wandb's id."""
    return {key: value for key, value in state.items() if key not in ("args", "run_id")}


@each_path
@pytest.mark.parametrize(("mode", "pretrain"), [
    ("ema", 0),
    *(pytest.param(mode, pretrain, marks=pytest.mark.slow) for mode, pretrain in (
        ("simsiam", 0), ("kkt", 0), ("ema", 2), ("simsiam", 2), ("shared", 1), ("frozen", 1), ("learned", 1),
    )),
])  # fmt: skip
def test_6_a_resumed_run_equals_an_unbroken_one_bit_for_bit(run_training, tmp_path, path, mode, pretrain):
    """In its own folder and in another one."""
    unbroken, first, second = (tmp_path / name for name in ("unbroken", "first", "second"))
    flags = [*PATHS[path], *EVERY[mode], "--jepa_pretrain_epochs", pretrain, "--monitor_every", 2]
    run_training(*flags, "--epochs", 3, "--output_dir", unbroken)
    run_training(*flags, "--epochs", 2, "--output_dir", first)
    for elsewhere in (["--output_dir", second], []):
        run_training(*flags, "--epochs", 3, "--resume", first / "last.pt", *elsewhere)

    for folder in (first, second):
        for name in ("last.pt", "best.pt"):
            a, b = without_names(checkpoint(unbroken, name)), without_names(checkpoint(folder, name))
            assert a["epoch"] > 0
            assert not differences(a, b)
        assert (unbroken / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()


@each_path
def test_6_the_best_checkpoint_comes_along_into_another_folder(run_training, tmp_path, monkeypatch, path):
    run_training(*PATHS[path], "--epochs", 2, "--output_dir", tmp_path / "first")
    monkeypatch.setattr(train.Run, "_validate", lambda *_: False)  # nothing better is found
    flags = ["--epochs", 3, "--resume", tmp_path / "first" / "last.pt", "--output_dir", tmp_path / "second"]
    run_training(*PATHS[path], *flags)
    assert not differences(checkpoint(tmp_path / "first", "best.pt"), checkpoint(tmp_path / "second", "best.pt"))


@each_path
@each_mode
def test_6_a_checkpoint_has_a_target_model_in_ema_alone(run_training, tmp_path, path, mode):
    run = run_training(*PATHS[path], *MODES[mode], "--epochs", 1, "--output_dir", tmp_path / "run")

    state = checkpoint(tmp_path / "run")  # weights_only
    assert {"epoch", "model", "optimizer", "args", "jepa"} <= state.keys()
    assert state["epoch"] == 1
    if mode == "kkt":
        assert state["jepa"] is None
        return
    assert {"projector", "predictor"} <= state["jepa"].keys()
    assert [name for name in keys(state) if "target" in name] == (["target_model"] if mode == "ema" else [])
    assert ("target_model" in state) == (mode == "ema")
    if mode == "ema":  # the copy of the encoder, by its own names
        assert state["target_model"].keys() == run.jepa.encoder.state_dict().keys()
    assert not any("predictor" in name or "projector" in name for name in state["model"])  # the solver's gains no key


def test_6_a_checkpoint_with_the_copy_inside_its_block_is_read_and_goes_on(tmp_path):
    """As `train.py` wrote it before `target_model` stood at the top: of one epoch of one step."""
    old = Path(__file__).with_name("before_target_model_moved.pt")
    before = torch.load(old, weights_only=True)
    assert "target_model" in before["jepa"]
    assert "target_model" not in before
    flags = "--devices cpu --problems random --random_size 2 2 --train_instances 4 --val_instances 2 --hidden_size 3 "
    flags += f"--embedding_size 3 --batch_size 4 --log_every 1 --use_jepa --monitor_every 2 --data_root {tmp_path}/data"
    args = [*shlex.split(flags), "--resume", str(old), "--output_dir", str(tmp_path / "run"), "--epochs"]
    run = train.Run(parse([*args, "2"]))
    assert run.step == 1
    assert not differences(dict(run.model.state_dict()), dict(before["model"]))
    assert not differences(dict(run.jepa.objective.teacher.target_model.state_dict()), before["jepa"]["target_model"])
    assert not differences(dict(run.jepa.projector.state_dict()), dict(before["jepa"]["projector"]))
    assert int(run.jepa.objective.teacher.updates) == 1
    run.train()
    state = checkpoint(tmp_path / "run")
    assert (state["step"], state["epoch"]) == (2, 2)
    assert state["target_model"].keys() == before["jepa"]["target_model"].keys()


def keys(state: Any) -> Iterator[str]:
    for key, value in state.items() if isinstance(state, dict) else ():
        yield str(key)
        yield from keys(value)


# ---- 7: without JEPA it is the plain loop ----------------------------------------------------------------------------


@each_path
def test_7_without_jepa_training_equals_the_plain_kkt_loop_bit_for_bit(run_training, data_root, tmp_path, path):
    run = run_training(*PATHS[path], "--epochs", 3, "--output_dir", tmp_path / "run")

    model, losses, validation = plain_kkt_loop(run.args)
    assert not differences(checkpoint(tmp_path / "run")["model"], dict(model.state_dict()))
    assert [row["train/loss"] for row in train_rows(tmp_path / "run")] == losses
    assert [row["train/loss_kkt"] for row in train_rows(tmp_path / "run")] == losses
    assert [row["val/loss_kkt"] for row in rows(tmp_path / "run") if "val/loss_kkt" in row] == validation


def plain_kkt_loop(args: Any) -> tuple[nn.Module, list[float], list[float]]:
    """Three epochs of what the repository did before it knew of JEPA."""
    data, held_out = LPDataset(open_split(args, "train")), LPDataset(open_split(args, "val"))
    m, n = map(max, data.sizes, held_out.sizes)
    torch.manual_seed(args.seed)
    model = GNNPolicy(args) if args.use_bipartite_graphs else KKTNetMLP(m, n, args.hidden_size)
    collate = collate_graphs if args.use_bipartite_graphs else FlatCollate(m, n)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)

    def loss_of(batch: Any) -> Tensor:
        if args.use_bipartite_graphs:
            g = batch.batch_graph
            x, lam = model(g.constraint_features, g.edge_index, g.edge_attr, g.variable_features)
            y = pad_predictions(x, lam, batch.m_sizes, batch.n_sizes, *batch.A.shape[1:])
        else:
            y = model(batch.model_input)
        return kkt_loss(y, batch.A, batch.b, batch.c, batch.mask_m, batch.mask_n, 0.1, 0.1, 0.6, 0.2)[0]

    losses, validation = [], []
    for epoch in range(3):
        for instances in batches(epoch_order(len(data), args.seed, epoch), args.batch_size):
            loss = loss_of(collate([data[i] for i in instances]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        with torch.no_grad():
            total = torch.zeros(())
            for instances in batches(range(len(held_out)), args.batch_size):
                total += loss_of(collate([held_out[i] for i in instances])) * len(instances)
        validation.append(total.item() / len(held_out))
    return model, losses, validation


@each_path
def test_7_turning_jepa_on_changes_neither_data_order_nor_initial_weights(data_root, tmp_path, monkeypatch, path):
    orders: dict[str, list[list[list[int]]]] = {}
    weights = {}
    for mode in MODES:
        run = prepared(data_root, tmp_path / mode, *PATHS[path], *MODES[mode], "--epochs", 2)
        weights[mode] = snapshot(run.model)
        seen = orders[mode] = []
        make_loader = train.make_loader

        def recorded(data: Any, collate: Any, order: Any, workers: int, seen=seen, make=make_loader) -> Any:
            seen.append(order)
            return make(data, collate, order, workers)

        with monkeypatch.context() as patched:
            patched.setattr(train, "make_loader", recorded)
            run.train()

    assert not differences(weights["kkt"], weights["ema"])
    assert not differences(weights["kkt"], weights["simsiam"])
    assert orders["kkt"] == orders["ema"] == orders["simsiam"]
    train_orders = orders["kkt"][::2]  # every other one is of validation
    assert [sorted(chain(*order)) for order in train_orders] == [list(range(12))] * 2
    assert train_orders[0] != train_orders[1]


# ---- the command lines as they stand, and other promises about whole runs --------------------------------------------

COMMANDS = {
    "flat": "--devices 0 --batch_size 8 --epochs 30 --use_jepa --jepa_mode ema --jepa_pretrain_epochs 0 "
    "--jepa_weight 0.2 --jepa_mask_ratio_entries 0.5 --ema_momentum 0.996",
    "graph": "--devices 0 --batch_size 4 --epochs 30 --use_bipartite_graphs --use_jepa --jepa_mode simsiam "
    "--jepa_pretrain_epochs 3 --jepa_weight 0.2 --jepa_mask_ratio_nodes 0.3",
}


@each_path
def test_the_command_lines_of_the_specification_parse(path):
    args = parse(shlex.split(COMMANDS[path]))
    assert (args.use_bipartite_graphs, args.batch_size, args.jepa_pretrain_epochs) == (
        (False, 8, 0) if path == "flat" else (True, 4, 3)
    )
    assert (args.epochs, args.use_jepa, args.jepa_weight) == (30, True, 0.2)


@pytest.mark.slow
@each_path
def test_the_command_lines_of_the_specification_run(tmp_path, path):
    """As a user types them, on fewer LPs; the last of two equal flags wins."""
    script = Path(train.__file__)
    fewer = f"--train_instances 16 --val_instances 8 --epochs 4 --data_root {tmp_path / 'data'}"
    command = [sys.executable, str(script), *shlex.split(COMMANDS[path]), *shlex.split(fewer)]
    environment = {**os.environ, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[2])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "exps").iterdir()
    assert {"last.pt", "best.pt", "metrics.jsonl", "wandb"} == {file.name for file in folder.iterdir()}
    assert checkpoint(folder)["epoch"] == 4
    assert f"{folder.relative_to(tmp_path)}" in done.stdout


@pytest.mark.slow
@each_path
def test_workers_change_nothing(run_training, tmp_path, path):
    for workers in (0, 2):
        flags = [*PATHS[path], *MODES["ema"], "--epochs", 2, "--num_workers", workers]
        run_training(*flags, "--output_dir", tmp_path / str(workers))
    a, b = (without_names(checkpoint(tmp_path / name)) for name in "02")
    assert not differences(a, b)
    assert (tmp_path / "0" / "metrics.jsonl").read_bytes() == (tmp_path / "2" / "metrics.jsonl").read_bytes()


@each_path
def test_masks_and_loaders_draw_nothing_from_the_global_generator(data_root, tmp_path, monkeypatch, path):
    monkeypatch.setattr(random_state, "seed_step", lambda *_: None)
    run = prepared(data_root, tmp_path / "run", *PATHS[path], *MODES["ema"], "--epochs", 1)
    before = torch.get_rng_state()
    run.train()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.slow
def test_real_lps_of_mixed_sizes_train_on_the_graph_path(tmp_path):
    folder = Path(__file__).parents[3] / "shared" / "lp"
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    files = sorted(map(str, folder.glob("*.mps")))
    flags = f"--use_bipartite_graphs --use_jepa --epochs 1 --batch_size 4 --log_every 1 --output_dir {tmp_path / 'run'}"
    train.main([*shlex.split(flags), "--lp_files", *files])
    assert all(map(math.isfinite, chain(*(row.values() for row in rows(tmp_path / "run")))))


def test_6_an_earlier_checkpoint_does_not_overwrite_what_came_after_it(run_training, tmp_path, capsys):
    flags = ["--log_every", 1, "--output_dir", tmp_path / "run"]
    run_training(*flags, "--epochs", 1)
    first = tmp_path / "first.pt"
    first.write_bytes((tmp_path / "run" / "last.pt").read_bytes())
    run_training(*flags, "--epochs", 2, "--resume", tmp_path / "run" / "last.pt")
    (tmp_path / "run" / "best.pt").write_bytes(first.read_bytes())
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    with pytest.raises(SystemExit) as stop:
        run_training(*flags, "--epochs", 2, "--resume", tmp_path / "run" / "best.pt")
    assert stop.value.code == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
