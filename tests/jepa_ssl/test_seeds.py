"""Draws by instance: the same in any order of the batch, in any company, whatever computes them."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import oracles
import pytest
import torch
from builders import seeded
from hypothesis import given
from hypothesis import strategies as st
from random_graphs import SEEDS, SIZES, Sizes, three_types, two_types
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
    Graph,
    MultiView,
    NodeMasker,
)
from jepa_ssl.lp import StructureMasker, flatten, valid_entries
from jepa_ssl.maskers import GaussianNoise, GroupMasker, LearnedToken, Seeds, Shuffled
from jepa_ssl.seeds import (
    _GOLDEN,
    _mixed,
    _shifted,
    batch_normal,
    batch_uniform,
    normal_like,
    random_keys,
)
from jepa_ssl.segments import places_in
from jepa_ssl.testing.batches import same_contents, selected

KINDS = ("constraint", "variable")
ENTRIES = 11  # LPs of 2 rows and 3 columns

SOME = {"has": 0.5, "near": 0.4, "prices": 0}
OF_GRAPHS: dict[str, tuple[Any, Callable[..., Graph]]] = {
    "nodes": (NodeMasker(0.5, indicator=True), two_types),
    "nodes, noise": (NodeMasker(0.3, GaussianNoise(), hide_edges=True, derived={"variable": [0]}), two_types),
    "nodes, shuffled": (NodeMasker({"constraint": 0, "variable": 0.6}, Shuffled()), two_types),
    "edges": (EdgeMasker(0.5, Shuffled(), derived={"constraint": [1]}), two_types),
    "edges, noise": (EdgeMasker(0.4, GaussianNoise(), indicator=True), two_types),
    "blocks": (BlockMasker(0.5, hops=1, blocks=2, hide_edges=True), two_types),
    "composed": (ComposeMaskers(NodeMasker(0.5), EdgeMasker(0.5), BlockMasker(0.5, hops=1)), two_types),
    "several": (MultiView(NodeMasker(0.5), NodeMasker(0.5), EdgeMasker(0.3)), two_types),
    "nodes of three types": (NodeMasker(0.5, GaussianNoise(), hide_edges=True, indicator=True), three_types),
    "edges of three types": (EdgeMasker(SOME, Shuffled(), reverse={"back": "has"}), three_types),
    "blocks of two of three types": (BlockMasker({"row": 0.5, "column": 0.4}, blocks=2), three_types),
    "composed of three types": (
        ComposeMaskers(NodeMasker(0.5, Shuffled()), EdgeMasker(SOME), BlockMasker({"row": 0.4}, hops=3)),
        three_types,
    ),
}
OF_VECTORS = {
    "entries": EntryMasker(0.5, indicator=True),
    "entries, noise": EntryMasker(0.7, GaussianNoise()),
    "entries, shuffled": EntryMasker(0.3, Shuffled()),
    "entries, token": EntryMasker(0.3, LearnedToken({"instance": 1})),
    "groups": GroupMasker([[0, 4], [1, 2, 3], [9]], 0.6, GaussianNoise()),
    "structure": StructureMasker(2, 3, 0.5, 0.4, 0.3, only_nonzero=True, fill=Shuffled()),
    "composed": ComposeMaskers(EntryMasker(0.5), EntryMasker(0.5, GaussianNoise())),
    "several": MultiView(EntryMasker(0.5), EntryMasker(0.5, Shuffled())),
}


def contexts(made: Any) -> list[Any]:
    return [views.context for views in (made if isinstance(made, tuple) else (made,))]


@pytest.mark.parametrize(("masker", "batch"), OF_GRAPHS.values(), ids=OF_GRAPHS)
@given(SIZES, SEEDS)
def test_a_graph_loses_the_same_in_any_batch(masker: Any, batch: Callable[..., Graph], sizes: Sizes, seed: int):
    graph = batch(sizes, seed)  # in which the edges of different graphs are strewn among each other
    names = torch.randint(-(2**62), 2**62, (len(sizes),), generator=seeded(seed))
    together = contexts(masker(graph, generator=Seeds(names, epoch=3)))
    order = torch.randperm(len(sizes), generator=seeded(seed)).tolist()
    for which in (order, *([i] for i in order)):
        moved = contexts(masker(selected(graph, which), generator=Seeds(names[which], epoch=3)))
        assert all(same_contents(selected(a, which), b) for a, b in zip(together, moved, strict=True))


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("masker", OF_VECTORS.values(), ids=OF_VECTORS)
@given(st.lists(st.integers(0, ENTRIES), min_size=1, max_size=5), st.integers(0, 99))
def test_a_vector_loses_the_same_in_any_batch(masker: Any, padded: bool, sizes: list[int], seed: int):
    values = torch.randn(len(sizes), ENTRIES, generator=seeded(seed))
    valid = torch.arange(ENTRIES) < torch.tensor(sizes).unsqueeze(1)
    names = torch.randint(2**62, (len(sizes),), generator=seeded(seed))

    def rows(which: list[int]) -> list[Tensor]:
        batch = FlatVectors(values[which], valid[which]) if padded else values[which]
        made = contexts(masker(batch, generator=Seeds(names[which])))
        return [view.values if isinstance(view, FlatVectors) else view for view in made]

    order = torch.randperm(len(sizes), generator=seeded(seed)).tolist()
    together = rows(list(range(len(sizes))))
    assert all(map(torch.equal, [view[order] for view in together], rows(order)))
    for i in range(len(sizes)):
        assert all(map(torch.equal, [view[i : i + 1] for view in together], rows([i])))


def test_what_is_spared_of_one_vector_moves_no_draw_of_another():
    masker, names = ComposeMaskers(EntryMasker(0.5), EntryMasker(0.5, GaussianNoise())), torch.arange(20)
    values = torch.ones(20, 2)  # of half of them both entries are drawn, and one of those is spared
    together = masker(values, generator=Seeds(names)).context
    for i in range(20):
        assert torch.equal(together[i : i + 1], masker(values[:1], generator=Seeds(names[i : i + 1])).context)


def test_padding_behind_a_vector_does_not_move_its_draw():
    names, values = torch.tensor([5, 6]), torch.randn(2, 7, generator=seeded())
    wider = FlatVectors(torch.cat([values, torch.zeros(2, 4)], 1), (torch.arange(11) < 7).expand(2, 11))
    masker = EntryMasker(0.4)
    assert torch.equal(
        masker(values, generator=Seeds(names)).context, masker(wider, generator=Seeds(names)).context.values[:, :7]
    )


@pytest.mark.parametrize(
    "masker",
    [
        EntryMasker(0.5),
        EntryMasker(0.5, GaussianNoise(1.0)),
        EntryMasker(0.5, Shuffled()),
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

    for m, n in ((3, 3), (2, 4), (5, 7)):
        torch.testing.assert_close(visible(m, n), visible(2, 3), rtol=0, atol=0)


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
    state = 1234567 + _GOLDEN * torch.arange(1, 5)
    numbers = _shifted(_mixed(state), 2)
    assert numbers.tolist() == [number >> 2 for number in expected]


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


def test_seeded_draws_ask_the_device_for_no_number():
    values = torch.ones(3, ENTRIES, device="meta")
    names = torch.arange(3, device="meta")
    for fill in (GaussianNoise(), Shuffled()):
        EntryMasker(0.5, fill)(values, generator=Seeds(names))


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
