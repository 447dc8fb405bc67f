"""Lightning: the teacher moves once per optimizer step, all is resumed, two processes train what one does.

Run as a script, it is one training on two processes.
"""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import differences
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler

from jepa_ssl import CollapseMonitor, EMATeacher
from jepa_ssl.freezing import freeze
from jepa_ssl.monitor.packing import unpack

ROOT = Path(__file__).resolve().parents[3]
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (
        ".*does not have many workers",
        ".*isinstance.treespec, LeafSpec",
        "Found .* in eval mode at the start of training",  # the teacher
        "The number of training batches",
        "You defined a `validation_step` but have no `val_dataloader`",
        "Experiment logs directory .* exists",
        "Checkpoint directory .* exists",
        "The dirpath has changed",
    )
]


def imported() -> Any:
    """The example; with it comes Lightning, which takes seconds, and for which no other test is to wait."""
    sys.path.insert(0, str(ROOT / "examples"))
    return importlib.import_module("lightning_loop")


@pytest.fixture(scope="module")
def example() -> Any:
    return imported()


def trainer(example: Any, callbacks: Any = None, epochs: int = 2, **options: Any) -> Any:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    callbacks = [example.JEPACallback()] if callbacks is None else callbacks
    options = {"accelerator": "cpu", "logger": False} | quiet | options
    return example.Trainer(max_epochs=epochs, callbacks=callbacks, **options)


def data(example: Any, batch: int = 4, count: int = 32) -> DataLoader[Any]:
    """In the order that Lightning's sampler gives several processes: by the epoch alone."""
    lps = example.lps(count, 0)
    return DataLoader(lps, batch, sampler=DistributedSampler(lps, num_replicas=1, rank=0))


def with_teacher(solver: Any, momentum: float) -> Any:
    solver.jepa.teacher = EMATeacher(solver.encoder, momentum)
    return solver


def assert_teacher_has_seen_the_last_step(solver: Any, steps: int) -> None:
    """With a momentum of 0 it is the encoder as it was when the teacher moved last."""
    assert solver.jepa.teacher.updates == solver.jepa.monitor.steps == steps
    pairs = zip(solver.encoder.parameters(), solver.jepa.teacher.target_model.parameters(), strict=True)
    assert all(torch.equal(online, target) for online, target in pairs)


@pytest.mark.slow
def test_the_teacher_moves_once_per_optimizer_step_and_modes_stay(example):
    seen: list[bool] = []

    class Watched(example.Solver):
        def training_step(self, batch: Any, index: int) -> Tensor:
            parts = [*self.jepa.teacher.target_model.modules(), *self.head.modules()]
            seen.append(self.training and self.jepa.training and not any(part.training for part in parts))
            return super().training_step(batch, index)

    solver = with_teacher(Watched(), 0.0)
    freeze(solver.head)
    fit = trainer(example, accumulate_grad_batches=3)
    fit.validate(solver, data(example), verbose=False)
    assert solver.jepa.teacher.updates == 0
    fit.fit(solver, data(example), data(example))
    assert fit.global_step == 6  # of 8 batches, three and three and two
    assert_teacher_has_seen_the_last_step(solver, 6)
    assert seen == [True] * 16


@pytest.mark.slow
def test_a_step_that_the_scaler_skips_moves_nothing(example):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**22)  # too high for float16, and halved until it is not
    plugin = importlib.import_module("lightning.pytorch.plugins.precision").MixedPrecision("16-mixed", "cpu", scaler)
    solver = with_teacher(example.Solver(), 0.0)
    fit = trainer(example, plugins=[plugin])
    fit.fit(solver, data(example))
    steps = int(next(iter(fit.optimizers[0].state.values()))["step"])
    assert 0 < steps < fit.global_step == 16
    assert_teacher_has_seen_the_last_step(solver, steps)


@pytest.mark.slow
def test_of_several_optimizers_the_last_that_trains_the_encoder_counts(example):
    class Manual(example.Solver):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, index: int) -> None:
            loss = super().training_step(batch, index)
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            self.manual_backward(loss)
            for optimizer in self.optimizers():
                optimizer.step()

        def configure_optimizers(self) -> list[torch.optim.Optimizer]:
            heads = [*self.head.parameters(), *self.jepa.predictor.parameters()]
            parts = (self.encoder.trunk.parameters(), self.encoder.projector.parameters(), heads)
            return [torch.optim.SGD(part, lr=0.01) for part in parts]

    solver = with_teacher(Manual(), 0.0)
    fit = trainer(example)
    fit.fit(solver, data(example))
    assert fit.global_step == 3 * 16
    assert_teacher_has_seen_the_last_step(solver, 16)


