"""What a user would predict in place of a solver state: the features that were hidden, or an equivalent LP."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from jepa_ssl import BipartiteGraph
from jepa_ssl.contrib.symmetries import Compose, DuplicateRow, ObjectiveScale, RedundantRow, RowScale, SymmetryViews
from jepa_ssl.lp import SparseLP
from jepa_ssl.protocols import CONSTRAINT, VARIABLE


class EquivalentGraphs:
    """Views: each LP as it is, and an equivalent LP with the same optimal x.

    Rows are scaled, the objective is scaled, and a duplicate of a row and a redundant combination of rows are added.
    Source: Qian and Morris, "Principled data augmentation for learning to solve quadratic programming problems", 2025.
    """

    def __init__(self) -> None:
        self.symmetry = Compose([DuplicateRow(), RedundantRow(), RowScale(), ObjectiveScale()])

    def __call__(self, instance: BipartiteGraph, *, generator: Any = None) -> SymmetryViews[Any]:
        views: Any = self.symmetry(SparseLP.inequalities_of(instance), generator=generator)
        return replace(views, context=graph_of(views.context), target=instance)


def graph_of(lp: SparseLP) -> BipartiteGraph:
    """LPs `Ax <= b` as graphs with the features of `data.batches.BipartiteData`."""
    rows, columns = lp.edge_index

    def reduced(index: Tensor, like: Tensor, how: str, value: Tensor = lp.coefficient) -> Tensor:
        return torch.zeros_like(like).scatter_reduce(0, index, value, how, include_self=False)

    one = torch.ones_like(lp.coefficient)
    of_rows = [lp.b, reduced(rows, lp.b, "mean"), reduced(rows, lp.b, "sum", one).log1p()]
    of_columns = [lp.c, *(reduced(columns, lp.c, how) for how in ("mean", "amin", "amax"))]
    of_columns += [reduced(columns, lp.c, "sum", one).log1p()]
    return BipartiteGraph(
        torch.stack(of_rows, dim=1),
        lp.edge_index,
        lp.coefficient.unsqueeze(1),
        torch.stack(of_columns, dim=1),
        lp.constraint_offsets,
        lp.variable_offsets,
    )


class Inputs:
    """A teacher that returns the features themselves, so that hidden ones are reconstructed.

    Source: He et al., "Masked autoencoders are scalable vision learners", CVPR 2022.
    """

    learns = False

    def __call__(self, encoder: Any, target: BipartiteGraph) -> dict[str, Tensor]:
        return {CONSTRAINT: target.constraint_features, VARIABLE: target.variable_features}

    def update(self, encoder: Any) -> None:
        """Do nothing: there are no weights."""
