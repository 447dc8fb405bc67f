"""Seeded generators of linear programs, of any size: four families of relaxed integer programs, and random LPs.

The four families and their parameters are those of Gasse, Chételat, Ferroni, Charlin & Lodi, "Exact Combinatorial
Optimization with Graph Convolutional Neural Networks", NeurIPS 2019. Each generator cites the original paper.
"""

import difflib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from data.lp import LP, canonical
from numpy.typing import NDArray
from scipy.sparse import block_array, coo_array, csr_array, diags_array, eye_array, kron

Vector, Integers = NDArray[np.float64], NDArray[np.int64]
Bundle = tuple[int, ...]  # items, in rising order
STREAM = 10**9  # seeds per stream of `instances`; so stream 2's instance 7 reads "...-2000000007"
Model = dict[str, Any]  # the arguments of `canonical` that a recipe decides; every lower bound of a column is 0
PACKING: Model = {"row_lower": -np.inf, "row_upper": 1.0, "column_upper": 1.0, "maximize": True}


@dataclass(frozen=True)
class Family:
    """A recipe, and the sizes that it takes after the random generator."""

    recipe: Callable[..., Model]
    size_names: tuple[str, ...]
    default_size: tuple[int, ...]  # about 20 variables
    smallest_size: tuple[int, ...]

    @property
    def expected(self) -> str:
        pairs = zip(self.size_names, self.smallest_size, strict=True)
        return ", ".join(f"{name} >= {least}" for name, least in pairs) + ", all below 2**31"

    def takes(self, size: Sequence[Any]) -> bool:
        """Whether the recipe can make LPs of this size."""
        are_ints = len(size) == len(self.size_names) and all(map(_is_int, size))
        return are_ints and all(least <= n < 2**31 for n, least in zip(size, self.smallest_size, strict=True))


def _is_int(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def generate(family: str, size: Sequence[int], seed: int) -> LP:
    """Generate one LP, fully determined by its family (a key of `FAMILIES`), its size and its seed (at least 0).

    Raises ValueError if the family is unknown, the size does not fit it, or the seed is negative.

    >>> lp = generate("set_cover", (10, 20), seed=7)
    >>> lp.name, lp.c.size
    ('set_cover-10x20-7', 20)
    """
    _check(family, size, seed)
    name = f"{family}-{'x'.join(str(int(s)) for s in size)}-{int(seed)}"
    # The digest of the whole name, so that no two (family, size, seed) share a random stream.
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest(), "little"))
    return canonical(name, family, column_lower=0.0, **FAMILIES[family].recipe(rng, *size))


def instances(families: Sequence[str], sizes: Mapping[str, Sequence[int]], count: int, seed: int) -> Iterator[LP]:
    """Generate `count` LPs one at a time, cycling through the families.

    The first k instances do not depend on `count`, and two seeds (say, of training and of test data) share none.

    `sizes` has a size per family; a family that is not in it gets its default size.

    Raises ValueError at the call, not at the first instance, for the reasons of `generate`. Also if there is no family,
    a size for a family that is not generated, or a count outside of 0 to 10**9.
    """
    if not families:
        raise ValueError(f"families is empty: name at least one of {', '.join(FAMILIES)}.")
    if unused := sorted(set(sizes) - set(families)):
        raise ValueError(f"sizes has {unused[0]!r}, which is not among families {list(families)}: drop or add it.")
    if not 0 <= count <= STREAM:
        raise ValueError(f"count is {count}, expected 0 to {STREAM}: use several seeds for more.")
    turns = [(name, sizes.get(name, FAMILIES[name].default_size if name in FAMILIES else ())) for name in families]
    for family, size in turns:
        _check(family, size, seed)
    return (generate(*turns[i % len(turns)], seed=seed * STREAM + i) for i in range(count))


