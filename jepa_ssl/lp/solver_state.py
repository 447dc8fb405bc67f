"""Solver states as targets: what a few steps of a first-order method make of an LP."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from jepa_ssl.checks import can_read_without_sync, non_negative, whole_number
from jepa_ssl.lp.axes import DenseAxis, SparseAxis
from jepa_ssl.lp.checks import check_shapes, check_values, check_wiring
from jepa_ssl.lp.instances import DenseLP, SparseLP
from jepa_ssl.lp.layout import flatten_states
from jepa_ssl.lp.pdhg import Point, Problem, iterate, residuals
from jepa_ssl.protocols import CONSTRAINT, INSTANCE, VARIABLE, Views
from jepa_ssl.seeds import Randomness, check_randomness, normal_like

InstanceT = TypeVar("InstanceT")

KINDS = (CONSTRAINT, VARIABLE)
LIMIT = 10.0  # standard deviations


class SolverState(nn.Module, Generic[InstanceT]):
    """Context: the LP as it is. Target: the state that PDHG reaches from it after `steps` steps, standardised.

    After each number of steps in turn, a variable has its value x and its reduced cost `c + A'lam`, a constraint its
    multiplier lam and its slack `b - Ax`. For h numbers of steps the target of a `SparseLP` is `{"constraint": [M,
    2h], "variable": [N, 2h]}`, each graph weighing the same; that of a `DenseLP` is one vector an instance,
    `{"instance": [batch, 2h (m + n)]}`, the constraints' numbers before the variables', 0 on padding. Everything is
    hidden: the encoder sees an LP, and never a state. No gradient flows into a target.

    Each of the 2h numbers of a kind is standardised by its mean and deviation over all items of the instances given to
    `fit`; these are buffers, saved with the module. Standardised numbers are clamped to [-10, 10]: the iterates of an
    infeasible or unbounded LP grow with the number of steps, linearly, and should not outvote a batch. NaN, of an LP
    that is or has overflowed, becomes 0, so that all targets are finite. Leave such LPs out of `fit`.

    States depend on an LP alone, not on its neighbours in a batch (bit for bit on a CPU, padded LPs padded alike), so
    they can be computed once with `states`, cut up with `split_states`, stored with the LPs, and handed back by
    `states_of`.

    From zero, exactly: permuting rows or columns permutes the state; scaling the objective scales multipliers and
    reduced costs and nothing else; scaling right-hand sides and bounds scales x and slacks and nothing else; one scale
    for all rows, or for all columns, carries over too, and so does the negation of a variable or an equality. The
    scales need something to be seen in: the weight max|c| / max|b| between primal and dual steps, where bounds stand in
    for a b of 0, within [1e-6, 1e6] before and after (it is clamped there), one scale for all columns a c that is not
    0, and rows and columns without coefficients follow none. A scale for each single row or column, a translation, a
    row or a column more change the way to the solution.

    Source of the method: see `jepa_ssl.lp.pdhg`.

    Args:
        steps: after how many steps the state is taken, 100 or so; several, in rising order, cost no more than the
            last.
        average: take the mean of the iterates since the last restart instead of the last iterate.
        restart_every: restart from that mean after so many steps, which finds accurate solutions sooner.
        rebalance: at each restart move the weight between primal and dual steps. For tens of thousands of steps with
            restarts a thousand apart, which then solve most real LPs; over a few hundred it does harm.
        start_scale: deviation of the normal numbers that x and lam start from, drawn anew at each call; 0 is the
            start from zero. The draw is one for the batch, unless `Seeds` take the generator's place and make it one
            for each LP: only states from zero are good for a cache.
        lp_of: from your batch to its LPs; not needed if it is a `SparseLP` or a `DenseLP`.
        states_of: from your batch to the states stored with it, as `states` returned them, if it has any.

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

    items: Tensor  # how many constraints and variables the statistics are of, int64 [2]; 0 before `fit`
    horizons: Tensor  # `steps`, int64 [h], so that statistics are not loaded for others

    def __init__(
        self,
        steps: int | Sequence[int] = 100,
        *,
        average: bool = False,
        restart_every: int | None = None,
        rebalance: bool = False,
        start_scale: float = 0.0,
        lp_of: Callable[[InstanceT], SparseLP | DenseLP] | None = None,
        states_of: Callable[[InstanceT], Mapping[str, Tensor]] | None = None,
    ) -> None:
        super().__init__()
        usual = "100 is usual, or (10, 100)."
        each = steps if isinstance(steps, Iterable) else (steps,)
        self.steps = tuple(whole_number("steps", step, 1, usual) for step in each)
        if not self.steps or any(later <= step for step, later in pairwise(self.steps)):
            raise ValueError(f"steps is {steps}, but must be numbers, each larger than the one before; {usual}")
        if restart_every is not None:
            restart_every = whole_number("restart_every", restart_every, 1, "use None for no restarts.")
        elif rebalance:
            raise ValueError("rebalance is True, but happens at restarts; set restart_every too, 1000 is usual.")
        self.average = average
        self.restart_every = restart_every
        self.rebalance = rebalance
        self.start_scale = non_negative("start_scale", start_scale)
        if self.start_scale and states_of is not None:
            raise ValueError(
                f"start_scale is {start_scale}, but must be 0 with states_of, for states that are stored do not start "
                f"anew; leave one of the two out."
            )
        self.lp_of = lp_of
        self.states_of = states_of
        self.fitted = False
        numbers = 2 * len(self.steps)
        for kind in KINDS:
            self.register_buffer(f"{kind}_mean", torch.zeros(numbers))
            self.register_buffer(f"{kind}_std", torch.ones(numbers))
        self.register_buffer("items", torch.zeros(2, dtype=torch.int64))
        self.register_buffer("horizons", torch.tensor(self.steps))
        self.register_load_state_dict_pre_hook(_before_loading)  # pyright: ignore[reportUnknownMemberType]
        self.register_load_state_dict_post_hook(_after_loading)  # pyright: ignore[reportUnknownMemberType]

    def forward(self, instance: InstanceT, *, generator: Randomness = None) -> Views[InstanceT, Any]:
        """The views of a batch.

        Raises:
            RuntimeError: there are no statistics yet.
            TypeError, ValueError: `instance` is no LP, or its tensors do not fit each other.
        """
        if not self.fitted:
            raise RuntimeError(
                "SolverState has no statistics to standardise its targets with; call fit(batches) once on training "
                "batches, or load the state_dict of one that was fitted."
            )
        lp = self.lp(instance)
        states = self._states(instance, lp, generator)
        target = {kind: self._standardised(states[kind], kind) for kind in KINDS}
        if isinstance(lp, DenseLP):
            masks = (lp.mask_m, lp.mask_n)
            # What was stored may hold anything on its padding.
            real = [torch.where(mask.unsqueeze(-1), target[k], 0) for k, mask in zip(KINDS, masks, strict=True)]
            return Views(instance, {INSTANCE: flatten_states(*real)}, {INSTANCE: None})
        return Views(context=instance, target=target, hidden=dict.fromkeys(KINDS), weight=lp.equal_weights())

    def states(
        self, lp: SparseLP | DenseLP, *, start: Point | None = None, generator: Randomness = None
    ) -> dict[str, Tensor]:
        """The states as they are, in the units of the LP: float64 if the LP is, else float32.

        For a `SparseLP` `{"constraint": [M, 2h], "variable": [N, 2h]}`, for a `DenseLP` `[batch, m, 2h]` and `[batch,
        n, 2h]` with 0 on padding. Before `fit` as after.

        Args:
            start: x and lam to start from, shaped as c and b, moved into the bounds first.
            generator: draws the start if `start_scale` is not 0.
        """
        check_shapes(lp)
        if isinstance(lp, SparseLP) and can_read_without_sync(lp.edge_index):
            check_wiring(lp)
        problem = Problem.of(lp)
        begin = self._start(problem, generator) if start is None else _given(problem, start)
        points = iterate(
            problem,
            self.steps,
            begin,
            average=self.average,
            restart_every=self.restart_every,
            rebalance=self.rebalance,
        )
        constraint: list[Tensor] = []
        variable: list[Tensor] = []
        for x, lam in points:
            reduced_cost, slack = residuals(problem, (x, lam))
            constraint += [lam, slack]
            variable += [x, reduced_cost]
        return {CONSTRAINT: torch.stack(constraint, -1), VARIABLE: torch.stack(variable, -1)}

    @torch.no_grad()
    def fit(
        self, instances: Iterable[InstanceT], *, generator: torch.Generator | None = None
    ) -> "SolverState[InstanceT]":
        """Takes the mean and the deviation of each number over all rows, and columns, of some batches; anew each time.

        A few hundred LPs of the training set are plenty. Reads values, and so waits for the device. A number that is
        the same everywhere is not divided by its deviation.

        Raises:
            ValueError: there is no batch, a batch's numbers are not in order, or a state is not finite.
        """
        moments = {kind: _Moments(2 * len(self.steps)) for kind in KINDS}
        for instance in instances:
            lp = self.lp(instance)
            check_values(lp)
            for kind, states in _real(lp, self._states(instance, lp, generator)).items():
                moments[kind].add(states)
        if not moments[VARIABLE].count:
            raise ValueError("instances has no LP with a variable; give fit some batches of training instances.")
        for i, kind in enumerate(KINDS):
            if not bool(moments[kind].mean.isfinite().all() & moments[kind].squares.isfinite().all()):
                raise ValueError(
                    f"instances leads to {kind} states that are not finite; rescale the LPs so that their coefficients "
                    f"are near 1, or take fewer steps."
                )
            mean, std = moments[kind].mean, moments[kind].deviation()
            self.get_buffer(f"{kind}_mean").copy_(mean)
            self.get_buffer(f"{kind}_std").copy_(torch.where(std > 1e-6 * mean.abs(), std, 1))
            self.items[i] = moments[kind].count
        self.fitted = True
        return self

    def lp(self, instance: InstanceT) -> SparseLP | DenseLP:
        """The LPs of a batch; raises a TypeError if there are none."""
        lp = cast(SparseLP | DenseLP, instance) if self.lp_of is None else self.lp_of(instance)
        if not isinstance(lp, SparseLP | DenseLP):  # pyright: ignore[reportUnnecessaryIsInstance]
            origin = "instance is" if self.lp_of is None else "lp_of returned"
            raise TypeError(
                f"{origin} a {type(lp).__name__}, but a SparseLP or a DenseLP is needed; "
                f"pass lp_of=a function that makes one of your batch."
            )
        return lp

    def _states(self, instance: InstanceT, lp: SparseLP | DenseLP, generator: Randomness) -> Mapping[str, Tensor]:
        if self.states_of is None:
            return self.states(lp, generator=generator)
        states = self.states_of(instance)
        if missing := [kind for kind in KINDS if kind not in states]:
            raise ValueError(
                f"states_of returned {list(states)}, but {' and '.join(missing)} states are needed too; store what "
                f"`states` or `split_states` returned."
            )
        for kind, per_item in ((CONSTRAINT, lp.b), (VARIABLE, lp.c)):
            expected = [*per_item.shape, 2 * len(self.steps)]
            if list(states[kind].shape) != expected:
                raise ValueError(
                    f"states_of returned {kind} states of shape {list(states[kind].shape)}, but {expected} is needed "
                    f"for these LPs and steps={self.steps}; compute and store the states anew."
                )
        return states

    def _start(self, problem: Problem, generator: Randomness) -> Point:
        check_randomness(generator, problem.columns.lps, problem.c.device)
        if not self.start_scale:
            return problem.zero()
        x = normal_like(problem.c, generator, lambda: _owner(problem.columns))
        lam = normal_like(problem.b, generator, lambda: _owner(problem.rows))
        return problem.projected((self.start_scale * x, self.start_scale * lam))

    def _standardised(self, states: Tensor, kind: str) -> Tensor:
        mean, std = (self.get_buffer(f"{kind}_{name}").to(states.dtype) for name in ("mean", "std"))
        # A clamp alone lets NaN through.
        return ((states - mean) / std).nan_to_num(0.0, LIMIT, -LIMIT).clamp(-LIMIT, LIMIT)


