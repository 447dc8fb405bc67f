"""Solver states as targets: the result of a few steps of a first-order method."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor

from jepa_ssl.checks import can_read_without_sync, whole_number
from jepa_ssl.lp.instances import DenseLP, SparseLP
from jepa_ssl.lp.layout import flatten_states
from jepa_ssl.lp.pdhg import Point, Problem, iterate, residuals
from jepa_ssl.lp.soundness import Soundness
from jepa_ssl.lp.statistics import KINDS, StateStatistics
from jepa_ssl.lp.stored import check_states
from jepa_ssl.protocols import CONSTRAINT, INSTANCE, VARIABLE, Views
from jepa_ssl.seeds import Randomness

InstanceT = TypeVar("InstanceT")


class SolverState(StateStatistics, Generic[InstanceT]):
    """View maker whose target is the standardised state of PDHG after `steps` steps.

    The context is the LP. The state of a variable is its value x and its reduced cost `c + A'lam`. The state of a
    constraint is its multiplier lam and its slack `b - Ax`. For h numbers of steps the target of a `SparseLP` is
    `{"constraint": [M, 2h], "variable": [N, 2h]}`, where each LP has the same weight. The target of a `DenseLP` is one
    vector per instance, `{"instance": [batch, 2h (m + n)]}`: the constraints' numbers, then the variables', 0 on
    padding. Every item counts as hidden, because the encoder sees no state. No gradient flows into a target.

    `fit` computes the mean and the deviation by which each number is standardised. They are buffers, saved with the
    module. Standardised numbers are clamped to [-10, 10]. Otherwise an infeasible or unbounded LP would dominate a
    batch, because its iterates grow linearly with the number of steps. NaN becomes 0, so all targets are finite. Leave
    infeasible and unbounded LPs out of `fit`.

    A state depends on its own LP only, not on the rest of the batch. On a CPU this holds bit for bit if padded LPs have
    the same padding. So you can compute states once with `states`, split them with `split_states`, store them with the
    LPs, and return them in `states_of`.

    PDHG starts from zero, so states follow these changes of the LP exactly:

    - a permutation of rows or columns;
    - the negation of a variable or an equality;
    - a scale of the objective, of right-hand sides with bounds, of all rows, or of all columns.

    The weight between primal and dual steps carries the scales. It is clamped to [1e-6, 1e6]. It needs a c, and a b or
    bounds, that are not 0. Rows and columns without coefficients do not follow a scale. A side that never binds, such
    as a bound of 1e10, does not slow the others down. A scale for each single row or column, a translation, or an added
    row or column changes the path to the solution.

    Source of the method: see `jepa_ssl.lp.pdhg`.

    Args:
        steps: take the state after this many steps, 100 or so. Several numbers, in rising order, cost no more than
            the last.
        restart_every: after this many steps, restart from the mean of the iterates since the last restart. Restarts
            reach accurate solutions sooner.
        lp_of: turns your batch into its LPs; not needed if the batch is a `SparseLP` or a `DenseLP`.
        states_of: returns the states that were stored with your batch, as `states` returned them.

    >>> from dataclasses import replace
    >>> from jepa_ssl.lp.instances import SparseLP
    >>> b, c, edges = torch.tensor([4.0]), torch.tensor([-2.0, -1.0]), torch.tensor([[0, 0], [0, 1]])
    >>> lp = SparseLP.inequalities(edges, torch.ones(2), b, c, torch.tensor([0, 1]), torch.tensor([0, 2]))
    >>> lp = replace(lp, lower=torch.zeros(2))  # min -2x - y  s.t.  x + y <= 4,  x and y at least 0
    >>> view = SolverState(steps=(10, 200))
    >>> view.states(lp)["variable"][:, 2:].round()  # x and reduced cost after 200 steps
    tensor([[4., 0.],
            [0., 1.]])
    >>> view.fit([lp])(lp).target["variable"].shape
    torch.Size([2, 4])
    """

    def __init__(
        self,
        steps: int | Sequence[int] = 100,
        *,
        restart_every: int | None = None,
        lp_of: Callable[[InstanceT], SparseLP | DenseLP] | None = None,
        states_of: Callable[[InstanceT], Mapping[str, Tensor]] | None = None,
    ) -> None:
        super().__init__(_rising(steps))
        if restart_every is not None:
            restart_every = whole_number("restart_every", restart_every, 1, "use None for no restarts.")
        self.restart_every = restart_every
        self.lp_of = lp_of
        self.states_of = states_of

    def forward(self, instance: InstanceT, *, generator: Randomness = None) -> Views[InstanceT, Any]:
        """The views of a batch. Nothing is drawn, so `generator` is not used.

        Raises:
            RuntimeError: there are no statistics yet.
            TypeError: `instance` is not a batch of LPs.
            ValueError: the tensors of the LPs do not fit each other.
        """
        if not self.fitted:
            raise RuntimeError(
                "SolverState has no statistics to standardise its targets with; before the first step call "
                "fit(batches) once on some training batches, which for an objective is objective.views.fit(batches), "
                "or load the state_dict of one that was fitted."
            )
        lp = self.lp(instance)
        states = self._states(instance, lp)
        target = {kind: self.standardised(states[kind], kind) for kind in KINDS}
        if isinstance(lp, DenseLP):
            # Stored states may hold anything on padding.
            constraint = torch.where(lp.mask_m.unsqueeze(-1), target[CONSTRAINT], 0)
            variable = torch.where(lp.mask_n.unsqueeze(-1), target[VARIABLE], 0)
            return Views(instance, {INSTANCE: flatten_states(constraint, variable)}, {INSTANCE: None})
        return Views(context=instance, target=target, hidden=dict.fromkeys(KINDS), weight=lp.equal_weights())

    def states(self, lp: SparseLP | DenseLP, *, start: Point | None = None) -> dict[str, Tensor]:
        """The states in the units of the LPs, not standardised; float64 if the LPs are, else float32.

        For a `SparseLP` `{"constraint": [M, 2h], "variable": [N, 2h]}`, for a `DenseLP` `[batch, m, 2h]` and
        `[batch, n, 2h]` with 0 on padding. Does not need `fit`.

        Args:
            start: x and lam to start from, shaped as c and b; they are moved into the bounds first. Zeros by default.

        Raises:
            ValueError: the tensors of the LPs, or of `start`, do not fit each other.
        """
        if isinstance(lp, SparseLP) and can_read_without_sync(lp.edge_index):
            lp.check_wiring()
        problem = Problem.of(lp)
        begin = problem.zero() if start is None else _given(problem, start)
        constraint: list[Tensor] = []
        variable: list[Tensor] = []
        for x, lam in iterate(problem, self.steps, begin, restart_every=self.restart_every):
            reduced_cost, slack = residuals(problem, (x, lam))
            constraint += [lam, slack]
            variable += [x, reduced_cost]
        return {CONSTRAINT: torch.stack(constraint, -1), VARIABLE: torch.stack(variable, -1)}

    @torch.no_grad()
    def fit(self, instances: Iterable[InstanceT]) -> "SolverState[InstanceT]":
        """Compute the mean and the deviation of each number over some batches; replaces earlier statistics.

        A few hundred LPs of the training set are enough. A number that is the same everywhere is not divided by its
        deviation. Waits for the device.

        Warns if the LPs look wrong, namely if their bounds solve all of them. That happens if `lp_of` takes min-max
        scaled features for b and c. `jepa_ssl.testing.check_lp` compares them with yours. Also warns if the sides or
        costs of one LP differ so much that its state may be far from its solution. Also warns if PDHG diverges on an LP
        of the first batch: its solution lies on bounds that are out of reach, such as 1e6.

        Raises:
            ValueError: there is no batch, a batch has invalid numbers, or a state is not finite. Or numbers that matter
                in one LP differ by more than the precision of its type.
        """
        soundness = Soundness()
        self.compute(self._checked_states(instance, soundness) for instance in instances)
        soundness.warn()
        return self

    def lp(self, instance: InstanceT) -> SparseLP | DenseLP:
        """The LPs of a batch; raises a TypeError if there are none."""
        lp = cast(SparseLP | DenseLP, instance) if self.lp_of is None else self.lp_of(instance)
        if not isinstance(lp, SparseLP | DenseLP):  # pyright: ignore[reportUnnecessaryIsInstance]
            origin = "instance is" if self.lp_of is None else "lp_of returned"
            raise TypeError(
                f"{origin} a {type(lp).__name__}, but a SparseLP or a DenseLP is needed; "
                f"pass lp_of=a function that makes one from your batch."
            )
        return lp

    def _states(self, instance: InstanceT, lp: SparseLP | DenseLP) -> Mapping[str, Tensor]:
        if self.states_of is None:
            return self.states(lp)
        states = self.states_of(instance)
        check_states("what states_of returned", states, lp, 2 * len(self.steps))
        return states

    def _checked_states(self, instance: InstanceT, soundness: Soundness) -> Mapping[str, Tensor]:
        lp = self.lp(instance).check_values()
        states = self._states(instance, lp)
        soundness.add(lp, states, self.steps[-1])
        if isinstance(lp, DenseLP):
            return {CONSTRAINT: states[CONSTRAINT][lp.mask_m], VARIABLE: states[VARIABLE][lp.mask_n]}
        return states


def _rising(steps: int | Sequence[int]) -> tuple[int, ...]:
    usual = "100 is usual, or (10, 100)."
    each = steps if isinstance(steps, Iterable) else (steps,)
    rising = tuple(whole_number("steps", step, 1, usual) for step in each)
    if not rising or any(later <= step for step, later in pairwise(rising)):
        raise ValueError(f"steps is {steps}, but must be numbers, each larger than the one before; {usual}")
    return rising


def _given(problem: Problem, start: Point) -> Point:
    if len(start) != 2:
        raise ValueError(f"start has {len(start)} parts, but must be (x, lam), shaped as c and b; give these two.")
    for name, given, like in zip(("x", "lam"), start, (problem.c, problem.b), strict=True):
        if given.shape != like.shape:
            raise ValueError(
                f"start's {name} is {list(given.shape)}, but the LPs need {list(like.shape)}; give (x, lam), shaped "
                f"as c and b."
            )
    return problem.projected((start[0].to(problem.c), start[1].to(problem.b)))
