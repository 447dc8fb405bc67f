"""The same batch written in another order, to check that an encoder does not care."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch_geometric has no stubs.

import copy
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch, HeteroData  # pyright: ignore[reportMissingTypeStubs]

from jepa_ssl.integrations.pyg.graphs import names_of


def in_another_order(batch: Batch, **names: str) -> tuple[Batch, dict[str, Tensor]]:
    """The graphs of `batch` from the last to the first, and where each of its items stands now.

    The latter is stream -> int64 `[items]`, as `jepa_ssl.testing.check_encoder` takes it. The streams are the node
    types of `HeteroData`, where the nodes of each graph run backwards, too; or `"constraint"` and `"variable"` of
    custom `Data`.

    Args:
        batch: from `Batch.from_data_list`.
        names: of custom `Data`, as in `bipartite_graph`.
    """
    whole: Any = batch
    graphs: list[Any] = whole.to_data_list()
    if isinstance(graphs[0], HeteroData):
        backwards = [_nodes_backwards(graph) for graph in reversed(graphs)]
        sizes = {kind: sum(graph[kind].num_nodes for graph in graphs) for kind in graphs[0].node_types}
        pointers = {name for store in whole.stores for name in store if name.endswith("_ptr")}
        return Batch.from_data_list(backwards, follow_batch=sorted(f.removesuffix("_ptr") for f in pointers)), {
            kind: torch.arange(size).flip(0) for kind, size in sizes.items()
        }
    called = names_of(names)
    items: dict[str, Tensor] = {}
    for kind in ("constraint", "variable"):
        sizes = [len(graph[called[f"{kind}_features"]]) for graph in graphs]
        behind = sum(sizes) - torch.tensor(sizes).cumsum(0)  # where the graph that ends there begins now
        items[kind] = torch.cat(
            [first + torch.arange(size) for first, size in zip(behind.tolist(), sizes, strict=True)]
        )
    followed = [name.removesuffix("_ptr") for name in whole.keys() if name.endswith("_ptr")]  # noqa: SIM118
    return Batch.from_data_list(graphs[::-1], follow_batch=followed), items


def _nodes_backwards(graph: Any) -> Any:
    turned = copy.copy(graph)
    for kind in graph.node_types:
        for name, value in graph[kind].items():
            if graph[kind].is_node_attr(name):
                turned[kind][name] = value.flip(0) if isinstance(value, Tensor) else value[::-1]
    for edge_type in graph.edge_types:
        last = torch.tensor([[graph[kind].num_nodes - 1] for kind in edge_type[::2]])
        for name, value in graph[edge_type].items():
            if "index" in name:  # as PyG tells what counts nodes
                turned[edge_type][name] = last.to(value.device) - value
    return turned
