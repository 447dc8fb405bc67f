"""One hypothesis profile for all tests, and the same random numbers each time: networks are not born lucky."""

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
    """What hypothesis needs to start each example from the same state of torch's global generator."""

    seed = staticmethod(torch.manual_seed)
    getstate = staticmethod(torch.get_rng_state)
    setstate = staticmethod(torch.set_rng_state)


_torch_random = TorchRandom()  # hypothesis keeps only a weak reference
register_random(_torch_random)


BENCHMARKS = Path(__file__).parent / "benchmarks"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`make bench` measures them; in a test run each runs once, to see that it does, among the slow ones."""
    for item in items:
        if BENCHMARKS in item.path.parents:
            item.add_marker(pytest.mark.slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    torch.manual_seed(0)


# Small tensors gain nothing from threads, and tests run beside each other. No test reports to wandb unless it says so.
torch.set_num_threads(1)
os.environ["WANDB_MODE"] = "disabled"


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny runs' LPs are generated, once."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def run_training(data_root: Path) -> Callable[..., Any]:
    """`train.py` with the flags given, on tiny data; returns its `Run`."""
    import train  # here, for the tests of the package need none of it
    from runs import TINY

    return lambda *flags: train.main([*TINY, "--data_root", str(data_root), *map(str, flags)])
