"""Streams may have any name, also one that torch's containers cannot hold."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from jepa_ssl import (
    CollapseMonitor,
    EMATeacher,
    Encoded,
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
from jepa_ssl.monitor import CollapseWarning
from jepa_ssl.names import key_of
from jepa_ssl.protocols import JEPALoss

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


@pytest.mark.parametrize(
    ("stream", "better"), [(1, "1"), (("row", "has", "column"), "row__has__column"), (None, "None")]
)
def test_a_name_that_is_not_a_string_is_refused(stream: Any, better: str):
    with pytest.raises(TypeError, match=rf"named .*its name must be a string; name it .?{better}"):
        MLPPredictor({stream: 4})


@pytest.mark.parametrize("stream", ["", "a/b", "items"])
def test_a_stream_of_any_name_is_watched(stream: str):
    rows: list[dict[str, Any]] = []
    monitor = CollapseMonitor(items=16, log=lambda row, step: rows.append(row))

    def collapse() -> None:
        for step in range(160):
            z = torch.randn(16, 8) if step < 110 else torch.ones(16, 8) + 1e-4 * torch.randn(16, 8)
            encoded = Encoded({stream: nn.functional.normalize(z, dim=1)})
            monitor.observe(JEPALoss(torch.tensor(1.0), {}, encoded.embeddings, encoded.embeddings, encoded))
            monitor.step()

    with pytest.warns(CollapseWarning, match=rf"Stream {stream!r} has collapsed"):
        collapse()
    assert {f"monitor/rank/{stream}", "monitor/loss"} <= rows[-1].keys()
