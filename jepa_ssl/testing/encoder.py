"""Whether an encoder is wired so that a JEPA objective can train it, checked on one batch."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from jepa_ssl.instances import BipartiteGraph, FlatVectors
from jepa_ssl.names import submodules, unwrapped
from jepa_ssl.protocols import CONSTRAINT, INSTANCE, VARIABLE, Embeddings, Encoded, ViewMaker, Views
from jepa_ssl.testing.batches import KINDS, batch_size, items_of, selected

Rewritten = Mapping[str, tuple[Any, Mapping[str, Tensor]]]


class EncoderCheck:
    """Collects what is wrong, in sentences."""

    def __init__(self, encoder: Any, instance: Any) -> None:
        self.encoder, self.instance = encoder, instance
        self.faults: list[str] = []

    def run(self, views: ViewMaker[Any] | None, trunk: nn.Module | None, rewritten: Rewritten | None) -> None:
        asleep = self._copied()
        if asleep is None:
            return
        tensors = _tensors_of(self.instance)
        versions = [tensor._version for tensor in tensors]
        encoded = _encoded(asleep, self.instance)
        embeddings = encoded.embeddings
        if versions != [tensor._version for tensor in tensors]:
            self.faults.append("the encoder writes to the batch that it is given; let it work on a copy.")
        self._check_shapes(embeddings, encoded.valid)
        if self.faults or not self._check_copies(asleep, embeddings):
            return
        again = _embedded(asleep, self.instance, seed=1)
        if not all(torch.equal(embeddings[stream], again[stream]) for stream in embeddings):
            self.faults.append(
                "in eval mode two passes over one batch differ: something random stays awake, F.dropout(x) without "
                "training=self.training perhaps; a teacher's targets would change from pass to pass."
            )
            return
        self._check_gradient(trunk)
        for what, (instance, items) in {**_rewritten(self.instance), **(rewritten or {})}.items():
            self._check_same(what, embeddings, _embedded(asleep, instance), items)
        self._check_alone(asleep, embeddings)
        if views is not None:
            made = views(self.instance, generator=torch.Generator(_device(embeddings)).manual_seed(0))
            for each in made if isinstance(made, tuple) else (made,):
                self._check_views(asleep, embeddings, each)

    def _copied(self) -> Callable[[Any], Embeddings | Encoded] | None:
        """A copy that sleeps, as a teacher's does; a callable that is no module is taken as it is."""
        if not isinstance(self.encoder, nn.Module):
            return self.encoder
        try:
            return copy.deepcopy(self.encoder).eval()
        except Exception as error:
            self.faults.append(
                f"the encoder cannot be copied, so EMATeacher cannot follow it: {type(error).__name__}: {error}"
            )
            return None

    def _check_shapes(self, embeddings: Embeddings, valid: Mapping[str, Tensor]) -> None:
        given: Any = embeddings  # of which nothing is known yet
        values: list[Any] = list(embeddings.values()) if isinstance(given, Mapping) else []
        if not values or not all(isinstance(z, Tensor) for z in values):
            self.faults.append(
                f"the encoder returns a {type(embeddings).__name__}, but must return stream -> embeddings, a dict of "
                f"tensors, or Encoded."
            )
            return
        expected = _items_expected(self.instance)
        for stream, z in embeddings.items():
            real = z[valid[stream]] if stream in valid else z
            if z.ndim != 2 or not z.is_floating_point():
                self.faults.append(f"stream {stream!r} is {z.dtype} {list(z.shape)}, but must be floats [items, dim].")
            elif stream in expected and len(z) != expected[stream]:
                counts = ", ".join(f"{count} of {kind!r}" for kind, count in expected.items())
                self.faults.append(
                    f"stream {stream!r} has {len(z)} embeddings, but the batch has {counts}; give each item a row, and "
                    f"pool for the stream 'instance' alone."
                )
            elif not bool(real.isfinite().all()):
                self.faults.append(f"stream {stream!r} has embeddings that are infinite or NaN.")
            elif len(real) > 1 and bool((real == real[0]).all()):
                self.faults.append(
                    f"all {len(real)} embeddings of stream {stream!r} are equal: the encoder does not look at the "
                    f"instance, or its last layer starts at zero."
                )

    def _check_copies(self, encoder: Any, embeddings: Embeddings) -> bool:
        """Whether all that the encoder runs is its own, and is copied with it."""
        if not isinstance(encoder, nn.Module):
            return True
        other = copy.deepcopy(encoder)
        with torch.no_grad():
            for parameter in (p for _, p in _of_trunk(other) if p.is_floating_point()):
                parameter.add_(torch.linspace(0.5, 1.5, parameter.numel(), device=parameter.device).view_as(parameter))
        changed, unchanged = (_embedded(each, self.instance) for each in (other, encoder))
        if not all(torch.equal(embeddings[stream], unchanged[stream]) for stream in embeddings):
            self.faults.append(
                "a copy of the encoder shares weights with it: what trains one moves the other; keep modules and "
                "tensors as attributes, where copy.deepcopy finds them."
            )
            return False
        if any(True for _ in _of_trunk(other)) and all(
            torch.equal(embeddings[stream], changed[stream]) for stream in embeddings
        ):
            self.faults.append(
                "a copy of the encoder whose weights were all changed still gives the old embeddings: it runs a model "
                "outside itself, by a closure; a teacher would follow nothing. Keep it as an attribute, and call that."
            )
            return False
        return True

    def _check_gradient(self, trunk: nn.Module | None) -> None:
        if not isinstance(self.encoder, nn.Module):
            if not all(z.requires_grad for z in _embedded(self.encoder, self.instance).values()):
                self.faults.append("the embeddings carry no gradient; is the encoder called under torch.no_grad()?")
            return
        awake = copy.deepcopy(self.encoder).train()
        names = {parameter: name for name, parameter in awake.named_parameters() if parameter.requires_grad}
        if trunk is None:
            wanted = {name: parameter for name, parameter in _of_trunk(awake) if parameter.requires_grad}
        else:
            paths = [name for name, module in submodules(self.encoder) if module is trunk]
            if not paths:
                self.faults.append(
                    "the trunk is not a submodule of the encoder, so no teacher copies it, and encoder.parameters() "
                    "lacks it; keep it as an attribute."
                )
                return
            wanted = {names[p]: p for p in awake.get_submodule(paths[0]).parameters() if p.requires_grad}
        if not wanted:
            self.faults.append(
                "nothing of the encoder but its projector has weights that learn; keep the trunk as an attribute of "
                "the encoder, and unfreeze it."
            )
            return
        z = _embedded(awake, self.instance)
        # Weighed unequally: the sum of what was normalised may not depend on its input at all.
        loss = torch.stack(
            [(e * torch.linspace(-1, 2, e.numel(), device=e.device).view_as(e)).sum() for e in z.values()]
        )
        reached: dict[str, Tensor] = {}
        if loss.requires_grad:
            own = set(map(id, awake.parameters()))
            if any(id(leaf) not in own for leaf in _leaves(loss)):
                self.faults.append(
                    "the embeddings depend on weights that are not the encoder's: it runs a part of a model outside "
                    "itself, by a closure; keep that as an attribute, so that a teacher follows it."
                )
                return
            found: Any = torch.autograd.grad(loss.sum(), list(wanted.values()), allow_unused=True)
            reached = {name: grad for name, grad in zip(wanted, found, strict=True) if grad is not None}
        unreached = sorted(wanted.keys() - reached.keys())
        if not any(bool(grad.any()) for grad in reached.values()):
            self.faults.append(
                "no gradient reaches the trunk: it is called under torch.no_grad(), or what it returns is detached."
            )
        elif trunk is not None and unreached:
            self.faults.append(
                f"no gradient reaches {unreached} of the trunk; take its features behind these, or name a smaller "
                f"trunk."
            )

    def _check_same(self, what: str, before: Embeddings, after: Embeddings, items: Mapping[str, Tensor]) -> None:
        for stream in before.keys() & items.keys():
            expected, found = before[stream], after[stream][items[stream].to(after[stream].device)]
            if expected.shape != found.shape or not _close(expected, found):
                self.faults.append(
                    f"stream {stream!r} depends on {what}: the same items get other embeddings where that is different."
                )

    def _check_alone(self, encoder: Any, embeddings: Embeddings) -> None:
        if not isinstance(self.instance, Tensor | FlatVectors | BipartiteGraph) or batch_size(self.instance) < 2:
            return
        alone = _embedded(encoder, selected(self.instance, [0]))
        for stream in embeddings:
            if not _close(embeddings[stream][: len(alone[stream])], alone[stream]):
                self.faults.append(
                    f"stream {stream!r}: an instance gets other embeddings alone than in a batch; something is "
                    f"computed over the whole batch, in eval mode too."
                )

    def _check_views(self, encoder: Any, embeddings: Embeddings, views: Views[Any, Any]) -> None:
        for stream in views.hidden:
            if stream not in embeddings:
                self.faults.append(
                    f"the views hide items of stream {stream!r}, but the encoder returns {sorted(embeddings)}."
                )
        if views.context is self.instance:
            return  # nothing is hidden: the target is something else, a solver's state perhaps
        context = _embedded(encoder, views.context)
        for stream, z in embeddings.items():
            hidden = views.hidden.get(stream)
            if stream in views.items or context[stream].shape != z.shape:
                continue  # moved, or of another size: no row is comparable
            if hidden is not None and hidden.shape != z.shape[:1]:
                self.faults.append(
                    f"the views mark {list(hidden.shape)} items of stream {stream!r} as hidden, but the encoder "
                    f"returns {len(z)}."
                )
                continue
            differs = (context[stream] != z).any(1)
            to_predict = torch.ones_like(differs) if hidden is None else hidden
            if bool(to_predict.any()) and not bool((differs & to_predict).any()):
                self.faults.append(
                    f"stream {stream!r}: none of the {int(to_predict.sum())} embeddings to be predicted changes when "
                    f"its item is hidden; the views hide nothing that the encoder reads."
                )


