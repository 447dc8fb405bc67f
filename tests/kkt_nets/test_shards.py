"""The store of LPs: what is read equals what was written, lazily, and damage is named."""

import json
import multiprocessing
import operator
import pickle
import tempfile
import tracemalloc
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import shards
from generators import FAMILIES, generate, instances
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from lp import LP, Scaling, ruiz
from scipy.sparse import csr_array
from shards import OPEN_SHARDS, ShardedLPs, write_shards
from stored_lps import assert_same


@pytest.fixture(scope="module")
def lps() -> list[LP]:
    return list(instances(list(FAMILIES), {}, count=25, seed=0))


@pytest.fixture
def folder(tmp_path: Path, lps: Sequence[LP]) -> Path:
    write_shards(lps, tmp_path / "store", per_shard=10)
    return tmp_path / "store"


# ---- round trips

finite = st.floats(allow_nan=False, allow_infinity=False)
powers = st.integers(-60, 60).map(lambda exponent: 2.0**exponent)


@st.composite
def any_lp(draw: st.DrawFn, is_scaled: bool) -> LP:
    rows, columns = draw(st.integers(0, 4)), draw(st.integers(1, 4))
    dense = draw(arrays(np.float64, (rows, columns), elements=st.just(0.0) | finite))
    return LP(
        name=draw(st.text()),
        family=draw(st.text()),
        A=csr_array(dense),
        b=draw(arrays(np.float64, rows, elements=finite)),
        c=draw(arrays(np.float64, columns, elements=finite)),
        objective_sign=draw(st.sampled_from([1.0, -1.0])),
        objective_offset=draw(finite),
        integers=draw(st.integers(0, columns)),
        scaling=Scaling(
            row=draw(arrays(np.float64, rows, elements=powers)),
            column=draw(arrays(np.float64, columns, elements=powers)),
            rhs=draw(powers),
            objective=draw(powers),
        )
        if is_scaled
        else None,
    )


@settings(max_examples=60, deadline=None)
@given(data=st.data(), is_scaled=st.booleans(), per_shard=st.integers(1, 4))
def test_any_lps_come_back_bit_for_bit(data: st.DataObject, is_scaled: bool, per_shard: int) -> None:
    written = data.draw(st.lists(any_lp(is_scaled), min_size=1, max_size=6))
    with tempfile.TemporaryDirectory() as folder:
        write_shards(written, folder, per_shard)
        read = ShardedLPs(folder)
        assert len(read) == len(written)
        for got, expected in zip(read, written, strict=True):
            assert_same(got, expected)
        assert read.max_rows == max(lp.b.size for lp in written)
        assert read.max_columns == max(lp.c.size for lp in written)


def test_generated_and_scaled_lps_come_back(tmp_path: Path, lps: Sequence[LP]) -> None:
    scaled = [ruiz(lp) for lp in lps]
    write_shards(scaled, tmp_path, per_shard=10)
    for got, expected in zip(ShardedLPs(tmp_path), scaled, strict=True):
        assert_same(got, expected)


def test_a_file_name_that_is_not_utf8_comes_back(tmp_path: Path, lps: Sequence[LP]) -> None:
    name = b"caf\xe9.mps".decode("utf-8", "surrogateescape")
    write_shards([replace(lps[0], name=name)], tmp_path)
    assert ShardedLPs(tmp_path)[0].name == name


def test_what_is_read_may_be_written_to(folder: Path, lps: Sequence[LP]) -> None:
    store = ShardedLPs(folder)
    lp = store[3]
    lp.b[:] = lp.c[:] = lp.A.data[:] = 7
    assert_same(store[3], lps[3])


# ---- a sequence


def test_it_is_a_sequence(folder: Path, lps: Sequence[LP]) -> None:
    store = ShardedLPs(folder)
    assert len(store) == 25
    for i in (0, 9, 10, 19, 20, 24, -1, -25):
        assert_same(store[i], lps[i])
    assert store[np.int64(11)].name == lps[11].name
    assert [lp.name for lp in store[8:12]] == [lp.name for lp in lps[8:12]]
    assert store.families == dict.fromkeys(FAMILIES, 5)
    for i in (25, -26):
        with pytest.raises(IndexError, match="out of range for a store of 25"):
            store[i]
    with pytest.raises(TypeError):
        store[1.0]  # pyright: ignore[reportArgumentType, reportCallIssue]


def test_a_shard_has_as_many_lps_as_asked_for(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "index.json",
        "shard-00000.safetensors",
        "shard-00001.safetensors",
        "shard-00002.safetensors",
    ]
    assert json.loads((folder / "index.json").read_text())["counts"] == [10, 10, 5]


