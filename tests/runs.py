"""Tiny training runs, on both paths and with each teacher."""

import hashlib
import json
import shlex
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

PATHS = {"flat": [], "graph": ["--use_bipartite_graphs"]}
MODES = {"kkt": [], "ema": ["--use_jepa"], "simsiam": ["--use_jepa", "--jepa_mode", "simsiam"]}
STATES = ["--use_jepa", "--jepa_views", "solver_state", "--jepa_solver_steps", "5", "--jepa_mode"]
RECIPES = {
    "shared": ["--use_jepa", "--jepa_mode", "shared", "--jepa_regularizer", "sigreg"],
    "frozen": [*STATES, "frozen", "--jepa_loss", "smooth_l1"],
    "learned": [*STATES, "learned", "--jepa_regularizer", "vicreg", "--jepa_balance"],
    "schedule": ["--use_jepa", "--ema_schedule", "cosine", "--jepa_loss", "squared"],
}  # beyond the specification's
# Twelve LPs of two families in three batches, small enough for a run to take a fraction of a second.
TINY = shlex.split(
    "--devices cpu --problems set_cover random --set_cover_size 3 5 --random_size 4 3 --train_instances 12 "
    "--val_instances 5 --hidden_size 8 --embedding_size 8 --batch_size 4 --log_every 1"
)


def checkpoint(folder: Path, name: str = "last.pt") -> dict[str, Any]:
    return torch.load(folder / name, weights_only=True)


def rows(folder: Path) -> list[dict[str, float]]:
    """What `metrics.jsonl` holds."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def train_rows(folder: Path) -> list[dict[str, float]]:
    return [row for row in rows(folder) if "train/loss" in row]


def contents(folder: Path) -> dict[str, str]:
    """The digest of each file below `folder`."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Where two nested states are not the same, bit for bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    elif isinstance(a, dict) and isinstance(b, dict):
        missing = [f"{path}/{key}" for key in a.keys() ^ b.keys()]
        return missing + [d for key in a.keys() & b.keys() for d in differences(a[key], b[key], f"{path}/{key}")]
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{path}/{i}")]
    else:
        same = type(a) is type(b) and a == b
    return [] if same else [path]


def prepared(data_root: Path, folder: Path, *flags: Any) -> Any:
    """A tiny run that has not begun."""
    import train  # here, because the tests of the package do not need it
    from loop.options import parse

    given = map(str, ["--data_root", data_root, "--output_dir", folder, *flags])
    return train.Run(parse([*TINY, *given]))


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def free_ports(count: int) -> list[int]:
    """Ports for processes that train together, one for each of their groups."""
    with ExitStack() as probes:
        sockets = [probes.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]


def free_port() -> int:
    return free_ports(1)[0]
