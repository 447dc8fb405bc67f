"""The store of LPs: what is read equals what was written, lazily, and damage is named."""

import gc
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
from data import store as stores
from data.generators import FAMILIES, instances
from data.lp import LP, Scaling
from data.store import StoredLPs, write_lps
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import csr_array
from stored_lps import assert_same


@pytest.fixture(scope="module")
def lps() -> list[LP]:
    return list(instances(list(FAMILIES), {}, count=25, seed=0))


@pytest.fixture
def path(tmp_path: Path, lps: Sequence[LP]) -> Path:
    write_lps(lps, tmp_path / "some.lps")
    return tmp_path / "some.lps"


# ---- round trips

finite = st.floats(allow_nan=False, allow_infinity=False)
powers = st.integers(-60, 60).map(lambda exponent: 2.0**exponent)


@st.composite
def any_lp(draw: st.DrawFn) -> LP:
    rows, columns = draw(st.integers(0, 4)), draw(st.integers(1, 4))
    dense = draw(arrays(np.float64, (rows, columns), elements=st.just(0.0) | finite))
    return LP(
        name=draw(st.text() | st.just("caf\udce9.mps")),  # of a file whose name is not UTF-8
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
        if draw(st.booleans())
        else None,
    )


@settings(max_examples=40, deadline=None)
@given(written=st.lists(any_lp(), min_size=1, max_size=6))
def test_any_lps_come_back_bit_for_bit(written: list[LP]) -> None:
    """Scaled ones and others, mixed."""
    with tempfile.TemporaryDirectory() as folder:
        write_lps(written, Path(folder, "some.lps"))
        read = StoredLPs(Path(folder, "some.lps"))
        assert len(read) == len(written)
        for got, expected in zip(read, written, strict=True):
            assert_same(got, expected)
        assert read.sizes == (max(lp.rows for lp in written), max(lp.columns for lp in written))


def test_what_is_read_may_be_written_to(path: Path, lps: Sequence[LP]) -> None:
    store = StoredLPs(path)
    lp = store[3]
    lp.b[:] = lp.c[:] = lp.A.data[:] = 7
    assert_same(store[3], lps[3])


def test_it_is_a_sequence(path: Path, lps: Sequence[LP]) -> None:
    store = StoredLPs(path)
    assert len(store) == 25
    for i in (0, 9, 24, -1, -25):
        assert_same(store[i], lps[i])
    assert store[np.int64(11)].name == lps[11].name
    assert [lp.name for lp in store[8:12]] == [lp.name for lp in lps[8:12]]
    for i in (25, -26):
        with pytest.raises(IndexError, match="out of range"):
            store[i]
    with pytest.raises(TypeError):
        store[1.0]


# ---- lazily, in little memory


def test_writing_holds_one_lp(tmp_path: Path, lps: Sequence[LP]) -> None:
    made: list[weakref.ref[csr_array]] = []

    def stream() -> Iterator[LP]:
        for _ in range(40):
            lp = replace(lps[0], A=lps[0].A.copy())
            made.append(weakref.ref(lp.A))
            yield lp
            del lp
            assert sum(matrix() is not None for matrix in made) <= 1

    write_lps(stream(), tmp_path / "some.lps")


def test_a_large_store_needs_no_more_memory_than_a_small_one(tmp_path: Path, lps: Sequence[LP]) -> None:
    kept: list[int] = []
    for times in (5, 50):
        file = tmp_path / str(times)
        write_lps(list(lps[:10]) * times, file)
        order = np.random.default_rng(0).permutation(10 * times)
        tracemalloc.start(5)
        store = StoredLPs(file)
        for i in order:
            store[i]
        gc.collect()
        # What the store has allocated; other threads of the test run are no concern of it.
        by_store = tracemalloc.Filter(True, stores.__file__, all_frames=True)
        kept.append(sum(t.size for t in tracemalloc.take_snapshot().filter_traces([by_store]).traces))
        tracemalloc.stop()
    assert kept[0] > 0
    assert kept[1] < kept[0] + 0.1 * (tmp_path / "50").stat().st_size


# ---- other processes


def test_a_pickle_holds_no_data(path: Path, lps: Sequence[LP]) -> None:
    store = StoredLPs(path)
    pickled = pickle.dumps(store)
    assert len(pickled) < 1000
    assert_same(pickle.loads(pickled)[11], lps[11])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_read_it(path: Path, lps: Sequence[LP], method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    store = StoredLPs(path)
    store[0]
    with multiprocessing.get_context(method).Pool(1) as pool:
        for got, expected in zip(pool.map(partial(operator.getitem, store), range(25)), lps, strict=True):
            assert_same(got, expected)
    assert_same(store[0], lps[0])


# ---- refusals


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")], ids=["signal", "disk"])
def test_a_store_whose_writing_fails_is_not_there(tmp_path: Path, lps: Sequence[LP], error: BaseException) -> None:
    def failing() -> Iterator[LP]:
        yield from lps[:15]
        raise error

    with pytest.raises((KeyboardInterrupt, OSError)):
        write_lps(failing(), tmp_path / "some.lps")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_store_and_nothing_to_write_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.lps"):
        StoredLPs(tmp_path / "missing.lps")
    with pytest.raises(ValueError, match="lps is empty"):
        write_lps([], tmp_path / "some.lps")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["truncated", "longer", "empty", "short", "garbage", "folder"])
def test_a_damaged_store_is_named(path: Path, damage: str) -> None:
    whole = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        contents = {"truncated": whole[:-8], "longer": whole + b"\0", "empty": b"", "short": b"\xff" * 9}
        path.write_bytes(contents.get(damage, b"\xff" * len(whole)))
    with pytest.raises((ValueError, OSError), match=r"some\.lps.*"):
        StoredLPs(path)


def test_a_store_of_another_version_is_refused_as_such(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "FORMAT", ["kkt-lps", 99])
    with pytest.raises(ValueError, match=r"its format is \['kkt-lps', 3\], expected \['kkt-lps', 99\]\): delete it"):
        StoredLPs(path)


def test_an_lp_is_checked_without_its_neighbours(path: Path, lps: Sequence[LP]) -> None:
    """A flipped byte of one LP's cost vector makes that LP unreadable, and no other."""
    content = bytearray(path.read_bytes())
    content[content.index(lps[3].c.tobytes())] ^= 1
    path.write_bytes(content)
    store = StoredLPs(path)
    for i in range(25):
        if i != 3:
            assert_same(store[i], lps[i])
    with pytest.raises(ValueError, match=r"some\.lps is damaged \(its LP 3 does not fit its digest\): delete it"):
        store[3]
