"""Evaluate trained KKT nets against HiGHS: a table, a report in JSON, figures.

python evaluate.py exps/RUN/best.pt
"""

import argparse
import json
import math
import os
import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from data.batches import FlatBatch, GraphBatch, batches, make_loader
from data.splits import writable_folder
from loop.distributed import device
from loop.options import KKT_WEIGHTS
from loop.paths import kkt_of_each, predict
from models import KKTNetMLP
from report import figures, tables
from report.measures import Benchmark, identity, inf_if_not_finite, measure, summarise
from report.trained import Trained, load
from torch import Tensor
from tqdm import tqdm

from jepa_ssl.diagnostics import effective_rank, spread
from jepa_ssl.files import write_atomically

EMBEDDED_LPS = 512  # about this many LPs' embeddings are held for the spectrum; it needs no more


def evaluate(runs: Sequence[Trained], **options: Any) -> list[dict[str, Any]]:
    """A report of each run, on its own test LPs.

    `options` may replace the run's `lp_files`, `data_root` and `batch_size`; None keeps the run's. Raises ValueError or
    OSError if an LP or a folder cannot be used.
    """
    given = {name: value for name, value in options.items() if value is not None}
    benchmarks: dict[str, Benchmark] = {}
    reports: list[dict[str, Any]] = []
    for run in runs:
        args = Namespace(**{**vars(run.args), **given})
        if identity(args) not in benchmarks:
            benchmarks[identity(args)] = Benchmark(args)
        benchmark = benchmarks[identity(args)]
        _check_fits(run, benchmark)
        instances, embeddings = _measure(run, benchmark, args)
        report = {
            "label": run.label,
            "checkpoint": str(run.path),
            "epoch": run.epoch,
            "path": "graph" if args.use_bipartite_graphs else "mlp",
            "jepa": args.jepa_mode if args.use_jepa else None,
            "kkt_weights": {name: getattr(args, name) for name in KKT_WEIGHTS},
            # How many of the tested files the run had to train and validate on.
            "known_files": len(_files(args) & _files(run.args)),
            "groups": summarise(instances),
            "embeddings": embeddings,
            "alarms": run.alarms,
            "instances": instances,
        }
        reports.append(report)
    return reports


def _check_fits(run: Trained, benchmark: Benchmark) -> None:
    model = run.model
    m, n = (model.m, model.n) if isinstance(model, KKTNetMLP) else (math.inf, math.inf)
    for lp in benchmark.lps:
        if lp.rows > m or lp.columns > n:
            raise ValueError(
                f"LP {lp.name!r} has {lp.rows} rows and {lp.columns} columns, but the MLP of {run.path} was built for "
                f"at most {m} and {n}; train with --use_bipartite_graphs, whose network takes any size."
            )


def _files(args: Namespace) -> set[str]:
    return {os.path.realpath(path) for path in args.lp_files or ()}


