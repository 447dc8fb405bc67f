"""Maskers made of maskers: one after the other, and side by side."""

from collections.abc import Mapping
from functools import reduce
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from jepa_ssl.maskers.base import Masker
from jepa_ssl.maskers.draw import spare_one
from jepa_ssl.protocols import ViewMaker, Views
from jepa_ssl.seeds import Randomness


class _Several(nn.Module):
    def __init__(self, *makers: ViewMaker[Any]) -> None:
        super().__init__()
        if not makers:
            raise ValueError(f"{type(self).__name__} got no masker; give at least one.")
        self.makers = makers
        # So that learned tokens are found. A maker may also be a plain function.
        self.modules_among = nn.ModuleList(maker for maker in makers if isinstance(maker, nn.Module))


class ComposeMaskers(_Several):
    """Hides with one masker after the other: the context lacks what any of them hides.

    The maskers draw independently of each other. But where nothing would stay visible, one of the items that a later
    one drew is spared, uniformly at random: each graph with two nodes of a stream shows one, each vector with two real
    entries shows one, and `EdgeMasker` leaves a coefficient where the earlier maskers do.

    The target view is the first masker's. An item is predicted if any of them hides it, and every graph weighs the
    same. The first may be another view maker, if it leaves the instance whole: after `SolverState`, a part of the
    instance is hidden from the encoder that predicts its state in full.

    Args:
        maskers: maskers of this package or subclasses of them, without an indicator.

    >>> import torch
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
            if isinstance(masker, Masker) and masker.indicator:
                raise ValueError(
                    f"{type(masker).__name__} has indicator=True, but the next masker of ComposeMaskers would hide its "
                    f"column; leave it off, or use a single masker."
                )

    def forward(self, instance: Any, *, generator: Randomness = None) -> Views[Any, Any]:
        views: Views[Any, Any] | None = None
        taken: dict[str, Tensor] = {}
        for masker in self.makers:
            context = instance if views is None else views.context
            if isinstance(masker, Masker):
                if context is instance:  # what an earlier part filled in may be anything
                    masker.check_numbers(instance)
                later = _hide(masker, context, taken, generator)
            else:
                later = _leaves_whole(masker, context, _made(masker, context, generator))
            views = later if views is None else _both(views, later, masker)
        assert views is not None  # there is at least one part
        return views


class MultiView(_Several):
    """Several views of one instance, each by its own masker: a light one and a heavy one, for example.

    Returns one `Views` per masker, all with the instance as their target; `JEPAObjective` averages their losses, and
    runs the teacher once. (A masker with an indicator makes a target of its own, which the teacher embeds separately.)

    >>> import torch
    >>> from jepa_ssl import EntryMasker
    >>> light, heavy = MultiView(EntryMasker(0.2), EntryMasker(0.7))(torch.ones(1, 10))
    >>> light.context.sum().item(), heavy.context.sum().item(), light.target is heavy.target
    (8.0, 3.0, True)
    """

    def forward(self, instance: Any, *, generator: Randomness = None) -> tuple[Views[Any, Any], ...]:
        return tuple(_made(maker, instance, generator) for maker in self.makers)


def _made(maker: ViewMaker[Any], instance: Any, generator: Randomness) -> Views[Any, Any]:
    views = maker(instance, generator=generator)
    if isinstance(views, tuple):
        raise TypeError(
            "a masker returned several views, but ComposeMaskers and MultiView take maskers that make one each."
        )
    return views


def _hide(masker: Masker, context: Any, taken: dict[str, Tensor], generator: Randomness) -> Views[Any, Any]:
    """The views of `masker`, which spares what is last visible; `taken`, stream -> bool, grows by what it hides."""
    marks = masker.draw(context, generator=generator)
    for stream, drawn in marks.items():
        if stream in taken:
            owner, instances, real = masker.items(context, stream)
            visible = ~taken[stream] if real is None else real & ~taken[stream]
            marks[stream] = spare_one(drawn, visible, owner, instances, generator, real)
    for stream, lost in masker.lost(context, marks).items():
        taken[stream] = taken[stream] | lost if stream in taken else lost
    return masker.hide(context, marks, generator)


def _both(first: Views[Any, Any], later: Views[Any, Any], maker: ViewMaker[Any]) -> Views[Any, Any]:
    """The views of `maker`, applied to the context of `first`, with the target of `first`."""
    if later.target is not first.context:
        raise ValueError(
            f"{_name(maker)} makes a target of its own, but that of ComposeMaskers is its first part's; put it first, "
            f"or leave it out."
        )
    hidden = _union(first.hidden, later.hidden)
    marks = {stream: mark for stream, mark in hidden.items() if mark is not None}
    # A stream that is predicted in full keeps the weights it had.
    weight = {stream: given for stream, given in first.weight.items() if stream not in marks}
    if isinstance(maker, Masker):
        weight |= maker.weights(later.context, marks)
    return Views(later.context, first.target, hidden, weight)


def _union(a: Mapping[str, Tensor | None], b: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
    """What either hides. None is everything, and so is an empty mapping; a mapping that names others hides nothing."""

    def either(stream: str) -> Tensor | None:
        marks = [part.get(stream) for part in (a, b) if stream in part or not part]
        hidden = [mark for mark in marks if mark is not None]
        return reduce(torch.logical_or, hidden) if len(hidden) == len(marks) else None

    return {stream: either(stream) for stream in {**a, **b}}


def _leaves_whole(maker: ViewMaker[Any], context: Any, views: Views[Any, Any]) -> Views[Any, Any]:
    if views.items:
        raise ValueError(
            f"{_name(maker)} moves items, so that marks of a later masker would be of other items; leave it out of "
            f"ComposeMaskers, and apply the symmetry to the instance before the objective sees it."
        )
    if views.context is not context:
        raise ValueError(
            f"{_name(maker)} changes the instance, but does not say what it hides, so that nothing might stay visible; "
            f"give ComposeMaskers maskers of jepa_ssl, or subclasses of them."
        )
    return views


def _name(maker: ViewMaker[Any]) -> str:
    return maker.__name__ if isinstance(maker, FunctionType) else type(maker).__name__
