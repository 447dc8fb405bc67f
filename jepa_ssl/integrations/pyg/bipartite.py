"""Batches of custom `Data`, each a bipartite graph of constraints and variables."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch_geometric has no stubs.

import copy
from typing import Any

from torch import nn
from torch_geometric.data import Batch, Data  # pyright: ignore[reportMissingTypeStubs]

from jepa_ssl.instances import BipartiteGraph
from jepa_ssl.integrations.pyg.offsets import offsets_of
from jepa_ssl.protocols import ViewMaker, Views

ATTRIBUTES = ("constraint_features", "edge_index", "edge_attr", "variable_features")


def bipartite_graph(data: Data | Batch, **names: str) -> BipartiteGraph:
    """The tensors of `data` as a `BipartiteGraph`; nothing is copied.

    Where the graphs of a `Batch` begin is read from `constraint_features_ptr` and `variable_features_ptr`, if it was
    built with `follow_batch=["constraint_features", "variable_features"]`; else from what the batch itself keeps to be
    taken apart again. The latter lives on the host: for a GPU follow the batch, and save a copy a step.

    Args:
        data: one `Data`, or a `Batch` of them.
        names: what the attributes `constraint_features`, `edge_index`, `edge_attr` and `variable_features` are called
            there, where they have other names: `constraint_features="x_s", variable_features="x_t"`.

    Raises:
        ValueError: an attribute is missing, or a batch does not say where its graphs begin.
        TypeError: `names` names what a bipartite graph does not have.
    """
    called = names_of(names)
    if missing := [name for name in called.values() if name not in data]:
        raise ValueError(
            f"data lacks {missing}; a bipartite graph has the attributes {list(ATTRIBUTES)}: where yours have other "
            f"names, give them, as in constraint_features='x_s'."
        )
    offsets = (
        offsets_of(data, data, called[own], (called[own],), f"{called[own]}_ptr")
        for own in ("constraint_features", "variable_features")
    )
    return BipartiteGraph(*(data[name] for name in called.values()), *offsets)


class BipartiteViews(nn.Module):
    """Views of PyG batches of custom `Data`, by any masker of bipartite graphs; your model sees batches as before.

    A view is a copy of the batch with other features; all that the masker leaves alone is shared, attributes that it
    does not know of among them. The streams are the masker's, `"constraint"` and `"variable"`.

    Args:
        masker: `NodeMasker(0.3)`, for example.
        names: as in `bipartite_graph`.
    """

    def __init__(self, masker: ViewMaker[BipartiteGraph], **names: str) -> None:
        super().__init__()
        self.masker, self.names = masker, names_of(names)

    def forward(
        self, instance: Data | Batch, *, generator: Any = None
    ) -> Views[Any, Any] | tuple[Views[Any, Any], ...]:
        made = self.masker(bipartite_graph(instance, **self.names), generator=generator)
        if isinstance(made, tuple):
            return tuple(self._of_batches(views, instance) for views in made)
        return self._of_batches(made, instance)

    def _of_batches(self, views: Views[Any, Any], data: Any) -> Views[Any, Any]:
        context, target = (self._with_tensors(data, graph) for graph in (views.context, views.target))
        return Views(context, target, views.hidden, views.weight, views.items)

    def _with_tensors(self, data: Any, graph: BipartiteGraph) -> Any:
        tensors = {name: getattr(graph, own) for own, name in self.names.items()}
        changed = {name: tensor for name, tensor in tensors.items() if tensor is not data[name]}
        if not changed:
            return data  # the target that every masker leaves as it is
        view = copy.copy(data)
        for name, tensor in changed.items():
            view[name] = tensor
        return view


def names_of(names: dict[str, str]) -> dict[str, str]:
    """What each attribute of a bipartite graph is called, in the order of its fields."""
    if unknown := sorted(names.keys() - set(ATTRIBUTES)):
        raise TypeError(f"names gives a name to {unknown}, but a bipartite graph has {list(ATTRIBUTES)}; name these.")
    return {own: names.get(own, own) for own in ATTRIBUTES}
