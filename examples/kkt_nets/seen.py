"""What a network sees beside the LP: the state that a solver reaches in a few steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dataset import FlatBatch, GraphBatch, Sample

from jepa_ssl import FlatVectors
from jepa_ssl.integrations.pyg import bipartite_graph
from jepa_ssl.lp import DenseLP, SparseLP, StateFeatures, valid_entries


@dataclass(frozen=True)
class SeenStates:
    """Makes the batches that `collate` makes, with the states after so many PDHG steps among their features.

    Args:
        steps: after how many steps, in rising order; empty leaves the batches as they are.
    """

    collate: Callable[[Sequence[Sample]], Any]
    steps: tuple[int, ...] = ()

    def __call__(self, samples: Sequence[Sample]) -> FlatBatch | GraphBatch:
        batch = self.collate(samples)
        return show(batch, self.steps) if self.steps else batch


def show(batch: Any, steps: Sequence[int]) -> Any:
    """The batch with its states; a graph batch is changed in place, for it is its caller's own."""
    if isinstance(batch, FlatBatch):
        _, m, n = batch.A.shape

        def lp_of(vectors: FlatVectors) -> DenseLP:
            return DenseLP.of_vectors(vectors, m, n)

        seen = StateFeatures(steps, lp_of=lp_of)(
            FlatVectors(batch.model_input, valid_entries(batch.mask_m, batch.mask_n))
        )
        return batch._replace(model_input=seen.values)
    graph = StateFeatures(steps, lp_of=SparseLP.inequalities_of)(bipartite_graph(batch.batch_graph))
    batch.batch_graph.constraint_features = graph.constraint_features
    batch.batch_graph.variable_features = graph.variable_features
    return batch


def numbers(args: Any) -> int:
    """How many numbers of its state each constraint and each variable has in the batches of a run."""
    return 2 * len(getattr(args, "seen_steps", None) or ())
