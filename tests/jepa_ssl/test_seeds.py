"""Draws by instance: the same in any order of the batch, in any company, whatever computes them."""

from collections import Counter
from dataclasses import replace
from typing import Any

import oracles
import pytest
import torch
from builders import seeded
from hypothesis import given
from hypothesis import strategies as st
from random_graphs import two_types
from scipy.stats import chi2_contingency, chisquare, kstest
from torch import Tensor
from torch.nn.functional import pad

from jepa_ssl import (
    BipartiteGraph,
    BlockMasker,
    ComposeMaskers,
    EdgeMasker,
    EntryMasker,
    FlatVectors,
    MultiView,
    NodeMasker,
    seeds,
)
from jepa_ssl.lp import flatten, valid_entries
from jepa_ssl.maskers import GaussianNoise, Seeds, Shuffled
from jepa_ssl.seeds import batch_normal, batch_uniform, normal_like, random_keys
from jepa_ssl.segments import places_in
from jepa_ssl.splitmix import GOLDEN, mix_tensor, mixed_bits, shifted_

KINDS = ("constraint", "variable")
ENTRIES = 11  # LPs of 2 rows and 3 columns


@pytest.mark.parametrize(
    "masker",
    [
        EntryMasker(0.5),
        EntryMasker(0.5, GaussianNoise(1.0)),
        EntryMasker(0.4, Shuffled()),
        ComposeMaskers(EntryMasker(0.9), EntryMasker(0.9)),  # spares one
    ],
)
def test_padding_between_the_entries_of_an_lp_does_not_move_its_draw(masker: Any):
    """In `[vec(A), b, c]` the padded columns of one row of A stand before the next row."""
    A, b, c = (torch.randn(*shape, generator=seeded(0)) for shape in ((9, 2, 3), (9, 2), (9, 3)))

    def visible(m: int, n: int) -> Tensor:
        padded = (pad(A, (0, n - 3, 0, m - 2)), pad(b, (0, m - 2)), pad(c, (0, n - 3)))
        real = valid_entries(torch.arange(m).expand(9, m) < 2, torch.arange(n).expand(9, n) < 3)
        context = masker(FlatVectors(flatten(*padded), real), generator=Seeds(torch.arange(9))).context
        return context.values[real]

    for m, n in ((3, 3), (2, 4), (5, 7)):  # between the entries, and behind them all
        torch.testing.assert_close(visible(m, n), visible(2, 3), rtol=0, atol=0)
    unpadded = masker(flatten(A, b, c), generator=Seeds(torch.arange(9))).context
    assert torch.equal(unpadded.flatten(), visible(2, 3))


def test_other_names_epochs_and_draws_are_other_numbers():
    values, names = torch.ones(50, 20), torch.arange(50)
    masker = EntryMasker(0.5)
    first = masker.draw(values, generator=Seeds(names))["instance"]
    same = Seeds(names)
    assert torch.equal(first, masker.draw(values, generator=same)["instance"])
    second = masker.draw(values, generator=same)["instance"]  # it moves on
    epoch = masker.draw(values, generator=Seeds(names, epoch=1))["instance"]
    others = masker.draw(values, generator=Seeds(names + 50))["instance"]
    for other in (second, epoch, others, first.roll(1, 0), epoch.roll(1, 0)):
        assert int((first == other).all(1).sum()) <= 1
        assert abs(float((first == other).float().mean()) - 0.5) < 0.1
    light, heavy = MultiView(masker, masker)(values, generator=Seeds(names))
    assert torch.equal(light.context == 0, first)
    assert torch.equal(heavy.context == 0, second)


