"""Projector and predictor networks."""

import math

import pytest
import torch
from builders import ragged_graphs, seeded
from torch import nn

from jepa_ssl import JEPAObjective, MLPPredictor, MLPProjector, NodeMasker, StopGradTeacher, Views
from jepa_ssl.predictors import ConditionalMLPPredictor, hidden_and_degree


def test_each_stream_has_its_own_two_layers():
    predictor = MLPPredictor({"constraint": 4, "variable": 6}, hidden=5, activation=nn.SELU)
    out = predictor({"constraint": torch.randn(3, 4), "variable": torch.randn(2, 6)})
    assert {stream: tuple(z.shape) for stream, z in out.items()} == {"constraint": (3, 4), "variable": (2, 6)}
    first, activation, second = predictor.streams["constraint"].children()
    assert (first.weight.shape, second.weight.shape) == ((5, 4), (4, 5))
    assert isinstance(activation, nn.SELU)
    assert len({id(p) for p in predictor.parameters()}) == 8


def test_the_predictor_is_linear_activation_linear():
    predictor = MLPPredictor({"instance": 4})
    z = torch.randn(3, 4)
    weight1, bias1, weight2, bias2 = predictor.parameters()
    hidden = torch.relu(z @ weight1.T + bias1)
    torch.testing.assert_close(predictor({"instance": z})["instance"], hidden @ weight2.T + bias2)


def test_the_projector_normalises():
    z = MLPProjector({"a": 3, "b": 7}, dim=5)({"a": torch.randn(9, 3), "b": 1e4 * torch.randn(2, 7)})
    assert z["a"].shape == (9, 5)
    for embeddings in z.values():
        torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(len(embeddings)))


def test_no_items_are_no_trouble():
    assert MLPProjector({"a": 3}, dim=5)({"a": torch.zeros(0, 3)})["a"].shape == (0, 5)


def test_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match=r"input size of stream 'a' is 0.*at least 1"):
        MLPPredictor({"a": 0})
    with pytest.raises(ValueError, match=r"hidden size of stream 'a' is 0"):
        MLPPredictor({"a": 4}, hidden=0)
    with pytest.raises(ValueError, match=r"output size of stream 'a' is -1"):
        MLPProjector({"a": 4}, dim=-1)
    with pytest.raises(TypeError, match=r"hidden size of stream 'a' is True, a bool"):
        MLPPredictor({"a": 4}, hidden=True)


def test_other_streams_are_refused():
    with pytest.raises(ValueError, match=r"embeddings has the streams \['b'\].*MLPPredictor was built for \['a'\]"):
        MLPPredictor({"a": 4})({"b": torch.ones(1, 4)})


def test_other_widths_are_refused():
    with pytest.raises(ValueError, match=r"embeddings\['a'\] is .*\[1, 5\], but this MLPPredictor.*\[items, 4\]"):
        MLPPredictor({"a": 4})({"a": torch.ones(1, 5)})
    with pytest.raises(ValueError, match=r"embeddings\['a'\] is torch.int64 \[1, 4\].*floating point"):
        MLPPredictor({"a": 4})({"a": torch.ones(1, 4).long()})
    with pytest.raises(ValueError, match=r"embeddings\['a'\] is .*\[1, 4\], but this MLPProjector.*\[items, 3\]"):
        MLPProjector({"a": 3}, dim=4)({"a": torch.ones(1, 4)})


def test_a_smaller_hidden_layer_is_a_bottleneck():
    predictions = MLPPredictor({"a": 16}, hidden=3)({"a": torch.randn(100, 16)})["a"].detach()
    assert torch.linalg.matrix_rank(predictions - predictions.mean(0)) == 3


def test_the_conditional_predictor_sees_embedding_and_encoding_side_by_side():
    predictor = ConditionalMLPPredictor({"a": 4, "b": 6}, {"a": 2, "b": 1}, hidden=5, activation=nn.SELU)
    embeddings = {"b": torch.randn(2, 6), "a": torch.randn(3, 4)}
    condition = {"a": torch.randn(3, 2), "b": torch.randn(2, 1)}
    out = predictor(embeddings, condition)
    assert out.keys() == embeddings.keys()
    for stream, z in embeddings.items():
        first, activation, second = predictor.mlps.streams.get_submodule(stream).children()
        assert first.weight.shape == (5, z.size(1) + condition[stream].size(1))
        assert isinstance(activation, nn.SELU)
        expected = second(activation(first(torch.cat((z, condition[stream]), dim=1))))
        torch.testing.assert_close(out[stream], expected)
    assert predictor({"a": torch.zeros(0, 4), "b": torch.zeros(0, 6)}, {s: c[:0] for s, c in condition.items()})


def test_the_conditional_predictor_computes_in_the_embeddings_precision():
    predictor = ConditionalMLPPredictor({"a": 4}, {"a": 2}).double()
    assert predictor({"a": torch.ones(1, 4, dtype=torch.float64)}, {"a": torch.ones(1, 2)})["a"].dtype == torch.float64


