"""What a fuzzer has to survive: an error, a hang in Python and in C, a crash, a grab for all memory."""

import ctypes
import itertools
import random
import time

from ..judging import Input, Target

FAULTS = {
    "fine": lambda: None,
    "error": lambda: 1 / 0,
    "hang": lambda: time.sleep(3600),
    "deaf hang": lambda: sum(itertools.repeat(0)),  # in C, with the interpreter's lock, so that no signal is seen
    "crash": lambda: ctypes.string_at(0),
    "memory": lambda: bytearray(2**40),
}


def target() -> Target:

    def make(rng: random.Random) -> Input:
        kind = rng.choice(list(FAULTS))
        return Input(kind, FAULTS[kind])

    return make
