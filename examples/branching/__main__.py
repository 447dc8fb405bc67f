"""Learning to branch: which representation, and which labels, does a branching rule need?

python -m examples.branching [--scale full] [--family setcover auction] [--folder branching]

SCIP solves generated set covers and combinatorial auctions. SCIP calls a branching rule at each node before it
branches. The rule stores the node's LP as a graph, and the gain in the dual bound of each branching. At some nodes it
computes strong-branching scores, which are the labels. `jepa_ssl.evaluation` compares frozen trunks, hand features and
training from scratch on them, and rules that saw no label. SCIP then solves other instances with the best rules.
Results are stored in the folder piece by piece, so a killed run resumes. See docs/branching.md.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from jepa_ssl.evaluation import Report, StillImproving
from jepa_ssl.evaluation.pieces import piece, write_text

from . import instances, solve
from .arms import HAND, NO_LABEL, RANDOM, SCALES, Study
from .pretraining import PRETRAINED

CONTROLS = {RANDOM: "random initialisation", HAND: "raw features"}  # their names in the report


def rules(study: Study, report: Report) -> dict[str, Callable[[], str | solve.Rule]]:
    """Makers of the best rule with all labels, the best without any, and SCIP's own; called if a run is missing."""
    count = report.counts[-1]
    names = (HAND, RANDOM, *PRETRAINED)
    best = max(names, key=lambda name: report.score(CONTROLS.get(name, name), count))
    free = max((arm for arm in report.arms if arm.startswith(NO_LABEL)), key=lambda name: report.score(name, count))
    learned = {
        f"{best}, {count} labels": cache(lambda: study.label_rule(best, 0, count)),
        free: cache(lambda: study.gain_rule(free, 0)),
    }
    return {**learned, **{name: lambda name=name: name for name in solve.SCIP_RULES}}


def solved(study: Study, report: Report) -> dict[str, list[dict[str, Any]]]:
    """Rule -> one result per held-out instance."""

    def one(name: str, make: Callable[[], str | solve.Rule], number: int) -> dict[str, Any]:
        inst = instances.instance(study.family, "solve", number, study.scale.size[study.family])
        asked = [name, study.family, study.scale.size[study.family], number, study.data]
        folder, file = study.folder / "solved", f"{study.family}-{name}-{number}"
        return piece(folder, file, asked, lambda: solve.solve(inst, number, make(), study.scaling))

    numbers = range(study.scale.solved)
    return {name: [one(name, make, number) for number in numbers] for name, make in rules(study, report).items()}


def table(runs: dict[str, list[dict[str, Any]]]) -> str:
    lines = ["| rule | nodes | seconds | not solved |", "|---|---:|---:|---:|"]
    for name, some in runs.items():
        nodes = solve.shifted_mean([run["nodes"] for run in some], 10.0)
        seconds = solve.shifted_mean([run["seconds"] for run in some], 1.0)
        lines.append(f"| {name} | {nodes:.0f} | {seconds:.2f} | {sum(run['status'] != 'optimal' for run in some)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(prog="python -m examples.branching", description="Learning to branch with SCIP.")
    p.add_argument("--scale", choices=sorted(SCALES), default="full", help="set the size of data and training")
    families = instances.FAMILIES
    p.add_argument("--family", choices=families, nargs="+", default=families, help="run these families of instances")
    p.add_argument("--folder", type=Path, default=Path("branching"), help="write data, pieces and results here")
    args = p.parse_args(argv)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", StillImproving)  # the report says so once for all runs
    for family in args.family:
        begin = time.perf_counter()
        study = Study(family, SCALES[args.scale], args.folder)
        report = study.report()
        report.to_json(args.folder / f"{family}.json")
        shown = tuple(arm for arm in report.arms if not arm.startswith(NO_LABEL) or arm.endswith(f": {RANDOM}"))
        replace(report, arms=shown).plot(args.folder / f"{family}.png")  # all would be too many curves
        print(f"# {family}\n\n{report}", flush=True)
        runs = solved(study, report)
        write_text(args.folder / f"{family}-solved.json", json.dumps(runs))
        print(f"\n{table(runs)}\n\n{time.perf_counter() - begin:.0f} seconds.\n", flush=True)


if __name__ == "__main__":
    main()
