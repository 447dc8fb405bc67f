"""The trunks of `GNNPolicy`: two rounds of half-convolutions, or rounds that have the shape of a solver's steps."""

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

CONSTRAINT_FEATURES = 3  # b, mean coefficient, log(1 + degree)
VARIABLE_FEATURES = 5  # c, mean, least and greatest coefficient, log(1 + degree)
EDGE_FEATURES = 1  # the coefficient


def run_part(part: Callable[..., Tensor], *inputs: Tensor, recompute: bool) -> Tensor:
    """`part(*inputs)`. With `recompute` its activations are not kept for the gradient, but computed again."""
    if recompute and torch.is_grad_enabled():
        return cast(Tensor, checkpoint(part, *inputs, use_reentrant=False))
    return part(*inputs)


def check_shapes(
    constraint_features: Tensor,
    edge_indices: Tensor,
    edge_features: Tensor,
    variable_features: Tensor,
    widths: tuple[int, int],
) -> None:
    """Raise a ValueError unless shapes fit. Index values are not checked: that would wait for the device."""
    named = {"constraint_features": constraint_features, "variable_features": variable_features}
    named["edge_features"] = edge_features
    for (name, value), width in zip(named.items(), (*widths, EDGE_FEATURES), strict=True):
        if value.dim() != 2 or value.shape[1] != width:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, expected [items, {width}].")
    expected = (2, edge_features.shape[0])
    if tuple(edge_indices.shape) != expected:
        raise ValueError(
            f"edge_indices has shape {tuple(edge_indices.shape)}, expected {expected}: "
            "constraints in row 0, variables in row 1, one column for each row of edge_features."
        )


def _embedding(features: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())


class BipartiteConvolution(nn.Module):
    """One half round of message passing, from the nodes of one side to the other's (Gasse et al. 2019).

    The message along an edge is `final(relu(norm(left(dst) + edge(e) + right(src))))`, and a node sums its messages.
    `final` is linear and has no bias, so it is applied once to a node's sum and not to every edge.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.left, self.edge = nn.Linear(dim, dim), nn.Linear(dim, dim, bias=False)
        self.right, self.message_norm = nn.Linear(dim, dim, bias=False), nn.LayerNorm(dim)
        self.final, self.norm = nn.Linear(dim, dim, bias=False), nn.LayerNorm(dim)
        self.output = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(self, src: Tensor, dst: Tensor, src_index: Tensor, dst_index: Tensor, edge: Tensor) -> Tensor:
        """`src` [S, D], `dst` [T, D], both indices [E] and `edge` [E, D] to new embeddings of `dst` [T, D]."""
        message = self.left(dst)[dst_index] + self.edge(edge) + self.right(src)[src_index]
        message = F.relu(self.message_norm(message))
        received = message.new_zeros(dst.shape).index_add_(0, dst_index, message)
        return self.output(torch.cat([self.norm(self.final(received)), dst], dim=-1))


class GNNTrunk(nn.Module):
    """`GNNPolicy` without its heads: feature embeddings and two rounds of messages.

    With `recompute` the activations inside each half round are computed again for the gradient.
    """

    recompute = False

    def __init__(self, dim: int, state_numbers: int = 0) -> None:
        super().__init__()
        self.features = CONSTRAINT_FEATURES + state_numbers, VARIABLE_FEATURES + state_numbers
        self.constraint_embedding, self.variable_embedding = (_embedding(width, dim) for width in self.features)
        self.edge_embedding = _embedding(EDGE_FEATURES, dim)
        self.to_constraints = nn.ModuleList(BipartiteConvolution(dim) for _ in range(2))
        self.to_variables = nn.ModuleList(BipartiteConvolution(dim) for _ in range(2))

    def forward(
        self, constraint_features: Tensor, edge_indices: Tensor, edge_features: Tensor, variable_features: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `GNNPolicy.encode`."""
        check_shapes(constraint_features, edge_indices, edge_features, variable_features, self.features)
        row, column = edge_indices
        c, v = self.constraint_embedding(constraint_features), self.variable_embedding(variable_features)
        edge = self.edge_embedding(edge_features)
        for to_constraints, to_variables in zip(self.to_constraints, self.to_variables, strict=True):
            c = run_part(to_constraints, v, c, column, row, edge, recompute=self.recompute)
            v = run_part(to_variables, c, v, row, column, edge, recompute=self.recompute)
        return c, v


class Edges(NamedTuple):
    """The edges into the nodes of one side, sorted by these, which sum what comes along them."""

    source: Tensor  # int64 [E]
    starts: Tensor  # where the edges of each target begin, int64 [targets]
    scaled: Tensor  # coefficients over the sum of |coefficient| of their target, [E]
    share: Tensor  # 1 over the number of edges of their target, [E]
    total: Tensor  # sum of |coefficient| of each target, [targets, 1]

    @staticmethod
    def into(targets: int, source: Tensor, target: Tensor, coefficient: Tensor) -> "Edges":
        """From coefficients `[E, 1]`."""
        order = target.argsort(stable=True)
        source, target, coefficient = source[order], target[order], coefficient[order].squeeze(1)
        nothing = coefficient.new_zeros(targets)
        total = nothing.index_add(0, target, coefficient.abs()).clamp(min=1e-6)
        degree = nothing.index_add(0, target, torch.ones_like(coefficient))
        starts = degree.long().cumsum(0) - degree.long()
        return Edges(source, starts, coefficient / total[target], 1 / degree[target], total.unsqueeze(1))

    def sum(self, weight: Tensor, message: Tensor) -> Tensor:
        """Sum `weight [E]` times the sources' messages `[S, D]` at the targets: `[targets, D]`."""
        # In half the time of message[source] and index_add, which make [E, D] numbers.
        return F.embedding_bag(self.source, message, self.starts, mode="sum", per_sample_weights=weight.to(message))


