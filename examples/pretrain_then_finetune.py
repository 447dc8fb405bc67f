"""Pretrain a trunk without labels, export and load it; compare frozen, fine-tuned and from scratch.

python examples/pretrain_then_finetune.py [--folder pretrain_then_finetune] [--seeds 2]

A GNN is trained on the KKT (Karush-Kuhn-Tucker) residual of a few LPs, and measured on others. It starts from scratch,
or from a trunk that was pretrained on more LPs, with one of two JEPA (joint-embedding predictive architecture) terms:

- "solver state": predict, for each node, a frozen random network's embedding of the state after 100 PDHG steps;
- "masked nodes": hide 30% of the nodes, and predict their embeddings by an exponential moving average of the network.
"""

import argparse
import os
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent / "kkt_nets"))

from data.batches import GraphBatch, LPDataset, batches, collate_graphs
from data.generators import instances
from data.scaling import ruiz
from data.splits import writable_folder
from jepa_adapter import GraphEncoder
from loop.paths import predict
from losses import kkt_loss
from matplotlib.figure import Figure
from models import GNNPolicy
from report import figures, tables
from torch import Tensor, nn
from tqdm import tqdm

from jepa_ssl import EMATeacher, JEPAObjective, MLPPredictor, NodeMasker, TargetNetwork, smooth_l1_loss
from jepa_ssl.freezing import freeze
from jepa_ssl.integrations.export import export_encoder, load_encoder
from jepa_ssl.integrations.pyg import bipartite_graph
from jepa_ssl.lp import SolverState, SparseLP

FAMILIES = ("set_cover", "auction", "independent_set")
STREAMS = ("constraint", "variable")
BATCH, DIM = 16, 64


@dataclass(frozen=True)
class Plan:
    """Numbers of LPs, all different, and of optimizer steps; the KKT residual is measured after each of `marks`."""

    pretraining_lps: int = 480
    few_lps: int = 32
    test_lps: int = 64
    pretraining_steps: int = 400
    marks: tuple[int, ...] = (25, 50, 100, 200)


PLAN = Plan()


@dataclass(frozen=True)
class Arm:
    """The trunk to start from (None: a new one), and whether it is frozen."""

    trunk: str | None
    frozen: bool


ARMS = {
    "from scratch": Arm(None, frozen=False),
    "random trunk, frozen": Arm(None, frozen=True),
    "solver state, frozen": Arm("solver state", frozen=True),
    "solver state, all weights": Arm("solver state", frozen=False),
    "masked nodes, frozen": Arm("masked nodes", frozen=True),
    "masked nodes, all weights": Arm("masked nodes", frozen=False),
}
Curves = dict[str, list[float]]  # arm -> KKT residual after each of the marks


def lps(count: int, seed: int) -> list[GraphBatch]:
    """`count` generated LPs, rescaled, in batches."""
    data = LPDataset([ruiz(lp, 10) for lp in instances(FAMILIES, {}, count, seed)])
    return [collate_graphs([data[i] for i in rows]) for rows in batches(range(count), BATCH)]


def pretrain(recipe: str, data: Sequence[GraphBatch], steps: int, seed: int) -> nn.Module:
    """The trunk of a `GNNPolicy` after `steps` steps of JEPA."""
    torch.manual_seed(seed)
    encoder = GraphEncoder(GNNPolicy(Namespace(embedding_size=DIM)))
    predictor = MLPPredictor(dict.fromkeys(STREAMS, DIM))
    graphs = [bipartite_graph(batch.batch_graph) for batch in data]
    if recipe == "solver state":
        views = SolverState(100, lp_of=SparseLP.inequalities_of).fit(graphs)
        teacher = TargetNetwork(dict.fromkeys(STREAMS, (2, DIM)), seed=seed)
        jepa = JEPAObjective(views, predictor, teacher, smooth_l1_loss)
    else:
        jepa = JEPAObjective(NodeMasker(0.3), predictor, EMATeacher(encoder))
    optimizer = torch.optim.Adam([*encoder.parameters(), *predictor.parameters()], lr=1e-3)
    generator = torch.Generator().manual_seed(seed)
    for graph in tqdm(islice(cycle(graphs), steps), f"seed {seed}: {recipe}", steps, unit="step", position=seed):
        loss = jepa(encoder, graph, generator=generator).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        jepa.update(encoder)
    return encoder.trunk


def start(arm: Arm, folder: Path, seed: int) -> GNNPolicy:
    """The network of an arm. In a seed all arms start with equal heads, those from scratch with equal trunks."""
    torch.manual_seed(seed)
    policy = GNNPolicy(Namespace(embedding_size=DIM))
    if arm.trunk:
        load_encoder(policy.trunk, file_of(arm.trunk, folder, seed), freeze=arm.frozen)
    elif arm.frozen:
        freeze(policy.trunk)
    return policy