@torch.no_grad()
def _measure(run: Trained, benchmark: Benchmark, args: Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The measures of each test LP, in their order, and those of the embeddings."""
    place = next(run.model.parameters()).device
    torch.set_num_threads(run.args.num_threads)  # as in training, and so that times compare
    # A batch holds LPs of one family and size, so that its time is theirs.
    by_group = sorted(range(len(benchmark.lps)), key=benchmark.groups.__getitem__)
    groups = (list(members) for _, members in groupby(by_group, benchmark.groups.__getitem__))
    order = [batch for members in groups for batch in batches(members, args.batch_size)]
    every = math.ceil(len(by_group) / EMBEDDED_LPS)
    rows: dict[int, dict[str, Any]] = {}
    embedded = []
    answers = benchmark.answers  # before the progress bar
    loader = make_loader(benchmark.data, run.collate, order, num_workers=0)
    for number, (members, batch) in enumerate(zip(tqdm(order, desc=run.label, unit="batch"), loader, strict=True)):
        batch = type(batch)(*(part.to(place) for part in batch))
        y_pred, seconds = _timed(run, batch)
        kkt = kkt_of_each(y_pred, batch, args).tolist()
        N = batch.A.shape[2]  # x is padded to N columns; lam follows
        for i, point, residual in zip(members, y_pred.double().cpu().numpy(), kkt, strict=True):
            lp, answer, (family, size) = benchmark.lps[i], answers[i], benchmark.groups[i]
            rows[i] = {
                "name": lp.name,
                "family": family,
                "size": size,
                "optimal": answer.objective,
                **measure(lp, point[: lp.columns], point[N : N + lp.rows], answer.objective),
                "kkt": inf_if_not_finite(residual),
                "network_seconds": seconds / len(members),
                "highs_seconds": answer.seconds,
            }
        if number % every == 0:
            embedded.append(run.embed(batch))
    embeddings = {
        kind: {stream: _describe(torch.cat([one[kind][stream] for one in embedded])) for stream in streams}
        for kind, streams in embedded[0].items()
    }
    return [rows[i] for i in range(len(rows))], embeddings


def _timed(run: Trained, batch: FlatBatch | GraphBatch) -> tuple[Tensor, float]:
    """The predictions of a batch, and the seconds that the network takes for it once it is warm."""
    start, y_pred = 0.0, torch.empty(0)
    for _ in range(2):  # the first one warms it up
        start = time.perf_counter()
        y_pred = predict(run.model, batch)
        if batch.b.is_cuda:
            torch.cuda.synchronize(batch.b.device)
    return y_pred, time.perf_counter() - start


def _describe(z: Tensor) -> dict[str, Any]:
    """Measures of L2-normalised embeddings `[items, dim]`; no singular values if one is not finite."""
    centred = (z - z.mean(dim=0)).double()
    # Over sqrt(items), a singular value is the standard deviation along its direction.
    singular = torch.linalg.svdvals(centred) / len(z) ** 0.5 if z.isfinite().all() else torch.empty(0)
    measured = {"items": len(z), "spread": spread(z).item(), "effective_rank": effective_rank(z).item()}
    return {**measured, "singular_values": singular.tolist()}


def write(reports: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write `report.json`, with null for what is not finite, and the figures."""
    finite = json.loads(json.dumps({"runs": reports}), parse_constant=lambda _: None)
    text = json.dumps(finite, indent=1)
    write_atomically(folder / "report.json", lambda file: file.write(text.encode()))
    metrics = {report["label"]: read_metrics(Path(report["checkpoint"]).parent) for report in reports}
    if any(metrics.values()):
        figures.save(figures.training_curves(metrics), folder / "training_curves.png")
    figures.save(figures.objectives(reports), folder / "objectives.png")
    figures.save(figures.spectra(reports), folder / "spectra.png")


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The rows of a run's log; none if the checkpoint's folder has no log. Raises ValueError for a damaged one."""
    path = folder / "metrics.jsonl"
    try:
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); restore it, or move it away to do without curves.") from error


def _parse(argv: Sequence[str] | None) -> Namespace:
    p = argparse.ArgumentParser(prog="evaluate.py", description="Evaluate trained KKT nets against HiGHS.")
    p.add_argument(
        "checkpoints", nargs="+", metavar="CHECKPOINT", help="evaluate these best.pt or last.pt files of train.py"
    )
    p.add_argument("--lp_files", nargs="+", metavar="PATH", help="evaluate on these files; default: the run's test LPs")
    p.add_argument(
        "--output_dir",
        metavar="FOLDER",
        help="write into this folder; default: evaluation, in the first checkpoint's folder",
    )
    p.add_argument(
        "--devices", default="0", help="compute on the GPU of this number, or on cpu; without a GPU the CPU is used"
    )
    p.add_argument("--batch_size", type=int, help="use this many LPs per batch; default: the run's")
    p.add_argument("--data_root", metavar="FOLDER", help="store generated LPs in this folder; default: the run's")
    return p.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Evaluate as the flags say; an input that cannot be used ends the process with 2 and one line that says why."""
    args = _parse(argv)
    try:
        if args.batch_size is not None and args.batch_size < 1:
            raise ValueError(f"--batch_size is {args.batch_size}, but must be at least 1.")
        runs = load(args.checkpoints, device(args.devices))
        folder = writable_folder(Path(args.output_dir or runs[0].path.parent / "evaluation"))
        reports = evaluate(runs, lp_files=args.lp_files, data_root=args.data_root, batch_size=args.batch_size)
        write(reports, folder)
    except (ValueError, OSError) as error:
        print(f"evaluate.py: error: {error}", file=sys.stderr)
        sys.exit(2)
    print(tables.evaluation(reports))
    print(f"\nreport and figures are in {folder}")
    return reports


if __name__ == "__main__":
    main()
