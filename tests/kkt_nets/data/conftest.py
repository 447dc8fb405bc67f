"""Model files that are written and read."""

from collections.abc import Callable
from pathlib import Path

import pytest
from data.lp import LP
from data.readers import read_lp


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str, str | bytes], LP]:
    """Writes a file, and reads it."""

    def call(name: str, text: str | bytes) -> LP:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_lp(tmp_path / name)

    return call
