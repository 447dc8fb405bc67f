"""The state that a solver reaches after a few steps, shown to an encoder beside the LP."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from jepa_ssl.instances import BipartiteGraph, FlatVectors
from jepa_ssl.lp.instances import DenseLP, SparseLP
from jepa_ssl.lp.layout import flatten_states, valid_entries
from jepa_ssl.lp.solver_state import KINDS, LIMIT, SolverState
from jepa_ssl.protocols import CONSTRAINT, VARIABLE

InstanceT = TypeVar("InstanceT", BipartiteGraph, FlatVectors)


class StateFeatures(Generic[InstanceT]):
    """Adds the state after a few PDHG steps to an LP's features, so that an encoder begins where the solver stands.

    After each number of steps a variable has its value x and its reduced cost, a constraint its multiplier and its
    slack, as in `SolverState`: `2 * len(steps)` further numbers each, squashed by asinh and within [-10, 10], 0 in the
    place of NaN. They are fitted to nothing, so an LP has the same ones in any batch and in any data set (bit for bit
    on a CPU). Computed from zero and without gradient; of a batch of small LPs, a hundred steps cost about a sixth of
    a training step of the example's GNN.

    With a later state as the target (`SolverState(300, restart_every=100)`) an encoder learns to go on from an early
    one; see `jepa_ssl.recipes`. Train and use it on what this returns, in your own loss too.

    Args:
        steps: after how many steps the state is shown, in rising order; several cost no more than the last.
        restart_every: restart the solver so often, see `SolverState`.
        lp_of: from an instance, as it was before, to its LPs: `SparseLP.inequalities_of` for a `BipartiteGraph` whose
            first features are b, c and the coefficient.

    >>> edges, ends = torch.tensor([[0, 0], [0, 1]]), torch.tensor([0, 1])
    >>> graph = BipartiteGraph(torch.ones(1, 3), edges, torch.ones(2, 1), torch.ones(2, 5), ends, 2 * ends)
    >>> show = StateFeatures((10, 30, 100), lp_of=SparseLP.inequalities_of)
    >>> seen = show(graph)
    >>> list(seen.constraint_features.shape), list(seen.variable_features.shape), show.numbers
    ([1, 9], [2, 11], 6)
    """

    def __init__(
        self,
        steps: int | Sequence[int] = (10, 30, 100),
        *,
        restart_every: int | None = None,
        lp_of: Callable[[InstanceT], SparseLP | DenseLP],
    ) -> None:
        self.solver: SolverState[Any] = SolverState(steps, restart_every=restart_every, lp_of=lp_of)

    @property
    def numbers(self) -> int:
        """How many features each constraint and each variable gains."""
        return 2 * len(self.solver.steps)

    def __call__(self, instance: InstanceT) -> InstanceT:
        """The instance with its state: further columns of a graph's node features, or further entries of flat vectors.

        To flat vectors `[batch, m * n + m + n]` are appended the numbers of the m constraints, one constraint after
        the other, then those of the n variables: `numbers * (m + n)` entries, real where their row or column is.

        Raises:
            TypeError: the instance is neither a `BipartiteGraph` nor `FlatVectors`, or `lp_of` returns no LP.
            ValueError: the LP is not of that instance: it has other rows or columns.
        """
        if not isinstance(instance, BipartiteGraph | FlatVectors):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"instance is a {type(instance).__name__}, but states can be added to a BipartiteGraph or to "
                f"FlatVectors; add what SolverState.states returns to other batches yourself."
            )
        lp = self.solver.lp(instance)
        states = {kind: _squashed(state) for kind, state in self.solver.states(lp).items()}
        if isinstance(instance, BipartiteGraph):
            return _on_nodes(instance, lp, states)
        return _on_entries(instance, lp, states)


def _squashed(state: Tensor) -> Tensor:
    return state.asinh().nan_to_num(0.0, LIMIT, -LIMIT).clamp(-LIMIT, LIMIT)


def _on_nodes(graph: BipartiteGraph, lp: SparseLP | DenseLP, states: dict[str, Tensor]) -> BipartiteGraph:
    if not isinstance(lp, SparseLP):
        raise TypeError("lp_of returned a DenseLP for a BipartiteGraph; let it return a SparseLP of the same nodes.")
    for kind in KINDS:
        if len(states[kind]) != len(graph.features(kind)):
            raise ValueError(
                f"lp_of returned LPs of {len(states[kind])} {kind}s for graphs of {len(graph.features(kind))}; let it "
                f"return the LPs of the same graphs."
            )
    wider = {kind: torch.cat((graph.features(kind), states[kind].to(graph.features(kind))), 1) for kind in KINDS}
    return replace(graph, constraint_features=wider[CONSTRAINT], variable_features=wider[VARIABLE])


def _on_entries(vectors: FlatVectors, lp: SparseLP | DenseLP, states: dict[str, Tensor]) -> FlatVectors:
    if not isinstance(lp, DenseLP):
        raise TypeError("lp_of returned a SparseLP for FlatVectors; let it return a DenseLP, DenseLP.of_vectors say.")
    entries = valid_entries(lp.mask_m, lp.mask_n)
    if vectors.values.shape != entries.shape:
        raise ValueError(
            f"instance is {list(vectors.values.shape)}, but its LPs take {list(entries.shape)} as flat vectors; give "
            f"the vectors as they are without states."
        )
    appended = flatten_states(states[CONSTRAINT], states[VARIABLE])
    return FlatVectors(
        torch.cat((vectors.values, appended.to(vectors.values)), 1),
        valid_entries(lp.mask_m, lp.mask_n, states[CONSTRAINT].size(2)),
    )
