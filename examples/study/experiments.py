"""The experiments, each a function of an arm and a seed that returns numbers."""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data.batches import GraphBatch
from data.lp import LP
from data.solve import Solution
from jepa_adapter import GraphEncoder
from loop.paths import predict
from models import GNNPolicy
from report.measures import measure
from torch import Tensor, nn

import jepa_ssl
from jepa_ssl import BipartiteGraph
from jepa_ssl.evaluation import StillImproving, auc, checkpoint_scores, r2, train_until_it_stops
from jepa_ssl.integrations.pyg import bipartite_graph
from jepa_ssl.lp import SolverState, SparseLP, StateFeatures

from . import arms, lps, probe
from .lps import Labels
from .plan import ARMS, FAMILIES, FEW_BATCH, SEEN, STREAMS, Arm, Plan

EVALUATED = 64  # LPs in a batch at n = 20 when nothing is trained; fewer of larger ones
SUPERVISED_BATCH = 16


def probed(plan: Plan, folder: Path, name: str, seed: int, rounds: int | None = None) -> dict[str, Any]:
    """Size -> family -> labels -> scores of the frozen trunk, and the geometry of its features.

    `rounds`: how many it takes here, if not as many as in training.
    """
    policy, sees = arms.load(folder, name, seed), ARMS[name].sees_states
    if rounds is not None:
        trunk: Any = policy.trunk
        trunk.rounds = rounds
    return {
        str(n): {family: _probed_on(plan, policy, sees, family, n, seed) for family in FAMILIES} for n in plan.sizes
    }