def _encoded(encoder: Any, instance: Any, seed: int = 0) -> Encoded:
    torch.default_generator.manual_seed(seed)
    return Encoded.of(encoder(instance))


def _embedded(encoder: Any, instance: Any, seed: int = 0) -> Embeddings:
    return _encoded(encoder, instance, seed).embeddings


def _tensors_of(instance: Any) -> list[Tensor]:
    """Those of a tensor, a mapping, or one of the package's batches."""
    parts: Any = [instance]
    if isinstance(instance, Mapping):
        parts = cast(Mapping[str, Any], instance).values()
    elif isinstance(instance, FlatVectors | BipartiteGraph):
        parts = vars(instance).values()
    return [part for part in parts if isinstance(part, Tensor) and not part.is_inference()]


def _leaves(loss: Tensor) -> Iterator[Tensor]:
    """The tensors in which the graph of `loss` ends."""
    seen: set[Any] = set()
    nodes: list[Any] = [loss.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        nodes += [following for following, _ in node.next_functions]


def _of_trunk(encoder: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """All weights but those of a submodule called projector."""
    projector = getattr(unwrapped(encoder), "projector", None)
    left_out = set(map(id, projector.parameters())) if isinstance(projector, nn.Module) else set[int]()
    for name, parameter in encoder.named_parameters():
        if id(parameter) not in left_out:
            yield name, parameter


def _items_expected(instance: Any) -> dict[str, int]:
    if isinstance(instance, BipartiteGraph):
        return {INSTANCE: instance.num_graphs, **{kind: len(instance.features(kind)) for kind in KINDS}}
    return {INSTANCE: batch_size(instance)} if isinstance(instance, Tensor | FlatVectors) else {}


def _rewritten(instance: Any) -> Rewritten:
    """The same batch written in other ways, and where its items stand then."""
    if not isinstance(instance, Tensor | FlatVectors | BipartiteGraph) or not batch_size(instance):
        return {}
    backwards = list(range(batch_size(instance)))[::-1]
    order = {INSTANCE: torch.tensor(backwards)}
    if isinstance(instance, BipartiteGraph):
        order |= {kind: _inverse(places) for kind, places in items_of(instance, backwards).items()}
    made: dict[str, tuple[Any, Mapping[str, Tensor]]] = {
        "the order of the instances in the batch": (selected(instance, backwards), order)
    }
    if isinstance(instance, FlatVectors):
        noise = torch.linspace(-3, 5, instance.values.numel(), device=instance.values.device).view_as(instance.values)
        padded = torch.where(instance.valid, instance.values, noise.to(instance.values))
        made["what stands in the padding"] = (
            FlatVectors(padded, instance.valid),
            {INSTANCE: torch.arange(batch_size(instance))},
        )
    if isinstance(instance, BipartiteGraph):
        made["the order of the nodes and edges in a graph"] = _permuted(instance)
    return made


def _permuted(graph: BipartiteGraph) -> tuple[BipartiteGraph, dict[str, Tensor]]:
    """The nodes of each graph in another order, and all edges backwards."""
    generator = torch.Generator().manual_seed(0)
    order = {
        kind: (graph.graph_of(kind).cpu() + torch.rand(len(graph.features(kind)), generator=generator)).argsort()
        for kind in KINDS
    }
    order = {kind: places.to(graph.edge_index.device) for kind, places in order.items()}
    places = {kind: _inverse(before) for kind, before in order.items()}
    edges = torch.stack([places[kind][nodes] for kind, nodes in zip(KINDS, graph.edge_index, strict=True)])
    permuted = replace(
        graph,
        constraint_features=graph.constraint_features[order[CONSTRAINT]],
        variable_features=graph.variable_features[order[VARIABLE]],
        edge_index=edges.flip(1),
        edge_attr=graph.edge_attr.flip(0),
    )
    return permuted, {**places, INSTANCE: torch.arange(graph.num_graphs)}


def _inverse(places: Tensor) -> Tensor:
    return torch.empty_like(places).scatter_(0, places, torch.arange(len(places), device=places.device))


def _close(a: Tensor, b: Tensor) -> bool:
    """Up to rounding, which changes where sums are taken in another order."""
    tolerance = min(100 * torch.finfo(a.dtype).eps, 1e-2)
    scale = a.detach().abs().amax().clamp(min=1.0) if a.numel() else 1.0
    return bool(((a - b).abs() <= tolerance * scale).all())


def _device(embeddings: Embeddings) -> torch.device:
    return next(iter(embeddings.values())).device
