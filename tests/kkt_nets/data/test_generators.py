"""The generators: each recipe's promises, and that every LP is feasible, bounded and determined by its name."""

import hashlib
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data import generators
from data.generators import FAMILIES, generate, instances
from data.lp import LP
from data.solve import solve
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_lps import original_objective

EDGES = {
    "set_cover": [(1, 7), (7, 1), (2, 2)], "auction": [(1, 9), (9, 1), (2, 12)], "independent_set": [(3,), (5,)],
    "facility": [(1, 9), (9, 1), (2, 2)], "random": [(1, 7), (7, 1)],
}  # fmt: skip
TINY = [(name, size) for name, family in FAMILIES.items() for size in (family.smallest_size, *EDGES[name])]
LARGE = {"set_cover": (100, 200), "auction": (60, 200), "independent_set": (200,), "facility": (19, 10)}
LARGE["random"] = (100, 200)


def digest(lp: LP) -> str:
    """A fingerprint of everything that an LP is, but its name."""
    state = hashlib.sha256(repr((lp.family, lp.A.shape, lp.objective_sign, lp.objective_offset, lp.integers)).encode())
    for array in (lp.A.indptr.astype(np.int64), lp.A.indices.astype(np.int64), lp.A.data, lp.b, lp.c):
        state.update(array.tobytes())
    return state.hexdigest()


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


# ---- every family


DEFAULT = [(name, family.default_size) for name, family in FAMILIES.items()]


@pytest.mark.parametrize(("family", "size"), [*TINY, *DEFAULT, *LARGE.items()])
def test_every_lp_has_an_optimum(family: str, size: tuple[int, ...]) -> None:
    for seed in range(1 if size == LARGE[family] else 20):
        lp = generate(family, size, seed)
        assert size != LARGE[family] or lp.c.size == 200
        solution = solve(lp)  # raises where the LP is infeasible or unbounded
        assert solution.x.min() >= -1e-7
        if family != "random":
            assert solution.x.max() <= 1 + 1e-7


@pytest.mark.parametrize("family", FAMILIES)
def test_canonical_form(family: str) -> None:
    lp = generate(family, FAMILIES[family].default_size, seed=3)
    n = lp.c.size
    assert lp.A.shape == (lp.b.size, n)
    assert lp.family == family
    assert lp.A.has_canonical_format
    assert np.all(lp.A.data != 0)
    assert all(array.dtype == np.float64 for array in (lp.A.data, lp.b, lp.c))
    assert all(np.isfinite(array).all() for array in (lp.A.data, lp.b, lp.c))
    assert 15 <= n <= 25
    assert lp.integers == {"random": 0, "facility": 3}.get(family, n)
    assert lp.objective_sign == (-1 if family in ("auction", "independent_set") else 1)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), family=st.sampled_from(list(FAMILIES)), seed=st.integers(0, 2**70))
def test_any_size_and_seed_gives_an_lp_with_an_optimum(data: st.DataObject, family: str, seed: int) -> None:
    size = tuple(data.draw(st.integers(least, 12)) for least in FAMILIES[family].smallest_size)
    lp = generate(family, size, seed)
    assert np.isfinite(original_objective(lp, solve(lp).x))
    assert digest(lp) == digest(generate(family, size, seed))


# ---- seeds


@pytest.mark.parametrize("family", FAMILIES)
def test_the_seed_and_the_size_decide(family: str) -> None:
    size = FAMILIES[family].default_size
    assert digest(generate(family, size, 1)) == digest(generate(family, list(size), 1))
    assert len({digest(generate(family, size, seed)) for seed in (0, 1, 2, 2**32, 2**64, 2**64 + 1)}) == 6
    larger = generate(family, tuple(s + 1 for s in size), 1)
    shared = min(larger.c.size, generate(family, size, 1).c.size)
    if family != "independent_set":  # whose costs are all 1
        assert not np.array_equal(larger.c[:shared], generate(family, size, 1).c[:shared])


