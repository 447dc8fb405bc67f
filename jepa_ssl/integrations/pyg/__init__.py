"""PyTorch Geometric: batches of custom `Data` and of `HeteroData`, and views of them; the extra `jepa_ssl[graph]`."""

try:
    import torch_geometric  # pyright: ignore[reportMissingTypeStubs, reportUnusedImport]  # noqa: F401
except ImportError as error:
    raise ImportError(
        "PyG's batches are read by way of torch_geometric, which is not installed; pip install 'jepa_ssl[graph]'."
    ) from error

from jepa_ssl.integrations.pyg.bipartite import BipartiteViews, bipartite_graph
from jepa_ssl.integrations.pyg.hetero import HeteroNodeMasker
from jepa_ssl.integrations.pyg.order import in_another_order

__all__ = ["BipartiteViews", "HeteroNodeMasker", "bipartite_graph", "in_another_order"]
