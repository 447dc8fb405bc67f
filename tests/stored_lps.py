"""LPs that were stored and read again, and their objectives."""

import numpy as np
from data.lp import LP, Vector


def assert_same(read: LP, written: LP) -> None:
    """Bit for bit, minus zero included; the width of A's indices is scipy's own affair."""
    for field in ("name", "family", "objective_sign", "objective_offset", "integers"):
        assert repr(getattr(read, field)) == repr(getattr(written, field))
    assert read.A.shape == written.A.shape
    assert read.A.has_canonical_format
    assert np.array_equal(read.A.indptr, written.A.indptr)
    assert np.array_equal(read.A.indices, written.A.indices)
    pairs = [(read.A.data, written.A.data), (read.b, written.b), (read.c, written.c)]
    assert (read.scaling is None) == (written.scaling is None)
    if read.scaling is not None and written.scaling is not None:
        pairs += [(read.scaling.row, written.scaling.row), (read.scaling.column, written.scaling.column)]
        assert repr(read.scaling.rhs) == repr(written.scaling.rhs)
        assert repr(read.scaling.objective) == repr(written.scaling.objective)
    for got, expected in pairs:
        assert got.dtype == expected.dtype
        assert got.shape == expected.shape
        assert got.tobytes() == expected.tobytes()


def original_objective(lp: LP, x: Vector) -> float:
    """The model's own objective at a point `x [n]` of `lp`: its units, its sense (min or max), its offset."""
    scale = 1.0 if lp.scaling is None else lp.scaling.rhs * lp.scaling.objective
    return float(lp.objective_sign * scale * (lp.c @ x) + lp.objective_offset)
