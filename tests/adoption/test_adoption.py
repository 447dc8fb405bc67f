"""Five architectures of the field, each in a small repository of its own, adopt the term: how many lines does it take?

The lines that a repository had to add end in `# +`. Without them it is the repository as it was, and runs: no other
line was touched.
"""

import importlib
import io
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from runs import differences

import jepa_ssl
from jepa_ssl.integrations.pyg import bipartite_graph, in_another_order
from jepa_ssl.lp import flatten
from jepa_ssl.testing import check_encoder, check_teacher

pytest.importorskip("torch_geometric")

FOLDER = Path(__file__).parent
REPOSITORIES = ("gasse", "tripartite", "unrolled_pdhg", "dc3", "constraint_transformer")
MOST_LINES = 20
ADDED = "# +"

repositories = pytest.mark.parametrize("name", REPOSITORIES)


def source(name: str) -> list[str]:
    return (FOLDER / f"{name}.py").read_text().splitlines()


def without_the_term(name: str) -> ModuleType:
    """The repository as it was."""
    module = ModuleType(name)
    lines = ["" if line.endswith(ADDED) else line for line in source(name)]
    exec(compile("\n".join(lines), f"{name}.py", "exec"), vars(module))
    return module


def training(module: ModuleType) -> Any:
    torch.manual_seed(0)
    return module.Training()


def trained(run: Any, steps: range) -> list[dict[str, float]]:
    log: list[dict[str, float]] = []
    for step in steps:
        torch.manual_seed(1000 + step)  # of data, dropout and masks
        log.append(run.step())
    return log


@repositories
def test_it_takes_few_lines_and_none_is_edited(name: str, capsys: pytest.CaptureFixture[str]):
    added = sum(line.endswith(ADDED) for line in source(name))
    with capsys.disabled():
        print(f"\n{name}: {added} new lines", end="")
    assert 0 < added <= MOST_LINES
    plain = without_the_term(name)
    assert "jepa" not in "\n".join(line for line in source(name) if not line.endswith(ADDED))
    log = trained(training(plain), range(2))
    assert all(entry.keys() == {"loss"} for entry in log)


@repositories
def test_it_trains(name: str):
    run = training(importlib.import_module(f"adoption.{name}"))
    log = trained(run, range(60))
    assert all({"loss", "loss_jepa"} <= entry.keys() for entry in log)
    first, last = (sum(entry["loss_jepa"] for entry in part) for part in (log[:10], log[-10:]))
    assert last < first


@repositories
def test_the_task_learns_as_before_if_the_term_weighs_nothing(name: str):
    """The term changes no number of the repository but by its gradient."""
    with_term, plain = (
        training(module) for module in (importlib.import_module(f"adoption.{name}"), without_the_term(name))
    )
    model = next(part for part in vars(plain).values() if isinstance(part, torch.nn.Module))
    adopted = next(part for part in vars(with_term).values() if isinstance(part, torch.nn.Module))
    assert list(model.state_dict()) == list(adopted.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, adopted.state_dict()[name]), name


def encoder_and_objective(run: Any) -> tuple[Any, Any]:
    return (run.encoder, run.jepa) if hasattr(run, "encoder") else (run.jepa.encoder, run.jepa.objective)


def instance_of(name: str, run: Any) -> Any:
    batch = run.batch()
    match name:
        case "gasse":
            return bipartite_graph(batch)
        case "unrolled_pdhg":
            return flatten(*batch)
        case "constraint_transformer":
            rows, valid, _ = batch
            return jepa_ssl.FlatVectors(rows.flatten(1), valid.repeat_interleave(rows.size(2), 1))
        case _:
            return batch


@repositories
def test_it_is_wired_right(name: str):
    run = training(importlib.import_module(f"adoption.{name}"))
    encoder, objective = encoder_and_objective(run)
    instance = instance_of(name, run)
    rewritten = {"the order of graphs and nodes": in_another_order(instance)} if name == "tripartite" else None
    check_encoder(encoder, instance, views=objective.views, rewritten=rewritten)
    target = objective.views(instance).target if name == "unrolled_pdhg" else None
    check_teacher(objective.teacher, encoder, instance, target=target)


@repositories
def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(name: str):
    module = importlib.import_module(f"adoption.{name}")
    unbroken = training(module)
    trained(unbroken, range(4))
    file = io.BytesIO()
    torch.save(unbroken.checkpoint(), file)
    file.seek(0)
    resumed = training(module)
    trained(resumed, range(10, 12))  # has been elsewhere
    resumed.resume(torch.load(file, weights_only=True))
    assert trained(unbroken, range(4, 7)) == trained(resumed, range(4, 7))
    assert differences(unbroken.checkpoint(), resumed.checkpoint()) == []


def test_flags_reach_the_term():
    run = importlib.import_module("adoption.dc3").Training(
        ["--use_jepa", "--jepa_mode", "simsiam", "--jepa_weight", "0.5"]
    )
    assert isinstance(run.jepa.objective.teacher, jepa_ssl.StopGradTeacher)
    assert run.jepa.schedule(0).jepa == 0.5
