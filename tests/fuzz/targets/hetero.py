"""`HeteroData` and batches of them that lack something, or have it wrong or under another name.

What is accepted has to hide what it says, in all edge types and both directions. Another order has to hold the same.
"""

import warnings
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch_geometric.data import Batch, HeteroData
from torch_geometric.transforms import ToUndirected

from jepa_ssl import BlockMasker, NodeMasker
from jepa_ssl.integrations.pyg import PyGViews, graph_of, in_another_order

from ..judging import Input
from .pool import OTHERS, Draw, chance, made_by, odd_tensor, one, seeded, with_some

HAS, OF, COST = ("row", "has", "column"), ("column", "rev_has", "row"), ("goal", "prices", "column")
NODES, EDGES = ("x", "features"), ("edge_attr", "edge_weight", "coefficient")
WAYS = ("delete", "odd", "odd", "odd", "numbers", "rename", "list", "None", "sparse", "new", "late", "subgraph")


def inputs() -> st.SearchStrategy[Input]:
    warnings.simplefilter("ignore")  # PyG's own, about names
    return made_by(_input)


def _input(draw: Draw) -> Input:
    g = seeded(draw)
    names = {"x": one(draw, NODES), "edge_attr": one(draw, EDGES)}
    graphs = [_data(draw, g, names) for _ in range(one(draw, (1, 2, 3)))]
    data: Any = graphs[0] if len(graphs) == 1 and draw(st.booleans()) else Batch.from_data_list(graphs)
    said, mistyped = [type(data).__name__, str(names)], chance(draw, 5)
    for _ in range(one(draw, (0, 1, 1, 2))):
        data, what = _spoilt(draw, data, mistyped)
        said.append(what)
    given = {own: name for own, name in names.items() if chance(draw, 90) and name not in ("x", "edge_weight")}
    options = {"hide_edges": draw(st.booleans()), "indicator": chance(draw, 20)}
    masker = one(draw, (NodeMasker, BlockMasker))({"row": 0.5, "column": 0.4}, **options)
    said.append(f"{type(masker).__name__} {options} {given}")
    return Input(said, lambda: _use(data, masker, given, names, g), mistyped=mistyped)


def _data(draw: Draw, g: torch.Generator, names: dict[str, str]) -> Any:
    m, n = one(draw, (0, 1, 2, 5)), one(draw, (0, 1, 3, 6))
    data: Any = HeteroData()
    for kind, count in (("row", m), ("column", n), ("goal", 1)):
        data[kind][names["x"]], data[kind].num_nodes = 1 + torch.rand(count, 2, generator=g), count
        data[kind].label = torch.arange(count)
    index = (torch.rand(m, n, generator=g) < 0.6).nonzero().T
    values = 1 + torch.rand(index.size(1), 1, generator=g)
    for kind, edges in ((HAS, index), (OF, index.flip(0))):
        data[kind].edge_index, data[kind][names["edge_attr"]] = edges, values
    data[COST].edge_index = torch.stack([torch.zeros(n, dtype=torch.int64), torch.arange(n)])
    return data


def _spoilt(draw: Draw, data: Any, mistyped: bool) -> tuple[Any, str]:
    way = one(draw, WAYS)
    if way == "late":
        return ToUndirected()(data), "made undirected"
    if way == "subgraph":
        count = data["row"].num_nodes or 0
        return data.subgraph({"row": torch.arange(count) % 2 == 0}), "every second row"
    store = one(draw, data.stores)
    named = [(name, value) for name, value in store.items() if isinstance(value, Tensor)]
    if way == "new" or not named:
        store[one(draw, ("weight", "a.b", "x"))] = torch.ones(3)
        return data, f"a new attribute of {store._key}"
    name, value = one(draw, named)
    if way == "delete":
        del store[name]
    elif way == "rename":
        store[one(draw, (*NODES, *EDGES))] = store.pop(name)
    else:
        numbers = (-1, 0, 99) if value.dtype == torch.int64 else (float("nan"), float("inf"), 0.0)
        store[name] = {
            "odd": lambda: one(draw, OTHERS) if mistyped else odd_tensor(draw, value),
            "numbers": lambda: with_some(draw, value, numbers, 2, value.dtype),
            "list": value.tolist,
            "None": lambda: None,
            "sparse": value.to_sparse if value.ndim > 1 else value.clone,  # PyG cannot batch sparse vectors
        }[way]()
    return data, f"{way} {name} of {store._key}"


def _use(data: Any, masker: NodeMasker, given: dict[str, str], names: dict[str, str], g: torch.Generator) -> None:
    graph = graph_of(data, **given)
    views = PyGViews(masker, **given)(data, generator=g)
    graph.check_values()
    for kind, hidden in views.hidden.items():
        assert hidden.shape == (len(graph.features(kind)),), "hidden has another shape"
        shown = graph_of(views.context, **given).features(kind)[:, : graph.features(kind).size(1)]
        assert not shown[hidden].any(), f"{kind}: features of hidden nodes are in view"
    if masker.hide_edges:
        _check_edges(graph, graph_of(views.context, **given), views.hidden)
    if isinstance(data, Batch):
        turned, items = in_another_order(data, **given)
        for kind, places in items.items():
            again = graph_of(turned, **given).features(kind)[places]
            assert torch.equal(again, graph.features(kind)), f"{kind}: another order has other nodes"


def _check_edges(graph: Any, context: Any, hidden: Any) -> None:
    some = False
    for stream, (ends, index, attr) in graph.edges.items():
        at = [hidden[end][row] for end, row in zip(ends, index, strict=True) if end in hidden]
        if at and attr is not None:
            some = True
            shown, before = (x.unsqueeze(1).flatten(1) for x in (context.edges[stream].attr, attr))
            assert not shown[torch.stack(at).any(0), : before.size(1)].any(), (
                f"{stream}: coefficients at hidden nodes are in view"
            )
    assert some, "hide_edges had nothing to hide, and nothing was said"