def test_a_condition_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"condition_sizes names the streams \['b'\], but dims \['a'\]"):
        ConditionalMLPPredictor({"a": 4}, {"b": 2})
    with pytest.raises(ValueError, match=r"hidden size of stream 'a' is 0"):
        ConditionalMLPPredictor({"a": 4}, {"a": 2}, hidden=0)
    with pytest.raises(ValueError, match=r"condition_sizes\['a'\] is 0, but must be .* at least 1"):
        ConditionalMLPPredictor({"a": 4}, {"a": 0})
    predictor = ConditionalMLPPredictor({"a": 4}, {"a": 2})
    z = {"a": torch.ones(3, 4)}
    with pytest.raises(ValueError, match=r"condition is None.*give JEPAObjective a condition"):
        predictor(z)
    with pytest.raises(ValueError, match=r"condition has the streams \[\].*ConditionalMLPPredictor was built for"):
        predictor(z, {})
    with pytest.raises(ValueError, match=r"condition\['a'\] is .*\[3, 3\].*\[items, 2\]"):
        predictor(z, {"a": torch.ones(3, 3)})
    with pytest.raises(ValueError, match=r"embeddings\['a'\] is .*\[3, 2\].*\[items, 4\]"):
        predictor({"a": torch.ones(3, 2)}, {"a": torch.ones(3, 2)})


def test_the_condition_of_a_graph_is_hidden_and_degree():
    graph = ragged_graphs([3, 0, 2], [2, 1, 1], dtype=torch.float64)
    views = NodeMasker(0.5)(graph, generator=seeded())
    condition = hidden_and_degree(views)
    for row, stream in enumerate(("constraint", "variable")):
        hidden = views.hidden[stream]
        assert hidden is not None
        assert condition[stream].shape == (len(hidden), 2)
        for node, lost in enumerate(hidden.tolist()):
            degree = sum(end == node for end in graph.edge_index[row].tolist())
            assert condition[stream][node].tolist() == pytest.approx([float(lost), math.log(1 + degree)])


def test_where_views_name_no_hidden_items_all_are():
    graph = ragged_graphs([3], [2])
    for hidden in ({}, {"constraint": None}):
        assert hidden_and_degree(Views(graph, graph, hidden))["constraint"][:, 0].tolist() == [1.0, 1.0, 1.0]


def test_the_condition_is_in_the_contexts_order():
    target, context = ragged_graphs([2], [2]), ragged_graphs([3], [2])
    items, hidden = {"constraint": torch.tensor([2, 0])}, {"constraint": torch.tensor([True, False])}
    assert hidden_and_degree(Views(context, target, hidden, items=items))["constraint"][:, 0].tolist() == [0, 0, 1]
    assert hidden_and_degree(Views(context, target, items=items))["constraint"][:, 0].tolist() == [1, 0, 1]


def test_other_contexts_are_refused():
    with pytest.raises(TypeError, match=r"views.context is a Tensor, but must be a BipartiteGraph; write a condition"):
        hidden_and_degree(Views(torch.ones(2, 3), torch.ones(2, 3)))


def test_the_objective_conditions_its_predictor():
    graph = ragged_graphs([3, 2], [2, 4])
    predictor = ConditionalMLPPredictor({"constraint": 3, "variable": 2}, {"constraint": 2, "variable": 2})
    jepa = JEPAObjective(NodeMasker(0.5), predictor, StopGradTeacher(), condition=hidden_and_degree)
    encoder = lambda g: {"constraint": g.constraint_features, "variable": g.variable_features}  # noqa: E731
    jepa(encoder, graph).total.backward()
    assert all(p.grad is not None for p in jepa.parameters())


def test_the_condition_and_the_predictor_need_no_number_from_the_device_and_compile():
    def predict(views: Views) -> torch.Tensor:
        embeddings = {"constraint": views.context.constraint_features, "variable": views.context.variable_features}
        return predictor(embeddings, hidden_and_degree(views))["constraint"]

    sizes = {"constraint": 2, "variable": 2}
    predictor = ConditionalMLPPredictor({"constraint": 3, "variable": 2}, sizes)
    graph = ragged_graphs([3, 2], [2, 4])
    views = Views(graph, graph, {"constraint": torch.tensor([True, False, False, True, False])})
    compiled = torch.compile(predict, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(views), predict(views))
    predictor.to("meta")
    meta = graph.to("meta")
    hidden, items = torch.ones(5, dtype=torch.bool, device="meta"), torch.arange(5, device="meta")
    assert predict(Views(meta, meta, {"constraint": hidden}, items={"constraint": items})).is_meta


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_features_of_zero_are_projected_to_numbers(dtype: torch.dtype):
    projector = MLPProjector({"instance": 4}, dim=4).to(dtype)
    for parameter in projector.parameters():
        nn.init.zeros_(parameter)
    assert (projector({"instance": torch.zeros(2, 4, dtype=dtype)})["instance"] == 0).all()