@pytest.mark.parametrize("names", [torch.arange(8000), torch.arange(8000) << 32, -torch.arange(8000) * 977])
def test_seeded_draws_are_uniform_and_independent_of_each_other(names: Tensor):
    draws, size = len(names), 6
    ends = torch.arange(draws + 1) * size
    no_edges = torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0, 1)
    graph = BipartiteGraph(torch.ones(draws * size, 1), *no_edges, torch.ones(draws * size, 1), ends, ends)
    nodes = NodeMasker(0.5).draw(graph, generator=Seeds(names))
    of_kind = [nodes[kind].view(draws, size) for kind in KINDS]
    for hidden in (*of_kind, EntryMasker(0.5).draw(torch.ones(draws, size), generator=Seeds(names))["instance"]):
        assert hidden.sum(1).tolist() == [oracles.hidden_count(size, 0.5)] * draws
        seen = Counter(map(tuple, hidden.tolist()))
        assert chisquare(list(seen.values()) + [0] * (20 - len(seen))).pvalue > 1e-3
        neighbours = hidden[:, 0].view(-1, 2).int() @ torch.tensor([2, 1], dtype=torch.int32)
        assert chisquare(torch.bincount(neighbours, minlength=4).tolist()).pvalue > 1e-3
    table = torch.stack([of_kind[0][:, 0] & of_kind[1][:, 0], of_kind[0][:, 0] & ~of_kind[1][:, 0]]).sum(1)
    rest = torch.stack([~of_kind[0][:, 0] & of_kind[1][:, 0], ~of_kind[0][:, 0] & ~of_kind[1][:, 0]]).sum(1)
    p_value = float(chi2_contingency(torch.stack([table, rest]).tolist())[1])  # pyright: ignore[reportArgumentType]
    assert p_value > 1e-3


def test_the_numbers_are_those_of_splitmix64():
    # The stream of SplitMix64 with the state 1234567, after Vigna's C code, with its two lowest bits shifted out.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    state = 1234567 + GOLDEN * torch.arange(1, 5)
    on_gpu = state.clone()
    mix_tensor(on_gpu)
    for numbers in (mixed_bits(state), on_gpu):
        assert shifted_(numbers, 2).tolist() == [number >> 2 for number in expected]


def test_seeded_noise_is_normal_and_of_each_instance():
    values, instance = torch.zeros(300, 40, dtype=torch.float64), torch.arange(300) // 3
    noise = normal_like(values, Seeds(torch.arange(100)), lambda: instance)
    assert kstest(noise.flatten().tolist(), "norm").pvalue > 1e-3
    assert noise.unique().numel() == noise.numel()
    for dtype in (torch.float16, torch.float32):
        narrow = normal_like(values.to(dtype), Seeds(torch.arange(100)), lambda: instance)
        assert torch.equal(narrow, noise.to(dtype))


def batch_draws(seeds: Seeds) -> tuple[Tensor, ...]:
    like = torch.empty(500, 4)
    return batch_normal(seeds, like), batch_uniform(seeds, like)


def test_a_draw_of_the_batch_depends_on_names_epoch_and_earlier_draws():
    names = torch.arange(5)
    first, seeds = batch_draws(Seeds(names)), Seeds(names)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert all(map(torch.equal, first, batch_draws(seeds)))
    assert all(map(torch.equal, first, batch_draws(Seeds(names.flip(0)))))  # a batch has the same draw in any order
    for other in (seeds, Seeds(names, epoch=1), Seeds(names + 1), Seeds(names[:4])):
        assert not any(map(torch.equal, first, batch_draws(other)))
    assert torch.equal(state, torch.get_rng_state())


def test_draws_of_the_batch_are_normal_and_uniform():
    normal, uniform = batch_draws(Seeds(torch.arange(5)))
    assert kstest(normal.flatten().tolist(), "norm").pvalue > 1e-3
    assert kstest(uniform.flatten().tolist(), "uniform").pvalue > 1e-3
    assert float(uniform.min()) >= 0.0
    assert float(uniform.max()) < 1.0


def test_draws_of_the_batch_without_seeds_are_those_of_torch():
    like = torch.empty(3, 2, dtype=torch.float64)
    for draw, plain in ((batch_normal, like.clone().normal_), (batch_uniform, like.clone().uniform_)):
        assert torch.equal(draw(seeded(3), like), plain(generator=seeded(3)))


def test_draws_of_the_batch_compile_to_one_graph_and_ask_the_device_for_no_number():
    def draw(seeds: Seeds, like: Tensor) -> tuple[Tensor, Tensor]:
        return batch_normal(seeds, like), batch_uniform(seeds, like)

    compiled = torch.compile(draw, fullgraph=True, backend="eager", dynamic=True)
    for size in (3, 5):
        like = torch.empty(size, 2)
        assert all(map(torch.equal, compiled(Seeds(torch.arange(4)), like), draw(Seeds(torch.arange(4)), like)))
    names = torch.arange(3, device="meta")
    draw(Seeds(names), torch.empty(3, device="meta"))


