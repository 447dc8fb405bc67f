"""The command line: runs targets, shows a bar, and ends with a table of counts."""

import argparse
import importlib
import sys
from collections import Counter

from tqdm import tqdm

from .isolation import verdicts, work
from .judging import FAILED, ROOT, VERDICTS, Target, Verdict, judged, random_of

TARGETS = ("files", "flags", "calls", "numbers", "graphs", "batches")
FAULTS = "faults"  # of a target that hangs and crashes: the fuzzer's own test


def target_of(name: str) -> Target:
    for folder in (ROOT, ROOT / "tests", ROOT / "examples" / "kkt_nets"):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    return importlib.import_module(f".targets.{name}", __package__).target()


def main() -> int:
    p = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    p.add_argument("targets", nargs="*", metavar="TARGET", default=TARGETS, choices=(*TARGETS, FAULTS))
    p.add_argument("--inputs", type=int, default=1000, help="of each target")
    p.add_argument("--first", type=int, default=0, help="number of the first input")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--seconds", type=float, default=20.0, help="that an input may take")
    p.add_argument("--memory", type=float, default=3.0, metavar="GIB", help="that an input may take")
    p.add_argument("--replay", type=int, metavar="INPUT", help="run this input in this process, with its traceback")
    p.add_argument("--work", type=int, nargs=2, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.work is not None:
        work(args.targets[0], target_of(args.targets[0]), range(*args.work), args.seed, args.seconds, args.memory)
        return 0
    if args.replay is not None:
        return replay(args.targets[0], args.seed, args.replay, args.seconds)
    inputs = range(args.first, args.first + args.inputs)
    counts = {name: run(name, inputs, args) for name in args.targets}
    print(table(counts))
    return int(any(of_target[FAILED] for of_target in counts.values()))


def run(name: str, inputs: range, args: argparse.Namespace) -> Counter[str]:
    """Counts of the verdicts; each place of failure is printed once, with an input to replay it."""
    counts: Counter[str] = Counter()
    places: dict[str, list[Verdict]] = {}
    bar = tqdm(verdicts(name, inputs, args.seed, args.seconds, args.memory), desc=name, total=len(inputs), unit="input")
    for verdict in bar:
        counts[verdict.kind] += 1
        if verdict.kind == FAILED:
            places.setdefault(verdict.place, []).append(verdict)
            bar.set_postfix(failed=counts[FAILED])
    for place, failures in sorted(places.items(), key=lambda item: -len(item[1])):
        shortest = min(failures, key=lambda verdict: len(verdict.said))
        print(f"{name} --seed {args.seed} --replay {shortest.index}, one of {len(failures)} at {place}")
        print(f"    {shortest.said}")
    return counts


def replay(name: str, seed: int, index: int, seconds: float) -> int:
    target = target_of(name)
    verdict = judged(name, target, seed, index, seconds)
    print(verdict)
    if verdict.kind == FAILED:
        target(random_of(name, seed, index)).run()
    return int(verdict.kind == FAILED)


def table(counts: dict[str, Counter[str]]) -> str:
    head = ("target", "inputs", *VERDICTS)
    rows = [(name, str(c.total()), *(str(c[kind]) for kind in VERDICTS)) for name, c in counts.items()]
    total = sum(counts.values(), Counter[str]())
    rows.append(("all", str(total.total()), *(str(total[kind]) for kind in VERDICTS)))
    return "\n".join("  ".join(cell.rjust(9) for cell in row) for row in (head, *rows))


if __name__ == "__main__":
    sys.exit(main())
