"""Two minutes of JEPA on KKT nets: five runs on the same small LPs, one table, one figure.

python examples/demo.py [--folder demo] [--epochs 16]
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent / "kkt_nets"))
os.environ.setdefault("WANDB_MODE", "disabled")

import evaluate
import train
from data.splits import writable_folder
from matplotlib.figure import Figure
from report import figures, tables

MARKER = ".demo"  # in a folder that the demo made
SETTINGS = (
    *("--use_bipartite_graphs", "--devices", "cpu", "--batch_size", "8", "--log_every", "8"),
    *("--train_instances", "256", "--val_instances", "60", "--test_instances", "60"),
)
FLOOR = ("kkt-seed0", "kkt-seed1")  # the same run but for its seed
# What the study recommends (docs/study.md): see an early state of a solver, predict a later one, then train the task.
SEES_STATES = ("--seen_steps", "10", "30", "100")
RECIPE = (
    *("--use_jepa", "--jepa_views", "solver_state", "--jepa_solver_steps", "300", "--jepa_solver_restart", "100"),
    *("--jepa_mode", "frozen", "--jepa_loss", "smooth_l1"),
)
MEASURES = {"kkt": "KKT", "gap": "gap", "primal_max": "primal violation", "dual_max": "dual violation"}


def arms(epochs: int) -> dict[str, list[str]]:
    """Each run, and the flags in which it differs from the first."""
    # JEPA first, then KKT alone; a run of one epoch has no time for both, and trains them together.
    pretraining, later_weight = (str(max(1, epochs // 4)), "0") if epochs > 1 else ("0", "0.2")
    return {
        "kkt-seed0": [],
        "kkt-seed1": ["--seed", "1"],
        "jepa-ema": ["--use_jepa", "--jepa_mode", "ema"],
        "kkt-states": [*SEES_STATES],
        "jepa-states": [*SEES_STATES, *RECIPE, "--jepa_pretrain_epochs", pretraining, "--jepa_weight", later_weight],
    }


def prepare(folder: Path) -> None:
    """Makes the demo's folder, or clears what an earlier demo made there; generated LPs stay.

    Raises:
        FileExistsError: the folder holds something else.
        OSError: it cannot be written to.
    """
    if folder.exists() and not (folder / MARKER).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"--folder {folder} exists and is not the demo's; name a new or an empty one.")
    writable_folder(folder)
    (folder / MARKER).touch()
    for made in (*arms(epochs=2), "evaluation"):
        shutil.rmtree(folder / made, ignore_errors=True)
    (folder / "comparison.png").unlink(missing_ok=True)


def table(reports: Sequence[Mapping[str, Any]]) -> str:
    """Per family, run beside run: the mean over the test LPs."""

    def rows() -> Iterator[list[str]]:
        for groups in zip(*(report["groups"] for report in reports), strict=True):
            for report, group in zip(reports, groups, strict=True):
                values = [tables.number(group["mean"][name]) for name in MEASURES]
                yield [group["family"], group["size"], report["label"], *values]
            yield [""] * (3 + len(MEASURES))

    return tables.table(["family", "size", "run", *MEASURES.values()], list(rows())[:-1], text_columns=3)


def verdict(reports: Sequence[Mapping[str, Any]]) -> str:
    """What the table says, and what it does not."""
    kkt = {report["label"]: report["groups"][-1]["mean"]["kkt"] for report in reports}
    low, high = sorted(kkt[label] for label in FLOOR)
    lines = [
        f"Noise floor: {' and '.join(FLOOR)} differ only in --seed; their KKT residuals are {low:.1e} and "
        f"{high:.1e}, a factor of {high / low:.2f}."
    ]
    for report in reports:
        label = report["label"]
        if label not in FLOOR:
            lines.append(f"{label}: {kkt[label]:.1e}, {_beside(kkt[label], low, high)}.")
            kind = "projector" if "projector" in report["embeddings"] else "trunk"
            ranks = [f"{found['effective_rank']:.1f}" for found in report["embeddings"][kind].values()]
            lines[-1] += f" Effective rank at its {kind}: {' and '.join(ranks)}, of at most 64."
    if {"kkt-states", "jepa-states"} <= kkt.keys():
        lines.append(
            f"kkt-states is the control of jepa-states, because it sees the same states. Its residual is "
            f"{kkt['kkt-states'] / kkt['jepa-states']:.2f} times\nthat of jepa-states. No floor was measured for them."
        )
    lines.append(
        "jepa-ema is the plain recipe without a regulariser, so its embeddings may lose rank or spread.\n"
        "jepa-states and kkt-states see a solver's state after 10, 30 and 100 steps. In its first quarter of epochs\n"
        "jepa-states learns to predict the state after 300 steps. Then it trains KKT alone, as kkt-states does.\n"
        "All arms have equally many epochs. With one seed per arm this is an illustration; see docs/study.md."
    )
    return "\n".join(lines)


def _beside(value: float, low: float, high: float) -> str:
    if low <= value <= high:
        return "between the two"
    side, factor = ("above", value / high) if value > high else ("below", low / value)
    return f"{side} both by a factor of {factor:.2f}, {'more' if factor > high / low else 'no more'} than the floor"


def comparison(reports: Sequence[Mapping[str, Any]]) -> Figure:
    """KKT curves and the trunk's spectra; below them what the JEPA loss says, and what became of the embeddings."""
    figure, (upper, lower) = figures.panels(2, 3)
    metrics = {report["label"]: evaluate.read_metrics(Path(report["checkpoint"]).parent) for report in reports}
    figures.draw_kkt(upper[0], metrics)
    for axes, stream in zip(upper[1:], ("constraint", "variable"), strict=True):
        figures.draw_spectrum(axes, reports, "trunk", stream)
    figures.draw_jepa_loss(lower[0], metrics)
    figures.draw_rank(lower[1], metrics)
    figures.draw_spectrum(lower[2], reports, "projector", "variable")
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(prog="demo.py", description="Train KKT nets with and without JEPA, and compare them.")
    p.add_argument("--folder", type=Path, default=Path("demo"), help="write the results here")
    p.add_argument("--epochs", type=int, default=16, help="train for this many epochs")
    args = p.parse_args(argv)
    try:
        prepare(args.folder)
    except OSError as error:
        p.error(str(error))
    start = time.perf_counter()

    runs = arms(args.epochs)
    for i, (label, flags) in enumerate(runs.items(), 1):
        print(f"\n[{i}/{len(runs)}] {label}: train.py {' '.join([*SETTINGS, *flags])}", flush=True)
        where = ["--data_root", f"{args.folder / 'data'}", "--output_dir", f"{args.folder / label}"]
        train.main([*SETTINGS, *where, "--epochs", f"{args.epochs}", *flags])

    print("\nEvaluation on test LPs that no run has seen", flush=True)
    trained = evaluate.load([args.folder / label / "last.pt" for label in runs], torch.device("cpu"))
    reports = evaluate.evaluate(trained)
    evaluate.write(reports, writable_folder(args.folder / "evaluation"))
    figures.save(comparison(reports), args.folder / "comparison.png")
    print(f"\n{table(reports)}\n\n{tables.embeddings(reports)}\n\n{verdict(reports)}")
    print(
        f"\nMeans over {len(reports[0]['instances'])} LPs. A violation is an LP's greatest, in original units."
        f"\nFigure: {args.folder / 'comparison.png'}; more in {args.folder / 'evaluation'}."
        f" {time.perf_counter() - start:.0f} seconds."
    )


if __name__ == "__main__":
    main()
