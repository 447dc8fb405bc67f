"""Faults that a fuzzer must survive: errors, hangs in Python and in C, a crash, a grab for all memory."""

import ctypes
import itertools
import time

import torch
from hypothesis import strategies as st

from ..judging import Input

FAULTS = {
    "fine": lambda: None,
    "error": lambda: 1 / 0,
    "raw torch error": lambda: torch.ones(2) @ torch.ones(3),
    "hang": lambda: time.sleep(3600),
    "deaf hang": lambda: sum(itertools.repeat(0)),  # in C and with the interpreter's lock: no signal is handled
    "crash": lambda: ctypes.string_at(0),
    "memory": lambda: bytearray(2**40),
}


def inputs() -> st.SearchStrategy[Input]:
    return st.sampled_from([*FAULTS]).map(lambda kind: Input(kind, FAULTS[kind]))
