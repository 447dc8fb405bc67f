"""The study's best trunk, ready to use: graphs of raw LPs to node embeddings, without training and without labels.

from examples.study.shipped import load
encode = load()
constraints, variables = encode(graph)   # [M, 64], [N, 64]
"""

from argparse import Namespace
from pathlib import Path

import torch
from models import GNNPolicy
from torch import Tensor, nn

from jepa_ssl import BipartiteGraph
from jepa_ssl.integrations.export import load_encoder, read_metadata
from jepa_ssl.lp import SparseLP, StateFeatures

TRUNK = Path(__file__).with_name("trunk.safetensors")


class ShippedEncoder(nn.Module):
    """A frozen trunk that computes and sees the first solver states of each LP itself.

    Call it with a `BipartiteGraph` of LPs `Ax <= b`. It needs the features of `data.batches.BipartiteData`: constraints
    (b, mean coefficient, log(1 + degree)), variables (c, mean, least, greatest coefficient, log(1 + degree)), edges
    (coefficient). Rescale each LP by `data.scaling.ruiz` first, as the example's data set does. It returns embeddings
    of constraints `[M, 64]` and of variables `[N, 64]`.

    Raises (when called):
        ValueError: the features have other widths.
    """

    def __init__(self, trunk: nn.Module, seen_steps: tuple[int, ...]) -> None:
        super().__init__()
        self.trunk = trunk
        self.show = StateFeatures[BipartiteGraph](seen_steps, lp_of=SparseLP.inequalities_of) if seen_steps else None

    @torch.no_grad()
    def forward(self, graph: BipartiteGraph) -> tuple[Tensor, Tensor]:
        g = self.show(graph) if self.show else graph
        c, v = self.trunk(g.constraint_features, g.edge_index, g.edge_attr, g.variable_features)
        return c, v


def load(path: str | Path = TRUNK) -> ShippedEncoder:
    """The encoder of a file that `python -m examples.study ship` wrote: the repository's own by default.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or of another kind.
    """
    metadata = read_metadata(path)
    flags = {"trunk": "solver", "rounds": metadata["rounds"]} if metadata["rounds"] else {}
    seen = tuple(metadata["sees"])
    policy = GNNPolicy(Namespace(embedding_size=metadata["dim"], seen_steps=seen, **flags))
    load_encoder(policy.trunk, path, freeze=True)
    return ShippedEncoder(policy.trunk, seen)
