"""A folder of shards: LPs stored as plain arrays, a thousand to a file, and read back one at a time.

A store is a folder with `shard-00000.safetensors`, `shard-00001.safetensors`, ... and `index.json`, which is written
last: a folder without it is not a finished store. Shards are memory-mapped, and few are open at a time, so a store of
100,000 LPs needs no more memory than one of 1,000.

What has changed on the disk is refused: a shard has a digest of each of its LPs, the index one of each shard's digests
and one of itself. So an LP is checked as it is read, and what else its shard holds need not be read for that.
"""

import json
import os
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import accumulate, islice
from operator import index as as_index
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np
from atomic import write_atomically
from lp import LP, Scaling
from numpy.typing import DTypeLike, NDArray
from safetensors import safe_open
from safetensors.numpy import save
from scipy.sparse import csr_array

FORMAT = "kkt-lp-shards"
VERSION = 2
INDEX = "index.json"
OPEN_SHARDS = 8  # of a `ShardedLPs`, at most, at any time
DIGEST_BYTES = 16

Arrays = dict[str, NDArray[Any]]


def write_shards(lps: Iterable[LP], folder: str | os.PathLike[str], per_shard: int = 1000) -> None:
    """Write LPs into a new store, holding one shard of them in memory at a time.

    Args:
        lps: at least one LP; either all are scaled, or none is. May be a generator, or one wrapped in `tqdm`.
        folder: made if missing; must not hold a finished store.
        per_shard: LPs to a file.

    Raises:
        FileExistsError: `folder` holds a finished store.
        ValueError: `lps` is empty or mixes scaled and unscaled LPs, or `per_shard` is less than 1.
        OSError: `folder` cannot be written to.
    """
    if per_shard < 1:
        raise ValueError(f"per_shard is {per_shard}, expected 1 or more.")
    folder = Path(folder)
    if (folder / INDEX).exists():
        raise FileExistsError(f"{folder} already holds a finished store of LPs: delete it, or name another folder.")
    folder.mkdir(parents=True, exist_ok=True)

    counts: list[int] = []
    digests: list[str] = []
    families: Counter[str] = Counter()
    max_rows = max_columns = 0
    is_scaled: bool | None = None
    remaining = iter(lps)
    while shard := list(islice(remaining, per_shard)):
        is_scaled = shard[0].scaling is not None if is_scaled is None else is_scaled
        arrays = _packed(shard, is_scaled)
        _write(_shard_path(folder, len(counts)), save(arrays))
        counts.append(len(shard))
        digests.append(_digest(arrays["digest"]).hex())
        families.update(lp.family for lp in shard)
        max_rows = max(max_rows, *(lp.b.size for lp in shard))
        max_columns = max(max_columns, *(lp.c.size for lp in shard))
        del shard, arrays  # before the next one is gathered
    if not counts:
        raise ValueError("lps is empty: a store needs one LP or more.")
    index = {
        "format": FORMAT,
        "version": VERSION,
        "counts": counts,
        "digests": digests,
        "families": families,
        "max_rows": max_rows,
        "max_columns": max_columns,
    }
    _write(folder / INDEX, json.dumps({**index, "digest": _index_digest(index)}).encode())


