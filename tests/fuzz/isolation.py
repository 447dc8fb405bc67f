"""Judge an input in a process of its own, in which it may hang, crash and ask for all memory."""

import faulthandler
import json
import os
import resource
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, NoReturn

import torch

from .judging import FAILED, OURS, Input, Verdict, judged

torch.set_num_threads(1)  # a fork of a process with a pool of threads waits for ever for those it does not have
PATIENCE = 3  # times the limit; an input that still runs then is a hang in C++, which no signal interrupts


def isolated(made: Input, seconds: float, memory: float) -> Verdict:
    """Return the verdict on an input that may take `seconds` and `memory` GiB. If its process dies, it has failed."""
    with tempfile.TemporaryFile("w+") as report, tempfile.TemporaryFile("w+") as errors:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads of BLAS, which the fork does not need
            child = os.fork()
        if not child:
            _judge(made, seconds, memory, report, errors)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        report.seek(0)
        errors.seek(0)
        written = report.read()
        return Verdict(*json.loads(written)) if written else _death(made, code, errors.read())


def _judge(made: Input, seconds: float, memory: float, report: Any, errors: Any) -> NoReturn:
    """Write the verdict, and end the process. What C++ prints goes nowhere."""
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(errors.fileno(), 2)
        faulthandler.enable(errors)
        faulthandler.dump_traceback_later(PATIENCE * seconds, exit=True, file=errors)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + int(memory * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        report.write(json.dumps(judged(made, seconds)))
        report.flush()
        code = 0
    finally:
        sys.stdout.flush()
        os._exit(code)


def _death(made: Input, code: int, errors: str) -> Verdict:
    how = "hang" if "Timeout (" in errors else f"crash with exit code {code}"
    frames = [line.strip() for line in errors.splitlines() if any(folder in line for folder in OURS)]
    return Verdict(FAILED, " ".join([how, *frames[:1]]), f"{made.said}: {' '.join(errors.split())[-500:]}")
