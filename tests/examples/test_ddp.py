"""The example of DDP: two processes, of which one has an LP more in each batch, train what one process trains."""

import os
import re
import subprocess
import sys
from pathlib import Path

import ddp as example
import pytest
import torch
from runs import free_port

ROOT = Path(__file__).parents[2]


def on_two_processes(checkpoint: Path) -> list[str]:
    """Run the example as `torchrun` starts it. Return what each process says."""
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, example.__file__, "--epochs", "2", "--checkpoint", str(checkpoint)]
    processes = [
        subprocess.Popen(command, env=environment | {"RANK": rank}, stdout=subprocess.PIPE, text=True) for rank in "01"
    ]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    return said


@pytest.mark.slow
def test_two_processes_end_with_the_numbers_of_one(tmp_path, capsys):
    one, two = tmp_path / "one.pt", tmp_path / "two.pt"
    first, second = on_two_processes(two)
    example.main(["--epochs", "2", "--checkpoint", str(one)])
    numbers = [
        [float(number) for number in re.findall(r"-?\d+\.\d+", text)] for text in (first, capsys.readouterr().out)
    ]
    assert len(numbers[0]) == 4  # two losses an epoch
    assert numbers[0] == pytest.approx(numbers[1], abs=1.5e-4)  # the last digit may be rounded either way
    assert not second
    state, expected = (torch.load(path, weights_only=True) for path in (two, one))
    assert expected["jepa.teacher.updates"] == 40
    torch.testing.assert_close(state, expected, rtol=1e-4, atol=2e-6)
    assert sorted(tmp_path.iterdir()) == [one, two]
