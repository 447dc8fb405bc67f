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
RECIPE = {"unrolled_pdhg": ["--jepa_views", "solver_state"]}
REPOSITORIES = ("gasse", "tripartite", "unrolled_pdhg", "dc3", "constraint_transformer")
MOST_LINES = 20
ADDED = "# +"

repositories = pytest.mark.parametrize("name", REPOSITORIES)


def source(name: str) -> list[str]:
    return (FOLDER / f"{name}.py").read_text().splitlines()


def without_the_term(name: str) -> Any:
    """The repository as it was."""
    module = ModuleType(name)
    lines = ["" if line.endswith(ADDED) else line for line in source(name)]
    exec(compile("\n".join(lines), f"{name}.py", "exec"), vars(module))
    return module


def training(name: str, *flags: str) -> Any:
    torch.manual_seed(0)
    return importlib.import_module(f"adoption.{name}").Training(["--use_jepa", *RECIPE.get(name, ()), *flags])


def trained(run: Any, steps: int) -> list[dict[str, float]]:
    return [run.step() for _ in range(steps)]


@pytest.mark.parametrize("name", [*REPOSITORIES, "kkt_repository"])
def test_it_takes_few_lines_and_none_is_edited(name: str, capsys: pytest.CaptureFixture[str]):
    """New lines with those for flags, log, checkpoint and optimizer."""
    added = sum(line.endswith(ADDED) for line in source(name))
    with capsys.disabled():
        print(f"\n{name}: {added} new lines", end="")
    assert 0 < added <= MOST_LINES
    assert "jepa" not in "\n".join(line for line in source(name) if not line.endswith(ADDED))


@repositories
def test_it_trains(name: str):
    log = trained(training(name), 60)
    assert all(entry.keys() == {"loss", "loss_task", "loss_jepa"} for entry in log)
    first, last = (sum(entry["loss_jepa"] for entry in part) for part in (log[:10], log[-10:]))
    assert last < first


@repositories
@pytest.mark.parametrize("flags", [(), ("--use_jepa",)], ids=["off", "on"])
def test_weights_data_and_dropout_are_those_of_the_repository_as_it_was(name: str, flags: tuple[str, ...]):
    """The term changes a number of the repository by its gradient, and by nothing else."""
    torch.manual_seed(0)
    plain = without_the_term(name).Training()
    before, drawn = trained(plain, 5), torch.get_rng_state()
    torch.manual_seed(0)
    run = importlib.import_module(f"adoption.{name}").Training([*flags, *(RECIPE.get(name, ()) if flags else ())])
    after = trained(run, 5)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert list(run.model.state_dict()) == list(plain.model.state_dict())
    assert after[0]["loss_task"] == before[0]["loss"]
    if not flags:
        assert [entry["loss"] for entry in after] == [entry["loss"] for entry in before]


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
    run = training(name)
    encoder, objective = run.jepa.encoder, run.jepa.objective
    instance = instance_of(name, run)
    rewritten = {"the order of graphs and nodes": in_another_order(instance)} if name == "tripartite" else None
    check_encoder(encoder, instance, views=objective.views, rewritten=rewritten)
    target = objective.views(instance).target if name == "unrolled_pdhg" else None
    check_teacher(objective.teacher, encoder, instance, target=target)


@repositories
def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(name: str):
    unbroken = training(name)
    trained(unbroken, 4)
    file = io.BytesIO()
    torch.save(unbroken.checkpoint(), file)
    file.seek(0)
    at = torch.get_rng_state()
    expected = trained(unbroken, 3)
    resumed = training(name)
    trained(resumed, 2)  # has been elsewhere
    resumed.resume(torch.load(file, weights_only=True))
    torch.set_rng_state(at)  # of its own data and dropout; the term's are in the checkpoint
    assert trained(resumed, 3) == expected
    assert differences(unbroken.checkpoint(), resumed.checkpoint()) == []


def test_flags_reach_the_term():
    run = training("dc3", "--jepa_mode", "simsiam", "--jepa_weight", "0.5")
    assert isinstance(run.jepa.objective.teacher, jepa_ssl.StopGradTeacher)
    assert run.jepa.schedule(0).jepa == 0.5


@pytest.mark.parametrize("path", [(), ("--use_bipartite_graphs",)], ids=["dense", "graphs"])
@pytest.mark.parametrize("mode", [("--use_jepa", "--jepa_pretrain_epochs", "1"), ()], ids=["jepa", "off"])
def test_the_repository_of_a_client_trains_and_resumes(
    path: tuple[str, ...], mode: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WANDB_SILENT", "true")
    flags = [*path, *mode, "--exp_dir", str(tmp_path)]
    client = importlib.import_module("adoption.kkt_repository")
    unbroken = client.main(flags)
    resumed = client.main([*flags, "--resume", str(tmp_path / "epoch1.pt")])
    assert differences(unbroken.state(), resumed.state()) == []
    if not mode:
        plain = without_the_term("kkt_repository").main([*path, "--exp_dir", str(tmp_path)])
        assert differences(plain.model.state_dict(), unbroken.model.state_dict()) == []
