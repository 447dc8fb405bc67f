"""What a user would predict in place of a solver state: the features that were hidden, or an equivalent LP."""

from dataclasses import replace
from typing import Any

from data.batches import node_features
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
    of_rows, of_columns = node_features(lp.edge_index, lp.coefficient, lp.b, lp.c)
    coefficient = lp.coefficient.unsqueeze(1)
    return BipartiteGraph(of_rows, lp.edge_index, coefficient, of_columns, lp.constraint_offsets, lp.variable_offsets)


class Inputs:
    """A teacher that returns the features themselves, so that hidden ones are reconstructed.

    Source: He et al., "Masked autoencoders are scalable vision learners", CVPR 2022.
    """

    learns = False

    def __call__(self, encoder: Any, target: BipartiteGraph) -> dict[str, Tensor]:
        return {CONSTRAINT: target.constraint_features, VARIABLE: target.variable_features}

    def update(self, encoder: Any) -> None:
        """Do nothing: there are no weights."""
