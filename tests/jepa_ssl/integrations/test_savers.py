"""Whatever saves a model saves monitor and balance too, and a run that was resumed by it goes on bit for bit."""

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import seeded
from torch import nn
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from jepa_ssl import (
    CollapseMonitor,
    EMATeacher,
    EntryMasker,
    GradientBalance,
    JEPAObjective,
    JEPATerm,
    MLPPredictor,
    ModelEncoder,
)
from jepa_ssl.monitor import CollapseWarning


class Run:
    """Plain descent by small batches; after step 110 all embeddings are one, which the monitor says later."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.rows: list[Any] = []
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8))
        encoder = ModelEncoder(model, {"instance": 8}, dim=4)
        self.monitor = CollapseMonitor(4, items=8, log=lambda row, step: self.rows.append((row, step)))
        objective = JEPAObjective(
            EntryMasker(0.5), MLPPredictor({"instance": 4}), EMATeacher(encoder), monitor=self.monitor
        )
        balance = GradientBalance(model.parameters(), every=5)
        self.modules: Any = nn.ModuleDict({"model": model, "term": JEPATerm(encoder, objective, balance=balance)})

    def train(self, steps: Iterable[int]) -> None:
        model, term = self.modules["model"], self.modules["term"]
        optimizer = torch.optim.SGD(dict.fromkeys(p for p in self.modules.parameters() if p.requires_grad), 0.01)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CollapseWarning)
            for step in steps:
                if step == 110:
                    nn.init.zeros_(model.get_parameter("2.weight"))
                x = torch.randn(3, 6, generator=seeded(step))
                loss = term.loss(x, task=lambda x=x: model(x).square().mean(), generator=seeded(step))
                optimizer.zero_grad()
                loss.total.backward()
                optimizer.step()
                term.update()


def by_torch(modules: nn.Module, folder: Path) -> Callable[[nn.Module], object]:
    torch.save(modules.state_dict(), folder / "state.pt")
    return lambda other: other.load_state_dict(torch.load(folder / "state.pt", weights_only=True))


def by_safetensors(modules: nn.Module, folder: Path) -> Callable[[nn.Module], object]:
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_model(modules, folder / "state.safetensors")
    return lambda other: safetensors.load_model(other, folder / "state.safetensors")


def by_accelerate(modules: nn.Module, folder: Path) -> Callable[[nn.Module], object]:
    accelerate = pytest.importorskip("accelerate")

    def accelerator(prepared: nn.Module) -> Any:
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)  # it may be that of an ended group
        made = accelerate.Accelerator(cpu=True)
        made.prepare(prepared)
        return made

    accelerator(modules).save_state(folder / "state")
    return lambda other: accelerator(other).load_state(folder / "state")


def by_dcp(modules: nn.Module, folder: Path) -> Callable[[nn.Module], object]:
    """Which loads into the tensors of a fresh state."""
    dcp_save(modules.state_dict(), checkpoint_id=folder / "state", no_dist=True)

    def load(other: nn.Module) -> None:
        state = other.state_dict()
        dcp_load(state, checkpoint_id=folder / "state", no_dist=True)
        other.load_state_dict(state)

    return load


@pytest.fixture(scope="module")
def unbroken() -> Run:
    run = Run(0)
    run.train(range(200))
    return run


@pytest.mark.filterwarnings("ignore::UserWarning:torch", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("save", [by_torch, by_safetensors, by_accelerate, by_dcp], ids=lambda f: f.__name__)
@pytest.mark.parametrize("at", [2, 131])
def test_a_run_goes_on_bit_for_bit(unbroken: Run, tmp_path: Path, save: Callable[..., Any], at: int):
    assert unbroken.monitor.episodes
    first = Run(0)
    first.train(range(at))
    load = save(first.modules, tmp_path)
    resumed = Run(1)
    load(resumed.modules)
    resumed.train(range(at, 200))
    assert first.rows + resumed.rows == unbroken.rows
    assert resumed.monitor.episodes == unbroken.monitor.episodes
    expected = unbroken.modules.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.modules.state_dict().items())


def test_the_state_has_one_structure_at_every_step():
    run = Run(0)
    shapes = [{name: (t.shape, t.dtype) for name, t in run.modules.state_dict().items()}]
    for step in (0, 1, 20, 150):
        run.train([step])
        shapes.append({name: (t.shape, t.dtype) for name, t in run.modules.state_dict().items()})
    assert all(shape == shapes[0] for shape in shapes)
