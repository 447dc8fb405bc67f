"""Samples, batches and orders against the LPs they were made from."""

from argparse import Namespace
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from data import batches as dataset
from data.batches import (
    FlatCollate,
    LPDataset,
    batches,
    check_flat_fits,
    collate_graphs,
    epoch_order,
    make_loader,
    prepare,
)
from data.lp import LP
from hypothesis import given, settings
from hypothesis import strategies as st
from loop.step import Deal
from losses import kkt_loss, pad_predictions
from models import GNNPolicy
from scipy.sparse import csr_array


def make_lp(m, n, seed=0, name="tiny", density=0.6):
    """Values that float32 holds exactly, so that comparisons can be exact."""
    rng = np.random.default_rng(seed)
    A = rng.integers(-8, 9, (m, n)) * (rng.random((m, n)) < density) / 4.0
    A[rng.integers(m), rng.integers(n)] = 1.5  # never without a coefficient
    return LP(name, "file", csr_array(A), rng.integers(-8, 9, m) / 4.0, rng.integers(-8, 9, n) / 4.0)


@pytest.fixture
def lps():
    return [make_lp(m, n, seed, f"lp{seed}") for seed, (m, n) in enumerate([(4, 3), (1, 1), (2, 6), (5, 2)])]


class CountedReads:
    """A lazy sequence, as a folder of LPs is one."""

    def __init__(self, lps, **known):
        self.lps, self.reads = lps, []
        self.__dict__.update(known)

    def __len__(self):
        return len(self.lps)

    def __getitem__(self, i):
        self.reads.append(i)
        return self.lps[i]


# ---- samples ---------------------------------------------------------------------------------------------------------


@given(m=st.integers(1, 6), n=st.integers(1, 6), seed=st.integers(0, 99), density=st.floats(0, 1))
@settings(deadline=None, max_examples=60)
def test_features_equal_the_loops(m, n, seed, density):
    lp = make_lp(m, n, seed, density=density)
    A = lp.A.toarray()
    graph: Any = prepare(lp).graph
    edges = [(i, j) for i in range(m) for j in range(n) if A[i, j]]
    assert graph.edge_index.T.tolist() == [list(edge) for edge in edges]
    assert graph.edge_attr[:, 0].tolist() == [A[edge] for edge in edges]
    assert graph.num_nodes == m + n
    for i in range(m):
        row = [a for a in A[i] if a] or [0.0]
        degree = np.count_nonzero(A[i])
        expected = [lp.b[i], sum(row) / len(row), np.log1p(degree)]
        assert graph.constraint_features[i].tolist() == pytest.approx(expected, rel=1e-6)
    for j in range(n):
        column = [a for a in A[:, j] if a] or [0.0]
        degree = np.count_nonzero(A[:, j])
        expected = [lp.c[j], sum(column) / len(column), min(column), max(column), np.log1p(degree)]
        assert graph.variable_features[j].tolist() == pytest.approx(expected, rel=1e-6)
    for part in (graph.constraint_features, graph.variable_features, graph.edge_attr):
        assert part.dtype == torch.float32


def test_preparing_leaves_the_lp_alone():
    lp = make_lp(3, 3)
    for part in (lp.A.data, lp.b, lp.c):
        part.flags.writeable = False  # as a memory-mapped file is
    sample = prepare(lp)
    sample.b.zero_()
    assert lp.b.any()


BROKEN = {
    "one row too few in b": (lambda lp: replace(lp, b=lp.b[1:]), r"A has shape \(3, 2\), expected \(2, 2\)"),
    "one column too many in c": (
        lambda lp: replace(lp, c=np.append(lp.c, 1.0)), r"A has shape \(3, 2\), expected \(3, 3\)"
    ),
    "no coefficient": (lambda lp: replace(lp, A=csr_array((3, 2))), "no nonzero coefficient"),
    "only stored zeros": (lambda lp: put(lp, lp.A.data, slice(None), 0), "no nonzero coefficient"),
    "an edge beyond the last variable": (lambda lp: put(lp, lp.A.indices, -1, 2), "columns 0 to 2, expected 0 to 1"),
    "an edge before the first variable": (lambda lp: put(lp, lp.A.indices, 0, -1), "columns -1 to 1, expected 0 to 1"),
    "nan in A": (lambda lp: put(lp, lp.A.data, 0, np.nan), "A has a value not finite"),
    "inf in b": (lambda lp: put(lp, lp.b, 0, np.inf), "b has a value not finite"),
    "float32 overflow in c": (lambda lp: put(lp, lp.c, 0, 1e39), "c has a value not finite in float32"),
}  # fmt: skip


def put(lp, array, place, value):
    array[place] = value
    return lp


