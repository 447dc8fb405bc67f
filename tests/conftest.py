"""Fixtures, the hypothesis profile, and the same random numbers for each test."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import register_random, settings

settings.register_profile("default", deadline=None, max_examples=8)
settings.register_profile(
    "ci", parent=settings.get_profile("default"), derandomize=True, print_blob=True, max_examples=25
)
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=3000)
settings.load_profile("ci" if os.environ.get("CI") else "default")


class TorchRandom:
    """Let hypothesis start each example from the same state of torch's global generator."""

    seed = staticmethod(torch.manual_seed)
    getstate = staticmethod(torch.get_rng_state)
    setstate = staticmethod(torch.set_rng_state)


_torch_random = TorchRandom()  # hypothesis keeps only a weak reference
register_random(_torch_random)


BENCHMARKS = Path(__file__).parent / "benchmarks"


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Do not import helpers to look for doctests in them: some import a training loop or a plotting library."""
    return True if collection_path.suffix == ".py" and not collection_path.name.startswith("test_") else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark benchmarks as slow. `make bench` measures them; a test run runs each once, to see that it works."""
    for item in items:
        if BENCHMARKS in item.path.parents:
            item.add_marker(pytest.mark.slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    torch.manual_seed(0)


# Small tensors gain nothing from threads, and tests run in parallel. No test reports to wandb unless it asks for it.
torch.set_num_threads(1)
os.environ["WANDB_MODE"] = "disabled"


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the tiny runs generate their LPs, once."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def run_training(data_root: Path) -> Callable[..., Any]:
    """Run `train.py` with the given flags on tiny data. It returns its `Run`."""
    import train  # here, because the tests of the package do not need it
    from runs import TINY

    return lambda *flags: train.main([*TINY, "--data_root", str(data_root), *map(str, flags)])


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not render figures, which takes seconds for each: `savefig` writes one white pixel."""
    from matplotlib.figure import Figure
    from PIL import Image

    def savefig(figure: Figure, file: Any, **_: Any) -> None:
        assert figure.axes
        Image.new("RGB", (1, 1), "white").save(file, format="png")

    monkeypatch.setattr(Figure, "savefig", savefig)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Call a `main` with arguments that it must refuse with exit code 2. Return what it says."""

    def call(main: Callable[[list[str]], object], *arguments: object) -> str:
        with pytest.raises(SystemExit) as caught:
            main([*map(str, arguments)])
        assert caught.value.code == 2
        return capsys.readouterr().err

    return call
