"""A teacher that is not moved once per optimizer step says so, once; and nothing is said of what is right."""

import copy
import pickle
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import oracles
import pytest
import torch
from builders import FlatEncoder, seeded
from torch import nn

from jepa_ssl import EntryMasker, JEPAObjective, MLPPredictor, MultiView
from jepa_ssl.schedules import LinearSchedule
from jepa_ssl.teachers import EMATeacher

TOO_OFTEN = "more than once between two optimizer steps, 4 times in a row"
FORGOTTEN = "moved 30 times and EMATeacher never"


def training(momentum: Any = 0.5, views: Any = None) -> tuple[Any, Any, Callable[..., None], Callable[[], None]]:
    encoder = FlatEncoder()
    jepa = JEPAObjective(views or EntryMasker(0.5), MLPPredictor({"instance": 4}), EMATeacher(encoder, momentum))
    optimizer = torch.optim.Adam([*encoder.parameters(), *jepa.predictor.parameters()])  # pyright: ignore
    draw = seeded()

    def backward() -> None:
        jepa(encoder, torch.randn(4, 6, generator=draw), generator=draw).total.backward()

    def step() -> None:
        optimizer.step()
        optimizer.zero_grad()

    return encoder, jepa, backward, step


@pytest.mark.parametrize("micro_batches", [2, 5])
@pytest.mark.parametrize("momentum", [0.5, LinearSchedule(0.5, 1.0, 100)])
def test_an_update_per_micro_batch_is_said_once(micro_batches: int, momentum: Any):
    encoder, jepa, backward, step = training(momentum)

    def wrong(steps: int) -> None:
        for _ in range(steps):
            for _ in range(micro_batches):
                backward()
                jepa.update(encoder)
            step()

    with pytest.warns(UserWarning, match=TOO_OFTEN) as said:
        wrong(7)
    wrong(5)
    assert len(said) == 1


def test_the_advice_points_at_the_line_that_called():
    encoder = FlatEncoder()
    teacher = EMATeacher(encoder)

    def twice() -> None:
        for _ in range(7):
            nn.init.normal_(next(encoder.parameters()))
            teacher.update(encoder)
            teacher.update(encoder)

    with pytest.warns(UserWarning, match=TOO_OFTEN) as said:
        twice()
    assert said[0].filename == __file__


def test_a_forgotten_update_is_said_once():
    _, _, backward, step = training()

    def forgetful() -> None:
        for _ in range(40):
            backward()
            step()

    with pytest.warns(UserWarning, match=FORGOTTEN) as said:
        forgetful()
    forgetful()
    assert len(said) == 1
    assert said[0].message.args[0].count("momentum=1") == 1  # pyright: ignore


def ordinary(encoder: Any, jepa: Any, backward: Any, step: Any) -> None:
    for _ in range(40):
        backward()
        step()
        jepa.update(encoder)


def accumulated(encoder: Any, jepa: Any, backward: Any, step: Any) -> None:
    for _ in range(40):
        for _ in range(4):
            backward()
        step()
        jepa.update(encoder)


def skipped_steps(encoder: Any, jepa: Any, backward: Any, step: Any) -> None:
    """As a GradScaler does: many at the start, then one now and then."""
    for i in range(60):
        backward()
        if i >= 8 and i % 5:
            step()
        jepa.update(encoder)


def two_optimizers(encoder: Any, jepa: Any, backward: Any, step: Any) -> None:
    """In turns, and one of them has few of the parameters."""
    parameters = list(encoder.parameters())
    for few in range(len(parameters)):
        turns = [[p for i, p in enumerate(parameters) if (i == few) == turn] for turn in (True, False)]
        turns[0].extend(jepa.predictor.parameters())
        optimizers = [torch.optim.SGD(turn, lr=0.1) for turn in turns]  # pyright: ignore
        for i in range(12):
            backward()
            optimizers[i % 2].step()
            jepa.update(encoder)


def evaluations(encoder: Any, jepa: Any, backward: Any, step: Any) -> None:
    for no_grad in (nullcontext, torch.no_grad):
        for _ in range(40):
            jepa.eval()
            with no_grad():
                jepa(encoder, torch.randn(4, 6))
            nn.init.normal_(encoder.trunk[0].weight)  # it is trained elsewhere
            jepa.train()


def frozen(encoder: Any, jepa: Any, backward: Any, step: Any) -> None:
    encoder.requires_grad_(False)
    for _ in range(40):
        backward()
        jepa.update(encoder)
        step()
        jepa.update(encoder)


def frozen_for_a_while(encoder: Any, jepa: Any, backward: Any, step: Any) -> None:
    for phase in range(6):
        for _ in range(10):
            backward()
            if phase % 2:
                step()
            jepa.update(encoder)