# ---- lazily, in little memory


def test_writing_holds_one_shard(tmp_path: Path, lps: Sequence[LP]) -> None:
    made: list[weakref.ref[csr_array]] = []

    def stream() -> Iterator[LP]:
        for i in range(40):
            assert len(list(tmp_path.glob("*.safetensors"))) == i // 8
            lp = replace(lps[0], A=lps[0].A.copy())
            made.append(weakref.ref(lp.A))
            yield lp
            del lp
            assert sum(matrix() is not None for matrix in made) <= 8

    write_shards(stream(), tmp_path, per_shard=8)


def test_opening_reads_the_index_alone(folder: Path, lps: Sequence[LP]) -> None:
    for path in folder.glob("*.safetensors"):
        if path.name != "shard-00001.safetensors":
            path.unlink()
    store = ShardedLPs(folder)
    assert len(store) == 25
    assert_same(store[12], lps[12])
    with pytest.raises(ValueError, match=r"shard-00000\.safetensors is damaged.*delete the folder"):
        store[0]


def test_few_shards_are_open_at_a_time(tmp_path: Path, lps: Sequence[LP]) -> None:
    write_shards(lps, tmp_path, per_shard=1)
    store = ShardedLPs(tmp_path)
    for i in (*range(25), 0, 24, 3):
        assert_same(store[i], lps[i])
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system does not list a process' memory maps")
    mapped = {line.split()[-1] for line in maps.read_text().splitlines() if str(tmp_path) in line}
    assert len(mapped) == OPEN_SHARDS
    assert str(tmp_path / "shard-00024.safetensors") in mapped


def test_a_shard_in_use_stays_open(tmp_path: Path, lps: Sequence[LP]) -> None:
    write_shards(lps, tmp_path, per_shard=1)
    store = ShardedLPs(tmp_path)
    in_use, _ = store._locate(0)
    for i in range(1, 25):
        store[i]
        assert store._locate(0)[0] is in_use


def test_a_large_store_needs_no_more_memory_than_a_small_one(tmp_path: Path, lps: Sequence[LP]) -> None:
    kept: list[int] = []
    for shard_count in (10, 100):
        write_shards(list(lps[:10]) * shard_count, tmp_path / str(shard_count), per_shard=10)
        order = np.random.default_rng(0).permutation(10 * shard_count)
        tracemalloc.start(10)
        store = ShardedLPs(tmp_path / str(shard_count))
        for i in order:
            store[i]
        # What the store has allocated; other threads of the test run are no concern of it.
        by_store = tracemalloc.Filter(True, shards.__file__, all_frames=True)
        kept.append(sum(t.size for t in tracemalloc.take_snapshot().filter_traces([by_store]).traces))
        tracemalloc.stop()
    assert 0 < kept[1] < 2 * kept[0]  # for ten times the LPs


# ---- other processes


