"""LPs of PyG data, and early solver states as node features."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch_geometric has no stubs.

import copy
from collections.abc import Mapping
from typing import Any

from torch_geometric.data import HeteroData  # pyright: ignore[reportMissingTypeStubs]

from jepa_ssl.instances import BipartiteGraph
from jepa_ssl.integrations.pyg.graphs import bipartite_graph, graph_of, names_of
from jepa_ssl.lp import SparseLP, StateFeatures
from jepa_ssl.protocols import CONSTRAINT, VARIABLE


class PyGLPs:
    """Read the LPs of PyG data from its features; the `lp_of` of `SolverState` and `recipes.later_state`.

    The LPs are `Ax <= b` with free x, so bounds are rows. Features that were scaled make other LPs;
    `jepa_ssl.testing.check_lp` compares them with yours.

    Args:
        b, c, coefficient: the columns that hold them, of constraints, of variables and of edges.
        types: of `HeteroData`, the node types of constraints and of variables: `("row", "column")`. The edges between
            them may point either way.
        names: what features are called, as in `graph_of`.

    >>> import torch
    >>> from torch_geometric.data import Data
    >>> from jepa_ssl.recipes import later_state
    >>> data = Data(x_s=torch.ones(1, 1), x_t=-torch.ones(2, 1), edge_attr=torch.ones(2, 1), num_nodes=3)
    >>> data.edge_index = torch.tensor([[0, 0], [0, 1]])  # min -x - y  s.t.  x + y <= 1
    >>> lp_of = PyGLPs(constraint_features="x_s", variable_features="x_t")
    >>> lp_of(data).b, lp_of(data).c
    (tensor([1.]), tensor([-1., -1.]))
    >>> objective = later_state({"constraint": 64, "variable": 64}, lp_of=lp_of)
    >>> seen = lp_of.show((10, 30, 100))(data)  # what the encoder takes
    >>> seen.x_s.shape, seen.x_t.shape
    (torch.Size([1, 7]), torch.Size([2, 7]))
    """

    def __init__(
        self,
        *,
        b: int = 0,
        c: int = 0,
        coefficient: int = 0,
        types: tuple[str, str] = (CONSTRAINT, VARIABLE),
        **names: str,
    ) -> None:
        self.columns = {"b": b, "c": c, "coefficient": coefficient}
        self.types, self.names = types, names

    def __call__(self, data: Any) -> SparseLP:
        """The LPs of `Data` or `HeteroData`, or of a `Batch` of either.

        Raises:
            TypeError, ValueError: as `graph_of`; a column does not exist, or not one edge type joins the two types.
        """
        return SparseLP.inequalities_of(self.graph(data), **self.columns)

    def graph(self, data: Any) -> BipartiteGraph:
        """The constraints and variables of `data`, as a `BipartiteGraph`."""
        if not isinstance(data, HeteroData):
            return bipartite_graph(data, **self.names)
        graph = graph_of(data, **self.names)
        ways = self.types, self.types[::-1]  # ToUndirected adds the second
        each = [[edges for edges in graph.edges.values() if edges.ends == way] for way in ways]
        joining = each[0] or each[1]
        if len(joining) != 1 or joining[0].attr is None:
            raise ValueError(
                f"types is {self.types}, but {len(joining)} of the edge types {data.edge_types} join these two; name "
                f"the node types of constraints and variables, which one edge type with coefficients must join."
            )
        index, attr = joining[0].index, joining[0].attr
        index = index if joining[0].ends == self.types else index.flip(0)
        rows, columns = (graph.nodes[kind] for kind in self.types)
        attr = attr.unsqueeze(1) if attr.ndim == 1 else attr
        return BipartiteGraph(rows.features, index, attr, columns.features, rows.offsets, columns.offsets)

    def show(self, steps: Any = (10, 30, 100), *, restart_every: int | None = None) -> "PyGStateFeatures":
        """Append early states to the node features of data, as `StateFeatures(steps)` does."""
        return PyGStateFeatures(self, StateFeatures(steps, restart_every=restart_every, lp_of=self.of_graph))

    def of_graph(self, graph: BipartiteGraph) -> SparseLP:
        """The LPs of what `graph` returned."""
        return SparseLP.inequalities_of(graph, **self.columns)


class PyGStateFeatures:
    """PyG data with early solver states after its node features; `numbers` more per constraint and per variable.

    Everything else is shared with the given data. Call it where you collate batches or at the beginning of the loop,
    and use its result in your own loss too.
    """

    def __init__(self, lps: PyGLPs, features: StateFeatures[BipartiteGraph]) -> None:
        self.lps, self.features = lps, features
        self.numbers = features.numbers

    def __call__(self, data: Any) -> Any:
        """A shallow copy of the data with wider node features; raises as `PyGLPs`."""
        seen, view = self.features(self.lps.graph(data)), copy.copy(data)
        called: Mapping[str, str] = names_of(self.lps.names, data)
        for kind, own_type in zip((CONSTRAINT, VARIABLE), self.lps.types, strict=True):
            if isinstance(data, HeteroData):
                view[own_type][called["x"]] = seen.features(kind)
            else:
                view[called[f"{kind}_features"]] = seen.features(kind)
        return view