@pytest.mark.parametrize(("change", "said"), BROKEN.values(), ids=BROKEN)
def test_a_graph_that_does_not_fit_is_refused_by_name(change, said):
    with pytest.raises(ValueError, match=f"^LP 'odd one': .*{said}"):
        LPDataset([make_lp(2, 2), change(make_lp(3, 2, name="odd one"))])[1]


# ---- the data set ----------------------------------------------------------------------------------------------------


def test_an_lp_is_read_once_until_it_is_the_least_recently_used(lps, monkeypatch):
    monkeypatch.setattr(dataset, "CACHED_SAMPLES", 2)
    source = CountedReads(lps)
    data = LPDataset(source)
    for i in (0, 1, 0, 0, 2, 0, 1):  # 2 drives out 1, since 0 was used later
        assert data[i].name == data.name(i) == f"lp{i}"
    assert source.reads == [0, 1, 2, 1]


def test_large_samples_are_kept_up_to_a_number_of_bytes(lps, monkeypatch):
    sizes = [prepare(lp).nbytes for lp in lps]
    assert sizes[1] == 4 * (1 + 1 + 3 + 5 + 1) + 8 * 2  # b, c, their features, and an edge with its two ends
    monkeypatch.setattr(dataset, "CACHED_BYTES", sizes[0] + sizes[1])
    source = CountedReads(lps)
    data = LPDataset(source)
    for i in (0, 1, 0, 1, 2, 2, 0, 1, 0):  # 2 alone is larger than what is kept
        assert data[i].name == f"lp{i}"
        assert sum(sizes[kept] for kept in data._samples) == data._bytes <= sizes[0] + sizes[1]
    assert source.reads == [0, 1, 2, 2, 0, 1]


def test_sizes_are_found_or_believed(lps):
    assert (LPDataset(lps).sizes, len(LPDataset(lps))) == ((5, 6), 4)
    source = CountedReads(lps, sizes=(50, 60))
    assert LPDataset(source).sizes == (50, 60)
    assert source.reads == []


def test_no_lps_are_refused():
    with pytest.raises(ValueError, match="lps is empty"):
        LPDataset([])


# ---- batches ---------------------------------------------------------------------------------------------------------


def check_padded(batch, lps, M, N):
    for k, lp in enumerate(lps):
        m, n = lp.A.shape
        A, b, c = np.zeros((M, N)), np.zeros(M), np.zeros(N)
        A[:m, :n], b[:m], c[:n] = lp.A.toarray(), lp.b, lp.c
        assert np.array_equal(batch.A[k], A)
        assert np.array_equal(batch.b[k], b)
        assert np.array_equal(batch.c[k], c)
        assert batch.mask_m[k].tolist() == [1.0] * m + [0.0] * (M - m)
        assert batch.mask_n[k].tolist() == [1.0] * n + [0.0] * (N - n)


def test_flat_batch_is_the_lps_padded_to_the_runs_size(lps):
    batch = FlatCollate(7, 6)([prepare(lp) for lp in lps])
    model_input, A, b, c, mask_m, mask_n = batch
    assert model_input.shape == (4, 55)
    assert torch.equal(model_input, torch.cat([A.flatten(1), b, c], 1))
    assert {part.dtype for part in (model_input, A, b, c, mask_m, mask_n)} == {torch.float32}
    check_padded(batch, lps, 7, 6)


@pytest.mark.parametrize(("m", "n"), [(4, 6), (5, 5)])
def test_an_lp_larger_than_the_model_is_refused_by_name(lps, m, n):
    with pytest.raises(ValueError, match=rf"LP 'lp[23]' has .*expected at most m={m} and n={n}"):
        FlatCollate(m, n)([prepare(lp) for lp in lps])


def test_graph_batch_is_the_same_lps_side_by_side(lps):
    batch = collate_graphs([prepare(lp) for lp in lps])
    graph, *_, m_sizes, n_sizes = batch
    assert m_sizes.tolist() == [4, 1, 2, 5]
    assert n_sizes.tolist() == [3, 1, 6, 2]
    assert m_sizes.dtype == n_sizes.dtype == torch.int64
    check_padded(batch, lps, 5, 6)
    assert graph.constraint_features_ptr.tolist() == [0, 4, 5, 7, 12]
    assert graph.variable_features_ptr.tolist() == [0, 3, 4, 10, 12]
    assert graph.num_nodes == 24
    whole = torch.zeros(12, 12)
    whole[graph.edge_index[0], graph.edge_index[1]] = graph.edge_attr[:, 0]
    assert np.array_equal(whole, torch.block_diag(*(torch.tensor(lp.A.toarray()) for lp in lps)))
    assert graph.constraint_features[:, 0].tolist() == [b for lp in lps for b in lp.b]
    assert graph.variable_features[:, 0].tolist() == [c for lp in lps for c in lp.c]


