"""Linear programs: layouts, batches, a masker, PDHG (the primal-dual hybrid gradient method), and solver states."""

from jepa_ssl.lp.instances import DenseLP, SparseLP
from jepa_ssl.lp.layout import flatten, unflatten, valid_entries
from jepa_ssl.lp.maskers import StructureMasker
from jepa_ssl.lp.solver_state import SolverState
from jepa_ssl.lp.state_features import StateFeatures
from jepa_ssl.lp.stored import split_states

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