def test_a_pickle_holds_no_data(folder: Path, lps: Sequence[LP]) -> None:
    store = ShardedLPs(folder)
    store[0]
    pickled = pickle.dumps(store)
    assert len(pickled) < 1000
    assert_same(pickle.loads(pickled)[11], lps[11])
    assert_same(store[0], lps[0])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_it(folder: Path, lps: Sequence[LP], method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    store = ShardedLPs(folder)
    store[0]  # so that a shard is open when the workers start
    with multiprocessing.get_context(method).Pool(1) as pool:
        for got, expected in zip(pool.map(partial(operator.getitem, store), range(25)), lps, strict=True):
            assert_same(got, expected)
    assert_same(store[0], lps[0])


# ---- refusals


def test_a_finished_store_is_not_written_to(folder: Path, lps: Sequence[LP]) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(FileExistsError, match="already holds a finished store"):
        write_shards(lps[:3], folder)
    assert before == {path: path.read_bytes() for path in folder.iterdir()}


def test_an_interrupted_store_is_refused_and_may_be_written_again(tmp_path: Path, lps: Sequence[LP]) -> None:
    def interrupted() -> Iterator[LP]:
        yield from lps[:15]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(interrupted(), tmp_path, per_shard=10)
    assert [path.name for path in tmp_path.iterdir()] == ["shard-00000.safetensors"]
    with pytest.raises(FileNotFoundError, match=r"no finished store.*index\.json.*delete the folder"):
        ShardedLPs(tmp_path)
    write_shards(lps[5:], tmp_path, per_shard=10)
    assert_same(ShardedLPs(tmp_path)[0], lps[5])


def test_a_failed_write_leaves_no_part(tmp_path: Path, lps: Sequence[LP], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_shards(lps, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no finished store"):
        ShardedLPs(tmp_path / "missing")


@pytest.mark.parametrize("scaled_first", [True, False])
@pytest.mark.parametrize("per_shard", [1, 10])
def test_scaled_and_unscaled_lps_do_not_mix(
    tmp_path: Path, lps: Sequence[LP], scaled_first: bool, per_shard: int
) -> None:
    mixed = [ruiz(lps[0]), lps[1]] if scaled_first else [lps[0], ruiz(lps[1])]
    state = "is not scaled" if scaled_first else "is scaled"
    with pytest.raises(ValueError, match=rf"{lps[1].name}' {state}, unlike the first"):
        write_shards(mixed, tmp_path, per_shard)
    with pytest.raises(FileNotFoundError, match="no finished store"):
        ShardedLPs(tmp_path)


def test_nothing_to_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lps is empty"):
        write_shards([], tmp_path)
    with pytest.raises(ValueError, match="per_shard is 0"):
        write_shards([generate("random", (2, 3), 0)], tmp_path, per_shard=0)


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "swapped", "folder"])
def test_a_damaged_shard_is_named(folder: Path, lps: Sequence[LP], damage: str) -> None:
    path = folder / "shard-00001.safetensors"
    whole = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(whole[:-8])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "garbage":
        path.write_bytes(b"\xff" * len(whole))
    elif damage == "swapped":
        path.write_bytes((folder / "shard-00002.safetensors").read_bytes())
    else:
        path.unlink()
        path.mkdir()
    store = ShardedLPs(folder)
    with pytest.raises(ValueError, match=r"shard-00001\.safetensors is damaged \(.*\): delete the folder .*again"):
        store[10]
    assert_same(store[9], lps[9])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\xfd",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"format": "kkt-lp-shards", "version": 1}',
        b'{"format": "kkt-lp-shards", "version": 2}',
        b'{"format": "another", "version": 2}',
    ],
)
def test_a_damaged_index_is_named(folder: Path, content: bytes) -> None:
    (folder / "index.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"index\.json is damaged \(.*\): delete the folder .*again"):
        ShardedLPs(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"counts": [10, 10, 6]},
        {"max_rows": 1},
        {"families": {}},
        {"digests": ["", "", ""]},
        {"digest": ""},
        {"more": 1},
    ],
)
def test_an_index_that_was_changed_is_refused(folder: Path, change: dict[str, object]) -> None:
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**index, **change}))
    with pytest.raises(ValueError, match=r"index\.json is damaged \(it does not fit its digest\)"):
        ShardedLPs(folder)


def test_a_store_of_another_version_is_refused_as_such(folder: Path) -> None:
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**index, "version": 1}))
    with pytest.raises(ValueError, match=r"expected format 'kkt-lp-shards', version 2\): delete the folder"):
        ShardedLPs(folder)


def test_a_shard_of_another_store_is_refused(tmp_path: Path, folder: Path, lps: Sequence[LP]) -> None:
    write_shards(lps[::-1], tmp_path / "other", per_shard=10)
    (tmp_path / "other" / "shard-00001.safetensors").replace(folder / "shard-00001.safetensors")
    with pytest.raises(ValueError, match=r"shard-00001\.safetensors is damaged \(its digests are not those"):
        ShardedLPs(folder)[10]


def test_an_lp_is_checked_without_its_neighbours(folder: Path, lps: Sequence[LP]) -> None:
    """A flipped byte of one LP's cost vector makes that LP unreadable, and no other."""
    path = folder / "shard-00000.safetensors"
    content = bytearray(path.read_bytes())
    where = content.index(lps[3].c.tobytes())
    content[where] ^= 1
    path.write_bytes(content)
    store = ShardedLPs(folder)
    for i in range(25):
        if i != 3:
            assert_same(store[i], lps[i])
    with pytest.raises(ValueError, match=r"shard-00000\.safetensors is damaged \(its LP 3 does not fit its digest\)"):
        store[3]


def test_the_same_bytes_as_values_of_another_type_are_refused(folder: Path) -> None:
    path = folder / "shard-00000.safetensors"
    content = path.read_bytes()
    forged = content.replace(b'"b":{"dtype":"F64"', b'"b":{"dtype":"I64"')
    assert forged != content
    path.write_bytes(forged)
    with pytest.raises(ValueError, match="does not fit its digest"):
        ShardedLPs(folder)[0]


def test_an_index_cut_anywhere_is_refused(folder: Path) -> None:
    whole = (folder / "index.json").read_bytes()
    for length in range(len(whole)):
        (folder / "index.json").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="is damaged"):
            ShardedLPs(folder)
