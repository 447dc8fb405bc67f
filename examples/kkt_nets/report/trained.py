"""Trained runs, read back from their checkpoints to be evaluated."""

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from data.batches import FlatBatch, GraphBatch
from jepa_adapter import jepa_term
from loop import checkpoints
from loop.paths import build
from models import GNNPolicy, KKTNetMLP
from torch import Tensor
from torch.nn import functional as F

from jepa_ssl import CollapseMonitor, JEPATerm


@dataclass(frozen=True)
class Trained:
    """One run: its network, and its JEPA term if it had one."""

    label: str  # distinguishes it from the others
    path: Path  # of the checkpoint
    epoch: int  # how many it had finished
    args: Namespace
    model: KKTNetMLP | GNNPolicy
    collate: Callable[..., Any]
    jepa: JEPATerm | None

    @property
    def alarms(self) -> list[str]:
        """The collapse monitor's messages during training."""
        monitor = self.jepa and self.jepa.objective.monitor
        return [episode.message for episode in monitor.episodes] if isinstance(monitor, CollapseMonitor) else []

    def embed(self, batch: FlatBatch | GraphBatch) -> dict[str, dict[str, Tensor]]:
        """Kind -> stream -> L2-normalised embeddings of a batch.

        `trunk` is the input of the network's heads, normalised; `projector`, only with JEPA, is what its loss compares.
        """
        data: Any = batch
        if isinstance(self.model, KKTNetMLP):
            features = {"instance": self.model.net(data.model_input)}
        else:
            g = data.batch_graph
            c, v = self.model.encode(g.constraint_features, g.edge_index, g.edge_attr, g.variable_features)
            features = {"constraint": c, "variable": v}
        found = {"trunk": {stream: F.normalize(feature, dim=-1) for stream, feature in features.items()}}
        return found | ({"projector": self.jepa.encoder.projector(features)} if self.jepa else {})


def load(paths: Sequence[str | Path], device: torch.device) -> list[Trained]:
    """The runs of some checkpoints, all of them read before anything is done with one.

    Raises OSError if a file is missing, ValueError if one cannot be used or is named twice.
    """
    labels = _labels(paths)
    return [_load(label, path, device) for label, path in zip(labels, paths, strict=True)]


def _load(label: str, path: str | Path, device: torch.device) -> Trained:
    state = checkpoints.load(path)
    args, weights, jepa = Namespace(**state["args"]), state["model"], None
    try:
        # The MLP's sizes are those of its heads; a GNN has none.
        sizes = (0, 0) if args.use_bipartite_graphs else (len(weights["head_lam.0.bias"]), len(weights["head_x.bias"]))
        model, collate = build(args, *sizes)
        model.load_state_dict(weights)
        model.to(device).eval()
        if state["jepa"]:
            jepa = jepa_term(model, args, device)
            checkpoints.resume_jepa(jepa, state)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())  # torch's message has many lines
        raise ValueError(
            f"{path} does not hold the network of its options: {reason} Use another checkpoint."
        ) from error
    return Trained(label, Path(path), state["epoch"], args, model, collate, jepa)


def _labels(paths: Sequence[str | Path]) -> list[str]:
    """The shortest names that distinguish checkpoints: the folder, folder and file, or the whole path."""
    absolute = [Path(path).resolve() for path in paths]
    shortest = [path.parent.name for path in absolute], [f"{path.parent.name}/{path.stem}" for path in absolute]
    for labels in (*shortest, list(map(str, absolute))):
        if len(set(labels)) == len(labels):
            return labels
    raise ValueError(f"one checkpoint is named twice among {', '.join(map(str, paths))}; name each once.")
