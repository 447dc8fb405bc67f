"""Maskers made of maskers: one after the other, and side by side."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from jepa_ssl.instances import BipartiteGraph
from jepa_ssl.maskers.bipartite import equal_graphs
from jepa_ssl.protocols import ViewMaker, Views


class _Several(nn.Module):
    def __init__(self, *makers: ViewMaker[Any]) -> None:
        super().__init__()
        if not makers:
            raise ValueError(f"{type(self).__name__} got no masker; give at least one.")
        self.makers = makers
        # So that learned tokens are found; a maker may be a plain function, too.
        self.modules_among = nn.ModuleList(maker for maker in makers if isinstance(maker, nn.Module))


class ComposeMaskers(_Several):
    """Hides with one masker, and in what is left with the next: the context lacks what any of them hides.

    The target view is the first's. An item is predicted if any of them hides it, and every graph weighs the same. A
    stream that the first wants predicted in full stays so: with `SolverState` as the first, a part of the instance is
    hidden from the encoder that predicts its state.

    >>> from jepa_ssl import EntryMasker
    >>> views = ComposeMaskers(EntryMasker(0.5), EntryMasker(0.2))(torch.ones(2, 10))
    >>> bool((views.context.sum(dim=1) <= 5).all())
    True
    """

    def __init__(self, *maskers: ViewMaker[Any]) -> None:
        super().__init__(*maskers)
        for masker in maskers:
            if getattr(masker, "indicator", False):
                raise ValueError(
                    f"{type(masker).__name__} has indicator=True, but the next masker of ComposeMaskers would hide its "
                    f"column; leave it off, or use a single masker."
                )

    def forward(self, instance: Any, *, generator: torch.Generator | None = None) -> Views[Any, Any]:
        first, *others = self.makers
        views = _single(first(instance, generator=generator))
        context, hidden = views.context, views.hidden
        for masker in others:
            later = _single(masker(context, generator=generator))
            if later.target is not context:
                raise ValueError(
                    f"{type(masker).__name__} makes a target of its own, but that of ComposeMaskers is its first "
                    f"part's; put it first, or leave it out."
                )
            context, hidden = later.context, _union(hidden, later.hidden)
        return Views(context, views.target, hidden, _weight(views, hidden))


class MultiView(_Several):
    """Several views of one instance, each by its own masker: a light one and a heavy one, for example.

    Returns one `Views` a masker, all with the instance as their target; `JEPAObjective` averages their losses, and runs
    the teacher once. (A masker with an indicator makes a target of its own, which is then embedded for itself.)

    >>> from jepa_ssl import EntryMasker
    >>> light, heavy = MultiView(EntryMasker(0.2), EntryMasker(0.7))(torch.ones(1, 10))
    >>> light.context.sum().item(), heavy.context.sum().item(), light.target is heavy.target
    (8.0, 3.0, True)
    """

    def forward(self, instance: Any, *, generator: torch.Generator | None = None) -> tuple[Views[Any, Any], ...]:
        return tuple(_single(maker(instance, generator=generator)) for maker in self.makers)


def _single(views: Views[Any, Any] | tuple[Views[Any, Any], ...]) -> Views[Any, Any]:
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
