"""Maskers of flat vectors: how many entries, what in their place, and nothing else touched."""

import re
from typing import Any

import oracles
import pytest
import torch
from builders import ragged_graphs, seeded
from hypothesis import given
from hypothesis import strategies as st
from random_graphs import FLOATS, RATIOS, SEEDS
from scipy.stats import chisquare
from torch import nn

from jepa_ssl import (
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
from jepa_ssl.testing.batches import same_bits


def padded_vectors(sizes: list[int], entries: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> FlatVectors:
    """A batch in which row i has `sizes[i]` real entries, strewn anywhere."""
    g = seeded(seed)
    valid = torch.stack([torch.randperm(entries, generator=g) < size for size in sizes])
    return FlatVectors(torch.randn(len(sizes), entries, generator=g, dtype=torch.float64).to(dtype), valid)


def test_vectors_and_masks_of_any_memory_layout_are_read_right_and_not_written_to():
    row = torch.tensor([True, False, True, True, True, False])
    for valid in (row.expand(4, 6), row.expand(4, 6).t().contiguous().t(), row.repeat(4, 2)[:, :6]):
        batch = FlatVectors(torch.ones(6, 4).t(), valid)
        hidden = EntryMasker(0.5).draw(batch, generator=seeded())["instance"]
        assert hidden.sum(-1).tolist() == [2] * 4
        assert not (hidden & ~valid).any()
        assert torch.equal(EntryMasker(0.5)(batch, generator=seeded()).context.values, 1.0 - hidden.float())
    shared = torch.ones(1, 6).expand(4, 6)
    for fill in (Zeros(), GaussianNoise()):
        EntryMasker(0.5, fill)(shared, generator=seeded())
    assert shared.eq(1.0).all()
    leaf = torch.ones(2, 6, requires_grad=True)  # writing to it would raise
    EntryMasker(0.5)(leaf, generator=seeded()).context.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.sum(-1).tolist() == [3.0, 3.0]


# What in their place, and nothing else touched


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("fill", [Zeros(), GaussianNoise(0.5)], ids=str)
def test_vectors_change_where_hidden_and_only_there(fill: Zeros | GaussianNoise, dtype: torch.dtype):
    batch = padded_vectors([9, 5, 2, 1, 0], 9, dtype=dtype)
    batch.values[4], batch.values[1, 1] = torch.nan, -0.0  # the last vector is all padding
    before = batch.values.clone()
    views = EntryMasker(0.5, fill)(batch, generator=seeded())
    hidden = EntryMasker(0.5, fill).draw(batch, generator=seeded())["instance"]
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
    hidden = EntryMasker(ratio).draw(batch, generator=seeded(seed))["instance"]
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


def test_noise_has_the_asked_for_size_and_zero_by_default():
    values = torch.ones(100, 400)
    for std in (0.01, 3.0):
        noise = EntryMasker(0.5, GaussianNoise(std))(values, generator=seeded()).context
        noise = noise[EntryMasker(0.5).draw(values, generator=seeded())["instance"]]
        assert noise.std().item() == pytest.approx(std, rel=0.05)
        assert noise.mean().item() == pytest.approx(0.0, abs=0.05 * std)
    assert GaussianNoise().std == 0.01
    assert isinstance(EntryMasker(0.5).fill, Zeros)
    assert isinstance(NodeMasker(0.5).fill, Zeros)


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


# Groups of columns

COLUMNS = 8
PARTITIONS = st.lists(st.integers(0, 3), min_size=COLUMNS, max_size=COLUMNS).map(
    lambda owner: [group for g in range(4) if (group := [c for c in range(COLUMNS) if owner[c] == g])][:3]
)


@given(PARTITIONS.filter(lambda groups: len(groups) >= 2), RATIOS, SEEDS)
def test_groups_are_hidden_whole_and_exactly_so_many(groups: list[list[int]], ratio: float, seed: int):
    hidden = GroupMasker(groups, ratio).draw(torch.ones(3, COLUMNS), generator=seeded(seed))["instance"]
    for row in hidden.tolist():
        states = [{row[column] for column in group} for group in groups]
        assert all(len(state) == 1 for state in states)
        assert sum(state == {True} for state in states) == oracles.hidden_count(len(groups), ratio)
    free = sorted(set(range(COLUMNS)) - {column for group in groups for column in group})
    assert not hidden[:, free].any()


def test_padding_is_not_hidden_and_a_group_of_padding_does_not_count():
    groups = [[0, 1], [2, 3], [4, 5]]
    valid = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]]).bool()
    for seed in range(20):
        hidden = GroupMasker(groups, 0.6).draw(FlatVectors(torch.ones(4, 6), valid), generator=seeded(seed))["instance"]
        assert not (hidden & ~valid).any()
        assert hidden[0].tolist() in (
            [True, True, False, False, False, False],
            [False, False, True, False] + 2 * [False],
        )
        assert not hidden[1:3].any()
        assert int(hidden[3].sum()) == 2


