"""Draws what each view does to one LP: a picture for every masker, every symmetry, and the solver state.

python examples/views.py [LP_FILE] [--folder FOLDER] [--seed 0]

Without a file it draws a built-in small LP, and the pictures of docs/views.md.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent / "kkt_nets"))

from data.lp import LP
from data.readers import read_lp
from data.solve import solve

from jepa_ssl import BipartiteGraph, Views
from jepa_ssl.contrib.symmetries import (
    BoundsAsRows,
    ColumnScale,
    ColumnSplit,
    Compose,
    DuplicateRow,
    EqualitiesAsInequalities,
    IdleVariable,
    Negation,
    ObjectiveScale,
    Permutation,
    RedundantRow,
    RHSScale,
    RowScale,
    Symmetry,
    TransformedLP,
    Translation,
)
from jepa_ssl.files import write_atomically
from jepa_ssl.lp import SolverState, SparseLP, StructureMasker, flatten
from jepa_ssl.maskers import (
    BlockMasker,
    ComposeMaskers,
    EdgeMasker,
    EntryMasker,
    Fill,
    GaussianNoise,
    GroupMasker,
    LearnedToken,
    MultiView,
    NodeMasker,
    Shuffled,
    Zeros,
    hidden_share,
)

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs" / "figures" / "views"
MOST_ROWS, MOST_COLUMNS = 80, 60  # of an LP that can still be made out
MOST_NUMBERS = 260  # cells of a sheet that are large enough for a number
CELL = 0.31  # inches

# Blue to white to red, which colour-blind readers can distinguish; hidden cells are dark and have a mark.
COLOURS, HIDDEN, CHANGED = colormaps["RdBu_r"], "#333333", "#E69F00"
HORIZONS = {10: ("#56B4E9", "v"), 100: ("#0072B2", "s"), 1000: ("#D55E00", "x")}  # Okabe and Ito

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


# The LP, in the forms that the views take.


def small_lp() -> SparseLP:
    """Three inequalities, an equality, and six variables: all at least 0, the last at most 3."""
    A = np.array([[1, 0, 1, 0, 0, 2], [0, 0, 0, 3, 1, 1], [2, -1, 0, 0, 1, 0], [0, 1, 1, 1, 0, 0]], dtype=np.float64)
    b, c = np.array([8.0, 9.0, 7.0, 4.0]), np.array([-4.0, 1.0, -3.0, -5.0, -2.0, -6.0])
    return replace(
        sparse(csr_array(A), b, c),
        equality=torch.tensor([False, False, False, True]),
        lower=torch.zeros(6, dtype=torch.float64),
        upper=torch.tensor([*5 * [np.inf], 3.0], dtype=torch.float64),
    )


def sparse(A: csr_array, b: Array, c: Array) -> SparseLP:
    """`Ax <= b` with free x, as a batch of one."""
    rows, columns = A.tocoo().coords
    ends = (torch.tensor([0, len(part)]) for part in (b, c))
    edges = torch.from_numpy(np.stack([rows, columns]).astype(np.int64))
    data = np.array(A.data, dtype=np.float64)
    return SparseLP.inequalities(edges, torch.from_numpy(data), torch.from_numpy(b), torch.from_numpy(c), *ends)


def matrix(lp: SparseLP) -> Tensor:
    """A, `[m, n]`."""
    A = lp.coefficient.new_zeros(len(lp.b), len(lp.c))
    return A.index_put_(tuple(lp.edge_index), lp.coefficient, accumulate=True)


def as_rows(lp: SparseLP) -> TransformedLP[SparseLP]:
    """The canonical form: only inequalities, and free x."""
    return Compose([EqualitiesAsInequalities(), BoundsAsRows()]).apply(lp)


def optimum(lp: SparseLP) -> tuple[Tensor, Tensor]:
    """x and lam, as HiGHS finds them on the canonical form."""
    canonical = as_rows(lp)
    rows = canonical.instance
    found = solve(LP("lp", "file", csr_array(matrix(rows).numpy()), rows.b.numpy(), rows.c.numpy()))
    return canonical.unmap_solution(torch.from_numpy(found.x), torch.from_numpy(found.lam))


def flat(lp: SparseLP) -> Tensor:
    """`[vec(A), b, c]`, `[1, entries]`."""
    return flatten(matrix(lp)[None], lp.b[None], lp.c[None])


def graph(lp: SparseLP) -> BipartiteGraph:
    """A node's features are its b or its c, and the mean of its coefficients: a number that gives them away."""
    absent = (matrix(lp) == 0).numpy()
    present = np.ma.masked_array(matrix(lp).numpy(), absent)
    means = [torch.from_numpy(present.mean(axis=axis).filled(0.0)) for axis in (1, 0)]
    features = [torch.stack([own, mean], dim=1) for own, mean in zip((lp.b, lp.c), means, strict=True)]
    return BipartiteGraph.single(features[0], lp.edge_index, lp.coefficient[:, None], features[1])


