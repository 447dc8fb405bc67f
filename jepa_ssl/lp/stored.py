"""Solver states that are computed once and stored with the LPs."""

from collections.abc import Mapping

from torch import Tensor

from jepa_ssl.lp.instances import DenseLP, SparseLP
from jepa_ssl.lp.statistics import KINDS
from jepa_ssl.protocols import CONSTRAINT, VARIABLE


def split_states(lp: SparseLP | DenseLP, states: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The states of each LP by itself, to be stored with it: `[rows, 2h]` and `[columns, 2h]`, without padding.

    `torch.cat` puts the states of a `SparseLP` together again. Waits for the device.

    Raises:
        ValueError: a kind is missing, or its number of items is not that of the LPs.
    """
    check_states("states", states, lp)
    if isinstance(lp, DenseLP):
        masks = {CONSTRAINT: lp.mask_m, VARIABLE: lp.mask_n}
        pieces = [[state[real] for state, real in zip(states[k], masks[k], strict=True)] for k in KINDS]
    else:
        offsets = {CONSTRAINT: lp.constraint_offsets, VARIABLE: lp.variable_offsets}
        # Clones, because a stored view would keep its whole batch in memory.
        pieces = [[p.clone() for p in states[k].tensor_split(offsets[k][1:-1].cpu())] for k in KINDS]
    return [dict(zip(KINDS, of_one, strict=True)) for of_one in zip(*pieces, strict=True)]


def check_states(name: str, states: Mapping[str, Tensor], lp: SparseLP | DenseLP, numbers: int | None = None) -> None:
    """Raises a ValueError unless `states` are of these LPs, with this many numbers per item if that is given."""
    for kind, per_item in ((CONSTRAINT, lp.b), (VARIABLE, lp.c)):
        found, items = list(states[kind].shape) if kind in states else [], list(per_item.shape)
        if found[:-1] != items or numbers not in (None, found[-1]):
            raise ValueError(
                f"{name} has {kind} states of shape {found or 'none'}, but must have {[*items, numbers or '2h']} for "
                f"these LPs and steps; compute and store the states again."
            )
