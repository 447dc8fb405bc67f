"""What solver states cost beside a training step of the example's GNN. One thread; read the ratios."""

import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2] / "examples/kkt_nets"), str(Path(__file__).parents[1])]

import pytest
import torch
from benchmarks.timing import least_seconds
from data.batches import GraphBatch, collate_graphs, prepare
from data.generators import generate
from losses import kkt_loss, pad_predictions
from models import GNNPolicy

from jepa_ssl.integrations.pyg import bipartite_graph
from jepa_ssl.lp import DenseLP, SolverState, SparseLP


@pytest.fixture
def batch() -> GraphBatch:
    """32 set covers of 20 variables and 50 rows, 40 of which are bounds."""
    return collate_graphs([prepare(generate("set_cover", (10, 20), seed)) for seed in range(32)])


def sparse(batch: GraphBatch) -> SparseLP:
    return SparseLP.inequalities_of(bipartite_graph(batch.batch_graph))


def dense(batch: GraphBatch) -> DenseLP:
    return DenseLP.inequalities(batch.A, batch.b, batch.c, batch.mask_m, batch.mask_n)


def training_step(batch: GraphBatch) -> Callable[[], None]:
    """Forward, KKT loss, backward and Adam of the example's network at its default size."""
    model = GNNPolicy(Namespace(embedding_size=64))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    graph: Any = batch.batch_graph
    _, m, n = batch.A.shape

    def step() -> None:
        optimizer.zero_grad()
        x, lam = model(graph.constraint_features, graph.edge_index, graph.edge_attr, graph.variable_features)
        y = pad_predictions(x, lam, batch.m_sizes, batch.n_sizes, m, n)
        kkt_loss(y, batch.A, batch.b, batch.c, batch.mask_m, batch.mask_n)[0].backward()
        optimizer.step()

    return step


def ways(batch: GraphBatch) -> dict[str, Callable[[], Any]]:
    lps = {"sparse": sparse(batch), "dense": dense(batch)}
    view = SolverState(100).fit([lps["sparse"]])
    stored = view.states(lps["sparse"])
    cached = SolverState(100, states_of=lambda _: stored).fit([lps["sparse"]])
    return {
        "training step of the GNN": training_step(batch),
        "100 steps, sparse": lambda: view(lps["sparse"]),
        "100 steps, dense": lambda: view(lps["dense"]),
        "from the cache": lambda: cached(lps["sparse"]),
    }


@pytest.mark.parametrize("way", ["training step of the GNN", "100 steps, sparse", "100 steps, dense", "from the cache"])
def test_solver_states(benchmark: Any, batch: GraphBatch, way: str):
    benchmark.group = "32 LPs of 70 nodes"
    benchmark(ways(batch)[way])


if __name__ == "__main__":
    torch.set_num_threads(1)
    lps = collate_graphs([prepare(generate("set_cover", (10, 20), seed)) for seed in range(32)])
    for name, time_of in least_seconds(ways(lps)).items():
        print(f"{name:30s} {1e3 * time_of:8.3f} ms")
