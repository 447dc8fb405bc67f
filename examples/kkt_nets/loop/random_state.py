"""The random numbers of a run. Each step starts from the run's seed and its own number, so none of them is saved."""

# ruff: noqa: NPY002 (numpy's global generator is meant)

import random

import numpy as np
import torch

from jepa_ssl import processes


def seed(number: int) -> None:
    """Start the global generators of torch, numpy and Python from `number`, which is at least 0."""
    torch.manual_seed(number)
    np.random.seed(np.random.SeedSequence(number).generate_state(4))
    random.seed(number)


def seed_step(run: int, step: int, device: torch.device) -> None:
    """Start them for one step of a run, on each process from other numbers."""
    number = mixed(run, step, processes.rank())
    torch.default_generator.manual_seed(number)  # torch.manual_seed takes 0.4 ms
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(number)
    np.random.seed(number >> 30)
    random.seed(number)


def mixed(*numbers: int) -> int:
    """Hash numbers, each at least 0, to one number in [0, 2^62); each of its bits depends on all of theirs."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 2
