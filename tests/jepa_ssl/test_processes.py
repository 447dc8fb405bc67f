"""Two processes that share a batch unequally have the values and the gradients of one process on all of it."""

import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from builders import GraphEncoder, LinearEncoder, ragged_graphs, seeded
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from jepa_ssl import (
    BipartiteGraph,
    CollapseMonitor,
    EMATeacher,
    Encoded,
    GradientBalance,
    JEPAObjective,
    JEPATerm,
    JointSchedule,
    MLPPredictor,
    ModelEncoder,
    NodeMasker,
    StopGradTeacher,
)
from jepa_ssl.joint import LossWeights
from jepa_ssl.maskers import Seeds
from jepa_ssl.monitor import CollapseWarning
from jepa_ssl.processes import all_reduce_sum
from jepa_ssl.protocols import JEPALoss
from jepa_ssl.regularizers import SIGReg, VICReg
from jepa_ssl.testing.batches import selected

# Items of each stream in each process. Of "c" each has one, together two; of "d" there is one in all.
SIZES = {"a": (7, 4), "b": (5, 0), "c": (1, 1), "d": (0, 1)}
REGULARIZERS = {
    "VICReg": VICReg(),
    "VICReg on the sphere": VICReg(on_sphere=True),
    "SIGReg": SIGReg(slices=8, items=100),
}
DIM = 4


def encoder() -> nn.Module:
    torch.manual_seed(0)
    return LinearEncoder(dict.fromkeys(SIZES, 3), DIM).double()