def split_states(lp: SparseLP | DenseLP, states: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The states of each LP by itself, `[rows, 2h]` and `[columns, 2h]` without padding, to be stored with it.

    `torch.cat` puts the states of a `SparseLP` together again. Waits for the device.

    Raises:
        ValueError: a kind is missing, or has other items than the LPs.
    """
    check_shapes(lp)
    for kind, per_item in ((CONSTRAINT, lp.b), (VARIABLE, lp.c)):
        if kind not in states or states[kind].shape[:-1] != per_item.shape:
            found = list(states[kind].shape) if kind in states else "missing"
            raise ValueError(
                f"states[{kind!r}] is {found}, but must be {list(per_item.shape)} and the numbers of each; give what "
                f"`states` returned for these LPs."
            )
    if isinstance(lp, DenseLP):
        masks = {CONSTRAINT: lp.mask_m, VARIABLE: lp.mask_n}
        return [{kind: states[kind][i][masks[kind][i]] for kind in KINDS} for i in range(len(lp.c))]
    offsets = {CONSTRAINT: lp.constraint_offsets, VARIABLE: lp.variable_offsets}
    pieces = [states[kind].tensor_split(offsets[kind][1:-1].cpu()) for kind in KINDS]
    # Clones, for a piece that is stored should not keep its batch alive.
    return [
        {kind: piece.clone() for kind, piece in zip(KINDS, of_one, strict=True)} for of_one in zip(*pieces, strict=True)
    ]


class _Moments:
    """Mean and deviation of rows that come in batches: Chan, Golub and LeVeque 1979, in float64 on the host."""

    def __init__(self, numbers: int) -> None:
        self.count = 0
        self.mean = torch.zeros(numbers, dtype=torch.float64)
        self.squares = torch.zeros(numbers, dtype=torch.float64)  # sum of squared deviations

    def add(self, rows: Tensor) -> None:
        if not len(rows):
            return
        rows = rows.detach().cpu().double()
        mean = rows.mean(0)
        total = self.count + len(rows)
        self.squares += (rows - mean).square().sum(0) + (mean - self.mean).square() * self.count * len(rows) / total
        self.mean += (mean - self.mean) * len(rows) / total
        self.count = total

    def deviation(self) -> Tensor:
        return (self.squares / max(self.count, 1)).sqrt()


def _real(lp: SparseLP | DenseLP, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The states of all rows and all columns, `[items, 2h]`, padding left out."""
    if isinstance(lp, DenseLP):
        return {CONSTRAINT: states[CONSTRAINT][lp.mask_m], VARIABLE: states[VARIABLE][lp.mask_n]}
    return {kind: states[kind] for kind in KINDS}


def _owner(axis: DenseAxis | SparseAxis) -> Tensor:
    """The LP that each row of a vector over the axis belongs to."""
    return axis.owner if isinstance(axis, SparseAxis) else torch.arange(axis.lps, device=axis.real.device)


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


def _before_loading(module: nn.Module, state_dict: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """Statistics of other steps are refused before any is copied."""
    view = cast(SolverState[Any], module)
    horizons = state_dict.get(f"{prefix}horizons")
    saved = view.steps if horizons is None else tuple(int(step) for step in horizons)
    if saved != view.steps:
        raise ValueError(
            f"the statistics in the state_dict are of steps={saved}, but this SolverState takes {view.steps}; build it "
            f"with the same steps, or call fit."
        )


def _after_loading(module: nn.Module, _: Any) -> None:
    """Statistics came with the state_dict; whether they are there is asked once, here, and not at each batch."""
    view = cast(SolverState[Any], module)
    view.fitted = bool(view.items[1] > 0)
