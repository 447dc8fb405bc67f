"""The random number generators that a process has once: torch's, numpy's and Python's; of every process of a run.

Their states are tensors, so that nothing has to be pickled to save them or to send them to another process.
"""

# ruff: noqa: NPY002 (numpy's global generator is meant)

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from jepa_ssl import processes


def seed(number: int) -> None:
    """Starts them all from `number`, which is at least 0."""
    torch.manual_seed(number)
    np.random.seed(np.random.SeedSequence(number).generate_state(4))
    random.seed(number)


def own(device: torch.device) -> dict[str, Tensor]:
    """Their states in this process, that of the GPU `device` among them if it is one."""
    of_numpy: Any = np.random.get_state()
    _, of_python, normal = random.getstate()  # normal numbers are drawn in pairs: the other one, if there is one
    states = {
        "torch": torch.get_rng_state(),
        # Words of 32 bits, which float64 holds exactly, and a float64.
        "numpy": torch.tensor([*of_numpy[1].tolist(), *of_numpy[2:]], dtype=torch.float64),
        "python": torch.tensor([*of_python, float("inf") if normal is None else normal], dtype=torch.float64),
    }
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def of_all(device: torch.device) -> dict[str, Tensor]:
    """Their states in each process, `[processes, ...]`; all processes must call it."""
    return {name: torch.stack(_gathered(state)) for name, state in own(device).items()}


def restore(saved: Mapping[str, Tensor], number: int, device: torch.device) -> None:
    """Goes on from what `of_all` returned; a process that was not there then starts from `number` and its rank.

    Raises:
        ValueError: `saved` is something else.
    """
    rank = processes.rank()
    known = own(torch.device("cpu"))
    if not isinstance(saved, dict) or any(
        name not in saved or saved[name].shape[1:] != state.shape for name, state in known.items()
    ):
        raise ValueError("its random state is none.")
    if rank >= len(saved["torch"]):
        seed(int(np.random.SeedSequence([number, rank]).generate_state(1, np.uint64)[0]))
        return
    states = {name: of_each[rank].clone() for name, of_each in saved.items()}  # torch crashes on views with an offset
    torch.set_rng_state(states["torch"])
    *words, position, has_normal, normal = states["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(words, dtype=np.uint32), int(position), int(has_normal), normal))
    *words, normal = states["python"].tolist()
    random.setstate((random.Random.VERSION, tuple(map(int, words)), None if normal == float("inf") else normal))
    if device.type == "cuda" and "cuda" in states:  # the run may have been on a CPU
        torch.cuda.set_rng_state(states["cuda"], device)


def _gathered(state: Tensor) -> list[Tensor]:
    count = processes.world_size(training=True)
    if count == 1:
        return [state]
    states = [torch.empty_like(state) for _ in range(count)]
    dist.all_gather(states, state)
    return states
