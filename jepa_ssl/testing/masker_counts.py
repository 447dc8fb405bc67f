"""Check how many items a masker hides: exactly `int(ratio * items)` of each instance."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from jepa_ssl.instances import Graph
from jepa_ssl.protocols import INSTANCE, Views
from jepa_ssl.segments import group_sums
from jepa_ssl.testing.batches import Instance, owners_of, sizes_of, valid_of
from jepa_ssl.testing.masker import SEEDS, Check, changed_in


def check_counts(check: Check, ratio: float | Mapping[str, float]) -> None:
    """Raise unless exactly `int(ratio * items)` of each instance are hidden, at least one and never all."""
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
                    f"but at a ratio of {share} it should be {int(wanted[place])}; hide exactly this number."
                )


def hidden_items(views: Views[Any, Any], instance: Instance, stream: str) -> Tensor:
    """Mark the hidden real items of one stream: bool `[items]`."""
    mark, changed = views.hidden.get(stream), changed_in(views, instance)[stream]
    if not isinstance(instance, Graph):
        return changed[valid_of(instance)]
    if stream in instance.nodes and mark is not None:
        return mark  # a node that lost some columns only is not hidden
    return changed.flatten(1).any(1) if changed.ndim > 1 else changed
