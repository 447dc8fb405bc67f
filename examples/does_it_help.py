"""Does a JEPA term help on my task? Compare a pretrained trunk with its controls, on small LPs.

python examples/does_it_help.py [--folder does_it_help] [--seeds 5] [--steps 300]

The LPs are `min c'x` with `Ax <= b`. A graph network is pretrained on 256 of them without labels, by a JEPA
(joint-embedding predictive architecture) term. Its nodes predict, in embedding space, the state that a cheap solver
reaches after 300 steps (`jepa_ssl.later_state`). The task is to predict x at the optimum from a few solved LPs. The
report compares the frozen pretrained trunk with the same trunk at its random initialisation, with no network at all,
and with training from scratch. Pieces are stored in the folder, so a killed run resumes.
"""

import argparse
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from jepa_ssl import BipartiteGraph, MLPProjector, later_state
from jepa_ssl.evaluation import (
    Features,
    Report,
    StillImproving,
    Supervised,
    Task,
    embed,
    label_curve,
    standard_controls,
)
from jepa_ssl.lp import SparseLP

ROWS, COLUMNS, WIDTH, DIM, ROUNDS = 10, 6, 32, 32, 4
UNLABELLED, LABELLED, BATCH = 256, 120, 16
SIZES = {"constraint": WIDTH, "variable": WIDTH}

LPs = tuple[Tensor, Tensor, Tensor]
"""A [LPs, ROWS, COLUMNS], b [LPs, ROWS] and c [LPs, COLUMNS]."""


def generate(count: int, generator: torch.Generator) -> LPs:
    """LPs with an optimum: a feasible x and positive multipliers are chosen first."""
    A = torch.randn(count, ROWS, COLUMNS, generator=generator)
    x = torch.randn(count, COLUMNS, 1, generator=generator)
    slack, lam = torch.rand(2, count, ROWS, generator=generator)
    return A, (A @ x).squeeze(2) + slack, -(A.mT @ lam.unsqueeze(2)).squeeze(2)


def graphs(lps: LPs, ids: Tensor) -> BipartiteGraph:
    """Some of the LPs as one batch."""
    A, b, c = (part[ids] for part in lps)
    blocks = torch.block_diag(*A)
    offsets = [torch.arange(len(ids) + 1) * size for size in (ROWS, COLUMNS)]
    edges = torch.block_diag(*torch.ones_like(A)).nonzero().T
    return BipartiteGraph(b.reshape(-1, 1), edges, blocks[tuple(edges)].unsqueeze(1), c.reshape(-1, 1), *offsets)


class Trunk(nn.Module):
    """Rounds of messages from columns to rows and back, as a primal-dual solver exchanges them."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs = nn.ModuleDict({stream: nn.Linear(1, WIDTH) for stream in SIZES})
        self.to_rows, self.to_columns = (nn.Linear(3 * WIDTH, WIDTH) for _ in SIZES)

    def forward(self, graph: BipartiteGraph) -> dict[str, Tensor]:
        row, column = graph.edge_index
        first = [layer(graph.features(stream)) for stream, layer in self.inputs.items()]
        rows, columns = first
        for _ in range(ROUNDS):
            heard = torch.zeros_like(rows).index_add(0, row, graph.edge_attr * columns[column])
            rows = rows + self.to_rows(torch.cat((rows, heard, first[0]), 1)).tanh()
            heard = torch.zeros_like(columns).index_add(0, column, graph.edge_attr * rows[row])
            columns = columns + self.to_columns(torch.cat((columns, heard, first[1]), 1)).tanh()
        return {"constraint": rows, "variable": columns}


def pretrain(lps: LPs, steps: int, seed: int) -> Trunk:
    """Train a trunk without labels."""
    torch.manual_seed(seed)
    trunk, projector = Trunk(), MLPProjector(SIZES, DIM)
    jepa = later_state(dict.fromkeys(SIZES, DIM), lp_of=SparseLP.inequalities_of, seed=seed)
    batches = [graphs(lps, ids) for ids in torch.arange(len(lps[0])).split(BATCH)]
    jepa.views.fit(batches)  # pyright: ignore[reportAttributeAccessIssue]
    optimizer = torch.optim.Adam([p for part in (trunk, projector, jepa) for p in part.parameters()], lr=2e-3)
    for step in range(steps):
        loss = jepa(lambda graph: projector(trunk(graph)), batches[step % len(batches)]).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        jepa.update(trunk)
    return trunk


def solve(lps: LPs) -> Tensor:
    """x at the optimum of each LP, by SciPy: the labels."""
    arrays = zip(*(part.double().numpy() for part in lps), strict=True)
    return torch.stack([torch.from_numpy(linprog(c, A, b, bounds=(None, None)).x) for A, b, c in arrays]).float()


def evaluate(steps: int, seeds: int, folder: Path) -> Report:
    generator = torch.Generator().manual_seed(0)
    unlabelled, labelled = generate(UNLABELLED, generator), generate(LABELLED, generator)

    def take(ids: Tensor) -> BipartiteGraph:
        return graphs(labelled, ids)

    def features(seed: int) -> Tensor:
        return embed(pretrain(unlabelled, steps, seed), [take(torch.arange(LABELLED))], "variable")

    everything = take(torch.arange(LABELLED))
    row, column = everything.edge_index
    heard = torch.zeros(len(everything.variable_features), 1).index_add(
        0, column, everything.edge_attr * everything.constraint_features[row]
    )
    task = Task(solve(labelled).flatten(), torch.arange(LABELLED).repeat_interleave(COLUMNS))
    scratch = Supervised(Trunk, take, "variable", lr=2e-3, patience=5, cap=1000)
    raw = torch.cat((everything.variable_features, heard), 1)  # c and A'b of each variable
    controls = standard_controls(task, Trunk, take, raw, stream="variable", scratch=scratch)
    arms = {"later state, frozen": Features(features, {"steps": steps})}
    return label_curve(task, arms, controls, label_counts=[8, 16, 36], seeds=seeds, folder=folder / "pieces")


def main(argv: Sequence[str] | None = None) -> Report:
    p = argparse.ArgumentParser(
        prog="does_it_help.py", description="Compare a pretrained trunk with its controls on small LPs."
    )
    p.add_argument("--folder", type=Path, default=Path("does_it_help"), help="write figure, report and pieces here")
    p.add_argument("--seeds", type=int, default=5, help="draw labels this many times, each with a new trunk")
    p.add_argument("--steps", type=int, default=300, help="pretrain for this many steps")
    args = p.parse_args(argv)
    if args.seeds < 1 or args.steps < 1:
        p.error(f"--seeds is {args.seeds} and --steps {args.steps}, but must be at least 1.")
    begin = time.perf_counter()
    torch.set_num_threads(1)  # more threads slow down networks of this size
    warnings.simplefilter("ignore", StillImproving)  # the report says so once for all runs
    report = evaluate(args.steps, args.seeds, args.folder)
    print(report)
    report.to_json(args.folder / "report.json")
    report.plot(args.folder / "does_it_help.png")
    print(f"\nFigure: {args.folder / 'does_it_help.png'}. {time.perf_counter() - begin:.0f} seconds.")
    return report


if __name__ == "__main__":
    main()
