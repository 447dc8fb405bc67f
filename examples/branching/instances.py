"""Generated set covers and combinatorial auctions, and SCIP models of them."""

from dataclasses import dataclass

import numpy as np
from pyscipopt import Model, quicksum

FAMILIES = ("setcover", "auction")
ROLES = ("unlabelled", "pool", "test", "solve")  # no instance has two of them
SETTINGS = {  # the same for every rule, so that the number of nodes depends only on the rule
    "display/verblevel": 0,
    "presolving/maxrounds": 0,
    "separating/maxrounds": 0,
    "separating/maxroundsroot": 0,
    "presolving/maxrestarts": 0,
    "conflict/enable": False,
    "timing/clocktype": 1,  # CPU seconds, because other processes may share the machine
}


@dataclass(frozen=True)
class Instance:
    """Minimise `costs'x` over binary x, where the sum over each row is at least 1 (cover) or at most 1 (packing)."""

    costs: np.ndarray
    rows: tuple[np.ndarray, ...]
    cover: bool


def set_cover(random: np.random.Generator, size: int) -> Instance:
    """`size` elements and twice as many sets, 8% dense; each element is in two sets or more. Costs are 10 to 20."""
    member = random.random((size, 2 * size)) < 0.08
    for row in member:
        row[random.choice(2 * size, 2, replace=False)] = True
    return Instance(random.integers(10, 21, 2 * size).astype(float), tuple(map(np.flatnonzero, member)), True)


def auction(random: np.random.Generator, size: int) -> Instance:
    """`size` items and five times as many bids: each is for two items or more, at their value with noise of 10%."""
    values, rows = random.uniform(50.0, 100.0, size), [[] for _ in range(size)]
    costs = np.zeros(5 * size)
    for bid in range(5 * size):
        items = random.choice(size, min(size, 1 + random.geometric(0.35)), replace=False)
        costs[bid] = -values[items].sum() * random.uniform(0.9, 1.1)
        for item in items:
            rows[item].append(bid)
    return Instance(costs, tuple(np.array(row) for row in rows if row), False)


def instance(family: str, role: str, number: int, size: int) -> Instance:
    random = np.random.default_rng([FAMILIES.index(family), ROLES.index(role), number])
    return (set_cover if family == "setcover" else auction)(random, size)


def model(inst: Instance, seed: int = 0) -> Model:
    """A SCIP model without presolving, cuts, heuristics and conflict analysis, so all nodes have the same rows."""
    scip = Model()
    scip.hideOutput()
    scip.setHeuristics(3)  # off
    scip.setParams({**SETTINGS, "randomization/randomseedshift": seed})
    x = [scip.addVar(vtype="B", obj=float(cost)) for cost in inst.costs]
    for row in inst.rows:
        total = quicksum(x[j] for j in row)
        scip.addCons(total >= 1 if inst.cover else total <= 1)
    return scip
