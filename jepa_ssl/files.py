"""Write files atomically: the complete new file or nothing."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

SUFFIX = ".tmp"  # of unfinished files, whose names begin with a dot


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Replace the file at `path` by what `write` writes into an open file.

    Even after a crash, `path` holds its old content or the complete new content. The new file is written in the same
    folder, synced to the disk, and then renamed.

    Raises:
        OSError: the file cannot be written, because the disk is full, for example. The old content is still there.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(Path(folder) / "greeting", lambda file: file.write(b"hello"))
    ...     (Path(folder) / "greeting").read_bytes()
    b'hello'
    """
    name = os.fsdecode(os.fsencode(path.name)[:100])  # a long one may leave no room
    temporary = path.with_name(f".{name}.{os.getpid()}{SUFFIX}")
    try:
        with open(temporary, "w+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync(path.parent)
    except (OSError, RuntimeError) as error:
        # torch.save replaces the disk's error by a RuntimeError.
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        raise OSError(
            f"{path} cannot be written ({reason.strerror or reason}), and keeps its old content; free space on its "
            f"disk, or name another folder."
        ) from error
    finally:
        with suppress(OSError):  # it may hide the error that counts
            temporary.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Sync the names in `folder` to the disk: a file whose name is missing would be lost in a power failure."""
    if os.name != "posix":
        return
    with suppress(OSError):  # some file systems cannot
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