DERIVED = {"constraint": [1], "variable": [1]}


def statistics(lp: SparseLP) -> Tensor:
    """A table: of each constraint b, the number of its coefficients, and their least, mean and largest."""
    A = np.ma.masked_array(matrix(lp).numpy(), (matrix(lp) == 0).numpy())
    parts = [A.count(axis=1), *(part.filled(0.0) for part in (A.min(axis=1), A.mean(axis=1), A.max(axis=1)))]
    return torch.stack([lp.b, *(torch.from_numpy(np.asarray(part, dtype=np.float64)) for part in parts)], dim=1)


class Marked:
    """A fill for drawing: what is hidden becomes NaN."""

    def __call__(self, values: Tensor, hidden: Tensor, /, **_: object) -> Tensor:
        return values.masked_fill(hidden, torch.nan)


# Sheets: matrices with their margins, cell by cell.


@dataclass(frozen=True)
class Sheet:
    """Cells `[rows, columns]` with labels, NaN where there is none; lines are drawn before the given rows, columns."""

    values: Array
    rows: Sequence[str]
    columns: Sequence[str]
    lines: tuple[Sequence[int], Sequence[int]] = ((), ())

    @property
    def inches(self) -> tuple[float, float]:
        cell = CELL if self.values.size <= MOST_NUMBERS else CELL / 3
        return cell * len(self.columns) + 0.5, cell * len(self.rows) + 0.7


def sheet_of_vector(vector: Tensor, lp: SparseLP) -> Sheet:
    """[A | b; c] of a flat LP."""
    m, n = len(lp.b), len(lp.c)
    A, b, c = (part.numpy() for part in vector.detach().split([m * n, m, n]))
    values = np.full((m + 1, n + 1), np.nan)
    values[:m, :n], values[:m, n], values[m, :n] = A.reshape(m, n), b, c
    return Sheet(values, [*_names("r", m), "c"], [*_names("x", n), "b"], ([m], [n]))


def sheet_of_solution(lp: SparseLP, x: Tensor, lam: Tensor, rows: Sequence[str], columns: Sequence[str]) -> Sheet:
    """[A | b | lam; c; lower; upper; x] of an LP and a solution."""
    m, n = len(lp.b), len(lp.c)
    values = np.full((m + 4, n + 2), np.nan)
    values[:m, :n], values[:m, n], values[:m, n + 1] = matrix(lp), lp.b, lam
    for place, margin in enumerate((lp.c, lp.lower, lp.upper, x), m):
        values[place, :n] = margin
    senses = [f"{name} {'=' if equal else '≤'}" for name, equal in zip(rows, lp.equality.tolist(), strict=True)]
    return Sheet(values, [*senses, "c", "lower", "upper", "x*"], [*columns, "b", "λ*"], ([m, m + 1, m + 3], [n, n + 1]))


