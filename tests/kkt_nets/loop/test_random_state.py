"""The global random number generators: the number of a step decides what is drawn in it, resumed or not."""

# ruff: noqa: NPY002 (numpy's global generator is meant)

import random
from itertools import combinations
from typing import Any

import numpy as np
import torch
from builders import seeded
from loop import random_state

CPU = torch.device("cpu")


def draws() -> list[Any]:
    normal = [random.gauss(0, 1), np.random.normal(), torch.randn(()).item()]
    return [*normal, random.random(), np.random.rand(), torch.rand(()).item(), random.getrandbits(64)]


def test_a_seed_determines_all_draws_and_torchs_are_those_of_manual_seed():
    random_state.seed(2**63 - 1)
    expected = draws()
    random_state.seed(2**63 - 1)
    assert draws() == expected
    random_state.seed(5)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=seeded(5)))


def test_run_step_and_process_decide_all_draws_whatever_was_drawn_before(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)

    def drawn(run: int, step: int, rank: int) -> list[Any]:
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
        random_state.seed_step(run, step, CPU)
        return draws()

    numbers = [(7, 0, 0), (7, 1, 0), (7, 0, 1), (8, 0, 0)]
    first = [drawn(*number) for number in numbers]
    assert [drawn(*number) for number in numbers] == first
    for a, b in combinations(first, 2):
        assert all(x != y for x, y in zip(a, b, strict=True))
