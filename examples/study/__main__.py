"""The study: python -m examples.study run, then python -m examples.study report."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from . import arms, experiments, flat, pieces, solving
from .pieces import Piece
from .plan import (
    ARMS,
    EQUAL_COMPUTE,
    FAMILIES,
    FEWER_OR_MORE,
    FILES,
    FINETUNED,
    FLAT,
    RANDOM,
    RECOMMENDED,
    SCALES,
    WARM_STARTS,
    Plan,
)

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "study" / "results"
TRUNK = Path(__file__).with_name("trunk.safetensors")
STAGES = (
    "pretraining",
    "finetuning",
    "probe",
    "solving",
    "equal_compute",
    "supervised",
    "unseen",
    "flat",
    "files",
    "instances",
)


def planned(stage: str, plan: Plan, folder: Path, files: tuple[str, ...] = ()) -> list[Piece]:
    """The pieces of a stage, one seed after the other, so that a study that is cut short has all arms of some seeds."""

    def piece(name: str, function, *arguments) -> Piece:
        return Piece(stage, name, function, (plan, folder, *arguments))

    made: list[Piece] = []
    for seed in range(plan.seeds):
        early = seed < plan.few_seeds
        match stage:
            case "pretraining":
                made += [piece(f"{name}-seed{seed}", arms.pretrain, name, seed) for name in ARMS if name not in RANDOM]
            case "probe":
                made += [piece(f"{name}-seed{seed}", experiments.probed, name, seed) for name in ARMS]
                made += [
                    piece(f"{name}_states-seed{seed}", experiments.probed_states, name, seed)
                    for name in ("shown", "predicted")
                ]
                made += [piece("ceilings", experiments.ceilings)] if seed == 0 else []
            case "finetuning":
                for n in plan.sizes if early else plan.sizes[:2]:
                    for name, frozen in FINETUNED[n]:
                        label = f"{name}{'-frozen' if frozen else ''}-n{n}-seed{seed}"
                        made.append(piece(label, experiments.finetuned, name, seed, n, frozen, plan.few_lps))
            case "equal_compute":
                made += [
                    piece(f"{name}-seed{seed}", experiments.at_equal_compute, name, seed) for name in EQUAL_COMPUTE
                ]
            case "supervised":
                made += [
                    piece(f"{name}-{count}labels-seed{seed}", experiments.supervised, name, seed, count)
                    for name in ("random", "random_s")
                    for count in plan.labels[plan.sizes[0]][1:]
                ]
            case "unseen" if early:
                made += [
                    piece(f"{RECOMMENDED}-{family}-seed{seed}", experiments.probed_unseen, RECOMMENDED, seed, family)
                    for family in FAMILIES
                ]
            case "instances" if early:
                made += [
                    piece(
                        f"{name}-{count}lps-seed{seed}", experiments.finetuned, name, seed, plan.sizes[0], False, count
                    )
                    for name in FEWER_OR_MORE
                    for count in plan.fewer_or_more
                ]
            case "files" if files:
                made += [piece(f"{name}-seed{seed}", experiments.probed_on_files, name, seed, files) for name in FILES]
            case "solving":
                made += [piece(f"{name}-seed{seed}", solving.from_predictions, name, seed) for name in WARM_STARTS]
            case "flat" if early:
                made += [piece(f"{name}-seed{seed}", flat.compared, name, seed) for name in FLAT]
            case _:
                pass
    return made


def main(argv: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(prog="python -m examples.study", description="Does a JEPA term help a KKT net?")
    commands = p.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="compute what has not been computed yet; go on with the same line")
    run.add_argument("--scale", choices=SCALES, default="full", help="small: everything once, to see that it runs")
    run.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    run.add_argument("--folder", type=Path, default=Path("study"), help="for the weights")
    run.add_argument("--results", type=Path, help="default: those of the repository; of a small study, in --folder")
    run.add_argument("--jobs", type=int, default=pieces.cores(), help="processes")
    run.add_argument("--lp_files", nargs="+", default=[], metavar="PATH", help="real LPs, for the stage files")
    report = commands.add_parser("report", help="the tables and figures of what has been computed")
    report.add_argument("--results", type=Path, default=RESULTS)
    report.add_argument("--docs", type=Path, default=RESULTS.parent, help="where the tables and figures go")
    ship = commands.add_parser("ship", help="export the recommended trunk of the first seed as a file of its own")
    ship.add_argument("--folder", type=Path, default=Path("study/full"), help="with the weights")
    ship.add_argument("--path", type=Path, default=TRUNK)
    commands.add_parser("cost", help="measure what a step of each kind costs")
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
    """Results are kept in the repository and weights are not: where they are missing they are trained anew."""
    return (folder / "weights" / f"{piece.name}.safetensors").exists()


if __name__ == "__main__":
    main()