@given(st.lists(st.integers(0, 5), max_size=30))
def test_places_count_the_items_before_in_the_same_group(group: list[int]):
    expected = [group[:i].count(number) for i, number in enumerate(group)]
    assert places_in(torch.tensor(group, dtype=torch.int64)).tolist() == expected


def test_a_generator_is_not_asked_for_places():
    def never() -> Tensor:
        raise AssertionError

    assert random_keys(seeded(), torch.zeros(5, dtype=torch.int64), never).shape == (5,)


@pytest.mark.slow
def test_compiled_draws_are_those_of_the_eager_ones():
    names = torch.tensor([4, 9])
    graph = two_types([(8, 6, 20), (5, 7, 12)])
    flat = torch.randn(2, ENTRIES)
    # In inductor's C++ a product of int64 that overflows is undefined: the first one looks at the code that is run.
    cases = (EntryMasker(0.5), flat, "inductor"), (BlockMasker(0.5), graph, "eager"), (EdgeMasker(0.5), graph, "eager")
    for masker, instance, backend in cases:

        def draw(masker: Any = masker, instance: Any = instance) -> Any:
            return masker.draw(instance, generator=Seeds(names, epoch=2))

        eager, compiled = draw(), torch.compile(draw, fullgraph=True, backend=backend)()
        assert all(torch.equal(marks, compiled[stream]) for stream, marks in eager.items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_the_same():
    names = torch.arange(3)
    graph = two_types([(8, 6, 20)] * 3)
    for masker in (NodeMasker(0.5), BlockMasker(0.5), NodeMasker(0.4, Shuffled())):
        here = masker(graph, generator=Seeds(names)).context
        there = masker(graph.to("cuda"), generator=Seeds(names.to("cuda"))).context.to("cpu")
        assert all(torch.equal(here.values()[stream], values) for stream, values in there.values().items())


def test_names_that_do_not_fit_are_refused():
    for names in (torch.ones(3), torch.ones(2, 2, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"names is torch\.\w+ \[.*int64 \[instances\].*number in the data set"):
            Seeds(names)
    with pytest.raises(ValueError, match=r"epoch is -1.*at least 0"):
        Seeds(torch.arange(2), epoch=-1)
    graph = two_types([(3, 3, 4), (2, 2, 2)])
    for masker, instance in ((EntryMasker(0.5), torch.ones(2, 6)), (NodeMasker(0.5), graph)):
        with pytest.raises(ValueError, match=r"Seeds of 3 names, but there are 2 instances; name each"):
            masker(instance, generator=Seeds(torch.arange(3)))
        with pytest.raises(ValueError, match=r"Seeds on meta, but the instance is on cpu.*\.to\('cpu'\)"):
            masker(instance, generator=Seeds(torch.arange(2, device="meta")))


def test_the_order_of_edges_within_a_graph_is_a_part_of_its_name():
    """What an edge is called is where it stands in its graph: batches keep that order, whatever stands between."""
    graph = two_types([(4, 4, 8)])
    turned = replace(graph, edge_index=graph.edge_index.flip(1), edge_attr=graph.edge_attr.flip(0))
    masker = EdgeMasker(0.5)
    first, second = (masker.draw(batch, generator=Seeds(torch.tensor([1])))["edge"] for batch in (graph, turned))
    assert torch.equal(first, second)


def test_the_device_of_the_model_is_seeded_and_no_other(monkeypatch: pytest.MonkeyPatch):
    before = {index: torch.Generator().manual_seed(index).get_state() for index in (0, 1)}
    states, make = dict(before), torch.Generator
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states[device.index])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: states.update({device.index: state}))
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: states.update({0: before[1]}))
    monkeypatch.setattr(torch, "Generator", lambda device: make())
    with seeds.seeded(5, torch.device("cuda:1")):  # while cuda:0 is the current device
        assert states[0] is before[0]
        assert torch.equal(states[1], make().manual_seed(5).get_state())
    assert all(states[index] is before[index] for index in before)
