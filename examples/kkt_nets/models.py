"""The two KKT networks: an MLP on flat LPs of one size, and a bipartite GNN on LPs of any size."""

from argparse import Namespace

import torch
from data import seen
from graph_trunks import CONSTRAINT_FEATURES, VARIABLE_FEATURES, GNNTrunk, SolverTrunk, run_part
from torch import Tensor, nn
from torch.nn import functional as F


class FlatTrunk(nn.Sequential):
    """A sequence of layers whose activations may be computed again for the gradient."""

    recompute = False

    def forward(self, input: Tensor) -> Tensor:
        return run_part(super().forward, input, recompute=self.recompute)


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
        """Map `[B, m*n + m + n]`, and the numbers of states if there are any, to `[B, n + m]`: x, then lam >= 0."""
        if flat.shape[-1] != self.width:
            entries = f"m*n+{1 + self.state_numbers}*(m+n)" if self.state_numbers else "m*n+m+n"
            raise ValueError(
                f"flat has shape {tuple(flat.shape)}, expected {entries} = {self.width} as its last dimension "
                f"for m={self.m}, n={self.n}: pad each batch to the sizes that the model was built with."
            )
        features = self.net(flat)
        return torch.cat([self.head_x(features), self.head_lam(features)], dim=-1)


def _orthogonal(layer: nn.Module) -> None:
    """Orthogonal weights and no bias, as in Gasse et al. Default biases would make nodes nearly equal at first."""
    if isinstance(layer, nn.Linear):
        nn.init.orthogonal_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


class GNNPolicy(nn.Module):
    """Maps bipartite graphs of LPs to x on the variables and lam on the constraints.

    Args:
        args: the run's options. `embedding_size` is read, and `seen_steps` if given: each step count adds two numbers
            of a solver's state to the features of each node. With `trunk="solver"` the trunk is a `SolverTrunk` of
            `rounds` rounds.

    >>> edges = torch.tensor([[0, 0, 1], [0, 1, 1]])  # x0 and x1 in constraint 0, x1 in constraint 1
    >>> x, lam = GNNPolicy(Namespace(embedding_size=16))(torch.zeros(2, 3), edges, torch.ones(3, 1), torch.zeros(2, 5))
    >>> x.shape, lam.shape
    (torch.Size([2]), torch.Size([2]))

    Source: Gasse et al., "Exact Combinatorial Optimization with Graph Convolutional Neural Networks", 2019, which has
    one round. Here the features are numbers of the LP, embedded by a small MLP for each kind.
    """

    def __init__(self, args: Namespace) -> None:
        super().__init__()
        dim = getattr(args, "embedding_size", None)
        if not isinstance(dim, int) or dim < 1:
            raise ValueError(f"args.embedding_size is {dim!r}, expected a positive integer such as 64.")
        self.embedding_size = dim
        state_numbers = seen.numbers(args)
        if getattr(args, "trunk", "convolutions") == "solver":
            features = CONSTRAINT_FEATURES + state_numbers, VARIABLE_FEATURES + state_numbers
            self.trunk = SolverTrunk(*features, dim, args.rounds)
        else:
            self.trunk = GNNTrunk(dim, state_numbers)
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
