"""Streams may have any name, also one that torch's containers cannot hold."""

import copy

import pytest
import torch
from torch import nn

from jepa_ssl import (
    EMATeacher,
    Graph,
    JEPAObjective,
    JEPATerm,
    MLPPredictor,
    MLPProjector,
    ModelEncoder,
    NodeMasker,
    TargetNetwork,
    VICReg,
)
from jepa_ssl.instances import Nodes
from jepa_ssl.maskers import LearnedToken
from jepa_ssl.names import key_of

ODD = [
    "items",
    "keys",
    "values",
    "type",
    "training",
    "forward",
    "_modules",
    "a.b",
    "",
    ".",
    "stream=items",
    "a%2Eb",
    "x y",
]


def test_ordinary_names_are_their_own_keys_and_no_two_names_share_one():
    for stream in ("constraint", "variable", "instance", "edge", "row__has__column", "0", "x y"):
        assert key_of(stream) == stream
    assert len({key_of(stream) for stream in ODD}) == len(ODD)


@pytest.mark.parametrize("stream", ODD)
def test_a_stream_of_any_name_is_hidden_encoded_predicted_and_saved(stream: str):
    graph = Graph({stream: Nodes(torch.randn(8, 3), torch.tensor([0, 5, 8]))}, {})
    encoder = ModelEncoder(nn.Linear(3, 6), {stream: 6}, 4, run=lambda model, graph: model(graph.features(stream)))
    objective = JEPAObjective(
        NodeMasker(0.5, LearnedToken({stream: 3})),
        MLPPredictor(encoder.dims),
        EMATeacher(encoder),
        regularizer=VICReg(),
    )
    term = JEPATerm(encoder, objective)
    saved = copy.deepcopy(term.state_dict())
    term.loss(graph, task=lambda: torch.zeros(())).total.backward()
    assert all(p.grad is not None for p in objective.parameters() if p.requires_grad)
    term.update()
    term.load_state_dict(saved)
    z = {stream: torch.randn(4, 3)}
    assert TargetNetwork({stream: (3, 2)})(None, z)[stream].shape == (4, 2)
    assert MLPProjector({stream: 3}, 5)(z)[stream].shape == (4, 5)
