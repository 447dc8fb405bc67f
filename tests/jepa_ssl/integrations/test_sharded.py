"""Sharded by FSDP2 or in DDP, two processes train the objective as one does; what is saved goes to and fro."""

import re
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from builders import FlatEncoder, seeded
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.nn.parallel import DistributedDataParallel

from jepa_ssl import CollapseMonitor, Encoded, EntryMasker, JEPAObjective, MLPPredictor
from jepa_ssl.maskers import Seeds
from jepa_ssl.protocols import JEPALoss
from jepa_ssl.schedules import LinearSchedule
from jepa_ssl.teachers import EMATeacher

STEPS = 6
FULL = StateDictOptions(full_state_dict=True)
SAVED = StateDictOptions(full_state_dict=True, cpu_offload=True)  # in the first process alone


class Net(nn.Module):
    """Tied weights, a frozen layer, one with fewer rows than there are processes, and a head that no target needs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.fixed, self.narrow = nn.Linear(6, 5), nn.Linear(5, 5).requires_grad_(False), nn.Linear(5, 1)
        self.one, self.two = nn.Linear(5, 5), nn.Linear(5, 5)
        self.two.weight = self.one.weight
        self.norm, self.head = nn.LayerNorm(5), nn.Linear(5, 2)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(5))

    def forward(self, x: Tensor, task: bool = False) -> Any:
        z = self.two(torch.tanh(self.one(torch.tanh(self.fixed(self.first(x))))))
        z = self.norm(z) * self.narrow(z) + self.get_buffer("mean").to(z.dtype)
        return self.head(z) if task else {"instance": z}


def build(encoder: Any = None) -> Any:
    torch.manual_seed(0)
    encoder = Net().double() if encoder is None else encoder
    teacher = EMATeacher(encoder, LinearSchedule(0.5, 1.0, 50))
    jepa = JEPAObjective(EntryMasker(0.5), MLPPredictor({"instance": 5}).double(), teacher)
    return nn.ModuleDict({"encoder": encoder, "jepa": jepa})


def adam(modules: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam([p for p in modules.parameters() if p.requires_grad], 0.01)


def train(modules: Any, optimizer: Any, steps: range, rank: int = 0, world: int = 1) -> list[float]:
    """The task and JEPA together, on this process's instances of each batch."""
    encoder, jepa, curve = modules["encoder"], modules["jepa"], []
    for step in steps:
        mine = torch.arange(8)[rank::world]
        x = torch.randn(8, 6, dtype=torch.float64, generator=seeded(step))[mine]
        loss = encoder(x, task=True).square().mean() + jepa(encoder, x, generator=Seeds(mine, step)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        encoder.get_buffer("steps").add_(1)
        encoder.get_buffer("mean").add_(0.1)
        jepa.update(encoder)
        curve.append(loss.item())
    return curve


def shard_part_by_part(modules: Any, **kwargs: Any) -> None:
    teacher = modules["jepa"].teacher
    for model in (modules["encoder"], teacher.target_model, *([teacher.average] if teacher.average else [])):
        for part in (model.first, model.norm):
            fully_shard(part, **kwargs)
        fully_shard(model, **kwargs)
    fully_shard(modules["jepa"].predictor, **kwargs)


def shard_in_two(modules: Any, **kwargs: Any) -> None:
    fully_shard(modules["encoder"], **kwargs)
    fully_shard(modules["jepa"], **kwargs)  # predictor and teacher in one group


def gathered(modules: nn.Module) -> dict[str, Any]:
    return get_model_state_dict(modules, options=FULL)


def state(modules: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    return {
        "modules": get_model_state_dict(modules, options=SAVED),
        "optimizer": get_optimizer_state_dict(modules, optimizer, options=SAVED),
    }


def resume(modules: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> None:
    saved = torch.load(path, weights_only=True, mmap=True)
    set_model_state_dict(modules, saved["modules"], options=SAVED)
    set_optimizer_state_dict(modules, optimizer, saved["optimizer"], options=SAVED)


def save(saved: Any, path: Path) -> None:
    torch.save(saved, path.with_suffix(".part"))
    path.with_suffix(".part").rename(path)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 100
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} never came"
        time.sleep(0.02)


def collectives(call: Callable[[], object]) -> int:
    with CommDebugMode() as mode:
        call()
    return mode.get_total_counts()


def whole(module: nn.Module) -> dict[str, Tensor]:
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: (t.full_tensor() if isinstance(t, DTensor) else t).detach().clone() for name, t in tensors.items()}


@torch.no_grad()
def shift(encoder: nn.Module) -> None:
    for p in encoder.parameters():
        p += 0.5


# What the processes do


def trained(shard: Callable[..., None], mesh: Any, rank: int) -> dict[str, Any]:
    modules = build()
    shard(modules, mesh=mesh)
    curve = train(modules, adam(modules), range(STEPS), rank, 2)
    teacher, encoder = modules["jepa"].teacher, modules["encoder"]
    x = torch.ones(2, 6, dtype=torch.float64)
    return {
        "curve": curve,
        "modules": {name: t.clone() for name, t in gathered(modules).items()},
        "shards": {name: p.to_local().clone() for name, p in teacher.target_model.named_parameters()},
        "collectives": (collectives(lambda: encoder(x)), collectives(lambda: teacher.update(encoder))),
    }


def saved_and_resumed(mesh: Any, rank: int, folder: Path) -> dict[str, Any]:
    """Two steps, then two in another process that is alone, then two more."""
    modules = build()
    shard_part_by_part(modules, mesh=mesh)
    optimizer = adam(modules)
    curve = train(modules, optimizer, range(2), rank, 2)
    saved = state(modules, optimizer)
    if rank == 0:
        save(saved, folder / "two.pt")
    wait_for(folder / "four.pt")
    again = build()
    shard_part_by_part(again, mesh=mesh)
    optimizer = adam(again)
    resume(again, optimizer, folder / "four.pt")
    curve += train(again, optimizer, range(4, 6), rank, 2)
    return {"curve": curve, "modules": gathered(again)}


EVENTS: dict[str, Callable[[Any, Any], object]] = {
    "a pass without a backward pass": lambda m, mesh: m["jepa"](m["encoder"], torch.ones(2, 6).double()),
    "loading": lambda m, mesh: set_model_state_dict(m, build().state_dict(), options=FULL),
    "a part to float32 and back": lambda m, mesh: m["encoder"].first.float().double(),
    "sharded only now": lambda m, mesh: shard_part_by_part(m, mesh=mesh),
}


def right_after(event: str, mesh: Any) -> bool:
    """The encoder moves before the event and behind it; the teacher has its lists of tensors from before."""
    modules = build()
    encoder, teacher = modules["encoder"], modules["jepa"].teacher
    if event != "sharded only now":
        shard_part_by_part(modules, mesh=mesh)
    teacher.update(encoder)
    shift(encoder)
    EVENTS[event](modules, mesh)
    shift(encoder)
    before = whole(teacher.target_model)
    teacher.update(encoder)
    online, now = whole(encoder), whole(teacher.target_model)
    share = 1 - teacher.momentum(int(teacher.updates) - 1)
    return all(
        torch.allclose(t, before[name].lerp(online[name], share) if t.is_floating_point() else online[name])
        for name, t in now.items()
    )


def precisions(mesh: Any) -> dict[str, Any]:
    """A teacher at momentum 0.999 moves in both ways of half precision."""
    results: dict[str, Any] = {}
    for name in ("bfloat16", "policy"):
        modules = build(Net().bfloat16() if name == "bfloat16" else Net())
        policy = MixedPrecisionPolicy() if name == "bfloat16" else MixedPrecisionPolicy(param_dtype=torch.bfloat16)
        shard_part_by_part(modules, mesh=mesh, mp_policy=policy)
        teacher, encoder = modules["jepa"].teacher, modules["encoder"]
        teacher.momentum = 0.999
        nn.init.zeros_(teacher.target_model.first.bias)
        if teacher.average is not None:
            nn.init.zeros_(teacher.average.first.bias)
        nn.init.ones_(encoder.first.bias)
        for _ in range(100):
            teacher.update(encoder)
        average = teacher.target_model if teacher.average is None else teacher.average
        dtype = torch.bfloat16 if name == "bfloat16" else torch.float32
        z = teacher(encoder, torch.ones(2, 6, dtype=dtype))["instance"]
        results[name] = whole(average)["first.bias"], whole(teacher.target_model)["first.bias"], z
    cast = build(Net())
    shard_part_by_part(cast, mesh=mesh)
    results["cast behind"] = refusal(lambda: cast["jepa"].bfloat16())
    return results


def refusal(call: Callable[[], object]) -> str:
    try:
        call()
    except ValueError as error:
        return str(error)
    return "none"


def refused(mesh: Any) -> dict[str, str]:
    said: dict[str, str] = {}
    sharded, plain = Net(), Net()
    plain_teacher, low = EMATeacher(sharded), EMATeacher(Net().bfloat16())
    fully_shard(sharded.first, mesh=mesh)
    said["built behind"] = refusal(lambda: EMATeacher(nn.ModuleList([sharded])))
    fully_shard(sharded, mesh=mesh)
    said["encoder alone"] = refusal(lambda: plain_teacher.update(sharded))
    fully_shard(plain_teacher.target_model, mesh=mesh)
    said["teacher alone"] = refusal(lambda: plain_teacher.update(plain))
    online = Net().bfloat16()
    fully_shard(online, mesh=mesh)
    fully_shard(low.target_model, mesh=mesh)
    said["average left out"] = refusal(lambda: low.update(online))
    return said


class Step(nn.Module):
    """All that has a loss, for DDP."""

    def __init__(self, modules: nn.ModuleDict) -> None:
        super().__init__()
        self.modules_of_it = modules

    def forward(self, x: Tensor, generator: torch.Generator) -> Tensor:
        encoder, jepa = self.modules_of_it["encoder"], self.modules_of_it["jepa"]
        return jepa(encoder, x, generator=generator).total


def wrapped_in_ddp(rank: int) -> dict[str, Any]:
    """Buffers are sent round in each pass, the teacher's and its counter too."""
    modules = build(FlatEncoder(dim=5).double())
    encoder, teacher, optimizer = modules["encoder"], modules["jepa"].teacher, adam(modules)
    step, draw, expected = DistributedDataParallel(Step(modules)), seeded(rank), whole(encoder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for update in range(40):
            optimizer.zero_grad()
            step(torch.randn(4, 6, dtype=torch.float64, generator=draw), draw).backward()
            optimizer.step()
            teacher.update(encoder)
            for name, p in encoder.named_parameters():
                expected[name].lerp_(p.detach(), 0.5 - 0.01 * update)
    return {
        "right": all(torch.allclose(p, expected[name]) for name, p in teacher.target_model.named_parameters()),
        "collectives": collectives(lambda: teacher.update(encoder)),
        "updates": int(teacher.updates),
        "teacher": dict(teacher.target_model.named_parameters()),
    }


def watched(rank: int, steps: range, start: Callable[[Any], object] = lambda state: None) -> tuple[Any, Any]:
    """A monitor and the rows of its log; each process has items of its own."""
    rows: list[Any] = []
    monitor = CollapseMonitor(items=8, log=lambda row, step: rows.append((row, step)))
    start(monitor)
    for step in steps:
        z = torch.randn(3, 6, generator=seeded(2 * step + rank))
        monitor.observe(JEPALoss(z.mean(), {}, {"node": z}, {"node": z}, Encoded({"node": z})))
        monitor.step()
    return monitor, rows


def monitored(rank: int, folder: Path) -> tuple[list[Any], int]:
    """Saved in both ways of docs/sharded.md."""
    monitor, _ = watched(rank, range(17))
    modules = nn.ModuleList([nn.Linear(2, 2), monitor])
    saved = get_model_state_dict(modules, options=SAVED)
    if rank == 0:
        save(saved, folder / "monitor.pt")
    wait_for(folder / "monitor.pt")
    again = CollapseMonitor(items=8)
    gathered_state = torch.load(folder / "monitor.pt", weights_only=True, mmap=True)
    set_model_state_dict(nn.ModuleList([nn.Linear(2, 2), again]), gathered_state, options=SAVED)
    # So that the first process has more to save, and the other is asked for what both have.
    more = {"first": torch.ones(1000)} if rank == 0 else {}
    dcp_save({"monitor": monitor.state_dict(), **more}, checkpoint_id=folder / "dcp")
    return watched(rank, range(60))[1], again.steps


def in_one_process_of_two(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    rendezvous, timeout = f"file://{folder / 'rendezvous'}", timedelta(seconds=100)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2, timeout=timeout)
    mesh = init_device_mesh("cpu", (2,))
    results = {
        "part by part": trained(shard_part_by_part, mesh, rank),
        "in two": trained(shard_in_two, mesh, rank),
        "resumed": saved_and_resumed(mesh, rank, folder),
        "events": {event: right_after(event, mesh) for event in EVENTS},
        "precisions": precisions(mesh),
        "refused": refused(mesh),
        "ddp": wrapped_in_ddp(rank),
        "monitored": monitored(rank, folder),
    }
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


# What came of it


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    modules = build()
    return {"curve": train(modules, adam(modules), range(STEPS)), "modules": modules.state_dict()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def results(folder: Path) -> list[Any]:
    processes: Any = torch.multiprocessing.spawn(  # pyright: ignore[reportPrivateImportUsage]
        in_one_process_of_two, (folder,), nprocs=2, join=False
    )
    while not (folder / "two.pt").exists() and not processes.join(timeout=0.05):
        pass
    modules = build()
    optimizer = adam(modules)
    resume(modules, optimizer, folder / "two.pt")
    curve = train(modules, optimizer, range(2, 4))
    save(state(modules, optimizer), folder / "four.pt")
    while not processes.join():
        pass
    found = [torch.load(folder / f"{rank}.pt") for rank in range(2)]
    for result in found:
        result["resumed"]["curve"][2:2] = curve
    return found


@pytest.mark.slow
@pytest.mark.parametrize("way", ["part by part", "in two", "resumed"])
def test_it_trains_as_in_one_process(results: list[Any], alone: dict[str, Any], way: str):
    curves = torch.tensor([result[way]["curve"] for result in results], dtype=torch.float64)
    torch.testing.assert_close(curves.mean(0), torch.tensor(alone["curve"], dtype=torch.float64), rtol=0, atol=1e-10)
    for result in results:
        torch.testing.assert_close(result[way]["modules"], alone["modules"], rtol=0, atol=1e-10)
    assert int(alone["modules"]["jepa.teacher.updates"]) == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("way", ["part by part", "in two"])
def test_each_process_moves_its_part_without_communication(results: list[Any], way: str):
    shards = [result[way]["shards"] for result in results]
    assert [shards[0]["narrow.weight"].shape[0], shards[1]["narrow.weight"].shape[0]] == [1, 0]
    assert [shards[0]["first.weight"].shape[0], shards[1]["first.weight"].shape[0]] == [3, 2]
    for result in results:
        of_a_pass, of_an_update = result[way]["collectives"]
        assert of_a_pass > 0
        assert of_an_update == 0


@pytest.mark.slow
def test_an_update_after_anything_is_the_formula(results: list[Any]):
    assert all(all(result["events"].values()) and len(result["events"]) == 4 for result in results), results[0][
        "events"
    ]


@pytest.mark.slow
def test_the_average_is_in_float32_whatever_is_sharded(results: list[Any]):
    expected = torch.full((5,), 1 - 0.999**100)
    for result in results:
        for name, dtype in (("bfloat16", torch.bfloat16), ("policy", torch.float32)):
            average, run, z = result["precisions"][name]
            torch.testing.assert_close(average, expected, rtol=1e-4, atol=0)
            assert torch.equal(run, average.to(dtype))
            assert z.dtype == torch.bfloat16
        assert (
            "cast before fully_shard, or give fully_shard a MixedPrecisionPolicy" in result["precisions"]["cast behind"]
        )


@pytest.mark.slow
def test_what_is_not_sharded_alike_is_refused_by_name(results: list[Any]):
    for said in (result["refused"] for result in results):
        assert "build EMATeacher(encoder) first, then apply fully_shard" in said["built behind"]
        assert "first.weight is sharded by" in said["encoder alone"]
        assert "whole in teacher.target_model; apply the same fully_shard" in said["encoder alone"]
        assert "first.weight is whole in encoder, sharded by" in said["teacher alone"]
        assert "whole in teacher.average" in said["average left out"]


@pytest.mark.slow
def test_under_ddp_the_teachers_stay_alike_by_themselves(results: list[Any]):
    one, two = (result["ddp"] for result in results)
    for result in (one, two):
        assert result["right"]
        assert result["updates"] == 41
        assert result["collectives"] == 0
    assert len(one["teacher"]) == 6
    assert all(torch.equal(p, two["teacher"][name]) for name, p in one["teacher"].items())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_monitor_that_two_processes_saved_goes_on_in_one(results: list[Any], folder: Path):
    def load(monitor: CollapseMonitor) -> None:
        state = {"monitor": monitor.state_dict()}
        dcp_load(state, checkpoint_id=folder / "dcp", no_dist=True)
        monitor.load_state_dict(state["monitor"])

    (unbroken, steps), (silent, none) = (result["monitored"] for result in results)
    assert len(unbroken) > 4
    assert not silent
    assert (steps, none) == (17, 0)
    assert watched(0, range(17, 60), load)[1] == [(row, step) for row, step in unbroken if step > 17]


@pytest.mark.slow
def test_the_document_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    document = Path(__file__).parents[3] / "docs" / "sharded.md"
    blocks = re.findall(r"```python\n(.*?)```", document.read_text(), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    names: dict[str, Any] = {}
    try:
        for block in blocks:
            exec(compile(block, document, "exec"), names)
    finally:
        dist.destroy_process_group()
    assert int(names["saved"]["training"]["jepa.teacher.updates"]) == 3 == len(blocks)