def test_groups_are_drawn_uniformly_whatever_their_size():
    groups = [[0], [1, 2, 3], [4, 5], [7]]
    hidden = GroupMasker(groups, 0.5).draw(torch.ones(6000, 8), generator=seeded())["instance"][:, [0, 1, 4, 7]]
    pairs = torch.combinations(torch.arange(4), 2).tolist()
    assert chisquare([int((hidden[:, i] & hidden[:, j]).sum()) for i, j in pairs]).pvalue > 1e-3


def test_a_group_masker_adds_nothing_to_a_checkpoint():
    assert not GroupMasker([[0], [1]], 0.5).state_dict()


@pytest.mark.parametrize(("groups", "said"), [
    ([], "at least two groups"), ([[0, 1]], "at least two groups"), ([[0], []], "at least one column"),
    ([[0, 1], [1, 2]], r"groups\[1\] has column 1, which is named before"),
    ([[0], [-1]], r"groups\[1\] has column -1, which is negative"),
    ([[0], [5]], r"instance has 3 entries, but groups names column 5"),
])  # fmt: skip
def test_groups_that_cannot_be_told_apart_or_found_are_refused(groups: list[list[int]], said: str):
    with pytest.raises(ValueError, match=said):
        GroupMasker(groups, 0.5)(torch.ones(2, 3))


# Bad input


@pytest.mark.parametrize("ratio", ["0.5", None, [0.5], True])
def test_ratios_that_are_no_numbers_are_refused(ratio: Any):
    for masker in (EntryMasker, NodeMasker):
        with pytest.raises(TypeError, match=rf"ratio is {re.escape(repr(ratio))}, a \w+, but must be a number; give"):
            masker(ratio)
    with pytest.raises(TypeError, match=r"ratio\['variable'\] is None, a NoneType, but must be a number"):
        NodeMasker({"constraint": 0.5, "variable": None})  # pyright: ignore[reportArgumentType]


FLAT, GRAPH = torch.ones(2, 6), ragged_graphs([2], [2])
MAKES: Any = (EntryMasker, NodeMasker, EdgeMasker, BlockMasker)
USES: Any = (EntryMasker(0.5), EntryMasker(0.5).draw)
GROUPED: Any = GroupMasker
WRONG: list[tuple[Any, str, Any]] = [
    *((TypeError, r"fill is .*but must be a Fill.*use Zeros\(\)", lambda make=make, bad=bad: make(0.5, fill=bad))
        for make in MAKES for bad in (Zeros, 0.0, "zeros")),
    *((TypeError, r"generator is 7, a int.*torch\.Generator.*manual_seed",
        lambda make=make: make(0.5)(FLAT if make is EntryMasker else GRAPH, generator=7)) for make in MAKES),
    *((ValueError, r"generator is on cpu.*instance is on meta.*Generator\(device='meta'\)",
        lambda make=make: make(0.5)((FLAT if make is EntryMasker else GRAPH).to("meta"), generator=seeded()))
        for make in MAKES),
    *((TypeError, r"instance is a Tensor.*must be a Graph.*PyGViews", lambda make=make: make(0.5)(FLAT))
        for make in MAKES[1:]),
    *((error, said, lambda use=use, bad=bad: use(bad)) for use in USES
        for error, said, bads in (
            (TypeError, r"instance is a \w+, but must be a tensor.*as_tensor.*NodeMasker",
                (FLAT.numpy(), [[1.0, 2.0]], GRAPH, None)),
            (ValueError, r"instance is torch\.\w+ \[.*floating point \[batch, entries\].*flatten",
                (FLAT[0], torch.ones(2, 3, 4), FLAT.long())))
        for bad in bads),
    *((TypeError, r"groups\[1\] has column .*whole numbers.*int\(\)", lambda bad=bad: GROUPED([[0], [bad]], 0.5))
        for bad in (1.5, "1", None)),
    (ValueError, r"std is -0\.1.*at least 0", lambda: GaussianNoise(-0.1)),
]  # fmt: skip


@pytest.mark.parametrize(("error", "said", "call"), WRONG)
def test_fills_generators_and_instances_of_a_wrong_kind_are_refused(error: Any, said: str, call: Any):
    with pytest.raises(error, match=said):
        call()


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_a_number_that_is_not_finite_is_refused_before_anything_is_drawn(number: float):
    generator, values = seeded(), torch.randn(3, 5)
    state = generator.get_state()
    values[1, 2] = number
    for instance in (values, FlatVectors(values, torch.ones_like(values, dtype=torch.bool))):
        with pytest.raises(ValueError, match=rf"\[1, 2\] is {number}, but must be finite"):
            EntryMasker(0.5)(instance, generator=generator)
    assert torch.equal(generator.get_state(), state)
