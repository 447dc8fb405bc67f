"""What every masker promises, as a function for the tests of your own.

def test_my_masker():
    check_masker(MyMasker(0.5), [torch.randn(4, 20), FlatVectors(values, valid)])
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from jepa_ssl.protocols import ViewMaker
from jepa_ssl.testing.batches import Instance
from jepa_ssl.testing.promises import Check
from jepa_ssl.testing.requests import check_counts, check_names, check_uniform

__all__ = ["check_masker"]


def check_masker(
    masker: ViewMaker[Any],
    instances: Iterable[Instance],
    *,
    ratio: float | Mapping[str, float] | None = None,
    uniform: Sequence[str] = (),
    seeds: Callable[[Tensor], Any] | None = None,
) -> None:
    """Raises unless `masker` keeps its promises on each of `instances`, each a batch, under twenty seeds.

    The promises: the target is the whole instance; the context has its shapes, dtypes and wiring, and differs from it
    only where something is hidden, never in padding (a visible node may lose columns if it loses a coefficient); each
    vector or graph hides something and shows something, wherever it has two entries, or two nodes of each kind;
    `hidden` and `weight` fit the streams, each node that `hidden` names lost something, its own or a coefficient, and
    graphs weigh alike; the instance is not written to, and what never changes shares its memory; the same generator
    gives the same views, other seeds give others, and the global random numbers stay as they are. Indicator columns,
    the last ones, are understood.

    What is hidden is seen by the difference it makes. So give instances without values that the masker fills in
    (random normal numbers will do), and large enough that the masker finds two things to choose from; empty batches,
    single entries and lone nodes are welcome besides.

    Args:
        masker: makes views, or a tuple of several, of a batch.
        instances: batches `[batch, entries]`, `FlatVectors` or `BipartiteGraph`.
        ratio: if given, exactly `int(ratio * items)` of each instance are hidden, at least one and never all: of the
            real entries of a vector, or the nodes of each kind of a graph; or stream -> ratio, where `"edge"` counts
            the coefficients of a graph.
        uniform: the streams whose items are drawn uniformly: each as likely as any other, each pair as any other pair,
            and independently of the other instances. Drawn four thousand times from each instance; give small ones.
        seeds: makes of int64 names `[batch]` what the masker takes in place of a generator, `jepa_ssl.maskers.Seeds`
            for example. What an instance loses then depends on its name alone, in any order and company.

    >>> import torch
    >>> from jepa_ssl import EntryMasker, Views
    >>> check_masker(EntryMasker(0.5), [torch.randn(3, 8)], ratio=0.5, uniform=["instance"])
    >>> check_masker(lambda flat, generator=None: Views(flat.relu(), flat), [torch.randn(3, 30)])
    Traceback (most recent call last):
    AssertionError: instances[0]: seeds 0 to 19 all give the same views, ...

    Raises:
        AssertionError: a promise is broken; the message says which, and on which instance.
    """
    for number, instance in enumerate(instances):
        check = Check(masker, instance, f"instances[{number}]")
        check.run()
        if ratio is not None:
            check_counts(check, ratio)
        if uniform:
            check_uniform(check, uniform)
        if seeds is not None:
            check_names(check, seeds)
