"""Checkpoints: written whole or not at all, read without unpickling, refused by name where they do not fit.

A checkpoint is a file of `torch.save`, which is a zip archive; the archive's comment is the SHA-256 of all before it.
So `torch.load(path, weights_only=True)` reads it as any other, and `load` shows torch none that has changed: torch
does not look at an archive's checksums, and believes the sizes that it finds.
"""

import hashlib
import os
from argparse import Namespace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from atomic import write_atomically

KEYS = {"epoch", "taken", "step", "best", "model", "optimizer", "args", "jepa", "rng", "meter", "rows", "run_id"}
# What may differ between a run and its continuation without changing what is computed; epochs, for it may go on longer.
FREE = {"config", "epochs", "devices", "num_workers", "output_dir", "resume", "data_root", "checkpoint_every"}

COMMENT = b"sha256:"
SEAL_BYTES = 2 + len(COMMENT) + 2 * hashlib.sha256().digest_size


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes the checkpoint, sealed.

    Raises:
        OSError: the disk is full, or else does not take it; what was at `path` is there still.
    """

    def write(file: BinaryIO) -> None:
        torch.save(state, file)
        size = file.tell() - 2  # the archive ends with the length of its comment, which is none yet
        seal = _seal(file, size)
        file.seek(size)
        file.write(seal)

    write_atomically(path, write)


def load(path: str | Path) -> dict[str, Any]:
    """The checkpoint at `path`, on the CPU.

    Raises:
        FileNotFoundError, IsADirectoryError: there is no such file.
        ValueError: it is truncated, damaged, or no checkpoint of `train.py`.
    """
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder; name the checkpoint in it, such as {Path(path) / 'last.pt'}.")
    if not Path(path).exists():
        raise FileNotFoundError(f"{path} does not exist; name a last.pt or best.pt that train.py wrote.")
    with open(path, "rb") as file:
        size = max(file.seek(0, os.SEEK_END) - SEAL_BYTES, 0)
        if _seal(file, size) != file.read():
            raise ValueError(
                f"{path} cannot be read as a checkpoint: without a digest that fits, it is truncated, damaged or not a "
                f"checkpoint of train.py. Use another."
            )
        file.seek(0)
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds
            raise ValueError(
                f"{path} cannot be read as a checkpoint: it holds more than tensors. Use another."
            ) from error
    lacking = sorted(KEYS - state.keys()) if isinstance(state, dict) else sorted(KEYS)
    if lacking or not isinstance(state["args"], dict):
        raise ValueError(f"{path} lacks {lacking or 'flags'}: not a checkpoint of train.py. Name a last.pt or best.pt.")
    return state


def _seal(file: BinaryIO, size: int) -> bytes:
    """What belongs behind the first `size` bytes of a checkpoint, where it leaves `file`: a zip archive's comment."""
    file.seek(0)
    digest = hashlib.sha256()
    for start in range(0, size, 1 << 20):
        digest.update(file.read(min(1 << 20, size - start)))
    comment = COMMENT + digest.hexdigest().encode()
    return len(comment).to_bytes(2, "little") + comment


def check_same_run(state: dict[str, Any], args: Namespace, path: str) -> None:
    """Raises ValueError if continuing `state` with `args` would not continue the same run."""
    before, now = state["args"], vars(args)
    # A schedule of the momentum goes on to the last epoch, and so depends on which that is.
    free = FREE - {"epochs"} if args.ema_schedule != "constant" else FREE
    other = [name for name in sorted(now.keys() - free) if before.get(name) != now[name]]
    if other:
        said = ", ".join(f"--{name} is {now[name]} and was {before.get(name)}" for name in other)
        raise ValueError(f"{path} is of a run with other flags: {said}. Resume with those it had, or start a new run.")
    seen = state["epoch"] + (state["taken"] > 0)  # one that is begun is an epoch too
    if seen > args.epochs:
        raise ValueError(f"--epochs is {args.epochs}, but {path} has seen {seen} already; raise --epochs.")