def draw_sheet(axes: Axes, sheet: Sheet, norm: SymLogNorm, hidden: Mask | None = None, changed: Mask | None = None):
    """The sheet as a heat map; a `hidden` cell is dark, a `changed` one is framed."""
    rows, columns = sheet.values.shape
    dark = np.zeros(sheet.values.shape, dtype=bool) if hidden is None else hidden
    edges = np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5
    cells = np.ma.masked_array(np.where(np.isinf(sheet.values), 0.0, sheet.values), np.isnan(sheet.values) | dark)
    axes.pcolormesh(*edges, cells, cmap=COLOURS, norm=norm, edgecolors="0.85", linewidth=0.5)
    axes.pcolormesh(
        *edges, np.ma.masked_array(dark, ~dark), cmap=ListedColormap([HIDDEN]), edgecolors="w", linewidth=0.6
    )
    axes.set(aspect="equal", xlim=edges[0][[0, -1]], ylim=edges[1][[-1, 0]])
    numbers = rows * columns <= MOST_NUMBERS
    for i, j in np.argwhere(dark | ~np.isnan(sheet.values)).tolist() if numbers else ():
        value = np.nan if dark[i, j] else float(sheet.values[i, j])
        text = "?" if dark[i, j] else number(value)
        axes.text(j, i, text, ha="center", va="center", fontsize=7, color=_ink(value, norm))
    for i, j in np.argwhere(changed) if changed is not None else ():
        frame = Rectangle((j - 0.44, i - 0.44), 0.88, 0.88, fill=False, edgecolor=CHANGED, linewidth=1.4)
        axes.add_patch(frame)
    ends = [*sheet.lines[1], columns][0] - 0.5, [*sheet.lines[0], rows][0] - 0.5
    axes.hlines([place - 0.5 for place in sheet.lines[0]], -0.5, ends[0], color="black", linewidth=1.2)
    axes.vlines([place - 0.5 for place in sheet.lines[1]], -0.5, ends[1], color="black", linewidth=1.2)
    size = 7 if numbers else 4
    axes.set_xticks(range(columns), sheet.columns, fontsize=size, rotation=0 if numbers else 90)
    axes.set_yticks(range(rows), sheet.rows, fontsize=size)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def number(value: float) -> str:
    """At most four characters for what a small LP holds."""
    if np.isinf(value):
        return "∞" if value > 0 else "-∞"
    if 0 < abs(value) < 0.01:
        return "≈0"
    return f"{value:.2f}".replace("0.", ".", 1) if 0 < abs(value) < 0.995 else f"{value + 0.0:.3g}"


def norm_of(*values: Tensor) -> SymLogNorm:
    """One scale of colours, the same to both sides of 0."""
    finite = torch.cat([v.detach().flatten() for v in values])
    most = float(finite[finite.isfinite()].abs().max()) if len(finite) else 1.0
    return SymLogNorm(linthresh=1.0, vmin=-max(most, 1.0), vmax=max(most, 1.0))


def _ink(value: float, norm: SymLogNorm) -> str:
    """What can be read on the colour of `value`, where NaN is what is hidden."""
    if np.isinf(value):
        return "black"
    return "white" if np.isnan(value) or abs(float(norm(value)) - 0.5) > 0.36 else "black"


def _names(letter: str, count: int) -> list[str]:
    return [f"{letter}{i + 1}" for i in range(count)]


# Graphs: constraints on the left, variables on the right, features next to their nodes.


SIDES = (("constraint", -1, "r", ("b", "mean")), ("variable", 1, "x", ("c", "mean")))
FEATURE = 2.2  # width of a feature's cell, in units of the distance between two nodes of the longer side


