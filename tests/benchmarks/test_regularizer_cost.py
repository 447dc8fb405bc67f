"""What regularisers cost beside a training step of the example's GNN. One thread; read the ratios."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2] / "examples/kkt_nets"), str(Path(__file__).parents[1])]

import pytest
import torch
from benchmarks.test_solver_state_cost import training_step
from benchmarks.timing import least_seconds
from data.batches import GraphBatch, collate_graphs, prepare
from data.generators import generate
from torch import Tensor
from torch.nn.functional import normalize

from jepa_ssl.regularizers import SIGReg, VICReg


def eighty_nodes() -> GraphBatch:
    """32 set covers of 23 variables and 57 rows, 46 of which are bounds."""
    return collate_graphs([prepare(generate("set_cover", (11, 23), seed)) for seed in range(32)])


def plain_sigreg(z: Tensor, slices: int = 128, points: int = 17) -> Tensor:
    """A complex exponential for each item, direction and point of the line, and the trapezoid rule."""
    t = torch.linspace(-5.0, 5.0, points)
    gaussian = (-0.5 * t * t).exp()
    projected = z @ normalize(torch.randn(z.size(1), slices), dim=0)
    ecf = (1j * projected.unsqueeze(-1) * t).exp().mean(0)
    return len(z) * torch.trapezoid((ecf - gaussian).abs().square() * gaussian, t).mean()


def ways(batch: GraphBatch, dim: int = 64) -> dict[str, Callable[[], Any]]:
    """The step, and forward and backward of each regulariser on embeddings of the batch's nodes."""
    sizes = {"constraint": int(sum(batch.m_sizes)), "variable": int(sum(batch.n_sizes))}
    z = {stream: normalize(torch.randn(nodes, dim), dim=1).requires_grad_() for stream, nodes in sizes.items()}
    scaled = dim**0.5
    sigreg, vicreg = SIGReg(on_sphere=True), VICReg(on_sphere=True)
    return {
        "training step of the GNN": training_step(batch),
        "SIGReg": lambda: sigreg(z, valid={}).backward(),
        "VICReg": lambda: vicreg(z, valid={}).backward(),
        "plain SIGReg": lambda: torch.stack([plain_sigreg(scaled * x) for x in z.values()]).mean().backward(),
    }


@pytest.mark.parametrize("way", ["training step of the GNN", "SIGReg", "VICReg", "plain SIGReg"])
def test_regularizers(benchmark: Any, way: str):
    benchmark.group = "32 LPs of 80 nodes"
    benchmark(ways(eighty_nodes())[way])


if __name__ == "__main__":
    torch.set_num_threads(1)
    seconds = least_seconds(ways(eighty_nodes()), rounds=20)
    for name, least in seconds.items():
        print(f"{name:30s} {1e3 * least:9.3f} ms {least / seconds['training step of the GNN']:9.3f}")
