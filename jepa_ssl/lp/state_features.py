"""Early solver states as features of an LP."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from jepa_ssl.instances import BipartiteGraph, FlatVectors
from jepa_ssl.lp.instances import DenseLP, SparseLP
from jepa_ssl.lp.layout import flatten_states, valid_entries
from jepa_ssl.lp.solver_state import SolverState
from jepa_ssl.lp.soundness import Soundness
from jepa_ssl.lp.statistics import KINDS, LIMIT
from jepa_ssl.protocols import CONSTRAINT, VARIABLE

InstanceT = TypeVar("InstanceT", BipartiteGraph, FlatVectors)
FormT = TypeVar("FormT", SparseLP, DenseLP)


class StateFeatures(Generic[InstanceT]):
    """Append the state after a few PDHG steps to an LP's features.

    For each number of steps a variable gains its value x and its reduced cost, as in `SolverState`. A constraint gains
    its multiplier and its slack. So each gains `2 * len(steps)` numbers. They are squashed by asinh and clamped to
    [-10, 10], and NaN becomes 0. They need no statistics, so each LP has the same ones in any batch and any data set
    (bit for bit on a CPU). PDHG starts from zero, and no gradient flows. For a batch of small LPs, a hundred steps cost
    about a sixth of a training step of the example's GNN.

    With a later state as the target, for example `SolverState(300, restart_every=100)`, an encoder learns to continue
    from an early one; see `jepa_ssl.recipes`. Use the returned instances in your own loss too.

    The first call warns, as `SolverState.fit` does, if its LPs look wrong. Later calls check nothing, so build one
    `StateFeatures` and keep it.

    Args:
        steps: append the states after these numbers of steps, in rising order. Several cost no more than the last.
        restart_every: as in `SolverState`.
        lp_of: turns an instance without states into its LPs: `SparseLP.inequalities_of` for a `BipartiteGraph` whose
            first features are b, c and the coefficient.

    >>> edges, ends = torch.tensor([[0, 0], [0, 1]]), torch.tensor([0, 1])
    >>> graph = BipartiteGraph(torch.ones(1, 3), edges, torch.ones(2, 1), -torch.ones(2, 5), ends, 2 * ends)
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
        self._checked = False

    @property
    def numbers(self) -> int:
        """How many features each constraint and each variable gains."""
        return 2 * len(self.solver.steps)

    def __call__(self, instance: InstanceT) -> InstanceT:
        """The instance with its states: more node features of a graph, or more entries of flat vectors.

        Flat vectors `[batch, m * n + m + n]` gain `numbers * (m + n)` entries. The numbers of the m constraints come
        first, constraint by constraint, then those of the n variables. An entry is real if its row or column is.

        Raises:
            TypeError: the instance is neither a `BipartiteGraph` nor `FlatVectors`, or `lp_of` does not return LPs.
            ValueError: the LPs' numbers of rows and columns are not those of the instance.
        """
        if not isinstance(instance, BipartiteGraph | FlatVectors):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"instance is a {type(instance).__name__}, but states can be added to a BipartiteGraph or to "
                f"FlatVectors; for PyG data use jepa_ssl.integrations.pyg.PyGLPs(...).show(steps), and add what "
                f"SolverState.states returns to other batches yourself."
            )
        lp = self.solver.lp(instance)
        raw = self.solver.states(lp)
        self._check_once(lp, raw)
        states = {kind: _squashed(state) for kind, state in raw.items()}
        if isinstance(instance, BipartiteGraph):
            _check_form(lp, SparseLP, instance)
            return _on_nodes(instance, states)
        return _on_entries(instance, _check_form(lp, DenseLP, instance), states)

    def _check_once(self, lp: SparseLP | DenseLP, states: dict[str, Tensor]) -> None:
        """Warn about the first batch. Later ones are not looked at, because looking waits for the device."""
        if self._checked or torch.compiler.is_compiling() or lp.b.is_meta:
            return
        self._checked, soundness = True, Soundness(refuse=False)
        soundness.add(lp, states, self.solver.steps[-1])
        soundness.warn()


def _check_form(lp: SparseLP | DenseLP, form: type[FormT], instance: BipartiteGraph | FlatVectors) -> FormT:
    if not isinstance(lp, form):
        raise TypeError(
            f"lp_of returned a {type(lp).__name__} for a {type(instance).__name__}, but must return a {form.__name__} "
            f"of the same rows and columns; use SparseLP.inequalities_of or DenseLP.of_vectors, for example."
        )
    return lp


def _squashed(state: Tensor) -> Tensor:
    return state.asinh().nan_to_num(0.0, LIMIT, -LIMIT).clamp(-LIMIT, LIMIT)


def _on_nodes(graph: BipartiteGraph, states: dict[str, Tensor]) -> BipartiteGraph:
    nodes = {CONSTRAINT: graph.constraint_features, VARIABLE: graph.variable_features}
    for kind in KINDS:
        if len(states[kind]) != len(nodes[kind]):
            raise ValueError(
                f"lp_of returned LPs of {len(states[kind])} {kind}s for graphs of {len(nodes[kind])}, but must return "
                f"as many; return the LPs of the same graphs."
            )
    constraint, variable = (torch.cat([nodes[kind], states[kind].to(nodes[kind])], dim=1) for kind in KINDS)
    ends = graph.constraint_offsets, graph.variable_offsets
    return BipartiteGraph(constraint, graph.edge_index, graph.edge_attr, variable, *ends)


def _on_entries(vectors: FlatVectors, lp: DenseLP, states: dict[str, Tensor]) -> FlatVectors:
    appended = flatten_states(states[CONSTRAINT], states[VARIABLE])
    valid = valid_entries(lp.mask_m, lp.mask_n, numbers=states[CONSTRAINT].size(2))
    expected = [len(valid), valid.size(1) - appended.size(1)]
    if list(vectors.values.shape) != expected:
        raise ValueError(
            f"instance is {list(vectors.values.shape)}, but its LPs take {expected} as flat vectors; give the vectors "
            f"without states."
        )
    return FlatVectors(torch.cat((vectors.values, appended.to(vectors.values)), 1), valid)
