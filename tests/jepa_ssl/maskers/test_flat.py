"""Maskers: how many, which, what in their place, and nothing else touched."""

import re
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import oracles
import pytest
import torch
from builders import offsets, ragged_graphs, seeded
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor, nn

from jepa_ssl import (
    BipartiteGraph,
    BlockMasker,
    EdgeMasker,
    EntryMasker,
    FlatVectors,
    JEPAObjective,
    MLPPredictor,
    NodeMasker,
    SharedTeacher,
    StopGradTeacher,
)
from jepa_ssl.maskers import GaussianNoise, GroupMasker, Zeros
from jepa_ssl.maskers.draw import (
    _draw_by_repair,
    _draw_by_topk,
    _segments_by_repair,
    _segments_by_sort,
    draw_in_rows,
    draw_in_segments,
    hidden_counts,
)
from jepa_ssl.segments import segment_of

RATIOS = st.floats(0.0, 1.0, exclude_min=True, exclude_max=True)
SEEDS = st.integers(0, 99)
KINDS = ("constraint", "variable")
DRAWS_IN_ROWS = [  # that of a CPU, and that of a GPU or a compiled graph
    pytest.param(_draw_by_repair, id="repair"),
    pytest.param(partial(_draw_by_topk, device=torch.device("cpu")), id="topk"),
]


def by_sort(ends: Tensor, items: int, ratio: float, generator: torch.Generator) -> Tensor:
    return _segments_by_sort(segment_of(ends, items), ends, ratio, generator)