def draw_graph(axes: Axes, view: BipartiteGraph, norm: SymLogNorm, block: dict[str, Tensor] | None = None) -> None:
    """`view`, NaN where hidden, which is drawn dark, or dotted; with the number of its block where there are some."""
    most = max(len(view.features(kind)) for kind, *_ in SIDES)
    half = 0.45 * most + 2  # from the middle to the nodes
    ends: list[Array] = []
    for (kind, side, letter, names), end in zip(SIDES, view.edge_index.numpy(), strict=True):
        features = view.features(kind).numpy()
        marks = np.full(len(features), -1) if block is None else block[kind].numpy()
        heights = (np.arange(len(features)) + 0.5) * most / max(len(features), 1)
        ends.append(np.stack([np.full(len(end), side * half), heights[end]], axis=1))
        middles = [side * (half + 0.3 + FEATURE * (column + 0.5)) for column in range(len(names))]
        for middle, name in zip(middles, names, strict=True):
            axes.text(middle, -0.25, name, ha="center", va="bottom", fontsize=7 if most <= 20 else 4)
        size, edge = (7 if most <= 20 else 4), side * (half + 0.6 + FEATURE * len(names))
        for name, height, row, mark in zip(
            _names(letter, len(features)), heights.tolist(), features, marks.tolist(), strict=True
        ):
            axes.text(edge, height, name, ha="right" if side < 0 else "left", va="center", fontsize=size)
            for middle, value in zip(middles, row.tolist(), strict=True):
                _draw_feature(axes, (middle, height), value, norm, "?" if mark < 0 else str(mark + 1), most <= 20)
    lines, coefficients = np.stack(ends, axis=1), view.edge_attr[:, 0].numpy()
    gone = np.isnan(coefficients)
    coloured = LineCollection(list(lines[~gone]), cmap=COLOURS, norm=norm, linewidths=2.2)
    coloured.set_array(coefficients[~gone])
    axes.add_collection(LineCollection(list(lines[~gone]), colors="0.5", linewidths=2.8))  # so that pale ones are seen
    axes.add_collection(coloured)
    axes.add_collection(LineCollection(list(lines[gone]), colors=HIDDEN, linewidths=1.2, linestyles=":"))
    reach = half + 2 * FEATURE + 2.2
    axes.set(xlim=(-reach, reach), ylim=(most + 0.2, -1.0), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_feature(
    axes: Axes, middle: tuple[float, float], value: float, norm: SymLogNorm, mark: str, numbers: bool
) -> None:
    dark = np.isnan(value)
    corner = middle[0] - FEATURE / 2, middle[1] - 0.4
    face = HIDDEN if dark else COLOURS(float(norm(value)))
    axes.add_patch(Rectangle(corner, FEATURE, 0.8, facecolor=face, edgecolor="0.6", linewidth=0.5))
    if numbers:
        text = mark if dark else number(value)
        axes.text(*middle, text, ha="center", va="center", fontsize=7, color=_ink(value, norm))


# The pictures.

Draw = Callable[[SparseLP, int], Figure | None]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vectors(lp: SparseLP, seed: int, panels: dict[str, Callable[[Fill], Any]]) -> Figure:
    """The whole flat LP, and the context of each masker, made by `panels[title](fill)`."""
    whole = flat(as_rows(lp).instance)
    views = {title: _views(make, whole, seed) for title, make in panels.items()}
    return draw_vectors(as_rows(lp).instance, whole, views)


def draw_vectors(lp: SparseLP, whole: Tensor, views: dict[str, Views[Tensor, Tensor]]) -> Figure:
    norm = norm_of(whole)
    target = sheet_of_vector(whole[0], lp)
    figure, axes = _panels(1 + len(views), *target.inches)
    draw_sheet(axes[0], target, norm)
    axes[0].set_title("target: the whole LP", fontsize=8)
    for one, (title, view) in zip(axes[1:], views.items(), strict=True):
        hidden = np.isnan(sheet_of_vector(view.context[0], lp).values) & ~np.isnan(target.values)
        draw_sheet(one, target, norm, hidden)
        one.set_title(f"{title}\n{_said(view)}", fontsize=8)
    return _with_scale(figure, axes, norm)


def graphs(lp: SparseLP, seed: int, panels: dict[str, Callable[[Fill], Any]]) -> Figure:
    """The whole graph, and the context of each masker, made by `panels[title](fill)`."""
    whole = graph(as_rows(lp).instance)
    norm = norm_of(whole.constraint_features, whole.edge_attr, whole.variable_features)
    most = max(len(whole.constraint_features), len(whole.variable_features))
    figure, axes = _panels(1 + len(panels), 3.1, 0.8 + max(2.4, min(0.22, 12 / most) * most))
    draw_graph(axes[0], whole, norm)
    axes[0].set_title("target: the whole graph", fontsize=8)
    for one, (title, make) in zip(axes[1:], panels.items(), strict=True):
        view = _views(make, whole, seed)
        masker = make(Zeros())
        several = isinstance(masker, BlockMasker) and masker.blocks > 1
        block = masker.draw_blocks(whole, generator=seeded(seed)) if several else None
        draw_graph(one, view.context, norm, block)
        one.set_title(f"{title}\n{_said(view)}", fontsize=8)
    return _with_scale(figure, axes, norm)


def _views(make: Callable[[Fill], Any], instance: Any, seed: int) -> Views[Any, Any]:
    return make(Marked())(instance, generator=seeded(seed))


def _said(view: Views[Any, Any]) -> str:
    """How many numbers of what are hidden, and of how many a fill of zeros would say something else."""
    if isinstance(view.context, BipartiteGraph):
        parts = [view.context.constraint_features, view.context.edge_attr, view.context.variable_features]
        counts = [f"{int(part.isnan().sum())} of {part.numel()}" for part in parts]
        return f"hides {', '.join(counts)}\nnumbers of constraints, edges, variables"
    hidden = view.context.isnan()
    share = float(hidden_share(Views(view.context.nan_to_num(0.0), view.target))["instance"])
    return f"hides {int(hidden.sum())} of {hidden.numel()}, of which {round(share * hidden.numel())} are not 0"


def _panels(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(count * width + 0.8, height), layout="constrained")
    return figure, figure.subplots(1, count, squeeze=False)[0].tolist()


def _with_scale(figure: Figure, axes: Sequence[Axes], norm: SymLogNorm) -> Figure:
    bar = figure.colorbar(ScalarMappable(norm, COLOURS), ax=list(axes), shrink=0.6, aspect=25, pad=0.01, panchor=False)
    most = float(norm.vmax or 1.0)
    ticks = [-most, -1.0, 0.0, 1.0, most] if most > 1 else [-1.0, 0.0, 1.0]
    bar.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks], fontsize=7)
    bar.ax.minorticks_off()
    return figure


