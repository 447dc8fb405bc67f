"""Tasks whose answer is known: an encoder that helps, one that does not, one that equals its control, no signal."""

import torch
from builders import seeded
from torch import Tensor

from jepa_ssl.evaluation import Features, Report, Task, label_curve

INSTANCES, CAUSES, READINGS = 400, 4, 24
CALLED = {"helps": "helps", "collapsed": "does not help", "random again": "equals a control", "no signal": "no signal"}


def report(situation: str, run: int, kind: str = "ridge", seeds: int = 12) -> Report:
    """The report on one arm, "pretrained", in a situation of `CALLED`; `run` draws everything anew."""
    g = seeded(run)
    causes = torch.randn(INSTANCES, CAUSES, generator=g)
    readings = (causes @ torch.randn(CAUSES, READINGS, generator=g) / 2.0).sin()
    readings = readings + 0.2 * torch.randn(INSTANCES, READINGS, generator=g)
    values = causes @ torch.randn(CAUSES, generator=g) + 0.3 * torch.randn(INSTANCES, generator=g)
    if situation == "no signal":
        values = torch.randn(INSTANCES, generator=g)
    labels = values if kind == "ridge" else (values > 0).long()
    arms = {
        "helps": Features(causes + 0.1 * torch.randn(INSTANCES, CAUSES, generator=g)),
        "collapsed": Features(1.0 + 0.001 * torch.randn(INSTANCES, 8, generator=g)),
        "random again": Features(lambda seed: untrained(readings, 10_000 + seed)),
        "no signal": Features(causes),
    }
    controls = {
        "random initialisation": Features(lambda seed: untrained(readings, seed)),
        "raw features": Features(readings[:, :4]),
    }
    task = Task(labels, metric="r2" if kind == "ridge" else "auc", probe=kind, test=0.5)  # pyright: ignore[reportArgumentType]
    return label_curve(
        task, {"pretrained": arms[situation]}, controls, label_counts=[20, 60], seeds=seeds, refuse=["from scratch"]
    )


def untrained(readings: Tensor, seed: int) -> Tensor:
    g = seeded(seed)
    return (readings @ torch.randn(READINGS, 64, generator=g) / READINGS**0.5).relu()
