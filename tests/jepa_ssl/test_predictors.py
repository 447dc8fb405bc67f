"""Projector and predictor networks."""

import pytest
import torch
from torch import nn

from jepa_ssl import MLPPredictor, MLPProjector


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
    with pytest.raises(
        ValueError, match=r"embeddings\['a'\] is .*\[1, 5\], but must be .*\[items, 4\]; this MLPPredictor"
    ):
        MLPPredictor({"a": 4})({"a": torch.ones(1, 5)})
    with pytest.raises(ValueError, match=r"embeddings\['a'\] is int64 \[1, 4\].*floating point"):
        MLPPredictor({"a": 4})({"a": torch.ones(1, 4).long()})
    with pytest.raises(
        ValueError, match=r"embeddings\['a'\] is .*\[1, 4\], but must be .*\[items, 3\]; this MLPProjector"
    ):
        MLPProjector({"a": 3}, dim=4)({"a": torch.ones(1, 4)})


def test_a_smaller_hidden_layer_is_a_bottleneck():
    predictions = MLPPredictor({"a": 16}, hidden=3)({"a": torch.randn(100, 16)})["a"].detach()
    assert torch.linalg.matrix_rank(predictions - predictions.mean(0)) == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_features_of_zero_are_projected_to_numbers(dtype: torch.dtype):
    projector = MLPProjector({"instance": 4}, dim=4).to(dtype)
    for parameter in projector.parameters():
        nn.init.zeros_(parameter)
    assert (projector({"instance": torch.zeros(2, 4, dtype=dtype)})["instance"] == 0).all()