class ShardedLPs(Sequence[LP]):
    """The LPs of a store, read lazily: opening reads its index alone, `lps[i]` that LP alone.

    Instances may be pickled or inherited by a data loader's workers; each process opens its own shards.

    Args:
        folder: as given to `write_shards`.

    Raises:
        FileNotFoundError: `folder` is missing, or holds no finished store.
        ValueError: its index, or later a shard, is damaged or of an unknown version.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        index = _read_index(self.folder)
        self.max_rows: int = index["max_rows"]
        self.max_columns: int = index["max_columns"]
        self.families: dict[str, int] = index["families"]  # family -> how many of its LPs
        self._digests: list[str] = index["digests"]
        self._starts: list[int] = [0, *accumulate(index["counts"])]  # of each shard, and the end of the last
        self._open: OrderedDict[int, _Shard] = OrderedDict()  # the least recently used comes first

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, index: SupportsIndex) -> LP: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[LP]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> LP | Sequence[LP]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        shard, i = self._locate(index)
        return shard.lp(i)

    def __iter__(self) -> Iterator[LP]:
        return (self[i] for i in range(len(self)))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def _locate(self, index: SupportsIndex) -> "tuple[_Shard, int]":
        """The shard that holds an LP, opened if need be, and the LP's place in it."""
        position = as_index(index)
        position += len(self) * (position < 0)
        if not 0 <= position < len(self):
            raise IndexError(f"index {index} is out of range for a store of {len(self)} LPs.")
        number = bisect_right(self._starts, position) - 1
        if number not in self._open:
            if len(self._open) == OPEN_SHARDS:
                self._open.popitem(last=False)
            self._open[number] = _Shard(_shard_path(self.folder, number), self._digests[number])
        self._open.move_to_end(number)
        return self._open[number], position - self._starts[number]


class _Shard:
    """One open file: its digests are in memory, all else stays on the disk until its LP is asked for."""

    def __init__(self, path: Path, digest: str) -> None:
        self.path = path
        try:
            file = safe_open(path, framework="numpy")
            self.digests = file.get_tensor("digest")
            self.arrays = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
        except Exception as error:  # of many kinds, for many kinds of damage
            raise _damaged(path, f"{type(error).__name__}: {error}") from error
        if _digest(self.digests).hex() != digest:
            raise _damaged(path, f"its digests are not those that {INDEX} knows")

    def lp(self, i: int) -> LP:
        try:
            parts = _parts(self.arrays, i)
        except Exception as error:  # of many kinds, for many kinds of damage
            raise _damaged(self.path, f"{type(error).__name__}: {error}") from error
        if _digest(*parts.values()) != self.digests[i].tobytes():
            raise _damaged(self.path, f"its LP {i} does not fit its digest")
        scaling = None
        if "row_scale" in parts:
            scaling = Scaling(
                row=parts["row_scale"],
                column=parts["column_scale"],
                rhs=parts["rhs_scale"].item(),
                objective=parts["objective_scale"].item(),
            )
        return LP(
            name=_text(parts["name"]),
            family=_text(parts["family"]),
            A=csr_array(
                (parts["value"], parts["column"], parts["row_pointer"].astype(np.int32)),
                shape=(parts["b"].size, parts["c"].size),
            ),
            b=parts["b"],
            c=parts["c"],
            objective_sign=parts["objective_sign"].item(),
            objective_offset=parts["objective_offset"].item(),
            integers=parts["integers"].item(),
            scaling=scaling,
        )


def _parts(arrays: Mapping[str, Any], i: int) -> Arrays:
    """All that a shard's arrays hold of its LP `i`, whether they are in memory or on disk."""
    rows, columns = _span(arrays["row_start"], i), _span(arrays["column_start"], i)
    pointer = arrays["row_pointer"][rows.start : rows.stop + 1]
    nonzeros, own = slice(pointer[0].item(), pointer[-1].item()), slice(i, i + 1)
    parts: Arrays = {
        "name": _slice(arrays["name"], _span(arrays["name_start"], i), np.uint8),
        "family": _slice(arrays["family"], _span(arrays["family_start"], i), np.uint8),
        "row_pointer": pointer - pointer[0],
        "column": _slice(arrays["column"], nonzeros, np.int32),
        "value": _slice(arrays["value"], nonzeros),
        "b": _slice(arrays["b"], rows),
        "c": _slice(arrays["c"], columns),
        "objective_sign": arrays["objective_sign"][own],
        "objective_offset": arrays["objective_offset"][own],
        "integers": arrays["integers"][own],
    }
    if "row_scale" in arrays:
        parts["row_scale"] = _slice(arrays["row_scale"], rows)
        parts["column_scale"] = _slice(arrays["column_scale"], columns)
        parts["rhs_scale"] = arrays["rhs_scale"][own]
        parts["objective_scale"] = arrays["objective_scale"][own]
    return parts


