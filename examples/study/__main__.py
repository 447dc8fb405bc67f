"""The study: python -m examples.study run, then python -m examples.study report."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import arms, experiments, pieces, solving
from .pieces import Piece
from .plan import (
    ARMS,
    EQUAL_COMPUTE,
    FILES,
    FINETUNED,
    FRESH,
    JOINT_ARMS,
    LABEL_FREE,
    MORE_ROUNDS,
    SCALES,
    SUPERVISED,
    WARM_STARTS,
    Plan,
)
from .shipped import TRUNK

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "study" / "results"
STAGES = (
    "pretraining",
    "probe",
    "scores",
    "supervised",
    "rounds",
    "equal_compute",
    "finetuning",
    "files",
    "fresh",
    "solving",
)


def planned(stage: str, plan: Plan, folder: Path, files: tuple[str, ...] = ()) -> list[Piece]:
    """The pieces of a stage, one seed after the other, so that a study that is cut short has all arms of some seeds."""
    return [
        Piece(stage, f"{name}-seed{seed}", function, (plan, folder, *arguments))
        for seed in range(plan.seeds)
        for name, function, arguments in _of_seed(stage, plan, seed, files)
    ]


def _of_seed(stage: str, plan: Plan, seed: int, files: tuple[str, ...]) -> list[tuple[str, Callable[..., Any], Any]]:
    """Name, function and arguments of each piece of a stage and a seed."""
    every = [name for name, arm in ARMS.items() if seed < arm.seeds]
    match stage:
        case "pretraining":
            return [(name, arms.pretrain, (name, seed)) for name in every if name in LABEL_FREE]
        case "probe":
            shown = [(f"{name}_states", experiments.probed_states, (name, seed)) for name in ("shown", "predicted")]
            return [(name, experiments.probed, (name, seed)) for name in every] + shown
        case "scores":
            return [(name, experiments.scored, (name, seed)) for name in every]
        case "equal_compute":
            return [(name, experiments.at_equal_compute, (name, seed))
                    for name in dict.fromkeys(EQUAL_COMPUTE + JOINT_ARMS) if name in every]  # fmt: skip
        case _ if seed:
            return []  # the other stages take long, or run once
        case "supervised":
            return [(f"{name}-{count}labels", experiments.supervised, (name, seed, count))
                    for name in SUPERVISED for count in plan.labels[min(plan.sizes)]]  # fmt: skip
        case "rounds":
            return [(f"{name}-{rounds}rounds", experiments.probed, (name, seed, rounds))
                    for name, some in MORE_ROUNDS.items() for rounds in some]  # fmt: skip
        case "finetuning":
            return [(f"{name}-n{n}", experiments.finetuned, (name, seed, n))
                    for n in plan.sizes[:2] for name in FINETUNED]  # fmt: skip
        case "fresh":
            return [(name, experiments.probed_on_fresh, (name, seed)) for name in FRESH]
        case "solving":
            return [(name, solving.from_predictions, (name, seed)) for name in WARM_STARTS]
        case "files" if files:
            return [(name, experiments.probed_on_files, (name, seed, files)) for name in FILES]
        case _:
            return []


def main(argv: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(prog="python -m examples.study", description="Does a JEPA term help a KKT net?")
    commands = p.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="compute the missing results; repeat the command to continue")
    run.add_argument(
        "--scale",
        choices=SCALES,
        default="full",
        help="set the size of the study; small: run everything once, as a test",
    )
    run.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="run these stages only")
    run.add_argument("--folder", type=Path, default=Path("study"), help="store the weights here")
    run.add_argument(
        "--results", type=Path, help="store results here; default: docs/study/results, or in --folder if small"
    )
    run.add_argument("--jobs", type=int, default=pieces.cores(), help="run this many processes")
    run.add_argument("--lp_files", nargs="+", default=[], metavar="PATH", help="use these LPs in the stage files")
    report = commands.add_parser("report", help="write the tables and figures of the results")
    report.add_argument("--results", type=Path, default=RESULTS, help="read results from here")
    report.add_argument("--docs", type=Path, default=RESULTS.parent, help="write tables and figures here")
    ship = commands.add_parser("ship", help="export the trunk of the first seed, which `shipped` loads")
    ship.add_argument("--folder", type=Path, default=Path("study/full"), help="read the weights from here")
    ship.add_argument("--path", type=Path, default=TRUNK, help="write the trunk to this file")
    commands.add_parser("cost", help="measure the time of a step of each kind")
    args = p.parse_args(argv)
    if args.command == "cost":
        for kind, cost in experiments.costs(SCALES["full"]).items():
            print(f"{kind:24s} {cost:.3f}")
    elif args.command == "ship":
        arms.ship(args.folder, args.path)
    elif args.command == "report":
        from . import report as reporting

        reporting.write(args.results, args.docs)
    else:
        if args.jobs < 1:
            p.error(f"--jobs is {args.jobs}, but must be at least 1.")
        plan, folder = SCALES[args.scale], (args.folder / args.scale).resolve()
        results = args.results or (RESULTS if args.scale == "full" else folder / "results")
        for stage in args.stages:
            has_weights = (lambda piece: _has_weights(piece, folder)) if stage == "pretraining" else (lambda _: True)
            pieces.run(
                planned(stage, plan, folder, tuple(sorted(args.lp_files))), results.resolve(), args.jobs,
                has_weights,
            )  # fmt: skip


def _has_weights(piece: Piece, folder: Path) -> bool:
    """Results are in the repository, but weights are not. Missing weights are trained again."""
    return (folder / "weights" / f"{piece.name}.safetensors").exists()


if __name__ == "__main__":
    main()
