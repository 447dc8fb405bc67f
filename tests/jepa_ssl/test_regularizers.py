"""VICReg and SIGReg against their papers' formulas, and what must not change them: padding, order, precision."""

import math
from collections.abc import Callable

import pytest
import torch
from builders import ragged_graphs, seeded
from hypothesis import given
from hypothesis import strategies as st
from random_graphs import FLOATS
from torch import Tensor

from jepa_ssl import Encoded, JEPAObjective, MLPPredictor, NodeMasker, StopGradTeacher
from jepa_ssl.regularizers import SIGReg, VICReg

both = pytest.mark.parametrize("regularizer", [VICReg(), SIGReg(slices=16, items=64)], ids=["VICReg", "SIGReg"])
seeds = st.integers(0, 99)
DIM = 5


def cloud(items: int, dim: int = DIM, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(items, dim, dtype=torch.float64, generator=seeded(seed)).to(dtype)


def value(regularizer: VICReg | SIGReg, z: Tensor, valid: Tensor | None = None, seed: int = 0) -> Tensor:
    return regularizer({"a": z}, valid={} if valid is None else {"a": valid}, generator=seeded(seed))


def gradient(term: Tensor, z: Tensor) -> Tensor:
    return torch.autograd.grad(term, z)[0]


def plain_vicreg(z: Tensor) -> tuple[float, float]:
    """v and c of the paper's equations 1 and 4."""
    rows: list[list[float]] = z.tolist()
    n, d = z.shape
    mean = [math.fsum(row[j] for row in rows) / n for j in range(d)]
    covariance = [
        [math.fsum((row[i] - mean[i]) * (row[j] - mean[j]) for row in rows) / (n - 1) for j in range(d)]
        for i in range(d)
    ]
    v = math.fsum(max(0.0, 1.0 - math.sqrt(covariance[j][j] + 1e-4)) for j in range(d)) / d
    c = math.fsum(covariance[i][j] ** 2 for i in range(d) for j in range(d) if i != j) / d
    return v, c


def directions(dim: int, slices: int, seed: int = 0) -> list[list[float]]:
    """What `SIGReg` draws with this seed where it draws no items."""
    drawn = torch.randn(dim, slices, dtype=torch.float64, generator=seeded(seed))
    return [(column / column.norm()).tolist() for column in drawn.T]


def epps_pulley(x: list[float], points: list[float], step: float) -> float:
    """N times the sum over `points` t of |ecf(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) `step`."""
    total = 0.0
    for t in points:
        ecf = sum(complex(math.cos(t * a), math.sin(t * a)) for a in x) / len(x)
        total += abs(ecf - math.exp(-t * t / 2)) ** 2 * math.exp(-t * t / 2) * step
    return len(x) * total


def plain_sigreg(z: Tensor, slices: int, points: list[float], step: float) -> float:
    projected = [
        [math.fsum(map(math.prod, zip(a, row, strict=True))) for row in z.tolist()]
        for a in directions(z.size(1), slices)
    ]
    return math.fsum(epps_pulley(x, points, step) for x in projected) / slices


# VICReg.


@given(st.integers(2, 7), st.integers(1, 5), seeds, st.floats(0.01, 3.0))
def test_vicreg_is_the_formula(items: int, dim: int, seed: int, scale: float):
    z = scale * cloud(items, dim, seed) + 3.0
    v, c = plain_vicreg(z)
    assert value(VICReg(2.0, 3.0), z).item() == pytest.approx(2.0 * v + 3.0 * c, rel=1e-10, abs=1e-13)
    v, c = plain_vicreg(z * math.sqrt(dim))
    assert value(VICReg(on_sphere=True), z).item() == pytest.approx(v + 0.04 * c, rel=1e-10, abs=1e-13)


@given(seeds, st.floats(-100.0, 100.0))
def test_vicreg_does_not_see_translation(seed: int, shift: float):
    z = 0.5 * cloud(9, seed=seed)
    torch.testing.assert_close(value(VICReg(), z + shift), value(VICReg(), z))


@given(seeds)
def test_vicreg_of_whitened_embeddings_is_zero(seed: int):
    z = cloud(20, seed=seed)
    whitened = torch.linalg.qr(z - z.mean(0)).Q * math.sqrt(19)
    assert value(VICReg(), whitened + 7.0).item() == pytest.approx(0.0, abs=1e-12)
    on_sphere = torch.cat((torch.eye(4), -torch.eye(4)))
    assert value(VICReg(on_sphere=True), on_sphere).item() == 0.0
    assert value(VICReg(), on_sphere).item() > 0.4


def test_the_variance_of_a_tiny_cloud_far_from_the_origin_is_seen():
    near, far = 1e-2 * cloud(500, dtype=torch.float32), torch.full((500, DIM), 10.0)
    torch.testing.assert_close(value(VICReg(), near + far), value(VICReg(), near), rtol=1e-4, atol=0)


# SIGReg.


@given(st.integers(2, 7), st.integers(1, 4), seeds, st.floats(0.1, 3.0))
def test_sigreg_is_the_formula_at_its_points(items: int, dim: int, seed: int, scale: float):
    z = scale * cloud(items, dim, seed) + 0.3
    line = [0.7 * k for k in range(-5, 6)]
    for on_sphere, factor in ((False, 1.0), (True, math.sqrt(dim))):
        got = value(SIGReg(3, 7, on_sphere=on_sphere), z)
        assert got.item() == pytest.approx(plain_sigreg(factor * z, 3, line, 0.7), rel=1e-10)


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 1.5])
def test_its_points_give_the_integral(scale: float):
    z = scale * cloud(60, 3)
    fine = plain_sigreg(z, 4, [k / 20 for k in range(-160, 161)], 1 / 20)
    assert value(SIGReg(4, 60), z).item() == pytest.approx(fine, rel=0.02)


