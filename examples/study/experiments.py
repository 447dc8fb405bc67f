"""The experiments, each a function of an arm and a seed that returns numbers."""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data.batches import GraphBatch
from data.lp import LP
from data.solve import Solution, solve
from jepa_adapter import GraphEncoder
from loop.paths import predict
from models import GNNPolicy
from report.measures import measure
from torch import Tensor, nn

from jepa_ssl import BipartiteGraph
from jepa_ssl.freezing import freeze
from jepa_ssl.integrations.pyg import bipartite_graph
from jepa_ssl.lp import SolverState, SparseLP, StateFeatures

from . import arms, lps, probe
from .lps import Labels
from .plan import ARMS, FAMILIES, FEW_BATCH, SEEN, Arm, Plan

EVALUATED = 64  # LPs in a batch at n = 20 when nothing is trained; fewer of larger ones


def probed(plan: Plan, folder: Path, name: str, seed: int) -> dict[str, Any]:
    """Size -> family -> labels -> scores of the frozen trunk, and the geometry of its features."""
    policy, sees = arms.load(folder, name, seed), ARMS[name].sees_states
    return {
        str(n): {family: _probed_on(plan, policy, sees, family, n, seed) for family in FAMILIES} for n in plan.sizes
    }


def _probed_on(
    plan: Plan, policy: GNNPolicy | StateFeatures[BipartiteGraph], sees: bool, family: str, n: int, seed: int
) -> dict[str, Any]:
    def read(count: int, role: str) -> tuple[Tensor, Tensor]:
        batches = lps.batched((family,), n, count, role, max(1, EVALUATED * 20 // n), sees)
        return probe.features(policy, batches) if isinstance(policy, GNNPolicy) else probe.states(batches, policy)

    def solved(count: int, role: str) -> tuple[list[LP], list[Solution]]:
        return lps.lps((family,), n, count, role), lps.optima((family,), n, count, role)

    counts = plan.labels[n]
    truth, tested = Labels(*solved(plan.test_lps[n], "test")), read(plan.test_lps[n], "test")
    (c, v), (some, optima) = read(max(counts), "labelled"), solved(max(counts), "labelled")
    row, column = (np.cumsum([0, *sizes]) for sizes in ([lp.rows for lp in some], [lp.columns for lp in some]))
    found: dict[str, Any] = {"geometry": probe.geometry(*tested)}
    for count in counts:
        # Each seed has labelled LPs of its own, as long as there are enough.
        begin = seed * count % (max(counts) - max(counts) % count)
        labels = Labels(some[begin : begin + count], optima[begin : begin + count])
        known = c[row[begin] : row[begin + count]], v[column[begin] : column[begin + count]]
        found[str(count)] = probe.scores(known, labels, tested, truth)
    return found


def probed_states(plan: Plan, folder: Path, name: str, seed: int) -> dict[str, Any]:
    """The same scores without a network, of the states that are shown or of the one that is predicted."""
    steps, restart_every = ((300,), 100) if name == "predicted" else (SEEN, None)
    show = StateFeatures(steps, restart_every=restart_every, lp_of=SparseLP.inequalities_of)
    return {str(n): {family: _probed_on(plan, show, False, family, n, seed) for family in FAMILIES} for n in plan.sizes}


def ceilings(plan: Plan, folder: Path) -> dict[str, Any]:
    """How well one optimum predicts another: the simplex method's corner as a prediction of the labels."""
    found: dict[str, Any] = {}
    for n in plan.sizes:
        for family in FAMILIES:
            some = lps.lps((family,), n, plan.test_lps[n], "test")
            truth = Labels(some, lps.optima((family,), n, plan.test_lps[n], "test"))
            corners = [solve(lp) for lp in some]
            x = torch.tensor(np.concatenate([corner.x for corner in corners]), dtype=torch.float32)
            apart = (x - truth.x).abs() > 1e-4
            ties = len(set(truth.column_owner[apart].tolist())) / len(some)
            found.setdefault(str(n), {})[family] = {
                "r2": probe.r2(x, truth.x),
                "several_optima": ties,
                "rows": float(np.mean([lp.rows for lp in some])),
            }
    return found


def probed_unseen(plan: Plan, folder: Path, name: str, seed: int, family: str) -> dict[str, Any]:
    """Pretrains without one family, and probes on that one at the smallest size."""
    others = tuple(other for other in FAMILIES if other != family)
    record = arms.pretrain(plan, folder, name, seed, others)
    policy = arms.build(ARMS[name], seed)
    arms.load_encoder(policy, arms.weights_file(folder, arms.left_out_name(name, others), seed))
    return record | _probed_on(plan, policy, ARMS[name].sees_states, family, plan.sizes[0], seed)


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
    """Family -> scores of a whole network trained on the labels; the step that does best on a fifth of them is kept."""
    return {family: _supervised_on(plan, ARMS[name], seed, labelled, family) for family in FAMILIES}


def _supervised_on(plan: Plan, arm: Arm, seed: int, labelled: int, family: str) -> dict[str, float]:
    n, steps = plan.sizes[0], plan.supervised_steps
    policy = arms.build(arm, seed)
    heads = nn.ModuleList([nn.Linear(arms.DIM, 1), nn.Linear(arms.DIM, 1)])
    kept = [i for i in range(labelled) if i % 5]
    batches = [
        _labelled(family, n, labelled, "labelled", kept[j : j + 16], arm.sees_states) for j in range(0, len(kept), 16)
    ]
    held_out = _labelled(family, n, labelled, "labelled", list(range(0, labelled, 5)), arm.sees_states)
    count = plan.test_lps[n]
    test_batch, truth = _labelled(family, n, count, "test", list(range(count)), arm.sees_states)

    def loss(part: tuple[GraphBatch, Labels]) -> Callable[[], Tensor]:
        return lambda: _supervised_loss(policy, heads, *part)

    trained = arms.optimise(
        [*policy.trunk.parameters(), *heads.parameters()], map(loss, islice(cycle(batches), steps)), steps
    )
    least, best = float("inf"), {"r2": float("nan"), "auc": float("nan")}
    for step, _ in enumerate(trained, 1):
        if step % 20 == 0 or step == steps:
            with torch.no_grad():
                error = loss(held_out)().item()
                if error < least:
                    active, x = _outputs(policy, heads, test_batch)
                    least, best = error, {"r2": probe.r2(x, truth.x), "auc": probe.auc(active, truth.active)}
    return best


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


def finetuned(plan: Plan, folder: Path, name: str, seed: int, n: int, frozen: bool, few_lps: int) -> dict[str, Any]:
    """Family -> KKT residual of test LPs while a few others are trained on, and what it ends at."""
    return {family: _finetuned_on(plan, folder, name, seed, n, frozen, few_lps, family) for family in FAMILIES}


def _finetuned_on(
    plan: Plan, folder: Path, name: str, seed: int, n: int, frozen: bool, few_lps: int, family: str
) -> dict[str, Any]:
    policy, sees = arms.load(folder, name, seed), ARMS[name].sees_states
    if frozen:
        freeze(policy.trunk)
    few = lps.batched((family,), n, few_lps, "few", FEW_BATCH[n], sees)
    count = max(1, plan.test_lps[n] // 2)
    test = lps.batched((family,), n, count, "test", max(1, EVALUATED * 20 // n), sees)
    curve, seconds = arms.finetune(plan, policy, few, lambda: residual(policy, test))
    return {"residual": curve, "seconds": seconds, **ends(policy, test, family, n, count)}


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
    kinds = {ARMS[name].training: name for name in ("ema", "simsiam", "state", "later", "joint", "kkt")}
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
    return arms.optimise(parameters, losses, 10**6, objective, encoder)
