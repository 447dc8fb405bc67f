"""What every masker promises, as a function for the tests of your own.

def test_my_masker():
    check_masker(MyMasker(0.5), [torch.randn(4, 20), FlatVectors(values, valid)])
"""

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, TypeAlias

import torch
from torch import Tensor

from jepa_ssl.instances import BipartiteGraph, FlatVectors
from jepa_ssl.protocols import CONSTRAINT, EDGE, INSTANCE, VARIABLE, ViewMaker, Views

Instance: TypeAlias = Tensor | FlatVectors | BipartiteGraph

SEEDS = 20  # that all draws of two items agree by chance happens once in half a million
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def check_masker(masker: ViewMaker[Any], instances: Iterable[Instance]) -> None:
    """Raises unless `masker` keeps its promises on each of `instances`, each a batch, under twenty seeds.

    The promises: the target is the whole instance; the context has its shapes, dtypes and wiring, and differs from it
    only where something is hidden, never in padding (a visible node may lose columns if it loses a coefficient); each
    vector or graph hides something and shows something, wherever it has two entries, or two nodes of each kind;
    `hidden` and `weight` fit the streams, each node that `hidden` names lost something, its own or a coefficient, and
    graphs weigh alike; the instance is not written to; the same generator
    gives the same views, other seeds give others, and the global random numbers stay as they are. Indicator columns,
    the last ones, are understood.

    What is hidden is seen by the difference it makes. So give instances without values that the masker fills in
    (random normal numbers will do), and large enough that the masker finds two things to choose from; empty batches,
    single entries and lone nodes are welcome besides.

    Args:
        masker: makes views, or a tuple of several, of a batch.
        instances: batches `[batch, entries]`, `FlatVectors` or `BipartiteGraph`.

    >>> from jepa_ssl import EntryMasker
    >>> check_masker(EntryMasker(0.5), [torch.randn(3, 8)])
    >>> check_masker(lambda flat, generator=None: Views(flat.relu(), flat), [torch.randn(3, 8)])
    Traceback (most recent call last):
    AssertionError: instances[0]: seeds 0 to 19 all give the same views, ...

    Raises:
        AssertionError: a promise is broken; the message says which, and on which instance.
    """
    for number, instance in enumerate(instances):
        _Check(masker, instance, f"instances[{number}]").run()


