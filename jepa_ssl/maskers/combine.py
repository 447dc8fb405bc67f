"""Combine maskers: apply several in sequence, or make one view with each."""

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
        # Registered so that learned tokens are found. A maker may also be a plain function.
        self.modules_among = nn.ModuleList(maker for maker in makers if isinstance(maker, nn.Module))


class ComposeMaskers(_Several):
    """Apply several maskers in sequence: the context lacks what any of them hides.

    The maskers draw independently. If nothing would stay visible, one of the items that the later masker drew stays
    visible, chosen uniformly at random. So each graph with two nodes of a stream keeps one, and each vector with two
    real entries keeps one. `EdgeMasker` leaves a coefficient if the earlier maskers left one.

    The target view is the first masker's. An item is predicted if any of them hides it, and every graph has the same
    weight. The first part may be another view maker, such as `SolverState`, if it does not change the instance. The
    encoder then predicts the full state from an instance with hidden parts.

    Args:
        maskers: maskers of this package or subclasses of them, without an indicator.

    >>> import torch
    >>> from jepa_ssl import EntryMasker
    >>> views = ComposeMaskers(EntryMasker(0.5), EntryMasker(0.2))(torch.ones(2, 10))
    >>> bool((views.context.sum(dim=1) <= 5).all())
    True

    Raises:
        ValueError: a part has an indicator, moves items, or changes the instance without naming what it hides. Or a
            part other than the first makes its own target.
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
                if context is instance:  # an earlier part may have filled in any number
                    masker.check_numbers(instance)
                later = _hide(masker, context, taken, generator)
            else:
                later = _leaves_whole(masker, context, _made(masker, context, generator))
            views = later if views is None else _both(views, later, masker)
        assert views is not None  # there is at least one part
        return views


class MultiView(_Several):
    """Make several views of one instance, each with its own masker: light and heavy masking, for example.

    Returns one `Views` per masker, all with the instance as their target. `JEPAObjective` averages their losses and
    runs the teacher once. A masker with an indicator makes its own target, and the teacher embeds that separately.

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
    """Return the views of `masker`, keep one item visible, and add what it hides to `taken`, stream -> bool."""
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
    """Combine `later`, made by `maker` from the context of `first`, with the target of `first`."""
    if later.target is not first.context:
        raise ValueError(
            f"{_name(maker)} makes its own target, but ComposeMaskers uses the target of its first part; put it first, "
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
    """What `a` or `b` hides. None and an empty mapping hide everything; a mapping of other streams hides nothing."""

    def either(stream: str) -> Tensor | None:
        marks = [part.get(stream) for part in (a, b) if stream in part or not part]
        hidden = [mark for mark in marks if mark is not None]
        return reduce(torch.logical_or, hidden) if len(hidden) == len(marks) else None

    return {stream: either(stream) for stream in {**a, **b}}


def _leaves_whole(maker: ViewMaker[Any], context: Any, views: Views[Any, Any]) -> Views[Any, Any]:
    if views.items:
        raise ValueError(
            f"{_name(maker)} moves items, so a later masker would mark other items; leave it out of ComposeMaskers, "
            f"and apply the symmetry to the instance before the objective sees it."
        )
    if views.context is not context:
        raise ValueError(
            f"{_name(maker)} changes the instance, but does not say what it hides, so it might hide everything; "
            f"give ComposeMaskers maskers of jepa_ssl, or subclasses of them."
        )
    return views


def _name(maker: ViewMaker[Any]) -> str:
    return maker.__name__ if isinstance(maker, FunctionType) else type(maker).__name__
