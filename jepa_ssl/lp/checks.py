"""What is wrong with a batch of LPs: shapes, which cost nothing to look at, and values, which wait for the device."""

import torch
from torch import Tensor

from jepa_ssl.instances import BipartiteGraph, sums_up
from jepa_ssl.lp.instances import DenseLP, SparseLP


def check_shapes(lp: SparseLP | DenseLP) -> None:
    """Raises a ValueError unless the tensors fit each other."""
    _one_float_type(lp)
    if isinstance(lp, DenseLP):
        if lp.A.ndim != 3:
            raise ValueError(f"A is {list(lp.A.shape)}, but must be [batch, m, n]; use .unsqueeze(0) for a single LP.")
        row, column = lp.A.shape[:2], (lp.A.shape[0], lp.A.shape[2])
        like_b, like_c = ("b", "mask_m", "equality"), ("c", "mask_n", "lower", "upper")
    else:
        if lp.b.ndim != 1 or lp.c.ndim != 1:
            raise ValueError(
                f"b is {list(lp.b.shape)} and c {list(lp.c.shape)}, but both must be vectors over the whole batch; "
                f"use torch.cat, not torch.stack, to put LPs one after the other."
            )
        row, column = lp.b.shape, lp.c.shape
        like_b, like_c = ("equality",), ("lower", "upper")
        if lp.coefficient.ndim != 1:
            raise ValueError(
                f"coefficient is {list(lp.coefficient.shape)}, but must be [edges]; use .squeeze(-1) on an edge_attr "
                f"with one column."
            )
        if lp.edge_index.shape[:-1] == (2,) and len(lp.coefficient) != lp.edge_index.size(1):
            raise ValueError(
                f"coefficient has {len(lp.coefficient)} numbers, but edge_index has {lp.edge_index.size(1)} edges; "
                f"give one coefficient an edge."
            )
        _graph(lp)
    for names, shape in ((like_b, row), (like_c, column)):
        for name in names:
            found = getattr(lp, name).shape
            if found != shape:
                raise ValueError(
                    f"{name} is {list(found)}, but must be {list(shape)}, one number a "
                    f"{'row' if names is like_b else 'column'} of A; pad and collate it as A is."
                )
    for name in ("equality", *(("mask_m", "mask_n") if isinstance(lp, DenseLP) else ())):
        if getattr(lp, name).dtype != torch.bool:
            raise ValueError(f"{name} is {getattr(lp, name).dtype}, but must be bool; write {name} != 0.")


def check_values(lp: SparseLP | DenseLP) -> None:
    """Looks at numbers too, and so waits for the device: call it where batches are built.

    Raises:
        ValueError: a number of A, b or c is not finite; bounds cross, or are NaN; offsets or edges leave the batch.
    """
    check_shapes(lp)
    if isinstance(lp, DenseLP):
        rows, columns = lp.mask_m, lp.mask_n
        parts = {"A": (lp.A, rows[:, :, None] & columns[:, None, :]), "b": (lp.b, rows), "c": (lp.c, columns)}
    else:
        everywhere = {"coefficient": lp.coefficient, "b": lp.b, "c": lp.c}
        parts = {name: (value, torch.ones_like(value, dtype=torch.bool)) for name, value in everywhere.items()}
        columns = parts["c"][1]
    for name, (value, real) in parts.items():
        place = None if sums_up(value) else _first(real & ~value.isfinite())
        if place is not None:
            raise ValueError(
                f"{name}{place} is {float(value[tuple(place)])}, but must be finite; leave out a row without a "
                f"right-hand side, and put infinite bounds on x into lower and upper."
            )
    # A NaN makes the comparison false, and so is caught too.
    in_order = (lp.lower <= lp.upper) & (lp.lower < torch.inf) & (lp.upper > -torch.inf)
    place = _first(columns & ~in_order)
    if place is not None:
        at = tuple(place)
        raise ValueError(
            f"lower{place} is {float(lp.lower[at])} and upper{place} is {float(lp.upper[at])}, but a number must fit "
            f"between them; correct the bounds, or leave this infeasible LP out."
        )
    if isinstance(lp, SparseLP):
        check_wiring(lp)


def check_wiring(lp: SparseLP) -> None:
    """Raises a ValueError where offsets or edges leave the batch, or an edge joins two LPs; waits for the device."""
    _graph(lp).check_wiring()


def _one_float_type(lp: SparseLP | DenseLP) -> None:
    names = ("A" if isinstance(lp, DenseLP) else "coefficient", "b", "c", "lower", "upper")
    parts: dict[str, Tensor] = {name: getattr(lp, name) for name in names}
    for name, part in parts.items():
        if not part.is_floating_point():
            raise ValueError(f"{name} is {part.dtype}, but must be floating point; use .float().")
    first = parts[names[0]].dtype
    for name, part in parts.items():
        if part.dtype != first:
            raise ValueError(
                f"{name} is {part.dtype}, but {names[0]} is {first}, and an LP is of one type; "
                f"use .to({names[0]}.dtype)."
            )


def _graph(lp: SparseLP) -> BipartiteGraph:
    """The LP's wiring, which knows how to look at edges and offsets."""
    b, coefficient, c = (part.unsqueeze(-1) for part in (lp.b, lp.coefficient, lp.c))
    return BipartiteGraph(b, lp.edge_index, coefficient, c, lp.constraint_offsets, lp.variable_offsets)


def _first(wrong: Tensor) -> list[int] | None:
    """The index of the first True, if there is one."""
    places: list[list[int]] = wrong.nonzero()[:1].tolist()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return places[0] if places else None
