"""PyTorch Geometric: custom `Data` and `HeteroData` as graphs and back, and views of them; extra `jepa_ssl[graph]`."""

try:
    import torch_geometric  # pyright: ignore[reportMissingTypeStubs, reportUnusedImport]  # noqa: F401
except ImportError as error:
    raise ImportError(
        "reading PyG batches needs torch_geometric, which is not installed; pip install 'jepa_ssl[graph]'."
    ) from error

from jepa_ssl.integrations.pyg.graphs import bipartite_graph, graph_of, with_graph
from jepa_ssl.integrations.pyg.order import in_another_order
from jepa_ssl.integrations.pyg.states import PyGLPs
from jepa_ssl.integrations.pyg.views import PyGViews

__all__ = ["PyGLPs", "PyGViews", "bipartite_graph", "graph_of", "in_another_order", "with_graph"]
