"""Early solver states as input features of the network, in addition to the LP."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from data.batches import FlatBatch, GraphBatch, Sample

from jepa_ssl import FlatVectors
from jepa_ssl.integrations.pyg import bipartite_graph
from jepa_ssl.lp import DenseLP, SparseLP, StateFeatures, valid_entries


@dataclass(frozen=True)
class SeenStates:
    """Collates as `collate` does, and appends PDHG states to the features.

    Args:
        steps: the numbers of steps after which the states are taken, in rising order; empty for none.
    """

    collate: Callable[[Sequence[Sample]], Any]
    steps: tuple[int, ...] = ()

    def __call__(self, samples: Sequence[Sample]) -> FlatBatch | GraphBatch:
        batch = self.collate(samples)
        if not self.steps:
            return batch
        if isinstance(batch, FlatBatch):
            vectors = FlatVectors(batch.model_input, valid_entries(batch.mask_m, batch.mask_n))
            return batch._replace(model_input=_features(self.steps, batch.A.shape[1:])(vectors).values)
        graph = _features(self.steps)(bipartite_graph(batch.batch_graph))
        batch.batch_graph.constraint_features = graph.constraint_features
        batch.batch_graph.variable_features = graph.variable_features
        return batch


@cache
def _features(steps: tuple[int, ...], flat: tuple[int, int] | None = None) -> StateFeatures[Any]:
    """Built once, because the first call checks the LPs; `flat` is the size of padded ones."""
    lp_of: Any = SparseLP.inequalities_of if flat is None else partial(DenseLP.of_vectors, m=flat[0], n=flat[1])
    return StateFeatures(steps, lp_of=lp_of)


def numbers(args: Any) -> int:
    """How many numbers of its state each constraint and each variable has in the batches of a run."""
    return 2 * len(getattr(args, "seen_steps", None) or ())
