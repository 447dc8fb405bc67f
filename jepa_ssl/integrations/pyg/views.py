"""Views of PyG batches."""

from typing import Any

from torch import nn

from jepa_ssl.integrations.pyg.graphs import graph_of, with_graph
from jepa_ssl.protocols import ViewMaker, Views
from jepa_ssl.seeds import Randomness


class PyGViews(nn.Module):
    """Views of PyG data by any masker of graphs: of custom `Data`, `HeteroData`, or a `Batch` of either.

    A view is a shallow copy of the data with other features and edge attributes. It shares everything else, including
    attributes that the masker does not know. So your model sees PyG batches, as before.

    The streams are those of `graph_of`. `HeteroData` has its node types, and its edge types under three names joined by
    two underscores, `"row__has__column"`. Custom `Data` has "constraint", "variable" and "edge". Attributes that
    `graph_of` does not read stay in view: `jepa_ssl.testing.check_encoder` finds those that the encoder reads.

    Args:
        masker: `NodeMasker(0.3)`, for example.
        names: what the attributes are called in your data, as in `graph_of`.
    """

    def __init__(self, masker: ViewMaker[Any], **names: str) -> None:
        super().__init__()
        self.masker, self.names = masker, names

    def forward(self, instance: Any, *, generator: Randomness = None) -> Views[Any, Any] | tuple[Views[Any, Any], ...]:
        """The views of PyG data, as many as `masker` makes.

        Raises:
            TypeError, ValueError: as `graph_of` and the masker.
        """
        made = self.masker(graph_of(instance, **self.names), generator=generator)
        if isinstance(made, tuple):
            return tuple(self._of_data(views, instance) for views in made)
        return self._of_data(made, instance)

    def _of_data(self, views: Views[Any, Any], data: Any) -> Views[Any, Any]:
        context, target = (with_graph(data, graph, **self.names) for graph in (views.context, views.target))
        return Views(context, target, views.hidden, views.weight, views.items)
