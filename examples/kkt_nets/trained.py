"""Trained runs, read back from their checkpoints to be evaluated."""

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import checkpoints
import torch
from dataset import FlatBatch, GraphBatch
from jepa_adapter import KKTJepa
from models import GNNPolicy, KKTNetMLP
from paths import restore
from torch import Tensor
from torch.nn import functional as F

from jepa_ssl import CollapseMonitor


@dataclass(frozen=True)
class Trained:
    """One run: its network, and its JEPA term if it had one."""

    label: str  # tells it from the others
    path: Path  # of the checkpoint
    epoch: int  # how many it had seen
    args: Namespace
    model: KKTNetMLP | GNNPolicy
    collate: Callable[..., Any]
    jepa: KKTJepa | None

    @property
    def alarms(self) -> list[str]:
        """What the collapse monitor said while it was trained."""
        monitor = self.jepa and self.jepa.objective.monitor
        return [episode.message for episode in monitor.episodes] if isinstance(monitor, CollapseMonitor) else []

    def embed(self, batch: FlatBatch | GraphBatch) -> dict[str, dict[str, Tensor]]:
        """Kind -> stream -> L2-normalised embeddings of a batch.

        `trunk` is what the network's heads read, normalised; `projector`, only with JEPA, what its loss compares.
        """
        data: Any = batch
        if isinstance(self.model, KKTNetMLP):
            features = {"instance": self.model.net(data.model_input)}
        else:
            graph = data.batch_graph
            c, v = self.model.encode(
                graph.constraint_features, graph.edge_index, graph.edge_attr, graph.variable_features
            )
            features = {"constraint": c, "variable": v}
        found = {"trunk": {stream: F.normalize(feature, dim=-1) for stream, feature in features.items()}}
        if self.jepa:
            found["projector"] = self.jepa.encoder.projector(features)
        return found


def load(paths: Sequence[str | Path], device: torch.device) -> list[Trained]:
    """The runs of some checkpoints, all of them read before anything is done with one.

    Raises:
        FileNotFoundError, IsADirectoryError: there is no such file.
        ValueError: it is no checkpoint that can be used, or is named twice.
    """
    labels = _labels(paths)
    return [_load(label, path, device) for label, path in zip(labels, paths, strict=True)]


def _load(label: str, path: str | Path, device: torch.device) -> Trained:
    state = checkpoints.load(path)
    model, collate = restore(state, path)
    model.to(device).eval()
    args, jepa = Namespace(**state["args"]), None
    if state["jepa"]:
        try:
            jepa = KKTJepa(model, args, device)
            jepa.load_state_dict(state["jepa"])
        except (RuntimeError, KeyError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())  # torch's message has many lines
            raise ValueError(f"{path} has the JEPA parts of another model: {reason} Use another checkpoint.") from error
    return Trained(label, Path(path), state["epoch"], args, model, collate, jepa)


def _labels(paths: Sequence[str | Path]) -> list[str]:
    """The shortest names that tell checkpoints apart: the folder, folder and file, or the whole path."""
    absolute = [Path(path).resolve() for path in paths]
    for labels in (
        [path.parent.name for path in absolute],
        [f"{path.parent.name}/{path.stem}" for path in absolute],
        [str(path) for path in absolute],
    ):
        if len(set(labels)) == len(labels):
            return labels
    raise ValueError(f"one checkpoint is named twice among {', '.join(map(str, paths))}; name each once.")
