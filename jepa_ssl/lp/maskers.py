"""A masker of flat LPs that hides whole constraints, variables or coefficients of `[vec(A), b, c]`."""

import torch
from torch import Tensor

from jepa_ssl.checks import open_fraction
from jepa_ssl.maskers.draw import draw_in_rows
from jepa_ssl.maskers.fill import Fill
from jepa_ssl.maskers.flat import FlatMasker
from jepa_ssl.seeds import Randomness


class StructureMasker(FlatMasker):
    """Hide whole constraints, whole variables and single coefficients of flat LPs `[vec(A), b, c]`.

    A constraint is a row of A with its right-hand side. A variable is a column of A with its cost. For each kind with a
    ratio, each LP hides exactly `int(ratio * count)` of its real items: at least one and never all. An LP with a single
    item hides none. The kinds are drawn independently, so a drawn coefficient may lie in a hidden row or column.
    Padding is never hidden.

    Single entries can often be guessed from their neighbours (a row of a covering problem is all ones); whole
    constraints and variables cannot. Most coefficients are 0, and hiding those hides nothing: see `only_nonzero` and
    `hidden_share`.

    Args:
        m: rows of A, padding included.
        n: columns of A, padding included.
        constraints: share of the constraints to hide, in (0, 1), or 0 to hide none.
        variables: the same for the variables.
        coefficients: the same for single coefficients of A.
        only_nonzero: draw single coefficients from those that are not 0; `coefficients` is then a share of them.
        fill: what replaces a hidden entry; zero by default.
        indicator: as in `EntryMasker`.

    Raises:
        ValueError: a ratio or size is out of range, or nothing would be hidden.

    >>> lp = torch.ones(1, 2 * 3 + 2 + 3)  # two rows, three columns
    >>> views = StructureMasker(2, 3, constraints=0.5)(lp, generator=torch.Generator().manual_seed(0))
    >>> A, b, c = views.context.split([6, 2, 3], dim=1)
    >>> A.view(2, 3).sum(dim=1), b, c
    (tensor([3., 0.]), tensor([[1., 0.]]), tensor([[1., 1., 1.]]))
    """

    def __init__(
        self,
        m: int,
        n: int,
        constraints: float = 0.0,
        variables: float = 0.0,
        coefficients: float = 0.0,
        *,
        only_nonzero: bool = False,
        fill: Fill | None = None,
        indicator: bool = False,
    ) -> None:
        super().__init__(fill, indicator)
        for name, size in (("m", m), ("n", n)):
            if size < 1:
                raise ValueError(f"{name} is {size}, but must be at least 1; give the padded size of A.")
        ratios = {"constraints": constraints, "variables": variables, "coefficients": coefficients}
        if not any(ratios.values()):
            raise ValueError(
                f"{', '.join(ratios)} are all 0, but one must hide something; give at least one a ratio, 0.3 to 0.5."
            )
        if only_nonzero and not coefficients:
            raise ValueError("only_nonzero is True, but coefficients is 0; give it a ratio, or leave only_nonzero out.")
        for name, ratio in ratios.items():
            if ratio:
                open_fraction(name, ratio)
        self.m, self.n = m, n
        self.constraints, self.variables, self.coefficients = constraints, variables, coefficients
        self.only_nonzero = only_nonzero

    def _hidden(self, values: Tensor, valid: Tensor | None, generator: Randomness) -> Tensor:
        matrix, sizes = self.m * self.n, (self.m * self.n, self.m, self.n)
        if values.size(1) != sum(sizes):
            raise ValueError(
                f"instance is {list(values.shape)}, but LPs of {self.m} rows and {self.n} columns have {sum(sizes)} "
                f"entries, [vec(A), b, c]; build StructureMasker with the padded sizes of your batches."
            )
        places = (slice(matrix), slice(matrix, matrix + self.m), slice(matrix + self.m, None))

        def draw(part: int, ratio: float, among: Tensor | None) -> Tensor:
            shape = torch.Size([len(values), sizes[part]])
            if not ratio:
                return torch.zeros(shape, dtype=torch.bool, device=values.device)
            among = None if among is None else among[:, places[part]]
            return draw_in_rows(shape, among, ratio, generator, values.device)

        among = valid
        if self.only_nonzero:
            among = values != 0 if valid is None else (values != 0) & valid
        singles = draw(0, self.coefficients, among)
        rows, columns = draw(1, self.constraints, valid), draw(2, self.variables, valid)
        A = singles | (rows.unsqueeze(2) | columns.unsqueeze(1)).flatten(1)
        hidden = torch.cat([A, rows, columns], dim=1)
        return hidden if valid is None else hidden & valid  # a hidden row's padding is not hidden