def test_batch_of_one_and_graphs_come_back(lps):
    batch = collate_graphs([prepare(lps[1])])
    assert batch.A.shape == (1, 1, 1)
    back = collate_graphs([prepare(lp) for lp in lps]).batch_graph[2]
    assert torch.equal(back.edge_index, prepare(lps[2]).graph["edge_index"])


def test_a_batch_trains_on_what_its_lps_train_on_alone(lps):
    torch.manual_seed(0)
    policy = GNNPolicy(Namespace(embedding_size=8)).double()

    def loss(samples):
        graph, A, b, c, mask_m, mask_n, m_sizes, n_sizes = collate_graphs(samples)
        features = graph.constraint_features.double(), graph.variable_features.double()
        x, lam = policy(features[0], graph.edge_index, graph.edge_attr.double(), features[1])
        y = pad_predictions(x, lam, m_sizes, n_sizes, A.shape[1], A.shape[2])
        return kkt_loss(y, A.double(), b.double(), c.double(), mask_m, mask_n)[0]

    samples = [prepare(lp) for lp in lps]
    alone = sum(float(loss([sample]).detach()) for sample in samples) / len(samples)
    assert float(loss(samples).detach()) == pytest.approx(alone, rel=1e-10)


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_memory_is_counted_and_the_graph_path_recommended(monkeypatch):
    floats = 5 * 11 * 16 + 4 * (2 * 11 + 6)
    with monkeypatch.context() as patched:
        patched.setattr(dataset.psutil, "virtual_memory", lambda: Namespace(available=4 * floats))
        check_flat_fits(3, 2, batch_size=4, hidden=16)
        patched.setattr(dataset.psutil, "virtual_memory", lambda: Namespace(available=4 * floats - 1))
        with pytest.raises(ValueError, match=r"m=3, n=2.*--use_bipartite_graphs"):
            check_flat_fits(3, 2, batch_size=4, hidden=16)
    check_flat_fits(40, 20, batch_size=8, hidden=256)
    with pytest.raises(ValueError, match=r"needs at least 5\d{5}\.\d GiB, and \d+\.\d GiB are free"):
        check_flat_fits(300_000, 400_000, batch_size=1, hidden=256)


# ---- an epoch --------------------------------------------------------------------------------------------------------


def test_order_is_a_permutation_given_by_seed_and_epoch():
    orders = {(seed, epoch): epoch_order(50, seed, epoch) for seed in range(4) for epoch in range(4)}
    assert all(sorted(order) == list(range(50)) for order in orders.values())
    assert len({tuple(order) for order in orders.values()}) == 16
    assert orders[1, 2] == epoch_order(50, seed=1, epoch=2)
    with pytest.raises(ValueError, match="seed is -1"):
        epoch_order(5, seed=-1, epoch=0)


def test_batches_cut_the_order():
    assert batches([4, 2, 0, 1, 3], 2) == [[4, 2], [0, 1], [3]]
    with pytest.raises(ValueError, match="batch_size is 0"):
        batches([0], 0)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_loader_reads_these_batches_and_leaves_the_random_state_alone(lps, num_workers):
    torch.manual_seed(0)
    state, numpy_state = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    plan = batches(epoch_order(4, seed=0, epoch=0), 3)
    loader = make_loader(LPDataset(lps), collate_graphs, plan, num_workers)
    sizes = [batch.m_sizes.tolist() for batch in loader]
    assert sizes == [[lps[i].A.shape[0] for i in batch] for batch in plan]
    assert torch.equal(torch.get_rng_state(), state)
    assert str(np.random.get_state()) == numpy_state  # noqa: NPY002


@given(
    count=st.integers(6, 40), processes=st.integers(1, 3), pieces=st.integers(1, 2), extra=st.integers(0, 5),
    epoch=st.integers(0, 9), done=st.integers(0, 40),
)  # fmt: skip
def test_every_instance_is_dealt_once_an_epoch_and_what_is_left_after_any_step_is_the_rest(
    count, processes, pieces, extra, epoch, done
):
    deals = [Deal(processes * pieces + extra, pieces, processes, rank) for rank in range(processes)]
    order = epoch_order(count, seed=1, epoch=epoch)
    steps = deals[0].steps(order)
    own = [[piece for step in steps[done:] for piece in deal.own(step)] for deal in deals]
    assert all(piece for pieces_of_one in own for piece in pieces_of_one)
    seen = [i for pieces_of_one in own for piece in pieces_of_one for i in piece]
    assert sorted(seen) == sorted(order[sum(map(len, steps[:done])) :])
