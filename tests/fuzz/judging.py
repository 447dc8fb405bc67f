"""One input and what became of it: accepted, refused in the package's own words, or a failure."""

import linecache
import random
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

ROOT = Path(__file__).parents[2]
OURS = (str(ROOT / "jepa_ssl"), str(ROOT / "examples"))

ACCEPTED, REFUSED, LEFT, TOO_LARGE, FAILED = "accepted", "refused", "left", "too large", "failed"
VERDICTS = (ACCEPTED, REFUSED, LEFT, TOO_LARGE, FAILED)

# What torch says of tensors on two devices, or on one that holds no numbers: it names them, and that is enough.
DEVICES = ("expected device", "same device", "meta tensor")
# What torch, numpy and Python say where a caller asks for more than there is.
NO_ROOM = ("can't allocate memory", "Storage size", "multiplication overflow", "Unable to allocate", "bad allocation")


class Hang(BaseException):
    """An input took too long. No Exception, so that nothing on the way takes it for an error of its own."""


def raised_on_purpose(error: BaseException) -> bool:
    """Is it an error that the package itself raised, with a `raise` of its own?"""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not frames[-1].filename.startswith(OURS):
        return False
    return linecache.getline(frames[-1].filename, frames[-1].lineno or 0).strip().startswith("raise ")


@dataclass(frozen=True)
class Input:
    """What to do with one input, and what it is, in a line.

    `run` raises an AssertionError where the package breaks a promise. `refuses` says of another error whether it is one
    that the package should raise. `mistyped` inputs have an argument of another Python type than its annotation: to
    refuse those is left to Python, with its own TypeError, AttributeError or their like.
    """

    said: object  # shown by str()
    run: Callable[[], object]
    refuses: Callable[[BaseException], bool] = raised_on_purpose
    mistyped: bool = False


Target = Callable[[random.Random], Input]


@dataclass(frozen=True)
class Verdict:
    """What became of input number `index`; for a failure where it failed, which is the same for many, and how."""

    index: int
    kind: str
    seconds: float
    place: str = ""
    said: str = ""


def random_of(name: str, seed: int, index: int) -> random.Random:
    """All that an input is made of follows from these three."""
    return random.Random(f"{name}/{seed}/{index}")


def judged(name: str, target: Target, seed: int, index: int, seconds: float) -> Verdict:
    """Runs one input, for so many seconds at most."""
    begin, made = time.perf_counter(), None
    try:
        with _limited(seconds), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = target(random_of(name, seed, index))
            made.run()
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        kind, place = _kind(error, made), _place(error)
        said = f"{made.said if made else 'while the input was made'}: {type(error).__name__}: {_short(error)}"
        return Verdict(index, kind, time.perf_counter() - begin, place if kind == FAILED else "", said)
    return Verdict(index, ACCEPTED, time.perf_counter() - begin, said=str(made.said))


def _kind(error: BaseException, made: Input | None) -> str:
    if made is None or isinstance(error, Hang | AssertionError):
        return FAILED
    if made.refuses(error):
        return REFUSED
    ordinary = isinstance(error, TypeError | AttributeError | ValueError | RuntimeError | LookupError)
    if ordinary and (made.mistyped or any(words in str(error) for words in DEVICES)):
        return LEFT
    asked_for_too_much = isinstance(error, MemoryError | OverflowError) or any(s in str(error) for s in NO_ROOM)
    return TOO_LARGE if asked_for_too_much else FAILED


def _place(error: BaseException) -> str:
    """Where in the package it happened; else where in the fuzzer."""
    frames = traceback.extract_tb(error.__traceback__)
    inner = [frame for frame in frames if frame.filename.startswith(OURS)] or frames[-1:]
    path = Path(inner[-1].filename)
    path = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    return f"{path}:{inner[-1].lineno} {type(error).__name__}"


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def late(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise Hang(f"still at it after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