DRAWS_IN_SEGMENTS = [pytest.param(_segments_by_repair, id="repair"), pytest.param(by_sort, id="sort")]
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def padded_vectors(sizes: list[int], entries: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> FlatVectors:
    """A batch in which row i has `sizes[i]` real entries, strewn anywhere."""
    g = seeded(seed)
    valid = torch.stack([torch.randperm(entries, generator=g) < size for size in sizes])
    return FlatVectors(torch.randn(len(sizes), entries, generator=g, dtype=torch.float64).to(dtype), valid)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal, NaN payloads and the sign of zero included."""
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()


# How many


@given(RATIOS, st.lists(st.integers(0, 10**6), min_size=1))
def test_counts_are_int_of_ratio_times_size(ratio: float, sizes: list[int]):
    assert hidden_counts(torch.tensor(sizes), ratio).tolist() == [oracles.hidden_count(s, ratio) for s in sizes]


@pytest.mark.parametrize(("ratio", "size", "count"), [(0.3, 10, 3), (0.29, 100, 28), (0.7, 10, 7), (0.1, 30, 3)])
def test_counts_round_as_python_does(ratio: float, size: int, count: int):
    # In float32 0.29 * 100 is 29; in Python it is 28.999999999999996.
    assert count == int(ratio * size) == int(hidden_counts(torch.tensor(size), ratio))


PADDED = st.integers(1, 12).flatmap(lambda e: st.tuples(st.just(e), st.lists(st.integers(0, e), min_size=1)))


@pytest.mark.parametrize("draw", DRAWS_IN_ROWS)
@given(PADDED, RATIOS, SEEDS)
def test_each_vector_hides_exactly_its_share_and_padding_never(
    draw: Callable[..., Tensor], case: tuple[int, list[int]], ratio: float, seed: int
):
    entries, sizes = case
    valid = padded_vectors(sizes, entries, seed).valid
    hidden = draw(valid.shape, valid, ratio, seeded(seed))
    assert hidden.sum(-1).tolist() == [oracles.hidden_count(size, ratio) for size in sizes]
    assert not (hidden & ~valid).any()


@pytest.mark.parametrize("draw", DRAWS_IN_ROWS)
@given(st.integers(0, 5), st.integers(0, 40), RATIOS, SEEDS)
def test_each_vector_without_padding_hides_exactly_its_share(
    draw: Callable[..., Tensor], batch: int, entries: int, ratio: float, seed: int
):
    hidden = draw(torch.Size([batch, entries]), None, ratio, seeded(seed))
    assert hidden.shape == (batch, entries)
    assert hidden.sum(-1).tolist() == [oracles.hidden_count(entries, ratio)] * batch


@pytest.mark.parametrize("draw", DRAWS_IN_ROWS)
@pytest.mark.parametrize("ratio", [1e-9, 0.3, 0.5, 0.6, 1 - 1e-9])
def test_few_real_entries_among_much_padding_are_found(draw: Callable[..., Tensor], ratio: float):
    valid = torch.zeros(6, 50_000, dtype=torch.bool)
    valid[0, 7] = valid[1, 7:9] = valid[2, -3:] = valid[3, ::1000] = valid[4] = True
    hidden = draw(valid.shape, valid, ratio, seeded())
    assert hidden.sum(-1).tolist() == [oracles.hidden_count(size, ratio) for size in (1, 2, 3, 50, 50_000, 0)]
    assert not (hidden & ~valid).any()


def test_vectors_and_masks_of_any_memory_layout_are_read_right():
    row = torch.tensor([True, False, True, True, True, False])
    for valid in (row.expand(4, 6), row.expand(4, 6).t().contiguous().t(), row.repeat(4, 2)[:, :6]):
        batch = FlatVectors(torch.ones(6, 4).t(), valid)
        hidden = EntryMasker(0.5).draw(batch, generator=seeded())
        assert hidden.sum(-1).tolist() == [2] * 4
        assert not (hidden & ~valid).any()
        assert torch.equal(EntryMasker(0.5)(batch, generator=seeded()).context.values, 1.0 - hidden.float())


@pytest.mark.parametrize("draw", DRAWS_IN_SEGMENTS)
@given(st.lists(st.integers(0, 90), max_size=8), RATIOS, SEEDS)
def test_each_segment_hides_exactly_its_share(draw: Callable[..., Tensor], sizes: list[int], ratio: float, seed: int):
    hidden = draw(offsets(sizes), sum(sizes), ratio, seeded(seed))
    per_segment = [int(part.sum()) for part in hidden.split(sizes)] if sizes else []
    assert per_segment == [oracles.hidden_count(size, ratio) for size in sizes]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=8), RATIOS, SEEDS)
def test_each_graph_hides_exactly_its_share_of_each_kind(sizes: list[tuple[int, int]], ratio: float, seed: int):
    graph = ragged_graphs([m for m, _ in sizes], [n for _, n in sizes])
    hidden = NodeMasker(ratio).draw(graph, generator=seeded(seed))
    for kind, counts in zip(KINDS, (list(c) for c in zip(*sizes, strict=True)), strict=False):
        ends = offsets(counts).tolist()
        per_graph = [int(hidden[kind][first:last].sum()) for first, last in pairwise(ends)]
        assert per_graph == [oracles.hidden_count(size, ratio) for size in counts]


# Which: uniformly at random


def p_value_of_uniformity(draws: Tensor, size: int, hidden: int) -> float:
    """Chi-square over all subsets of `hidden` of the `size` columns, from `[draws, size]` bool."""
    subsets = len(torch.combinations(torch.arange(size), hidden))
    seen = Counter(map(tuple, draws.tolist()))
    counts = list(seen.values()) + [0] * (subsets - len(seen))
    return float(chisquare(counts).pvalue)


DRAWS, SIZE, RATIO, HIDDEN = 8000, 6, 0.5, 3


@pytest.mark.parametrize("draw", DRAWS_IN_ROWS)
@pytest.mark.parametrize("ratio", [0.34, 0.5, 0.67])
def test_entries_are_drawn_uniformly(draw: Callable[..., Tensor], ratio: float):
    hidden = draw(torch.Size([DRAWS, SIZE]), None, ratio, seeded())
    assert p_value_of_uniformity(hidden, SIZE, int(ratio * SIZE)) > 1e-3


@pytest.mark.parametrize("draw", DRAWS_IN_ROWS)
@pytest.mark.parametrize("ratio", [0.34, 0.5, 0.67])
def test_entries_of_padded_vectors_are_drawn_uniformly(draw: Callable[..., Tensor], ratio: float):
    valid = torch.tensor([True, False, True, True, False, False, True, True, False, True]).expand(DRAWS, 10)
    hidden = draw(valid.shape, valid, ratio, seeded())[:, valid[0]]
    assert p_value_of_uniformity(hidden, SIZE, int(ratio * SIZE)) > 1e-3


@pytest.mark.parametrize("draw", DRAWS_IN_SEGMENTS)
@pytest.mark.parametrize("ratio", [0.34, 0.5, 0.67])
def test_segments_are_drawn_uniformly(draw: Callable[..., Tensor], ratio: float):
    sizes = [SIZE, 0, 1] * DRAWS
    hidden = draw(offsets(sizes), sum(sizes), ratio, seeded()).reshape(DRAWS, SIZE + 1)[:, :SIZE]
    assert p_value_of_uniformity(hidden, SIZE, int(ratio * SIZE)) > 1e-3


def test_nodes_are_drawn_uniformly_and_independently_in_each_graph():
    graph = ragged_graphs([SIZE, 0, 1] * DRAWS, [1] * (3 * DRAWS))
    hidden = NodeMasker(RATIO).draw(graph, generator=seeded())["constraint"].reshape(DRAWS, SIZE + 1)
    assert not hidden[:, -1].any()  # the lone node of each third graph
    assert p_value_of_uniformity(hidden[:, :SIZE], SIZE, HIDDEN) > 1e-3
    neighbours = hidden[:, :SIZE].reshape(-1, 2, SIZE)[:, :, 0].int() @ torch.tensor([2, 1], dtype=torch.int32)
    assert chisquare(torch.bincount(neighbours, minlength=4).tolist()).pvalue > 1e-3


def test_the_plain_loops_are_uniform_and_the_same_test_finds_a_biased_draw():
    ones = torch.ones(DRAWS // 4, SIZE)
    _, flat = oracles.flat_view(ones, ones.bool(), RATIO, seeded())
    assert p_value_of_uniformity(flat, SIZE, HIDDEN) > 1e-3
    _, nodes = oracles.graph_view(torch.ones(DRAWS // 4 * SIZE, 1), [SIZE] * (DRAWS // 4), RATIO, seeded())
    assert p_value_of_uniformity(nodes.reshape(-1, SIZE), SIZE, HIDDEN) > 1e-3

    keys = torch.rand(DRAWS, SIZE, generator=seeded()) + 0.05 * torch.arange(SIZE)
    biased = torch.zeros(DRAWS, SIZE, dtype=torch.bool).scatter_(1, keys.argsort()[:, :HIDDEN], True)
    assert p_value_of_uniformity(biased, SIZE, HIDDEN) < 1e-6
    block = (torch.arange(SIZE) - torch.randint(SIZE, (DRAWS, 1), generator=seeded())) % SIZE < HIDDEN
    assert p_value_of_uniformity(block, SIZE, HIDDEN) < 1e-6


# What in their place, and nothing else touched


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("fill", [Zeros(), GaussianNoise(0.5)], ids=str)
def test_vectors_change_where_hidden_and_only_there(fill: Zeros | GaussianNoise, dtype: torch.dtype):
    batch = padded_vectors([9, 5, 2, 1, 0], 9, dtype=dtype)
    batch.values[4], batch.values[1, 1] = torch.nan, -0.0  # the last vector is all padding
    before = batch.values.clone()
    views = EntryMasker(0.5, fill)(batch, generator=seeded())
    hidden = EntryMasker(0.5, fill).draw(batch, generator=seeded())
    assert same_bits(batch.values.float(), before.float())
    assert views.target is batch
    assert views.context.valid is batch.valid
    assert views.context.values.dtype == dtype
    assert same_bits(views.context.values[~hidden].float(), before[~hidden].float())
    assert not same_bits(views.context.values[hidden].float(), before[hidden].float())
    assert torch.equal(views.hidden["instance"], hidden.any(1))


@given(st.lists(st.integers(0, 7), min_size=1, max_size=5), RATIOS, SEEDS)
def test_the_flat_view_is_the_plain_one_for_the_same_choice(sizes: list[int], ratio: float, seed: int):
    batch = padded_vectors(sizes, 7, seed)
    context = EntryMasker(ratio)(batch, generator=seeded(seed)).context.values
    hidden = EntryMasker(ratio).draw(batch, generator=seeded(seed))
    expected, plain = oracles.flat_view(batch.values, batch.valid, ratio, seeded(seed))
    assert torch.equal(hidden.sum(-1), plain.sum(-1))
    assert torch.equal(context == 0.0, hidden)
    assert torch.equal(expected == 0.0, plain)
    assert same_bits(context[~hidden & ~plain], expected[~hidden & ~plain])


@given(st.lists(st.integers(0, 7), min_size=1, max_size=5), RATIOS, SEEDS)
def test_the_graph_view_is_the_plain_one_for_the_same_choice(sizes: list[int], ratio: float, seed: int):
    graph = ragged_graphs(sizes, sizes, seed=seed)
    views = NodeMasker(ratio)(graph, generator=seeded(seed))
    context, hidden = views.context.constraint_features, views.hidden["constraint"]
    assert hidden is not None
    expected, plain = oracles.graph_view(graph.constraint_features, sizes, ratio, seeded(seed))
    assert int(hidden.sum()) == int(plain.sum())
    assert torch.equal((context == 0.0).all(-1), hidden)
    both = ~hidden & ~plain
    assert same_bits(context[both], expected[both])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("fill", [Zeros(), GaussianNoise(0.5)], ids=str)
def test_graphs_change_where_hidden_and_only_there(fill: Zeros | GaussianNoise, dtype: torch.dtype):
    graph = ragged_graphs([4, 0, 1, 7], [3, 2, 0, 1], dtype=dtype)
    before = {kind: graph.features(kind).clone() for kind in KINDS}
    views = NodeMasker(0.5, fill)(graph, generator=seeded())
    assert views.target is graph
    assert views.context.edge_index is graph.edge_index
    assert views.context.edge_attr is graph.edge_attr
    for kind in KINDS:
        hidden = views.hidden[kind]
        assert hidden is not None
        context = views.context.features(kind)
        assert views.context.offsets(kind) is graph.offsets(kind)
        assert context.dtype == dtype
        assert torch.equal(graph.features(kind), before[kind])
        assert torch.equal(context[~hidden], before[kind][~hidden])
        assert bool((context[hidden] != before[kind][hidden]).all())
        if isinstance(fill, Zeros):
            assert not context[hidden].any()


def test_noise_has_the_asked_for_size_and_zero_by_default():
    values = torch.ones(100, 400)
    for std in (0.01, 3.0):
        noise = EntryMasker(0.5, GaussianNoise(std))(values, generator=seeded()).context
        noise = noise[EntryMasker(0.5).draw(values, generator=seeded())]
        assert noise.std().item() == pytest.approx(std, rel=0.05)
        assert noise.mean().item() == pytest.approx(0.0, abs=0.05 * std)
    assert GaussianNoise().std == 0.01
    assert isinstance(EntryMasker(0.5).fill, Zeros)
    assert isinstance(NodeMasker(0.5).fill, Zeros)


def test_views_of_an_expanded_or_read_only_input_are_made_without_writing_to_it():
    shared = torch.ones(1, 6).expand(4, 6)
    for fill in (Zeros(), GaussianNoise()):
        EntryMasker(0.5, fill)(shared, generator=seeded())
    assert shared.eq(1.0).all()
    leaf = torch.ones(2, 6, requires_grad=True)  # writing to it would raise
    EntryMasker(0.5)(leaf, generator=seeded()).context.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.sum(-1).tolist() == [3.0, 3.0]


@pytest.mark.parametrize("teacher", [StopGradTeacher(), SharedTeacher()], ids=lambda t: type(t).__name__)
def test_vectors_that_hide_nothing_do_not_count_in_the_loss_and_all_others_do(teacher: Any):
    torch.manual_seed(0)
    masker, predictor, trunk = EntryMasker(0.5), MLPPredictor({"instance": 4}), nn.Linear(6, 4)
    jepa = JEPAObjective(masker, predictor, teacher)

    def loss(batch: FlatVectors) -> float:
        return float(jepa(lambda flat: {"instance": trunk(flat.values)}, batch, generator=seeded()).total.detach())

    batch = padded_vectors([6, 1, 4, 0], 6)
    views = masker(batch, generator=seeded())
    hidden = views.hidden["instance"]
    assert hidden is not None
    assert hidden.tolist() == [True, False, True, False]
    predictions = predictor({"instance": trunk(views.context.values)})["instance"]
    targets = trunk(batch.values)
    expected = [oracles.cosine_loss(predictions[i].tolist(), targets[i].tolist()) for i in (0, 2)]
    assert loss(batch) == pytest.approx(sum(expected) / 2, rel=1e-5)
    assert loss(padded_vectors([1, 1], 6)) == 0.0


# The weight of a graph


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_graph_that_hides_nodes_weighs_one(dtype: torch.dtype):
    sizes = [2, 0, 1, 30, 3000, 7]
    graph = ragged_graphs(sizes, sizes, dtype=dtype)
    views = NodeMasker(0.9)(graph)
    for kind in KINDS:
        weight, hidden = views.weight[kind], views.hidden[kind]
        assert hidden is not None
        assert weight.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert not weight[~hidden].any()
        totals = [float(weight[first:last].sum()) for first, last in pairwise(graph.offsets(kind).tolist())]
        assert totals == pytest.approx([1.0, 0.0, 0.0, 1.0, 1.0, 1.0], rel=1e-5)


# Random by request

MASKED = {
    "vectors": (EntryMasker(0.5, GaussianNoise()), torch.ones(4, 20)),
    "padded vectors": (EntryMasker(0.5, GaussianNoise()), padded_vectors([20, 5, 1, 12], 20)),
    "graphs": (NodeMasker(0.5, GaussianNoise()), ragged_graphs([20, 3, 9], [8, 8, 30])),
}


def contents(view: Tensor | FlatVectors | BipartiteGraph) -> Tensor:
    if isinstance(view, BipartiteGraph):
        return torch.cat([view.constraint_features.flatten(), view.variable_features.flatten()])
    return view.values if isinstance(view, FlatVectors) else view


@pytest.mark.parametrize(("masker", "instance"), MASKED.values(), ids=MASKED)
def test_the_generator_alone_decides(masker: EntryMasker | NodeMasker, instance: Tensor | FlatVectors | BipartiteGraph):
    def context(generator: torch.Generator | None) -> Tensor:
        return contents(masker(instance, generator=generator).context)  # pyright: ignore[reportArgumentType, reportCallIssue]

    state = torch.get_rng_state()
    first = context(seeded(1))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first, context(seeded(1)))
    assert not torch.equal(first, context(seeded(2)))
    g = seeded(1)
    assert torch.equal(first, context(g))
    assert not torch.equal(first, context(g))  # a generator moves on: another batch, another mask
    torch.manual_seed(1)
    assert not torch.equal(context(None), context(None))


# Speed, compilation, errors


def test_a_million_nodes_in_uneven_graphs_take_no_loop():
    sizes = [1, 2, 3, 4] * 50_000 + [500_000]
    graph = BipartiteGraph(
        torch.ones(1_000_000, 1),
        torch.zeros(2, 0, dtype=torch.int64),
        torch.zeros(0, 1),
        torch.ones(1_000_000, 1),
        offsets(sizes),
        offsets(sizes),
    )
    start = time.perf_counter()
    hidden = NodeMasker(0.3).draw(graph, generator=seeded())
    assert time.perf_counter() - start < 5.0  # a loop over 200,001 graphs takes longer
    assert int(hidden["constraint"].sum()) == sum(oracles.hidden_count(size, 0.3) for size in sizes)


@pytest.mark.slow
@pytest.mark.parametrize("padded", [True, False])
def test_draws_compile_without_a_graph_break(padded: bool):
    valid = torch.ones(4, 10, dtype=torch.bool) if padded else None
    graph = ragged_graphs([4, 6], [2, 3])
    cpu = torch.device("cpu")
    rows = torch.compile(lambda: draw_in_rows(torch.Size([4, 10]), valid, 0.5, None, cpu), fullgraph=True)
    assert rows().sum(-1).tolist() == [5] * 4
    segments = torch.compile(lambda: draw_in_segments(graph.constraint_offsets, 10, 0.5, None), fullgraph=True)
    assert [int(x.sum()) for x in segments().split([4, 6])] == [2, 3]


@pytest.mark.parametrize("masker", [EntryMasker, NodeMasker])
@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_ratios_that_hide_nothing_or_all_are_refused(masker: type[EntryMasker] | type[NodeMasker], ratio: float):
    with pytest.raises(ValueError, match=rf"ratio is {ratio}.*strictly between 0 and 1.*0\.3 to 0\.5"):
        masker(ratio)


@pytest.mark.parametrize("ratio", ["0.5", None, [0.5], True])
def test_ratios_that_are_no_numbers_are_refused(ratio: Any):
    for masker in (EntryMasker, NodeMasker):
        with pytest.raises(TypeError, match=rf"ratio is {re.escape(repr(ratio))}, a \w+, but must be a number; give"):
            masker(ratio)
    with pytest.raises(TypeError, match=r"ratio\['variable'\] is None, a NoneType, but must be a number"):
        NodeMasker({"constraint": 0.5, "variable": None})  # pyright: ignore[reportArgumentType]


def test_fills_generators_and_instances_of_a_wrong_type_are_refused():
    graph = ragged_graphs([2], [2])
    for bad in (Zeros, 0.0, "zeros"):
        for make in (EntryMasker, NodeMasker, EdgeMasker, BlockMasker):
            with pytest.raises(TypeError, match=r"fill is .*but must be a Fill.*use Zeros\(\)"):
                make(0.5, fill=bad)  # pyright: ignore[reportArgumentType]
    wrong: Any = 7
    for use in (EntryMasker(0.5), NodeMasker(0.5), EdgeMasker(0.5), BlockMasker(0.5)):
        with pytest.raises(TypeError, match=r"generator is 7, a int.*torch\.Generator.*manual_seed"):
            use(torch.ones(2, 6) if isinstance(use, EntryMasker) else graph, generator=wrong)  # pyright: ignore
    instances: list[Any] = [torch.ones(2, 6).numpy(), [[1.0, 2.0]], graph, None]
    for instance in instances:
        for use in (EntryMasker(0.5), EntryMasker(0.5).draw):
            with pytest.raises(TypeError, match=r"instance is a \w+, but must be a tensor.*as_tensor.*NodeMasker"):
                use(instance)
    for column in (1.5, "1", None):
        with pytest.raises(TypeError, match=r"groups\[1\] has column .*whole numbers.*int\(\)"):
            GroupMasker([[0], [column]], 0.5)  # pyright: ignore[reportArgumentType]


def test_bad_fills_instances_and_generators_are_refused():
    with pytest.raises(ValueError, match=r"std is -0\.1.*at least 0"):
        GaussianNoise(-0.1)
    for instance in (torch.ones(6), torch.ones(2, 3, 4), torch.ones(2, 6, dtype=torch.int64)):
        for use in (EntryMasker(0.5), EntryMasker(0.5).draw):
            with pytest.raises(
                ValueError, match=r"instance is torch\.\w+ \[.*floating point \[batch, entries\].*flatten"
            ):
                use(instance)
    elsewhere = torch.ones(2, 6, device="meta")
    with pytest.raises(
        ValueError, match=r"generator is on cpu.*instance is on meta.*torch\.Generator\(device='meta'\)"
    ):
        EntryMasker(0.5)(elsewhere, generator=seeded())
    with pytest.raises(ValueError, match=r"generator is on cpu.*instance is on meta"):
        NodeMasker(0.5)(ragged_graphs([2], [2]).to("meta"), generator=seeded())


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_a_number_that_is_not_finite_is_refused_before_anything_is_drawn(number: float):
    generator, values = seeded(), torch.randn(3, 5)
    state = generator.get_state()
    values[1, 2] = number
    for instance in (values, FlatVectors(values, torch.ones_like(values, dtype=torch.bool))):
        with pytest.raises(ValueError, match=rf"\[1, 2\] is {number}, but must be finite"):
            EntryMasker(0.5)(instance, generator=generator)
    assert torch.equal(generator.get_state(), state)
