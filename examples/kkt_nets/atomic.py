"""Files that are there whole or not at all, and folders that can take them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def writable_folder(folder: Path, flag: str = "--output_dir") -> Path:
    """Makes the folder that `flag` names, and finds it writable before hours of work are lost.

    Raises:
        OSError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink(missing_ok=True)  # another run may have just tried the same
    except OSError as error:
        raise OSError(f"{flag} {folder} cannot be written to ({error.strerror}); name another folder.") from None
    return folder


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Calls `write` with a temporary file beside `path`, and puts it in the place of `path` once it is on the disk.

    Whatever fails, a reader of `path` finds what was there before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