def entry_masker(lp: SparseLP, seed: int) -> Figure:
    return vectors(lp, seed, {"EntryMasker(0.3)": lambda fill: EntryMasker(0.3, fill)})


def structure_masker(lp: SparseLP, seed: int) -> Figure:
    rows = as_rows(lp).instance
    m, n = len(rows.b), len(rows.c)

    def make(fill: Fill, **shares: Any) -> StructureMasker:
        return StructureMasker(m, n, fill=fill, **shares)

    return vectors(
        lp,
        seed,
        {
            "StructureMasker: constraints=0.3": lambda fill: make(fill, constraints=0.3),
            "variables=0.4": lambda fill: make(fill, variables=0.4),
            "coefficients=0.5, only_nonzero": lambda fill: make(fill, coefficients=0.5, only_nonzero=True),
        },
    )


def group_masker(lp: SparseLP, seed: int) -> Figure:
    """A table whose rows are instances: each hides different groups."""
    table = statistics(lp)
    view = GroupMasker([[0], [1], [2, 3, 4]], 0.4, Marked())(table, generator=seeded(seed))
    target = Sheet(table.numpy(), _names("r", len(table)), ["b", "count", "least", "mean", "most"], ((), (1, 2)))
    width, height = target.inches
    figure, axes = _panels(2, width + 1.2, height + 0.2)
    norm = norm_of(table)
    draw_sheet(axes[0], target, norm)
    axes[0].set_title("target: a table of three groups", fontsize=8)
    draw_sheet(axes[1], target, norm, np.isnan(view.context.numpy()))
    axes[1].set_title("GroupMasker(groups, 0.4)\nhides one group of each row", fontsize=8)
    return _with_scale(figure, axes, norm)