def set_cover(rng: np.random.Generator, rows: int, columns: int) -> Model:
    """Choose columns of least cost that cover every row; every row has two columns or more, every column a row.

    Balas & Ho, "Set covering algorithms using cutting planes, heuristics, and subgradient optimization: a
    computational study", Mathematical Programming Study 12, 1980. Costs are integers from 1 to 100.
    """
    row, column = _cells(rng, rows, columns, per_row=2)
    c = rng.integers(1, 100, size=columns, endpoint=True).astype(float)
    A = csr_array((np.ones(row.size), (row, column)), shape=(rows, columns))
    return {"c": c, "A": A, "row_lower": 1.0, "row_upper": np.inf, "column_upper": 1.0, "integers": columns}


def auction(rng: np.random.Generator, items: int, bids: int) -> Model:
    """Accept the bids of most revenue in a combinatorial auction: each item is sold once, each bidder wins one bid.

    Leyton-Brown, Pearson & Shoham, "Towards a universal test suite for combinatorial auction algorithms", ACM EC 2000:
    the scheme "arbitrary". The bids of a bidder share a dummy item. Items without bids get no row.
    """
    values = rng.uniform(1, 100, size=items)
    compatibility = np.triu(rng.random((items, items)), 1)
    compatibility += compatibility.T
    bundles, prices, dummies = list[Sequence[int]](), list[float](), 0  # per bid: its items, and a dummy if needed
    while len(bundles) < bids:
        offers = _bidder(rng, values, compatibility)[: bids - len(bundles)]
        dummy = [items + dummies] if len(offers) > 1 else []
        dummies += len(dummy)
        bundles += [[*bundle, *dummy] for bundle, _ in offers]
        prices += [price for _, price in offers]
    column = np.repeat(np.arange(bids), [len(bundle) for bundle in bundles])
    sold, row = np.unique(np.concatenate(bundles), return_inverse=True)
    A = csr_array((np.ones(row.size), (row, column)), shape=(sold.size, bids))
    return {"c": np.array(prices), "A": A, "integers": bids, **PACKING}


