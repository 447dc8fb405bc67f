"""Maskers one after the other, several views of one instance, and how much a view hides."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from builders import FlatEncoder, GraphEncoder, ragged_graphs, seeded
from hypothesis import given
from hypothesis import strategies as st
from random_graphs import BATCHES, RATIOS, SEEDS, SIZES, Sizes, per_graph, three_types
from scipy.stats import chisquare
from torch import Tensor, nn

from jepa_ssl import (
    BipartiteGraph,
    ComposeMaskers,
    EdgeMasker,
    EMATeacher,
    EntryMasker,
    FlatVectors,
    Graph,
    JEPAObjective,
    MLPPredictor,
    MultiView,
    NodeMasker,
    StopGradTeacher,
    Views,
)
from jepa_ssl.maskers import GaussianNoise, GroupMasker, LearnedToken, Shuffled, hidden_share
from jepa_ssl.protocols import Embeddings, Teacher
from jepa_ssl.seeds import Randomness

KINDS = ("constraint", "variable")


# One after the other


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
@given(SIZES, RATIOS, RATIOS, SEEDS)
def test_composed_maskers_hide_what_any_of_them_hides(
    batch: Callable[..., Graph], sizes: Sizes, a: float, b: float, seed: int
):
    graph = batch(sizes, seed)
    views = ComposeMaskers(NodeMasker(a), NodeMasker(b, GaussianNoise()))(graph, generator=seeded(seed))
    g = seeded(seed)
    first = NodeMasker(a).draw(graph, generator=g)
    second = NodeMasker(b).draw(graph, generator=g)
    assert views.target is graph
    for stream, features in graph.values().items():
        if stream in graph.edges:
            assert views.context.values()[stream] is features
            continue
        hidden, values = views.hidden[stream], views.context.values()[stream]
        spared = (first[stream] | second[stream]) ^ hidden
        assert not (spared & (first[stream] | ~second[stream])).any()
        for i, j in pairwise(graph.offsets(stream).tolist()):
            lost_all = j - i > 1 and bool((first[stream] | second[stream])[i:j].all())
            assert int(spared[i:j].sum()) == int(lost_all)
        assert not values[first[stream] & ~second[stream]].any()
        assert (values[hidden & second[stream]].abs() < 0.1).all()
        assert torch.equal(values[~hidden], features[~hidden])
        weight = views.weight[stream]
        assert not weight[~hidden].any()
        totals = [float(weight[i:j].sum()) for i, j in pairwise(graph.offsets(stream).tolist())]
        assert totals == pytest.approx([float(count > 0) for count in per_graph(hidden, graph, stream)])


@given(SIZES, SEEDS)
def test_streams_that_only_one_part_names_are_predicted_by_it(sizes: Sizes, seed: int):
    graph = three_types(sizes, seed)
    views = ComposeMaskers(NodeMasker({"row": 0.5}), NodeMasker({"column": 0.5}))(graph, generator=seeded(seed))
    g = seeded(seed)
    alone = [NodeMasker({stream: 0.5}).draw(graph, generator=g)[stream] for stream in ("row", "column")]
    assert list(views.hidden) == ["row", "column"]
    assert all(map(torch.equal, views.hidden.values(), alone))


@given(SIZES, SEEDS)
def test_what_is_spared_is_spared_in_both_directions(sizes: Sizes, seed: int):
    graph = three_types(sizes, seed)
    part = EdgeMasker({"has": 0.7}, reverse={"back": "has"})
    views = ComposeMaskers(NodeMasker({"row": 0.5}, hide_edges=True), part, part)(graph, generator=seeded(seed))
    values = views.context.values()
    assert torch.equal(values["has"], values["back"])
    visible = per_graph((values["has"] != 0).any(1), graph, "has")
    before = NodeMasker({"row": 0.5}, hide_edges=True)(graph, generator=seeded(seed)).context.values()["has"]
    assert [count > 0 for count in visible] == [count > 0 for count in per_graph((before != 0).any(1), graph, "has")]


def test_composed_maskers_of_vectors_keep_target_and_padding():
    valid = torch.arange(9) < torch.tensor([[9], [5], [2]])
    batch = FlatVectors(torch.randn(3, 9, generator=seeded()), valid)
    parts = (GroupMasker([[0, 1], [2, 3], [4]], 0.4), EntryMasker(0.3, Shuffled()))
    views = ComposeMaskers(*parts)(batch, generator=seeded())
    g = seeded()
    expected = parts[1](parts[0](batch, generator=g).context, generator=g).context.values
    assert torch.equal(views.context.values, expected)
    assert views.target is batch
    assert views.hidden["instance"].all()
    assert not views.weight


@pytest.mark.parametrize(
    "batch", [torch.ones(1000, 4), FlatVectors(torch.ones(1000, 6), (torch.arange(6) % 3 < 2).expand(1000, 6))]
)
def test_composed_maskers_leave_an_entry_of_each_vector(batch: Tensor | FlatVectors):
    views = ComposeMaskers(EntryMasker(0.5), EntryMasker(0.5))(batch, generator=seeded())
    values = views.context.values if isinstance(batch, FlatVectors) else views.context
    real = batch.valid if isinstance(batch, FlatVectors) else torch.ones_like(values, dtype=torch.bool)
    left = ((values == 1) & real).sum(1)
    assert set(left.tolist()) == {1, 2}
    assert (values[~real] == 1).all()
    # Which entry is left of a vector that would have lost all is a fair choice.
    alone = ((values == 1) & real)[left == 1].sum(0)[real[0]].tolist()
    assert chisquare(alone).pvalue > 1e-4


def test_what_a_spared_node_has_is_spared_with_it():
    graph = ragged_graphs([2] * 60, [2] * 60)
    derived = {"constraint": [0], "variable": [0]}
    masker = ComposeMaskers(NodeMasker(0.5), NodeMasker(0.5, hide_edges=True, derived=derived))
    views = masker(graph, generator=seeded())
    row, column = graph.edge_index
    seen = views.context.edge_attr.squeeze(1) != 0
    assert not (seen & views.hidden["constraint"][row] & views.hidden["variable"][column]).all()
    lost = torch.zeros(120, dtype=torch.bool).index_fill_(0, row[~seen], True)
    assert not views.context.constraint_features[lost, 0].any()
    assert views.context.constraint_features[~lost & ~views.hidden["constraint"]].all()


def test_a_part_that_moves_items_or_hides_without_a_word_is_refused():
    def moved(instance: BipartiteGraph, *, generator: Randomness = None) -> Views[Any, Any]:
        return Views(instance, instance, items={"variable": torch.tensor([1, 0])})

    def relu(instance: Tensor, *, generator: Randomness = None) -> Views[Any, Any]:
        return Views(instance.relu(), instance)

    with pytest.raises(ValueError, match=r"moved moves items.*before the objective"):
        ComposeMaskers(moved, NodeMasker(0.5))(ragged_graphs([2], [2]))
    for parts in ((relu, EntryMasker(0.5)), (EntryMasker(0.5), relu)):
        with pytest.raises(ValueError, match=r"relu changes the instance.*maskers of jepa_ssl"):
            ComposeMaskers(*parts)(torch.randn(2, 6))


def test_a_first_view_that_is_predicted_in_full_stays_so():
    graph = ragged_graphs([4, 2], [3, 3])
    state = {"constraint": torch.ones(6, 1), "variable": torch.ones(6, 1)}
    weight = {kind: torch.full((6,), 0.25) for kind in KINDS}

    def states(instance: BipartiteGraph, *, generator: Randomness = None) -> Views[Any, Any]:
        return Views(instance, state, dict.fromkeys(KINDS), weight)

    views = ComposeMaskers(states, NodeMasker(0.5))(graph, generator=seeded())
    assert views.target is state
    assert views.hidden == dict.fromkeys(KINDS)
    assert views.weight == weight
    assert torch.equal(
        views.context.constraint_features, NodeMasker(0.5)(graph, generator=seeded()).context.constraint_features
    )
    with pytest.raises(ValueError, match=r"states makes its own target.*put it first"):
        ComposeMaskers(NodeMasker(0.5), states)(graph)


def test_what_cannot_be_combined_is_refused():
    for combination in (ComposeMaskers, MultiView):
        with pytest.raises(ValueError, match=rf"{combination.__name__} got no masker"):
            combination()
        with pytest.raises(TypeError, match=r"returned several views"):
            combination(MultiView(EntryMasker(0.5)))(torch.ones(1, 4))
    with pytest.raises(ValueError, match=r"EntryMasker has indicator=True"):
        ComposeMaskers(EntryMasker(0.5, indicator=True), EntryMasker(0.5))


def test_tokens_in_combined_maskers_are_parameters():
    token = LearnedToken({"instance": 6})
    for combination in (ComposeMaskers, MultiView):
        jepa = JEPAObjective(
            combination(EntryMasker(0.5), EntryMasker(0.5, token)), MLPPredictor({"instance": 4}), StopGradTeacher()
        )
        assert any(parameter is token.tokens["instance"] for parameter in jepa.parameters())


# Several views


class Counting:
    """A teacher that counts the targets it embeds."""

    learns = False

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __call__(self, encoder: Callable[[Any], Embeddings], target: Any) -> Embeddings:
        self.seen.append(target)
        with torch.no_grad():
            return encoder(target)

    def update(self, encoder: Any) -> None: ...


def test_light_and_heavy_views_of_one_target_run_the_teacher_once():
    graph, encoder, teacher = ragged_graphs([6, 4], [5, 3]), GraphEncoder(), Counting()
    predictor = MLPPredictor(dict.fromkeys(KINDS, 4), activation=nn.SELU)
    jepa = JEPAObjective(MultiView(NodeMasker(0.2), NodeMasker(0.7)), predictor, teacher)
    loss = jepa(encoder, graph, generator=seeded())
    assert teacher.seen == [graph]

    g = seeded()
    singles = [JEPAObjective(NodeMasker(r), predictor, teacher)(encoder, graph, generator=g) for r in (0.2, 0.7)]
    assert len(teacher.seen) == 3
    torch.testing.assert_close(loss.total, (singles[0].total + singles[1].total) / 2)
    for name, term in loss.terms.items():
        torch.testing.assert_close(term, (singles[0].terms[name] + singles[1].terms[name]) / 2)
    for kind in KINDS:
        assert torch.equal(loss.predictions[kind], torch.cat([single.predictions[kind] for single in singles]))
        assert torch.equal(loss.targets[kind], torch.cat([single.targets[kind] for single in singles]))
    loss.total.backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_targets_that_differ_are_each_embedded():
    teacher, entries = Counting(), nn.Linear(8, 4)
    jepa = JEPAObjective(
        MultiView(EntryMasker(0.5, indicator=True), EntryMasker(0.5, indicator=True)),
        MLPPredictor({"instance": 4}),
        teacher,
    )
    jepa(lambda flat: {"instance": entries(flat)}, torch.randn(3, 4))
    assert len(teacher.seen) == 2


def test_one_view_in_a_tuple_is_that_view_and_no_view_is_refused():
    encoder, flat = FlatEncoder(), torch.randn(4, 6)
    encoder.eval()
    predictor = MLPPredictor({"instance": 4})
    single = JEPAObjective(EntryMasker(0.5), predictor, EMATeacher(encoder))(encoder, flat, generator=seeded())
    several = JEPAObjective(MultiView(EntryMasker(0.5)), predictor, EMATeacher(encoder))
    assert torch.equal(several(encoder, flat, generator=seeded()).total, single.total)

    def none(instance: Tensor, *, generator: Randomness = None) -> tuple[Views[Any, Any], ...]:
        return ()

    teacher: Teacher = StopGradTeacher()
    with pytest.raises(ValueError, match="returned no views"):
        JEPAObjective(none, predictor, teacher)(encoder, flat)


# How much is hidden


@given(st.lists(st.integers(0, 8), min_size=1, max_size=5), RATIOS, SEEDS)
def test_the_hidden_share_of_vectors_counts_real_values_that_changed(sizes: list[int], ratio: float, seed: int):
    values = torch.randn(len(sizes), 8, generator=seeded(seed)).round()  # some are 0
    batch = FlatVectors(values, torch.arange(8) < torch.tensor(sizes).unsqueeze(1))
    masker = EntryMasker(ratio)
    share = hidden_share(masker(batch, generator=seeded(seed)))
    hidden = masker.draw(batch, generator=seeded(seed))["instance"]
    expected = int((hidden & (values != 0)).sum()) / max(sum(sizes), 1)
    assert share.keys() == {"instance"}
    assert share["instance"].item() == pytest.approx(expected)


def test_the_hidden_share_of_a_graph_is_by_stream():
    graph = ragged_graphs([4, 1], [4, 2])
    share = hidden_share(NodeMasker(0.5)(graph))
    assert {stream: value.item() for stream, value in share.items()} == pytest.approx(
        {"constraint": 2 / 5, "variable": 3 / 6, "edge": 0.0}
    )
    share = hidden_share(EdgeMasker(0.4)(graph))
    assert share["edge"].item() == pytest.approx((1 + 0) / 5)
    assert share["constraint"].item() == 0.0
    changed = replace(graph, edge_attr=graph.edge_attr.index_fill(0, torch.tensor(1), 9.0))
    assert hidden_share(Views(changed, graph))["edge"].item() == pytest.approx(1 / 5)
    assert hidden_share(Views(ragged_graphs([], []), ragged_graphs([], [])))["edge"].item() == 0.0


def test_a_nan_that_stays_is_not_hidden():
    values = torch.tensor([[torch.nan, 1.0, torch.nan, 2.0]])
    context = torch.tensor([[torch.nan, 1.0, 0.0, 0.0]])
    assert hidden_share(Views(context, values))["instance"].item() == 0.5


def test_hidden_shares_wait_for_no_device():
    share = hidden_share(Views(torch.ones(2, 3, device="meta"), torch.ones(2, 3, device="meta")))
    assert share["instance"].is_meta


def test_views_that_cannot_be_compared_are_refused():
    with pytest.raises(TypeError, match=r"context is a Tensor and target a dict, but both must be"):
        hidden_share(Views(torch.ones(2, 3), {"instance": torch.ones(2, 3)}))
    with pytest.raises(ValueError, match=r"'instance' has \[2, 3\] values in the context and \[2, 4\] in the target"):
        hidden_share(Views(torch.ones(2, 3), torch.ones(2, 4)))
