"""Hostile input, a little of it each time (`python -m tests.fuzz` has more), and what fuzzing has found so far."""

import gzip
import os
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import lines_run, offsets, ragged_graphs

from jepa_ssl import BipartiteGraph, FlatVectors, NodeMasker
from jepa_ssl.checks import MOST, whole_number

pytest.importorskip("highspy")
pytest.importorskip("torch_geometric")
from data import readers, solve
from data.lp import LPError
from data.lp_format import read_lp_format
from data.readers import read_lp
from fuzz.__main__ import TARGETS, fuzz
from fuzz.judging import Input, judged

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_inputs_are_accepted_or_refused_in_the_packages_own_words(monkeypatch, name):
    monkeypatch.setattr(solve, "MIP_SECONDS", 1.0)
    counts, failures = fuzz(name, 60, seed=0, judge=lambda made: judged(made, seconds=20.0))
    assert failures == []
    assert counts["accepted"] >= 3


@pytest.mark.slow
def test_a_hang_a_crash_a_grab_for_memory_and_an_error_are_judged_and_shrunk():
    command = [sys.executable, "-m", "tests.fuzz", "faults", "--inputs", "20", "--seed", "0", "--seconds", "0.2"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    places = re.findall(r"^faults, (?:tests/fuzz/)?(.*)$", done.stdout, re.MULTILINE)
    errors = {re.sub(r":\d+", "", place) for place in places}
    own = {"targets/faults.py RuntimeError", "targets/faults.py ZeroDivisionError", "judging.py Hang"}
    assert errors == {"crash with exit code -11", "hang", *own}  # one hang is interrupted, the other is in C
    assert done.stdout.count("--replay") == 5
    accepted, refused, left, too_large, failed = map(int, done.stdout.splitlines()[-1].split()[2:])
    assert (accepted, refused, left, too_large) == (1, 0, 0, 1)  # too large is the grab for memory
    assert failed >= 5


# ---- found in model files --------------------------------------------------------------------------------------------

MODEL = "NAME t\nROWS\n N cost\n G r\nCOLUMNS\n x cost 1 r 1\nRHS\n h r 2\nENDATA\n"


def refused(path: Path) -> str:
    with pytest.raises(LPError) as error:
        read_lp(path)
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value)


def test_an_archive_that_unpacks_to_more_than_is_read_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "LARGEST_TEXT", 2**20)
    path = tmp_path / "bomb.mps.gz"
    path.write_bytes(gzip.compress(MODEL.encode() + b"\n" * 2**21))
    assert "more than 1048576 bytes" in refused(path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.mps")
    assert "not a regular file" in refused(tmp_path / "pipe.mps")


def test_text_that_is_not_utf8_in_a_message_is_no_crash(tmp_path):
    path = tmp_path / "latin.mps"
    path.write_bytes(MODEL.encode().replace(b" h r 2", b" h \xf4 2"))
    assert "'\\udcf4' is not declared above" in refused(path)
    path.write_bytes(b"* caf\xe9\n" + MODEL.encode())
    assert read_lp(path).columns == 1


def test_a_damaged_file_that_crashes_the_reader_of_names_with_spaces_is_refused(tmp_path):
    path = tmp_path / "spaces.mps"
    path.write_bytes(b"R10\n   COST\nCOLUMNS\n    C1        R7         -1.0\nend\n    C3        R7            Infinity")
    assert "line 1, in section 'R10': a linear model has no such section" in refused(path)
    path.write_text(MODEL.replace("G r", "G long r"))
    assert "line 4, in section 'ROWS': 'G long r' is not one of N, L, G, E and a new name" in refused(path)


@pytest.mark.parametrize("piece", ["st ", "1", ".", "a", "1.", "< -"])
def test_reading_a_long_text_does_not_hang(piece):
    """An expression that backtracks took a minute for a tenth of such a text, so a hundred minutes for all of it."""
    body = piece * (200_000 // len(piece))

    def read() -> None:
        for text in (f"min\n obj: x\n{body}", f"min\n obj: x\nst\n a: {body} x >= 2\nend\n"):
            with suppress(LPError):
                read_lp_format(text.encode())

    assert judged(Input(piece, read), seconds=20.0).kind == "accepted"


# ---- found in tensors ------------------------------------------------------------------------------------------------


def test_an_instance_on_two_devices_is_refused():
    graph = ragged_graphs([2, 1], [1, 2])
    with pytest.raises(ValueError, match="constraint_offsets is on meta, but constraint_features on cpu"):
        replace(graph, constraint_offsets=offsets([2, 1]).to("meta"))
    with pytest.raises(ValueError, match="valid is on meta, but values on cpu"):
        FlatVectors(torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool, device="meta"))


def test_a_count_that_no_machine_has_is_refused():
    assert whole_number("steps", MOST, least=1) == MOST
    with pytest.raises(ValueError, match="steps is 2147483648, but must be a whole number that is at most 2147483647"):
        whole_number("steps", MOST + 1, least=1)


@pytest.mark.slow
def test_a_million_nodes_in_one_graph_beside_a_hundred_of_one():
    lines: list[int] = []
    for largest in (5000, 500_000):
        ends = offsets([1] * 50 + [largest] + [1] * 50)
        ones = torch.ones(int(ends[-1]), 1)
        graph = BipartiteGraph(ones, torch.arange(len(ones)).repeat(2, 1), ones, ones, ends, ends)
        masker = NodeMasker(0.3, hide_edges=True)
        lines.append(lines_run(lambda graph=graph, masker=masker: masker(graph)))
        for kind, mark in masker(graph).hidden.items():
            hidden = torch.zeros(101, dtype=torch.int64).index_add_(0, graph.graph_of(kind), mark.long())
            assert hidden.tolist() == [0] * 50 + [largest * 3 // 10] + [0] * 50
    assert lines[1] < 2 * lines[0]
