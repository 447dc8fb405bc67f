"""A transformer whose tokens are the constraints of an LP, `[A_i, b_i]`, padded to the longest of the batch.

Learns whether the point of all ones is feasible, from the rows alone. Returns a `NamedTuple`.
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from adoption.loop import Loop
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_ssl import FlatVectors  # +
from jepa_ssl.integrations.flags import add_jepa_arguments, from_args  # +
from jepa_ssl.maskers import GroupMasker  # +

MOST, COLUMNS, WIDTH = 7, 4, 32


class Answer(NamedTuple):
    logit: Tensor  # [B]
    instance: Tensor  # [B, WIDTH]


class ConstraintTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(COLUMNS + 1, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, dropout=0.1, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, rows: Tensor, valid: Tensor) -> Answer:
        """`rows` is `[B, MOST, COLUMNS + 1]`, `valid` bool `[B, MOST]`."""
        h = self.layers(self.embed(rows), src_key_padding_mask=~valid)
        pooled = (h * valid.unsqueeze(-1)).sum(1) / valid.sum(1, keepdim=True)
        return Answer(self.head(pooled).squeeze(-1), pooled)


class Training(Loop):
    def __init__(self, argv: Sequence[str] = ()) -> None:
        super().__init__(ConstraintTransformer(), argv)
        run = lambda model, v: model(v.values.unflatten(1, (MOST, -1)), v.valid[:, :: COLUMNS + 1])  # +
        rows = torch.arange(MOST * (COLUMNS + 1)).view(MOST, -1).tolist()  # +
        views = GroupMasker(rows, 0.4)  # hides whole constraints  # +
        self.jepa = from_args(self.args, self.model, {"instance": WIDTH}, run=run, views=views)  # +
        self.optimizer.add_param_group({"params": self.jepa.parameters()})  # +

    def parser(self) -> ArgumentParser:
        parser = ArgumentParser()
        parser.add_argument("--lr", type=float, default=1e-3)
        add_jepa_arguments(parser)  # +
        return parser

    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        valid = torch.arange(MOST) < torch.randint(3, MOST + 1, (8, 1))
        rows = torch.randn(8, MOST, COLUMNS + 1) * valid.unsqueeze(-1)
        feasible = (rows[..., :-1].sum(-1) <= rows[..., -1] + 2).all(1)
        return rows, valid, feasible.float()

    def step(self) -> dict[str, float]:
        rows, valid, feasible = self.batch()
        loss = F.binary_cross_entropy_with_logits(self.model(rows, valid).logit, feasible)
        log = {"loss": loss.item()}
        vectors = FlatVectors(rows.flatten(1), valid.repeat_interleave(COLUMNS + 1, 1))  # +
        joint = self.jepa.loss(vectors, task=loss)  # +
        loss = joint.total  # +
        log |= {name: term.item() for name, term in joint.terms.items()}  # +
        self.descend(loss)
        self.jepa.update()  # +
        return log

    def checkpoint(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "jepa": self.jepa.state_dict(),  # +
        }

    def resume(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.jepa.load_state_dict(state["jepa"])  # +
