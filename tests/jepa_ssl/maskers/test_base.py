"""What every masker keeps: the generator alone decides, and no step depends on how many instances there are."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch
from builders import seeded
from random_graphs import three_types, two_types
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from jepa_ssl import (
    BlockMasker,
    ComposeMaskers,
    EdgeMasker,
    EntryMasker,
    FlatVectors,
    Graph,
    MultiView,
    NodeMasker,
    Views,
)
from jepa_ssl.lp import StructureMasker
from jepa_ssl.maskers import GaussianNoise, GroupMasker, LearnedToken, Seeds, Shuffled, Zeros

STREAMS = ("instance", "constraint", "variable", "edge", "row", "column", "goal", "has", "back", "near", "prices")
FILLS = [None, Zeros(), GaussianNoise(), Shuffled(), LearnedToken(dict.fromkeys(STREAMS, 1))]
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
EACH_FILL = pytest.mark.parametrize("fill", FILLS, ids=lambda fill: type(fill).__name__)


def instance(name: str, number: int = 4) -> Any:
    if name.startswith("flat"):
        valid = torch.arange(11) >= torch.tensor([0, 5, 9, 10]).repeat(number // 4).unsqueeze(1)
        return FlatVectors(torch.randn(number, 11, generator=seeded()), valid)
    return (two_types if name.startswith("two") else three_types)(
        [(6, 5, 12), (1, 2, 3), (4, 7, 9), (3, 3, 0)] * (number // 4)
    )


def tensors(made: Any) -> list[Tensor]:
    """All tensors of some views."""
    if isinstance(made, Tensor):
        return [made.detach()]
    if isinstance(made, Graph):
        return tensors(made.values())
    if isinstance(made, dict | tuple):
        parts: Any = made.values() if isinstance(made, dict) else made
    else:
        parts = [getattr(made, f.name) for f in fields(made)] if is_dataclass(made) else []
    return [tensor for part in parts for tensor in tensors(part)]


def made_by(masker: Any, batch: Any, generator: Any) -> list[Tensor]:
    views = masker(batch, generator=generator)
    assert all(isinstance(view, Views) for view in (views if isinstance(views, tuple) else (views,)))
    return tensors(views)


@EACH_FILL
@EVERY
def test_the_generator_or_the_names_alone_decide(name: str, fill: Any):
    masker, batch = MASKERS[name](fill), instance(name)
    makers: tuple[Callable[[int], Any], ...] = (seeded, lambda seed: Seeds(torch.arange(4) + 10 * seed))
    for make in makers:
        found: list[list[Tensor]] = []
        for state in (1, 2):  # of the global random numbers, which nobody may read or move
            torch.manual_seed(state)
            before = torch.get_rng_state()
            found.append(made_by(masker, batch, make(1)))
            assert torch.equal(before, torch.get_rng_state())
        assert all(map(torch.equal, *found))
        others = [made_by(masker, batch, make(seed)) for seed in range(2, 22)]
        assert not all(all(map(torch.equal, found[0], other)) for other in others)
        generator = make(1)
        again = [made_by(masker, batch, generator) for _ in range(20)]  # it moves on: another batch, another mask
        assert all(map(torch.equal, found[0], again[0]))
        assert not all(all(map(torch.equal, again[0], other)) for other in again[1:])


@EVERY
def test_without_a_generator_the_global_random_numbers_decide(name: str):
    masker, batch = MASKERS[name](GaussianNoise()), instance(name)
    torch.manual_seed(1)
    first, second = made_by(masker, batch, None), made_by(masker, batch, None)
    torch.manual_seed(1)
    assert all(map(torch.equal, first, made_by(masker, batch, None)))
    assert not all(map(torch.equal, first, second))


class Counted(TorchDispatchMode):
    """Counts the operations of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@EVERY
def test_there_is_no_loop_over_instances(name: str):
    def operations(number: int) -> int:
        batch = instance(name, number)
        with Counted() as counted:
            MASKERS[name](Shuffled())(batch, generator=Seeds(torch.arange(number)))
        return counted.count

    assert operations(4) == operations(400)
