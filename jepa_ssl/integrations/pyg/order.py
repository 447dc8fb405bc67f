"""Write the same batch in another order, to check that an encoder does not depend on the order."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch_geometric has no stubs.

import copy
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data, HeteroData  # pyright: ignore[reportMissingTypeStubs]
from torch_geometric.data.separate import separate  # pyright: ignore[reportMissingTypeStubs]

from jepa_ssl.instances import Graph
from jepa_ssl.integrations.pyg.graphs import graph_of, names_of
from jepa_ssl.protocols import CONSTRAINT, VARIABLE

MADE_BY_BATCHING = ("batch", "ptr", "num_nodes")


def in_another_order(batch: Batch, **names: str) -> tuple[Batch, dict[str, Tensor]]:
    """The graphs of `batch` from last to first, and the new place of each item.

    The latter is stream -> int64 `[items]`, as `jepa_ssl.testing.check_encoder` takes it. The streams are the node
    types of `HeteroData`, where the nodes of each graph run backwards, too; or `"constraint"` and `"variable"` of
    custom `Data`.

    Args:
        batch: from `Batch.from_data_list`.
        names: what the attributes are called in the data, as in `graph_of`.

    Raises:
        TypeError: `batch` is not a `Batch`.
        ValueError: the graphs cannot be separated, because something was added or removed after they were batched. Or
            an edge leaves its graph, or an attribute is missing.
    """
    graphs = _taken_apart(batch, names)
    whole: Any = batch
    followed = sorted({f.removesuffix("_ptr") for store in whole.stores for f in store.keys() if f.endswith("_ptr")})  # noqa: SIM118
    if isinstance(graphs[0], HeteroData):
        backwards = [_nodes_backwards(graph) for graph in reversed(graphs)]
        sizes = {kind: sum(graph[kind].num_nodes for graph in graphs) for kind in graphs[0].node_types}
        return Batch.from_data_list(backwards, follow_batch=followed), {
            kind: torch.arange(size).flip(0) for kind, size in sizes.items()
        }
    called = names_of(names, batch)
    items: dict[str, Tensor] = {}
    for kind in (CONSTRAINT, VARIABLE):
        sizes = [len(graph[called[f"{kind}_features"]]) for graph in graphs]
        behind = sum(sizes) - torch.tensor(sizes).cumsum(0)  # where the graph that ends there begins now
        items[kind] = torch.cat(
            [first + torch.arange(size) for first, size in zip(behind.tolist(), sizes, strict=True)]
        )
    return Batch.from_data_list(graphs[::-1], follow_batch=followed), items


def _taken_apart(batch: Any, names: dict[str, str]) -> list[Any]:
    """Return the graphs of a batch. `to_data_list` would call the data's class without arguments, which it may need."""
    if not isinstance(batch, Batch) or not isinstance(batch, Data | HeteroData):
        remedy = "check_encoder reorders this by itself" if isinstance(batch, Graph) else "use Batch.from_data_list"
        raise TypeError(f"batch is a {type(batch).__name__}, but must be a Batch of Data or HeteroData; {remedy}.")
    graph_of(batch, **names).check_wiring()
    whole: Any = batch
    kind = HeteroData if isinstance(batch, HeteroData) else Data
    slices: Any = getattr(whole, "_slice_dict", {})
    for store in whole.stores:
        _check_slices(whole, store, slices if store._key is None or kind is Data else slices.get(store._key, {}))

    def blank() -> Any:
        own: Any = type(whole).__bases__[-1]
        new = own.__new__(own)
        kind.__init__(new)
        return new

    take_apart: Any = separate
    try:
        return [take_apart(blank, whole, number, slices, whole._inc_dict) for number in range(whole.num_graphs)]
    except (LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"batch cannot be taken apart into its graphs ({type(error).__name__}: {error}), because something was "
            f"removed or changed after batching; change each graph before Batch.from_data_list."
        ) from error


def _check_slices(batch: Any, store: Any, slices: Any) -> None:
    """Raise a ValueError if an attribute was added or changed after batching."""
    where = f"of {store._key}" if store._key else "of the batch"
    for name, value in store.items():
        if name in MADE_BY_BATCHING or name.endswith(("_batch", "_ptr")):
            continue
        if name not in slices:
            raise ValueError(
                f"{name} {where} was added after batching, so it is unknown which part belongs to which graph; add it "
                f"to each graph (T.ToUndirected()(graph), for example) before Batch.from_data_list."
            )
        ends = slices[name]
        if isinstance(value, Tensor) and isinstance(ends, Tensor) and value.ndim:
            size = value.size(batch.__cat_dim__(name, value, store) or 0)
            if int(ends[-1]) != size:
                raise ValueError(
                    f"{name} {where} has {size} items, but {int(ends[-1])} when it was batched; change the graphs "
                    f"before Batch.from_data_list."
                )


def _nodes_backwards(graph: Any) -> Any:
    turned = copy.copy(graph)
    for kind in graph.node_types:
        for name, value in graph[kind].items():
            if graph[kind].is_node_attr(name):
                turned[kind][name] = _backwards(value) if isinstance(value, Tensor) else value[::-1]
    for edge_type in graph.edge_types:
        last = torch.tensor([[graph[kind].num_nodes - 1] for kind in edge_type[::2]])
        for name, value in graph[edge_type].items():
            if "index" in name:  # PyG's own rule for attributes that count nodes
                turned[edge_type][name] = last.to(value.device) - value
    return turned


def _backwards(values: Tensor) -> Tensor:
    # Sparse tensors have no flip.
    return values.index_select(0, torch.arange(len(values) - 1, -1, -1, device=values.device))
