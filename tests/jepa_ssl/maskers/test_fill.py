"""What stands in the place of a hidden value: learned tokens, values of other items, and the indicator beside them."""

import copy
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from builders import FlatEncoder, GraphEncoder, ragged_graphs, seeded
from random_graphs import FLOATS
from torch import Tensor, nn

from jepa_ssl import (
    EdgeMasker,
    EMATeacher,
    EntryMasker,
    FlatVectors,
    JEPAObjective,
    MLPPredictor,
    NodeMasker,
    StopGradTeacher,
)
from jepa_ssl.maskers import GaussianNoise, LearnedToken, Shuffled, Zeros
from jepa_ssl.protocols import Teacher

WIDTHS = {"constraint": 3, "variable": 2}


# Learned tokens


@pytest.mark.parametrize("teacher", ["simsiam", "ema"])
def test_a_token_is_a_parameter_of_the_objective_and_of_no_model(teacher: str):
    encoder = FlatEncoder()
    keys = set(encoder.state_dict())
    made: Teacher = EMATeacher(encoder) if teacher == "ema" else StopGradTeacher()
    plain = JEPAObjective(EntryMasker(0.5), MLPPredictor({"instance": 4}), made)
    jepa = JEPAObjective(EntryMasker(0.5, LearnedToken({"instance": 6})), MLPPredictor({"instance": 4}), made)
    assert set(jepa.state_dict()) - set(plain.state_dict()) == {"views.fill.tokens.instance"}
    assert not [key for key in plain.state_dict() if key.startswith("views")]
    assert len(list(jepa.parameters())) == len(list(plain.parameters())) + 1
    assert set(encoder.state_dict()) == keys


def test_a_step_trains_the_token_where_something_is_hidden():
    encoder, token = GraphEncoder(), LearnedToken(WIDTHS)
    jepa = JEPAObjective(
        NodeMasker(0.5, token), MLPPredictor(dict.fromkeys(WIDTHS, 4), activation=nn.SELU), StopGradTeacher()
    )
    before = copy.deepcopy(jepa.state_dict())
    optimizer = torch.optim.SGD([*encoder.parameters(), *jepa.parameters()], lr=1.0)
    jepa(encoder, ragged_graphs([6, 4], [5, 3]), generator=seeded()).total.backward()
    optimizer.step()
    for stream in WIDTHS:
        name = f"views.fill.tokens.{stream}"
        assert not torch.equal(before[name], jepa.state_dict()[name])
    jepa.load_state_dict(before)
    assert torch.equal(token.tokens["variable"], before["views.fill.tokens.variable"])


@pytest.mark.parametrize("dtype", FLOATS)
def test_hidden_items_take_the_token_of_their_stream(dtype: torch.dtype):
    graph, token = ragged_graphs([4, 0, 1, 7], [3, 2, 0, 1], dtype=dtype), LearnedToken(WIDTHS)
    views = NodeMasker(0.5, token)(graph, generator=seeded())
    for kind in WIDTHS:
        features, hidden = views.context.features(kind), views.hidden[kind]
        assert features.dtype == dtype
        assert torch.equal(features[hidden], token.tokens[kind].to(dtype).expand(int(hidden.sum()), -1))
        assert torch.equal(features[~hidden], graph.features(kind)[~hidden])


def test_one_number_serves_vectors_of_any_width():
    masker = EntryMasker(0.5, LearnedToken({"instance": 1}))
    for entries in (4, 9):
        values = torch.zeros(2, entries)
        context = masker(values, generator=seeded()).context
        hidden = masker.draw(values, generator=seeded())["instance"]
        assert torch.equal(context != 0, hidden)
        assert len(context[hidden].unique()) == 1


def test_tokens_of_wrong_width_or_stream_are_refused():
    with pytest.raises(ValueError, match=r"widths\['instance'\] is 0.*at least 1"):
        LearnedToken({"instance": 0})
    with pytest.raises(ValueError, match=r"widths is \{\}, which makes no token; give a width"):
        LearnedToken({})
    graph = ragged_graphs([3], [3])
    single = replace(graph, edge_attr=graph.edge_attr.squeeze(1))
    with pytest.raises(ValueError, match=r"add it to widths: \{'edge': 1\}"):
        EdgeMasker(0.5, LearnedToken({"constraint": 3}))(single)
    with pytest.raises(ValueError, match=r"token of 'edge' is 3 wide.*\[3\].*width 1 for one number"):
        EdgeMasker(0.5, LearnedToken({"edge": 3}))(single)
    with pytest.raises(ValueError, match=r"token of 'instance' is 5 wide.*\[2, 6\].*width 6"):
        EntryMasker(0.5, LearnedToken({"instance": 5}))(torch.ones(2, 6))
    with pytest.raises(ValueError, match=r"tokens for \['constraint'\], but 'variable' is hidden too.*'variable': 2"):
        NodeMasker(0.5, LearnedToken({"constraint": 3}))(ragged_graphs([3], [3]))