def node_masker(lp: SparseLP, seed: int) -> Figure:
    return graphs(
        lp,
        seed,
        {
            "NodeMasker(0.4)": lambda fill: NodeMasker(0.4, fill),
            "NodeMasker(0.4, hide_edges, derived)": lambda fill: NodeMasker(
                0.4, fill, hide_edges=True, derived=DERIVED
            ),
        },
    )


def edge_masker(lp: SparseLP, seed: int) -> Figure:
    return graphs(
        lp,
        seed,
        {
            "EdgeMasker(0.3)": lambda fill: EdgeMasker(0.3, fill),
            "EdgeMasker(0.3, derived)": lambda fill: EdgeMasker(0.3, fill, derived=DERIVED),
        },
    )


def block_masker(lp: SparseLP, seed: int) -> Figure:
    return graphs(
        lp,
        seed,
        {
            "BlockMasker(0.4)": lambda fill: BlockMasker(0.4, fill=fill),
            "BlockMasker(0.5, blocks=2, hide_edges, derived)": lambda fill: BlockMasker(
                0.5, blocks=2, fill=fill, hide_edges=True, derived=DERIVED
            ),
        },
    )


def compose_maskers(lp: SparseLP, seed: int) -> Figure:
    return graphs(
        lp,
        seed,
        {
            "ComposeMaskers(NodeMasker(0.3), EdgeMasker(0.3))": lambda fill: ComposeMaskers(
                NodeMasker(0.3, fill), EdgeMasker(0.3, fill)
            )
        },
    )


def multi_view(lp: SparseLP, seed: int) -> Figure:
    rows = as_rows(lp).instance
    whole = flat(rows)
    light, heavy = MultiView(EntryMasker(0.2, Marked()), EntryMasker(0.7, Marked()))(whole, generator=seeded(seed))
    return draw_vectors(rows, whole, {"light: EntryMasker(0.2)": light, "heavy: EntryMasker(0.7)": heavy})


def fills(lp: SparseLP, seed: int) -> Figure:
    """What the context holds in the place of the same hidden entries."""
    rows = as_rows(lp).instance
    whole = flat(rows)
    kinds = {
        "Zeros()": Zeros(),
        "GaussianNoise(std=1.0)": GaussianNoise(std=1.0),
        "LearnedToken, before training": LearnedToken({"instance": whole.size(1)}),
        "Shuffled()": Shuffled(),
    }
    norm = norm_of(whole)
    figure, axes = _panels(len(kinds), *sheet_of_vector(whole[0], rows).inches)
    for one, (title, fill) in zip(axes, kinds.items(), strict=True):
        masker = EntryMasker(0.3, fill)
        view = masker(whole, generator=seeded(seed))
        framed = sheet_of_vector(masker.draw(whole, generator=seeded(seed))["instance"][0].double(), rows).values == 1
        draw_sheet(one, sheet_of_vector(view.context[0], rows), norm, changed=framed)
        share = float(hidden_share(view)["instance"])
        one.set_title(f"{title}\nchanges {share:.0%} of all entries", fontsize=8)
    return _with_scale(figure, axes, norm)


@dataclass(frozen=True)
class Shown:
    """A symmetry, and its map in words."""

    symmetry: Symmetry
    says: str


