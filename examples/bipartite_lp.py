"""A JEPA term and the KKT residual, for a GNN on LPs as bipartite graphs.

python examples/bipartite_lp.py [--folder bipartite_lp] [--seeds 2]

The LPs are `min c'x` with `Ax <= b`, of 6 to 12 rows and 4 to 8 columns. A GNN sees each LP with the state of a cheap
solver after 10, 30 and 100 steps. It learns x and multipliers without labels: its loss measures how far they are from
optimal. It trains with and without a JEPA (joint-embedding predictive architecture) term, `recipes.later_state`: its
nodes predict, in embedding space, their state after 300 steps.

What to see: the term is learned, no stream loses its rank, and the KKT residual does not become smaller. If you only
want a small residual, train on it alone. A later state helps a trunk that will be used again (docs/study.md).
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from jepa_ssl import BipartiteGraph, MLPProjector
from jepa_ssl.diagnostics import effective_rank
from jepa_ssl.lp import SparseLP, StateFeatures
from jepa_ssl.recipes import later_state

WIDTH, DIM, EVERY = 64, 32, 10
SIZES = {"constraint": WIDTH, "variable": WIDTH}
EARLY = StateFeatures((10, 30, 100), lp_of=SparseLP.inequalities_of)
KKT, JEPA, RANKS = "KKT", "JEPA", {stream: f"{stream} rank" for stream in SIZES}
ARMS = {"KKT alone": (0.0, "#000000"), "KKT + 0.2 JEPA": (0.2, "#D55E00")}


def lps(count: int, generator: torch.Generator) -> BipartiteGraph:
    """A batch of LPs with optima: a feasible x and feasible multipliers are chosen first."""

    def some(nodes: int) -> Tensor:
        return torch.rand(nodes, 1, generator=generator) * (torch.rand(nodes, 1, generator=generator) < 0.5)

    sizes = [torch.randint(low, high, (count,), generator=generator) for low, high in ((6, 13), (4, 9))]
    row_of, column_of = (torch.arange(count).repeat_interleave(size) for size in sizes)  # the LP of each row and column
    filled = (row_of.unsqueeze(1) == column_of) & (torch.rand(len(row_of), len(column_of), generator=generator) < 0.7)
    A = torch.randn(filled.shape, generator=generator) * filled
    b = A @ torch.randn(len(column_of), 1, generator=generator) + some(len(row_of))
    c = -A.T @ some(len(row_of))
    offsets = (nn.functional.pad(size.cumsum(0), (1, 0)) for size in sizes)
    return BipartiteGraph(b, filled.nonzero().T, A[filled].unsqueeze(1), c, *offsets)


class Trunk(nn.Module):
    """Two rounds of messages, from columns to rows and back."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs = nn.ModuleDict({stream: nn.Linear(1 + EARLY.numbers, WIDTH) for stream in SIZES})
        self.to_rows, self.to_columns = (nn.ModuleList(nn.Linear(2 * WIDTH, WIDTH) for _ in range(2)) for _ in SIZES)

    def forward(self, graph: BipartiteGraph) -> dict[str, Tensor]:
        row, column = graph.edge_index
        rows, columns = (layer(graph.features(stream)).relu() for stream, layer in self.inputs.items())
        for to_rows, to_columns in zip(self.to_rows, self.to_columns, strict=True):
            heard = torch.zeros_like(rows).index_add(0, row, graph.edge_attr * columns[column])
            rows = rows + to_rows(torch.cat((rows, heard), 1)).relu()
            heard = torch.zeros_like(columns).index_add(0, column, graph.edge_attr * rows[row])
            columns = columns + to_columns(torch.cat((columns, heard), 1)).relu()
        return {"constraint": rows, "variable": columns}


