"""The generators family by family: each recipe's promises."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from data import generators
from data.generators import generate
from data.solve import solve


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


# ---- set cover


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (3, 2), (2, 50), (50, 2), (10, 20), (100, 200)])
def test_set_cover_covers_rows_twice_and_leaves_no_column_empty(size: tuple[int, int]) -> None:
    for seed in range(20):
        model = generators.set_cover(rng(seed), *size)
        matrix = model["A"].toarray()
        assert set(np.unique(matrix)) <= {0.0, 1.0}
        assert size != (100, 200) or matrix.sum() == 0.05 * 100 * 200
        assert size != (10, 20) or matrix.sum() == 3 * 10
        assert matrix.sum(axis=1).min() >= min(2, size[1])
        assert matrix.sum(axis=0).min() >= 1
        assert np.all(model["c"] == np.rint(model["c"]))
        assert model["c"].min() >= 1
        assert model["c"].max() <= 100


# ---- auctions


def test_auction_bidders_win_one_bid_at_most() -> None:
    items, bids = 4, 80
    for seed in range(10):
        model = generators.auction(rng(seed), items, bids)
        matrix = model["A"].toarray().astype(bool)
        assert model["c"].shape == (bids,)
        assert model["c"].min() > 0
        assert model["row_upper"] == 1
        sold, dummies = matrix[:items], matrix[items:]
        assert sold.any(axis=0).all()
        assert len(dummies) > 0
        assert dummies.sum(axis=0).max() == 1
        for dummy in dummies:
            own = np.flatnonzero(dummy)
            assert 2 <= own.size <= 6
            assert np.all(np.diff(own) == 1)
            bundles = {tuple(np.flatnonzero(sold[:, bid])) for bid in own}
            assert len(bundles) == own.size
            assert len({len(bundle) for bundle in bundles}) == 1


def test_auction_gives_bidders_of_several_bids_a_dummy_item(monkeypatch: pytest.MonkeyPatch) -> None:
    bidders = iter(
        [
            [((0, 2), 9.0), ((2, 4), 8.0)],
            [],
            [((4,), 3.0)],
            [((0,), 7.0), ((2,), 6.0), ((4,), 5.0)],
            [((0, 4), 2.0), ((2, 4), 1.0)],  # one bid too many: the bidder that is left with one needs no dummy
        ]
    )
    monkeypatch.setattr(generators, "_bidder", lambda *_: next(bidders))
    model = generators.auction(rng(0), items=5, bids=7)
    assert model["c"].tolist() == [9, 8, 3, 7, 6, 5, 2]
    assert model["A"].toarray().astype(int).tolist() == [
        [1, 0, 0, 1, 0, 0, 1],  # item 0
        [1, 1, 0, 0, 1, 0, 0],  # item 2
        [0, 1, 1, 0, 0, 1, 1],  # item 4
        [1, 1, 0, 0, 0, 0, 0],  # the first bidder's dummy
        [0, 0, 0, 1, 1, 1, 0],  # the fourth's
    ]


def test_auction_of_one_item_goes_to_the_highest_bid() -> None:
    lp = generate("auction", (1, 9), seed=5)
    model = generators.auction(rng(0), 1, 9)
    assert np.array_equal(model["A"].toarray(), np.ones((1, 9)))
    assert solve(lp).objective == pytest.approx(lp.c.min())


def test_auction_substitutes_are_affordable_and_resalable() -> None:
    values = rng(0).uniform(1, 100, size=8)
    compatibility = rng(1).random((8, 8))
    several = 0
    for seed in range(300):
        bids = generators._bidder(rng(seed), values, compatibility)
        several += len(bids) > 1
        for bundle, price in bids[1:]:
            favourite, favourite_price = bids[0]
            assert 0 < price <= 1.5 * favourite_price
            assert values[list(bundle)].sum() >= 0.5 * values[list(favourite)].sum()
            assert len(set(bundle)) == len(bundle) == len(favourite)
    assert several > 50


def test_auction_has_no_row_for_an_item_that_nobody_wants() -> None:
    model = generators.auction(rng(0), 200, 5)
    assert model["A"].shape[0] < 100
    assert model["A"].toarray().any(axis=1).all()


# ---- independent sets


@pytest.mark.parametrize(("nodes", "edges_per_node"), [(2, 1), (3, 1), (5, 2), (8, 4), (20, 4), (100, 4)])
def test_independent_set_rows_cover_each_edge_once_and_nothing_else(nodes: int, edges_per_node: int) -> None:
    for seed in range(10):
        neighbours = generators._preferential_attachment(rng(seed), nodes, edges_per_node)  # drawn first, so the same
        edges = {(i, j) for i in range(nodes) for j in neighbours[i] if i < j}
        assert len(edges) == edges_per_node * (nodes - edges_per_node)
        assert all(i in neighbours[j] for i in range(nodes) for j in neighbours[i])

        model = generators.independent_set(rng(seed), nodes)
        packed = [np.flatnonzero(row).tolist() for row in model["A"].toarray()]
        pairs = [pair for row in packed for pair in combinations(row, 2)]
        assert len(pairs) == len(set(pairs))
        assert set(pairs) == edges
        assert model["row_upper"] == 1
        assert np.all(model["c"] == 1)


def test_preferential_attachment_favours_nodes_of_high_degree() -> None:
    degrees = [len(n) for n in generators._preferential_attachment(rng(0), 400, 4)]
    assert np.mean(degrees[:20]) > 4 * np.mean(degrees[-200:])


def test_clique_partition_is_one() -> None:
    """Rows above show that its cliques cover each edge of a random graph once."""
    triangle_and_tail = [{1, 2}, {0, 2}, {0, 1, 3}, {2, 4}, {3}]
    assert generators._clique_partition(triangle_and_tail) == [(0, 1, 2), (3, 4)]
    neighbours = generators._preferential_attachment(rng(0), 40, 4)
    assert sorted(node for clique in generators._clique_partition(neighbours) for node in clique) == list(range(40))


# ---- facilities


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2), (4, 3), (20, 10)])
def test_facility_rows_are_those_of_the_formulation(size: tuple[int, int]) -> None:
    customers, facilities = size
    for seed in range(10):
        model = generators.facility(rng(seed), customers, facilities)
        matrix = model["A"].toarray()
        demand = matrix[customers, : customers * facilities : facilities]
        capacity = matrix[customers + facilities, customers * facilities :]
        assert 5 * demand.sum() <= capacity.sum() < 5 * demand.sum() + facilities
        assert demand.min() >= 5
        assert demand.max() <= 35
        assert capacity.min() >= 1

        pairs = customers * facilities
        rows: list[Any] = []
        for i in range(customers):
            rows.append((1, {i * facilities + j: 1 for j in range(facilities)}, 1))
        for j in range(facilities):
            served = {i * facilities + j: demand[i] for i in range(customers)}
            rows.append((-np.inf, {**served, pairs + j: -capacity[j]}, 0))
        rows.append((demand.sum(), {pairs + j: capacity[j] for j in range(facilities)}, np.inf))
        rows += [(-np.inf, {pair: 1, pairs + pair % facilities: -1}, 0) for pair in range(pairs)]
        assert model["A"].shape == (len(rows), pairs + facilities)
        for row, (lower, coefficients, upper) in enumerate(rows):
            assert (model["row_lower"][row], model["row_upper"][row]) == (lower, upper)
            assert {int(k): matrix[row, k] for k in np.flatnonzero(matrix[row])} == coefficients


# ---- random LPs


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (10, 20), (20, 10), (100, 200)])
def test_random_lps_have_no_empty_row_or_column(size: tuple[int, int]) -> None:
    for seed in range(10):
        model = generators.random(rng(seed), *size)
        matrix = model["A"].toarray() != 0
        assert matrix.any(axis=1).all()
        assert matrix.any(axis=0).all()


def test_random_lps_differ_in_how_many_rows_are_tight() -> None:
    tight = set()
    for seed in range(30):
        lp = generate("random", (10, 20), seed)
        tight.add(int((solve(lp).lam[:10] > 1e-7).sum()))
    assert len(tight) >= 5
