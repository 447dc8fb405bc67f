"""Hostile input, a little of it each time (`python -m tests.fuzz` has more), and what fuzzing has found so far."""

import gzip
import os
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import offsets, ragged_graphs

from jepa_ssl import BipartiteGraph, FlatVectors, NodeMasker
from jepa_ssl.checks import MOST, whole_number

pytest.importorskip("highspy")
pytest.importorskip("torch_geometric")
import lp as lps
from fuzz.judging import FAILED, judged
from fuzz.targets import batches, calls, files, flags, graphs, numbers
from lp import LPError, read_lp

ROOT = Path(__file__).parents[2]
TARGETS = {
    "files": (files, 60),
    "flags": (flags, 60),
    "calls": (calls, 60),
    "graphs": (graphs, 60),
    "numbers": (numbers, 60),
    "batches": (batches, 60),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_inputs_are_accepted_or_refused_in_the_packages_own_words(monkeypatch, name):
    monkeypatch.setattr(lps, "MIP_SECONDS", 1.0)
    module, inputs = TARGETS[name]
    target = module.target()
    verdicts = [judged(name, target, seed=0, index=index, seconds=20.0) for index in range(1, 1 + inputs)]
    assert [verdict for verdict in verdicts if verdict.kind == FAILED] == []
    assert Counter(verdict.kind for verdict in verdicts)["accepted"] >= inputs // 20


@pytest.mark.slow
def test_a_hang_a_crash_and_a_grab_for_memory_cost_one_input_each():
    command = [sys.executable, "-m", "tests.fuzz", "faults", "--inputs", "10", "--seed", "0", "--seconds", "0.2"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    for kind in ("hang", "error"):
        assert kind in done.stdout
    assert done.stdout.splitlines()[-1].split()[:2] == ["all", "10"]


# ---- found in model files --------------------------------------------------------------------------------------------

MODEL = "NAME t\nROWS\n N cost\n G r\nCOLUMNS\n x cost 1 r 1\nRHS\n h r 2\nENDATA\n"


def refused(path: Path) -> str:
    with pytest.raises(LPError) as error:
        read_lp(path)
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value)


def test_an_archive_that_unpacks_to_more_than_is_read_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(lps, "LARGEST_TEXT", 2**20)
    path = tmp_path / "bomb.mps.gz"
    path.write_bytes(gzip.compress(MODEL.encode() + b"\n" * 2**21))
    assert "more than 1048576 bytes" in refused(path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.mps")
    assert "no regular file" in refused(tmp_path / "pipe.mps")


def test_text_that_is_not_utf8_in_a_message_is_no_crash(tmp_path):
    path = tmp_path / "latin.mps"
    path.write_bytes(MODEL.encode().replace(b" h r 2", b" h \xf4 2"))
    assert "HiGHS did not read it whole" in refused(path)
    path.write_bytes(b"* caf\xe9\n" + MODEL.encode())
    assert read_lp(path).columns == 1


def test_a_damaged_file_that_crashes_the_reader_of_names_with_spaces_is_refused(tmp_path):
    path = tmp_path / "spaces.mps"
    path.write_bytes(b"R10\n   COST\nCOLUMNS\n    C1        R7         -1.0\nend\n    C3        R7            Infinity")
    assert "line 1 has 1 words, which no line of section 'R10' has" in refused(path)
    path.write_text(MODEL.replace("G r", "G long r"))
    assert "line 4 has 3 words, which no line of section 'ROWS' has" in refused(path)


@pytest.mark.parametrize(
    "body", ["st " * 7000, "1" * 20_000, "." * 20_000, "a" * 20_000, "1." * 10_000, "< -" * 7000], ids=lambda b: b[:3]
)
def test_the_check_of_a_text_takes_a_time_in_proportion_to_it(body):
    begin = time.process_time()
    for text in (f"min\n obj: x\n{body}", f"min\n obj: x\nst\n a: {body} x >= 2\nend\n"):
        with suppress(LPError):
            lps._check_text(text.encode(), ".lp")
    assert time.process_time() - begin < 1.0  # it was a minute


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
    sizes = [1] * 50 + [500_000] + [1] * 50
    ends = offsets(sizes)
    nodes = int(ends[-1])
    edges = torch.arange(nodes).repeat(2, 1)
    graph = BipartiteGraph(torch.ones(nodes, 1), edges, torch.ones(nodes, 1), torch.ones(nodes, 1), ends, ends)
    begin = time.process_time()
    views = NodeMasker(0.3, hide_edges=True)(graph)
    assert time.process_time() - begin < 5.0
    for kind in ("constraint", "variable"):
        hidden = torch.zeros(101, dtype=torch.int64).index_add_(0, graph.graph_of(kind), views.hidden[kind].long())
        assert hidden.tolist() == [0] * 50 + [150_000] + [0] * 50
