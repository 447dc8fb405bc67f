"""The command line: run targets, show a bar, and print the failures and a table of counts."""

import argparse
import importlib
import re
import sys
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import hypothesis
from hypothesis.database import DirectoryBasedExampleDatabase
from tqdm import tqdm

from . import __doc__ as about
from .isolation import isolated
from .judging import FAILED, ROOT, VERDICTS, Input, Verdict, judged

TARGETS = ("files", "flags", "calls", "numbers", "graphs", "batches", "hetero", "streams")
FAULTS = "faults"  # this target hangs and crashes: it tests the fuzzer


class Failure(Exception):
    """An input failed. Each place of failure has a subclass, by which hypothesis tells them apart."""


@cache
def failure_at(place: str) -> type[Failure]:
    return type(place, (Failure,), {})


def target_of(name: str) -> Any:
    for folder in (ROOT, ROOT / "tests", ROOT / "examples" / "kkt_nets"):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    return importlib.import_module(f".targets.{name}", __package__).inputs()


def fuzz(
    name: str, inputs: int, seed: int | None, judge: Callable[[Input], Verdict]
) -> tuple[Counter[str], list[BaseException]]:
    """Return how many inputs got each verdict, and a shrunk failure for each place of failure.

    With a seed, the inputs are the same each time. Without one, those that failed the last time come first.
    """
    counts: Counter[str] = Counter()
    database = None if seed is not None else DirectoryBasedExampleDatabase(ROOT / ".hypothesis" / "fuzz" / name)

    @hypothesis.settings(
        max_examples=inputs,
        database=database,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(hypothesis.HealthCheck),  # pyright: ignore[reportArgumentType]
    )
    @hypothesis.given(target_of(name))
    def each(made: Input) -> None:
        verdict = judge(made)
        counts[verdict.kind] += 1
        if verdict.kind == FAILED:
            raise failure_at(verdict.place)(verdict.said)

    try:
        (each if seed is None else hypothesis.seed(seed)(each))()
    except Exception as error:
        return counts, list(getattr(error, "exceptions", [error]))
    return counts, []


def run(name: str, args: argparse.Namespace) -> Counter[str]:
    """Fuzz one target. Print each place of failure with the smallest input that fails there."""
    tqdm.monitor_interval = 0  # no thread beside the forks
    with tqdm(desc=name, total=args.inputs, unit="input") as bar:

        def judge(made: Input) -> Verdict:
            bar.update()
            return isolated(made, args.seconds, args.memory)

        counts, failures = fuzz(name, args.inputs, args.seed, judge)
    for failure in failures:
        blobs = re.findall(r"@reproduce_failure\('.*?', b'(.*?)'\)", "".join(getattr(failure, "__notes__", ())))
        print(f"{name}, {type(failure).__name__}\n    {failure}")
        print(*(f"    python -m tests.fuzz {name} --replay {blob}" for blob in blobs), sep="\n")
    return counts


def replay(name: str, blob: str, seconds: float) -> int:
    @hypothesis.reproduce_failure(hypothesis.__version__, blob.encode())
    @hypothesis.given(target_of(name))
    def once(made: Input) -> None:
        verdict = judged(made, seconds)
        print(verdict)
        if verdict.kind == FAILED:
            made.run()

    once()
    return 0


def table(counts: dict[str, Counter[str]]) -> str:
    head = ("target", "inputs", *VERDICTS)
    total = sum(counts.values(), Counter[str]())
    rows = [
        (name, str(c.total()), *(str(c[kind]) for kind in VERDICTS)) for name, c in {**counts, "all": total}.items()
    ]
    return "\n".join("  ".join(cell.rjust(9) for cell in row) for row in (head, *rows))


def main() -> int:
    p = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("targets", nargs="*", metavar="TARGET", default=TARGETS, choices=(*TARGETS, FAULTS))
    p.add_argument("--inputs", type=int, default=1000, help="give each target this many inputs")
    p.add_argument("--seed", type=int, help="give the same inputs each time (default: others each time)")
    p.add_argument("--seconds", type=float, default=20.0, help="let an input take this many seconds")
    p.add_argument("--memory", type=float, default=3.0, metavar="GIB", help="let an input take this much memory")
    p.add_argument("--replay", metavar="BLOB", help="run this input in this process, with its traceback")
    args = p.parse_args()
    if args.replay is not None:
        return replay(args.targets[0], args.replay, args.seconds)
    counts = {name: run(name, args) for name in args.targets}
    print(table(counts))
    return int(any(of_target[FAILED] for of_target in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
