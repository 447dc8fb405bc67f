"""Runs of `train.py` that are refused, and checkpoints to resume."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Refused = Callable[..., str]


@pytest.fixture
def refused(run_training: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs `train.py` into the folder `new`, and returns the line with which it refuses."""

    def run(*flags: Any) -> str:
        capsys.readouterr()
        given = flags if {"--output_dir", "--resume"} & set(flags) else [*flags, "--output_dir", tmp_path / "new"]
        with pytest.raises(SystemExit) as stopped:
            run_training("--epochs", 3, *given)
        assert stopped.value.code == 2
        shown = capsys.readouterr().err
        assert "Traceback" not in shown
        # Progress bars end their lines with a carriage return.
        said = [line for line in shown.replace("\r", "\n").splitlines() if "error" in line]
        assert len(said) == 1
        assert shown.endswith(said[0] + "\n")
        assert not list(tmp_path.glob("new/*.pt"))
        return said[0]

    return run


@pytest.fixture
def trained(run_training: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    """The checkpoint of a run of one epoch."""

    def run(*flags: Any, name: str = "trained") -> Path:
        run_training("--epochs", 1, *flags, "--output_dir", tmp_path / name)
        return tmp_path / name / "last.pt"

    return run
