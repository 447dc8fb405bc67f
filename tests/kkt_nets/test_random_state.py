"""The global random number generators: saved without pickling, and continued bit for bit."""

# ruff: noqa: NPY002 (numpy's global generator is meant)

import random
from typing import Any

import numpy as np
import pytest
import random_state
import torch

CPU = torch.device("cpu")


def draws() -> list[Any]:
    normal = [random.gauss(0, 1), np.random.normal(), torch.randn(()).item()]
    return [*normal, random.random(), np.random.rand(), torch.rand(()).item(), random.getrandbits(64)]


@pytest.mark.parametrize(
    "before", [0, 1, 2, 700]
)  # after an odd number of draws each holds a second normal number back
def test_what_is_restored_draws_on_as_if_never_stopped(tmp_path, before):
    random_state.seed(3)
    for _ in range(before):
        draws()
    torch.save(random_state.of_all(CPU), tmp_path / "states.pt")
    expected = [draws() for _ in range(3)]
    random_state.seed(4)
    random_state.restore(torch.load(tmp_path / "states.pt", weights_only=True), 0, CPU)
    assert [draws() for _ in range(3)] == expected


def test_a_seed_determines_all_draws_and_torchs_are_those_of_manual_seed():
    random_state.seed(2**63 - 1)
    expected = draws()
    random_state.seed(2**63 - 1)
    assert draws() == expected
    random_state.seed(5)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(5)))


def test_a_process_that_was_not_there_starts_from_its_rank_and_the_seed(monkeypatch):
    saved = random_state.of_all(CPU)

    def drawn(rank: int, number: int) -> list[Any]:
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
        random_state.restore(saved, number, CPU)
        return draws()

    assert drawn(1, 7) == drawn(1, 7)
    different = [drawn(0, 7), drawn(1, 7), drawn(2, 7), drawn(1, 8)]
    assert all(a != b for i, a in enumerate(different) for b in different[:i])


def test_each_process_gets_its_own(monkeypatch):
    expected, states = [], []
    for rank in range(2):
        random_state.seed(rank)
        states.append(random_state.own(CPU))
        expected.append(draws())
    saved = {name: torch.stack([state[name] for state in states]) for name in states[0]}
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        random_state.restore(saved, 0, CPU)
        assert draws() == expected[rank]


@pytest.mark.parametrize("damage", [
    lambda saved: torch.zeros(3), lambda saved: {}, lambda saved: saved | {"torch": torch.zeros(1, 3)},
    lambda saved: {name: state for name, state in saved.items() if name != "numpy"},
])  # fmt: skip
def test_something_else_is_refused_and_nothing_is_changed(damage):
    random_state.seed(1)
    expected = draws()
    random_state.seed(1)
    with pytest.raises(ValueError, match="random state is none"):
        random_state.restore(damage(random_state.of_all(CPU)), 0, CPU)
    assert draws() == expected
