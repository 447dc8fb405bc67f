"""From PyG data to graphs, and back."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch_geometric has no stubs.

import copy
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data, HeteroData  # pyright: ignore[reportMissingTypeStubs]

from jepa_ssl.instances import BipartiteGraph, Graph
from jepa_ssl.instances.streams import Edges, Nodes
from jepa_ssl.protocols import CONSTRAINT, EDGE, VARIABLE

ATTRIBUTES = ("constraint_features", "edge_index", "edge_attr", "variable_features")


def graph_of(data: Any, **names: str) -> Graph:
    """The tensors of PyG data as a `Graph`; nothing is copied.

    `HeteroData` has a stream of nodes for each node type, with its `x` as features; a type without floating point `x`
    has no features. The stream of an edge type is called by its three names, joined by two underscores:
    `"row__has__column"`; it has the attributes `edge_attr`, if there are some. Custom `Data` is a `bipartite_graph`.

    Args:
        data: `Data` or `HeteroData`, or a `Batch` of either.
        names: of custom `Data`, as in `bipartite_graph`.

    Raises:
        TypeError: `data` is not PyG data, or names are given for `HeteroData`.
        ValueError: an attribute is missing, or a batch does not say where its graphs begin.
    """
    if not isinstance(data, HeteroData):
        return bipartite_graph(data, **names)
    if names:
        raise TypeError(f"names is {names}, but HeteroData calls features x and edge_attr; leave names out.")
    hetero: Any = data
    nodes = {kind: _nodes(hetero, kind) for kind in hetero.node_types}
    edges = {
        "__".join(kind): Edges((kind[0], kind[2]), hetero[kind].edge_index, hetero[kind].get("edge_attr"))
        for kind in hetero.edge_types
    }
    return Graph(nodes, edges)


def with_graph(data: Any, graph: Graph, **names: str) -> Any:
    """A shallow copy of PyG data with the features and attributes of `graph`, which `graph_of(data)` was once.

    Returns `data` itself if no tensor differs.
    """
    if isinstance(data, HeteroData):
        places = {kind: (kind, "x") for kind in data.node_types if _has_features(data, kind)}
        places |= {"__".join(kind): (kind, "edge_attr") for kind in data.edge_types}
    else:
        called = names_of(names)
        places = {kind: (None, called[f"{kind}_features"]) for kind in (CONSTRAINT, VARIABLE)}
        places[EDGE] = (None, called["edge_attr"])
    values = {places[stream]: tensor for stream, tensor in graph.values().items() if stream in places}
    changed = {place: tensor for place, tensor in values.items() if tensor is not _store(data, place[0])[place[1]]}
    view = copy.copy(data) if changed else data
    for (kind, name), tensor in changed.items():
        _store(view, kind)[name] = tensor
    return view


def bipartite_graph(data: Data | Batch, **names: str) -> BipartiteGraph:
    """The tensors of custom `Data` as a `BipartiteGraph`; nothing is copied.

    Where the graphs of a `Batch` begin is read from `constraint_features_ptr` and `variable_features_ptr`, if it was
    built with `follow_batch=["constraint_features", "variable_features"]`; otherwise from what the batch itself keeps
    to be taken apart again. The latter lives on the host: for a GPU follow the batch, and save a copy per step.

    Args:
        data: one `Data`, or a `Batch` of them.
        names: what the attributes `constraint_features`, `edge_index`, `edge_attr` and `variable_features` are called
            in `data`, if they have other names: `constraint_features="x_s", variable_features="x_t"`.

    Raises:
        ValueError: an attribute is missing, or a batch does not say where its graphs begin.
        TypeError: `data` is not `Data`, or `names` names what a bipartite graph does not have.
    """
    called = names_of(names)
    if not isinstance(data, Data):
        raise TypeError(
            f"instance is a {type(data).__name__}, but must be Data or HeteroData of torch_geometric, or a Batch; for "
            f"a Graph use the masker itself."
        )
    if missing := [name for name in called.values() if name not in data]:
        raise ValueError(
            f"data lacks {missing}; a bipartite graph has the attributes {list(ATTRIBUTES)}: where yours have other "
            f"names, give them, as in constraint_features='x_s'."
        )
    offsets = (
        _offsets(data, data, called[own], (called[own],), f"{called[own]}_ptr")
        for own in ("constraint_features", "variable_features")
    )
    return BipartiteGraph(*(data[name] for name in called.values()), *offsets)


def names_of(names: dict[str, str]) -> dict[str, str]:
    """What each attribute of a bipartite graph is called, in the order of its fields."""
    if unknown := sorted(names.keys() - set(ATTRIBUTES)):
        raise TypeError(f"names gives a name to {unknown}, but a bipartite graph has {list(ATTRIBUTES)}; name these.")
    return {own: names.get(own, own) for own in ATTRIBUTES}


def _store(data: Any, kind: Any) -> Any:
    return data if kind is None else data[kind]


def _has_features(data: Any, kind: str) -> bool:
    x = data[kind].get("x")
    return isinstance(x, Tensor) and x.is_floating_point()


def _nodes(data: Any, kind: str) -> Nodes:
    store = data[kind]
    if "x" in store:
        offsets = _offsets(data, store, "x", (kind, "x"), "ptr")
    elif "ptr" in store:
        offsets = store.ptr
    elif isinstance(data, Batch) or store.num_nodes is None:
        raise ValueError(f"the nodes of type {kind!r} have neither x nor ptr; give them an x, [nodes, features].")
    else:
        offsets = torch.tensor([0, store.num_nodes])
    graphs = getattr(data, "num_graphs", 1)
    if len(offsets) != graphs + 1:
        raise ValueError(
            f"{len(offsets) - 1} of {graphs} graphs have nodes of type {kind!r}, so that these cannot be told apart; "
            f"give the graphs that lack it an empty x, [0, features]."
        )
    none = torch.empty(0, device=offsets.device)
    return Nodes(store.x if _has_features(data, kind) else none.view(store.num_nodes, 0), offsets)


def _offsets(batch: Any, store: Any, name: str, key: tuple[str, ...], pointer: str) -> Tensor:
    """Where the rows of `store[name]` of each graph begin: int64 `[graphs + 1]`.

    From the attribute `pointer`, if there is one; otherwise from the batch's own slices, found there by `key`. Those
    live on the host. Anything else than a batch is one graph.
    """
    if pointer in store:
        return store[pointer]
    rows: Tensor = store[name]
    if not isinstance(batch, Batch):
        # Not len(), which a tensor without dimensions does not have; it is refused by name where it is used.
        return torch.tensor([0, rows.shape[:1].numel()], device=rows.device)
    slices: Any = getattr(batch, "_slice_dict", {})
    for part in key:
        slices = slices.get(part, {})
    if not isinstance(slices, Tensor):
        raise ValueError(
            f"data is a Batch that knows neither {pointer!r} nor slices of {name!r}, so its graphs cannot be told "
            f"apart; build it with Batch.from_data_list(graphs, follow_batch=[{name!r}])."
        )
    return slices.to(rows.device, non_blocking=True)