def test_a_gaussian_sample_has_the_expected_value_whatever_its_size():
    for items in (20, 2000):
        values = [value(SIGReg(256, 256), cloud(items, 16, seed), seed=seed).item() for seed in range(20)]
        assert sum(values) / 20 == pytest.approx(math.sqrt(2 * math.pi) * (1 - 3**-0.5), rel=0.1)


def on_the_sphere(z: Tensor) -> Tensor:
    return 8.0 * torch.nn.functional.normalize(z, dim=1)


PLANTED: dict[str, Callable[[Tensor], Tensor]] = {
    "constant": lambda z: 0.0 * z + 1.0,
    "all at the origin": lambda z: 0.0 * z,
    "one direction": lambda z: z[:, :1] * torch.ones(64),
    "half of the dimensions": lambda z: z * (torch.arange(64) < 32),
    "too small": lambda z: 0.5 * z,
    "too large": lambda z: 2.0 * z,
    "two clusters": lambda z: 0.1 * z + torch.sign(z[:, :1]),
    "not centred": lambda z: z + 0.5,
    "tiny cloud around a point of the sphere": lambda z: on_the_sphere(0.01 * z + 1.0),
    "one outlying dimension": lambda z: torch.cat((10.0 * z[:, :1], z[:, 1:]), dim=1),
    "four copies of each dimension": lambda z: z[:, :16].repeat(1, 4),
    "heavy tails": lambda z: z / z[:, :1].abs().sqrt(),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_each_planted_distribution_is_told_from_a_gaussian(planted: str):
    regularizer = SIGReg()
    gaussian = [value(regularizer, cloud(2000, 64, seed), seed=seed).item() for seed in range(5)]
    other = [value(regularizer, PLANTED[planted](cloud(2000, 64, seed)), seed=seed).item() for seed in range(5)]
    assert min(other) > 2.0 * max(gaussian)


def test_the_uniform_distribution_on_the_sphere_is_as_good_as_a_gaussian():
    z = torch.nn.functional.normalize(cloud(2000, 64), dim=1)
    assert value(SIGReg(on_sphere=True), z).item() < 1.5


def test_directions_and_items_are_drawn_anew_and_by_the_generator_alone():
    z, valid = cloud(500), torch.rand(500, generator=seeded()) < 0.5
    regularizer = SIGReg(slices=8, items=64)
    before = torch.get_rng_state()
    assert value(regularizer, z, valid, seed=1) == value(regularizer, z, valid, seed=1)
    assert value(regularizer, z, valid, seed=1) != value(regularizer, z, valid, seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert regularizer({"a": z}, valid={}) != regularizer({"a": z}, valid={})


def test_each_valid_item_is_drawn_as_often_as_any_other():
    valid = torch.arange(40) % 4 != 0  # 30 of 40
    z = cloud(40).requires_grad_()
    g, calls, regularizer = seeded(), 300, SIGReg(slices=1, items=10)
    drawn = torch.zeros(40)
    for _ in range(calls):
        drawn += (gradient(regularizer({"a": z}, valid={"a": valid}, generator=g), z) != 0).any(dim=1)
    assert drawn.sum() == 10 * calls
    expected = calls / 3
    chi_squared = ((drawn[valid] - expected).square() / (expected * 2 / 3)).sum()
    assert not drawn[~valid].any()
    assert 12 < chi_squared < 60  # 29 degrees of freedom


def test_fewer_valid_items_than_the_sample_are_all_of_the_sample():
    z, valid = cloud(100), torch.arange(100) >= 90
    z[~valid] = math.nan
    # The lottery comes before the directions, so that they are other ones; their mean is the same.
    full = torch.stack([value(SIGReg(64, 10), z[90:], seed=seed) for seed in range(40)]).mean()
    some = torch.stack([value(SIGReg(64, 20), z, valid, seed=seed) for seed in range(40)]).mean()
    torch.testing.assert_close(some, full, rtol=0.05, atol=0)


# Both.


@both
def test_its_gradient_is_right(regularizer: VICReg | SIGReg):
    z, valid = 0.7 * cloud(6, 3), torch.tensor([True, True, False, True, True, True])
    assert torch.autograd.gradcheck(lambda z: value(regularizer, z, valid), (z.requires_grad_(),))


@both
@given(st.integers(2, 30), seeds)
def test_the_order_of_items_means_nothing(regularizer: VICReg | SIGReg, items: int, seed: int):
    z = cloud(items, seed=seed)
    shuffled = z[torch.randperm(items, generator=seeded(seed))]
    torch.testing.assert_close(value(regularizer, shuffled), value(regularizer, z))


@both
@given(st.lists(st.booleans(), min_size=2, max_size=40), seeds, st.sampled_from([0.0, 1e30, math.inf, math.nan]))
def test_padding_has_no_influence(regularizer: VICReg | SIGReg, marks: list[bool], seed: int, junk: float):
    valid = torch.tensor(marks)
    real = cloud(int(valid.sum()), seed=seed).requires_grad_()
    padded = torch.full((len(marks), DIM), junk, dtype=torch.float64)
    padded[valid] = real.detach()
    kept = padded.clone()
    padded.requires_grad_()
    expected, got = value(regularizer, real), value(regularizer, padded, valid)
    torch.testing.assert_close(got, expected)
    slope = gradient(got, padded)
    torch.testing.assert_close(slope[valid], gradient(expected, real))
    assert (slope[~valid] == 0).all()
    assert torch.equal(padded.detach().nan_to_num(), kept.nan_to_num())


@both
@pytest.mark.parametrize(
    ("items", "valid"), [(0, []), (1, [True]), (1, [False]), (3, [False] * 3), (99, [True] + [False] * 98)]
)
def test_fewer_than_two_items_contribute_exactly_nothing(regularizer: VICReg | SIGReg, items: int, valid: list[bool]):
    lone, many = cloud(items).requires_grad_(), cloud(20).requires_grad_()
    marks = torch.tensor(valid, dtype=torch.bool)
    assert value(regularizer, lone, marks).item() == 0.0
    assert gradient(value(regularizer, lone, marks), lone).equal(torch.zeros_like(lone))
    mean = regularizer({"lone": lone, "z": many}, valid={"lone": marks}, generator=None)
    assert 0.0 < mean.item() < math.inf
    assert gradient(mean, many).isfinite().all()


def test_the_value_is_the_mean_over_streams():
    a, b = cloud(9), 3 * cloud(7, 3)
    streams = VICReg()({"b": b, "a": a}, valid={})
    torch.testing.assert_close(streams, (value(VICReg(), a) + value(VICReg(), b)) / 2)


@both
@pytest.mark.parametrize("dtype", FLOATS)
def test_half_precision_is_computed_in_float32_under_autocast_too(regularizer: VICReg | SIGReg, dtype: torch.dtype):
    z = (300 * cloud(50, dtype=dtype)).requires_grad_()
    wide = z.detach().to(torch.promote_types(dtype, torch.float32)).requires_grad_()
    expected = value(regularizer, wide)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = value(regularizer, z)
    assert (got.dtype, got.item()) == (wide.dtype, expected.item())
    torch.testing.assert_close(gradient(got, z), gradient(expected, wide).to(dtype))


@pytest.mark.slow
@both
def test_it_compiles_to_one_graph_for_each_number_of_items(regularizer: VICReg | SIGReg):
    compiled = torch.compile(regularizer, fullgraph=True, backend="eager")
    for items in (200, 300, 20):  # of the first two, SIGReg takes a sample
        z, valid = {"a": cloud(items), "b": cloud(9)}, {"a": torch.arange(items) % 3 > 0}
        torch.manual_seed(0)
        expected = regularizer(z, valid=valid)
        torch.manual_seed(0)
        torch.testing.assert_close(compiled(z, valid=valid), expected)


@both
def test_it_needs_no_number_from_the_device(regularizer: VICReg | SIGReg):
    z = torch.ones(200, DIM, device="meta", requires_grad=True)
    term = regularizer({"a": z}, valid={"a": torch.ones(200, dtype=torch.bool, device="meta")})
    term.backward()
    assert term.is_meta


@both
@pytest.mark.parametrize("regularize", ["embeddings", "features"])
def test_it_is_a_term_of_the_objective(regularizer: VICReg | SIGReg, regularize):
    def encoder(graph):
        features = {"constraint": first(graph.constraint_features), "variable": second(graph.variable_features)}
        return Encoded({stream: z[:, :3] for stream, z in features.items()}, features)

    first, second = torch.nn.Linear(3, 4), torch.nn.Linear(2, 4)
    predictor = MLPPredictor({"constraint": 3, "variable": 3})
    jepa = JEPAObjective(NodeMasker(0.5), predictor, StopGradTeacher(), regularizer=regularizer, regularize=regularize)
    loss = jepa(encoder, ragged_graphs([5, 4], [4, 5]), generator=seeded())
    loss.total.backward()
    assert loss.terms["regularizer"] > 0
    assert jepa.state_dict().keys() == {f"predictor.{name}" for name in predictor.state_dict()}


@pytest.mark.parametrize(("call", "said"), [
    (lambda: VICReg(-1.0), r"variance_weight is -1.0, but must be .* at least 0"),
    (lambda: SIGReg(items=1), "items is 1, but must be a whole number that is at least 2"),
    (lambda: VICReg()({}, valid={}), "embeddings is empty"),
    (lambda: VICReg()({"a": torch.ones(3)}, valid={}),
        r"embeddings\['a'\] is float32 \[3\], but must be .* \[items, dim\]"),
    (lambda: VICReg()({"a": torch.ones(3, 2)}, valid={"a": torch.ones(3)}),
        r"valid\['a'\] is float32 \[3\], but must be bool \[3\]"),
    (lambda: SIGReg()({"a": torch.ones(3, 2)}, valid={}, generator=0), "generator is 0"),  # pyright: ignore
])  # fmt: skip
def test_what_does_not_fit_is_refused(call: Callable[[], object], said: str):
    with pytest.raises((TypeError, ValueError), match=said):
        call()