def finetune(
    policy: GNNPolicy, few: Sequence[GraphBatch], test: Sequence[GraphBatch], marks: Sequence[int]
) -> list[float]:
    """Train on the KKT residual of a few LPs. Returns its mean over the test LPs after each of the marks."""
    optimizer = torch.optim.Adam([p for p in policy.parameters() if p.requires_grad], lr=1e-3)
    found: list[float] = []
    for step, batch in enumerate(islice(cycle(few), max(marks) + 1)):
        if step in marks:
            found.append(measure(policy, test))
        policy.train()  # a frozen trunk stays in eval mode
        optimizer.zero_grad()
        kkt(policy, batch).backward()
        optimizer.step()
    return found


def kkt(policy: GNNPolicy, batch: GraphBatch) -> Tensor:
    return kkt_loss(predict(policy, batch), batch.A, batch.b, batch.c, batch.mask_m, batch.mask_n)[0]


@torch.no_grad()
def measure(policy: GNNPolicy, test: Sequence[GraphBatch]) -> float:
    policy.eval()
    total = sum(kkt(policy, batch).item() * len(batch.b) for batch in test)
    return total / sum(len(batch.b) for batch in test)


def file_of(recipe: str, folder: Path, seed: int) -> Path:
    return folder / f"{recipe.replace(' ', '_')}-seed{seed}.safetensors"


def run(plan: Plan, folder: Path, seed: int) -> Curves:
    """Run all arms with one seed for weights and masks; the LPs are the same for all seeds."""
    torch.set_num_threads(1)  # more threads slow down a network of this size
    unlabelled, few, test = (lps(n, i) for i, n in enumerate((plan.pretraining_lps, plan.few_lps, plan.test_lps)))
    for recipe in sorted({arm.trunk for arm in ARMS.values() if arm.trunk}):
        trunk = pretrain(recipe, unlabelled, plan.pretraining_steps, seed)
        export_encoder(
            trunk, file_of(recipe, folder, seed), {"recipe": recipe, "seed": seed, "dim": DIM, **asdict(plan)}
        )
    bar = tqdm(ARMS.items(), f"seed {seed}: training", unit="arm", position=seed)
    return {label: finetune(start(arm, folder, seed), few, test, plan.marks) for label, arm in bar}


def run_seeds(plan: Plan, folder: Path, seeds: int) -> list[Curves]:
    if seeds == 1:
        return [run(plan, folder, 0)]
    with ProcessPoolExecutor(min(seeds, os.cpu_count() or 1), get_context("spawn")) as processes:
        return list(processes.map(partial(run, plan, folder), range(seeds)))


def table(found: Sequence[Curves], marks: Sequence[int]) -> str:
    """A table with one row per arm; a cell has the value of each seed."""
    rows = [
        [label, *(", ".join(tables.number(value) for value in cell) for cell in zip(*values, strict=True))]
        for label, values in by_arm(found)
    ]
    return tables.table(["start", *(f"{mark} steps" for mark in marks)], rows, text_columns=1)


def figure(found: Sequence[Curves], marks: Sequence[int]) -> Figure:
    drawn, [[axes]] = figures.panels(1, 1, 8.2, 4.2)
    for i, (label, values) in enumerate(by_arm(found)):
        line = "--" if ARMS[label].frozen else "-"
        for seed, curve in enumerate(values):
            said = None if seed else label
            axes.plot(marks, curve, line, color=figures.colour(i), marker=figures.MARKERS[i], label=said)
    axes.set(xlabel="steps on the KKT residual", ylabel="KKT residual, test LPs", yscale="log")
    axes.set_title("One line per seed; dashed: the trunk is frozen", fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return drawn


def by_arm(found: Sequence[Curves]) -> list[tuple[str, list[list[float]]]]:
    return [(label, [curves[label] for curves in found]) for label in ARMS]


def main(argv: Sequence[str] | None = None, plan: Plan = PLAN) -> list[Curves]:
    p = argparse.ArgumentParser(
        prog="pretrain_then_finetune.py", description="Pretrain a trunk, fine-tune it, and compare."
    )
    p.add_argument("--folder", type=Path, default=Path("pretrain_then_finetune"), help="write the results here")
    p.add_argument("--seeds", type=int, default=2, help="run each arm this many times")
    args = p.parse_args(argv)
    if args.seeds < 1:
        p.error(f"--seeds is {args.seeds}, but must be at least 1.")
    try:
        folder = writable_folder(args.folder, "--folder")
    except OSError as error:
        p.error(str(error))
    begin = time.perf_counter()
    found = run_seeds(plan, folder, args.seeds)
    figures.save(figure(found, plan.marks), folder / "finetuning.png")
    print(f"\n{table(found, plan.marks)}\n")
    print(
        f"Mean KKT residual of {plan.test_lps} test LPs after so many steps on that of {plan.few_lps} others,\n"
        f"for seeds 0 to {args.seeds - 1}. Where seeds differ as much as arms do, the arms are not told apart. Not\n"
        f"counted: {plan.pretraining_steps} steps of pretraining on {plan.pretraining_lps} more LPs, without labels.\n"
        f"All are of {', '.join(FAMILIES)}, of about 20 variables.\n"
        f"Trunks and figure: {folder}. {time.perf_counter() - begin:.0f} seconds."
    )
    return found


if __name__ == "__main__":
    main()
