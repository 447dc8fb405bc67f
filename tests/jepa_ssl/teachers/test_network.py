"""A network of its own for the target: decided by its seed, frozen or learned, and clear about what it cannot read."""

import io
from typing import Any, cast

import pytest
import torch
from builders import seeded
from torch import Tensor, nn

from jepa_ssl import JEPAObjective, MLPPredictor, VICReg, Views
from jepa_ssl.teachers import TargetNetwork

SIZES = {"constraint": (2, 8), "variable": (3, 5)}


def states(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    draw = seeded()
    return {
        "constraint": torch.randn(7, 2, generator=draw).to(dtype),
        "variable": torch.randn(4, 3, generator=draw).to(dtype),
    }


def embed(teacher: TargetNetwork, target: Any = None) -> Any:
    return teacher(None, states() if target is None else target)


def gelu(x: float) -> float:
    return float(x * 0.5 * (1.0 + torch.erf(torch.tensor(x, dtype=torch.float64) / 2**0.5)))


def test_it_is_the_formula():
    teacher = TargetNetwork(SIZES, hidden=6).double()
    target = states(torch.float64)
    for stream, z in embed(teacher, target).items():
        first, _, last = (p for p in teacher.network.get_submodule(f"streams.{stream}").children())
        w1, b1, w2, b2 = (t.tolist() for t in (*first.parameters(), *last.parameters()))
        for x, row in zip(target[stream].tolist(), z, strict=True):
            hidden = [gelu(b + sum(a * v for a, v in zip(w, x, strict=True))) for w, b in zip(w1, b1, strict=True)]
            out = [b + sum(a * v for a, v in zip(w, hidden, strict=True)) for w, b in zip(w2, b2, strict=True)]
            mean = sum(out) / len(out)
            deviation = (sum((value - mean) ** 2 for value in out) / len(out) + 1e-5) ** 0.5
            expected = torch.tensor([(value - mean) / deviation for value in out], dtype=torch.float64)
            torch.testing.assert_close(row, expected, rtol=1e-10, atol=1e-10)


def test_sizes_are_as_asked():
    assert {stream: tuple(z.shape) for stream, z in embed(TargetNetwork(SIZES)).items()} == {
        "constraint": (7, 8),
        "variable": (4, 5),
    }
    hidden = TargetNetwork(SIZES).network.get_parameter("streams.constraint.0.weight")
    assert hidden.shape == (16, 2)
    empty = {"constraint": torch.ones(0, 2), "variable": torch.ones(0, 3)}
    assert embed(TargetNetwork(SIZES), empty)["constraint"].shape == (0, 8)


@pytest.mark.parametrize("learned", [False, True])
def test_the_seed_decides_alone_and_the_global_random_numbers_stay(learned: bool):
    state = torch.get_rng_state()
    one = TargetNetwork(SIZES, seed=3, learned=learned)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    same, other = TargetNetwork(SIZES, seed=3, learned=learned), TargetNetwork(SIZES, seed=4, learned=learned)
    for name, p in one.named_parameters():
        assert torch.equal(p, same.get_parameter(name))
        assert not torch.equal(p, other.get_parameter(name))
    with torch.device("meta"):
        assert TargetNetwork(SIZES, seed=3).network.get_parameter("streams.variable.0.bias").device.type == "cpu"


def test_a_frozen_network_sleeps_and_is_resumed():
    teacher = TargetNetwork(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)))
    holder = nn.ModuleList([teacher])
    for mode in (True, False, True):
        holder.train(mode)
        assert not any(m.training for m in teacher.network.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not teacher.learns
    x = torch.randn(3, 2, requires_grad=True)
    assert not teacher(None, x).requires_grad  # pyright: ignore
    saved = io.BytesIO()
    built = TargetNetwork(SIZES, seed=1)
    torch.save(built.state_dict(), saved)
    saved.seek(0)
    resumed = TargetNetwork(SIZES, seed=2)
    resumed.load_state_dict(torch.load(saved, weights_only=True))
    assert all(torch.equal(z, embed(built)[stream]) for stream, z in embed(resumed).items())


def objective(teacher: TargetNetwork) -> JEPAObjective[Any]:
    def views(instance: Any, *, generator: Any = None) -> Views[Any, Any]:
        return Views(instance, states(), dict.fromkeys(SIZES))

    return JEPAObjective(views, MLPPredictor({"constraint": 8, "variable": 5}), teacher)


def test_in_an_objective_it_learns_only_if_it_is_to():
    trunks = nn.ModuleDict({"constraint": nn.Linear(7, 8), "variable": nn.Linear(7, 5)})
    encoder = lambda _: {s: trunks[s](torch.ones(n, 7)) for s, n in (("constraint", 7), ("variable", 4))}  # noqa: E731
    for learned in (False, True):
        teacher = TargetNetwork(SIZES, learned=learned)
        jepa = objective(teacher)
        before = {name: p.clone() for name, p in teacher.named_parameters()}
        optimizer = torch.optim.AdamW([*trunks.parameters(), *jepa.parameters()], weight_decay=0.5)
        jepa(encoder, None).total.backward()
        optimizer.step()
        jepa.update(encoder)  # pyright: ignore[reportArgumentType]
        assert any("teacher.network" in key for key in jepa.state_dict())
        for name, p in teacher.named_parameters():
            assert torch.equal(p, before[name]) != learned
            assert (p.grad is not None) == learned
        assert teacher.learns == learned
        assert teacher.network.training == learned
        assert all(bool(p.grad.any()) for p in trunks.parameters() if p.grad is not None)


def test_a_network_of_your_own_reads_what_it_likes():
    class Sum(nn.Module):
        def forward(self, target: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
            return {"instance": target[0] + target[1]}

    teacher = TargetNetwork(Sum())
    assert torch.equal(teacher(None, (torch.ones(2, 3), torch.ones(2, 3)))["instance"], torch.full((2, 3), 2.0))  # pyright: ignore
    with pytest.raises(ValueError, match=r"hidden is 3.*leave hidden out"):
        TargetNetwork(Sum(), hidden=3)


def test_numbers_of_a_solver_in_float64_are_read_in_the_networks_precision():
    assert embed(TargetNetwork(SIZES), states(torch.float64))["variable"].dtype == torch.float32
    assert embed(TargetNetwork(SIZES).bfloat16())["variable"].dtype == torch.bfloat16


@pytest.mark.slow
def test_it_compiles_in_one_graph():
    teacher = TargetNetwork(SIZES)
    compiled: Any = torch.compile(teacher, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(None, states()), embed(teacher))


def test_what_it_was_not_built_for_is_refused():
    teacher = TargetNetwork(SIZES)
    with pytest.raises(TypeError, match=r"target is a Tensor.*SolverState"):
        embed(teacher, torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"streams \['instance'\].*\['constraint', 'variable'\]"):
        embed(teacher, {"instance": torch.ones(2, 2)})
    for shape in ((7, 4), (7,), (1, 7, 2)):
        with pytest.raises(
            ValueError, match=r"target\['constraint'\] is .*, but must be .*\[items, 2\]; correct the numbers"
        ):
            embed(teacher, {**states(), "constraint": torch.ones(shape)})


@pytest.mark.parametrize("sizes", [{}, {"variable": (2, 0)}, {"variable": (2, 3, 4)}])
def test_bad_sizes_are_refused(sizes: Any):
    with pytest.raises(ValueError, match=r"sizes.*\(numbers, dim\)"):
        TargetNetwork(sizes)
    with pytest.raises(TypeError, match=r"sizes is a function.*nn\.Module"):
        TargetNetwork(cast(Any, lambda target: target))  # pyright: ignore
    with pytest.raises(ValueError, match=r"hidden is 0.*at least 1"):
        TargetNetwork(SIZES, hidden=0)
    with pytest.raises(TypeError, match=r"hidden is True, a bool"):
        TargetNetwork(SIZES, hidden=True)


@pytest.mark.parametrize("seed", [True, -1, 2**63, 1.0])
def test_what_is_no_seed_is_refused(seed: Any):
    with pytest.raises(ValueError, match=r"the seed is .*from 0 to 2\*\*63 - 1"):
        TargetNetwork(SIZES, seed=seed)


def test_what_wraps_it_hides_neither_that_it_learns_nor_its_update():
    teacher: Any = nn.DataParallel(TargetNetwork({"instance": (6, 4)}, learned=True))  # as DDP does, without a group
    trunk, predictor = nn.Linear(6, 4), MLPPredictor({"instance": 4})
    views: Any = lambda flat, generator: Views(flat, {"instance": flat})  # noqa: E731
    jepa = JEPAObjective(views, predictor, teacher, regularizer=VICReg())
    loss = jepa(lambda flat: {"instance": trunk(flat)}, torch.randn(8, 6))
    sides = [VICReg()(z, valid={}) for z in (loss.context.embeddings, loss.targets)]
    torch.testing.assert_close(loss.terms["regularizer"], torch.stack(sides).mean())
    jepa.update(lambda flat: {"instance": trunk(flat)})
