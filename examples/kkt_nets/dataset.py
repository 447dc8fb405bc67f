"""LPs as samples, and samples as batches: flat and padded for the MLP, bipartite graphs for the GNN.

Both kinds of batch are made from one sample, so that both networks solve the same LP: every row of A, those
of bounds and equalities included, is a constraint node.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import psutil
import torch
from interrupts import left_to_the_main_process
from lp import LP
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch_geometric.data import Batch, Data

CACHED_SAMPLES, CACHED_BYTES = 1024, 2**28  # of a data set, in each process that reads it


class BipartiteData(Data):
    """One LP as a graph, or by PyG's `Batch` several.

    Fields: `constraint_features` [m, 3] of (b, mean coefficient, log(1 + degree)); `variable_features` [n, 5]
    of (c, mean, least, greatest coefficient, log(1 + degree)); `edge_index` [2, E], constraint over variable;
    `edge_attr` [E, 1], the coefficient. Only nonzero coefficients count; features are 0 where a node has none.
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
        graph: Any = self.graph
        features = graph.constraint_features, graph.variable_features
        return sum(part.nbytes for part in (*features, graph.edge_index, graph.edge_attr, self.b, self.c))


class FlatBatch(NamedTuple):
    """What `KKTNetMLP` and `kkt_loss` take, padded with zeros to the run's largest (M, N)."""

    model_input: Tensor  # [B, M*N + M + N], rows of A one after another, then b, then c
    A: Tensor  # [B, M, N]
    b: Tensor  # [B, M]
    c: Tensor  # [B, N]
    mask_m: Tensor  # [B, M], 1.0 on real rows
    mask_n: Tensor  # [B, N], 1.0 on real columns


class GraphBatch(NamedTuple):
    """What `GNNPolicy` and `kkt_loss` take, padded with zeros to the batch's largest (M, N)."""

    batch_graph: Any  # PyG's Batch of BipartiteData, with `constraint_features_ptr` and `variable_features_ptr`
    A: Tensor  # [B, M, N]
    b: Tensor  # [B, M]
    c: Tensor  # [B, N]
    mask_m: Tensor  # [B, M], 1.0 on real rows
    mask_n: Tensor  # [B, N], 1.0 on real columns
    m_sizes: Tensor  # [B] int64
    n_sizes: Tensor  # [B] int64


# ---- from an LP to a sample --------------------------------------------------------------------------------


def prepare(lp: LP) -> Sample:
    """The LP as a sample.

    Raises:
        ValueError: A, b and c do not fit each other, an entry points outside A, a value is not finite in
            float32, or A has no nonzero coefficient; the message has the LP's name. Such a graph would be wired
            into its neighbours in a batch, or train on NaN.
    """
    m, n = len(lp.b), len(lp.c)
    if lp.A.shape != (m, n):
        raise ValueError(
            f"LP {lp.name!r}: A has shape {lp.A.shape}, expected {(m, n)}, the lengths of b and c; "
            "each constraint node needs one row of A, each variable node one column."
        )
    if not np.any(lp.A.data):
        raise ValueError(f"LP {lp.name!r}: A has no nonzero coefficient, so no graph; leave this LP out.")
    rows = torch.arange(m).repeat_interleave(torch.tensor(np.diff(lp.A.indptr)))
    columns = torch.tensor(lp.A.indices, dtype=torch.int64)
    if columns.min() < 0 or columns.max() >= n:  # scipy does not look
        raise ValueError(
            f"LP {lp.name!r}: A has entries in columns {int(columns.min())} to {int(columns.max())}, "
            f"expected 0 to {n - 1}; such an edge would end in another graph of the batch."
        )
    coefficient, b, c = torch.tensor(lp.A.data), torch.tensor(lp.b), torch.tensor(lp.c)
    for kind, value in (("A", coefficient), ("b", b), ("c", c)):
        if not value.float().isfinite().all():
            raise ValueError(f"LP {lp.name!r}: {kind} has a value not finite in float32; rescale the LP.")

    def reduced(index: Tensor, size: int, how: str, value: Tensor = coefficient) -> Tensor:
        return value.new_zeros(size).scatter_reduce(0, index, value, how, include_self=False)

    one = torch.ones_like(coefficient)
    graph = BipartiteData(
        constraint_features=torch.stack(
            [b, reduced(rows, m, "mean"), reduced(rows, m, "sum", one).log1p()], dim=1
        ).float(),
        variable_features=torch.stack(
            [
                c,
                reduced(columns, n, "mean"),
                reduced(columns, n, "amin"),
                reduced(columns, n, "amax"),
                reduced(columns, n, "sum", one).log1p(),
            ],
            dim=1,
        ).float(),
        edge_index=torch.stack([rows, columns]),
        edge_attr=coefficient.float().unsqueeze(1),
        num_nodes=m + n,
    )
    return Sample(lp.name, graph, b.float(), c.float())


