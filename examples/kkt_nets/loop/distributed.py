"""The processes of one run, as `torchrun` starts them: the device of each, one voice, one end; and what ends a run.

SIGTERM and SIGINT, by which a scheduler or a user ends it, take effect after its running step, with a checkpoint.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from functools import partial
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from data.batches import SIGNALS

from jepa_ssl import processes

ENVIRONMENT = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
MISSED = (
    "train.py: error: another process of this run has ended, and this one with it. See what the other one said, or who "
    "killed it; --resume goes on from the last checkpoint."
)
# Seconds in which a second signal is the same request: a terminal and a launcher both pass one on.
ECHO = 1.0
PATIENCE = timedelta(hours=6)  # the others wait while the first process generates all the data


def device(name: str) -> torch.device:
    """The device that `--devices` asks for; without a GPU always the CPU. Several processes count on from there."""
    if name != "cpu" and not name.isdecimal():
        raise ValueError(f"--devices is {name}, but must be cpu or one GPU's number.")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    process, found = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if int(name) + process >= found:
        others = f" for process {process} of this machine" if process else ""
        raise ValueError(f"--devices is {name}{others}, but there are {found} GPUs, counted from 0.")
    return torch.device("cuda", int(name) + process)


@contextmanager
def group() -> Iterator[None]:
    """Join the processes that `torchrun` started, if it did. Only the first one is heard.

    An error on one of them ends all: the first to fail says why, the others end with code 2. If a process ends without
    a word, for example because it was killed, another one says that it is missing.
    """
    if not os.environ.keys() >= ENVIRONMENT:
        yield
        return
    # Tensors on the CPU go over gloo, even with GPUs, so they do not wait for a GPU.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend, timeout=PATIENCE)
    except RuntimeError as error:  # no port, for example, or one of the others has gone
        print(f"train.py: error: the processes do not find each other: {str(error).splitlines()[0]}", file=sys.stderr)
        sys.exit(2)
    try:
        with ExitStack() as silence:
            if not is_first():
                nowhere = silence.enter_context(open(os.devnull, "w"))
                silence.enter_context(redirect_stdout(nowhere))
                silence.enter_context(redirect_stderr(nowhere))
            yield
            wait()  # for a process that leaves first takes along what the others still need
    except SystemExit:  # its reason has been given
        is_first_to_fail()
        raise
    except Exception as error:
        # Gloo's errors have no separate class, but name its source file.
        if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "/gloo/" in str(error)):
            if is_first_to_fail(unknown=processes.rank() == 1):
                print(MISSED, file=sys.__stderr__)
        elif is_first_to_fail():
            raise
        sys.exit(2)
    dist.destroy_process_group()  # not after an error: the others may never come


def is_first() -> bool:
    """Whether this process writes the run's files and messages."""
    return processes.rank() == 0


def is_first_to_fail(unknown: bool = False) -> bool:
    """Whether no other process has failed before this one; from now on the others know that this one has.

    Without `torchrun` the first process itself keeps the count, and takes it along as it ends; then it is `unknown`.
    """
    if not dist.is_initialized():
        return True
    # torch's store would say with a stack trace that it has gone; as that is C++, the file itself is put out of reach.
    heard, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        return dist.distributed_c10d._get_default_store().add("failed", 1) == 1
    except RuntimeError:
        return unknown
    finally:
        os.dup2(heard, 2)
        os.close(heard)
        os.close(nowhere)


def complain(message: str) -> None:
    """Print to the true stderr, unless another process has complained already."""
    if is_first_to_fail():
        print(message, file=sys.stderr if is_first() else sys.__stderr__)


def largest(value: int) -> int:
    """The largest of the processes' values; each waits for the others."""
    if not dist.is_initialized():
        return value
    shared = torch.tensor(value)  # on the CPU: to read it must not wait for a GPU
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    return int(shared)


wait = partial(largest, 0)  # until all processes have come here


@contextmanager
def first_one_first() -> Iterator[None]:
    """The first process runs the block first; the others follow, and find what it has made."""
    if not is_first():
        wait()
    yield
    if is_first():
        wait()


class Interrupted(SystemExit):
    """A signal ended the run; the process ends with the conventional code, 128 and the signal's number."""

    def __init__(self, number: int, where: str) -> None:
        super().__init__(128 + number)
        self.said = f"interrupted by {signal.Signals(number).name} {where}"


class Interrupts:
    """In its block the first signal is kept for `agreed`, and a second one ends the process at once.

    Until `can_save` is set, the first one ends the block with `Interrupted`. Python lets only the main thread handle
    signals, so in another thread the block does not change them.
    """

    def __init__(self) -> None:
        self.can_save = False
        self._number, self._since = 0, 0.0  # of the signal, if there was one
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agreed(self) -> int:
        """The number of the signal that one of the processes has received, the same on all of them; 0 if none has.

        All processes must ask after the same steps.
        """
        return largest(self._number)

    def _receive(self, number: int, _: FrameType | None) -> None:
        if not self._number:
            self._number, self._since = number, time.monotonic()
            if not self.can_save:
                raise Interrupted(number, "before the first step; start it again.")
        elif time.monotonic() - self._since > ECHO:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