def test_names() -> None:
    assert generate("set_cover", (10, 20), 7).name == "set_cover-10x20-7"
    nodes: Any = np.int64(20)  # as a sweep over an array gives them
    seed: Any = np.int64(7)
    assert generate("independent_set", (nodes,), seed).name == "independent_set-20-7"


def test_the_global_random_state_is_left_alone() -> None:
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002  # pyright: ignore[reportArgumentType, reportIndexIssue]
    list(instances(list(FAMILIES), {}, count=5, seed=0))
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002  # pyright: ignore[reportArgumentType]


def test_another_process_generates_the_same() -> None:
    code = (
        "from data.generators import FAMILIES, instances; from test_generators import digest\n"
        "print(*map(digest, instances(list(FAMILIES), {}, count=10, seed=1)))"
    )
    path = os.pathsep.join([str(Path(generators.__file__).parents[1]), *map(str, Path(__file__).parents[:3])])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "12345"}
    output = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert output.stdout.split() == [digest(lp) for lp in instances(list(FAMILIES), {}, count=10, seed=1)]


# ---- streams of instances


def test_instances_take_the_families_in_turn() -> None:
    lps = list(instances(["set_cover", "facility"], {"set_cover": (5, 6)}, count=5, seed=2))
    assert [lp.family for lp in lps] == ["set_cover", "facility", "set_cover", "facility", "set_cover"]
    assert [lp.c.size for lp in lps] == [6, 15, 6, 15, 6]
    assert lps[2].name == "set_cover-5x6-2000000002"
    assert digest(lps[2]) == digest(generate("set_cover", (5, 6), 2000000002))


def test_splits_share_no_instance() -> None:
    families = ["set_cover", "random"]
    splits = [{digest(lp) for lp in instances(families, {}, count=40, seed=seed)} for seed in range(3)]
    assert len(set.union(*splits)) == 120


def test_instances_are_made_on_demand_and_do_not_depend_on_the_count() -> None:
    many = [digest(lp) for lp in islice(instances(list(FAMILIES), {}, count=10**9, seed=0), 7)]
    assert many == [digest(lp) for lp in instances(list(FAMILIES), {}, count=7, seed=0)]
    assert list(instances(["random"], {}, count=0, seed=0)) == []


# ---- refusals


@pytest.mark.parametrize(("family", "size", "seed", "message"), [
    ("setcover", (10, 20), 0, r"family 'setcover' is unknown: did you mean 'set_cover'\?"),
    ("xyz", (10, 20), 0, "family 'xyz' is unknown: choose one of set_cover, auction, "),
    ("independent_set", (1,), 0, r"size \(1,\) does not fit family 'independent_set'.*nodes >= 2"),
    *(("set_cover", size, 0, r"does not fit family 'set_cover'.*\(rows >= 1, columns >= 1, all below 2\*\*31\)")
      for size in [(), (10,), (10, 20, 30), (0, 20), (10, -1), (10, 2.5), (True, 20), ("10", 20), (2**31, 2)]),
    *(("random", (10, 20), seed, "seed is") for seed in (-1, 1.5, True)),
])  # fmt: skip
def test_a_family_a_size_or_a_seed_that_does_not_fit_is_refused(
    family: str, size: Any, seed: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        generate(family, size, seed)


@pytest.mark.parametrize(("families", "sizes", "count", "seed", "message"), [
    ([], {}, 1, 0, "families is empty"),
    (["auctoin"], {}, 1, 0, "did you mean 'auction'"),
    (["auction"], {"facility": (4, 3)}, 1, 0, "sizes has 'facility'"),
    (["auction"], {"auction": ()}, 1, 0, r"size \(\) does not fit"),
    (["auction"], {}, -1, 0, "count is -1"),
    (["auction"], {}, 10**9 + 1, 0, "use several seeds"),
    (["auction"], {}, 1, -1, "seed is -1"),
])  # fmt: skip
def test_instances_refuse_at_the_call(families: Any, sizes: Any, count: int, seed: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        instances(families, sizes, count, seed)
