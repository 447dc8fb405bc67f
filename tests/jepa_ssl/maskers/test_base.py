"""What every masker keeps: the promises of `check_masker`, and the same work for any number of instances."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from builders import operations, seeded, tensors
from hypothesis import example, given, settings
from hypothesis import strategies as st
from masker_checks import check_masker
from random_graphs import SEEDS, SIZES, Sizes, three_types, two_types
from torch import Tensor

from jepa_ssl import (
    BlockMasker,
    ComposeMaskers,
    EdgeMasker,
    EntryMasker,
    FlatVectors,
    MultiView,
    NodeMasker,
    Views,
)
from jepa_ssl.lp import StructureMasker
from jepa_ssl.maskers import GaussianNoise, GroupMasker, LearnedToken, Seeds, Shuffled, Zeros

STREAMS = ("instance", "constraint", "variable", "edge", "row", "column", "goal", "has", "back", "near", "prices")
FILLS = [Zeros(), GaussianNoise(), Shuffled(), LearnedToken(dict.fromkeys(STREAMS, 1))]
SOME = {"has": 0.5, "near": 0.4, "prices": 0}
DERIVED = {"constraint": [1]}, {"row": [1]}
MASKERS: dict[str, Callable[[Any], Any]] = {
    "flat: entries": lambda fill: EntryMasker(0.5, fill),
    "flat: groups": lambda fill: GroupMasker([[0, 4], [1, 2, 3], [9]], 0.6, fill, indicator=True),
    "flat: structure": lambda fill: StructureMasker(2, 3, 0.5, 0.4, 0.3, only_nonzero=True, fill=fill),
    "flat: composed": lambda fill: ComposeMaskers(EntryMasker(0.5, fill), EntryMasker(0.5, fill)),
    "two: nodes": lambda fill: NodeMasker(0.5, fill, indicator=True),
    "two: nodes, edges": lambda fill: NodeMasker(0.5, fill, hide_edges=True, derived=DERIVED[0]),
    "two: edges": lambda fill: EdgeMasker(0.5, fill),
    "two: blocks": lambda fill: BlockMasker(0.5, 1, 2, fill, hide_edges=True),
    "two: composed": lambda fill: ComposeMaskers(NodeMasker(0.5, fill), EdgeMasker(0.5, fill), BlockMasker(0.5)),
    "three: nodes, edges": lambda fill: NodeMasker(0.5, fill, hide_edges=True, derived=DERIVED[1]),
    "three: edges": lambda fill: EdgeMasker(SOME, fill, reverse={"back": "has"}),
    "three: blocks": lambda fill: BlockMasker({"row": 0.5, "column": 0.3}, fill=fill, indicator=True),
    "three: several": lambda fill: MultiView(
        NodeMasker(0.5, fill), ComposeMaskers(EdgeMasker(SOME, fill, reverse={"back": "has"}), NodeMasker(0.4, fill))
    ),
}
EVERY = pytest.mark.parametrize("name", MASKERS)


def instance(name: str, number: int = 4) -> Any:
    if name.startswith("flat"):
        valid = torch.arange(11) >= torch.tensor([0, 5, 9, 10]).repeat(number // 4).unsqueeze(1)
        return FlatVectors(torch.randn(number, 11, generator=seeded()), valid)
    return (two_types if name.startswith("two") else three_types)(
        [(6, 5, 12), (1, 2, 3), (4, 7, 9), (3, 3, 0)] * (number // 4)
    )


def made_by(masker: Any, batch: Any, generator: Any) -> list[Tensor]:
    views = masker(batch, generator=generator)
    assert all(isinstance(view, Views) for view in (views if isinstance(views, tuple) else (views,)))
    return tensors(views)


def each_fill(test: Any) -> Any:
    """Show a test each fill, on graphs among which some are tiny."""
    for fill in FILLS:
        test = example([(6, 5, 12), (1, 1, 1), (0, 3, 0), (2, 0, 0), (0, 0, 0)], 0, fill)(test)
    return test


@EVERY
@settings(max_examples=settings().max_examples // 4)
@given(SIZES, SEEDS, st.sampled_from(FILLS))
@each_fill
@example([], 0, Shuffled())
@example([(0, 2, 2)] * 8, 0, GaussianNoise())  # composed maskers spare one of two in half of them
def test_no_promise_of_check_masker_is_broken_in_any_batch(name: str, sizes: Sizes, seed: int, fill: Any):
    """The generator or the names alone decide, an instance loses the same in any company, nothing else is touched."""
    if name.startswith("flat"):
        valid = torch.arange(11) < torch.tensor([edges for *_, edges in sizes]).unsqueeze(1)
        values = torch.randn(len(sizes), 11, generator=seeded(seed))
        batches: list[Any] = [FlatVectors(values, valid), values] if sizes else [values]
    else:  # the check wants something to hide in each stream, and in each graph with two nodes of each kind
        sizes = [(m, n, max(edges, 4 * (m > 1 < n)) if "edges" in name else edges) for m, n, edges in sizes]
        sizes += [(6, 5, 12), (4, 7, 16)] if sizes else []
        batches = [(two_types if name.startswith("two") else three_types)(sizes, seed)]
    check_masker(MASKERS[name](fill), batches, seeds=Seeds)


@EVERY
def test_a_generator_moves_on(name: str):
    """Another batch, another mask."""
    for generator in (seeded(), Seeds(torch.arange(4))):
        again = [made_by(MASKERS[name](None), instance(name), generator) for _ in range(20)]
        assert not all(all(map(torch.equal, again[0], other)) for other in again[1:])


@EVERY
def test_without_a_generator_the_global_random_numbers_decide(name: str):
    masker, batch = MASKERS[name](GaussianNoise()), instance(name)
    torch.manual_seed(1)
    first, second = made_by(masker, batch, None), made_by(masker, batch, None)
    torch.manual_seed(1)
    assert all(map(torch.equal, first, made_by(masker, batch, None)))
    assert not all(map(torch.equal, first, second))


@EVERY
def test_there_is_no_loop_over_instances(name: str):
    def number_of(instances: int) -> int:
        masker, batch, names = MASKERS[name](Shuffled()), instance(name, instances), torch.arange(instances)
        return operations(lambda: masker(batch, generator=Seeds(names)))

    assert number_of(4) == number_of(400)


@EVERY
@pytest.mark.parametrize("fill", [None, Shuffled()])
def test_no_masker_asks_the_device_for_a_number(name: str, fill: Any):
    """A tensor on the meta device has none: whatever would wait for it raises."""
    batch = instance(name)
    batch = FlatVectors(*(t.to("meta") for t in tensors(batch))) if name.startswith("flat") else batch.to("meta")
    for generator in (None, Seeds(torch.arange(4, device="meta"))):
        assert all(tensor.is_meta for tensor in made_by(MASKERS[name](fill), batch, generator))
