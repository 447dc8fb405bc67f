"""Whole objectives that have been measured against others; the study (docs/study.md) says how, and by how much."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from jepa_ssl.losses import smooth_l1_loss
from jepa_ssl.lp.instances import DenseLP, SparseLP
from jepa_ssl.lp.solver_state import SolverState
from jepa_ssl.objective import JEPAObjective
from jepa_ssl.predictors import MLPPredictor
from jepa_ssl.protocols import Monitor
from jepa_ssl.regularizers import VICReg
from jepa_ssl.teachers import TargetNetwork


def later_state(
    dims: Mapping[str, int],
    *,
    lp_of: Callable[[Any], SparseLP | DenseLP],
    numbers: int = 2,
    steps: int = 300,
    restart_every: int | None = 100,
    regularizer_weight: float = 0.2,
    states_of: Callable[[Any], Mapping[str, Any]] | None = None,
    activation: Callable[[], nn.Module] = nn.ReLU,
    seed: int = 0,
    monitor: Monitor | None = None,
) -> JEPAObjective[Any]:
    """Predict, in embedding space, the state that a few cheap solver steps reach from an LP; no labels.

    The target of each item is what a frozen random network makes of its state after `steps` restarted PDHG steps,
    compared by smooth L1 where it has been layer-normed; VICReg's terms keep the encoder's embeddings spread out. Give
    the encoder an early state to go on from, `jepa_ssl.lp.StateFeatures`: with it the recipe predicts a later state
    from an earlier one. It is for pretraining: fit the statistics once (`objective.views.fit(batches)`), train for a
    few hundred steps with Adam at 1e-3 and a short warm-up, then train the task from there.

    Args:
        dims: size of the encoder's L2-normalised embeddings, stream -> dim: `"constraint"` and `"variable"` on graphs,
            `"instance"` on flat vectors.
        lp_of: from your batch to its LPs, see `SolverState`.
        numbers: how many numbers an item has in the target: 2 on graphs, 2 (m + n) on flat vectors of m rows and n
            columns.
        steps, restart_every: of the solver.
        regularizer_weight: what VICReg's terms count beside the prediction loss.
        states_of: from your batch to states that were stored with it, see `SolverState`.
        activation: of the predictor; that of your network.
        seed: of the target network.
        monitor: `CollapseMonitor()`, for example.

    >>> from jepa_ssl.lp import SparseLP
    >>> dims = {"constraint": 64, "variable": 64}
    >>> objective = later_state(dims, lp_of=SparseLP.inequalities_of)
    """
    return JEPAObjective(
        SolverState(steps, restart_every=restart_every, lp_of=lp_of, states_of=states_of),
        MLPPredictor(dims, activation=activation),
        TargetNetwork({stream: (numbers, dim) for stream, dim in dims.items()}, seed=seed),
        smooth_l1_loss,
        regularizer=VICReg(on_sphere=True),
        regularizer_weight=regularizer_weight,
        monitor=monitor,
    )
