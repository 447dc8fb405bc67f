"""A store of LPs: one file of plain arrays, written as a stream and read back one LP at a time.

The file has the LPs one after the other, each as a string of bytes. Then comes a table with the start and the digest of
each LP, and last a description with its digest. The file is memory-mapped, so a store of 100,000 LPs needs no more
memory than one of 1,000. An LP that has changed on the disk is refused when it is read, and no other with it.
"""

import json
import os
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from data.lp import LP, Scaling
from scipy.sparse import csr_array

from jepa_ssl.files import write_atomically

FORMAT = ["kkt-lps", 3]  # name and version
DIGEST_BYTES = 16


def write_lps(lps: Iterable[LP], path: str | os.PathLike[str]) -> None:
    """Write LPs (at least one; may be a generator) into a new store, holding one of them in memory at a time."""

    def write(file: BinaryIO) -> None:
        starts, digests, sizes = [0], list[bytes](), (0, 0)
        for lp in lps:
            stored = _bytes(lp)
            file.write(stored)
            starts.append(starts[-1] + len(stored))
            digests.append(_digest(stored))
            sizes = max(sizes[0], lp.rows), max(sizes[1], lp.columns)
        if not digests:
            raise ValueError("lps is empty: a store needs one LP or more.")
        about = json.dumps({"format": FORMAT, "count": len(digests), "sizes": sizes}).encode()
        table = np.array(starts, dtype="<i8").tobytes() + b"".join(digests)
        file.write(table + about + _digest(about) + len(about).to_bytes(4, "little"))

    write_atomically(Path(path), write)


class StoredLPs(Sequence[LP]):
    """The LPs of a store, read lazily: opening reads only the end of the file, `lps[i]` only that LP.

    Instances may be pickled or inherited by a data loader's workers.

    Raises FileNotFoundError; ValueError if the store is of another version or damaged, as does `lps[i]`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._content = np.memmap(self.path, mode="r")
        except (ValueError, IsADirectoryError) as error:  # it is empty; it is a folder
            raise self._damaged(str(error)) from error
        end = max(len(self._content) - DIGEST_BYTES - 4, 0)
        start = max(end - int.from_bytes(self._content[-4:].tobytes(), "little"), 0)
        about = self._content[start:end].tobytes()
        if _digest(about) != self._content[end:-4].tobytes():
            raise self._damaged("its end does not fit its digest")
        found = json.loads(about)
        if found["format"] != FORMAT:
            raise self._damaged(f"its format is {found['format']}, expected {FORMAT}")
        self.sizes: tuple[int, int] = tuple(found["sizes"])  # the most rows and the most columns of an LP
        self._count: int = found["count"]
        digests = start - self._count * DIGEST_BYTES
        self._digests = self._content[digests:start].reshape(self._count, DIGEST_BYTES)
        self._starts = self._content[digests - 8 * (self._count + 1) : digests].view("<i8")

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        chosen = range(len(self))[index]  # takes numbers and slices, and refuses others, as every sequence does
        if isinstance(chosen, range):
            return [self[i] for i in chosen]
        start, end = self._starts[chosen : chosen + 2].tolist()
        stored = self._content[start:end].tobytes()
        if _digest(stored) != self._digests[chosen].tobytes():
            raise self._damaged(f"its LP {chosen} does not fit its digest")
        return _lp(stored)

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredLPs, (self.path,)

    def _damaged(self, reason: str) -> ValueError:
        return ValueError(f"{self.path} is damaged ({reason}): delete it and generate it again.")


def _bytes(lp: LP) -> bytes:
    """The length of a head in JSON, the head, and the arrays: first those of integers, then those of floats."""
    # JSON gives every finite float back bit for bit and, in ASCII, a name that is not UTF-8.
    head: list[Any] = [lp.A.nnz, lp.rows, lp.columns, lp.name, lp.family]
    head += [lp.objective_sign, lp.objective_offset, lp.integers]
    floats = [lp.A.data, lp.b, lp.c]
    if lp.scaling:
        head += [lp.scaling.rhs, lp.scaling.objective]
        floats += [lp.scaling.row, lp.scaling.column]
    text = json.dumps(head).encode()
    integers = np.concatenate([lp.A.indptr, lp.A.indices], dtype="<i4", casting="unsafe")
    arrays = integers.tobytes() + np.concatenate(floats, dtype="<f8").tobytes()
    return len(text).to_bytes(4, "little") + text + arrays


def _lp(stored: bytes) -> LP:
    start = 4 + int.from_bytes(stored[:4], "little")
    nonzeros, m, n, name, family, sign, offset, integers, *scales = json.loads(stored[4:start])
    pointer, column = np.split(np.frombuffer(stored, "<i4", m + 1 + nonzeros, start).copy(), [m + 1])
    floats = np.frombuffer(stored, "<f8", offset=start + 4 * (m + 1 + nonzeros)).copy()
    value, b, c, *factors = np.split(floats, np.cumsum([nonzeros, m, n, m]))
    scaling = Scaling(factors[0], factors[1], *scales) if scales else None
    return LP(name, family, csr_array((value, column, pointer), shape=(m, n)), b, c, sign, offset, integers, scaling)


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=DIGEST_BYTES).digest()
