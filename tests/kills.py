"""Kills `train.py` at random moments and starts it again with the same command line, until it is done.

    python tests/kills.py --kills 200

Each attempt is one process or two that train together, forks of this one, which has imported everything once.
It ends by SIGKILL, and now and then by SIGTERM or SIGINT. What the last attempt leaves behind must be what one unbroken
attempt leaves: `last.pt`, `best.pt` and `metrics.jsonl`, bit for bit, and no other file.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples" / "kkt_nets")]
os.environ["WANDB_MODE"] = "disabled"

import torch  # noqa: E402
import train  # noqa: E402
from runs import TINY, checkpoint, differences, free_port  # noqa: E402
from tqdm import tqdm  # noqa: E402

RUN = [*TINY, "--epochs", "8", "--checkpoint_every", "2", "--monitor_every", "2", "--resume", "auto"]
FLAT = ["--use_jepa", "--ema_schedule", "cosine", "--log_every", "3"]
GRAPH = ["--use_bipartite_graphs", "--use_jepa", "--jepa_regularizer", "sigreg", "--jepa_balance", "--log_every", "3"]
SETTINGS = {
    "flat": (FLAT, 1),
    "graph": (GRAPH, 1),
    "workers": ([*FLAT, "--num_workers", "1", "--epochs", "5"], 1),
    "processes": (GRAPH, 2),
}  # flags, and how many processes


class Attempt:
    """One start of `train.py`, as `processes` processes that train together."""

    def __init__(self, flags: list[str], folder: Path, processes: int) -> None:
        self.folder, self.flags = folder, [*RUN, *flags, "--output_dir", str(folder)]
        self.terminal = folder.with_name(f"{folder.name}.txt")
        group = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        ranks = [{**group, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
        self.children = [self._start(rank if processes > 1 else {}) for rank in ranks]
        self.codes: dict[int, int] = {}

    def _start(self, environment: dict[str, str]) -> int:
        sys.stdout.flush()
        child = os.fork()
        if child:
            return child
        code = 70
        try:
            os.setsid()  # so that its workers can be reached with it
            os.environ.update(environment)
            descriptor = os.open(self.terminal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            # tqdm's lock is one for all forks, and one that is killed while it holds it would stop the others for ever.
            tqdm.set_lock(threading.RLock())
            train.main(self.flags)
            code = 0
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def runs(self) -> bool:
        for child in self.children:
            if child not in self.codes and (ended := os.waitpid(child, os.WNOHANG))[0]:
                self.codes[child] = os.waitstatus_to_exitcode(ended[1])
        return len(self.codes) < len(self.children)

    def wait(self) -> list[int]:
        """The exit codes, below 0 where a signal ended the process."""
        while self.runs():
            time.sleep(0.001)
        return [self.codes[child] for child in self.children]

    def said(self) -> str:
        return self.terminal.read_text() if self.terminal.exists() else ""


# ---- moments to kill at ----------------------------------------------------------------------------------------------


def moment(folder: Path, rng: random.Random) -> tuple[str, Callable[[], bool]]:
    """Where it strikes, and whether that moment has come; to be asked again and again."""
    where = rng.choice(("anywhere", "row", "write", "write"))
    if where == "anywhere":
        end = time.monotonic() + rng.uniform(0.0, 0.4)
        return where, lambda: time.monotonic() > end
    seen = changes(lambda: size(folder) if where == "row" else temporaries(folder))
    left = rng.randint(3, 8)  # the log is rewritten first, so there is some way to go to the first checkpoint

    def has_come() -> bool:
        nonlocal left
        left -= next(seen)
        if left <= 0:
            time.sleep(rng.uniform(0.0, 0.004))
        return left <= 0

    return where, has_come


def changes(look: Callable[[], Any]) -> Iterator[bool]:
    """Whether something else that is not nothing is seen than the last time."""
    before = None
    while True:
        now = look()
        yield bool(now) and now != before
        before = now


def size(folder: Path) -> int:
    log = folder / "metrics.jsonl"
    try:
        return log.stat().st_size
    except FileNotFoundError:
        return 0


def temporaries(folder: Path) -> set[str]:
    """The unfinished files."""
    return {file.name for file in folder.glob(".*.tmp")}


# ---- until it is done ------------------------------------------------------------------------------------------------


def survive(name: str, kills: int, seed: int, work: Path) -> Counter[str]:
    """Strikes so often; each time a run is done, it is compared, and another one begun. Where it struck."""
    flags, processes = SETTINGS[name]
    flags = [*flags, "--data_root", str(work / "data")]
    unbroken, rng, struck = work / f"{name}-unbroken", random.Random(seed), Counter[str]()
    expect(Attempt(flags, unbroken, processes), [0] * processes)
    while struck["kills"] < kills:
        folder = work / f"{name}-{struck['runs']}"
        while struck["kills"] < kills and strike(Attempt(flags, folder, processes), rng, struck):
            pass
        expect(Attempt(flags, folder, processes), [0] * processes)
        compare(folder, unbroken)
        struck["runs"] += 1
    return struck


def strike(attempt: Attempt, rng: random.Random, struck: Counter[str]) -> bool:
    """Ends the attempt at a random moment, and counts how; False if it was done before."""
    where, has_come = moment(attempt.folder, rng)
    number = rng.choice([signal.SIGKILL] * 3 + [signal.SIGTERM, signal.SIGINT] * (where != "anywhere"))
    while attempt.runs() and not has_come():
        time.sleep(0.0002)
    if not attempt.runs():
        return False
    victim = rng.choice([child for child in attempt.children if child not in attempt.codes])
    (os.kill if number == signal.SIGKILL else os.killpg)(victim, number)  # a terminal's or scheduler's reaches all
    codes = set(attempt.wait())
    if codes == {0}:
        return False
    if number == signal.SIGKILL:
        struck.update({"kills": 1, where: 1, "in a write": bool(temporaries(attempt.folder))})
        others = {0, 2} if len(attempt.children) > 1 else set[int]()
        as_expected = {-signal.SIGKILL} <= codes <= {-signal.SIGKILL} | others and "Traceback" not in attempt.said()
    else:
        struck["asked to end"] += 1
        as_expected = codes == {128 + number} and not temporaries(attempt.folder)
    if not as_expected:
        raise AssertionError(f"{number.name} at {where}: the processes ended with {codes}:\n{attempt.said()}")
    return True


def expect(attempt: Attempt, codes: list[int]) -> None:
    found = attempt.wait()
    if found != codes:
        raise AssertionError(f"{attempt.folder} ended with {found}, not {codes}:\n{attempt.said()}")


def compare(folder: Path, unbroken: Path) -> None:
    files = [{file.name for file in path.iterdir()} for path in (folder, unbroken)]
    found = [] if files[0] == files[1] else [f"the files are {files[0]}, not {files[1]}"]
    for name in ("last.pt", "best.pt"):
        states = [checkpoint(path, name) for path in (folder, unbroken)]
        for state in states:
            del state["args"]  # which name the folder
        found += [f"{name}: {difference}" for difference in differences(states[0], states[1])]
    logs = [(path / "metrics.jsonl").read_bytes() for path in (folder, unbroken)]
    found += ["metrics.jsonl"] if logs[0] != logs[1] else []
    if found:
        raise AssertionError(f"{folder} differs from the unbroken run in {found}")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ", ".join(SETTINGS)
    p.add_argument(
        "settings", nargs="*", default=list(SETTINGS), metavar="SETTING[=KILLS]", help=f"{names}; default: all"
    )
    p.add_argument("--kills", type=int, default=25, help="in each setting that has no number of its own")
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        for setting in args.settings:
            started, (name, _, kills) = time.monotonic(), setting.partition("=")
            struck = survive(name, int(kills or args.kills), args.seed, Path(work))
            print(json.dumps({"setting": name, "seconds": round(time.monotonic() - started, 1), **struck}), flush=True)


if __name__ == "__main__":
    main()
