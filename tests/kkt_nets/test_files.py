"""Files that are there whole or not at all: when the disk is full, and when the power goes."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.lp import LP
from data.store import write_lps
from loop import checkpoints
from scipy.sparse import csr_array
from torch import nn

from jepa_ssl.files import write_atomically
from jepa_ssl.integrations.export import export_encoder

resource: Any = pytest.importorskip("resource", reason="this system cannot limit the size of files")


SOME = LP("lp", "file", csr_array(np.eye(99)), np.ones(99), np.ones(99))


WRITES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "checkpoint": ("last.pt", lambda path: checkpoints.save(path, {"w": torch.ones(10_000)})),
    "small checkpoint": ("last.pt", lambda path: checkpoints.save(path, {"w": torch.ones(10)})),
    "text": ("report.json", lambda path: write_atomically(path, lambda file: file.write(b"{}" * 1000))),
    "store": ("some.lps", lambda path: write_lps([SOME], path)),
    "encoder": ("encoder.safetensors", lambda path: export_encoder(nn.Linear(99, 9), path)),
}
each = pytest.mark.parametrize(("name", "write"), WRITES.values(), ids=WRITES)


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may become larger than this: a write stops in its midst, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@each
def test_a_full_disk_is_said_with_file_and_remedy_and_leaves_what_was_there(tmp_path, name, write):
    path = tmp_path / name
    path.write_text("as before")
    with full_disk(size=1000), pytest.raises(OSError, match="free space on its disk, or name another folder") as caught:
        write(path)
    assert str(caught.value).startswith(f"{path} cannot be written (File too large), and keeps its old content;")
    assert path.read_text() == "as before"
    assert [*tmp_path.iterdir()] == [path]
    write(path)
    assert path.read_bytes() != b"as before"


@each
def test_content_is_on_the_disk_before_the_name_and_the_name_before_it_returns(tmp_path, monkeypatch, name, write):
    done: list[object] = []
    replace, fsync = os.replace, os.fsync

    def replaced(source: Path, target: Path) -> None:
        assert source.name == f".{target.name}.{os.getpid()}.tmp"
        replace(source, target)
        done.append(f"{target.name} replaced")

    def synced(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        done.append("folder synced" if is_folder else f"{os.fstat(descriptor).st_size} bytes synced")
        fsync(descriptor)

    monkeypatch.setattr(os, "replace", replaced)
    monkeypatch.setattr(os, "fsync", synced)
    write(tmp_path / name)
    expected = [f"{(tmp_path / name).stat().st_size} bytes synced", f"{name} replaced", "folder synced"]
    assert done == expected


def test_a_file_system_that_cannot_sync_folders_is_written_to(tmp_path, monkeypatch):
    def sync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", sync)
    for name, write in WRITES.values():
        write(tmp_path / name)
        assert (tmp_path / name).exists()


def test_an_error_that_is_not_the_disks_stays_what_it_is(tmp_path):
    def write(file: Any) -> None:
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        write_atomically(tmp_path / "file", write)
    assert not [*tmp_path.iterdir()]
