"""Turn LPs into samples, and samples into batches: flat and padded for the MLP, bipartite graphs for the GNN.

Both kinds of batch are made from the same samples, so both networks solve the same LPs. Every row of A is a constraint
node, including the rows of bounds and equalities.
"""

import signal
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from data.lp import LP
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch_geometric.data import Batch, Data

CACHED_SAMPLES, CACHED_BYTES = 1024, 2**28  # of a data set, in each process that reads it
SIGNALS = (signal.SIGTERM, signal.SIGINT)  # that end a run


class BipartiteData(Data):
    """One LP as a graph; PyG's `Batch` joins several.

    Fields:

    - `constraint_features [m, 3]`: b, mean coefficient, log(1 + degree).
    - `variable_features [n, 5]`: c, mean, least and greatest coefficient, log(1 + degree).
    - `edge_index [2, E]`: row 0 the constraint, row 1 the variable.
    - `edge_attr [E, 1]`: the coefficient.

    Only nonzero coefficients count. If a node has none, these features are 0.
    """

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        if key == "edge_index":
            return torch.tensor([[self.constraint_features.shape[0]], [self.variable_features.shape[0]]])
        return super().__inc__(key, value, *args, **kwargs)


@dataclass(frozen=True)
class Sample:
    """One LP in float32. The graph's edges are also its A, row by row."""

    name: str
    graph: BipartiteData
    b: Tensor  # [m]
    c: Tensor  # [n]

    @property
    def nbytes(self) -> int:
        parts: Any = (*self.graph.to_dict().values(), self.b, self.c)
        return sum(part.nbytes for part in parts if isinstance(part, Tensor))


class FlatBatch(NamedTuple):
    """The input of `KKTNetMLP` and `kkt_loss`, padded with zeros to the run's largest (M, N)."""

    model_input: Tensor  # [B, M*N + M + N], rows of A one after another, then b, then c
    A: Tensor  # [B, M, N]
    b: Tensor  # [B, M]
    c: Tensor  # [B, N]
    mask_m: Tensor  # [B, M], 1.0 on real rows
    mask_n: Tensor  # [B, N], 1.0 on real columns


class GraphBatch(NamedTuple):
    """The input of `GNNPolicy` and `kkt_loss`, padded with zeros to the batch's largest (M, N)."""

    batch_graph: Any  # PyG's Batch of BipartiteData, with `constraint_features_ptr` and `variable_features_ptr`
    A: Tensor  # as in `FlatBatch`
    b: Tensor
    c: Tensor
    mask_m: Tensor
    mask_n: Tensor
    m_sizes: Tensor  # [B] int64
    n_sizes: Tensor  # [B] int64


def prepare(lp: LP) -> Sample:
    """Turn an LP into a sample.

    Raises ValueError with the LP's name if A, b and c do not fit each other, or an index points outside A. Also if a
    value is not finite in float32, or A has no nonzero coefficient.
    """
    m, n = lp.rows, lp.columns
    columns, coefficient = _checked_entries(lp)
    rows = torch.arange(m).repeat_interleave(torch.tensor(np.diff(lp.A.indptr)))
    edges, b, c = torch.stack([rows, columns]), torch.tensor(lp.b), torch.tensor(lp.c)
    of_rows, of_columns = node_features(edges, coefficient, b, c)
    graph = BipartiteData(
        constraint_features=of_rows.float(),
        variable_features=of_columns.float(),
        edge_index=edges,
        edge_attr=coefficient.float().unsqueeze(1),
        num_nodes=m + n,
    )
    return Sample(lp.name, graph, b.float(), c.float())


