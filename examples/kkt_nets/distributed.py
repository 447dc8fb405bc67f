"""The processes of one run, as `torchrun` starts them: one batch, one voice, one end. A run by itself has no group."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta

import torch
import torch.distributed as dist

from jepa_ssl import processes

ENVIRONMENT = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
MISSED = (
    "train.py: error: another process of this run has ended, and this one with it. See what the other one said, or who "
    "killed it; --resume goes on from the last checkpoint."
)
PATIENCE = timedelta(hours=6)  # the others wait while the first process generates all the data


@contextmanager
def group() -> Iterator[None]:
    """Joins the processes that `torchrun` started, if it did. The first one alone is heard.

    An error on one of them ends all: who fails first says why, the others end with code 2 as soon as they miss it. Of
    one that ends without a word, killed for example, another one says that it is missed.
    """
    if not os.environ.keys() >= ENVIRONMENT:
        yield
        return
    # What is on a CPU goes over gloo beside GPUs too, and so waits for none of them.
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
            wait()  # for who leaves first takes along what the others still need
    except SystemExit:  # it has been said why
        is_first_to_fail()
        raise
    except Exception as error:
        if _is_of_a_lost_process(error):
            if is_first_to_fail(unknown=processes.rank() == 1):
                print(MISSED, file=sys.__stderr__)
        elif is_first_to_fail():
            raise
        sys.exit(2)
    dist.destroy_process_group()  # not after an error: the others may never come


def is_first() -> bool:
    """Whether this process writes the run's files, and speaks for it."""
    return processes.rank() == 0


def is_first_to_fail(unknown: bool = False) -> bool:
    """Whether no other process has failed before this one, which the others know from now on to have failed.

    Without `torchrun` the first process itself keeps the count, and takes it along as it ends; then it is `unknown`.
    """
    if not dist.is_initialized():
        return True
    try:
        with _unheard():
            return dist.distributed_c10d._get_default_store().add("failed", 1) == 1
    except RuntimeError:
        return unknown


def _is_of_a_lost_process(error: Exception) -> bool:
    """Gloo's errors have no class of their own, but name its source file."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "/gloo/" in str(error))


def complain(message: str) -> None:
    """To the true stderr, unless another process has complained already."""
    if is_first_to_fail():
        print(message, file=sys.stderr if is_first() else sys.__stderr__)


@contextmanager
def _unheard() -> Iterator[None]:
    """Inside it C++ code writes nothing to stderr: torch's store would say with a stack trace that it has gone."""
    heard, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(heard, 2)
        os.close(heard)
        os.close(nowhere)


def largest(value: int) -> int:
    """Of the processes' values; each waits for the others."""
    if not dist.is_initialized():
        return value
    shared = torch.tensor(value)  # on the CPU: to read it must not wait for a GPU
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    return int(shared)


def wait() -> None:
    """Until all processes have come here."""
    largest(0)


@contextmanager
def first_one_first() -> Iterator[None]:
    """The first process passes through the block alone; the others follow, and find what it has made."""
    if not is_first():
        wait()
    yield
    if is_first():
        wait()
