"""SIGTERM and SIGINT."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data.batches import SIGNALS
from loop import distributed
from loop.distributed import Interrupted, Interrupts

each_signal = pytest.mark.parametrize("number", SIGNALS)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def died_of(action) -> int:
    """The exit code of a process that does `action`, below 0 if a signal ended it."""
    child = os.fork()
    if not child:
        action()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@each_signal
def test_the_first_one_waits_until_it_is_asked_for(number):
    with Interrupts() as received:
        received.can_save = True
        assert received.agreed() == 0
        send(number)
        assert received.agreed() == number


@each_signal
def test_before_there_is_anything_to_save_it_ends_the_block_with_the_conventional_code(number):
    with pytest.raises(Interrupted) as stopped, Interrupts():
        send(number)
    assert stopped.value.code == 128 + number
    assert stopped.value.said.startswith(f"interrupted by {signal.Signals(number).name} before the first step")


@each_signal
def test_a_second_one_ends_the_process_at_once(monkeypatch, number):
    monkeypatch.setattr(distributed, "ECHO", -1.0)

    def receive_two() -> None:
        with Interrupts() as received:
            received.can_save = True
            send(signal.SIGTERM)
            send(number)

    assert died_of(receive_two) == -number


def test_the_same_request_passed_on_by_a_terminal_and_a_launcher_is_one():
    def receive_two() -> None:
        with Interrupts() as received:
            received.can_save = True
            send(signal.SIGINT)
            send(signal.SIGTERM)
            os._exit(received.agreed())

    assert died_of(receive_two) == signal.SIGINT


def test_the_handlers_of_before_are_back_after_the_block():
    before = [signal.getsignal(number) for number in SIGNALS]
    with Interrupts():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_run_off_the_main_thread_leaves_signals_as_they_are(run_training: Callable[..., Any], tmp_path: Path):
    before = [signal.getsignal(number) for number in SIGNALS]
    runs: list[Any] = []
    thread = threading.Thread(target=lambda: runs.append(run_training("--epochs", 1, "--output_dir", tmp_path / "run")))
    thread.start()
    thread.join()
    assert runs
    assert (tmp_path / "run" / "last.pt").exists()
    assert [signal.getsignal(number) for number in SIGNALS] == before
