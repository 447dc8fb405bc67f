"""SIGTERM and SIGINT, by which a scheduler or a user ends a run: after its running step, with a checkpoint."""

import os
import signal
import time
from types import FrameType, TracebackType
from typing import Any

import distributed

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Seconds in which a signal is the same request once more: a terminal and a launcher both pass one on.
ECHO = 1.0


class Interrupted(SystemExit):
    """A signal ended the run; the process ends with the conventional code, 128 and the signal's number."""

    def __init__(self, number: int, where: str) -> None:
        super().__init__(128 + number)
        self.said = f"interrupted by {signal.Signals(number).name} {where}"


class Interrupts:
    """In its block the first signal is kept for `agreed`, and a second one ends the process at once.

    Until `wait` is called there is nothing to save, and the first one ends the block with `Interrupted`.
    """

    def __init__(self) -> None:
        self._number = 0  # of the signal, if there was one
        self._since = 0.0
        self._waits = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wait(self) -> None:
        """From now on there is something to save: a signal waits until `agreed` is asked."""
        self._waits = True

    def agreed(self) -> int:
        """The number of the signal that one of the processes has received, the same on all of them; 0 if none has.

        All processes must ask after the same steps.
        """
        return distributed.largest(self._number)

    def _receive(self, number: int, _: FrameType | None) -> None:
        if not self._number:
            self._number, self._since = number, time.monotonic()
            if not self._waits:
                raise Interrupted(number, "before the first step; start it again.")
        elif time.monotonic() - self._since > ECHO:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def left_to_the_main_process(worker: int) -> None:
    """For a loader's workers: a signal that reaches them too must not end them before the running step."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
