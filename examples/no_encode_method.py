"""A JEPA term for a model without `encode`: its features are captured by the name of a submodule.

python examples/no_encode_method.py [--steps 400]

A residual MLP maps random LPs, `min c'x` with `A x <= b` and `0 <= x <= 1`, to x, and returns only x. Neither its code
nor its checkpoint changes for the JEPA (joint-embedding predictive architecture) term. The script checks the wiring
before training. Then it shows what the check reports on a wrong wiring.
"""

import argparse
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from jepa_ssl import CollapseMonitor, EMATeacher, EntryMasker, JEPAObjective, JEPATerm, MLPPredictor, ModelEncoder
from jepa_ssl.lp import flatten, unflatten
from jepa_ssl.testing import check_encoder, check_teacher

ROWS, COLUMNS, WIDTH = 6, 8, 96


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inner, self.outer = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.outer(self.inner(self.norm(h)).relu())


class Solver(nn.Module):
    """A given model that maps LPs to x."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Linear(ROWS * COLUMNS + ROWS + COLUMNS, WIDTH)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(WIDTH, COLUMNS)

    def forward(self, flat: Tensor) -> Tensor:
        return self.head(self.blocks(self.lift(flat))).sigmoid()


def lps(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    A, b, c = (torch.rand(count, *size, generator=generator) for size in ((ROWS, COLUMNS), (ROWS,), (COLUMNS,)))
    return flatten(A, 1.0 + b, -c)


def objective_and_penalty(x: Tensor, flat: Tensor) -> Tensor:
    A, b, c = unflatten(flat, ROWS, COLUMNS)
    violation = (torch.einsum("lmn, ln -> lm", A, x) - b).relu()
    return ((c * x).sum(1) + 10.0 * violation.sum(1)).mean()


def main(argv: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(
        prog="no_encode_method.py", description="Train a model without `encode` with a JEPA term."
    )
    p.add_argument("--steps", type=int, default=400, help="train for this many steps")
    args = p.parse_args(argv)
    begin = time.perf_counter()
    torch.manual_seed(0)
    model = Solver()
    keys = list(model.state_dict())
    encoder = ModelEncoder(model, {"instance": WIDTH}, dim=32, captured={"instance": "blocks"})
    monitor = CollapseMonitor(log=lambda row, step: ranks.append(row["monitor/rank/instance"]))
    objective = JEPAObjective(EntryMasker(0.5), MLPPredictor(encoder.dims), EMATeacher(encoder, 0.99), monitor=monitor)
    jepa, ranks = JEPATerm(encoder, objective), list[float]()

    check_encoder(encoder, lps(8, 1), views=objective.views, trunk=model.blocks)
    check_teacher(objective.teacher, encoder, lps(8, 1))
    print("Wired right: gradients reach the blocks, the teacher follows, and what is hidden is read.")
    blind = ModelEncoder(model, {"instance": COLUMNS}, dim=32, run=lambda model, flat: model(flat).detach())
    try:
        check_encoder(blind, lps(8, 1))
    except AssertionError as sentence:
        print(f"Wired wrong, by a detached output: {sentence}")

    data, validation = lps(1024, 0), lps(256, 1)
    optimizer = torch.optim.Adam([*model.parameters(), *jepa.parameters()], lr=1e-3)
    before = objective_and_penalty(model(validation), validation).item()
    for step in range(args.steps):
        batch = data[torch.randint(len(data), (32,))]
        joint = jepa.loss(batch, task=lambda batch=batch: objective_and_penalty(model(batch), batch))
        optimizer.zero_grad()
        joint.total.backward()
        optimizer.step()
        jepa.update()
        if step % (args.steps // 4 or 1) == 0:
            print(f"step {step:3d}  " + "  ".join(f"{name} {value:6.3f}" for name, value in joint.terms.items()))
    after = objective_and_penalty(model(validation), validation).item()
    print(f"Validation loss: {before:.2f} at first, {after:.2f} at last.")
    if ranks:
        print(f"Effective rank of the embeddings: {ranks[0]:.1f} at first, {ranks[-1]:.1f} at last, of 32 at most.")
    print(f"The model has the {len(keys)} tensors that it had: {list(model.state_dict()) == keys}.")
    print(f"{time.perf_counter() - begin:.0f} seconds")


if __name__ == "__main__":
    main()
