"""A folder of shards: LPs stored as plain arrays, a thousand to a file, and read back one at a time.

A store is a folder with `shard-00000.safetensors`, `shard-00001.safetensors`, ... and `index.json`, which is written
last: a folder without it is not a finished store. Shards are memory-mapped, and few are open at a time, so a store of
100,000 LPs needs no more memory than one of 1,000.
"""

import json
import os
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice
from operator import index as as_index
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np
from atomic import write_atomically
from lp import LP, Scaling
from numpy.typing import DTypeLike, NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from scipy.sparse import csr_array

FORMAT = "kkt-lp-shards"
VERSION = 1
INDEX = "index.json"
OPEN_SHARDS = 8  # of a `ShardedLPs`, at most, at any time

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
    families: Counter[str] = Counter()
    max_rows = max_columns = 0
    is_scaled: bool | None = None
    remaining = iter(lps)
    while shard := list(islice(remaining, per_shard)):
        is_scaled = shard[0].scaling is not None if is_scaled is None else is_scaled
        _write(_shard_path(folder, len(counts)), save(_packed(shard, is_scaled)))
        counts.append(len(shard))
        families.update(lp.family for lp in shard)
        max_rows = max(max_rows, *(lp.b.size for lp in shard))
        max_columns = max(max_columns, *(lp.c.size for lp in shard))
        del shard  # before the next one is gathered
    if not counts:
        raise ValueError("lps is empty: a store needs one LP or more.")
    index = {
        "format": FORMAT,
        "version": VERSION,
        "counts": counts,
        "families": families,
        "max_rows": max_rows,
        "max_columns": max_columns,
    }
    _write(folder / INDEX, json.dumps(index).encode())


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

    def name(self, index: SupportsIndex) -> str:
        """The name of an LP, without building it."""
        shard, i = self._locate(index)
        return shard.name(i)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def _locate(self, index: SupportsIndex) -> "tuple[_Shard, int]":
        """The shard that holds an LP, opened if need be, and the LP's place in it."""
        position = as_index(index)
        position += len(self) * (position < 0)
        if not 0 <= position < len(self):
            raise IndexError(f"index {index} is out of range for a store of {len(self)} LPs.")
        number = bisect_right(self._starts, position) - 1
        start, end = self._starts[number : number + 2]
        if number not in self._open:
            if len(self._open) == OPEN_SHARDS:
                self._open.popitem(last=False)
            self._open[number] = _Shard(_shard_path(self.folder, number), end - start)
        self._open.move_to_end(number)
        return self._open[number], position - start


class _Shard:
    """One open file: what there is one of for each LP is read at once; rows, columns and nonzeros stay on disk."""

    def __init__(self, path: Path, count: int) -> None:
        try:
            file = safe_open(path, framework="numpy")
            self.row_start = file.get_tensor("row_start")
            self.column_start = file.get_tensor("column_start")
            self.name_start = file.get_tensor("name_start")
            self.family_start = file.get_tensor("family_start")
            self.names = file.get_tensor("name").tobytes()
            self.families = file.get_tensor("family").tobytes()
            self.objective_sign = file.get_tensor("objective_sign")
            self.objective_offset = file.get_tensor("objective_offset")
            self.integers = file.get_tensor("integers")
            self.row_pointer = file.get_slice("row_pointer")
            self.column = file.get_slice("column")
            self.value = file.get_slice("value")
            self.b = file.get_slice("b")
            self.c = file.get_slice("c")
            self.is_scaled = "row_scale" in file.keys()  # noqa: SIM118 (it is no dict)
            if self.is_scaled:
                self.row_scale = file.get_slice("row_scale")
                self.column_scale = file.get_slice("column_scale")
                self.rhs_scale = file.get_tensor("rhs_scale")
                self.objective_scale = file.get_tensor("objective_scale")
        except (OSError, SafetensorError) as error:
            raise _damaged(path, str(error)) from error
        if len(self.row_start) != count + 1:
            raise _damaged(path, f"it holds {len(self.row_start) - 1} LPs, the index says {count}")

    def name(self, i: int) -> str:
        return _text(self.names, _span(self.name_start, i))

    def lp(self, i: int) -> LP:
        rows, columns = _span(self.row_start, i), _span(self.column_start, i)
        pointer = self.row_pointer[rows.start : rows.stop + 1]
        nonzeros = slice(pointer[0].item(), pointer[-1].item())
        value, column = _part(self.value, nonzeros), _part(self.column, nonzeros, np.int32)
        scaling = None
        if self.is_scaled:
            scaling = Scaling(
                row=_part(self.row_scale, rows),
                column=_part(self.column_scale, columns),
                rhs=self.rhs_scale[i].item(),
                objective=self.objective_scale[i].item(),
            )
        return LP(
            name=self.name(i),
            family=_text(self.families, _span(self.family_start, i)),
            A=csr_array(
                (value, column, (pointer - nonzeros.start).astype(np.int32)),
                shape=(rows.stop - rows.start, columns.stop - columns.start),
            ),
            b=_part(self.b, rows),
            c=_part(self.c, columns),
            objective_sign=self.objective_sign[i].item(),
            objective_offset=self.objective_offset[i].item(),
            integers=self.integers[i].item(),
            scaling=scaling,
        )


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
    return arrays


def _starts(counts: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts)], dtype=np.int64)


def _bytes(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode("utf-8", "surrogateescape"), dtype=np.uint8)


def _text(encoded: bytes, span: slice) -> str:
    return encoded[span].decode("utf-8", "surrogateescape")


def _span(starts: NDArray[np.int64], i: int) -> slice:
    return slice(starts[i].item(), starts[i + 1].item())


def _part(stored: Any, span: slice, dtype: DTypeLike = np.float64) -> NDArray[Any]:
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
        if (index["format"], index["version"]) != (FORMAT, VERSION):
            raise _damaged(path, f"expected format {FORMAT!r}, version {VERSION}")
        if not sum(index["counts"]) == sum(index["families"].values()) >= 1:
            raise _damaged(path, "its counts do not add up")
        return {**index, "max_rows": int(index["max_rows"]), "max_columns": int(index["max_columns"])}
    except (AttributeError, KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path} is damaged ({reason}): delete the folder {path.parent} and generate it again.")
