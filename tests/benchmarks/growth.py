"""How time and memory grow with the edges of a graph and with the graphs of a batch, part by part.

    python -m tests.benchmarks.growth

prints two tables in Markdown, on one thread, in about two minutes. A slope is that of a line through the times on a
log-log scale; below 10^5 edges fixed costs hide it. Memory is the peak above what was resident before.
"""

import argparse
import ctypes
import gc
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from benchmarks.test_mask_costs import graphs
from torch import Tensor, nn

from jepa_ssl import BipartiteGraph, CollapseMonitor, EMATeacher, JEPAObjective, MLPPredictor, NodeMasker
from jepa_ssl.lp import SolverState, SparseLP

WIDTH = 8
STEPS = 10  # of PDHG
STATUS = Path("/proc/self/status")
Part = Callable[[], object]


class Encoder(nn.Module):
    """One message from variables to constraints and one back."""

    def __init__(self) -> None:
        super().__init__()
        self.constraint, self.variable = nn.Linear(4, WIDTH), nn.Linear(4, WIDTH)

    def forward(self, graph: BipartiteGraph) -> dict[str, Tensor]:
        row, column = graph.edge_index.unbind(0)
        variable = self.variable(graph.variable_features)
        constraint = self.constraint(graph.constraint_features).index_add(0, row, variable.index_select(0, column))
        variable = variable.index_add(0, column, constraint.index_select(0, row))
        return {"constraint": constraint, "variable": variable}


def parts(graph: BipartiteGraph) -> dict[str, Part]:
    """What is measured of a batch."""
    masker, encoder, monitor = NodeMasker(0.3), Encoder(), CollapseMonitor()
    teacher = EMATeacher(encoder)
    jepa = JEPAObjective(masker, MLPPredictor({"constraint": WIDTH, "variable": WIDTH}), teacher)
    with torch.no_grad():
        loss = jepa(encoder, graph)
    lp, states = SparseLP.inequalities_of(graph), SolverState(STEPS)

    def watch() -> None:
        for _ in range(monitor.every):
            monitor.observe(loss)
            monitor.step()

    return {
        "masks": lambda: masker.draw(graph),
        "views": lambda: masker(graph),
        "objective, with backward": lambda: jepa(encoder, graph).total.backward(),
        "EMA update": lambda: teacher.update(encoder),
        f"states, {STEPS} steps": lambda: states.states(lp),
        "monitor, 10 steps": watch,
    }


def measured(part: Part, rounds: int) -> tuple[float, int]:
    """The least seconds, and the peak of bytes above what was there before."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed is given back, so that it counts again
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before, least = _kilobytes("VmRSS"), math.inf
    for _ in range(rounds):
        start = time.perf_counter()
        part()
        least = min(least, time.perf_counter() - start)
    return least, 1024 * max(_kilobytes("VmHWM") - before, 0)


def _kilobytes(field: str) -> int:
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(field))


def slope(sizes: list[int], seconds: list[float]) -> float:
    """Of the line through the logarithms, by least squares."""
    x, y = (torch.tensor(numbers, dtype=torch.float64).log() for numbers in (sizes, seconds))
    x = x - x.mean()
    return float(x @ y / (x @ x))


def table(name: str, sizes: list[int], batch: Callable[[int], BipartiteGraph], first: int) -> None:
    """Print a row per part; the slope is over the sizes from number `first` on."""
    rows: dict[str, list[tuple[float, int]]] = {}
    peak = 0
    for size in sizes:
        graph = batch(size)
        rounds = 2 if graph.edge_index.size(1) > 10**6 else 5
        for part, way in parts(graph).items():
            rows.setdefault(part, []).append(measured(way, rounds))
            peak = max(peak, _kilobytes("VmHWM"))
    print(f"\n| {name} | {' | '.join(f'{size:,}' for size in sizes)} | slope |")
    print("|---|" + "---:|" * (len(sizes) + 1))
    for part, found in rows.items():
        cells = [f"{1e3 * seconds:,.3g} ms, {used / 2**20:,.0f} MiB" for seconds, used in found]
        found_slope = slope(sizes[first:], [seconds for seconds, _ in found[first:]])
        print(f"| {part} | {' | '.join(cells)} | {found_slope:.2f} |")
    print(f"\nPeak of the process: {peak / 2**20:.1f} GiB.", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=7, help="measure up to ten to this power of edges")
    largest: int = parser.parse_args().largest
    torch.set_num_threads(1)
    torch.manual_seed(0)
    edges = [10**power for power in range(3, largest + 1)]
    table("edges of one graph", edges, lambda count: graphs(count, count // 20), first=2)
    whole = 10 ** min(largest, 6)
    counts = [1, 10, 100, 1_000, 10_000]
    table(f"graphs, {whole:,} edges in all", counts, lambda count: graphs(whole, whole // 20 // count), first=0)


if __name__ == "__main__":
    main()
