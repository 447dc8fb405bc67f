"""`check_masker`, and what the maskers of the package promise besides: uniform draws, and draws by name."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from jepa_ssl.instances import Graph
from jepa_ssl.protocols import INSTANCE, ViewMaker, Views
from jepa_ssl.testing import check_masker as check_promises
from jepa_ssl.testing.batches import Instance, batch_size, items_of, same_contents, selected
from jepa_ssl.testing.masker import SEEDS, Check, same_views
from jepa_ssl.testing.masker_counts import hidden_items

CALLS, COPIES = 8, 500  # for the question whether a draw is uniform
CHANCE = 1e-6  # how often a uniform draw is taken for a biased one


def check_masker(
    masker: ViewMaker[Any],
    instances: Iterable[Instance],
    *,
    ratio: float | Mapping[str, float] | None = None,
    uniform: Sequence[str] = (),
    seeds: Callable[[Tensor], Any] | None = None,
) -> None:
    """As `jepa_ssl.testing.check_masker`, and more on each of `instances`.

    Args:
        uniform: the streams whose items are drawn uniformly: each as likely as any other, each pair as any other pair,
            and independently of the other instances. Drawn four thousand times from each instance; give small ones.
        seeds: makes of int64 names `[batch]` what the masker takes in place of a generator, `Seeds` for example. What
            an instance loses then depends on its name alone, in any order and company.
    """
    instances = list(instances)
    check_promises(masker, instances, ratio=ratio)
    for number, instance in enumerate(instances):
        check = Check(masker, instance, f"instances[{number}]")
        if uniform:
            check_uniform(check, uniform)
        if seeds is not None:
            check_names(check, seeds)


def check_uniform(check: Check, streams: Sequence[str]) -> None:
    """Raises where some items are hidden more often than others, or together, or as in the instance before."""
    for place in range(batch_size(check.instance)):
        copies = selected(check.instance, [place] * COPIES)
        made = [check.made(copies, torch.Generator(check.device).manual_seed(seed)) for seed in range(CALLS)]
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


def _same_marks(old: Views[Any, Any], new: Views[Any, Any], instance: Instance, order: list[int]) -> bool:
    where = items_of(instance, order) if isinstance(instance, Graph) else {INSTANCE: torch.tensor(order)}
    return old.hidden.keys() == new.hidden.keys() and all(
        a is b if a is None or b is None else torch.equal(a[where[stream]], b)
        for stream, a, b in ((stream, old.hidden[stream], new.hidden[stream]) for stream in old.hidden)
    )


def bias_of(draws: Tensor, size: int) -> str | None:
    """What is wrong with `draws`, bool `[draws, size]`, each an independent draw of some of `size` items; None if fine.

    Given how many items a draw takes, each is to be as likely as any other, each pair as any other pair, and what one
    draw takes is to say nothing of the next. Compared are the counts with what is expected, in standard deviations.
    """
    marks = draws.double()
    taken, number = marks.sum(1), len(marks)
    pairs, again = marks.T @ marks, marks[:-1].T @ marks[1:]
    share = pairs.diagonal() / number
    one = taken.mean() / size
    two = (taken * (taken - 1)).mean() / (size * (size - 1))
    apart = ~torch.eye(size, dtype=torch.bool, device=marks.device)
    for counts, chance, fault in (
        (again, share.outer(share), "what is hidden of one instance depends on the instance before it"),
        (pairs.diagonal(), one, "some items are hidden more often than others"),
        (pairs[apart], two, "some pairs of items are hidden together more often than others"),
    ):
        # A count that cannot vary, for nothing or everything is taken, has to be exact.
        deviation = (number * chance * (1 - chance)).clamp(min=1e-6).sqrt()
        expected = (number - (counts is again)) * chance
        if bool((((counts - expected) / deviation).abs() > _quantile(2 * size * size)).any()):
            return fault
    return None


def _quantile(tests: int) -> float:
    """Standard deviations that none of so many normal numbers exceeds, but for a chance of `CHANCE`."""
    return -NormalDist().inv_cdf(CHANCE / (2 * tests))