# Values of other items


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_shuffled_entry_is_that_of_another_place_of_its_row_and_never_padding(dtype: torch.dtype):
    values = torch.arange(40.0).view(4, 10).to(dtype)
    valid = torch.arange(10) < torch.tensor([[10], [5], [2], [1]])
    batch = FlatVectors(values.masked_fill(~valid, -1.0), valid)
    for seed in range(20):
        views = EntryMasker(0.5, Shuffled())(batch, generator=seeded(seed))
        hidden = EntryMasker(0.5).draw(batch, generator=seeded(seed))["instance"]
        context = views.context.values
        assert torch.equal(context != batch.values, hidden)
        assert torch.equal(context[hidden].float() // 10, batch.values[hidden].float() // 10)  # the row
        assert (context[hidden] >= 0).all()


def test_a_shuffled_node_takes_all_features_of_another_of_its_graph():
    graph = ragged_graphs([4, 1, 7], [3, 2, 1])
    views = NodeMasker(0.5, Shuffled())(graph, generator=seeded())
    for kind in WIDTHS:
        for first, last in pairwise(graph.offsets(kind).tolist()):
            before, after = graph.features(kind)[first:last], views.context.features(kind)[first:last]
            same = (after.unsqueeze(1) == before).all(-1)
            assert same.any(1).all()
            assert torch.equal(~same.diagonal(), views.hidden[kind][first:last])


@pytest.mark.parametrize("fill", [Zeros(), GaussianNoise(), Shuffled(), LearnedToken({"edge": 1})], ids=str)
def test_edges_without_a_second_dimension_are_filled_from_their_own_graph(fill: Any):
    graph = ragged_graphs([4, 6], [3, 2])
    flat = replace(graph, edge_attr=graph.edge_attr.squeeze(1))
    hidden = EdgeMasker(0.5).draw(flat, generator=seeded())["edge"]
    filled = EdgeMasker(0.5, fill)(flat, generator=seeded()).context.edge_attr
    assert torch.equal(filled != flat.edge_attr, hidden)
    if isinstance(fill, Shuffled):
        assert set(filled[:4].tolist()) <= set(flat.edge_attr[:4].tolist())
        assert set(filled[4:].tolist()) <= set(flat.edge_attr[4:].tolist())


# Indicator columns


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_indicator_doubles_a_vector_and_says_what_is_hidden(dtype: torch.dtype):
    valid = torch.arange(6) < torch.tensor([[6], [3], [0]])
    values = torch.randn(3, 6, generator=seeded()).to(dtype)
    for instance in (values, FlatVectors(values, valid)):
        masker = EntryMasker(0.5, indicator=True)
        views = masker(instance, generator=seeded())
        hidden = masker.draw(instance, generator=seeded())["instance"]
        context, target = (v.values if isinstance(v, FlatVectors) else v for v in (views.context, views.target))
        assert context.dtype == target.dtype == dtype
        assert torch.equal(context, torch.cat([values.masked_fill(hidden, 0.0), hidden.to(dtype)], 1))
        assert torch.equal(target, torch.cat([values, torch.zeros(3, 6, dtype=dtype)], 1))
        if isinstance(instance, FlatVectors):
            assert torch.equal(views.context.valid, torch.cat([valid, valid], 1))
            assert torch.equal(views.target.valid, views.context.valid)


def test_a_fill_of_ones_own_gets_what_it_needs():
    seen: dict[str, tuple[int, ...]] = {}

    def negated(values: Tensor, hidden: Tensor, *, stream: str, **_: object) -> Tensor:
        seen[stream] = tuple(values.shape)
        return torch.where(hidden, -values, values)

    graph = ragged_graphs([4, 1], [3, 2])
    views = NodeMasker(0.5, negated)(graph, generator=seeded())
    assert seen == {"constraint": (5, 3), "variable": (5, 2)}
    assert torch.equal(views.context.constraint_features.abs(), graph.constraint_features.abs())
