"""What a run reports: losses between two rows, JSON lines next to the checkpoints, and wandb."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import torch
from torch import Tensor

from jepa_ssl.files import write_atomically

WANDB_MODES = ("online", "offline", "disabled", "shared")


class NonFiniteLossError(RuntimeError):
    """The training loss is NaN or infinite; the message says where it began."""


class Meter:
    """Collects scalars step by step without waiting for the device; `read` waits once, and checks them.

    `name` gives the name of an instance by its number, for the message about a loss that is not finite.
    """

    def __init__(self, name: Callable[[int], str]) -> None:
        self._name = name
        self._steps: list[tuple[int, Sequence[int], Mapping[str, Tensor]]] = []
        self._embeddings: list[Mapping[str, Tensor]] = []

    def add(
        self, step: int, instances: Sequence[int], losses: Mapping[str, Tensor], embeddings: Mapping[str, Tensor]
    ) -> None:
        """Add a step: its instances, its losses as detached scalars, the encoder's embeddings if there are any."""
        self._steps.append((step, instances, losses))
        if embeddings:
            self._embeddings.append(embeddings)

    def read(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """The mean of each loss over the steps that have it, and the embeddings of each stream; then starts again."""
        means, found = self._means(), self._embeddings
        self._steps, self._embeddings = [], []
        return means, {stream: torch.cat([z[stream] for z in found]) for stream in (found[0] if found else ())}

    def state_dict(self) -> dict[str, Any]:
        """What waits to be read. It is checked as in `read`, since a saved state must be worth going on from."""
        self._means()
        return {"steps": list(self._steps), "embeddings": list(self._embeddings)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        for tensors in (*(losses for _, _, losses in state["steps"]), *state["embeddings"]):
            tensors.update({name: tensor.to(device) for name, tensor in tensors.items()})
        self._steps, self._embeddings = list(state["steps"]), list(state["embeddings"])

    def _means(self) -> dict[str, float]:
        if not self._steps:
            return {}
        names = list(dict.fromkeys(name for _, _, losses in self._steps for name in losses))
        nothing = torch.zeros_like(next(iter(self._steps[0][2].values())))
        rows = [torch.stack([losses.get(name, nothing) for name in names]) for _, _, losses in self._steps]
        table = torch.stack(rows).double().cpu()
        bad = (~table.isfinite().all(dim=1)).nonzero()
        if len(bad):
            step, instances, losses = self._steps[int(bad[0])]
            values = ((name, float(loss)) for name, loss in losses.items())
            raise NonFiniteLossError(
                f"the loss is not finite at step {step}: {', '.join(f'{name} {value:g}' for name, value in values)}; "
                f"on the instances {', '.join(map(self._name, instances))}. Lower --lr, or look at these instances; "
                f"the checkpoints hold the state before this step."
            )
        counts = [sum(name in losses for _, _, losses in self._steps) for name in names]
        return {
            name: total / count for name, total, count in zip(names, table.sum(dim=0).tolist(), counts, strict=True)
        }


def check_wandb_mode() -> str:
    """`WANDB_MODE`, by default offline; raises ValueError for one that wandb does not know."""
    mode = os.environ.get("WANDB_MODE", "offline")
    if mode not in WANDB_MODES:
        raise ValueError(f"WANDB_MODE is {mode!r}, but must be one of {', '.join(WANDB_MODES)}; set or unset it.")
    return mode


class RunLog:
    """Sends each row to `metrics.jsonl` and to wandb (offline, unless `WANDB_MODE` says otherwise).

    A row depends only on the run and holds no time: a resumed run's file equals an unbroken one's.

    Args:
        folder, config: of the run; wandb records `config`.
        run_id: of the wandb run to continue, if any.
        earlier: the folder of the run to continue, or None. It may be `folder` itself.
        rows: this many rows of that run come first; those after are of steps that are taken again.

    Raises OSError if it cannot be written, or another run is writing it; so do `log(row, step)` and `sync`.
    """

    def __init__(self, folder: Path, config: dict[str, Any], run_id: str | None, earlier: Path | None, rows: int):
        self.path = folder / "metrics.jsonl"
        with self.path.open("ab") as found:
            self._lock(found)
        before = earlier / "metrics.jsonl" if earlier else self.path
        lines = before.read_bytes().splitlines(keepends=True) if earlier and before.exists() else []
        # A run that was killed may leave half a line at the end.
        kept = [line for line in lines if line.endswith(b"\n")][:rows]
        self.rows = len(kept)
        write_atomically(self.path, lambda file: file.write(b"".join(kept)))
        self._file = self.path.open("ab")
        self._lock(self._file)
        self._wandb = None
        mode = check_wandb_mode()
        if mode != "disabled":
            import wandb  # here, for it takes a second

            known: Any = {"id": run_id, "resume": "allow" if run_id else None, "config": config, "mode": mode}
            place = {"name": folder.name, "dir": folder.resolve()}  # its service may have another working directory
            self._wandb = wandb.init(project="kkt_nets", settings=wandb.Settings(silent=True), **known, **place)
        self.run_id = self._wandb.id if self._wandb else run_id

    def _lock(self, file: BinaryIO) -> None:
        """Until the process closes the file, or ends, however it does; a loader's workers do not hold the lock."""
        if os.name != "posix":
            return
        import fcntl  # which other systems lack

        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(f"{self.path} is written by another run; wait for its end, or name another folder.") from None
        except OSError:  # some file systems cannot
            return

    def __call__(self, row: dict[str, float], step: int) -> None:
        try:
            self._file.write(json.dumps({"step": step, **row}).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise OSError(f"{self.path} cannot be written ({error.strerror}).") from error
        self.rows += 1
        if self._wandb:
            self._wandb.log(row, step=step)

    def sync(self) -> None:
        """Bring the rows to the disk, where a checkpoint will count on them."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with suppress(OSError):  # the failed write was reported when it was tried
            self._file.close()
        if self._wandb:
            self._wandb.finish(exit_code=int(error is not None))


class NoLog(nullcontext[None]):
    """The log of a process that writes none."""

    run_id, rows = None, 0

    def __call__(self, row: dict[str, float], step: int) -> None: ...