def batch(rank: int | None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The items of a process, or of both; every third of "a" is padding."""
    generator = seeded(1)
    items = {s: torch.randn(sum(n), 3, dtype=torch.float64, generator=generator) for s, n in SIZES.items()}
    valid = {"a": torch.arange(11) % 3 > 0}
    items["a"][~valid["a"]] = 1e3
    if rank is None:
        return items, valid
    return {s: x.split(SIZES[s])[rank] for s, x in items.items()}, {"a": valid["a"].split(SIZES["a"])[rank]}


def step(name: str, encoder: nn.Module, rank: int | None) -> tuple[Tensor, dict[str, Tensor]]:
    """The value, and the gradient of each parameter."""
    inputs, valid = batch(rank)
    encoder.zero_grad()
    generator = seeded(rank or 0)  # those of the processes differ; the first one's counts
    value = REGULARIZERS[name](encoder(inputs), valid=valid, generator=generator)
    value.backward()
    parameters = encoder.named_parameters()
    return value.detach(), {n.removeprefix("module."): p.grad.clone() for n, p in parameters if p.grad is not None}


def sampled(rank: int | None, items: int) -> Tensor:
    """The mean of SIGReg over draws of `items` from each process; the first has 30 items, far out, the other 300."""
    generator = seeded(7)
    everything = torch.randn(330, 2, dtype=torch.float64, generator=generator)
    everything[:30] += 4.0
    mine = everything if rank is None else everything.split((30, 300))[rank]
    regularizer = SIGReg(slices=64, items=items)
    return torch.stack([regularizer({"a": mine}, valid={}, generator=generator) for _ in range(200)]).mean()


def compiled(rank: int) -> tuple[Tensor, Tensor]:
    """Without a generator and with the global one: the value of a compiled call, and of a plain one."""
    regularizer, (inputs, valid) = REGULARIZERS["SIGReg"], batch(rank)
    values: list[Tensor] = []
    for way in (torch.compile(regularizer, fullgraph=True, backend="eager"), regularizer):
        torch.manual_seed(rank)
        values.append(way(inputs, valid=valid))
    return values[0], values[1]


# ---- the objective -----------------------------------------------------------------------------------------

# Constraints and variables of each graph. The second process has the last two, in which no constraint can be hidden.
GRAPHS = ragged_graphs([4, 2, 6, 1, 1], [5, 3, 2, 4, 7], torch.float64)
OF_RANK = ([0, 1, 2], [3, 4])


class Step(nn.Module):
    """One module holds the whole step: a task loss, the mean of the squared features of all nodes, and JEPA's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = GraphEncoder().double()
        self.jepa = JEPAObjective(
            NodeMasker(0.5),
            MLPPredictor({"constraint": 4, "variable": 4}).double(),
            EMATeacher(self.encoder, 0.9),
            regularizer=VICReg(),
            stream_weights={"constraint": 1.0, "variable": 3.0},
        )
        self.balance = GradientBalance(self.encoder.parameters(), every=1)

    def forward(self, graph: BipartiteGraph, names: list[int], epoch: int) -> tuple[Tensor, Tensor]:
        z = torch.cat([*self.encoder(graph).values()]).square().mean(1)
        task = all_reduce_sum(z.sum(), True) / all_reduce_sum(torch.tensor(len(z), dtype=z.dtype), True)
        jepa = self.jepa(self.encoder, graph, generator=Seeds(torch.tensor(names), epoch))
        joint = LossWeights(1.0, 0.3).combine(lambda: task, lambda: jepa, self.balance)
        return joint.total, torch.stack([*jepa.terms.values()])

    def update(self) -> None:
        self.jepa.update(self.encoder)


class TermStep(Step):
    """A step with a term whose teacher takes the task's pass, and whose JEPA loss is computed at every second step."""

    def __init__(self) -> None:
        super().__init__()
        del self.jepa.teacher
        self.jepa.teacher, self.trunk_passes = StopGradTeacher(), 0
        encoder = ModelEncoder(self.encoder, {"constraint": 4, "variable": 4}, 4)
        self.term = JEPATerm(encoder, self.jepa, JointSchedule(jepa_weight=0.3, every=2))
        self.encoder.constraint.register_forward_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.trunk_passes += 1

    def forward(self, graph: BipartiteGraph, names: list[int], epoch: int) -> tuple[Tensor, Tensor]:
        def task() -> Tensor:
            z = torch.cat([*self.encoder(graph).values()]).square().mean(1)
            return all_reduce_sum(z.sum(), True) / all_reduce_sum(torch.tensor(len(z), dtype=z.dtype), True)

        joint = self.term.loss(graph, task=task, generator=Seeds(torch.tensor(names), epoch))
        return joint.total, torch.tensor(float(self.trunk_passes))

    def update(self) -> None:
        self.term.update()


def trained(module: nn.Module, names: list[int]) -> dict[str, Any]:
    """Three steps on these graphs: all losses, the first step's gradients, and the state at the end."""
    step = module.module if isinstance(module, DistributedDataParallel) else module
    assert isinstance(step, Step)
    optimizer = torch.optim.Adam([p for p in step.parameters() if p.requires_grad], lr=0.05)
    losses: list[Tensor] = []
    gradients: list[Tensor] = []
    for epoch in range(3):
        loss, terms = module(selected(GRAPHS, names), names, epoch)
        losses += [loss.detach(), terms]
        optimizer.zero_grad()
        loss.backward()
        gradients += [p.grad.clone() for p in step.parameters() if p.grad is not None and epoch == 0]
        optimizer.step()
        step.update()
    state = {name: value for name, value in step.state_dict().items() if isinstance(value, Tensor)}
    return {"losses": losses, "gradients": gradients, "state": state}


def watched() -> list[str]:
    """What a monitor of a collapse says in this process."""
    monitor = CollapseMonitor(every=2)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", CollapseWarning)
        for step in range(200):
            z = torch.randn(64, 8) if step < 5 else torch.ones(64, 8)
            monitor.observe(JEPALoss(torch.tensor(0.5), {}, {"node": z}, {"node": z}, Encoded({"node": z})))
            monitor.step()
    return [str(warning.message) for warning in said]


# ---- the processes -----------------------------------------------------------------------------------------


def in_one_process_of_two(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    rendezvous, timeout = f"file://{folder / 'rendezvous'}", timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2, timeout=timeout)
    network = DistributedDataParallel(encoder())
    results: dict[str, object] = {name: step(name, network, rank) for name in REGULARIZERS}
    results |= {"sampled": sampled(rank, 20), "compiled": compiled(rank)}
    results |= {"trained": trained(DistributedDataParallel(Step()), OF_RANK[rank]), "watched": watched()}
    network = DistributedDataParallel(TermStep(), find_unused_parameters=True)  # the predictor rests at times
    results["term"] = trained(network, OF_RANK[rank])
    if rank == 0:  # in eval mode it waits for nobody
        results["alone"] = VICReg().eval()({"b": batch(0)[0]["b"]}, valid={})
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(in_one_process_of_two, (folder,), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", REGULARIZERS)
def test_value_and_gradient_are_those_of_one_process(results: list[Any], name: str):
    expected_value, expected = step(name, encoder(), None)
    assert expected_value > 0
    assert all((expected[f"layers.{stream}.weight"] != 0).any() for stream in "abc")
    for value, gradients in (result[name] for result in results):
        torch.testing.assert_close(value, expected_value, rtol=1e-12, atol=0)
        torch.testing.assert_close(gradients, expected, rtol=1e-10, atol=1e-14)
        assert not gradients["layers.d.weight"].any()


@pytest.mark.slow
def test_a_sample_counts_by_what_it_stands_for(results: list[Any]):
    # Beyond its noise of about 1 the statistic grows with the sample size, which is here worth 24 items:
    # 20 stand for 30, and 20 for 300.
    size = 330**2 / (30**2 / 20 + 300**2 / 20)
    both, whole = [result["sampled"].item() for result in results], sampled(None, 330).item()
    assert both[0] == both[1]
    assert (both[0] - 1.0) / size == pytest.approx((whole - 1.0) / 330, rel=0.2)


@pytest.mark.slow
def test_it_compiles_with_its_collectives(results: list[Any]):
    for result in results:
        torch.testing.assert_close(*result["compiled"])
    assert results[0]["compiled"][0] == results[1]["compiled"][0]


@pytest.mark.slow
def test_in_eval_mode_a_process_is_alone(results: list[Any]):
    torch.testing.assert_close(results[0]["alone"], VICReg()({"b": batch(0)[0]["b"]}, valid={}))


@pytest.mark.slow
def test_the_objective_trains_as_in_one_process(results: list[Any]):
    expected = trained(Step(), [0, 1, 2, 3, 4])
    for result in (result["trained"] for result in results):
        torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(results[0]["trained"]["state"], results[1]["trained"]["state"], rtol=0, atol=0)


@pytest.mark.slow
def test_a_term_shares_the_pass_and_skips_the_same_steps_in_all_processes(results: list[Any]):
    expected = trained(TermStep(), [0, 1, 2, 3, 4])
    assert [passes.item() for passes in expected["losses"][1::2]] == [3, 4, 7]  # steps 0 and 2 check their pass
    for result in (result["term"] for result in results):
        torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_of_several_processes_the_first_sounds_the_alarm(results: list[Any]):
    said = [result["watched"] for result in results]
    assert len(said[0]) == 1
    assert "collapsed" in said[0][0]
    assert said[1] == []
