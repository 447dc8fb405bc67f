"""Check on one batch that a masker keeps its promises."""

import copy
from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor

from jepa_ssl.instances import FlatVectors, Graph
from jepa_ssl.maskers.graph import nodes_at
from jepa_ssl.maskers.share import values_of
from jepa_ssl.protocols import INSTANCE, ViewMaker, Views
from jepa_ssl.segments import group_sums
from jepa_ssl.testing.batches import (
    Instance,
    equal_bits,
    first_columns,
    owners_of,
    parts_of,
    same_bits,
    same_contents,
    share_memory,
    sizes_of,
    valid_of,
    wiring_of,
)

SEEDS = 20  # all draws of two items agree by chance once in half a million


class Check:
    """Check every promise of a masker on one batch, which the messages call `name`."""

    def __init__(self, masker: ViewMaker[Any], instance: Instance, name: str) -> None:
        self.masker, self.instance, self.name = masker, instance, name
        self.device = next(iter(parts_of(instance).values())).device

    def fail(self, sentence: str) -> NoReturn:
        raise AssertionError(f"{self.name}: {sentence}")

    def run(self) -> None:
        before, state = copy.deepcopy(self.instance), self.global_state()
        made = [self.views(seed) for seed in range(SEEDS)]
        again = self.views(0)
        if not torch.equal(state, self.global_state()):
            self.fail(
                "torch's global generator advances although a generator is given; draw with the given generator only."
            )
        if not same_contents(before, self.instance):
            self.fail("the instance was written to; fill a copy.")
        if not same_views(made[0], again):
            self.fail("the same seed gives different views; draw with the generator only.")
        for views in (one for several in made for one in several):
            self.check(views)
        for same_masker in zip(*made, strict=True):
            self.check_memory(same_masker)
        if self.hides_something(made[0]) and all(same_views(made[0], other) for other in made[1:]):
            self.fail(f"seeds 0 to {SEEDS - 1} all give the same views, so nothing is drawn; draw with the generator.")

    def global_state(self) -> Tensor:
        state = torch.get_rng_state()
        if self.device.type == "cuda":
            state = torch.cat([state, torch.cuda.get_rng_state(self.device)])
        return state

    def views(self, seed: int) -> tuple[Views[Any, Any], ...]:
        return self.made(self.instance, torch.Generator(self.device).manual_seed(seed))

    def made(self, instance: Instance, generator: Any) -> tuple[Views[Any, Any], ...]:
        made = self.masker(instance, generator=generator)
        return made if isinstance(made, tuple) else (made,)

    def hides_something(self, made: tuple[Views[Any, Any], ...]) -> bool:
        return any(bool(changed.any()) for views in made for changed in changed_in(views, self.instance).values())

    def check(self, views: Views[Any, Any]) -> None:
        for name, view in (("context", views.context), ("target", views.target)):
            if type(view) is not type(self.instance):
                self.fail(f"the {name} is a {type(view).__name__}, but the instance a {type(self.instance).__name__}.")
            self.check_shapes(name, view)
        for stream, values in values_of(self.instance).items():
            target = values_of(views.target)[stream]
            if not same_bits(first_columns(target, values), values):
                self.fail(
                    f"the target's {stream!r} values are not those of the instance; the target is the whole instance."
                )
            if target.ndim > 1 and bool(target[:, values.size(1) :].any()):
                self.fail(f"the target's {stream!r} indicator is not 0, but nothing is hidden in the target.")
            if values_of(views.context)[stream].shape != target.shape:
                self.fail(f"context and target differ in the shape of {stream!r}; an indicator goes into both.")
        if isinstance(self.instance, Graph):
            self.check_graph(self.instance, views)
        else:
            self.check_flat(self.instance, views)

    def check_memory(self, made: tuple[Views[Any, Any], ...]) -> None:
        """Check that unchanged parts are not copied. `made` are the views of one masker with several seeds."""
        sizes = sizes_of(self.instance)
        for name in ("target", "context"):
            for part, tensor in parts_of(self.instance).items():
                if name == "context" and part in sizes and not bool((sizes[part] >= 2).any()):
                    continue  # too few items to hide any, so this part never changes
                found = [parts_of(getattr(views, name))[part] for views in made]
                if all(same_bits(one, tensor) and not share_memory(one, tensor) for one in found):
                    self.fail(f"the {name}'s {part!r} is a copy of the instance's; share what is not hidden.")

    def check_shapes(self, name: str, view: Instance) -> None:
        for stream, values in values_of(self.instance).items():
            found = values_of(view)[stream]
            shape = list(values.shape)
            wider = shape[:1] + [2 * width if stream == INSTANCE else width + 1 for width in shape[1:]]
            if list(found.shape) not in (shape, wider) or found.dtype != values.dtype:
                self.fail(
                    f"the {name}'s {stream!r} values are {found.dtype} {list(found.shape)}, but the instance's "
                    f"{values.dtype} {list(values.shape)}; keep dtype and shape."
                )
        if isinstance(view, FlatVectors) and isinstance(self.instance, FlatVectors):
            if not torch.equal(first_columns(view.valid, self.instance.valid), self.instance.valid):
                self.fail(f"the {name}'s valid is not the instance's; a masker must not change padding.")
        elif isinstance(view, Graph) and isinstance(self.instance, Graph):
            found = wiring_of(view)
            for part, tensor in wiring_of(self.instance).items():
                if part not in found or not torch.equal(found[part], tensor):
                    self.fail(f"the {name}'s {part} is not the instance's; a masker hides features and keeps nodes.")

    def check_flat(self, instance: Tensor | FlatVectors, views: Views[Any, Any]) -> None:
        values = values_of(instance)[INSTANCE]
        valid = valid_of(instance)
        changed = changed_in(views, self.instance)[INSTANCE]
        if bool((changed & ~valid).any()):
            self.fail("the context differs from the instance in its padding; leave padding as it is.")
        self.check_counts(changed.sum(1), valid.sum(1), "vector", "real entries")
        self.check_marks(views, {INSTANCE: len(values)})
        hidden = views.hidden.get(INSTANCE)
        if hidden is not None and bool((wrong := hidden != changed.any(1)).any()):
            row = int(wrong.nonzero()[0])
            self.fail(
                f"hidden says that vector {row} {'lost' if hidden[row] else 'kept'} entries, but the context has "
                f"{'all' if hidden[row] else 'not all'} of them; correct hidden."
            )
        self.check_indicator(INSTANCE, values_of(views.context)[INSTANCE][:, values.size(1) :], changed)

    def check_counts(self, changed: Tensor, sizes: Tensor, whole: str, items: str) -> None:
        for wrong, sentence in (
            ((sizes >= 2) & (changed == 0), "but nothing of it is hidden; hide at least one."),
            ((sizes >= 2) & (changed >= sizes), "and none stays visible; leave at least one."),
            ((sizes < 2) & (changed > 0), "and hides one; hide nothing if there are fewer than two."),
        ):
            if bool(wrong.any()):
                place = int(wrong.nonzero()[0])
                self.fail(f"{whole} {place} has {int(sizes[place])} {items}, {sentence}")

    def check_marks(self, views: Views[Any, Any], items: Mapping[str, int]) -> None:
        for name, marks in (("hidden", views.hidden), ("weight", views.weight)):
            for stream, mark in marks.items():
                if stream not in items:
                    self.fail(f"{name} names the stream {stream!r}, but the instance has {sorted(items)}.")
                if mark is None:
                    continue
                kind = mark.dtype == torch.bool if name == "hidden" else mark.is_floating_point()
                if not kind or mark.shape != (items[stream],):
                    self.fail(
                        f"{name}[{stream!r}] is {mark.dtype} {list(mark.shape)}, but must be "
                        f"{'bool' if name == 'hidden' else 'floating point'} [{items[stream]}], one for each item."
                    )

    def check_indicator(self, stream: str, indicator: Tensor, hidden: Tensor) -> None:
        """Check the indicator: 1 where something changed, 0 or 1 elsewhere. An instance without the column passes."""
        if indicator.numel() and bool(((indicator != 1) & (hidden | (indicator != 0))).any()):
            self.fail(f"the {stream!r} indicator of the context is not 1 where something is hidden, and 0 elsewhere.")

    def check_graph(self, graph: Graph, views: Views[Any, Any]) -> None:
        columns = changed_in(views, self.instance)
        changed = {stream: mark.flatten(1).any(1) if mark.ndim > 1 else mark for stream, mark in columns.items()}
        self.check_marks(views, {stream: len(graph.features(stream)) for stream in graph.nodes})
        owners = owners_of(graph)
        self.check_something_is_hidden(graph, changed, owners)
        lost = {stream: changed[stream] for stream in graph.edges if stream in changed}
        kept = {stream: ~mark for stream, mark in lost.items()}
        for stream in graph.nodes:
            none = torch.zeros_like(changed[stream])
            ends = (nodes_at(marks, graph, stream) for marks in (lost, kept))
            at_lost_edge, at_kept_edge = (none if marks is None else marks for marks in ends)
            # A node is not hidden if it lost columns, even all of them, that follow from a hidden coefficient.
            # A stream is not predicted if hidden names other streams only.
            named = not views.hidden or stream in views.hidden
            hidden = views.hidden.get(stream)
            hidden = torch.full_like(changed[stream], named) if hidden is None else hidden
            if graph.features(stream).size(1):
                derived = at_lost_edge & (~hidden | at_kept_edge)
                self.check_something_is_visible(graph, stream, columns[stream].all(1) & ~derived, owners[stream])
            if views.hidden.get(stream) is not None:
                self.check_announced(stream, hidden, changed[stream] | at_lost_edge)
            if bool((unannounced := changed[stream] & ~hidden & ~at_lost_edge).any()):
                node = int(unannounced.nonzero()[0])
                self.fail(f"{stream} {node} differs in the context, but hidden says that it is visible.")
            if stream in views.weight:
                self.check_weight(stream, views.weight[stream], hidden, owners[stream], graph.num_graphs)
            extra = values_of(views.context)[stream][:, graph.features(stream).size(1) :]
            self.check_indicator(stream, extra, (changed[stream] & hidden).unsqueeze(1))
        self.check_both_directions(graph, lost)
        for stream, edges in graph.edges.items():
            if edges.attr is not None and edges.attr.ndim > 1:
                extra = values_of(views.context)[stream][:, edges.attr.size(1) :]
                self.check_indicator(stream, extra, changed[stream].unsqueeze(1))

    def check_something_is_hidden(
        self, graph: Graph, changed: Mapping[str, Tensor], owners: Mapping[str, Tensor]
    ) -> None:
        per_graph = [group_sums(mark.long(), owners[stream], graph.num_graphs) for stream, mark in changed.items()]
        two_of_each = torch.stack([graph.offsets(stream).diff() >= 2 for stream in graph.nodes]).all(0)
        silent = two_of_each & (torch.stack(per_graph).sum(0) == 0)
        if bool(silent.any()):
            self.fail(f"graph {int(silent.nonzero()[0])} has two nodes of each kind, but nothing of it is hidden.")

    def check_something_is_visible(self, graph: Graph, stream: str, whole: Tensor, owner: Tensor) -> None:
        sizes = graph.offsets(stream).diff()
        full = (group_sums(whole.long(), owner, graph.num_graphs) >= sizes) & (sizes > 0)
        if bool(full.any()):
            self.fail(f"graph {int(full.nonzero()[0])} hides all its {stream}s; leave at least one visible.")

    def check_announced(self, stream: str, hidden: Tensor, lost: Tensor) -> None:
        if bool((ignored := hidden & ~lost).any()):
            self.fail(
                f"hidden says that {stream} {int(ignored.nonzero()[0])} is hidden, but the context has all its "
                f"features and coefficients; hide what hidden marks."
            )

    def check_both_directions(self, graph: Graph, lost: Mapping[str, Tensor]) -> None:
        """Fail if the coefficient of a hidden edge is visible on the edge in the other direction."""
        for stream, mark in lost.items():
            ends, index, attr = graph.edges[stream]
            hidden = _edges(index[:, mark], attr, mark)
            for name, other in graph.edges.items():
                if other.ends == ends[::-1] and name in lost:
                    in_view = _edges(other.index[:, ~lost[name]].flip(0), other.attr, ~lost[name])
                    for i, j, *_ in sorted(edge for edge in hidden & in_view if name != stream or edge[0] != edge[1]):
                        self.fail(
                            f"the coefficient of the {stream!r} edge ({i}, {j}) is hidden, but visible on the {name!r} "
                            f"edge ({j}, {i}); store each edge once, or store each direction in its own stream and "
                            f"hide both: EdgeMasker(reverse=...)."
                        )

    def check_weight(self, kind: str, weight: Tensor, hidden: Tensor, owner: Tensor, graphs: int) -> None:
        if not bool((weight.isfinite() & (weight >= 0)).all()) or bool(weight[~hidden].any()):
            self.fail(f"weight[{kind!r}] is negative or not finite, or not 0 where nothing is hidden; correct it.")
        totals = group_sums(weight.double(), owner, graphs)[group_sums(hidden.long(), owner, graphs) > 0]
        if len(totals) and not torch.allclose(totals, totals[0].expand_as(totals), rtol=1e-3):
            self.fail(
                f"weight[{kind!r}] sums to {totals.min():.4g} in one graph and {totals.max():.4g} in another; "
                f"let all weigh alike."
            )


def _edges(index: Tensor, attr: Tensor | None, marks: Tensor) -> set[tuple[float, ...]]:
    """The ends, `index`, and the attributes of the marked edges."""
    assert attr is not None  # only what has attributes is hidden
    values: Any = torch.cat([index.T.double(), attr[marks].detach().double().unsqueeze(1).flatten(1)], 1)
    return {(int(i), int(j), *row) for i, j, *row in values.tolist()}


def same_views(a: tuple[Views[Any, Any], ...], b: tuple[Views[Any, Any], ...]) -> bool:
    def marks(views: Views[Any, Any]) -> list[Tensor]:
        return [mark for part in (views.hidden, views.weight) for mark in part.values() if mark is not None]

    return len(a) == len(b) and all(
        len(marks(one)) == len(marks(other))
        and same_contents(one.context, other.context)
        and all(map(same_bits, marks(one), marks(other)))
        for one, other in zip(a, b, strict=True)
    )


def changed_in(views: Views[Any, Any], instance: Instance) -> dict[str, Tensor]:
    """Where the context differs from the instance, by stream; without indicator columns."""
    context = values_of(views.context)
    return {
        stream: ~equal_bits(first_columns(context[stream], values), values)
        for stream, values in values_of(instance).items()
    }