SYMMETRIES = {
    "permutation": Shown(Permutation(), "x and λ move with their columns and rows"),
    "row_scale": Shown(RowScale(), "each row of A and b times s: x stays, λ is divided by s"),
    "column_scale": Shown(
        ColumnScale(), "each column of A and c times d, bounds divided by d: x is divided by d, λ stays"
    ),
    "objective_scale": Shown(ObjectiveScale(), "c times s: x stays, λ and the objective times s"),
    "rhs_scale": Shown(RHSScale(), "b and bounds times s: x and the objective times s, λ stays"),
    "translation": Shown(Translation(), "b + A s, bounds + s: x becomes x + s, λ stays, the objective gains c's"),
    "negation": Shown(Negation(), "columns of A and c times -1, bounds swap: x becomes -x there, λ stays"),
    "redundant_row": Shown(RedundantRow(), "one more row, a nonnegative combination of the others: its λ is 0"),
    "duplicate_row": Shown(DuplicateRow(), "a row twice: both take half of its λ"),
    "column_split": Shown(ColumnSplit(), "a variable as the sum of two: they share its bounds and its x"),
    "idle_variable": Shown(IdleVariable(), "one more variable, in no row, that only costs: its x is 0"),
    "equalities_as_inequalities": Shown(
        EqualitiesAsInequalities(), "an equality as two opposite inequalities: they take the two signs of its λ"
    ),
    "bounds_as_rows": Shown(BoundsAsRows(), "each finite bound as a row: its λ is its sign of the reduced cost"),
    "compose": Shown(
        Compose([RowScale(), ColumnSplit(), Permutation()]), "row scale, then column split, then permutation"
    ),
}


def symmetry(name: str) -> Draw:
    return lambda lp, seed: draw_symmetry(lp, seed, SYMMETRIES[name])


def draw_symmetry(lp: SparseLP, seed: int, shown: Shown) -> Figure | None:
    """The LP, the transformed LP and the solutions of both; None if nothing changes."""
    transformed = shown.symmetry.apply(lp, generator=seeded(seed))
    source, after, changed = sheets(transformed)
    if (after.rows, after.columns) == (source.rows, source.columns) and not changed.any():
        return None
    norm = norm_of(torch.from_numpy(source.values), torch.from_numpy(after.values))
    inches = (source.inches, after.inches)
    figure = Figure(figsize=(sum(w for w, _ in inches) + 1.3, max(h for _, h in inches) + 0.7), layout="constrained")
    ratios = {"width_ratios": [w for w, _ in inches]}
    axes: list[Axes] = figure.subplots(1, 2, gridspec_kw=ratios).tolist()
    draw_sheet(axes[0], source, norm)
    axes[0].set_title("source", fontsize=8)
    draw_sheet(axes[1], after, norm, changed=changed)
    axes[1].set_title(f"after {type(shown.symmetry).__name__}", fontsize=8)
    for one in axes:
        one.set_anchor("N")
    x, lam = optimum(lp)
    instance = transformed.instance
    before, mapped = lp.c @ x, instance.c @ transformed.map_solution(x, lam)[0]
    checked = instance.c @ optimum(instance)[0]
    figure.supxlabel(
        f"{shown.says}\nc'x* = {before:.4g} becomes {mapped:.4g}; HiGHS on the transformed LP: {checked:.4g}",
        fontsize=8,
    )
    return _with_scale(figure, axes, norm)


def sheets(transformed: TransformedLP[SparseLP]) -> tuple[Sheet, Sheet, Mask]:
    """The source and the transformed LP with their solutions, and the cells of the latter that differ."""
    solution = optimum(transformed.source)
    axes = []
    for letter, positions, old, new in (
        ("r", transformed.rows, transformed.source.b, transformed.instance.b),
        ("x", transformed.columns, transformed.source.c, transformed.instance.c),
    ):
        places = torch.arange(len(old)) if positions is None else positions
        names = ["new"] * len(new)
        for name, place in zip(_names(letter, len(old)), places.tolist(), strict=True):
            names[place] = name
        margin = 4 if letter == "r" else 2
        axes.append((_names(letter, len(old)), names, [*places.tolist(), *range(len(new), len(new) + margin)]))
    (rows, new_rows, row_places), (columns, new_columns, column_places) = axes
    source = sheet_of_solution(transformed.source, *solution, rows, columns)
    after = sheet_of_solution(transformed.instance, *transformed.map_solution(*solution), new_rows, new_columns)
    changed = ~np.isnan(after.values)
    there = np.ix_(row_places, column_places)
    changed[there] &= ~np.isclose(after.values[there], source.values, equal_nan=True)
    return source, after, changed


