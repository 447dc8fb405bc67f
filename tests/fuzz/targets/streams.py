"""Streams of any name, through every part that holds one network, token or measure for each stream."""

import copy
from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn

from jepa_ssl import (
    EMATeacher,
    Graph,
    JEPAObjective,
    JEPATerm,
    MLPPredictor,
    ModelEncoder,
    NodeMasker,
    TargetNetwork,
    VICReg,
)
from jepa_ssl.instances import Nodes
from jepa_ssl.maskers import LearnedToken

from ..judging import Input
from .pool import NAMES, Draw, made_by, one, seeded

ATTRIBUTES = sorted({*dir(nn.ModuleDict()), *dir(nn.ParameterDict())})


def inputs() -> st.SearchStrategy[Input]:
    return made_by(_input)


def _input(draw: Draw) -> Input:
    g = seeded(draw)
    written = st.text(max_size=8).map(lambda text: text.encode("utf-8", "ignore").decode())
    name = st.one_of(st.sampled_from(ATTRIBUTES), st.sampled_from(NAMES), written)
    streams: list[str] = draw(st.lists(name, min_size=1, max_size=3, unique=True))
    sizes = [one(draw, (2, 5, 9)) for _ in streams]
    nodes = {
        stream: Nodes(torch.randn(size, 3, generator=g), torch.tensor([0, size]))
        for stream, size in zip(streams, sizes, strict=True)
    }
    return Input(streams, lambda: _use(Graph(nodes, {}), streams))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(3, 6)

    def forward(self, graph: Graph) -> Any:
        return {stream: self.trunk(nodes.features) for stream, nodes in graph.nodes.items()}


def _use(graph: Graph, streams: list[str]) -> None:
    encoder = ModelEncoder(Model(), dict.fromkeys(streams, 6), 4)
    views = NodeMasker(0.5, LearnedToken(dict.fromkeys(streams, 3)))
    objective = JEPAObjective(views, MLPPredictor(encoder.dims), EMATeacher(encoder), regularizer=VICReg())
    term = JEPATerm(encoder, objective)
    saved = copy.deepcopy(term.state_dict())
    term.loss(graph, task=lambda: torch.zeros(())).total.backward()
    for name, parameter in objective.named_parameters():
        assert not parameter.requires_grad or parameter.grad is not None, f"{name} has no gradient"
    term.update()
    term.load_state_dict(saved)
    target = {stream: nodes.features for stream, nodes in graph.nodes.items()}
    assert TargetNetwork(dict.fromkeys(streams, (3, 2)))(None, target).keys() == target.keys()