def without_jepa(encoder: Any, jepa: Any, backward: Any, step: Any) -> None:
    for use in (False, True, False):
        for _ in range(40):
            if use:
                backward()
            else:
                encoder(torch.randn(4, 6))["instance"].sum().backward()
            step()
            if use:
                jepa.update(encoder)


@pytest.mark.parametrize(
    "training_of",
    [ordinary, accumulated, skipped_steps, two_optimizers, evaluations, frozen, frozen_for_a_while, without_jepa],
    ids=lambda f: f.__name__,
)
def test_nothing_is_said_of_what_is_right(training_of: Callable[..., None]):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        training_of(*training())


def test_nothing_is_said_of_several_views_or_of_a_teacher_that_is_to_stay():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ordinary(*training(views=MultiView(EntryMasker(0.5), EntryMasker(0.3))))
        encoder, jepa, backward, step = training(momentum=1.0)
        for _ in range(40):
            backward()
            step()
        for _ in range(10):
            step()
            jepa.update(encoder)
            jepa.update(encoder)


def test_a_copy_watches_anew_and_follows_its_own_encoder():
    encoder, jepa, backward, step = training()
    ordinary(encoder, jepa, backward, step)
    for other in (copy.deepcopy(jepa.teacher), pickle.loads(pickle.dumps(jepa.teacher))):
        twin = copy.deepcopy(encoder)
        nn.init.ones_(twin.trunk[0].weight)
        before = other.target_model.trunk[0].weight.clone()
        other.update(twin)
        torch.testing.assert_close(other.target_model.trunk[0].weight, (before + 1) / 2)
        assert int(other.updates) == 41
    assert int(jepa.teacher.updates) == 40


@pytest.mark.slow
def test_a_compiled_step_does_not_trip_over_the_watch():
    encoder, jepa, _, _ = training()
    compiled: Any = torch.compile(jepa, backend="eager", fullgraph=True)
    for _ in range(3):
        compiled(encoder, torch.randn(4, 6)).total.backward()


def compiled(jepa: Any) -> Any:
    return torch.compile(jepa, backend="eager", fullgraph=True)


@pytest.mark.parametrize("shown", ["whole", "callable", pytest.param("compiled", marks=pytest.mark.slow)])
def test_what_a_pass_cannot_see_is_said_when_the_state_is_saved(shown: str):
    encoder, jepa, _, step = training(LinearSchedule(0.5, 1.0, 100))
    x = torch.randn(4, 6)
    run = compiled(jepa) if shown == "compiled" else jepa
    given: Any = encoder if shown != "callable" else lambda flat: encoder(flat)

    def forgetful(steps: int) -> None:
        for _ in range(steps):
            run(given, x, precomputed_target=encoder(x) if shown == "whole" else None).total.backward()
            step()

    forgetful(30)
    jepa.state_dict()  # so many writes may be fewer steps, and nothing is said yet
    forgetful(40)
    with pytest.warns(UserWarning, match=FORGOTTEN) as said:
        nn.ModuleList([jepa]).state_dict()
    jepa.state_dict()
    assert len(said) == 1


@pytest.mark.parametrize("right", ["updated", "never used", "never moved", "momentum 1"])
def test_saving_says_nothing_of_what_is_right(right: str):
    encoder, jepa, _, _ = training(1.0 if right == "momentum 1" else 0.5)
    for _ in range(80):
        if right != "never used":
            jepa(lambda flat: encoder(flat), torch.randn(4, 6))
        if right != "never moved":
            nn.init.normal_(encoder.trunk[0].weight)
            nn.init.normal_(next(jepa.predictor.parameters()))
        if right == "updated":
            jepa.update(encoder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jepa.state_dict()


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_accumulated_micro_batches_and_one_update_are_one_big_batch(micro_batches: int):
    torch.manual_seed(1)
    encoder: Any = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    teacher = EMATeacher(encoder, 0.9)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    big = torch.randn(3, 8, 6, generator=seeded(), dtype=torch.float64)
    expected = {name: p.detach().clone() for name, p in encoder.named_parameters()}
    twin = copy.deepcopy(encoder)
    for batch in big:
        for part in batch.chunk(micro_batches):
            ((encoder(part) - teacher(encoder, part)).square().mean() / micro_batches).backward()
        optimizer.step()
        optimizer.zero_grad()
        teacher.update(encoder)
        plain = copy.deepcopy(twin)
        plain.load_state_dict(expected)
        grads = torch.autograd.grad((twin(batch) - plain(batch).detach()).square().mean(), list(twin.parameters()))
        with torch.no_grad():
            for (name, p), grad in zip(twin.named_parameters(), grads, strict=True):
                p -= 0.1 * grad
                expected[name] = oracles.ema_update(expected[name], p, 0.9)
    for name, p in teacher.target_model.named_parameters():
        torch.testing.assert_close(p, expected[name], rtol=1e-12, atol=1e-12)
    assert int(teacher.updates) == 3
