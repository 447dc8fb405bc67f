"""`check_masker` passes the maskers of the package, and finds every planted fault."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from builders import ragged_graphs, seeded
from masker_checks import check_masker
from random_graphs import three_types
from torch import Tensor

from jepa_ssl import (
    BipartiteGraph,
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
from jepa_ssl.instances import Edges, Nodes
from jepa_ssl.lp import StructureMasker
from jepa_ssl.maskers import GaussianNoise, GroupMasker, LearnedToken, Seeds, Shuffled, Zeros
from jepa_ssl.protocols import ViewMaker

Random = Any  # plain functions draw with torch alone
ENTRIES = 11  # LPs of 2 rows and 3 columns
FILLS = [Zeros(), GaussianNoise(), Shuffled(), LearnedToken({"instance": 1, "constraint": 3, "variable": 2})]


def vectors(dtype: torch.dtype = torch.float32, seed: int = 0) -> FlatVectors:
    valid = torch.arange(ENTRIES) >= torch.tensor([[0], [5], [9], [10], [11]])
    return FlatVectors(torch.randn(5, ENTRIES, generator=seeded(seed)).to(dtype), valid)


FLAT = [vectors().values, vectors(), vectors(torch.float64, 1), torch.randn(0, ENTRIES), torch.randn(3, 1)]
GRAPHS = [
    ragged_graphs([4, 1, 6, 0], [3, 2, 1, 0]),
    ragged_graphs([2], [2]),
    ragged_graphs([], []),
    ragged_graphs([5, 4], [4, 4], dtype=torch.float64),
]
LPS = [torch.randn(4, ENTRIES, generator=seeded(1)), torch.randn(0, ENTRIES)]


@pytest.mark.parametrize("indicator", [False, True])
@pytest.mark.parametrize("fill", FILLS, ids=lambda fill: type(fill).__name__)
def test_the_maskers_of_the_package_pass(fill: Any, indicator: bool):
    seeds = None if indicator else Seeds
    check_masker(EntryMasker(0.5, fill, indicator=indicator), FLAT, ratio=0.5, seeds=seeds)
    check_masker(NodeMasker(0.4, fill, indicator=indicator), GRAPHS, ratio=0.4, seeds=seeds)
    check_masker(GroupMasker([[0, 4], [1, 2, 3], [9]], 0.6, fill, indicator=indicator), LPS, seeds=seeds)
    check_masker(StructureMasker(2, 3, 0.5, 0.4, 0.1, fill=fill, indicator=indicator), LPS, seeds=seeds)


@pytest.mark.slow
@pytest.mark.parametrize("indicator", [False, True])
def test_the_maskers_of_edges_and_blocks_pass(indicator: bool):
    derived = {"constraint": [0, 2], "variable": [1]}
    graphs = [ragged_graphs([4, 1, 6, 0], [3, 2, 1, 0]), ragged_graphs([5, 4], [4, 4])]
    for masker, ratio in (
        (NodeMasker(0.5, hide_edges=True, derived=derived, indicator=indicator), 0.5),
        (NodeMasker({"constraint": 0, "variable": 0.3}, indicator=indicator), {"constraint": 0, "variable": 0.3}),
        (EdgeMasker(0.5, GaussianNoise(), indicator=indicator), {"edge": 0.5}),
        (EdgeMasker(0.5, derived=derived, indicator=indicator), {"edge": 0.5}),
        (BlockMasker(0.5, hops=1, blocks=2, hide_edges=True, indicator=indicator), 0.5),
    ):
        check_masker(masker, graphs, ratio=ratio, seeds=Seeds)


def test_the_maskers_of_the_package_draw_uniformly():
    check_masker(EntryMasker(0.3), [vectors()], uniform=["instance"])
    check_masker(NodeMasker(0.4), [ragged_graphs([6, 3], [4, 5])], uniform=["constraint", "variable"])
    check_masker(EdgeMasker(0.5), [ragged_graphs([7], [4])], uniform=["edge"])
    check_masker(BlockMasker(0.5, hops=1), [ragged_graphs([5], [1])], uniform=["constraint"])  # a star: all alike


HETERO = [three_types([(4, 3, 9), (1, 1, 1), (6, 4, 12), (0, 2, 3)]), three_types([])]


@pytest.mark.parametrize("indicator", [False, True])
def test_the_maskers_of_graphs_of_three_types_pass(indicator: bool):
    derived = {"row": [0], "column": [1]}
    some, both_ways = {"has": 0.5, "near": 0.4}, {"back": "has"}
    for masker, ratio in (
        (NodeMasker(0.4, Shuffled(), indicator=indicator), 0.4),
        (NodeMasker({"row": 0, "column": 0.5}, hide_edges=True, derived=derived, indicator=indicator), {"column": 0.5}),
        (BlockMasker(0.5, blocks=2, hide_edges=True, derived=derived, indicator=indicator), 0.5),
        (EdgeMasker(some, GaussianNoise(), derived=derived, reverse=both_ways, indicator=indicator), some),
    ):
        check_masker(masker, HETERO, ratio=ratio, seeds=Seeds)
    check_masker(ComposeMaskers(NodeMasker(0.4), EdgeMasker(some, reverse=both_ways)), HETERO, seeds=Seeds)


@pytest.mark.slow
def test_combined_maskers_pass():
    check_masker(ComposeMaskers(EntryMasker(0.3), EntryMasker(0.2, GaussianNoise())), FLAT[3:] + LPS, seeds=Seeds)
    check_masker(ComposeMaskers(EntryMasker(0.5), EntryMasker(0.5)), [torch.randn(1000, 4)])
    check_masker(ComposeMaskers(NodeMasker(0.5), BlockMasker(0.5)), GRAPHS, seeds=Seeds)
    check_masker(MultiView(EntryMasker(0.2), EntryMasker(0.7)), FLAT, seeds=Seeds)
    check_masker(MultiView(NodeMasker(0.2), NodeMasker(0.7)), GRAPHS, seeds=Seeds)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_dtype_passes(dtype: torch.dtype):
    check_masker(EntryMasker(0.5), [vectors(dtype)])
    check_masker(NodeMasker(0.5), [ragged_graphs([4, 2], [3, 2], dtype=dtype)])


# Faults, each planted in a masker that is right but for it


def flat_fault(change: Callable[[FlatVectors, Views[Any, Any], Random], Views[Any, Any]]) -> ViewMaker[Any]:
    def masker(instance: FlatVectors, *, generator: Random = None) -> Views[Any, Any]:
        return change(instance, EntryMasker(0.5)(instance, generator=generator), generator)

    return masker


def with_context(views: Views[Any, Any], values: Tensor) -> Views[Any, Any]:
    return replace(views, context=FlatVectors(values, views.context.valid))


def written(instance: FlatVectors, views: Views[Any, Any], generator: Random) -> Views[Any, Any]:
    instance.values[0, 0] += 1.0
    return views


def global_draw(instance: FlatVectors, views: Views[Any, Any], generator: Random) -> Views[Any, Any]:
    torch.rand(1)
    return views


def forgets_the_seed(instance: FlatVectors, views: Views[Any, Any], generator: Random) -> Views[Any, Any]:
    fresh = torch.Generator()
    fresh.seed()
    return EntryMasker(0.5, GaussianNoise())(instance, generator=fresh)


FLAT_FAULTS = {
    "instance was written to": written,
    "global generator advances": global_draw,
    "same seed gives different views": forgets_the_seed,
    "all give the same views": lambda i, v, g: EntryMasker(0.5)(i, generator=seeded()),
    "differs from the instance in its padding": lambda i, v, g: with_context(
        v, v.context.values.masked_fill(~i.valid, 9.0)
    ),
    "vector 0 has 11 real entries, but nothing of it is hidden": lambda i, v, g: with_context(v, i.values),
    "vector 0 has 11 real entries, and none stays visible": lambda i, v, g: with_context(
        v, torch.where(i.valid, torch.rand(1, generator=g), i.values)
    ),
    "vector 3 has 1 real entries, and hides one": lambda i, v, g: with_context(
        v, v.context.values.masked_fill(i.valid & (i.valid.sum(1, keepdim=True) == 1), 0.0)
    ),
    "target's 'instance' values are not those of the instance": lambda i, v, g: replace(v, target=v.context),
    "context's 'instance' values are torch.float64": lambda i, v, g: with_context(v, v.context.values.double()),
    r"context's 'instance' values are torch.float32 \[5, 10\]": lambda i, v, g: replace(
        v, context=FlatVectors(v.context.values[:, 1:], i.valid[:, 1:])
    ),
    "context's valid is not": lambda i, v, g: replace(v, context=FlatVectors(v.context.values, ~i.valid)),
    "the target is a Tensor": lambda i, v, g: replace(v, target=i.values),
    "names the stream 'vector'": lambda i, v, g: replace(v, hidden={"vector": None}),
    r"hidden\['instance'\] is torch.int64 \[5\], but must be bool": lambda i, v, g: replace(
        v, hidden={"instance": torch.ones(5, dtype=torch.int64)}
    ),
    "hidden says that vector 0 kept entries, but the context has not all of them": lambda i, v, g: replace(
        v, hidden={"instance": ~v.hidden["instance"]}
    ),
    "target's 'instance' is a copy": lambda i, v, g: replace(v, target=FlatVectors(i.values.clone(), i.valid)),
    "context's 'valid' is a copy": lambda i, v, g: replace(v, context=FlatVectors(v.context.values, i.valid.clone())),
    "context and target differ in the shape": lambda i, v, g: replace(
        v, target=FlatVectors(torch.cat([i.values, 0 * i.values], 1), torch.cat([i.valid, i.valid], 1))
    ),
}


@pytest.mark.parametrize(("said", "change"), FLAT_FAULTS.items(), ids=FLAT_FAULTS)
def test_faults_with_vectors_are_found(said: str, change: Any):
    with pytest.raises(AssertionError, match=rf"instances\[0\]: .*{said}"):
        check_masker(flat_fault(change), [vectors()])


def wrong_indicator(*, target: bool) -> ViewMaker[Any]:
    def masker(instance: FlatVectors, *, generator: Random = None) -> Views[Any, Any]:
        views = EntryMasker(0.5, indicator=True)(instance, generator=generator)
        wrong = views.target if target else views.context
        values = wrong.values.clone()
        values[:, -1] = 0.5
        return replace(views, **{"target" if target else "context": FlatVectors(values, wrong.valid)})

    return masker


def test_wrong_indicators_are_found():
    with pytest.raises(AssertionError, match="target's 'instance' indicator is not 0"):
        check_masker(wrong_indicator(target=True), [vectors()])
    with pytest.raises(AssertionError, match="indicator of the context is not 1 where something is hidden"):
        check_masker(wrong_indicator(target=False), [vectors()])


def graph_fault(change: Callable[[BipartiteGraph, Views[Any, Any]], Views[Any, Any]]) -> ViewMaker[Any]:
    def masker(instance: BipartiteGraph, *, generator: Random = None) -> Views[Any, Any]:
        return change(instance, NodeMasker(0.5)(instance, generator=generator))

    return masker


def zeros_everywhere(graph: BipartiteGraph, views: Views[Any, Any]) -> Views[Any, Any]:
    everything = {kind: torch.ones(len(graph.features(kind)), dtype=torch.bool) for kind in ("constraint", "variable")}
    context = replace(
        graph, constraint_features=0 * graph.constraint_features, variable_features=0 * graph.variable_features
    )
    return Views(context, graph, everything)


def first_changed(graph: BipartiteGraph) -> Tensor:
    first = torch.arange(len(graph.constraint_features)).unsqueeze(1) == 0
    return torch.where(first, 7.0, graph.constraint_features)


GRAPH_FAULTS = {
    "constraint 0 differs in the context, but hidden says": lambda i, v: replace(
        v, context=replace(v.context, constraint_features=first_changed(v.context))
    ),
    "nothing of it is hidden": lambda i, v: replace(v, context=i),
    "hidden says that variable [0-4] is hidden, but the context has all its features": lambda i, v: replace(
        v, context=replace(v.context, variable_features=i.variable_features)
    ),
    "graph 0 hides all its constraints": zeros_everywhere,
    "context's edge_index is not": lambda i, v: replace(v, context=replace(v.context, edge_index=i.edge_index.flip(1))),
    "context's 'edge' is a copy": lambda i, v: replace(v, context=replace(v.context, edge_attr=i.edge_attr.clone())),
    r"weight\['variable'\] is negative or not finite": lambda i, v: replace(
        v, weight={"variable": v.weight["variable"] + 1}
    ),
    r"weight\['constraint'\] sums to 2 in one graph and 3 in another": lambda i, v: replace(
        v, weight={"constraint": v.hidden["constraint"].float()}
    ),
    r"hidden\['constraint'\] is torch.bool \[3\], but must be bool \[11\]": lambda i, v: replace(
        v, hidden={"constraint": v.hidden["constraint"][:3]}
    ),
}


@pytest.mark.parametrize(("said", "change"), GRAPH_FAULTS.items(), ids=GRAPH_FAULTS)
def test_faults_with_graphs_are_found(said: str, change: Any):
    with pytest.raises(AssertionError, match=rf"instances\[1\]: .*{said}"):
        check_masker(graph_fault(change), [ragged_graphs([], []), ragged_graphs([4, 1, 6], [3, 2, 5])])


@pytest.mark.parametrize("streams", [("near",), ("there", "back")])
def test_a_coefficient_that_is_hidden_in_one_direction_only_is_found(streams: tuple[str, ...]):
    pairs = torch.combinations(torch.arange(5)).T
    values = torch.randn(10, 1, generator=seeded())
    if len(streams) == 1:
        edges = {"near": Edges(("city", "city"), torch.cat([pairs, pairs.flip(0)], 1), torch.cat([values, values]))}
    else:
        edges = {s: Edges(("city", "city"), i, values) for s, i in zip(streams, (pairs, pairs.flip(0)), strict=True)}
    graph = Graph({"city": Nodes(torch.randn(5, 2), torch.tensor([0, 5]))}, edges)
    with pytest.raises(
        AssertionError, match=rf"the {streams[0]!r} edge \(\d, \d\) is hidden.*on the {streams[-1]!r} edge"
    ):
        check_masker(EdgeMasker({streams[0]: 0.5}), [graph])
    check_masker(NodeMasker(0.4, hide_edges=True), [graph])
    if len(streams) == 2:
        check_masker(EdgeMasker({"there": 0.5}, reverse={"back": "there"}), [graph])


def test_lone_nodes_whose_columns_all_follow_from_coefficients_pass():
    graphs = ragged_graphs([1, 1, 3], [4, 2, 5])
    derived = {"constraint": range(3), "variable": [0, 1]}
    check_masker(EdgeMasker(0.5, derived=derived), [graphs])
    check_masker(NodeMasker(0.5, hide_edges=True, derived=derived), [graphs])


def test_a_fault_in_one_of_several_views_is_found():
    def masker(instance: FlatVectors, *, generator: Random = None) -> tuple[Views[Any, Any], ...]:
        views = EntryMasker(0.5)(instance, generator=generator)
        return views, replace(views, target=views.context)

    with pytest.raises(AssertionError, match="the target is the whole"):
        check_masker(masker, [vectors()])


# Faults in what a masker promises on request


def hides(hidden: Tensor, instance: Tensor) -> Views[Any, Any]:
    return Views(instance.masked_fill(hidden, 0.0), instance, {"instance": hidden.any(1)})


def coins(instance: Tensor, *, generator: Random = None) -> Views[Any, Any]:
    """About half, but never none nor all."""
    hidden = torch.rand(instance.shape, generator=generator) < 0.5
    hidden[:, 0] = ~hidden[:, 1]
    return hides(hidden, instance)


def lowest_three(keys: Tensor, instance: Tensor) -> Views[Any, Any]:
    return hides(torch.zeros_like(instance, dtype=torch.bool).scatter_(1, keys.argsort(1)[:, :3], True), instance)


def rather_the_first(instance: Tensor, *, generator: Random = None) -> Views[Any, Any]:
    keys = torch.rand(instance.shape, generator=generator) + 0.05 * torch.arange(instance.size(1))
    return lowest_three(keys, instance)


def neighbours(instance: Tensor, *, generator: Random = None) -> Views[Any, Any]:
    first = torch.randint(instance.size(1), (len(instance), 1), generator=generator)
    return lowest_three((torch.arange(instance.size(1)) - first) % instance.size(1), instance)


def the_same_for_all(instance: Tensor, *, generator: Random = None) -> Views[Any, Any]:
    return lowest_three(torch.rand(1, instance.size(1), generator=generator).expand_as(instance), instance)


SIX = torch.randn(2, 6, generator=seeded(2))


def test_wrong_counts_are_found():
    check_masker(coins, [SIX])
    with pytest.raises(AssertionError, match=r"instances\[0\]: . of the 6 'instance' items of instance . are hidden"):
        check_masker(coins, [SIX], ratio=0.5)
    with pytest.raises(AssertionError, match=r"2 of the 6 'instance' items of instance 0.*ratio of 0.5 it should be 3"):
        check_masker(EntryMasker(0.34), [SIX], ratio=0.5)
    with pytest.raises(AssertionError, match=r"2 of the 5 'variable' items of instance 0.*ratio of 0 it should be 0"):
        check_masker(NodeMasker(0.5), [ragged_graphs([4], [5])], ratio={"constraint": 0.5, "variable": 0})


@pytest.mark.parametrize(
    ("masker", "said"),
    [
        (rather_the_first, "some items are hidden more often"),
        (neighbours, "some pairs of items are hidden together more often"),
        (the_same_for_all, "depends on the instance before it"),
        (coins, "some pairs of items"),
    ],
)
def test_biased_draws_are_found(masker: ViewMaker[Any], said: str):
    check_masker(masker, [SIX])
    with pytest.raises(AssertionError, match=rf"instances\[0\]: in 4000 draws of the 'instance' items.*{said}"):
        check_masker(masker, [SIX], uniform=["instance"])


def test_blocks_on_a_path_are_no_uniform_draw():
    with pytest.raises(AssertionError, match="of the 'constraint' items of instance 0, some"):
        check_masker(BlockMasker(0.5, hops=1), [ragged_graphs([6], [2])], uniform=["constraint"])


class FirstName:
    """A source of numbers that knows its batch by the first name in it."""

    def __init__(self, names: Tensor) -> None:
        self.seed = int(names[0])


def by_the_first_name(instance: Tensor, *, generator: Any = None) -> Views[Any, Any]:
    return EntryMasker(0.5)(
        instance, generator=seeded(generator.seed) if isinstance(generator, FirstName) else generator
    )


def deaf(instance: Tensor, *, generator: Any = None) -> Views[Any, Any]:
    return EntryMasker(0.5)(instance, generator=generator if isinstance(generator, torch.Generator) else seeded())


def forgetful(instance: Tensor, *, generator: Any = None) -> Views[Any, Any]:
    return EntryMasker(0.5)(instance, generator=generator if isinstance(generator, torch.Generator) else None)


def test_draws_that_do_not_go_by_name_are_found():
    with pytest.raises(AssertionError, match=r"instances\[0\]: instance 1 is hidden otherwise in another order"):
        check_masker(by_the_first_name, [SIX], seeds=FirstName)
    with pytest.raises(AssertionError, match="all names give the same views"):
        check_masker(deaf, [SIX], seeds=Seeds)
    with pytest.raises(AssertionError, match="the same names give different views"):
        check_masker(forgetful, [SIX], seeds=Seeds)

    def by_place(instance: Tensor, *, generator: Any = None) -> Views[Any, Any]:
        """The numbers of the name, but in a larger batch moved by one place."""
        views = EntryMasker(0.5)(instance, generator=generator)
        moved = (views.context == 0).roll(int(len(instance) > 1), 1)
        return hides(moved, instance)

    with pytest.raises(AssertionError, match=r"instance 0 is hidden otherwise alone"):
        check_masker(by_place, [SIX], seeds=Seeds)