class HalfStep(nn.Module):
    """Nodes of one side move after they have heard the other side.

    A node hears two things: the product with its coefficients, divided by the sum of their absolute values, and a mean
    over its neighbours. It also sees its current and its first values.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.product, self.mean = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.norm, self.step = nn.LayerNorm(dim), _two_layers(4 * dim, dim)

    def forward(self, h: Tensor, start: Tensor, other: Tensor, edges: Edges) -> Tensor:
        """`h` and `start` `[T, D]` of this side, normalised `other` `[S, D]` of the other, to new `h` `[T, D]`."""
        product = edges.sum(edges.scaled, self.product(other))
        mean = edges.sum(edges.share, self.mean(other).relu())
        return h + self.step(torch.cat([self.norm(h), product, mean, start], dim=1))


class SolverTrunk(nn.Module):
    """Rounds of message passing that share their weights and have the shape of a preconditioned PDHG step.

    PDHG (the primal-dual hybrid gradient method) moves x along `A'y + c`, extrapolates to `2 x' - x`, and moves y along
    `A (2 x' - x) - b`. Preconditioned PDHG divides each product by the sum of the absolute coefficients of its row or
    column. A round does the same with `dim` numbers per node instead of one. Variables receive `A'` times the
    constraints. Constraints receive `A` times the extrapolated variables. Both also receive a plain mean and their own
    input. The network learns what to multiply and how to move.

    Because the rounds share their weights, `rounds` may be raised after training, for larger LPs.

    Sources:

    - Chambolle and Pock, "A first-order primal-dual algorithm", 2011.
    - Pock and Chambolle, "Diagonal preconditioning for first order primal-dual algorithms", 2011.
    - Li et al., "PDHG-unrolled learning-to-optimize method for large-scale linear programming" (PDHG-Net), 2024.
    - Xu et al., "What can neural networks reason about?" (algorithmic alignment), 2020.

    Args:
        constraint_features, variable_features: how many numbers a node of each type has.
        dim: width of the embeddings.
        rounds: number of rounds, one per solver step.

    >>> trunk = SolverTrunk(3, 5, dim=8, rounds=2)
    >>> edges = torch.tensor([[0, 0, 1], [0, 1, 1]])
    >>> c, v = trunk(torch.ones(2, 3), edges, torch.ones(3, 1), torch.ones(2, 5))
    >>> c.shape, v.shape
    (torch.Size([2, 8]), torch.Size([2, 8]))
    """

    recompute = False

    def __init__(self, constraint_features: int, variable_features: int, dim: int, rounds: int = 8) -> None:
        super().__init__()
        self.rounds, self.features = rounds, (constraint_features, variable_features)
        # One more input: the logarithm of the sum of a node's absolute coefficients.
        self.constraint_embedding = _two_layers(constraint_features + 1, dim)
        self.variable_embedding = _two_layers(variable_features + 1, dim)
        self.to_constraints, self.to_variables = HalfStep(dim), HalfStep(dim)

    def forward(
        self, constraint_features: Tensor, edge_indices: Tensor, edge_features: Tensor, variable_features: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `GNNPolicy.encode`; each embedding is layer-normed."""
        check_shapes(constraint_features, edge_indices, edge_features, variable_features, self.features)
        row, column = edge_indices
        to_rows = Edges.into(len(constraint_features), column, row, edge_features)
        to_columns = Edges.into(len(variable_features), row, column, edge_features)
        c_start = self.constraint_embedding(torch.cat([constraint_features, to_rows.total.log()], dim=1))
        v_start = self.variable_embedding(torch.cat([variable_features, to_columns.total.log()], dim=1))
        c, v = c_start, v_start
        for _ in range(self.rounds):
            if self.recompute and torch.is_grad_enabled():
                c, v = checkpoint(self._round, c, v, c_start, v_start, to_rows, to_columns, use_reentrant=False)
            else:
                c, v = self._round(c, v, c_start, v_start, to_rows, to_columns)
        return F.layer_norm(c, c.shape[-1:]), F.layer_norm(v, v.shape[-1:])

    def _round(
        self, c: Tensor, v: Tensor, c_start: Tensor, v_start: Tensor, to_rows: Edges, to_columns: Edges
    ) -> tuple[Tensor, Tensor]:
        moved = self.to_variables(v, v_start, self.to_constraints.norm(c), to_columns)
        extrapolated = self.to_variables.norm(2 * moved - v)
        return self.to_constraints(c, c_start, extrapolated, to_rows), moved


def _two_layers(features: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, dim), nn.ReLU(), nn.Linear(dim, dim))