def _digest(*parts: NDArray[Any]) -> bytes:
    """Of the values, the sizes and the types: the same bytes may be cut and read in many ways."""
    digest = blake2b(repr([(part.dtype.str, part.size) for part in parts]).encode(), digest_size=DIGEST_BYTES)
    for part in parts:
        digest.update(part.data)
    return digest.digest()


def _index_digest(index: Mapping[str, Any]) -> str:
    return blake2b(json.dumps(index).encode(), digest_size=DIGEST_BYTES).hexdigest()


def _packed(lps: Sequence[LP], is_scaled: bool) -> Arrays:
    """The arrays of a shard: all of its LPs end to end, and in `*_start` where each begins and the last one ends."""
    names = [_bytes(lp.name) for lp in lps]
    families = [_bytes(lp.family) for lp in lps]
    arrays: Arrays = {
        "row_start": _starts([lp.b.size for lp in lps]),
        "column_start": _starts([lp.c.size for lp in lps]),
        "row_pointer": _starts(np.concatenate([np.diff(lp.A.indptr) for lp in lps])),  # of the shard's nonzeros
        "column": np.concatenate([lp.A.indices for lp in lps], dtype=np.int32),
        "value": np.concatenate([lp.A.data for lp in lps], dtype=np.float64),
        "b": np.concatenate([lp.b for lp in lps], dtype=np.float64),
        "c": np.concatenate([lp.c for lp in lps], dtype=np.float64),
        "objective_sign": np.array([lp.objective_sign for lp in lps], dtype=np.float64),
        "objective_offset": np.array([lp.objective_offset for lp in lps], dtype=np.float64),
        "integers": np.array([lp.integers for lp in lps], dtype=np.int64),
        "name": np.concatenate(names),
        "name_start": _starts([name.size for name in names]),
        "family": np.concatenate(families),
        "family_start": _starts([family.size for family in families]),
    }
    scalings = [lp.scaling for lp in lps if lp.scaling is not None]
    if len(scalings) != is_scaled * len(lps):
        odd = next(lp for lp in lps if (lp.scaling is not None) != is_scaled)
        raise ValueError(f"LP {odd.name!r} is {'not ' * is_scaled}scaled, unlike the first: scale all LPs, or none.")
    if is_scaled:
        arrays["row_scale"] = np.concatenate([scaling.row for scaling in scalings], dtype=np.float64)
        arrays["column_scale"] = np.concatenate([scaling.column for scaling in scalings], dtype=np.float64)
        arrays["rhs_scale"] = np.array([scaling.rhs for scaling in scalings], dtype=np.float64)
        arrays["objective_scale"] = np.array([scaling.objective for scaling in scalings], dtype=np.float64)
    digests = b"".join(_digest(*_parts(arrays, i).values()) for i in range(len(lps)))
    return {**arrays, "digest": np.frombuffer(digests, dtype=np.uint8).reshape(-1, DIGEST_BYTES)}


def _starts(counts: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts)], dtype=np.int64)


def _bytes(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode("utf-8", "surrogateescape"), dtype=np.uint8)


def _text(encoded: NDArray[np.uint8]) -> str:
    return encoded.tobytes().decode("utf-8", "surrogateescape")


def _span(starts: Any, i: int) -> slice:
    return slice(*starts[i : i + 2].tolist())


def _slice(stored: Any, span: slice, dtype: DTypeLike = np.float64) -> NDArray[Any]:
    """`stored[span]`; safetensors itself refuses an empty span at the very end of an array."""
    return stored[span] if span.start < span.stop else np.empty(0, dtype)


def _shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.safetensors"


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, lambda file: file.write(content))


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no finished store of LPs ({INDEX} is missing): delete the folder and generate it again."
        )
    try:
        index = json.loads(path.read_bytes())
        is_known = (index["format"], index["version"]) == (FORMAT, VERSION)
        is_whole = is_known and index.pop("digest") == _index_digest(index)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    if not is_whole:
        raise _damaged(
            path, "it does not fit its digest" if is_known else f"expected format {FORMAT!r}, version {VERSION}"
        )
    return index


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path} is damaged ({reason}): delete the folder {path.parent} and generate it again.")