@pytest.mark.slow
def test_it_resumes_bit_for_bit_and_the_loggers_get_the_monitors_rows(example, tmp_path):
    def run(name: str, seed: int, checkpoint: Path | None) -> tuple[dict[str, Any], str]:
        torch.manual_seed(seed)
        folder = tmp_path / name
        saved = importlib.import_module("lightning.pytorch.callbacks").ModelCheckpoint(folder, save_top_k=-1)
        fit = trainer(
            example,
            [example.JEPACallback(), saved],
            epochs=3,
            logger=example.CSVLogger(folder, name="", version=""),
            enable_checkpointing=True,
        )
        solver = example.Solver()
        solver.jepa.monitor = CollapseMonitor(items=8)
        fit.fit(solver, data(example), ckpt_path=checkpoint, weights_only=True)
        assert solver.jepa.monitor.log is None
        last = torch.load(folder / "epoch=2-step=24.ckpt", weights_only=True)
        return last, (folder / "metrics.csv").read_text()

    unbroken, metrics = run("unbroken", 0, None)
    resumed, later = run("resumed", 1, tmp_path / "unbroken" / "epoch=0-step=8.ckpt")
    assert unbroken["state_dict"]["jepa.teacher.updates"] == 24
    assert unpack(unbroken["state_dict"]["jepa.monitor._extra_state"])["steps"] == 24
    assert any(name.startswith("jepa.predictor.") for name in unbroken["state_dict"])
    for part in ("state_dict", "optimizer_states"):
        assert not differences(unbroken[part], resumed[part])
    assert "monitor/rank/instance" in metrics.splitlines()[0]
    rows = [[row.split(",") for row in text.splitlines()] for text in (metrics, later)]
    ranks = [[row[header.index("monitor/rank/instance")] for row in (some)] for header, *some in rows]
    assert [rank for rank in ranks[0] if rank][-1] == [rank for rank in ranks[1] if rank][-1]


@pytest.mark.slow
def test_what_does_not_fit_is_refused_and_a_monitors_own_log_stays(example):
    def refused(kind: type[Exception], match: str, solver: Any, **names: str) -> None:
        with pytest.raises(kind, match=match):
            trainer(example, [example.JEPACallback(**names)]).fit(solver, data(example))

    class Untrained(example.Solver):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.head.parameters(), lr=0.1)

    refused(AttributeError, "objective is 'ssl', but Solver has no such attribute", example.Solver(), objective="ssl")
    refused(AttributeError, "encoder is 'encoder.body'", example.Solver(), encoder="encoder.body")
    refused(TypeError, "'head', which is a Linear in Solver", example.Solver(), objective="head")
    refused(TypeError, "'forward', which is a method in Solver", example.Solver(), encoder="forward")
    refused(ValueError, "no optimizer of Untrained has a parameter", Untrained())

    rows: list[int] = []
    solver = example.Solver()
    solver.jepa.monitor = CollapseMonitor(items=8, log=lambda _, step: rows.append(step))
    solver.inner = nn.ModuleDict({"jepa": solver.jepa})
    trainer(example, [example.JEPACallback("inner.jepa")], 1).fit(solver, data(example, batch=2))
    assert rows == [5, 15]
    assert callable(solver.jepa.monitor.log)


def test_without_lightning_the_extra_is_named(monkeypatch):
    name = "jepa_ssl.integrations.lightning"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(ImportError, match=r"pip install 'jepa_ssl\[lightning\]'"):
        importlib.import_module(name)


@pytest.mark.slow
def test_the_example_prints_losses_and_the_rank(example, tmp_path, capsys):
    example.main(["--folder", str(tmp_path), "--epochs", "1"])
    said = capsys.readouterr().out.splitlines()
    for line, name in zip(said, ("validation loss", "JEPA loss", "rank of the embeddings"), strict=False):
        assert re.fullmatch(rf"{name}: \S+ at first, \S+ at last", line)
    first, last = map(float, re.findall(r"\d+\.\d+", said[2]))
    assert 1.0 < last < first <= 32.0
    assert len([*(tmp_path / "checkpoints").iterdir()]) == 1


def train(folder: Path, processes: int) -> None:
    """Two epochs of the same batches, dealt out to so many processes; the weights of each."""
    example = imported()
    torch.manual_seed(0)
    solver = example.Solver()
    # Lightning puts the sampler of several processes in the place of the one that shuffles.
    batches = data(example, 8) if processes == 1 else DataLoader(example.lps(32, 0), 4, shuffle=True)
    strategy = "ddp" if processes > 1 else "auto"
    fit = trainer(example, devices=processes, strategy=strategy, precision="64-true")
    fit.fit(solver, batches)
    state = {name: value for name, value in solver.state_dict().items() if "monitor" not in name}  # of one process
    torch.save(state, folder / f"{fit.global_rank}_of_{processes}.pt")


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path):
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert not done.returncode, done.stderr
    train(tmp_path, 1)
    names = ("0_of_1.pt", "0_of_2.pt", "1_of_2.pt")
    alone, first, second = (torch.load(tmp_path / name, weights_only=True) for name in names)
    assert alone["jepa.teacher.updates"] == 8
    assert not differences(first, second)
    torch.testing.assert_close(first, alone, rtol=1e-9, atol=1e-12)


if __name__ == "__main__":
    train(Path(sys.argv[1]), 2)
