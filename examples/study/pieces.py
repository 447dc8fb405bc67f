"""The study in pieces: each a small JSON file, made once, by as many processes as there are cores."""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from jepa_ssl.files import write_atomically


@dataclass(frozen=True)
class Piece:
    """One run of one experiment: `function(*arguments)` returns what there is to know of it, as JSON takes it."""

    stage: str
    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def path(self, results: Path) -> Path:
        return results / self.stage / f"{self.name}.json"


def run(pieces: Sequence[Piece], results: Path, jobs: int, is_whole: Callable[[Piece], bool] = lambda _: True) -> None:
    """Computes the pieces that have no file yet, and those that have one and are not `is_whole` all the same."""
    due = [piece for piece in pieces if not piece.path(results).exists() or not is_whole(piece)]
    if not due:
        return
    for folder in {piece.path(results).parent for piece in due}:
        folder.mkdir(parents=True, exist_ok=True)
    with (
        ProcessPoolExecutor(min(jobs, len(due)), get_context("spawn"), initializer=_one_thread) as processes,
        tqdm(total=len(due), desc=due[0].stage, unit="piece") as bar,
    ):
        running = {processes.submit(_computed, piece, results): piece for piece in due}
        for done in as_completed(running):
            done.result()
            bar.set_postfix_str(running[done].name)
            bar.update()


def _one_thread() -> None:
    torch.set_num_threads(1)  # a process a core; more threads cost networks of this size more than they bring


def _computed(piece: Piece, results: Path) -> None:
    found = json.dumps(_rounded(piece.function(*piece.arguments)), indent=None, separators=(",", ":"))
    write_atomically(piece.path(results), lambda file: file.write(f"{found}\n".encode()))


def _rounded(value: Any) -> Any:
    """Five digits are plenty, and keep the files small."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list | tuple) else value


def read(results: Path, stage: str) -> dict[str, Any]:
    """Name -> what was found, of all pieces of a stage that have been computed."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((results / stage).glob("*.json"))}


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
