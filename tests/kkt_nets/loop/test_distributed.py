"""Two processes train as one does: the same curves, weights and teacher, whatever the recipe."""

import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import PATHS, STATES, TINY, checkpoint, differences, free_ports, rows
from torch import Tensor

# Fourteen LPs in steps of five, five and four: of an odd number one process has more than the other.
SIZES = ["--train_instances", "14", "--batch_size", "5", "--monitor_every", "0", "--epochs", "2"]
JEPA = ["--use_jepa", "--jepa_mode"]
RECIPES = {
    "flat, copy": [*JEPA, "ema", "--jepa_views", "structure", "--jepa_regularizer", "vicreg", "--jepa_balance"],
    "flat, states": [*STATES, "learned", "--jepa_regularizer", "sigreg"],
    "graph, no copy": [
        *PATHS["graph"], *JEPA, "simsiam", "--jepa_views", "blocks", "--jepa_regularizer", "sigreg",
        "--jepa_pretrain_epochs", "1",
    ],
    "graph, edges": [*PATHS["graph"], *JEPA, "ema", "--jepa_views", "edges"],
}  # fmt: skip
IN_PIECES = {"graph, edges": ["--accumulate", "2"]}  # of two processes; one takes the step in one go
RESUMED = "flat, copy"


def run(folder: Path, *flags: str) -> Any:
    import train

    return train.main([*TINY, *SIZES, "--data_root", str(folder / "data"), *flags])


def in_one_process_of_two(rank: int, folder: Path, ports: list[int]) -> None:
    from loop import distributed
    from loop.step import Step

    torch.set_num_threads(1)
    sys.stderr = sys.__stderr__ = (folder / f"{rank}.err").open("w", buffering=1)
    sys.stdout = (folder / f"{rank}.out").open("w", buffering=1)
    distributed.PATIENCE = timedelta(seconds=60)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}

    def together(*flags: str) -> Any:
        os.environ["MASTER_PORT"] = str(ports.pop())
        return run(folder, *flags)

    ends: dict[str, Any] = {}
    for name, flags in RECIPES.items():
        done = together(*flags, *IN_PIECES.get(name, []), "--output_dir", str(folder / "two" / name))
        ends[name] = {"model": done.model.state_dict(), "jepa": dict(done.jepa.state_dict())}
    flags = RECIPES[RESUMED]
    together(*flags, "--epochs", "1", "--output_dir", str(folder / "two for an epoch"))
    resume = ["--resume", str(folder / "one for an epoch" / "last.pt")]
    together(*flags, *resume, "--output_dir", str(folder / "one, then two"))
    ends["gradients"] = first_gradients(folder, ports)

    backward, calls = Step.backward, []

    def failing(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if rank == 1 and len(calls) == 2:
            raise ValueError("the second process is out of luck.")
        return backward(*args, **options)

    Step.backward = failing
    with pytest.raises(SystemExit) as stopped:
        together("--output_dir", str(folder / "failed"))
    ends["code"] = stopped.value.code
    torch.save(ends, folder / f"{rank}.pt")


def first_gradients(folder: Path, ports: list[int] | None = None) -> dict[str, dict[str, Tensor]]:
    """Recipe -> parameter -> gradient of five instances, in float64; in two processes if they have ports."""
    import train
    from loop import distributed
    from loop.options import parse

    found: dict[str, dict[str, Tensor]] = {}
    for name in ("flat, copy", "graph, edges"):
        pieces: list[str] = []
        if ports:
            os.environ["MASTER_PORT"], pieces = str(ports.pop()), IN_PIECES.get(name, [])
        begun_by = folder / ("begun by two" if ports else "begun by one") / name
        given = ["--data_root", str(folder / "data"), "--output_dir", str(begun_by)]
        with distributed.group():
            begun = train.Run(parse([*TINY, *SIZES, *RECIPES[name], *given, *pieces]))
            assert begun.jepa
            begun.engine.double()
            batches = map(doubled, begun._batches(begun.data, begun.deal.own(range(5))))
            begun.engine.backward(batches, range(5), epoch=0, watch=False)
        trained = begun.engine.named_parameters()
        found[name] = {key: p.grad for key, p in trained if p.grad is not None}
    return found


def doubled(batch: Any) -> Any:
    return type(batch)(*(part.apply(_double) if hasattr(part, "edge_index") else _double(part) for part in batch))


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes leave behind, and what one does."""
    folder = tmp_path_factory.mktemp("processes")
    run(folder, *RECIPES[RESUMED], "--epochs", "1", "--output_dir", str(folder / "one for an epoch"))
    # No forks: of what other tests have started, a lock may be held at that moment, and would be for ever.
    torch.multiprocessing.spawn(in_one_process_of_two, (folder, free_ports(9)), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
    for name, flags in RECIPES.items():
        run(folder, *flags, "--output_dir", str(folder / "one" / name))
    resume = ["--resume", str(folder / "two for an epoch" / "last.pt")]
    run(folder, *RECIPES[RESUMED], *resume, "--output_dir", str(folder / "two, then one"))
    return folder


def ends(folder: Path) -> list[Any]:
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def assert_same_training(found: Path, expected: Path) -> None:
    """Curves and weights to what float32 rounds off in six steps."""
    curves = [[{k: v for k, v in row.items() if not k.startswith(OWN)} for row in rows(f)] for f in (found, expected)]
    assert any("train/loss_jepa" in row for row in curves[0])
    torch.testing.assert_close(*curves, rtol=3e-5, atol=1e-6)
    a, b = (checkpoint(f) for f in (found, expected))
    torch.testing.assert_close(a["model"], b["model"], rtol=0, atol=2e-5)
    for part in ("projector", "predictor"):
        torch.testing.assert_close(a["jepa"][part], b["jepa"][part], rtol=0, atol=2e-5)
    torch.testing.assert_close(a.get("target_model"), b.get("target_model"), rtol=0, atol=2e-5)


OWN = ("train/spread/", "train/effective_rank/")  # of the first process's own instances


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_curves_and_weights_are_those_of_one_process(folder: Path, name: str):
    assert_same_training(folder / "two" / name, folder / "one" / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one, then two", "two, then one"])
def test_a_run_goes_on_with_another_number_of_processes(folder: Path, name: str):
    assert_same_training(folder / name, folder / "one" / RESUMED)


@pytest.mark.slow
def test_the_gradients_of_a_step_are_those_of_one_process(folder: Path):
    expected = first_gradients(folder)
    assert all(expected.values())
    for end in ends(folder):
        torch.testing.assert_close(end["gradients"], expected, rtol=1e-10, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_networks_and_teachers_are_the_same_on_both_processes_bit_for_bit(folder: Path, name: str):
    first, second = (end[name] for end in ends(folder))
    first["jepa"].pop("objective.monitor._extra_state", None)
    assert not differences(first, second)


@pytest.mark.slow
def test_the_first_process_alone_writes_and_speaks(folder: Path):
    for name in RECIPES:
        files = {file.name for file in (folder / "two" / name).iterdir()}
        assert files == {"last.pt", "best.pt", "metrics.jsonl"}
    assert (folder / "0.out").read_text().count("checkpoints and metrics are in") == len(RECIPES) + 2
    assert (folder / "1.out").read_text() == ""


@pytest.mark.slow
def test_an_error_of_one_process_ends_both_with_one_message(folder: Path):
    assert [end["code"] for end in ends(folder)] == [2, 2]
    assert "error" not in (folder / "0.err").read_text()
    assert (folder / "1.err").read_text() == "train.py: error: the second process is out of luck.\n"