def node_features(edge_index: Tensor, coefficient: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The features of `BipartiteData`, constraints `[m, 3]` and variables `[n, 5]`, from edges `[2, E]` and `[E]`."""
    (rows, columns), one = edge_index, torch.ones_like(coefficient)

    def reduced(index: Tensor, like: Tensor, how: str, value: Tensor = coefficient) -> Tensor:
        return value.new_zeros(len(like)).scatter_reduce(0, index, value, how, include_self=False)

    of_rows = [b, reduced(rows, b, "mean"), reduced(rows, b, "sum", one).log1p()]
    of_columns = [c, *(reduced(columns, c, how) for how in ("mean", "amin", "amax"))]
    of_columns += [reduced(columns, c, "sum", one).log1p()]
    return torch.stack(of_rows, dim=1), torch.stack(of_columns, dim=1)


def _checked_entries(lp: LP) -> tuple[Tensor, Tensor]:
    """The columns and the coefficients of A's entries; a bad LP would be wired into its neighbours, or train on NaN."""
    m, n = lp.rows, lp.columns
    if lp.A.shape != (m, n):
        raise ValueError(
            f"LP {lp.name!r}: A has shape {lp.A.shape}, expected {(m, n)}, the lengths of b and c; "
            "each constraint node needs one row of A, each variable node one column."
        )
    if not np.any(lp.A.data):
        raise ValueError(f"LP {lp.name!r}: A has no nonzero coefficient, so no graph; leave this LP out.")
    columns = torch.tensor(lp.A.indices, dtype=torch.int64)
    if columns.min() < 0 or columns.max() >= n:  # scipy does not look
        raise ValueError(
            f"LP {lp.name!r}: A has entries in columns {int(columns.min())} to {int(columns.max())}, "
            f"expected 0 to {n - 1}; such an edge would end in another graph of the batch."
        )
    for kind, value in (("A", lp.A.data), ("b", lp.b), ("c", lp.c)):
        if not torch.tensor(value).float().isfinite().all():
            raise ValueError(f"LP {lp.name!r}: {kind} has a value not finite in float32; rescale the LP.")
    return columns, torch.tensor(lp.A.data)


class LPDataset(Dataset[Sample]):
    """The samples of some LPs (at least one), each read and prepared when it is first asked for.

    The last 1024 samples are kept, or fewer if these take more than 256 MiB. If `lps` has an attribute `sizes`, as a
    store has, nothing is read to find the largest sizes.
    """

    def __init__(self, lps: Any) -> None:
        if len(lps) == 0:
            raise ValueError("lps is empty, expected at least one LP.")
        self._lps = lps
        self._samples: OrderedDict[int, Sample] = OrderedDict()  # least recently used first
        self._bytes = 0  # of these

    def __len__(self) -> int:
        return len(self._lps)

    def __getitem__(self, index: int) -> Sample:
        sample = self._samples.pop(index, None)
        if sample is None:
            sample = prepare(self._lps[index])
            self._bytes += sample.nbytes
        self._samples[index] = sample
        while len(self._samples) > CACHED_SAMPLES or self._bytes > CACHED_BYTES:
            self._bytes -= self._samples.popitem(last=False)[1].nbytes
        return sample

    def name(self, index: int) -> str:
        return self[index].name

    @property
    def sizes(self) -> tuple[int, int]:
        """The most rows and the most columns of an LP."""
        known = getattr(self._lps, "sizes", None)
        every = range(len(self))
        return known or (max(self._lps[i].rows for i in every), max(self._lps[i].columns for i in every))


def _padded_lps(samples: Sequence[Sample], m: int, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`A, b, c, mask_m, mask_n`, padded to m rows and n columns."""
    A = torch.zeros(len(samples), m, n)
    b, mask_m = torch.zeros(2, len(samples), m)
    c, mask_n = torch.zeros(2, len(samples), n)
    for i, sample in enumerate(samples):
        rows, columns = sample.graph["edge_index"]
        A[i, rows, columns] = sample.graph["edge_attr"][:, 0]
        b[i, : len(sample.b)], mask_m[i, : len(sample.b)] = sample.b, 1.0
        c[i, : len(sample.c)], mask_n[i, : len(sample.c)] = sample.c, 1.0
    return A, b, c, mask_m, mask_n


@dataclass(frozen=True)
class FlatCollate:
    """Collate samples to a `FlatBatch` of a fixed size; raises ValueError for a sample that is larger, by its name."""

    m: int
    n: int

    def __call__(self, samples: Sequence[Sample]) -> FlatBatch:
        for sample in samples:
            if len(sample.b) > self.m or len(sample.c) > self.n:
                raise ValueError(
                    f"LP {sample.name!r} has {len(sample.b)} rows and {len(sample.c)} columns, expected at "
                    f"most m={self.m} and n={self.n}: build model and batches for the largest LP."
                )
        A, b, c, mask_m, mask_n = _padded_lps(samples, self.m, self.n)
        return FlatBatch(torch.cat([A.flatten(1), b, c], dim=1), A, b, c, mask_m, mask_n)


def collate_graphs(samples: Sequence[Sample]) -> GraphBatch:
    """Collate samples to a `GraphBatch`."""
    graphs, m_sizes, n_sizes = zip(*((s.graph, len(s.b), len(s.c)) for s in samples), strict=True)
    batch_graph = Batch.from_data_list(list(graphs), follow_batch=["constraint_features", "variable_features"])
    padded = _padded_lps(samples, max(m_sizes), max(n_sizes))
    return GraphBatch(batch_graph, *padded, torch.tensor(m_sizes), torch.tensor(n_sizes))


def check_flat_fits(m: int, n: int, batch_size: int, hidden: int) -> None:
    """Raise ValueError if the first layer of an MLP and its batches do not fit into this machine's memory.

    Of the first layer this counts the weight, its gradient, Adam's two moments and a teacher's copy. Of a batch it
    counts the flat input, a second view of it, and dense A. All are in float32. Activations and the other layers need
    more memory.
    """
    free = psutil.virtual_memory().available
    width = m * n + m + n
    needed = 4 * (5 * width * hidden + batch_size * (2 * width + m * n))
    if needed > free:
        raise ValueError(
            f"The MLP for m={m}, n={n}, hidden={hidden}, batch_size={batch_size} needs at least "
            f"{needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free: "
            "use --use_bipartite_graphs, whose model does not grow with the LP, or smaller LPs."
        )


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """The order of `count` samples in an epoch. Only seed and epoch determine it."""
    if seed < 0 or epoch < 0:
        raise ValueError(f"seed is {seed} and epoch is {epoch}, expected both to be at least 0.")
    return np.random.default_rng([seed, epoch]).permutation(count).tolist()


def batches(order: Sequence[int], batch_size: int) -> list[list[int]]:
    """Cut `order` into pieces of `batch_size`; the last one may be smaller.

    >>> batches([3, 1, 2], 2)
    [[3, 1], [2]]
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected at least 1.")
    return [list(order[i : i + batch_size]) for i in range(0, len(order), batch_size)]


def make_loader(
    dataset: LPDataset, collate: Callable[[Sequence[Sample]], Any], batches: list[list[int]], num_workers: int
) -> DataLoader[Any]:
    """Read exactly these batches, in this order, and leave the global random state alone."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=num_workers,
        worker_init_fn=_ignore_signals,
        generator=torch.Generator(),  # draws the workers' seeds
    )


def _ignore_signals(worker: int) -> None:
    """A signal reaches the workers too, and must not end them before the running step."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