def solver_state(lp: SparseLP, seed: int) -> Figure:
    """x and lam after each horizon, and HiGHS' optimum."""
    states = SolverState(steps=tuple(HORIZONS)).states(lp)
    found = optimum(lp)
    figure, axes = _panels(2, 4.2, 3.0)
    for one, kind, letter, best, title in (
        (axes[0], "variable", "x", found[0], "x"),
        (axes[1], "constraint", "r", found[1], "λ"),
    ):
        items = len(best)
        places, size = np.arange(items), 28 if items <= 20 else 8
        one.hlines(best, places - 0.4, places + 0.4, color="black", linewidth=1.4, label="HiGHS' optimum")
        for number_, (steps, (colour, marker)) in enumerate(HORIZONS.items()):
            values = states[kind][:, 2 * number_]
            one.scatter(
                places + 0.22 * (number_ - 1), values, s=size, color=colour, marker=marker, label=f"{steps} steps"
            )
        one.set_xticks(
            places, _names(letter, items), fontsize=8 if items <= 20 else 4, rotation=0 if items <= 20 else 90
        )
        one.set_title(f"{title} after K steps of PDHG", fontsize=9)
        one.tick_params(axis="y", labelsize=8)
        one.grid(axis="y", alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return figure


MASKERS: dict[str, Draw] = {
    "entry_masker": entry_masker,
    "structure_masker": structure_masker,
    "group_masker": group_masker,
    "node_masker": node_masker,
    "edge_masker": edge_masker,
    "block_masker": block_masker,
    "compose_maskers": compose_maskers,
    "multi_view": multi_view,
    "fills": fills,
}
PICTURES: dict[str, Draw] = {**MASKERS, **{name: symmetry(name) for name in SYMMETRIES}, "solver_state": solver_state}


def check_size(lp: LP) -> None:
    """Raises a ValueError if a drawing would be too dense to read."""
    if lp.rows > MOST_ROWS or lp.columns > MOST_COLUMNS:
        raise ValueError(
            f"{lp.name} has {lp.rows} rows and {lp.columns} columns, bounds as rows, but a picture holds no more than "
            f"{MOST_ROWS} and {MOST_COLUMNS}; give a smaller LP."
        )


def main(argv: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(prog="views.py", description="Draw what each view does to one LP.")
    p.add_argument("lp_file", nargs="?", type=Path, help="draw this .mps, .lp or .gz file; default: a small LP")
    p.add_argument("--folder", type=Path, help="write here; default: docs/figures/views, or views_<name> for a file")
    p.add_argument("--seed", type=int, default=0, help="seed the masks")
    args = p.parse_args(argv)
    try:
        lp, folder = small_lp(), DOCS
        if args.lp_file is not None:
            read = read_lp(args.lp_file)
            check_size(read)
            lp, folder = sparse(read.A, read.b, read.c), Path(f"views_{read.name}")
        folder = args.folder or folder
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        p.error(str(error))
    torch.manual_seed(args.seed)  # for LearnedToken, which is born at random
    for name, draw in PICTURES.items():
        figure = draw(lp, args.seed)
        if figure is None:
            print(f"{name}: no picture, for it changes nothing in this LP")
            continue
        save(figure, folder / f"{name}.png")
    print(f"Pictures: {folder}")


def save(figure: Figure, path: Path) -> None:
    """A PNG of 256 colours, which is a third of the size; no clock and no version in it."""
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    small = (
        PIL.Image.open(drawn).convert("RGB").quantize(256, PIL.Image.Quantize.FASTOCTREE, dither=PIL.Image.Dither.NONE)
    )
    write_atomically(path, lambda file: small.save(file, format="png", optimize=True))


if __name__ == "__main__":
    main()
