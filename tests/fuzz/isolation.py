"""A process in which inputs may hang, crash and ask for all memory; the next input gets a new one."""

import faulthandler
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from .judging import FAILED, ROOT, Target, Verdict, judged

PATIENCE = 3  # times the limit, until an input that no signal reaches is taken for a hang in C++


def verdicts(name: str, inputs: range, seed: int, seconds: float, memory: float) -> Iterator[Verdict]:
    """The verdict on each of `inputs` of a target; a worker that dies is the verdict on the input it had."""
    index = inputs.start
    while index < inputs.stop:
        with tempfile.TemporaryFile("w+") as errors:
            command = [sys.executable, "-m", "tests.fuzz", name, "--work", str(index), str(inputs.stop)]
            command += ["--seed", str(seed), "--seconds", str(seconds), "--memory", str(memory)]
            with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True) as worker:
                assert worker.stdout is not None
                try:
                    for line in worker.stdout:
                        verdict = Verdict(**json.loads(line))
                        index = verdict.index + 1
                        yield verdict
                finally:
                    if worker.poll() is None and index < inputs.stop:
                        worker.kill()
            if index < inputs.stop:
                errors.seek(0)
                yield _death(index, worker.returncode, errors.read(), seconds)
                index += 1


def _death(index: int, code: int, errors: str, seconds: float) -> Verdict:
    how = "hang" if "Timeout (" in errors else f"crash with exit code {code}"
    frames = [line.strip() for line in errors.splitlines() if str(ROOT) in line and "tests/fuzz" not in line]
    return Verdict(index, FAILED, PATIENCE * seconds, f"{how} {' '.join(frames[:1])}", " ".join(errors.split())[-500:])


def work(name: str, target: Target, inputs: range, seed: int, seconds: float, memory: float) -> None:
    """Writes a verdict a line to what was stdout; what C++ prints goes nowhere."""
    os.nice(10)
    report = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    faulthandler.enable()
    here = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = here + int(memory * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for index in inputs:
        faulthandler.dump_traceback_later(PATIENCE * seconds, exit=True)
        report.write(json.dumps(asdict(judged(name, target, seed, index, seconds))) + "\n")
    faulthandler.cancel_dump_traceback_later()
