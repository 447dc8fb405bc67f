"""Whole objectives. The study (docs/study.md) compares them with others.

`later_state` is for pretraining, with `jepa_ssl.lp.StateFeatures` on the encoder's input: it then predicts a later
state from an early one. Fit the statistics once with `term.fit(batches)` or `objective.views.fit(batches)`; the first
step asks for it. Train for a few hundred steps with Adam at 1e-3 and a short warm-up, then train your task from there.
A frozen random network embeds the state after `steps` PDHG steps. Smooth L1 compares the prediction with that
embedding, layer-normed. The target does not depend on the encoder, so the embeddings cannot collapse to one point. The
recipe has no regulariser: in the study VICReg raised the rank and lowered the probe's scores. To watch for collapse,
set `objective.monitor = CollapseMonitor()`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from jepa_ssl.losses import smooth_l1_loss
from jepa_ssl.lp.instances import DenseLP, SparseLP
from jepa_ssl.lp.solver_state import SolverState
from jepa_ssl.objective import JEPAObjective
from jepa_ssl.predictors import MLPPredictor
from jepa_ssl.regularizers import VICReg
from jepa_ssl.teachers import TargetNetwork


def later_state(
    dims: Mapping[str, int],
    *,
    lp_of: Callable[[Any], SparseLP | DenseLP],
    numbers: int = 2,
    steps: int = 300,
    restart_every: int | None = 100,
    regularizer_weight: float = 0.0,
    states_of: Callable[[Any], Mapping[str, Any]] | None = None,
    activation: Callable[[], nn.Module] = nn.ReLU,
    seed: int = 0,
) -> JEPAObjective[Any]:
    """Predict the state that a few cheap solver steps reach from an LP, in embedding space; needs no labels.

    Args:
        dims: size of the encoder's L2-normalised embeddings by stream: `"constraint"` and `"variable"` on graphs,
            `"instance"` on flat vectors.
        lp_of: turns your batch into its LPs, as in `SolverState`: `SparseLP.inequalities_of` for a `BipartiteGraph`,
            `jepa_ssl.integrations.pyg.PyGLPs()` for PyG data.
        numbers: numbers per item in the target: 2 on graphs, 2 (m + n) on flat vectors of m rows and n columns.
        steps: take the state after this many steps.
        restart_every: as in `SolverState`.
        regularizer_weight: weight of VICReg relative to the prediction loss; 0 leaves it out.
        states_of: returns the states that were stored with your batch, as in `SolverState`.
        activation: the predictor's activation; take that of your network.
        seed: seed of the frozen random network.

    >>> from jepa_ssl.lp import SparseLP
    >>> objective = later_state({"constraint": 64, "variable": 64}, lp_of=SparseLP.inequalities_of)
    """
    return JEPAObjective(
        SolverState(steps, restart_every=restart_every, lp_of=lp_of, states_of=states_of),
        MLPPredictor(dims, activation=activation),
        TargetNetwork({stream: (numbers, dim) for stream, dim in dims.items()}, seed=seed),
        smooth_l1_loss,
        regularizer=VICReg(on_sphere=True) if regularizer_weight else None,
        regularizer_weight=regularizer_weight,
    )
