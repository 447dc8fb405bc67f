"""Checkpoints: written atomically, read without unpickling, and checked against the run.

A checkpoint is a zip archive of `torch.save`, so `torch.load(path, weights_only=True)` reads it. The archive's comment
is the SHA-256 of everything before it, and `load` raises if the file has changed. The function `torch.load` neither
checks an archive's checksums nor the sizes in it.
"""

import hashlib
import os
from argparse import Namespace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from loop import options

from jepa_ssl.files import write_atomically

KEYS = {"epoch", "taken", "step", "best", "model", "optimizer", "args", "jepa", "meter", "rows", "run_id"}
# May differ between a run and its continuation, since they do not change what is computed; epochs may be added.
FREE = {"config", "epochs", "devices", "num_workers", "output_dir", "resume", "data_root", "checkpoint_every"}

# Part of a checkpoint -> where the JEPA term has it; a tensor belongs to the first part that fits.
PARTS = {"projector": "projector.", "predictor": "objective.predictor."}
PARTS |= {
    "target_model": "objective.teacher.target_model.",
    "objective": "objective.",
    "balance": "balance.",
    "term": "",
}

COMMENT = b"sha256:"
SEAL_BYTES = 2 + len(COMMENT) + 2 * hashlib.sha256().digest_size


def save(path: Path, state: dict[str, Any]) -> None:
    """Write the checkpoint, sealed.

    Raises OSError if the disk does not take it; the old file at `path` is still there.
    """

    def write(file: BinaryIO) -> None:
        torch.save(state, file)
        size = file.tell() - 2  # the archive ends with the length of its comment, which is empty so far
        seal = _seal(file, size)
        file.seek(size)
        file.write(seal)

    write_atomically(path, write)


def load(path: str | Path) -> dict[str, Any]:
    """The checkpoint at `path`, on the CPU.

    Raises OSError if the file does not exist, ValueError if it is truncated, damaged, or not written by `train.py`.
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
            reason = "it holds more than tensors"
            raise ValueError(f"{path} cannot be read as a checkpoint: {reason}. Use another.") from error
    lacking = sorted(KEYS - state.keys()) if isinstance(state, dict) else sorted(KEYS)
    if lacking or not isinstance(state["args"], dict):
        raise ValueError(f"{path} lacks {lacking or 'flags'}: not a checkpoint of train.py. Name a last.pt or best.pt.")
    return state


def _seal(file: BinaryIO, size: int) -> bytes:
    """The end of a checkpoint whose first `size` bytes are given: a zip archive's comment. Leaves `file` there."""
    file.seek(0)
    digest = hashlib.sha256()
    for start in range(0, size, 1 << 20):
        digest.update(file.read(min(1 << 20, size - start)))
    comment = COMMENT + digest.hexdigest().encode()
    return len(comment).to_bytes(2, "little") + comment


def check_same_run(state: dict[str, Any], args: Namespace, path: str) -> None:
    """Raise ValueError if continuing `state` with `args` would not continue the same run."""
    now = vars(args)
    before = {name: options.parser().get_default(name) for name in now} | state["args"]  # older ones lack newer flags
    # A schedule of the momentum goes on to the last epoch, and so depends on which that is.
    free = FREE - {"epochs"} if args.ema_schedule != "constant" else FREE
    other = [name for name in sorted(now.keys() - free) if before.get(name) != now[name]]
    if other:
        said = ", ".join(f"--{name} is {now[name]} and was {before.get(name)}" for name in other)
        raise ValueError(f"{path} is of a run with other flags: {said}. Resume with those it had, or start a new run.")
    seen = state["epoch"] + (state["taken"] > 0)  # a started epoch counts
    if seen > args.epochs:
        raise ValueError(f"--epochs is {args.epochs}, but {path} has seen {seen} already; raise --epochs.")


def jepa_parts(term: Any) -> dict[str, Any]:
    """The keys that a JEPA term adds to a checkpoint: `jepa`, and `target_model` if the teacher is a copy."""
    jepa: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
    for name, value in term.state_dict().items():
        part = next(part for part, prefix in PARTS.items() if name.startswith(prefix))
        jepa[part][name.removeprefix(PARTS[part])] = value
    target = jepa.pop("target_model")
    return {"jepa": jepa, "target_model": target} if target else {"jepa": jepa}


def resume_jepa(term: Any, state: dict[str, Any]) -> bool:
    """Load the keys of `jepa_parts`; False if only one of the two sides has a teacher with a state.

    Older checkpoints have `target_model` among the parts of `jepa`, and dicts where there are tensors now; what is
    counted in these starts again.
    """
    fresh = term.state_dict()
    loaded = {"_extra_state": fresh["_extra_state"]}
    parts = {"target_model": state.get("target_model", {}), **state["jepa"]}
    lacks_copy = not parts["target_model"] and any(name.startswith(PARTS["target_model"]) for name in fresh)
    for part, of_part in parts.items():
        for name, value in ((PARTS[part] + name, value) for name, value in of_part.items()):
            if not (lacks_copy and name.startswith("objective.teacher.")):  # a copy that starts again counts from 0
                loaded[name] = fresh[name] if isinstance(value, dict) else value
    return term.resume(loaded)
