"""What a masker may promise besides: how many it hides, that it draws uniformly, and by the names of the instances."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from jepa_ssl.instances import Graph
from jepa_ssl.protocols import INSTANCE, Views
from jepa_ssl.segments import group_sums
from jepa_ssl.testing.batches import (
    Instance,
    batch_size,
    items_of,
    owners_of,
    same_contents,
    selected,
    sizes_of,
    valid_of,
)
from jepa_ssl.testing.draws import bias_of
from jepa_ssl.testing.masker import SEEDS, Check, changed_in, same_views

CALLS, COPIES = 8, 500  # for the question whether a draw is uniform


def check_counts(check: Check, ratio: float | Mapping[str, float]) -> None:
    """Raises unless exactly `int(ratio * items)` of each instance are hidden, at least one and never all."""
    streams = check.instance.nodes if isinstance(check.instance, Graph) else (INSTANCE,)
    ratios = ratio if isinstance(ratio, Mapping) else dict.fromkeys(streams, ratio)
    for stream, share in ratios.items():
        sizes = sizes_of(check.instance)[stream]
        wanted = (sizes.double() * share).long().clamp(min=int(share > 0)).minimum(sizes - 1).clamp(min=0)
        for views in (one for seed in range(SEEDS) for one in check.views(seed)):
            hidden, owner = hidden_items(views, check.instance, stream), owners_of(check.instance)[stream]
            counts = group_sums(hidden.long(), owner, len(sizes))
            if bool((counts != wanted).any()):
                place = int((counts != wanted).nonzero()[0])
                check.fail(
                    f"{int(counts[place])} of the {int(sizes[place])} {stream!r} items of instance {place} are hidden, "
                    f"but at a ratio of {share} it should be {int(wanted[place])}; hide exactly so many."
                )


def check_uniform(check: Check, streams: Sequence[str]) -> None:
    """Raises where some items are hidden more often than others, or together, or as in the instance before."""
    for place in range(batch_size(check.instance)):
        copies = selected(check.instance, [place] * COPIES)
        made = [check.views(seed, copies) for seed in range(CALLS)]
        for same_masker in zip(*made, strict=True):
            for stream in streams:
                draws = torch.cat([hidden_items(views, copies, stream).view(COPIES, -1) for views in same_masker])
                fault = bias_of(draws, draws.size(1)) if draws.size(1) > 1 else None
                if fault is not None:
                    check.fail(
                        f"in {len(draws)} draws of the {stream!r} items of instance {place}, {fault}; draw each "
                        f"instance by itself, and all sets of so many items alike."
                    )


def check_names(check: Check, seeds: Callable[[Tensor], Any]) -> None:
    """Raises unless the draw of each instance goes by its name: `seeds(names)` takes the generator's place."""
    instance, size = check.instance, batch_size(check.instance)
    names = 7 + 3 * torch.arange(size, device=check.device)
    together = check.made(instance, seeds(names))
    if not same_views(together, check.made(instance, seeds(names))):
        check.fail("the same names give different views; draw by the names alone.")
    others = (check.made(instance, seeds(names + 1000 * other)) for other in range(1, SEEDS))
    if check.hides_something(together) and all(same_views(together, other) for other in others):
        check.fail("all names give the same views; draw by the names.")
    for order in (list(range(size))[::-1], *([place] for place in range(size))) if size else ():
        moved = check.made(selected(instance, order), seeds(names[order]))
        for old, new in zip(together, moved, strict=True):
            same = same_contents(selected(old.context, order), new.context)
            if not same or not _same_marks(old, new, instance, order):
                where = "alone" if len(order) == 1 else "in another order of the batch"
                check.fail(
                    f"instance {order[0]} is hidden otherwise {where}, though its name is the same; draw each instance "
                    f"by its name and its own items."
                )


def hidden_items(views: Views[Any, Any], instance: Instance, stream: str) -> Tensor:
    """Which real items of a stream are hidden: bool `[items]`."""
    mark, changed = views.hidden.get(stream), changed_in(views, instance)[stream]
    if not isinstance(instance, Graph):
        return changed[valid_of(instance)]
    if stream in instance.nodes and mark is not None:
        return mark  # a node that lost some columns only is not hidden
    return changed.flatten(1).any(1) if changed.ndim > 1 else changed


def _same_marks(old: Views[Any, Any], new: Views[Any, Any], instance: Instance, order: list[int]) -> bool:
    where = items_of(instance, order) if isinstance(instance, Graph) else {INSTANCE: torch.tensor(order)}
    return old.hidden.keys() == new.hidden.keys() and all(
        a is b if a is None or b is None else torch.equal(a[where[stream]], b)
        for stream, a, b in ((stream, old.hidden[stream], new.hidden[stream]) for stream in old.hidden)
    )
