"""Convert PyG data to graphs and back."""

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
HETERO_ATTRIBUTES = ("x", "edge_attr")
EDGE_WEIGHT = "edge_weight"  # PyG's other name for edge attributes


def graph_of(data: Any, **names: str) -> Graph:
    """The tensors of PyG data as a `Graph`; nothing is copied.

    `HeteroData` has a stream of nodes for each node type, with its `x` as features; a type without floating point `x`
    has no features. The stream of an edge type is called by its three names, joined by two underscores:
    `"row__has__column"`. Its attributes are `edge_attr`, or `edge_weight` if `edge_attr` is missing. A type with
    neither has no attributes. Custom `Data` is a `bipartite_graph`.

    Args:
        data: `Data` or `HeteroData`, or a `Batch` of either.
        names: of custom `Data`, as in `bipartite_graph`; of `HeteroData`, what `x` and `edge_attr` are called there:
            `x="features", edge_attr="coefficient"`.

    Raises:
        TypeError: `data` is not PyG data, names are given that it does not have, or an attribute is not a tensor.
        ValueError: an attribute is missing, or a batch does not say where its graphs begin.
    """
    if not isinstance(data, HeteroData):
        return bipartite_graph(data, **names)
    called = names_of(names, data)
    hetero: Any = data
    for own, stores in (("x", hetero.node_stores), ("edge_attr", hetero.edge_stores)):
        if own in names and not any(names[own] in store for store in stores):
            raise ValueError(
                f"{own} is {names[own]!r}, but no type of the data has an attribute of that name; give one."
            )
    nodes = {kind: _nodes(hetero, kind, called["x"]) for kind in hetero.node_types}
    edges = {"__".join(kind): _edges(hetero, kind, called["edge_attr"]) for kind in hetero.edge_types}
    if len(edges) < len(hetero.edge_types):
        raise ValueError(
            f"the edge types {hetero.edge_types} joined by two underscores have {len(edges)} different names; leave "
            f"double underscores out of the names of types."
        )
    return Graph(nodes, edges)


def with_graph(data: Any, graph: Graph, **names: str) -> Any:
    """A shallow copy of PyG data with the features and attributes of `graph`, which `graph_of(data)` was once.

    Returns `data` itself if no tensor differs.

    Raises:
        ValueError: `graph` has features of a node type that has none in `data`, such as an indicator column.
    """
    called = names_of(names, data)
    if isinstance(data, HeteroData):
        places = {kind: (kind, called["x"]) for kind in data.node_types if _has_features(data, kind, called["x"])}
        places |= {"__".join(kind): (kind, _attr_name(data[kind], called["edge_attr"])) for kind in data.edge_types}
    else:
        places = {kind: (None, called[f"{kind}_features"]) for kind in (CONSTRAINT, VARIABLE)}
        places[EDGE] = (None, called["edge_attr"])
    view = data
    for stream, tensor in graph.values().items():
        if stream not in places:
            _check_no_columns(stream, tensor, called["x"])
        elif tensor is not _store(data, places[stream][0])[places[stream][1]]:
            view = copy.copy(data) if view is data else view
            _store(view, places[stream][0])[places[stream][1]] = tensor
    return view


def bipartite_graph(data: Data | Batch, **names: str) -> BipartiteGraph:
    """The tensors of custom `Data` as a `BipartiteGraph`; nothing is copied.

    The beginnings of the graphs of a `Batch` are read from `constraint_features_ptr` and `variable_features_ptr`, if it
    was built with `follow_batch=["constraint_features", "variable_features"]`. Otherwise they are read from the slices
    that the batch keeps. The latter lives on the host: for a GPU follow the batch, and save a copy per step.

    Args:
        data: one `Data`, or a `Batch` of them.
        names: what the attributes `constraint_features`, `edge_index`, `edge_attr` and `variable_features` are called
            in `data`, if they have other names: `constraint_features="x_s", variable_features="x_t"`.

    Raises:
        ValueError: an attribute is missing, or a batch does not say where its graphs begin.
        TypeError: `data` is not `Data`, or `names` names what a bipartite graph does not have.
    """
    called = names_of(names, data)
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
    return BipartiteGraph(*(tensor_of(data, name, "data") for name in called.values()), *offsets)


