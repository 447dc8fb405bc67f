"""Maskers made of maskers: one after the other, and side by side."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from jepa_ssl.instances import BipartiteGraph, check_numbers
from jepa_ssl.maskers.draw import spare_one
from jepa_ssl.maskers.edges import EdgeMasker
from jepa_ssl.maskers.flat import FlatMasker, parts
from jepa_ssl.maskers.graph import edge_owner, edges_at, equal_graphs
from jepa_ssl.maskers.nodes import GraphMasker
from jepa_ssl.protocols import EDGE, INSTANCE, ViewMaker, Views
from jepa_ssl.seeds import Randomness


class _Several(nn.Module):
    def __init__(self, *makers: ViewMaker[Any]) -> None:
        super().__init__()
        if not makers:
            raise ValueError(f"{type(self).__name__} got no masker; give at least one.")
        self.makers = makers
        # So that learned tokens are found; a maker may be a plain function, too.
        self.modules_among = nn.ModuleList(maker for maker in makers if isinstance(maker, nn.Module))


class ComposeMaskers(_Several):
    """Hides with one masker after the other: the context lacks what any of them hides.

    The maskers draw independently of each other, but one of the items that a later one drew is spared, uniformly at
    random, wherever nothing would stay visible: each graph with two nodes of a kind shows one, each vector with two
    real entries shows one, and `EdgeMasker` leaves a coefficient where the earlier ones do.

    The target view is the first's. An item is predicted if any of them hides it, and every graph weighs the same.
    The first may be another view maker, if it leaves the instance whole: with `SolverState`, a part of the instance is
    hidden from the encoder that predicts its state in full.

    Args:
        maskers: maskers of this package or subclasses of them, without an indicator.

    >>> from jepa_ssl import EntryMasker
    >>> views = ComposeMaskers(EntryMasker(0.5), EntryMasker(0.2))(torch.ones(2, 10))
    >>> bool((views.context.sum(dim=1) <= 5).all())
    True

    Raises:
        ValueError: a part has an indicator, moves items, makes a target of its own though it is not the first, or
            changes the instance without saying what it hides.
    """

    def __init__(self, *maskers: ViewMaker[Any]) -> None:
        super().__init__(*maskers)
        for masker in maskers:
            if getattr(masker, "indicator", False):
                raise ValueError(
                    f"{type(masker).__name__} has indicator=True, but the next masker of ComposeMaskers would hide its "
                    f"column; leave it off, or use a single masker."
                )

    def forward(self, instance: Any, *, generator: Randomness = None) -> Views[Any, Any]:
        check_numbers(instance)  # here alone, for what an earlier part filled in may be anything
        views: Views[Any, Any] | None = None
        taken: dict[str, Tensor] = {}
        for masker in self.makers:
            context = instance if views is None else views.context
            if isinstance(masker, FlatMasker | GraphMasker | EdgeMasker):
                later = _hide(masker, context, taken, generator)
            else:
                later = _leaves_whole(masker, context, _made(masker, context, generator))
            if views is None:
                views = later
                continue
            if later.target is not context:
                raise ValueError(
                    f"{type(masker).__name__} makes a target of its own, but that of ComposeMaskers is its first "
                    f"part's; put it first, or leave it out."
                )
            hidden = _union(views.hidden, later.hidden)
            views = Views(later.context, views.target, hidden, _weight(views, hidden))
        assert views is not None  # there is at least one part
        return views


class MultiView(_Several):
    """Several views of one instance, each by its own masker: a light one and a heavy one, for example.

    Returns one `Views` a masker, all with the instance as their target; `JEPAObjective` averages their losses, and runs
    the teacher once. (A masker with an indicator makes a target of its own, which is then embedded for itself.)

    >>> from jepa_ssl import EntryMasker
    >>> light, heavy = MultiView(EntryMasker(0.2), EntryMasker(0.7))(torch.ones(1, 10))
    >>> light.context.sum().item(), heavy.context.sum().item(), light.target is heavy.target
    (8.0, 3.0, True)
    """

    def forward(self, instance: Any, *, generator: Randomness = None) -> tuple[Views[Any, Any], ...]:
        return tuple(_made(maker, instance, generator) for maker in self.makers)


def _made(maker: ViewMaker[Any], instance: Any, generator: Randomness) -> Views[Any, Any]:
    # Not every view maker takes Seeds; one that does not says so itself.
    views = maker(instance, generator=cast("torch.Generator | None", generator))
    if isinstance(views, tuple):
        raise TypeError(
            "a masker returned several views, but ComposeMaskers and MultiView take maskers that make one each."
        )
    return views


def _union(a: Mapping[str, Tensor | None], b: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
    """What either hides; None, or no entry, is everything."""

    def either(one: Tensor | None, other: Tensor | None) -> Tensor | None:
        return None if one is None or other is None else one | other

    return {stream: either(a.get(stream), b.get(stream)) for stream in {**a, **b}}


def _weight(first: Views[Any, Any], hidden: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    """Each graph's hidden nodes share the weight 1; a stream that is predicted in full keeps the weights it had."""
    weight = {stream: given for stream, given in first.weight.items() if hidden.get(stream) is None}
    if isinstance(first.target, BipartiteGraph):
        weight |= {kind: equal_graphs(mark, first.target, kind) for kind, mark in hidden.items() if mark is not None}
    return weight


def _hide(
    masker: FlatMasker | GraphMasker | EdgeMasker,
    context: Any,
    taken: dict[str, Tensor],
    generator: Randomness,
) -> Views[Any, Any]:
    """The views of `masker`, which spares what is last visible; `taken`, stream -> bool `[items]`, grows."""

    def take(stream: str, drawn: Tensor, group: Callable[[], Tensor], real: Tensor | None = None) -> Tensor:
        before = taken.get(stream)
        if before is not None:
            visible = ~before if real is None else real & ~before
            groups = context.num_graphs if isinstance(context, BipartiteGraph) else len(drawn)
            drawn = spare_one(drawn, visible, group(), groups, generator, real)
        taken[stream] = drawn if before is None else before | drawn
        return drawn

    if isinstance(masker, FlatMasker):
        entries = masker.draw(context, generator=generator)
        rows = torch.arange(len(entries), device=entries.device).unsqueeze(1)
        entries = take(INSTANCE, entries, lambda: rows.expand_as(entries), parts(context)[1])
        return masker.hide(context, entries, generator)
    if isinstance(masker, EdgeMasker):
        edges = take(EDGE, masker.draw(context, generator=generator), lambda: edge_owner(context))
        return masker.hide(context, edges, generator)
    drawn = masker.draw(context, generator=generator)
    nodes = {kind: take(kind, mark, partial(context.graph_of, kind)) for kind, mark in drawn.items()}
    if masker.hide_edges:
        lost = edges_at(nodes, context)
        taken[EDGE] = taken[EDGE] | lost if EDGE in taken else lost
    return masker.hide(context, nodes, generator)


def _leaves_whole(maker: ViewMaker[Any], context: Any, views: Views[Any, Any]) -> Views[Any, Any]:
    name = getattr(maker, "__name__", type(maker).__name__)
    if views.items:
        raise ValueError(
            f"{name} moves items, so that marks of a later masker would be of other items; leave it out of "
            f"ComposeMaskers, and apply the symmetry to the instance before the objective sees it."
        )
    if views.context is not context:
        raise ValueError(
            f"{name} changes the instance, but does not say what it hides, so that nothing might stay visible; "
            f"give ComposeMaskers maskers of jepa_ssl, or subclasses of them."
        )
    return views