def independent_set(rng: np.random.Generator, nodes: int) -> Model:
    """Choose most nodes of a graph, no two of them neighbours: one row per clique of a partition, one per further edge.

    The graphs grow by preferential attachment, with four edges per node (fewer below eight nodes). Source: Barabási &
    Albert, "Emergence of scaling in random networks", Science 286, 1999. The clique partition is the greedy one of
    Bergman, Cire, van Hoeve & Hooker, "Decision Diagrams for Optimization", Springer, 2016.
    """
    neighbours = _preferential_attachment(rng, nodes, edges_per_node=min(4, nodes // 2))
    cliques = _clique_partition(neighbours)
    covered = {pair for clique in cliques for pair in combinations(clique, 2)}
    edges = ((i, j) for i in range(nodes) for j in sorted(neighbours[i]) if i < j)
    packed = [clique for clique in cliques if len(clique) > 1] + [edge for edge in edges if edge not in covered]
    row = np.repeat(np.arange(len(packed)), [len(group) for group in packed])
    A = csr_array((np.ones(row.size), (row, np.concatenate(packed))), shape=(len(packed), nodes))
    return {"c": np.ones(nodes), "A": A, "integers": nodes, **PACKING}


def facility(rng: np.random.Generator, customers: int, facilities: int) -> Model:
    """Open facilities and serve every customer from them, within their capacities, at least cost.

    The capacity is five times the demand. Source: Cornuéjols, Sridharan & Thizy, "A comparison of heuristics and
    relaxations for the capacitated plant location problem", European Journal of Operational Research 50, 1991. Columns
    are the fractions x_ij of customer i served by j, then the relaxed decisions y_j. Rows are the demands (equalities),
    the capacities, the total capacity, and x_ij <= y_j; the last two only tighten the relaxation.
    """
    places = rng.random((customers + facilities, 2))
    distance = np.linalg.norm(places[:customers, None] - places[None, customers:], axis=-1)
    demand = rng.integers(5, 35, size=customers, endpoint=True)
    capacity = rng.integers(10, 160, size=facilities, endpoint=True)
    fixed_cost = np.floor(rng.integers(100, 110, size=facilities, endpoint=True) * np.sqrt(capacity))
    fixed_cost += rng.integers(0, 90, size=facilities, endpoint=True)
    # Rounded up: rounded down, a small capacity of a tiny instance would be zero.
    capacity = np.ceil(capacity * (5 * demand.sum() / capacity.sum()))
    pairs = customers * facilities
    demands = [kron(eye_array(customers), np.ones((1, facilities))), None]
    capacities = [kron(demand[None, :], eye_array(facilities)), -diags_array(capacity)]
    total = [None, coo_array(capacity[None, :])]
    links = [eye_array(pairs), -kron(np.ones((customers, 1)), eye_array(facilities))]
    c = np.concatenate([(10 * demand[:, None] * distance).ravel(), fixed_cost])
    A, counts = csr_array(block_array([demands, capacities, total, links])), [customers, facilities, 1, pairs]
    lower, upper = np.repeat([1, -np.inf, demand.sum(), -np.inf], counts), np.repeat([1, 0, np.inf, 0], counts)
    column_upper = np.repeat([np.inf, 1], [pairs, facilities])  # x_ij <= y_j <= 1 needs no bound of x_ij
    sides = {"row_lower": lower, "row_upper": upper, "column_upper": column_upper}
    return {"c": c, "A": A, "integers": facilities, **sides}


def random(rng: np.random.Generator, rows: int, columns: int) -> Model:
    """Minimise c'x subject to Ax <= b, x >= 0, built around an optimum, so that it is feasible and bounded.

    A primal point x >= 0 and multipliers lam >= 0 are drawn first. There are as many positive x as tight rows, so x is
    a vertex. Then b = Ax + slack, with slacks where lam is 0. And c = reduced costs - A'lam, with reduced costs where x
    is 0. Coefficients are standard normal. No row or column is empty.
    """
    row, column = _cells(rng, rows, columns, per_row=1)
    A = csr_array((rng.standard_normal(row.size), (row, column)), shape=(rows, columns))
    tight = int(rng.integers(1, min(rows, columns), endpoint=True))
    is_tight = rng.permutation(rows) < tight
    is_positive = rng.permutation(columns) < tight
    x = np.where(is_positive, rng.uniform(0.1, 1, size=columns), 0)
    reduced_cost = np.where(is_positive, 0, rng.uniform(0.1, 1, size=columns))
    lam = np.where(is_tight, rng.uniform(0.1, 1, size=rows), 0)
    slack = np.where(is_tight, 0, rng.uniform(0.1, 1, size=rows))
    c = reduced_cost - A.T @ lam
    return {"c": c, "A": A, "row_lower": -np.inf, "row_upper": A @ x + slack, "column_upper": np.inf}


FAMILIES: dict[str, Family] = {
    "set_cover": Family(set_cover, ("rows", "columns"), (10, 20), (1, 1)),
    "auction": Family(auction, ("items", "bids"), (10, 20), (1, 1)),
    "independent_set": Family(independent_set, ("nodes",), (20,), (2,)),
    "facility": Family(facility, ("customers", "facilities"), (4, 3), (1, 1)),
    "random": Family(random, ("rows", "columns"), (10, 20), (1, 1)),
}


def unknown(family: str) -> str:
    """The message about a family that is not in `FAMILIES`."""
    near = difflib.get_close_matches(family, FAMILIES, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(FAMILIES)}."
    return f"family {family!r} is unknown: {hint}"


def _check(family: str, size: Sequence[int], seed: int) -> None:
    if family not in FAMILIES:
        raise ValueError(unknown(family))
    if not FAMILIES[family].takes(size):
        expected = FAMILIES[family].expected
        raise ValueError(f"size {tuple(size)} does not fit family {family!r}: give one int each for ({expected}).")
    if not _is_int(seed) or seed < 0:
        raise ValueError(f"seed is {seed!r}, expected an int >= 0.")


def _cells(rng: np.random.Generator, rows: int, columns: int, per_row: int) -> tuple[Integers, Integers]:
    """Draw the cells (row, column) of a sparse matrix: at least one per column, and `per_row` (1 or 2) per row.

    A twentieth of all cells, or three per row on average if that is more; in rising order.
    """
    row = np.arange(rows)
    first = rng.integers(columns, size=rows)
    required = [row * columns + first]
    if per_row == 2 and columns > 1:
        required.append(row * columns + (first + rng.integers(1, columns, size=rows)) % columns)
    empty = np.setdiff1d(np.arange(columns), np.concatenate(required) % columns)
    required.append(rng.integers(rows, size=empty.size) * columns + empty)
    chosen = np.concatenate(required)
    # As many distinct cells as are wanted in all: enough, whichever of them are already required.
    wanted = min(max(round(0.05 * rows * columns), 3 * rows, chosen.size), rows * columns)
    further = rng.choice(rows * columns, size=wanted, replace=False)
    further = further[~np.isin(further, chosen)][: wanted - chosen.size]
    row, column = np.divmod(np.sort(np.concatenate([chosen, further])), columns)
    return row, column


def _bidder(rng: np.random.Generator, values: Vector, compatibility: Vector) -> list[tuple[Bundle, float]]:
    """Draw one bidder's bids, (bundle, price) each: for a favourite bundle, then for up to five substitutes.

    A bidder values an item within 50 of its common value, and a bundle at size**1.2 above its items. The favourite
    takes another item with probability 0.65. Substitutes have the favourite's size, cost at most 1.5 times its price,
    and resell for at least half of its common value. There are no bids if the favourite is worth nothing to the bidder.
    """
    interest = rng.random(values.size)
    private = values + 50 * (2 * interest - 1)

    def choice(weights: Vector) -> int:
        cumulative = weights.cumsum()
        return int(np.searchsorted(cumulative / cumulative[-1], rng.random(), side="right"))

    def price(bundle: Bundle) -> float:
        return float(private[list(bundle)].sum() + len(bundle) ** 1.2)

    def grow(first: int, goes_on: Callable[[int], bool]) -> Bundle:
        bundle = [first]
        while len(bundle) < values.size and goes_on(len(bundle)):
            attraction = interest * compatibility[bundle].mean(axis=0)
            attraction[bundle] = 0
            bundle.append(choice(attraction))
        return tuple(sorted(bundle))

    favourite = grow(choice(interest), lambda _: rng.random() < 0.65)
    if price(favourite) <= 0:
        return []
    bids = {favourite: price(favourite)}
    substitutes = (grow(item, lambda size: size < len(favourite)) for item in favourite)
    for bundle in sorted(substitutes, key=price, reverse=True):
        is_affordable = 0 < price(bundle) <= 1.5 * price(favourite)
        is_resalable = values[list(bundle)].sum() >= 0.5 * values[list(favourite)].sum()
        if len(bids) <= 5 and is_affordable and is_resalable:
            bids.setdefault(bundle, price(bundle))
    return list(bids.items())


def _preferential_attachment(rng: np.random.Generator, nodes: int, edges_per_node: int) -> list[set[int]]:
    """Grow a graph node by node, each tied to `edges_per_node` earlier ones in proportion to their degrees."""
    neighbours: list[set[int]] = [set() for _ in range(nodes)]
    degree = np.zeros(nodes)
    for node in range(edges_per_node, nodes):
        chosen = np.arange(node)  # no edges yet: the first node to come is tied to all
        if node > edges_per_node:
            chosen = rng.choice(node, size=edges_per_node, replace=False, p=degree[:node] / degree[:node].sum())
        neighbours[node].update(chosen.tolist())
        for other in chosen.tolist():
            neighbours[other].add(node)
        degree[chosen] += 1
        degree[node] = edges_per_node
    return neighbours


def _clique_partition(neighbours: Sequence[set[int]]) -> list[tuple[int, ...]]:
    """Split the nodes into cliques, greedily: the node of highest degree that is left, and all that fits it."""
    left = sorted(range(len(neighbours)), key=lambda node: len(neighbours[node]), reverse=True)
    cliques: list[tuple[int, ...]] = []
    while left:
        clique: list[int] = []
        for node in left:
            if neighbours[node].issuperset(clique):
                clique.append(node)
        left = [node for node in left if node not in clique]
        cliques.append(tuple(sorted(clique)))
    return cliques