class _Check:
    def __init__(self, masker: ViewMaker[Any], instance: Instance, name: str) -> None:
        self.masker, self.instance, self.name = masker, instance, name
        self.device = _tensors(instance)[0].device

    def fail(self, sentence: str) -> NoReturn:
        raise AssertionError(f"{self.name}: {sentence}")

    def run(self) -> None:
        before, state = [tensor.clone() for tensor in _tensors(self.instance)], self.global_state()
        made = [self.views(seed) for seed in range(SEEDS)]
        again = self.views(0)
        if not torch.equal(state, self.global_state()):
            self.fail("the global random numbers move on although a generator is given; draw with the generator alone.")
        if not all(map(_same_bits, before, _tensors(self.instance))):
            self.fail("the instance was written to; fill a copy.")
        if not _same_views(made[0], again):
            self.fail("the same seed gives different views; draw with the generator alone.")
        for views in (one for several in made for one in several):
            self.check(views)
        if self.hides_something(made[0]) and all(_same_views(made[0], other) for other in made[1:]):
            self.fail(f"seeds 0 to {SEEDS - 1} all give the same views, so nothing is drawn; draw with the generator.")

    def global_state(self) -> Tensor:
        state = torch.get_rng_state()
        if self.device.type == "cuda":
            state = torch.cat([state, torch.cuda.get_rng_state(self.device)])
        return state

    def views(self, seed: int) -> tuple[Views[Any, Any], ...]:
        made = self.masker(self.instance, generator=torch.Generator(self.device).manual_seed(seed))
        return made if isinstance(made, tuple) else (made,)

    def hides_something(self, made: tuple[Views[Any, Any], ...]) -> bool:
        return any(bool(changed.any()) for views in made for changed in self.changed(views).values())

    def changed(self, views: Views[Any, Any]) -> dict[str, Tensor]:
        """Where the context differs from the instance, by stream; without indicator columns."""
        context = _values(views.context)
        return {
            stream: ~_equal_bits(_first_columns(context[stream], values), values)
            for stream, values in _values(self.instance).items()
        }

    def check(self, views: Views[Any, Any]) -> None:
        for name, view in (("context", views.context), ("target", views.target)):
            if type(view) is not type(self.instance):
                self.fail(f"the {name} is a {type(view).__name__}, but the instance a {type(self.instance).__name__}.")
            self.check_shapes(name, view)
        for stream, values in _values(self.instance).items():
            target = _values(views.target)[stream]
            if not _same_bits(_first_columns(target, values), values):
                self.fail(f"the target's {stream!r} values are not those of the instance; the target is the whole.")
            if target.ndim > 1 and bool(target[:, values.size(1) :].any()):
                self.fail(f"the target's {stream!r} indicator is not 0, but nothing is hidden in the target.")
            if _values(views.context)[stream].shape != target.shape:
                self.fail(f"context and target differ in the shape of {stream!r}; an indicator goes into both.")
        if isinstance(self.instance, BipartiteGraph):
            self.check_graph(self.instance, views)
        else:
            self.check_flat(self.instance, views)

    def check_shapes(self, name: str, view: Instance) -> None:
        for stream, values in _values(self.instance).items():
            found = _values(view)[stream]
            shape = list(values.shape)
            wider = shape[:1] + [2 * width if stream == INSTANCE else width + 1 for width in shape[1:]]
            if list(found.shape) not in (shape, wider) or found.dtype != values.dtype:
                self.fail(
                    f"the {name}'s {stream!r} values are {found.dtype} {list(found.shape)}, but the instance's "
                    f"{values.dtype} {list(values.shape)}; keep dtype and shape."
                )
        if isinstance(view, FlatVectors) and isinstance(self.instance, FlatVectors):
            if not torch.equal(_first_columns(view.valid, self.instance.valid), self.instance.valid):
                self.fail(f"the {name}'s valid is not the instance's; what is padding stays padding.")
        elif isinstance(view, BipartiteGraph) and isinstance(self.instance, BipartiteGraph):
            for part in ("edge_index", "constraint_offsets", "variable_offsets"):
                if not torch.equal(getattr(view, part), getattr(self.instance, part)):
                    self.fail(f"the {name}'s {part} is not the instance's; a masker hides features, and keeps nodes.")

    def check_flat(self, instance: Tensor | FlatVectors, views: Views[Any, Any]) -> None:
        values = _values(instance)[INSTANCE]
        valid = instance.valid if isinstance(instance, FlatVectors) else torch.ones_like(values, dtype=torch.bool)
        changed = self.changed(views)[INSTANCE]
        if bool((changed & ~valid).any()):
            self.fail("the context differs from the instance in its padding; leave padding as it is.")
        self.check_counts(changed.sum(1), valid.sum(1), "vector", "real entries")
        self.check_marks(views, {INSTANCE: len(values)})
        self.check_indicator(INSTANCE, _values(views.context)[INSTANCE][:, values.size(1) :], changed)

    def check_counts(self, changed: Tensor, sizes: Tensor, whole: str, items: str) -> None:
        for wrong, sentence in (
            ((sizes >= 2) & (changed == 0), "but nothing of it is hidden; hide at least one."),
            ((sizes >= 2) & (changed >= sizes), "and none stays visible; leave at least one."),
            ((sizes < 2) & (changed > 0), "and hides one; hide nothing where there are not two."),
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
        """1 where something changed, 0 or 1 elsewhere; an instance without the column passes."""
        if indicator.numel() and bool(((indicator != 1) & (hidden | (indicator != 0))).any()):
            self.fail(f"the {stream!r} indicator of the context is not 1 where something is hidden, and 0 elsewhere.")

    def check_graph(self, graph: BipartiteGraph, views: Views[Any, Any]) -> None:
        columns = self.changed(views)
        changed = {stream: mark.flatten(1).any(1) if mark.ndim > 1 else mark for stream, mark in columns.items()}
        all_columns = {kind: columns[kind].all(1) for kind in (CONSTRAINT, VARIABLE)}
        items = {kind: len(graph.features(kind)) for kind in (CONSTRAINT, VARIABLE)}
        self.check_marks(views, items)
        owners = {kind: graph.graph_of(kind) for kind in items}
        owners[EDGE] = owners[CONSTRAINT][graph.edge_index[0]]
        per_graph = {stream: _sums(mark, owners[stream], graph.num_graphs) for stream, mark in changed.items()}
        sizes = {kind: graph.offsets(kind).diff() for kind in items}
        two_of_each = (sizes[CONSTRAINT] >= 2) & (sizes[VARIABLE] >= 2)
        silent = two_of_each & (per_graph[CONSTRAINT] + per_graph[VARIABLE] + per_graph[EDGE] == 0)
        if bool(silent.any()):
            self.fail(f"graph {int(silent.nonzero()[0])} has two nodes of each kind, but nothing of it is hidden.")
        for kind in items:
            # A node that lost some columns only, because they follow from a hidden coefficient, is not hidden.
            whole = _sums(all_columns[kind], owners[kind], graph.num_graphs)
            full = (whole >= sizes[kind]) & (sizes[kind] > 0)
            if bool(full.any()):
                self.fail(f"graph {int(full.nonzero()[0])} hides all its {kind}s; leave at least one visible.")
            ends = graph.edge_index[0 if kind == CONSTRAINT else 1]
            lost_edge = torch.zeros_like(changed[kind])
            lost_edge[ends[changed[EDGE]]] = True
            hidden = views.hidden.get(kind)
            if hidden is None:
                hidden = torch.ones_like(changed[kind])
            elif bool((ignored := hidden & ~changed[kind] & ~lost_edge).any()):
                node = int(ignored.nonzero()[0])
                self.fail(
                    f"hidden says that {kind} {node} is hidden, but the context has all of it and of its coefficients; "
                    f"hide what is announced."
                )
            unannounced = changed[kind] & ~hidden & ~lost_edge
            if bool(unannounced.any()):
                node = int(unannounced.nonzero()[0])
                self.fail(f"{kind} {node} differs in the context, but hidden says that it is visible.")
            if kind in views.weight:
                self.check_weight(kind, views.weight[kind], hidden, owners[kind], graph.num_graphs)
            extra = _values(views.context)[kind][:, graph.features(kind).size(1) :]
            self.check_indicator(kind, extra, (changed[kind] & hidden).unsqueeze(1))
        if graph.edge_attr.ndim > 1:
            extra = _values(views.context)[EDGE][:, graph.edge_attr.size(1) :]
            self.check_indicator(EDGE, extra, changed[EDGE].unsqueeze(1))

    def check_weight(self, kind: str, weight: Tensor, hidden: Tensor, owner: Tensor, graphs: int) -> None:
        if not bool((weight.isfinite() & (weight >= 0)).all()) or bool(weight[~hidden].any()):
            self.fail(f"weight[{kind!r}] is not finite and at least 0, or not 0 where nothing is hidden.")
        totals = _sums(weight.double(), owner, graphs)[_sums(hidden, owner, graphs) > 0]
        if len(totals) and not torch.allclose(totals, totals[0].expand_as(totals), rtol=1e-3):
            self.fail(
                f"weight[{kind!r}] sums to {totals.min():.4g} in one graph and {totals.max():.4g} in another; "
                f"let all weigh alike."
            )


def _tensors(instance: Instance) -> list[Tensor]:
    return [instance] if isinstance(instance, Tensor) else list(vars(instance).values())


def _values(instance: Instance) -> dict[str, Tensor]:
    """What can be hidden, by stream."""
    if isinstance(instance, BipartiteGraph):
        return {
            CONSTRAINT: instance.constraint_features,
            VARIABLE: instance.variable_features,
            EDGE: instance.edge_attr,
        }
    return {INSTANCE: instance.values if isinstance(instance, FlatVectors) else instance}


def _first_columns(values: Tensor, like: Tensor) -> Tensor:
    return values[:, : like.size(1)] if like.ndim > 1 else values


def _equal_bits(a: Tensor, b: Tensor) -> Tensor:
    """Where two tensors are equal, NaN payloads and the sign of zero included."""
    bits = _INTEGERS[a.element_size()]
    return a.detach().view(bits) == b.detach().view(bits)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and bool(_equal_bits(a, b).all())


def _same_views(a: tuple[Views[Any, Any], ...], b: tuple[Views[Any, Any], ...]) -> bool:
    def marks(views: Views[Any, Any]) -> list[Tensor]:
        return [mark for part in (views.hidden, views.weight) for mark in part.values() if mark is not None]

    return len(a) == len(b) and all(
        len(marks(one)) == len(marks(other))
        and all(map(_same_bits, _tensors(one.context), _tensors(other.context)))
        and all(map(_same_bits, marks(one), marks(other)))
        for one, other in zip(a, b, strict=True)
    )


def _sums(marks: Tensor, owner: Tensor, graphs: int) -> Tensor:
    marks = marks.long() if marks.dtype == torch.bool else marks
    return marks.new_zeros(graphs).index_add_(0, owner, marks)
