"""Check that a function reads the right LPs from your batches."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch's tolist, unique and lstsq have no types.

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from jepa_ssl.lp.instances import DenseLP, SparseLP

PARTS = ("A", "b", "c", "equality", "lower", "upper")


class LPCheck:
    """Collects faults, a sentence each."""

    def __init__(self, lp: Any) -> None:
        self.faults: list[str] = []
        self.lps: list[dict[str, Tensor]] = []
        if isinstance(lp, SparseLP | DenseLP):
            try:
                self.lps = _dense_parts(lp) if isinstance(lp, DenseLP) else _sparse_parts(lp)
            except ValueError as error:
                self.faults.append(str(error))
            if any(not bool(one[name].isfinite().all()) for one in self.lps for name in ("A", "b", "c")):
                self.faults.append("a number of A, b or c is not finite; only bounds may be infinite.")
        else:
            self.faults.append(f"lp_of returned a {type(lp).__name__}, but must return a SparseLP or a DenseLP.")

    def compare(self, reference: Iterable[Sequence[Any]]) -> None:
        reference = list(reference)
        if len(reference) != len(self.lps):
            self.faults.append(f"lp_of makes {len(self.lps)} LPs, but reference has {len(reference)}.")
            return
        for number, (own, given) in enumerate(zip(self.lps, reference, strict=True)):
            if not 3 <= len(given) <= len(PARTS):
                self._add(
                    f"LP {number}: reference has {len(given)} parts, but must have A, b, c, and at most {PARTS[3:]}."
                )
                continue
            # Defaults: free x and inequalities.
            free = torch.full_like(own["c"], torch.inf)
            rest = (torch.zeros_like(own["equality"]), -free, free)[len(given) - 3 :]
            for name, values in zip(PARTS, (*given, *rest), strict=True):
                expected = _tensor(values).to(own[name])
                if expected.shape != own[name].shape:
                    shapes = f"{list(own[name].shape)}, but reference has {list(expected.shape)}"
                    self._add(f"LP {number}: {name} is {shapes}; give every row, including bounds, in lp_of's order.")
                elif not _close(own[name], expected) and PARTS.index(name) >= len(given):
                    self._add(f"LP {number}: it has {name} of its own, but reference has none; add it there.")
                elif not _close(own[name], expected):
                    self._add(f"LP {number}: {name} {_difference(own[name], expected)}")

    def evaluate(self, objective: Callable[[list[Tensor]], Any]) -> None:
        generator = torch.Generator().manual_seed(0)
        costs = [one["c"] for one in self.lps]
        zero = torch.as_tensor(objective([torch.zeros_like(c) for c in costs])).double()
        for _ in range(3):
            # A step of about 1 / |c|, so that small and large costs count equally.
            draws = [torch.randn(c.shape, generator=generator, dtype=c.dtype) for c in costs]
            points = [draw / torch.where(c != 0, c.abs(), 1) for draw, c in zip(draws, costs, strict=True)]
            yours = torch.as_tensor(objective(points)).double() - zero
            if list(yours.shape) != [len(costs)]:
                self._add(
                    f"objective returned {list(yours.shape)} numbers, but must return one per LP, [{len(self.lps)}]."
                )
                return
            own = torch.stack([c @ point for c, point in zip(costs, points, strict=True)]).double()
            size = torch.stack([c.abs() @ point.abs() for c, point in zip(costs, points, strict=True)]).double()
            size = torch.maximum(size, yours.abs())
            near = (own - yours).abs() <= 1e-4 * size + 1e-12  # NaN is not
            for number in (~near).nonzero().flatten().tolist():
                if _close(-own[number], yours[number]):
                    self._add(f"LP {number}: c'x is the negative of your objective; an LP minimises, so negate c.")
                else:
                    change = f"{float(own[number]):.6g}, but your objective by {float(yours[number]):.6g}"
                    self._add(
                        f"LP {number}: from 0 to a random point c'x changes by {change}; c is wrong or was "
                        f"rescaled: give the LP's own costs, not a scaled feature."
                    )
            if self.faults:
                return

    def _add(self, fault: str) -> None:
        if len(self.faults) < 5:  # more add nothing
            self.faults.append(fault)


def _tensor(values: Any) -> Tensor:
    """Convert an array, a list, or a sparse matrix of torch or scipy to a dense tensor."""
    if isinstance(values, Tensor):
        return values.to_dense()
    return torch.as_tensor(values.toarray() if hasattr(values, "toarray") else values)


def _close(own: Tensor, expected: Tensor) -> bool:
    if own.dtype == torch.bool or not own.numel():
        return torch.equal(own, expected)
    lost = ((own == 0) & (expected != 0)).any()  # no matter how small it is compared with the others
    largest = float(expected.nan_to_num(0, 0, 0).abs().max())
    return not lost and torch.allclose(own, expected, rtol=1e-4, atol=1e-6 * largest)


def _difference(own: Tensor, expected: Tensor) -> str:
    """Describe how `own` differs from `expected`."""
    finite = own.dtype != torch.bool and bool((own.isfinite() & expected.isfinite()).all())
    if finite and _close(-own, expected):
        return "has the opposite sign; the LP is min c'x with Ax <= b: negate what is maximised, and rows that are >=."
    x, y = own.flatten().double(), expected.flatten().double()
    if finite and len(x) > 2 and len(x.unique()) > 2:
        ones = torch.stack([x, torch.ones_like(x)], 1)
        scale, shift = torch.linalg.lstsq(ones, y[:, None]).solution.flatten()
        if _close(ones @ torch.stack([scale, shift]), y):
            return (
                f"was rescaled: the reference is {float(scale):.4g} times it, plus {float(shift):.4g}; let lp_of take "
                f"the LP's own numbers, not features that were scaled or moved."
            )
    place: list[int] = (own != expected).nonzero()[0].tolist()
    at = tuple(place)
    values = f"{own[at].item():.6g} at {place}, but {expected[at].item():.6g} in the reference"
    return f"is {values}; take b, c and the coefficients from the columns that hold them."


def _dense_parts(lp: DenseLP) -> list[dict[str, Tensor]]:
    parts: list[dict[str, Tensor]] = []
    for i, (row, column) in enumerate(zip(lp.mask_m, lp.mask_n, strict=True)):
        one = {name: getattr(lp, name)[i] for name in PARTS}
        masks = {"b": row, "equality": row, "c": column, "lower": column, "upper": column}
        parts.append({name: one["A"][row][:, column] if name == "A" else one[name][masks[name]] for name in PARTS})
    return parts


def _sparse_parts(lp: SparseLP) -> list[dict[str, Tensor]]:
    lp.check_wiring()
    A = torch.zeros(len(lp.b), len(lp.c), dtype=lp.coefficient.dtype)
    A.index_put_(tuple(lp.edge_index), lp.coefficient.detach(), accumulate=True)
    rows, columns = (offsets.tolist() for offsets in (lp.constraint_offsets, lp.variable_offsets))
    parts: list[dict[str, Tensor]] = []
    for i in range(lp.num_graphs):
        row, column = slice(rows[i], rows[i + 1]), slice(columns[i], columns[i + 1])
        places = {"b": row, "equality": row, "c": column, "lower": column, "upper": column}
        parts.append({"A": A[row, column]} | {name: getattr(lp, name)[place] for name, place in places.items()})
    return parts