def kkt(graph: BipartiteGraph, x: Tensor, lam: Tensor) -> Tensor:
    """A residual that is 0 only at an optimum: it measures c + A'lam and min(lam, b - Ax), for lam >= 0."""
    row, column = graph.edge_index
    slack = graph.constraint_features[:, :1].index_add(0, row, -graph.edge_attr * x[column])
    reduced = graph.variable_features[:, :1].index_add(0, column, graph.edge_attr * lam[row])
    return reduced.square().mean() + torch.minimum(lam, slack).square().mean()


def train(weight: float, steps: int, seed: int) -> dict[str, list[float]]:
    """Train one network. Returns KKT residual and rank on test LPs every few steps, and the JEPA loss of a batch."""
    generator = torch.Generator().manual_seed(0)  # the same LPs for all
    batches, test = [EARLY(lps(16, generator)) for _ in range(40)], EARLY(lps(64, generator))
    torch.manual_seed(seed)
    trunk, projector, heads = Trunk(), MLPProjector(SIZES, DIM), nn.ModuleDict({s: nn.Linear(WIDTH, 1) for s in SIZES})
    jepa = later_state(dict.fromkeys(SIZES, DIM), lp_of=SparseLP.inequalities_of, seed=seed)
    views: Any = jepa.views
    views.fit(batches)
    optimizer = torch.optim.Adam([p for m in (trunk, projector, heads, jepa) for p in m.parameters()], lr=1e-3)

    def task(graph: BipartiteGraph) -> Tensor:
        nodes = trunk(graph)
        lam = nn.functional.softplus(heads["constraint"](nodes["constraint"]))
        return kkt(graph, heads["variable"](nodes["variable"]), lam)

    found: dict[str, list[float]] = {name: [] for name in (KKT, *RANKS.values(), JEPA)}
    for step in range(steps + 1):
        if step % EVERY == 0:
            with torch.no_grad():
                found[KKT].append(task(test).item())
                for stream, nodes in trunk(test).items():
                    found[RANKS[stream]].append(effective_rank(nodes).item())
        graph = batches[step % len(batches)]
        loss = task(graph)
        if weight:
            term = jepa(lambda seen: projector(trunk(seen)), graph).total
            found[JEPA].append(term.item())
            loss = loss + weight * term
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        jepa.update(trunk)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(prog="bipartite_lp.py", description="Train a GNN on the KKT residual and a JEPA term.")
    p.add_argument("--folder", type=Path, default=Path("bipartite_lp"), help="write the figure here")
    p.add_argument("--seeds", type=int, default=2, help="train this many networks of each kind, on the same LPs")
    p.add_argument("--steps", type=int, default=200, help="train for this many steps")
    args = p.parse_args(argv)
    if args.seeds < 1 or args.steps < 0:
        p.error(f"--seeds is {args.seeds} and --steps {args.steps}, but must be at least 1 and 0.")
    begin = time.perf_counter()
    torch.set_num_threads(1)  # more threads slow down networks of this size
    args.folder.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    ends: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for arm, (weight, colour) in ARMS.items():
        for seed in range(args.seeds):
            found = train(weight, args.steps, seed)
            axes.plot(range(0, args.steps + 1, EVERY), found[KKT], color=colour, label="" if seed else arm)
            ends[arm].append(sum(found[KKT][-5:]))  # the mean of the last few, because it is noisy
            said = ", ".join(f"{name} {v[0]:.3g} -> {v[-1]:.3g}" for name, v in found.items() if v)
            print(f"{arm}, seed {seed}: {said}")
    alone, joint = ends.values()
    noise = max(max(end) / min(end) for end in ends.values())
    print(
        f"Mean over the last {5 * EVERY} steps: with JEPA {sum(joint) / sum(alone):.2f} times the KKT residual without."
    )
    print(f"From one seed to another it differs by a factor of up to {noise:.2f}.")
    axes.set(xlabel="steps", ylabel="KKT residual of 64 test LPs", yscale="log", title="One line per seed")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(args.folder / "bipartite_lp.png", dpi=150)
    print(f"Figure: {args.folder / 'bipartite_lp.png'}. {time.perf_counter() - begin:.0f} seconds.")


if __name__ == "__main__":
    main()
