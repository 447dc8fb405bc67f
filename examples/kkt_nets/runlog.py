"""What a run reports: lines of JSON beside its checkpoints, and wandb."""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from atomic import write_atomically

WANDB_MODES = ("online", "offline", "disabled", "shared")


def check_wandb_mode() -> None:
    """Raises ValueError if `WANDB_MODE` is none that wandb knows, before a run is begun."""
    mode = os.environ.get("WANDB_MODE", "offline")
    if mode not in WANDB_MODES:
        raise ValueError(f"WANDB_MODE is {mode!r}, but must be one of {', '.join(WANDB_MODES)}; set or unset it.")


class RunLog:
    """Sends each row to `metrics.jsonl` and to wandb (offline, unless `WANDB_MODE` says otherwise).

    A row is determined by the run alone, no clock in it: a resumed run's file equals an unbroken one's.

    Args:
        folder: of the run.
        config: recorded by wandb.
        run_id: of the wandb run to continue, if any.
        earlier: the folder of the run that is continued, if any; its rows come first. It may be `folder` itself.
        rows: how many of them; those after are of steps that are taken again.

    Raises:
        OSError: it cannot be written, or another run is writing it; so do `log(row, step)` and `sync`.
    """

    def __init__(self, folder: Path, config: dict[str, Any], run_id: str | None, earlier: Path | None, rows: int):
        self.path = folder / "metrics.jsonl"
        with self.path.open("ab") as found:
            self._lock(found)
        kept = list(islice(_rows(earlier / "metrics.jsonl"), rows)) if earlier else []
        self.rows = len(kept)
        write_atomically(self.path, lambda file: file.write(b"".join(kept)))
        self._file = self.path.open("ab")
        self._lock(self._file)
        self._wandb = None
        mode = os.environ.get("WANDB_MODE", "offline")
        if mode != "disabled":
            import wandb  # here, for it takes a second

            self._wandb = wandb.init(
                project="kkt_nets",
                name=folder.name,
                id=run_id,
                resume="allow" if run_id else None,
                dir=folder.resolve(),  # its service may have another working directory
                config=config,
                mode=mode,  # pyright: ignore[reportArgumentType]
                settings=wandb.Settings(silent=True),
            )
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
        """Brings the rows to the disk, where a checkpoint will count on them."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with suppress(OSError):  # what could not be written was said when it was tried
            self._file.close()
        if self._wandb:
            self._wandb.finish(exit_code=int(error is not None))


class NoLog:
    """The log of a process that writes none."""

    run_id, rows = None, 0

    def __call__(self, row: dict[str, float], step: int) -> None: ...

    def sync(self) -> None: ...

    def __enter__(self) -> "NoLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        return None


def _rows(path: Path) -> Iterator[bytes]:
    """Its whole lines; a run that was killed may leave half a line at the end."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return (line for line in lines if line.endswith(b"\n"))