class LPs(Protocol):
    """A list of LPs, or a folder that reads them one by one."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> LP: ...


class LPDataset(Dataset[Sample]):
    """The samples of some LPs. An LP is read and prepared when first asked for; the last are kept.

    At most 1024 of them, and 256 MiB, so that large LPs are not all in memory in the end.

    Args:
        lps: at least one LP. Where it has `max_rows` and `max_columns`, these are believed and nothing is read
            to find the largest sizes.

    Raises:
        ValueError: there is no LP.
    """

    def __init__(self, lps: LPs) -> None:
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
            _, oldest = self._samples.popitem(last=False)
            self._bytes -= oldest.nbytes
        return sample

    def name(self, index: int) -> str:
        return self[index].name

    @property
    def max_rows(self) -> int:
        known = getattr(self._lps, "max_rows", None)
        return max(len(self._lps[i].b) for i in range(len(self))) if known is None else known

    @property
    def max_columns(self) -> int:
        known = getattr(self._lps, "max_columns", None)
        return max(len(self._lps[i].c) for i in range(len(self))) if known is None else known


# ---- from samples to a batch -------------------------------------------------------------------------------


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


def flat_width(m: int, n: int) -> int:
    """Entries of a flat LP with m rows and n columns."""
    return m * n + m + n


@dataclass(frozen=True)
class FlatCollate:
    """Samples to a `FlatBatch` of a fixed size.

    Raises:
        ValueError: a sample is larger than (m, n); the message has its name.
    """

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
    """Samples to a `GraphBatch`."""
    m_sizes = [len(sample.b) for sample in samples]
    n_sizes = [len(sample.c) for sample in samples]
    batch_graph = Batch.from_data_list(
        [sample.graph for sample in samples], follow_batch=["constraint_features", "variable_features"]
    )
    padded = _padded_lps(samples, max(m_sizes), max(n_sizes))
    return GraphBatch(batch_graph, *padded, torch.tensor(m_sizes), torch.tensor(n_sizes))


def check_flat_fits(m: int, n: int, batch_size: int, hidden: int, available_bytes: int | None = None) -> None:
    """Refuses, before it is built, an MLP whose first layer and batches do not fit into memory.

    Counted in float32: the first layer's weight, its gradient, Adam's two moments and a teacher's copy; a
    batch's flat input, a second view of it, and dense A. Activations and the other layers come on top.

    Args:
        available_bytes: free memory of the device; by default this machine's.

    Raises:
        ValueError: it does not fit.
    """
    if available_bytes is None:
        available_bytes = psutil.virtual_memory().available
    layer = 5 * flat_width(m, n) * hidden
    batch = batch_size * (2 * flat_width(m, n) + m * n)
    needed = 4 * (layer + batch)
    if needed > available_bytes:
        raise ValueError(
            f"The MLP for m={m}, n={n}, hidden={hidden}, batch_size={batch_size} needs at least "
            f"{needed / 2**30:.1f} GiB, and {available_bytes / 2**30:.1f} GiB are free: "
            "use --use_bipartite_graphs, whose model does not grow with the LP, or smaller LPs."
        )


# ---- an epoch ----------------------------------------------------------------------------------------------


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """The order of `count` samples in an epoch: determined by seed and epoch, whatever else was drawn before.

    Example:
        >>> epoch_order(5, seed=0, epoch=1) == epoch_order(5, seed=0, epoch=1)
        True
    """
    if seed < 0 or epoch < 0:
        raise ValueError(f"seed is {seed} and epoch is {epoch}, expected both to be at least 0.")
    return np.random.default_rng([seed, epoch]).permutation(count).tolist()


def batches(order: Sequence[int], batch_size: int) -> list[list[int]]:
    """`order` in pieces of `batch_size`, the last one perhaps smaller.

    Example:
        >>> batches([3, 1, 2], 2)
        [[3, 1], [2]]
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected at least 1.")
    return [list(order[i : i + batch_size]) for i in range(0, len(order), batch_size)]


def make_loader(
    dataset: LPDataset, collate: Callable[[Sequence[Sample]], Any], batches: list[list[int]], num_workers: int
) -> DataLoader[Any]:
    """Reads exactly these batches, in this order.

    A loader draws a seed for its workers each time it is iterated over; here it has a generator of its own for
    that, so that the global random state is left alone.
    """
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=num_workers,
        worker_init_fn=left_to_the_main_process,
        generator=torch.Generator(),
    )
