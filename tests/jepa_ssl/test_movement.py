"""What no optimizer trains is said once, and nothing is said of what is right."""

import copy
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jepa_ssl import (
    EMATeacher,
    EntryMasker,
    JEPAObjective,
    JEPATerm,
    JointSchedule,
    MLPPredictor,
    ModelEncoder,
    TargetNetwork,
)
from jepa_ssl.monitor.movement import PERIOD, STEPS, MovementWatch
from jepa_ssl.protocols import Views

FLAT = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


class Run:
    """Builds a model and its term, and trains by the loop of the docs."""

    def __init__(self, teacher: Callable[[Any], Any] = EMATeacher, views: Any = None) -> None:
        self.model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8))
        self.encoder = ModelEncoder(self.model, {"instance": 8}, dim=4)
        objective = JEPAObjective(views or EntryMasker(0.5), MLPPredictor({"instance": 4}), teacher(self.encoder))
        self.term = JEPATerm(self.encoder, objective)

    def train(self, optimizer: Any, steps: int = STEPS + 1, zero_last: bool = False) -> None:
        for _ in range(steps):
            loss = self.term.loss(FLAT, task=lambda: self.model(FLAT).square().mean()).total
            if not zero_last:
                optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if zero_last:
                nn.ModuleList([self.term, self.model]).zero_grad()
            self.term.update()


def sgd(*parameters: Iterable[Tensor], lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for some in parameters for p in some], lr=lr)


def all_of(run: Run) -> list[nn.Parameter]:
    return list(dict.fromkeys([*run.model.parameters(), *run.term.parameters()]))


@pytest.mark.parametrize("zero_last", [False, True])
def test_forgotten_parameters_of_the_term_are_said_once_at_the_line_of_the_loop(zero_last: bool):
    run = Run()
    optimizer = sgd(run.model.parameters())
    with pytest.warns(UserWarning, match="no parameter") as said:
        run.train(optimizer, PERIOD + 2 * STEPS, zero_last=zero_last)
    assert [str(warning.message) for warning in said] == [
        "no parameter of the predictor or the projector was changed in 30 calls of update, each after a JEPA loss; "
        "give *jepa.parameters() to the optimizer, again whenever you build a new one, or call requires_grad_(False) "
        "on what must not change."
    ]
    assert said[0].filename == __file__


def test_a_forgotten_trunk_is_said():
    run = Run()
    with pytest.warns(
        UserWarning,
        match=r"no parameter of the projector or the encoder was changed.*give the encoder's parameters and",
    ):
        run.train(sgd(run.term.objective.parameters()))


def test_a_trunk_is_said_to_be_forgotten_if_its_projector_is_not():
    run = Run()
    with pytest.warns(UserWarning, match="no parameter of the encoder was changed.*give the encoder's parameters to"):
        run.train(sgd(run.term.parameters()))


def test_a_learned_target_network_is_a_part_too():
    views = lambda x, generator=None: Views(x, {"instance": x})  # noqa: E731
    run = Run(lambda _: TargetNetwork({"instance": (6, 4)}, learned=True), views)
    trained = [*run.model.parameters(), *run.encoder.projector.parameters()]
    trained += run.term.objective.get_submodule("predictor").parameters()
    with pytest.warns(UserWarning, match="no parameter of the teacher was changed"):
        run.train(sgd(trained))


def test_an_optimizer_that_is_rebuilt_without_them_is_noticed_at_the_next_look():
    run = Run()
    run.train(sgd(all_of(run)), PERIOD - 1)
    with pytest.warns(UserWarning, match="no parameter of the predictor or the projector was changed"):
        run.train(sgd(run.model.parameters()), STEPS + 3)


def warm_up(run: Run) -> None:
    run.train(sgd(all_of(run), lr=0.0))


def fused(run: Run) -> None:
    run.train(torch.optim.Adam(all_of(run), fused=True))


class ByData(torch.optim.SGD):
    """As older optimizers write."""

    def step(self, closure: Any = None) -> None:
        for p in self.param_groups[0]["params"]:
            if p.grad is not None:
                p.data.sub_(p.grad, alpha=0.1)


def by_data(run: Run) -> None:
    run.train(ByData(all_of(run)))


def a_head_that_jepa_does_not_train(run: Run, by: Callable[..., Any] = ByData) -> None:
    run.model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 1))
    run.encoder = ModelEncoder(run.model, {"instance": 8}, dim=4, captured={"instance": "0"})
    objective = JEPAObjective(EntryMasker(0.5), MLPPredictor({"instance": 4}), EMATeacher(run.encoder, 1.0))
    run.term = JEPATerm(run.encoder, objective, JointSchedule(pretrain=10**6, per="step"))
    run.train(by(all_of(run)))


def the_same_by_a_fused_optimizer(run: Run) -> None:
    a_head_that_jepa_does_not_train(run, lambda parameters: torch.optim.Adam(parameters, fused=True))


def frozen_trunk(run: Run) -> None:
    run.model.requires_grad_(False)
    run.train(sgd(run.term.parameters()))


def skipped_at_first(run: Run) -> None:
    optimizer = sgd(all_of(run))
    step = optimizer.step
    optimizer.step = lambda: None  # pyright: ignore
    run.train(optimizer, STEPS - 5)
    optimizer.step = step
    run.train(optimizer, 30)


def task_alone(run: Run) -> None:
    optimizer = sgd(run.model.parameters())
    for _ in range(3 * STEPS):
        run.model(FLAT).sum().backward()
        optimizer.step()
        run.term.update()


def one_layer_of_it(run: Run) -> None:
    run.train(sgd(run.model[0].parameters(), run.term.parameters()))


def evaluated(run: Run) -> None:
    for mode in (False, True):
        run.term.train(mode)
        for _ in range(2 * STEPS):
            with torch.set_grad_enabled(not mode):
                run.term.loss(FLAT, task=lambda: run.model(FLAT).sum())
            run.term.update()


def resumed(run: Run) -> None:
    optimizer = sgd(all_of(run))
    run.train(optimizer, 5)
    run.term.load_state_dict(copy.deepcopy(run.term.state_dict()), assign=True)
    run.train(sgd(all_of(run)), STEPS)


@pytest.mark.parametrize(
    "train",
    [
        warm_up,
        fused,
        by_data,
        a_head_that_jepa_does_not_train,
        the_same_by_a_fused_optimizer,
        frozen_trunk,
        skipped_at_first,
        task_alone,
        one_layer_of_it,
        evaluated,
        resumed,
    ],
    ids=lambda f: f.__name__,
)
def test_nothing_is_said_of_what_is_right(train: Callable[[Run], None]):
    run = Run(lambda encoder: EMATeacher(encoder, momentum=1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(run)


def test_a_copy_of_the_objective_watches_anew_and_holds_no_parameters_of_the_encoder():
    run = Run()
    run.train(sgd(all_of(run)), 5)
    copied = copy.deepcopy(run.term.objective)
    assert vars(copied._movement) == vars(MovementWatch())  # pyright: ignore[reportPrivateUsage]


def test_between_the_looks_an_update_looks_at_nothing(monkeypatch: pytest.MonkeyPatch):
    run = Run()
    run.train(sgd(all_of(run)), STEPS + 1)
    monkeypatch.setattr("jepa_ssl.monitor.movement._parts", lambda *_: pytest.fail("it looked"))
    run.train(sgd(all_of(run)), 50)
