"""Files that are there whole or not at all, and folders that can take them."""

import os
from collections.abc import Callable
from contextlib import suppress
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


SUFFIX = ".tmp"  # of unfinished files, whose names begin with a dot


def remove_unfinished(folder: Path) -> None:
    """Removes what processes that were killed were writing into `folder`; no other may be writing there now."""
    for unfinished in folder.glob(f".*{SUFFIX}"):
        unfinished.unlink(missing_ok=True)


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Calls `write` with a temporary file beside `path`, and puts it in the place of `path` once it is on the disk.

    Whatever fails, the power included, a reader of `path` finds what was there before, or the new file, whole.

    Raises:
        OSError: the disk is full, or else does not take it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{SUFFIX}")
    try:
        with open(temporary, "w+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync(path.parent)
    except (OSError, RuntimeError) as error:
        # torch.save hides the disk's error behind a RuntimeError of its own.
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        raise OSError(
            f"{path} cannot be written ({reason.strerror or reason}), and is as it was before; free space on its disk, "
            f"or name another folder."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Puts the names in `folder` on the disk; a file whose name is not there would be lost with the power."""
    if os.name != "posix":
        return
    with suppress(OSError):  # some file systems cannot
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