def _probed_on(
    plan: Plan, policy: GNNPolicy | StateFeatures[BipartiteGraph], sees: bool, family: str, n: int, seed: int
) -> dict[str, Any]:
    roles = ("fresh_labelled", "fresh") if n == plan.fresh_size else ("labelled", "test")

    def read(count: int, role: str) -> tuple[Tensor, Tensor]:
        batches = lps.batched((family,), n, count, role, max(1, EVALUATED * 20 // n), sees)
        return probe.features(policy, batches) if isinstance(policy, GNNPolicy) else probe.states(batches, policy)

    def solved(count: int, role: str) -> tuple[list[LP], list[Solution]]:
        return lps.lps((family,), n, count, role), lps.optima((family,), n, count, role)

    most, test_lps = max(plan.labels[n]), plan.test_lps[n]
    truth, tested = Labels(*solved(test_lps, roles[1])), read(test_lps, roles[1])
    (c, v), (some, optima) = read(most, roles[0]), solved(most, roles[0])
    row, column = (np.cumsum([0, *sizes]) for sizes in ([lp.rows for lp in some], [lp.columns for lp in some]))
    found: dict[str, Any] = {"geometry": probe.geometry(*tested)}
    for count in plan.labels[n]:
        begin = _first_labelled(seed, count, most)
        labels = Labels(some[begin : begin + count], optima[begin : begin + count])
        known = c[row[begin] : row[begin + count]], v[column[begin] : column[begin + count]]
        found[str(count)] = probe.scores(known, labels, tested, truth)
    return found


def _first_labelled(seed: int, count: int, most: int) -> int:
    """The first of a seed's `count` labelled LPs: each seed has its own ones, as long as `most` are enough.

    >>> [_first_labelled(seed, 2, 5) for seed in range(3)]
    [0, 2, 0]
    """
    return seed * count % (most - most % count)


def probed_on_fresh(plan: Plan, folder: Path, name: str, seed: int) -> dict[str, Any]:
    """Family -> labels -> scores on LPs of a size and of seeds that nothing was chosen by.

    "shown_states" are those that are shown, without a network.
    """
    sees = name in ARMS and ARMS[name].sees_states
    read = arms.load(folder, name, seed) if name in ARMS else _states("shown")
    return {family: _probed_on(plan, read, sees, family, plan.fresh_size, seed) for family in FAMILIES}


def probed_states(plan: Plan, folder: Path, name: str, seed: int) -> dict[str, Any]:
    """The same scores without a network, of the states that are shown or of the one that is predicted."""
    show = _states(name)
    return {str(n): {family: _probed_on(plan, show, False, family, n, seed) for family in FAMILIES} for n in plan.sizes}


def _states(name: str) -> StateFeatures[BipartiteGraph]:
    steps, restart_every = ((300,), 100) if name == "predicted" else (SEEN, None)
    return StateFeatures(steps, restart_every=restart_every, lp_of=SparseLP.inequalities_of)


def scored(plan: Plan, folder: Path, name: str, seed: int) -> dict[str, Any]:
    """Stream -> label-free scores of a trunk, on LPs that it was not trained on; its views hide 30% of the nodes."""
    policy, sees = arms.load(folder, name, seed), ARMS[name].sees_states
    encoder, masker = GraphEncoder(policy), jepa_ssl.NodeMasker(0.3)
    generator, whole, masked = torch.Generator().manual_seed(0), [], [[], []]
    with torch.no_grad():
        for batch in lps.batched(FAMILIES, min(plan.sizes), 2 * EVALUATED, "validation", EVALUATED, sees):
            graph = bipartite_graph(batch.batch_graph)
            whole.append(encoder(graph).features)
            for view in masked:
                view.append(encoder(masker(graph, generator=generator).context).features)
    found: dict[str, Any] = {}
    for stream in STREAMS:
        z, *views = (torch.cat([part[stream] for part in parts]) for parts in (whole, *masked))
        found[stream] = checkpoint_scores(z, views)
    return found


def probed_on_files(plan: Plan, folder: Path, name: str, seed: int, paths: tuple[str, ...]) -> dict[str, Any]:
    """Of each real LP, AUC of active rows and of variables between bounds, by a probe that knows all the others."""
    some = lps.files(paths)
    policy, labels = arms.load(folder, name, seed), Labels(some, [lps.interior_optimum(lp) for lp in some])
    c, v = probe.features(policy, lps.graphs(some, 1, ARMS[name].sees_states))
    found: dict[str, Any] = {}
    for i, lp in enumerate(some):
        row, column = labels.row_owner == i, labels.column_owner == i
        active = probe.ridge(c[~row], labels.active[~row], labels.row_owner[~row], c[row])
        between = probe.ridge(v[~column], labels.between[~column], labels.column_owner[~column], v[column])
        found[lp.name] = {
            "auc": probe.auc(active, labels.active[row]),
            "between": probe.auc(between, labels.between[column]),
            "rows": lp.rows,
            "columns": lp.columns,
        }
    return found


def supervised(plan: Plan, folder: Path, name: str, seed: int, labelled: int) -> dict[str, Any]:
    """Family -> scores of a network trained on labelled LPs of one size from what the arm left, until it stops.

    It predicts x and which rows are active. Other labelled LPs, which are not counted, say when to stop.
    """
    return {family: _supervised_on(plan, folder, name, seed, labelled, family) for family in FAMILIES}


def _supervised_on(plan: Plan, folder: Path, name: str, seed: int, labelled: int, family: str) -> dict[str, float]:
    arm, n = ARMS[name], min(plan.sizes)
    policy, most = arms.load(folder, name, seed), max(plan.labels[n])
    heads = nn.ModuleList(nn.Linear(policy.embedding_size, 1) for _ in STREAMS)
    begin = _first_labelled(seed, labelled, most)
    rows = range(begin, begin + labelled)
    parts = [rows[i : i + SUPERVISED_BATCH] for i in range(0, labelled, SUPERVISED_BATCH)]
    batches = [_labelled(family, n, most, "labelled", part, arm.sees_states) for part in parts]
    held_out, test = (
        _labelled(family, n, count, role, range(count), arm.sees_states)
        for count, role in ((plan.validation_lps, "validation"), (plan.test_lps[n], "test"))
    )
    model = nn.ModuleList([policy.trunk, heads])
    steps = arms.finetuning(list(model.parameters()), lambda part: _supervised_loss(policy, heads, *part), batches)

    @torch.no_grad()
    def validate() -> float:
        return _supervised_loss(policy, heads, *held_out).item()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StillImproving)  # noted in what is returned
        stopped = train_until_it_stops(
            model, partial(next, steps), validate, every=25, patience=plan.patience, cap=plan.supervised_steps
        )
    with torch.no_grad():
        active, x = _outputs(policy, heads, test[0])
    truth = test[1]
    scores = {"r2": r2(x, truth.x), "auc": auc(active, truth.active)}
    return scores | {"steps": stopped.steps, "best_step": stopped.best_step, "hit_cap": stopped.hit_cap}


def _labelled(family: str, n: int, count: int, role: str, rows: Sequence[int], sees: bool) -> tuple[GraphBatch, Labels]:
    """Some of the labelled LPs as one batch, and what is known of them."""
    some, optima = lps.lps((family,), n, count, role), lps.optima((family,), n, count, role)
    chosen = [some[i] for i in rows]
    (batch,) = lps.graphs(chosen, len(chosen), sees)
    return batch, Labels(chosen, [optima[i] for i in rows])


def _outputs(policy: GNNPolicy, heads: nn.ModuleList, batch: GraphBatch) -> tuple[Tensor, Tensor]:
    g: Any = batch.batch_graph
    c, v = policy.encode(g.constraint_features, g.edge_index, g.edge_attr, g.variable_features)
    return heads[0](c).squeeze(-1), heads[1](v).squeeze(-1)


def _supervised_loss(policy: GNNPolicy, heads: nn.ModuleList, batch: GraphBatch, labels: Labels) -> Tensor:
    active, x = _outputs(policy, heads, batch)
    scale = labels.x.var() + 1e-6
    return (x - labels.x).square().mean() / scale + nn.functional.binary_cross_entropy_with_logits(
        active, labels.active
    )


def finetuned(plan: Plan, folder: Path, name: str, seed: int, n: int) -> dict[str, Any]:
    """Family -> KKT residual of test LPs while a few others are trained on, and what it ends at."""
    sees, found, count = ARMS[name].sees_states, {}, max(1, plan.test_lps[n] // 2)
    for family in FAMILIES:
        policy = arms.load(folder, name, seed)
        few = lps.batched((family,), n, plan.few_lps, "few", FEW_BATCH[n], sees)
        test = lps.batched((family,), n, count, "test", max(1, EVALUATED * 20 // n), sees)
        curve, seconds = arms.finetune(plan, policy, few, lambda policy=policy, test=test: residual(policy, test))
        found[family] = {"residual": curve, "seconds": seconds, **ends(policy, test, family, n, count)}
    return found


@torch.no_grad()
def residual(policy: GNNPolicy, test: Sequence[GraphBatch]) -> float:
    policy.eval()
    total = sum(arms.kkt(policy, batch).item() * len(batch.b) for batch in test)
    return total / sum(len(batch.b) for batch in test)


@torch.no_grad()
def ends(policy: GNNPolicy, test: Sequence[GraphBatch], family: str, n: int, count: int) -> dict[str, float]:
    """Mean objective gap and greatest violation of the points that a network predicts, in original units."""
    some, optima = lps.lps((family,), n, count, "test"), lps.optima((family,), n, count, "test")
    points = [(point, batch.A.shape[2]) for batch in test for point in predict(policy, batch).double().numpy()]
    found = []
    for lp, optimum, (point, width) in zip(some, optima, points, strict=True):
        scale = 1.0 if lp.scaling is None else lp.scaling.rhs * lp.scaling.objective
        x, lam = point[: lp.columns], point[width : width + lp.rows]
        found.append(measure(lp, x, lam, scale * optimum.objective))
    return {key: float(np.mean([one[key] for one in found])) for key in ("gap", "primal_max", "dual_max")}


def at_equal_compute(plan: Plan, folder: Path, name: str, seed: int) -> dict[str, Any]:
    """Size -> family -> what a network predicts whose heads were pretrained too: residual, gap, violation."""
    policy, sees = arms.load(folder, name, seed), ARMS[name].sees_states
    found: dict[str, Any] = {}
    for n in plan.sizes:
        for family in FAMILIES:
            count = plan.test_lps[n]
            test = lps.batched((family,), n, count, "test", max(1, EVALUATED * 20 // n), sees)
            values = {"residual": residual(policy, test), **ends(policy, test, family, n, count)}
            found.setdefault(str(n), {})[family] = values
    return found


def costs(plan: Plan) -> dict[str, float]:
    """The time of a pretraining step of each kind, that of KKT alone being 1, and of a batch's states; all in turn."""
    torch.set_num_threads(1)
    data = {sees: lps.batched(FAMILIES, 20, 64, "validation", arms.BATCH[20], sees) for sees in (False, True)}
    kinds = {
        ARMS[name].training: name for name in ARMS if ARMS[name].training not in ("none", "then", "joint", "multi")
    }
    steps = {kind: _endless(ARMS[name], kind, data[ARMS[name].sees_states]) for kind, name in kinds.items()}
    graph = bipartite_graph(data[False][0].batch_graph)
    show, target = StateFeatures(SEEN, lp_of=SparseLP.inequalities_of), SolverState(300, restart_every=100)
    timed: dict[str, Callable[[], Any]] = {kind: lambda step=step: next(step) for kind, step in steps.items()}
    timed |= {"states that are shown": lambda: show(graph)}
    timed |= {"states that are predicted": lambda: target.states(SparseLP.inequalities_of(graph))}
    times: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(24):
        for name, call in timed.items():
            begin = time.process_time()
            call()
            times[name].append(time.process_time() - begin)
    medians = {name: float(np.median(values[4:])) for name, values in times.items()}
    measured = {name: median / medians["kkt"] for name, median in medians.items()}
    return measured | {"then": (measured["later"] + 1) / 2, "seconds of a KKT step": medians["kkt"]}


def _endless(arm: Arm, kind: str, data: Sequence[GraphBatch]) -> Iterator[float]:
    policy = arms.build(arm, 0)
    encoder = GraphEncoder(policy)
    objective, loss_of = arms.term(policy, encoder, arm, kind, data, 0)
    parameters = [*policy.parameters(), *encoder.projector.parameters()]
    parameters += list(objective.parameters()) if objective else []
    losses = (lambda i=i: loss_of(i) for i in cycle(range(len(data))))
    return arms.optimise(parameters, losses, lambda _: 1.0, objective, encoder)
