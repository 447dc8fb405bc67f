"""Results of a comparison, stored piece by piece, so that a killed run resumes."""

import ctypes
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from jepa_ssl.files import write_atomically


def digest(value: Tensor | str) -> str:
    """A short name for the contents of a tensor, with its shape and type, or of a text."""
    if isinstance(value, str):
        return hashlib.sha256(value.encode()).hexdigest()[:16]
    data = value.detach().cpu().contiguous()
    found = hashlib.sha256(f"{data.dtype} {list(data.shape)}".encode())
    found.update(ctypes.string_at(data.data_ptr(), data.numel() * data.element_size()) if data.numel() else b"")
    return found.hexdigest()[:16]


def piece(folder: Path, name: str, asked: Any, compute: Callable[[], Any]) -> Any:
    """What `compute` returns, as JSON takes it; read from the folder if the same was asked before.

    The file's name holds a digest of `asked`, and the file holds `asked` itself, so results of other settings are never
    reused. A file that cannot be read is computed again.
    """
    asked = json.loads(json.dumps(asked))  # tuples are lists there
    slug = re.sub(r"\W+", "-", name)
    path = folder / f"{slug}-{digest(json.dumps(asked, sort_keys=True))}.json"
    try:
        stored = json.loads(path.read_text())
        if stored["asked"] == asked:
            return stored["found"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # missing or damaged
    found = compute()
    write_text(path, json.dumps({"asked": asked, "found": found}, allow_nan=False))
    return found


def write_text(path: Path, text: str) -> None:
    """Write a file that is there as a whole or not at all; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(text.encode()))
