"""An hour of joint training on two processes: is memory flat, does it slow down, does anything break?

python tests/benchmarks/long_run.py --minutes 60

It ends the run as a cluster does, by SIGTERM, and writes `docs/figures/long_run.json` and the figure drawn from it;
`--draw` draws it again without a run.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import psutil
from tqdm import tqdm

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "docs/figures"
KKT_NETS = ROOT / "examples/kkt_nets"
PROCESSES = 2
EVERY = 10.0  # seconds from one look at memory and time to the next
# The recipe that does not collapse, as a joint term from the start.
FLAGS = "--use_bipartite_graphs --use_jepa --jepa_views solver_state --jepa_mode frozen --jepa_loss smooth_l1"
FLAGS += " --epochs 1000000 --train_instances 4096 --log_every 250 --checkpoint_every 1000 --devices cpu"


def run(minutes: float, folder: Path) -> list[dict[str, float]]:
    """What was seen of the processes every few seconds."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={PROCESSES}"]
    command += ["train.py", *FLAGS.split(), "--output_dir", str(folder)]
    seen: list[dict[str, float]] = []
    with (folder.parent / "output.txt").open("w") as output:
        training = subprocess.Popen(command, cwd=KKT_NETS, stdout=output, stderr=subprocess.STDOUT)
        started = time.monotonic()
        with tqdm(total=round(minutes * 60), unit="s") as bar:
            while (passed := time.monotonic() - started) < minutes * 60 and training.poll() is None:
                time.sleep(EVERY)
                bar.update(round(time.monotonic() - started) - bar.n)
                if row := _look(training.pid, folder):
                    seen.append({"seconds": passed, **row})
        training.send_signal(signal.SIGTERM)
        training.wait(120)
    return seen


def _look(launcher: int, folder: Path) -> dict[str, float] | None:
    """The memory and the processor time of all training processes, and the last step in the log."""
    step = _last_step(folder / "metrics.jsonl")
    workers = [p for p in psutil.Process(launcher).children(recursive=True) if "train.py" in p.cmdline()]
    if step is None or len(workers) < PROCESSES:
        return None  # it is still starting, or generating its LPs
    times = [worker.cpu_times() for worker in workers]
    return {
        "step": step,
        "resident_mib": max(worker.memory_info().rss for worker in workers) / 2**20,
        "cpu_seconds": sum(t.user + t.system for t in times),
    }


def _last_step(log: Path) -> int | None:
    lines = log.read_bytes()[-4096:].splitlines()[1:-1] if log.exists() else []
    return json.loads(lines[-1])["step"] if lines else None


def report(result: dict[str, Any]) -> str:
    """The verdict in figures."""
    seen, rows = result["seen"], result["rows"]
    fifths = [seen[part * len(seen) // 5 : (part + 1) * len(seen) // 5 + 1] for part in (1, 4)]
    memory = [np.median([row["resident_mib"] for row in fifth]) for fifth in fifths]
    paces = [1e3 * _pace(fifth) for fifth in fifths]
    losses = [value for row in rows for name, value in row.items() if "loss" in name]
    broken = sum(not np.isfinite(loss) for loss in losses)
    return (
        f"{int(seen[-1]['step'])} steps in {seen[-1]['seconds'] / 60:.0f} minutes; from the second to the last fifth "
        f"of the time: resident memory {memory[0]:.0f} -> {memory[1]:.0f} MiB, processor time a step {paces[0]:.0f} -> "
        f"{paces[1]:.0f} ms; {broken} of {len(losses)} logged losses not finite."
    )


def _pace(seen: list[dict[str, float]]) -> float:
    return (seen[-1]["cpu_seconds"] - seen[0]["cpu_seconds"]) / (seen[-1]["step"] - seen[0]["step"])


def draw(result: dict[str, Any], path: Path) -> None:
    """Losses, rank, memory and processor time over the steps."""
    seen, rows = result["seen"], result["rows"]
    figure, axes = plt.subplots(2, 2, figsize=(9, 5.5), sharex=True, layout="constrained")
    for axis, names, label in (
        (axes[0, 0], ["train/loss_kkt", "val/loss_kkt", "train/loss_jepa"], "loss"),
        (axes[0, 1], ["train/effective_rank/constraint", "train/effective_rank/variable"], "effective rank"),
    ):
        for name in names:
            points = [(row["step"], row[name]) for row in rows if name in row]
            axis.plot(
                *zip(*_thinned(points), strict=True),
                label=name.replace("/loss_", " ").replace("train/effective_rank/", ""),
                lw=1,
            )
        axis.set_ylabel(label)
        axis.legend(frameon=False)
    axes[0, 0].set_yscale("log")
    steps = [row["step"] for row in seen]
    axes[1, 0].plot(steps, [row["resident_mib"] for row in seen], color="black", lw=1)
    axes[1, 0].set_ylabel("resident memory of the\nlarger process (MiB)")
    blocks = np.linspace(0, len(seen) - 1, 31).round().astype(int)
    pairs = [seen[a : b + 1] for a, b in pairwise(blocks) if seen[b]["step"] > seen[a]["step"]]
    axes[1, 1].plot([pair[-1]["step"] for pair in pairs], [1e3 * _pace(pair) for pair in pairs], "k.-", lw=1)
    axes[1, 1].set_ylabel("processor time a step,\nboth processes (ms)")
    for axis in axes[1]:
        axis.set_ylim(bottom=0)
        axis.set_xlabel("optimizer step")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _thinned(points: list[tuple[float, float]], most: int = 300) -> list[tuple[float, float]]:
    """Medians of neighbours, so that a thousand rows can be read."""
    blocks = np.array_split(np.array(points), min(most, len(points)))
    return [tuple(np.median(block, axis=0)) for block in blocks]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--draw", action="store_true", help="draw the figure again, without a run")
    args = parser.parse_args()
    path = FIGURES / "long_run.json"
    if not args.draw:
        with tempfile.TemporaryDirectory() as folder:
            seen = run(args.minutes, Path(folder) / "run")
            rows = [json.loads(line) for line in (Path(folder) / "run/metrics.jsonl").read_text().splitlines()]
        names = ("step", "train/loss_kkt", "train/loss_jepa", "val/loss_kkt", "train/effective_rank/constraint")
        names += ("train/effective_rank/variable",)
        kept = [{name: row[name] for name in names if name in row} for row in rows]
        path.write_text(json.dumps({"seen": seen, "rows": [row for row in kept if len(row) > 1]}))
    result = json.loads(path.read_text())
    draw(result, path.with_suffix(".png"))
    print(report(result))


if __name__ == "__main__":
    main()