def names_of(names: dict[str, str], data: Any) -> dict[str, str]:
    """The names in `data` of the attributes of a graph, in the order of the fields of a bipartite graph."""
    attributes = HETERO_ATTRIBUTES if isinstance(data, HeteroData) else ATTRIBUTES
    if unknown := sorted(names.keys() - set(attributes)):
        raise TypeError(
            f"names gives a name to {unknown}, but {type(data).__name__} is read by {list(attributes)}; name these."
        )
    return {own: names.get(own, own) for own in attributes}


def tensor_of(store: Any, name: str, owner: str) -> Tensor:
    """An attribute of PyG data; raises a TypeError unless it is a dense tensor."""
    value = store[name]
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        found = f"a sparse tensor ({value.layout})" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise TypeError(
            f"{name} of {owner} is {found}, but must be a dense tensor; use torch.as_tensor or .to_dense()."
        )
    return value


def _store(data: Any, kind: Any) -> Any:
    return data if kind is None else data[kind]


def _has_features(data: Any, kind: str, name: str) -> bool:
    return name in data[kind] and tensor_of(data[kind], name, f"the nodes {kind!r}").is_floating_point()


def _check_no_columns(stream: str, values: Tensor, name: str) -> None:
    if values.size(1):
        raise ValueError(
            f"the view has {values.size(1)} columns for the nodes {stream!r}, such as an indicator, but these have no "
            f"floating point {name} to take them; give them {name} = torch.empty(nodes, 0), or leave indicator out."
        )


def _attr_name(store: Any, name: str) -> str:
    return EDGE_WEIGHT if name == "edge_attr" and name not in store and EDGE_WEIGHT in store else name


def _edges(data: Any, kind: tuple[str, str, str], called: str) -> Edges:
    store, owner, name = data[kind], f"the edges {kind}", _attr_name(data[kind], called)
    if "edge_index" not in store:
        raise ValueError(
            f"{owner} have {sorted(store.keys())}, but need edge_index, int64 [2, edges]; adj_t is not read."
        )
    attr = tensor_of(store, name, owner) if name in store else None
    return Edges((kind[0], kind[2]), tensor_of(store, "edge_index", owner), attr)


def _nodes(data: Any, kind: str, name: str) -> Nodes:
    store = data[kind]
    if name in store:
        tensor_of(store, name, f"the nodes {kind!r}")
        offsets = _offsets(data, store, name, (kind, name), "ptr")
    elif "ptr" in store:
        offsets = tensor_of(store, "ptr", f"the nodes {kind!r}")
    elif isinstance(data, Batch) or store.num_nodes is None:
        raise ValueError(
            f"the nodes of type {kind!r} have neither {name} nor ptr; give them {name}, [nodes, features]."
        )
    else:
        offsets = torch.tensor([0, store.num_nodes])
    graphs = getattr(data, "num_graphs", 1)
    if len(offsets) != graphs + 1:
        raise ValueError(
            f"{len(offsets) - 1} of {graphs} graphs have nodes of type {kind!r}, so the graphs cannot be separated; "
            f"give the graphs that lack it an empty {name}, [0, features]."
        )
    none = torch.empty(0, device=offsets.device)
    return Nodes(store[name] if _has_features(data, kind, name) else none.view(store.num_nodes, 0), offsets)


def _offsets(batch: Any, store: Any, name: str, key: tuple[str, ...], pointer: str) -> Tensor:
    """Where the rows of `store[name]` of each graph begin: int64 `[graphs + 1]`.

    From the attribute `pointer`, if there is one; otherwise from the batch's own slices, found there by `key`. Those
    live on the host. Data that is not a batch is one graph.
    """
    if pointer in store:
        return tensor_of(store, pointer, "data")
    rows = tensor_of(store, name, "data")
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
