"""Checkpoints: written whole or not at all, read without unpickling, refused by name where they do not fit."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from atomic import write_atomically

KEYS = {"epoch", "step", "best", "model", "optimizer", "args", "jepa", "rng", "run_id"}
# What may differ between a run and its continuation without changing what is computed; epochs, for it may go on longer.
FREE = {"config", "epochs", "devices", "num_workers", "output_dir", "resume", "data_root"}


def save(path: Path, state: dict[str, Any]) -> None:
    write_atomically(path, lambda file: torch.save(state, file))


def load(path: str | Path) -> dict[str, Any]:
    """The checkpoint at `path`, on the CPU.

    Raises:
        FileNotFoundError, IsADirectoryError: there is no such file.
        ValueError: it is truncated, or no checkpoint of `train.py`.
    """
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder; name the checkpoint in it, such as {Path(path) / 'last.pt'}.")
    if not Path(path).exists():
        raise FileNotFoundError(f"{path} does not exist; name a last.pt or best.pt that train.py wrote.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds, for many kinds of damage
        raise ValueError(
            f"{path} cannot be read as a checkpoint: truncated, or of another kind. Use another."
        ) from error
    lacking = sorted(KEYS - state.keys()) if isinstance(state, dict) else sorted(KEYS)
    if lacking or not isinstance(state["args"], dict):
        raise ValueError(f"{path} lacks {lacking or 'flags'}: not a checkpoint of train.py. Name a last.pt or best.pt.")
    return state


def check_same_run(state: dict[str, Any], args: Namespace, path: str) -> None:
    """Raises ValueError if continuing `state` with `args` would not continue the same run."""
    before, now = state["args"], vars(args)
    # A schedule of the momentum goes on to the last epoch, and so depends on which that is.
    free = FREE - {"epochs"} if args.ema_schedule != "constant" else FREE
    other = [name for name in sorted(now.keys() - free) if before.get(name) != now[name]]
    if other:
        said = ", ".join(f"--{name} is {now[name]} and was {before.get(name)}" for name in other)
        raise ValueError(f"{path} is of a run with other flags: {said}. Resume with those it had, or start a new run.")
    if state["epoch"] > args.epochs:
        raise ValueError(f"--epochs is {args.epochs}, but {path} has seen {state['epoch']} already; raise --epochs.")
