"""Judge one input: accepted, refused in the package's own words, or a failure."""

import linecache
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn

ROOT = Path(__file__).parents[2]
OURS = (str(ROOT / "jepa_ssl"), str(ROOT / "examples"))

ACCEPTED, REFUSED, LEFT, TOO_LARGE, FAILED = "accepted", "refused", "left", "too large", "failed"
VERDICTS = (ACCEPTED, REFUSED, LEFT, TOO_LARGE, FAILED)

# torch's own messages about tensors on two devices, or on the meta device. They name the devices, which is enough.
DEVICES = ("expected device", "same device", "meta tensor")
# Messages of torch, numpy and Python to a caller who asks for more memory than there is.
NO_ROOM = ("can't allocate memory", "Storage size", "multiplication overflow", "Unable to allocate", "bad allocation")


class Hang(BaseException):
    """An input took too long. It is not an `Exception`, so that no code on the way handles it."""


def raised_on_purpose(error: BaseException) -> bool:
    """Return whether a `raise` statement of the package raised the error."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not frames[-1].filename.startswith(OURS):
        return False
    return linecache.getline(frames[-1].filename, frames[-1].lineno or 0).strip().startswith("raise ")


@dataclass
class Input:
    """One input: its description, and a function that uses it.

    Args:
        said: the description, shown by `str`.
        run: raises an `AssertionError` where the package breaks a promise.
        refuses: says whether the package should raise a given error.
        mistyped: an argument has another Python type than its annotation. Python may then refuse it with its own
            `TypeError` or `AttributeError`.
    """

    said: object
    run: Callable[[], object]
    refuses: Callable[[BaseException], bool] = raised_on_purpose
    mistyped: bool = False

    def __repr__(self) -> str:
        return str(self.said)


class Verdict(NamedTuple):
    """A verdict: its kind, for a failure its place, and a description of the input and of the error."""

    kind: str
    place: str
    said: str


def judged(made: Input, seconds: float) -> Verdict:
    """Run one input for at most `seconds`."""
    try:
        with _limited(seconds), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made.run()
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        kind = _kind(error, made)
        said = f"{made.said}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return Verdict(kind, _place(error) if kind == FAILED else "", said)
    return Verdict(ACCEPTED, "", str(made.said))


def _kind(error: BaseException, made: Input) -> str:
    if isinstance(error, Hang | AssertionError):
        return FAILED
    if made.refuses(error):
        return REFUSED
    ordinary = isinstance(error, TypeError | AttributeError | ValueError | RuntimeError | LookupError)
    if ordinary and (made.mistyped or any(words in str(error) for words in DEVICES)):
        return LEFT
    asked_for_too_much = isinstance(error, MemoryError | OverflowError) or any(s in str(error) for s in NO_ROOM)
    return TOO_LARGE if asked_for_too_much else FAILED


def _place(error: BaseException) -> str:
    """The line of the package where the error happened, or else of the fuzzer."""
    frames = traceback.extract_tb(error.__traceback__)
    inner = [frame for frame in frames if frame.filename.startswith(OURS)] or frames[-1:]
    return f"{inner[-1].filename.removeprefix(f'{ROOT}/')}:{inner[-1].lineno} {type(error).__name__}"


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def late(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise Hang(f"still running after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
