"""How time and memory grow with the edges of a graph and with the graphs of a batch, part by part.

    python -m tests.benchmarks.growth
    python -m tests.benchmarks.growth --device cuda

prints two tables in Markdown, on one thread, in about two minutes. A slope is that of a line through the times on a
log-log scale; below 10^5 edges fixed costs hide it. Memory is the peak above what was resident before; on a GPU it is
what torch allocated there. On a GPU the parts in `NEVER_WAIT` raise an error if they wait for it, and a step is
captured as a CUDA graph.
"""

import argparse
import ctypes
import gc
import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
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
NEVER_WAIT = ("masks", "views", "objective, with backward", "EMA update")
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


def joint(device: str) -> tuple[Encoder, EMATeacher, JEPAObjective[BipartiteGraph]]:
    """Encoder, teacher and objective on a device."""
    encoder = Encoder().to(device)
    teacher = EMATeacher(encoder)
    predictor = MLPPredictor({"constraint": WIDTH, "variable": WIDTH})
    return encoder, teacher, JEPAObjective(NodeMasker(0.3), predictor, teacher).to(device)


def parts(graph: BipartiteGraph, device: str) -> dict[str, Part]:
    """What is measured of a batch."""
    (encoder, teacher, jepa), monitor = joint(device), CollapseMonitor()
    masker = NodeMasker(0.3)
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
    """The least seconds on a CPU, and the peak of bytes above what was there before."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed is given back, so that it counts again
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before, least = _kilobytes("VmRSS"), math.inf
    for _ in range(rounds):
        start = time.perf_counter()
        part()
        least = min(least, time.perf_counter() - start)
    return least, 1024 * max(_kilobytes("VmHWM") - before, 0)


def measured_on_gpu(part: Part, rounds: int, never_waits: bool) -> tuple[float, int]:
    """As `measured`, on a GPU; raises a RuntimeError if a part that never waits does."""
    part()  # what is set up once may wait
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, least = torch.cuda.memory_allocated(), math.inf
    for _ in range(rounds):
        torch.cuda.set_sync_debug_mode("error" if never_waits else "default")
        start = time.perf_counter()
        try:
            part()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
        least = min(least, time.perf_counter() - start)
    return least, torch.cuda.max_memory_allocated() - before


def captured_step(graph: BipartiteGraph) -> None:
    """Print the time of an objective step on a GPU, and of its replay as a CUDA graph."""
    encoder, _, jepa = joint("cuda")

    def step() -> None:
        jepa(encoder, graph).total.backward()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    eager, _ = measured_on_gpu(step, 20, True)
    for module in (encoder, jepa):
        module.zero_grad()  # the captured step makes gradients of its own
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        step()
    replayed, _ = measured_on_gpu(captured.replay, 20, True)
    edges = graph.edge_index.size(1)
    print(f"\nAn objective step of {edges:,} edges: {1e3 * eager:.2f} ms, as a CUDA graph {1e3 * replayed:.2f} ms.")


def _kilobytes(field: str) -> int:
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(field))


def slope(sizes: list[int], seconds: list[float]) -> float:
    """Of the line through the logarithms, by least squares."""
    x, y = (torch.tensor(numbers, dtype=torch.float64).log() for numbers in (sizes, seconds))
    x = x - x.mean()
    return float(x @ y / (x @ x))


def table(name: str, sizes: list[int], batch: Callable[[int], BipartiteGraph], first: int, device: str) -> None:
    """Print a row per part; the slope is over the sizes from number `first` on."""
    rows: dict[str, list[tuple[float, int]]] = {}
    peak = 0
    for size in sizes:
        graph = batch(size).to(device)
        rounds = 2 if graph.edge_index.size(1) > 10**6 else 5
        for part, way in parts(graph, device).items():
            on_gpu = partial(measured_on_gpu, never_waits=part in NEVER_WAIT)
            rows.setdefault(part, []).append((on_gpu if device == "cuda" else measured)(way, rounds))
            peak = max(peak, torch.cuda.max_memory_allocated() if device == "cuda" else 1024 * _kilobytes("VmHWM"))
    print(f"\n| {name} | {' | '.join(f'{size:,}' for size in sizes)} | slope |")
    print("|---|" + "---:|" * (len(sizes) + 1))
    for part, found in rows.items():
        cells = [f"{1e3 * seconds:,.3g} ms, {used / 2**20:,.0f} MiB" for seconds, used in found]
        found_slope = slope(sizes[first:], [seconds for seconds, _ in found[first:]])
        print(f"| {part} | {' | '.join(cells)} | {found_slope:.2f} |")
    print(f"\nPeak of {'the GPU' if device == 'cuda' else 'the process'}: {peak / 2**30:.1f} GiB.", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=7, help="measure up to ten to this power of edges")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="measure on this device")
    options = parser.parse_args(arguments)
    largest: int = options.largest
    device: str = options.device
    if device == "cuda" and not torch.cuda.is_available():
        parser.error(
            "--device is cuda, but torch finds no GPU here; leave it out, or install a torch with CUDA on a machine "
            "with a GPU."
        )
    torch.set_num_threads(1)
    torch.manual_seed(0)
    edges = [10**power for power in range(3, largest + 1)]
    table("edges of one graph", edges, lambda count: graphs(count, count // 20), 2, device)
    whole = 10 ** min(largest, 6)
    counts = [count for count in (1, 10, 100, 1_000, 10_000) if 20 * count <= whole]
    table(f"graphs, {whole:,} edges in all", counts, lambda count: graphs(whole, whole // 20 // count), 0, device)
    if device == "cuda":
        captured_step(graphs(10**5, 500).to(device))


if __name__ == "__main__":
    main()
