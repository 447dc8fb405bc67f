"""The LP wing: the only rooms that know that an instance is a linear program."""

from jepa_ssl.lp.instances import DenseLP, SparseLP
from jepa_ssl.lp.layout import flatten, unflatten, valid_entries
from jepa_ssl.lp.maskers import StructureMasker
from jepa_ssl.lp.solver_state import SolverState, split_states
from jepa_ssl.lp.state_features import StateFeatures

__all__ = [
    "DenseLP",
    "SolverState",
    "SparseLP",
    "StateFeatures",
    "StructureMasker",
    "flatten",
    "split_states",
    "unflatten",
    "valid_entries",
]
