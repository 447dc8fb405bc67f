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
    with pytest.raises(ValueError, match=r"stream 'a'.*\(0, 0, 0\).*at least 1"):
        MLPPredictor({"a": 0})
    with pytest.raises(ValueError, match=r"stream 'a'.*\(4, 0, 4\)"):
        MLPPredictor({"a": 4}, hidden=0)
    with pytest.raises(ValueError, match=r"stream 'a'.*\(4, 4, -1\)"):
        MLPProjector({"a": 4}, dim=-1)


def test_other_streams_are_refused():
    with pytest.raises(ValueError, match=r"embeddings has the streams \['b'\].*MLPPredictor was built for \['a'\]"):
        MLPPredictor({"a": 4})({"b": torch.ones(1, 4)})
