"""Steps in pieces, in bfloat16, with activations made twice, compiled: the same training, computed otherwise."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from data.batches import prepare
from data.generators import generate
from jepa_adapter import jepa_term
from jepa_adapter import prepare as prepare_views
from loop.options import parse
from loop.paths import build
from loop.step import Deal, Step
from runs import MODES, PATHS, RECIPES, TINY, checkpoint, train_rows
from torch import Tensor

SAMPLES = [prepare(generate("set_cover", (3 + i % 3, 5 + i % 4), seed=i)) for i in range(14)]
CPU = torch.device("cpu")
each_path = pytest.mark.parametrize("path", PATHS)


class Begun:
    """A run on `SAMPLES` that has not begun."""

    def __init__(self, path: str, *flags: str, dtype: torch.dtype = torch.float64) -> None:
        self.args = parse([*TINY, *PATHS[path], *flags, "--batch_size", "7"])
        torch.manual_seed(0)
        rows, columns = (max(len(part) for part in parts) for parts in zip(*((s.b, s.c) for s in SAMPLES), strict=True))
        self.model, self.collate = build(self.args, rows, columns)
        jepa = jepa_term(self.model, self.args, CPU) if self.args.use_jepa else None
        self.dtype, self.deal = dtype, Deal.of(self.args)
        self.step = Step(self.model, jepa, self.args, CPU, self.deal).to(dtype)
        if jepa:
            prepare_views(jepa, self.batches([list(range(14))]))

    def batches(self, order: list[list[int]]) -> Iterator[Any]:
        for instances in order:
            batch = self.collate([SAMPLES[i] for i in instances])
            yield type(batch)(*(p.apply(self._cast) if hasattr(p, "edge_index") else self._cast(p) for p in batch))

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def gradients(self, instances: list[int], watch: bool = True) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The losses of a joint step, and the gradient of each parameter."""
        self.step.zero_grad()
        batches = self.batches(self.deal.own(instances))
        loss = self.step.backward(batches, instances, epoch=0, watch=watch)
        trained = self.step.named_parameters()
        return loss.losses, {name: p.grad.clone() for name, p in trained if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize(("path", "flags"), [
    ("flat", []), ("flat", MODES["ema"]), ("flat", [*MODES["simsiam"], "--jepa_views", "structure"]),
    ("flat", RECIPES["frozen"]), ("graph", []), ("graph", MODES["simsiam"]),
    ("graph", [*MODES["ema"], "--jepa_views", "edges"]), ("graph", [*MODES["ema"], "--jepa_views", "blocks"]),
    ("graph", RECIPES["frozen"]),
], ids=lambda value: value if isinstance(value, str) else " ".join(value))  # fmt: skip
def test_a_step_in_pieces_has_the_gradients_of_the_whole(path, flags):
    """Seven instances in four pieces: two, two, two and one."""
    whole, pieces = Begun(path, *flags), Begun(path, *flags, "--accumulate", "4")
    expected, found = (run.gradients([5, 0, 3, 9, 12, 1, 7]) for run in (whole, pieces))
    assert [len(piece) for piece in pieces.deal.own([5, 0, 3, 9, 12, 1, 7])] == [2, 2, 2, 1]
    assert found[0].keys() == expected[0].keys()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@each_path
def test_runs_of_other_seeds_hide_other_things(path):
    """The weights are the same, and so are the instances."""
    losses = [Begun(path, *MODES["ema"], "--seed", seed).gradients(list(range(7)))[0] for seed in ("0", "0", "1")]
    assert losses[0] == losses[1]
    assert losses[0]["train/loss_kkt"] == losses[2]["train/loss_kkt"]
    assert losses[0]["train/loss_jepa"] != losses[2]["train/loss_jepa"]


@each_path
@pytest.mark.slow
def test_activations_that_are_made_twice_give_the_same_gradients_and_take_less_memory(path):
    """Of the trunk, whose weights are no activations."""
    held: list[int] = []
    results: list[Any] = []
    for flags in ([], ["--checkpoint_activations"]):
        begun, kept = Begun(path, *MODES["ema"], *flags), []

        def keep(tensor: Tensor, kept=kept) -> Tensor:
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            results.append(begun.gradients(list(range(7))))
        held.append(sum(kept))
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-15)
    assert held[1] < (0.95 if path == "flat" else 0.6) * held[0]


@each_path
@pytest.mark.slow
def test_bfloat16_trains_weights_and_a_teacher_in_float32(run_training, tmp_path, path):
    runs = []
    for precision in ("fp32", "bf16"):
        flags = [*PATHS[path], *MODES["ema"], "--jepa_regularizer", "sigreg", "--precision", precision, "--epochs", 2]
        run_training(*flags, "--output_dir", tmp_path / precision)
        runs.append(train_rows(tmp_path / precision))
    state = checkpoint(tmp_path / "bf16")
    for weights in (state["model"], state["jepa"]["projector"], state["target_model"]):
        assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    for full, half in zip(*runs, strict=True):
        assert half["train/loss_jepa"] != full["train/loss_jepa"]
        assert half["train/loss"] == pytest.approx(full["train/loss"], rel=0.05)


@pytest.mark.slow
def test_a_compiled_step_is_one_graph_for_all_sizes(monkeypatch):
    """One of the task's part and one of JEPA's; twice the gradients are measured, too."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    flags = [*MODES["ema"], "--jepa_balance"]
    plain, compiled = (Begun("graph", *flags, *more, dtype=torch.float32) for more in ([], ["--compile"]))
    assert compiled.step.state_dict().keys() == plain.step.state_dict().keys()
    for step, instances in enumerate([[0, 1, 2, 3, 4, 5, 6], [7, 8, 9], [1, 4], [10, 11, 12, 13]]):
        expected, found = (begun.gradients(instances, watch=step == 0) for begun in (plain, compiled))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_a_step_with_too_few_instances_for_its_pieces_is_refused(run_training, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_training("--accumulate", 5, "--output_dir", tmp_path / "run")
    assert stopped.value.code == 2
    assert "--batch_size is 4, but each step needs 5 LPs: --accumulate is 5" in capsys.readouterr().err


def test_a_last_step_that_is_too_small_joins_the_one_before():
    deal = Deal(batch_size=4, pieces=2, processes=2, rank=1)
    assert deal.steps(range(11)) == [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9, 10]]
    assert deal.own([4, 5, 6, 7, 8, 9, 10]) == [[5, 9], [7]]
    with pytest.raises(ValueError, match="there are 3 LPs to train on, but each step needs 4"):
        deal.steps(range(3))
