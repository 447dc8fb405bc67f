"""`JEPATerm` in a plain loop: it trains what it should, and goes on where it was saved."""

import io
from typing import Any

import pytest
import torch
from torch import nn

from jepa_ssl import (
    EMATeacher,
    EntryMasker,
    GradientBalance,
    JEPAObjective,
    JEPATerm,
    JointSchedule,
    MLPPredictor,
    ModelEncoder,
    Seeds,
    StopGradTeacher,
)
from jepa_ssl.joint import LossWeights

BATCHES = torch.randn(8, 5, 6, generator=torch.Generator().manual_seed(3))


class Run:
    """A solver's repository in its smallest form, with the term in its loop."""

    def __init__(self, mode: str = "ema", schedule: JointSchedule | None = None, balance: bool = False) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
        encoder = ModelEncoder(self.model, {"instance": 16}, dim=8, captured={"instance": "2"})
        teacher: Any = EMATeacher(encoder, 0.9) if mode == "ema" else StopGradTeacher()
        objective = JEPAObjective(EntryMasker(0.5), MLPPredictor(encoder.dims), teacher)
        weight = GradientBalance(self.model[0].parameters()) if balance else None
        self.term = JEPATerm(encoder, objective, schedule or JointSchedule(), weight)
        self.optimizer = torch.optim.Adam([*self.model.parameters(), *self.term.parameters()], lr=0.01)

    def step(self, number: int, epoch: int = 0) -> Any:
        batch = BATCHES[number]
        seeds = Seeds(torch.arange(5) + 5 * number)
        joint = self.term.loss(batch, task=lambda: self.model(batch).square().mean(), epoch=epoch, seeds=seeds)
        self.optimizer.zero_grad()
        joint.total.backward()
        self.optimizer.step()
        self.term.update()
        return joint

    def checkpoint(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "jepa": self.term.state_dict(),
        }

    def resume(self, state: dict[str, Any]) -> bool:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        return self.term.load_state_dict(state["jepa"])


def saved(state: dict[str, Any]) -> dict[str, Any]:
    """As it comes back from a file; nothing is unpickled."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_the_loss_is_the_weighted_sum_and_says_what_it_is_made_of():
    run = Run(schedule=JointSchedule(jepa_weight=0.3))
    joint = run.step(0)
    torch.testing.assert_close(joint.total, joint.task + 0.3 * joint.jepa.total)
    assert joint.terms.keys() == {"loss", "loss_task", "loss_jepa"}
    assert not any(term.requires_grad for term in joint.terms.values())


@pytest.mark.parametrize(
    ("schedule", "computed"),
    [
        (JointSchedule(jepa_weight=0.0), ["loss_task", "loss_task"]),
        (JointSchedule(jepa_weight=0.0, pretrain_epochs=1), ["loss_jepa", "loss_task"]),
        (JointSchedule(pretrain_epochs=1), ["loss_jepa", "loss_jepa loss_task"]),
        (JointSchedule(), ["loss_jepa loss_task", "loss_jepa loss_task"]),
    ],
    ids=["the task alone", "JEPA, then the task", "JEPA, then both", "both"],
)
def test_the_four_ways_to_train(schedule: JointSchedule, computed: list[str]):
    run = Run(schedule=schedule)
    assert [" ".join(sorted(run.step(epoch, epoch).terms.keys() - {"loss"})) for epoch in (0, 1)] == computed


def test_the_optimizer_trains_all_that_learns_and_each_once():
    run = Run()
    trained = [parameter for group in run.optimizer.param_groups for parameter in group["params"]]
    assert len({id(parameter) for parameter in trained}) == len(trained)
    teacher = {id(parameter) for parameter in run.term.objective.teacher.parameters()}  # pyright: ignore
    everything = {id(p) for part in (run.term.encoder, run.term.objective) for p in part.parameters()}
    assert {id(parameter) for parameter in trained} == everything - teacher


def test_the_model_gains_no_key():
    assert list(Run().model.state_dict()) == list(nn.Sequential(*Run().model).state_dict())


@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("mode", ["ema", "simsiam"])
def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(mode: str, balance: bool):
    unbroken = Run(mode, balance=balance)
    for number in range(4):
        unbroken.step(number)
    state = saved(unbroken.checkpoint())
    assert ("target_model" in state["jepa"]) == (mode == "ema")
    resumed = Run(mode, balance=balance)
    assert resumed.resume(state)
    for number in range(4, 8):
        assert torch.equal(unbroken.step(number).total, resumed.step(number).total)
    for name, tensor in unbroken.term.objective.state_dict().items():
        assert torch.equal(tensor, resumed.term.objective.state_dict()[name]), name


def test_a_teacher_that_was_not_saved_starts_from_the_encoder_as_it_is():
    without = Run("simsiam")
    without.step(0)
    run = Run("ema")
    run.step(1)
    assert not run.resume(saved(without.checkpoint()))
    teacher: Any = run.term.objective.teacher
    assert teacher.updates == 0
    for name, tensor in run.term.encoder.state_dict().items():
        assert torch.equal(tensor, teacher.target_model.state_dict()[name]), name


def test_a_block_of_another_kind_of_teacher_leaves_this_one_as_new():
    with_copy, run = Run("ema"), Run("simsiam")
    with_copy.step(0)
    assert not run.resume(saved(with_copy.checkpoint()))
    run.step(1)


def test_a_block_of_a_term_that_was_built_otherwise_is_refused():
    with pytest.raises(ValueError, match="saved with a GradientBalance, but this term has none"):
        Run().term.load_state_dict(Run(balance=True).term.state_dict())
    state = Run().term.state_dict()
    state["objective"] = {**state["objective"], "views.token": torch.ones(2)}
    with pytest.raises(ValueError, match=r"has \['views.token'\] besides"):
        Run().term.load_state_dict(state)


def test_versions_of_modules_are_saved_with_them():
    seen: list[Any] = []

    class Versioned(nn.Linear):
        _version = 2

        def _load_from_state_dict(self, state_dict: Any, prefix: Any, local_metadata: Any, *args: Any) -> None:  # pyright: ignore
            seen.append(local_metadata.get("version"))
            super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    encoder = ModelEncoder(nn.Sequential(Versioned(6, 16)), {"instance": 16}, 8)
    term = JEPATerm(encoder, JEPAObjective(EntryMasker(0.5), MLPPredictor(encoder.dims), EMATeacher(encoder)))
    state = saved(term.state_dict())
    term.load_state_dict(state)
    assert 2 in seen


def test_an_encoder_without_projector_adds_nothing():
    trunk = nn.Linear(6, 8)
    objective = JEPAObjective(EntryMasker(0.5), MLPPredictor({"instance": 8}), StopGradTeacher())
    term = JEPATerm(lambda flat: {"instance": trunk(flat)}, objective)
    assert list(term.parameters()) == list(objective.parameters())
    assert term.state_dict()["projector"] == {}
    assert term.load_state_dict(term.state_dict())


def test_a_loss_that_counts_nothing_is_not_computed():
    def never() -> Any:
        raise AssertionError

    run = Run(schedule=JointSchedule(pretrain_epochs=1))
    assert run.term.loss(BATCHES[0], task=never, epoch=0).task is None
    with pytest.raises(ValueError, match="both losses have weight 0"):
        LossWeights(0.0, 0.0).combine(never, never)
