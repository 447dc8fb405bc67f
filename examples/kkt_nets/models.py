"""The two KKT networks: an MLP on flat LPs of one size, and a bipartite GNN on LPs of any size."""

from argparse import Namespace
from collections.abc import Callable
from typing import cast

import torch
from data import seen
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

CONSTRAINT_FEATURES = 3  # b, mean coefficient, log(1 + degree)
VARIABLE_FEATURES = 5  # c, mean, least and greatest coefficient, log(1 + degree)
EDGE_FEATURES = 1  # the coefficient


def _run(part: Callable[..., Tensor], *inputs: Tensor, recompute: bool) -> Tensor:
    """`part(*inputs)`. With `recompute` its activations are not kept for the gradient, but computed again."""
    if recompute and torch.is_grad_enabled():
        return cast(Tensor, checkpoint(part, *inputs, use_reentrant=False))
    return part(*inputs)


class FlatTrunk(nn.Sequential):
    """A sequence of layers whose activations may be computed again for the gradient."""

    recompute = False

    def forward(self, input: Tensor) -> Tensor:
        return _run(super().forward, input, recompute=self.recompute)


class KKTNetMLP(nn.Module):
    """Maps a flat LP `[vec(A), b, c]` to a primal-dual pair: trunk `net`, heads `head_x` and `head_lam`.

    Args:
        m, n: rows and columns of A, after padding.
        hidden: width of the trunk.
        state_numbers: how many numbers of a solver's state are appended for each row and each column.

    >>> KKTNetMLP(m=3, n=2)(torch.zeros(8, 3 * 2 + 3 + 2)).shape
    torch.Size([8, 5])
    """

    def __init__(self, m: int, n: int, hidden: int = 256, state_numbers: int = 0) -> None:
        super().__init__()
        self.m, self.n, self.hidden, self.state_numbers = m, n, hidden, state_numbers
        self.width = m * n + (1 + state_numbers) * (m + n)
        first, second, third = nn.Linear(self.width, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.net = FlatTrunk(first, nn.SELU(), second, nn.SELU(), third, nn.SELU())
        self.head_x = nn.Linear(hidden, n)
        self.head_lam = nn.Sequential(nn.Linear(hidden, m), nn.ReLU())

    def forward(self, flat: Tensor) -> Tensor:
        """`[B, m*n + m + n]`, with the numbers of the states if there are any, to `[B, n + m]`: x, then lam >= 0."""
        if flat.shape[-1] != self.width:
            entries = f"m*n+{1 + self.state_numbers}*(m+n)" if self.state_numbers else "m*n+m+n"
            raise ValueError(
                f"flat has shape {tuple(flat.shape)}, expected {entries} = {self.width} as its last dimension "
                f"for m={self.m}, n={self.n}: pad each batch to the sizes that the model was built with."
            )
        features = self.net(flat)
        return torch.cat([self.head_x(features), self.head_lam(features)], dim=-1)


def _embedding(features: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())


def _orthogonal(layer: nn.Module) -> None:
    """Orthogonal weights and no bias, as in Gasse et al. With torch's default biases, nodes start out nearly alike."""
    if isinstance(layer, nn.Linear):
        nn.init.orthogonal_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


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
        # Shapes alone: looking at the indices' values would wait for the device.
        named = {"constraint_features": constraint_features, "variable_features": variable_features}
        named["edge_features"] = edge_features
        for (name, value), width in zip(named.items(), (*self.features, EDGE_FEATURES), strict=True):
            if value.dim() != 2 or value.shape[1] != width:
                raise ValueError(f"{name} has shape {tuple(value.shape)}, expected [items, {width}].")
        expected = (2, edge_features.shape[0])
        if tuple(edge_indices.shape) != expected:
            raise ValueError(
                f"edge_indices has shape {tuple(edge_indices.shape)}, expected {expected}: "
                "constraints in row 0, variables in row 1, one column for each row of edge_features."
            )
        row, column = edge_indices
        c, v = self.constraint_embedding(constraint_features), self.variable_embedding(variable_features)
        edge = self.edge_embedding(edge_features)
        for to_constraints, to_variables in zip(self.to_constraints, self.to_variables, strict=True):
            c = _run(to_constraints, v, c, column, row, edge, recompute=self.recompute)
            v = _run(to_variables, c, v, row, column, edge, recompute=self.recompute)
        return c, v


class GNNPolicy(nn.Module):
    """Maps bipartite graphs of LPs to x on the variables and lam on the constraints.

    Args:
        args: the run's options, of which `embedding_size` is read, and `seen_steps` if it is there: each of these adds
            two numbers of a solver's state to the features of each node.

    >>> edges = torch.tensor([[0, 0, 1], [0, 1, 1]])  # x0 and x1 in constraint 0, x1 in constraint 1
    >>> x, lam = GNNPolicy(Namespace(embedding_size=16))(torch.zeros(2, 3), edges, torch.ones(3, 1), torch.zeros(2, 5))
    >>> x.shape, lam.shape
    (torch.Size([2]), torch.Size([2]))

    Source: Gasse et al., "Exact Combinatorial Optimization with Graph Convolutional Neural Networks", 2019,
    which has one round; features here are numbers of the LP, embedded by a small MLP for each kind.
    """

    def __init__(self, args: Namespace) -> None:
        super().__init__()
        dim = getattr(args, "embedding_size", None)
        if not isinstance(dim, int) or dim < 1:
            raise ValueError(f"args.embedding_size is {dim!r}, expected a positive integer such as 64.")
        self.embedding_size = dim
        self.trunk = GNNTrunk(dim, seen.numbers(args))
        head = [nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1)) for _ in range(2)]
        self.head_x, self.head_lam = head
        self.apply(_orthogonal)

    def encode(
        self, constraint_features: Tensor, edge_indices: Tensor, edge_features: Tensor, variable_features: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Embeddings of the constraints [sum_m, D] and of the variables [sum_n, D].

        Args:
            constraint_features: `[sum_m, CONSTRAINT_FEATURES]`, and the numbers of states if there are any.
            edge_indices: `[2, E]` int64; row 0 counts constraints, row 1 variables, over the whole batch.
            edge_features: `[E, EDGE_FEATURES]`.
            variable_features: `[sum_n, VARIABLE_FEATURES]`, and the numbers of states if there are any.
        """
        return self.trunk(constraint_features, edge_indices, edge_features, variable_features)

    def forward(
        self, constraint_features: Tensor, edge_indices: Tensor, edge_features: Tensor, variable_features: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`(x_all [sum_n], lam_all [sum_m])`, lam > 0; arguments as in `encode`."""
        c, v = self.encode(constraint_features, edge_indices, edge_features, variable_features)
        # softplus, not ReLU: a multiplier that starts at zero still gets a gradient
        return self.head_x(v).squeeze(-1), F.softplus(self.head_lam(c).squeeze(-1))
