"""What a run reports: lines of JSON beside its checkpoints, and wandb."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

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
        step: its rows after this one are dropped; they are of steps that are taken again.
    """

    def __init__(self, folder: Path, config: dict[str, Any], run_id: str | None, earlier: Path | None, step: int):
        self.path = folder / "metrics.jsonl"
        kept = "".join(_rows(earlier / "metrics.jsonl", step)) if earlier else ""
        write_atomically(self.path, lambda file: file.write(kept.encode()))
        self._file = self.path.open("a")
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

    def __call__(self, row: dict[str, float], step: int) -> None:
        self._file.write(json.dumps({"step": step, **row}) + "\n")
        self._file.flush()
        if self._wandb:
            self._wandb.log(row, step=step)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._file.close()
        if self._wandb:
            self._wandb.finish(exit_code=int(error is not None))


def _rows(path: Path, last: int) -> Iterator[str]:
    """The lines of the steps up to `last`."""
    for line in path.read_text().splitlines(keepends=True) if path.exists() else ():
        # A run that was killed may leave half a line at the end; it is of a step after its checkpoint.
        if not line.endswith("\n") or json.loads(line)["step"] > last:
            return
        yield line
