"""Permutations: the order of rows and columns carries no meaning."""

import torch

from jepa_ssl.contrib.symmetries.draws import uniform_per_item
from jepa_ssl.contrib.symmetries.forms import LPT, columns, reorder, rows
from jepa_ssl.contrib.symmetries.transformed import SolutionMap, Symmetry, TransformedLP
from jepa_ssl.seeds import Randomness


class Permutation(Symmetry):
    """Shuffle the rows and the columns of each LP; the solution moves with them.

    A graph network is equivariant to this already. A network of flat vectors learns from it. `TransformedLP.rows` and
    `.columns` say where each row and column went.
    """

    def _draw(self, instance: LPT, generator: Randomness) -> TransformedLP[LPT]:
        row, column = rows(instance), columns(instance)
        row_order, column_order = (
            axis.order(uniform_per_item(axis, generator, torch.float32)) for axis in (row, column)
        )
        row_places, column_places = row.inverse(row_order), column.inverse(column_order)
        return TransformedLP(
            instance,
            reorder(instance, row_order, column_order),
            x=SolutionMap(lambda x: column.take(x, column_order), lambda x: column.take(x, column_places)),
            lam=SolutionMap(lambda lam: row.take(lam, row_order), lambda lam: row.take(lam, row_places)),
            rows=row_places,
            columns=column_places,
        )
