"""The order of rows and columns means nothing."""

import torch
from torch import Tensor

from jepa_ssl.contrib.symmetries.forms import LPT, columns, reorder, rows
from jepa_ssl.contrib.symmetries.transformed import SolutionMap, Symmetry, TransformedLP


def permute(lp: LPT, row_order: Tensor, column_order: Tensor) -> TransformedLP[LPT]:
    """Row `row_order[i]` comes to place i, column `column_order[j]` to place j; indices of b's and c's shape."""
    row, column = rows(lp), columns(lp)
    image = reorder(lp, row_order, column_order)
    places = row.inverse(row_order), column.inverse(column_order)
    return TransformedLP(
        lp,
        image,
        x=SolutionMap(lambda x: column.take(x, column_order), lambda x: column.take(x, places[1])),
        lam=SolutionMap(lambda lam: row.take(lam, row_order), lambda lam: row.take(lam, places[0])),
        rows=places[0],
        columns=places[1],
    )


class Permutation(Symmetry):
    """Shuffles the rows and the columns of each LP: the solution moves with them.

    A graph network is equivariant to this already; it teaches a network of vectors. `TransformedLP` says in `rows` and
    `columns` where each row and column went.
    """

    def _draw(self, instance: LPT, generator: torch.Generator | None) -> TransformedLP[LPT]:
        row_keys, column_keys = (
            torch.rand(like.shape, generator=generator, device=like.device) for like in (instance.b, instance.c)
        )
        return permute(instance, rows(instance).order(row_keys), columns(instance).order(column_keys))
