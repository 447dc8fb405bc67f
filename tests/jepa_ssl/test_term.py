"""`JEPATerm` in a plain loop: it trains what it should, and goes on where it was saved."""

import copy
import io
import warnings
from functools import partial
from typing import Any

import pytest
import safetensors.torch as safetensors
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.data import DataLoader, TensorDataset

from jepa_ssl import (
    CollapseMonitor,
    EMATeacher,
    EntryMasker,
    GradientBalance,
    JEPAObjective,
    JEPATerm,
    JointSchedule,
    LinearSchedule,
    MLPPredictor,
    ModelEncoder,
    Seeds,
    SIGReg,
    StopGradTeacher,
    TargetNetwork,
    later_state,
)
from jepa_ssl.joint import LossWeights, NoTerm
from jepa_ssl.lp import DenseLP
from jepa_ssl.maskers import LearnedToken

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
BATCHES = torch.randn(8, 5, 6, generator=torch.Generator().manual_seed(3))


def flat_objective(teacher: Any, fill: Any = None) -> JEPAObjective[Any]:
    return JEPAObjective(EntryMasker(0.5, fill), MLPPredictor({"instance": 8}), teacher)


class Run:
    """A solver's repository in its smallest form, with the term in its loop."""

    def __init__(
        self,
        mode: str = "ema",
        schedule: JointSchedule | None = None,
        balance: bool = False,
        monitor: bool = False,
        learned: bool = False,
    ) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
        encoder = ModelEncoder(self.model, {"instance": 16}, dim=8, captured={"instance": "2"})
        teacher: Any = EMATeacher(encoder, 0.9) if mode == "ema" else StopGradTeacher()
        objective = flat_objective(teacher, LearnedToken({"instance": 6}) if learned else None)
        objective.monitor = CollapseMonitor(every=2, items=8) if monitor else None
        weight = GradientBalance(self.model[0].parameters()) if balance else None
        self.term = JEPATerm(encoder, objective, schedule or JointSchedule(), weight)
        added = (parameter for parameter in self.term.parameters() if parameter.requires_grad)
        self.optimizer = torch.optim.Adam([*self.model.parameters(), *added], lr=0.01)

    def step(self, number: int, epoch: int = 0) -> Any:
        batch = BATCHES[number]
        seeds = Seeds(torch.arange(5) + 5 * number)
        joint = self.term.loss(batch, task=lambda: self.model(batch).square().mean(), epoch=epoch, generator=seeds)
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
        return self.term.resume(state["jepa"])


def torch_file(state: dict[str, Any]) -> dict[str, Any]:
    """`state` as it comes back from a file; nothing is unpickled."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def safetensors_file(state: dict[str, Any]) -> dict[str, Any]:
    """`state` as it comes back from a file that holds nothing but tensors."""
    return safetensors.load(safetensors.save({name: tensor.clone() for name, tensor in state.items()}))


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
        (JointSchedule(jepa_weight=0.0, pretrain=1), ["loss_jepa", "loss_task"]),
        (JointSchedule(pretrain=1), ["loss_jepa", "loss_jepa loss_task"]),
        (JointSchedule(), ["loss_jepa loss_task", "loss_jepa loss_task"]),
    ],
    ids=["the task alone", "JEPA, then the task", "JEPA, then both", "both"],
)
def test_the_four_ways_to_train(schedule: JointSchedule, computed: list[str]):
    run = Run(schedule=schedule)
    for epoch, names in enumerate(computed):
        terms = run.step(epoch, epoch).terms
        assert terms.keys() == {"loss", "loss_task", "loss_jepa"}  # a log has the same columns in each epoch
        assert {name for name, term in terms.items() if not term.isnan()} == {"loss", *names.split()}


def test_the_optimizer_trains_all_that_learns_and_each_once():
    run = Run()
    trained = [parameter for group in run.optimizer.param_groups for parameter in group["params"]]
    assert len({id(parameter) for parameter in trained}) == len(trained)
    everything = {p for part in (run.term.encoder, run.term.objective) for p in part.parameters()}
    teacher: Any = run.term.objective.teacher
    assert set(trained) == everything - set(teacher.parameters())


def test_the_encoder_is_borrowed_and_its_projector_is_not():
    run = Run(balance=True)
    assert list(run.model.state_dict()) == list(nn.Sequential(*run.model).state_dict())
    own = {id(parameter) for parameter in run.term.parameters()}
    assert not own & {id(parameter) for parameter in run.model.parameters()}
    assert own >= {id(parameter) for parameter in run.term.encoder.projector.parameters()}
    term = run.term.to(torch.float64)
    assert {p.dtype for p in term.parameters()} == {torch.float64}
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}


def test_an_encoder_without_projector_adds_nothing():
    trunk = nn.Linear(6, 8)
    objective = JEPAObjective(EntryMasker(0.5), MLPPredictor({"instance": 8}), StopGradTeacher())
    term = JEPATerm(lambda flat: {"instance": trunk(flat)}, objective)
    assert [*(f"objective.{name}" for name in objective.state_dict())] == list(term.state_dict())[
        1:
    ]  # after its counts


@pytest.mark.parametrize("watched", [False, True], ids=["", "balance and monitor"])
@pytest.mark.parametrize("mode", ["ema", "simsiam"])
@pytest.mark.parametrize("file", [torch_file, safetensors_file])
def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(mode: str, watched: bool, file: Any):
    unbroken = Run(mode, balance=watched, monitor=watched)
    for number in range(4):
        unbroken.step(number)
    assert all(isinstance(value, Tensor) for value in unbroken.term.state_dict().values())
    assert any(".target_model." in name for name in unbroken.term.state_dict()) == (mode == "ema")
    state = {**torch_file(unbroken.checkpoint()), "jepa": file(unbroken.term.state_dict())}
    resumed = Run(mode, balance=watched, monitor=watched)
    assert resumed.resume(state)
    for number in range(4, 8):
        assert torch.equal(unbroken.step(number).total, resumed.step(number).total)
    for name, tensor in unbroken.term.state_dict().items():
        assert torch.equal(tensor, resumed.term.state_dict()[name]), name


def test_a_teacher_that_was_not_saved_starts_from_the_encoder_as_it_is():
    without = Run("simsiam")
    without.step(0)
    run = Run("ema")
    run.step(1)
    assert not run.resume(torch_file(without.checkpoint()))
    teacher: Any = run.term.objective.teacher
    assert teacher.updates == 0
    for name, tensor in run.term.encoder.state_dict().items():
        assert torch.equal(tensor, teacher.target_model.state_dict()[name]), name


def test_a_saved_teacher_that_this_term_does_not_have_is_left_out():
    with_copy, run = Run("ema"), Run("simsiam")
    with_copy.step(0)
    assert not run.resume(torch_file(with_copy.checkpoint()))
    run.step(1)


def test_a_state_of_a_term_that_was_built_otherwise_is_refused_by_name():
    built = [Run(), Run(balance=True), Run(learned=True), Run("simsiam")]
    lacking = [(0, 1, "balance.log_ratio"), (1, 0, "balance.log_ratio"), (0, 2, "views.fill"), (3, 2, "views.fill")]
    for saved, loaded, name in lacking:
        with pytest.raises(ValueError, match=rf"built otherwise; build this one alike(?s:.*){name}"):
            built[loaded].term.resume(built[saved].term.state_dict())
    network = JEPATerm(built[0].term.encoder, flat_objective(TargetNetwork({"instance": (6, 8)})))
    with pytest.raises(ValueError, match=r"teacher\.network"):
        network.resume(built[0].term.state_dict())
    with pytest.raises(ValueError, match=r"teacher\.network"):
        network.resume(built[3].term.state_dict())


@pytest.mark.parametrize("mode", ["ema", "simsiam"])
def test_versions_of_modules_are_saved_with_them(mode: str):
    seen: list[Any] = []

    class Versioned(nn.Linear):
        _version = 2

        def _load_from_state_dict(self, state_dict: Any, prefix: Any, local_metadata: Any, *args: Any) -> None:  # pyright: ignore
            seen.append(local_metadata.get("version"))
            super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def term(mode: str) -> JEPATerm:
        encoder = ModelEncoder(nn.Linear(6, 16), {"instance": 16}, 8)
        objective = flat_objective(EMATeacher(encoder) if mode == "ema" else StopGradTeacher())
        objective.predictor = Versioned(8, 8)
        return JEPATerm(encoder, objective)

    term("ema").resume(torch_file(term(mode).state_dict()))
    assert seen == [2]


def test_the_task_may_be_a_loss_that_is_there_already():
    run = Run(schedule=JointSchedule(pretrain=1))
    weight = torch.tensor(2.0, requires_grad=True)
    joint = run.term.loss(BATCHES[0], task=3 * weight, epoch=0)
    joint.total.backward()
    assert (joint.terms["loss_task"], weight.grad) == (6.0, None)
    run.term.loss(BATCHES[0], task=3 * weight, epoch=1).total.backward()
    assert weight.grad == 3.0


@pytest.mark.parametrize(
    ("task", "error", "message"),
    [(3.0, TypeError, "the task's loss is a float"), (torch.ones(2), ValueError, r"float32 \[2\].*use .mean")],
)
def test_a_task_that_is_not_a_loss_is_refused(task: Any, error: type[Exception], message: str):
    for given in (task, lambda: task):
        with pytest.raises(error, match=message):
            Run().term.loss(BATCHES[0], task=given)


def test_a_run_that_is_continued_with_or_without_jepa_is_named():
    run, off = Run(), NoTerm()
    for load in (run.term.load_state_dict, run.term.resume, Run("simsiam").term.resume):
        with pytest.raises(ValueError, match=r"state is empty, as that of a run without JEPA.*leave out the term's"):
            load(off.state_dict())
    with pytest.raises(ValueError, match=r"from a run with JEPA, but JEPA is off.*add --use_jepa, .*resume"):
        off.load_state_dict(run.term.state_dict())
    assert not off.resume(run.term.state_dict())
    off.load_state_dict(off.state_dict())
    with pytest.raises(ValueError, match=r"with another teacher; call resume\(state\)"):
        run.term.load_state_dict(Run("simsiam").term.state_dict())


@pytest.mark.parametrize("epoch", [0.0, True, "0", torch.tensor(0), torch.tensor([0, 1])])
def test_an_epoch_that_is_not_a_whole_number_is_named(epoch: Any):
    with pytest.raises((TypeError, ValueError), match=r"epoch is .*(give an int|count epochs from 0)\."):
        Run(schedule=JointSchedule(pretrain=2)).term.loss(BATCHES[0], task=torch.tensor(1.0), epoch=epoch)


def test_a_schedule_of_epochs_asks_for_the_epoch_and_notices_a_first_one_of_1():
    run = Run(schedule=JointSchedule(pretrain=2))
    with pytest.raises(ValueError, match=r"epoch is missing.*counted from 0, or count optimizer steps"):
        run.term.loss(BATCHES[0], task=torch.tensor(1.0))
    with pytest.warns(UserWarning, match="the first epoch of this JEPATerm is 1.*give epoch - 1") as said:
        run.term.loss(BATCHES[0], task=torch.tensor(1.0), epoch=1)
    assert said[0].filename == __file__
    state = run.term.state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.term.loss(BATCHES[0], task=torch.tensor(1.0), epoch=1)
        resumed = Run(schedule=JointSchedule(pretrain=2))
        resumed.term.load_state_dict(state)
        resumed.term.loss(BATCHES[0], task=torch.tensor(1.0), epoch=1)
        Run().step(0, epoch=1)  # a constant schedule does not care


def test_a_schedule_may_count_optimizer_steps_and_goes_on_counting_after_a_resume():
    schedule = JointSchedule(pretrain=2, jepa_weight=LinearSchedule(0.4, 0.0, 2), per="step")
    run, computed = Run(schedule=schedule), list[float]()
    for number in range(5):
        run.term.loss(BATCHES[number], task=torch.tensor(1.0))  # a micro-batch of the same step
        joint: Any = run.term.loss(BATCHES[number], task=torch.tensor(1.0))
        computed.append(joint.parts["jepa"].item() / joint.jepa.total.item() if "jepa" in joint.parts else 0.0)
        run.term.update()
        state, run = torch_file(run.term.state_dict()), Run(schedule=schedule)
        run.term.load_state_dict(state)
    assert computed == pytest.approx([1.0, 1.0, 0.4, 0.2, 0.0])


@pytest.mark.parametrize("mode", ["ema", "simsiam"])
@pytest.mark.parametrize(
    ("schedule", "computed"),
    [
        (JointSchedule(every=3), "JttJttJt"),
        (JointSchedule(every=3, pretrain=2, per="step"), "jjtJttJt"),  # a step of JEPA alone is not left out
        (JointSchedule(every=3, pretrain=1), "jjtJttJt"),  # epochs of two steps
        (JointSchedule(every=2, task_weight=0.0), "jjjjjjjj"),
    ],
)
def test_jepa_may_be_computed_at_some_steps(mode: str, schedule: JointSchedule, computed: str):
    """Each step in two micro-batches, and in a run that is resumed after each."""
    run, found = Run(mode, schedule, monitor=True), ""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(8):
            batch, epoch = BATCHES[number], number // 2
            parts = [run.term.loss(x, task=run.model(x).square().mean(), epoch=epoch) for x in (batch[:3], batch[3:])]
            losses = [{name for name, loss in part.terms.items() if not loss.isnan()} for part in parts]
            assert losses[0] == losses[1]
            assert all(part.terms.keys() == {"loss", "loss_task", "loss_jepa"} for part in parts)
            found += {"task jepa": "J", "task": "t", "jepa": "j"}[" ".join(parts[0].parts)]
            run.optimizer.zero_grad()
            torch.stack([part.total for part in parts]).mean().backward()
            run.optimizer.step()
            run.term.update()
            state, run = torch_file(run.checkpoint()), Run(mode, schedule, monitor=True)
            assert run.resume(state)
    assert found == computed
    teacher: Any = run.term.objective.teacher
    assert mode == "simsiam" or teacher.updates == 8


def test_a_teacher_that_is_updated_at_every_step_is_not_said_to_be_forgotten():
    run = Run(schedule=JointSchedule(every=4), monitor=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(140):
            run.step(number % 8)
    assert run.term.objective.teacher.updates == 140  # pyright: ignore


@pytest.mark.parametrize("every", [0, -1, 1.5, True])
def test_a_number_of_steps_that_is_none_is_refused(every: Any):
    with pytest.raises((TypeError, ValueError), match="every is "):
        JointSchedule(every=every)


@pytest.mark.parametrize(
    "schedule",
    [
        JointSchedule(),
        JointSchedule(every=4),
        JointSchedule(pretrain=3, per="step"),
        JointSchedule(jepa_weight=LinearSchedule(0.0, 0.4, 9), per="step"),
        JointSchedule(jepa_weight=LinearSchedule(0.1, 0.4, 9)),
    ],
    ids=["constant", "every fourth step", "steps of JEPA alone", "a weight by step", "a weight by epoch"],
)
def test_a_compiled_step_is_not_compiled_for_each_number_of_a_step(schedule: JointSchedule):
    model = nn.Linear(6, 16)
    term = JEPATerm(encoder := ModelEncoder(model, {"instance": 16}, 8), flat_objective(EMATeacher(encoder)), schedule)
    eager = copy.deepcopy(term)

    def step(term: Any, batch: Tensor, epoch: int) -> Tensor:
        task = model(batch).square().mean()
        return term.loss(batch, task=task, epoch=epoch, generator=Seeds(torch.arange(5), epoch)).total

    counter = CompileCounterWithBackend("eager")
    torch.compiler.reset()
    compiled = torch.compile(lambda batch, epoch: step(term, batch, epoch), fullgraph=True, backend=counter)  # pyright: ignore
    for number in range(10):
        torch.testing.assert_close(compiled(BATCHES[0], number), step(eager, BATCHES[0], number))
        term.update()
        eager.update()
    assert counter.frame_count <= 3


class Dropping(nn.Module):
    """A client whose run consists of random numbers: weights, order of the data, dropout."""

    def __init__(self, with_term: bool) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.model = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 3))
        self.term: Any = NoTerm()
        if with_term:
            encoder = ModelEncoder(self.model, {"instance": 16}, dim=8, captured={"instance": "2"})
            self.term = JEPATerm(encoder, flat_objective(EMATeacher(encoder), LearnedToken({"instance": 6})))
        self.head = nn.Linear(3, 1)

    def drawn(self) -> list[Tensor]:
        found = [self.head.weight.detach().clone()]
        for batch in DataLoader(TensorDataset(BATCHES[0]), batch_size=2, shuffle=True):
            hidden = self.model[1](torch.ones(16))
            self.term.loss(batch[0], task=hidden.sum())
            self.term.update()
            found += [batch[0], hidden]
        return [*found, torch.get_rng_state()]


def test_the_term_moves_no_random_number_of_its_client():
    for with_term, without in zip(Dropping(True).drawn(), Dropping(False).drawn(), strict=True):
        assert torch.equal(with_term, without)


def test_what_the_term_draws_differs_from_loss_to_loss_and_follows_the_seed_and_the_resume():
    def losses(seed: int, state: Any = None) -> tuple[list[float], Any]:
        torch.manual_seed(seed)
        encoder = ModelEncoder(nn.Linear(6, 16), {"instance": 16}, dim=8)
        term = JEPATerm(encoder, flat_objective(StopGradTeacher()))
        for parameter in (*encoder.parameters(), *term.parameters()):
            parameter.data.normal_(generator=torch.Generator().manual_seed(1))
        if state:
            term.load_state_dict(state)
        torch.rand(seed + 3)  # what the client draws does not matter
        drawn = [term.loss(BATCHES[0], task=torch.tensor(0.0)).terms["loss_jepa"].item() for _ in range(3)]
        return drawn, term.state_dict()

    first, state = losses(0)
    assert len(set(first)) == 3
    assert losses(0)[0] == first
    assert losses(1)[0] != first
    later, _ = losses(7, state)
    assert not set(later) & set(first)
    assert losses(8, state)[0] == later


@pytest.mark.parametrize("device", ["meta", pytest.param("cuda", marks=needs_cuda)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_everything_is_where_the_model_is(device: str, dtype: torch.dtype):
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).to(device, dtype)
    encoder = ModelEncoder(model, {"instance": 16}, dim=8, captured={"instance": "1"})
    objective = flat_objective(EMATeacher(encoder), LearnedToken({"instance": 6}))
    objective.regularizer, objective.monitor = SIGReg(), CollapseMonitor() if device == "cuda" else None
    term = JEPATerm(encoder, objective, balance=GradientBalance(model.parameters()) if device == "cuda" else None)
    assert {part.device.type for part in (*term.parameters(), *term.buffers())} == {device}
    batch = torch.randn(4, 6, device=device, dtype=dtype)
    joint = term.loss(batch, task=lambda: model(batch).square().mean())
    joint.total.backward()
    term.update()
    assert (joint.total.device.type, joint.total.dtype) == (device, dtype)


def loaded(run: Run) -> None:
    other = Run()
    other.step(0)
    run.term.load_state_dict(other.term.state_dict())


def trained_on_the_task(run: Run) -> None:
    run.term.schedule = JointSchedule(jepa_weight=0.0)
    run.step(0)
    run.term.schedule = JointSchedule()


@pytest.mark.parametrize("before", [None, loaded, trained_on_the_task])
def test_a_model_that_moved_after_the_term_was_built_is_named(before: Any):
    run = Run()
    if before:
        before(run)
    model, term = run.model, run.term
    model.to("meta")
    with pytest.raises(ValueError, match="the encoder is on meta, but this JEPATerm is on cpu; move both"):
        term.loss(torch.randn(4, 6, device="meta"), task=torch.tensor(1.0))


def test_a_resumed_term_keeps_the_statistics_that_it_was_fitted_with():
    lp_of = partial(DenseLP.of_vectors, m=1, n=2)
    model = nn.Linear(5, 16)
    encoder = ModelEncoder(model, {"instance": 16}, dim=8)
    term = JEPATerm(encoder, later_state(encoder.dims, lp_of=lp_of, numbers=6))
    batches = [torch.tensor([[1.0, 2.0, 3.0, -1.0, -2.0], [2.0, 1.0, 4.0, -2.0, -1.0]]) * scale for scale in (1, 2)]
    term.fit(batches[:1])
    term.update()
    before = {name: tensor.clone() for name, tensor in term.objective.views.state_dict().items()}  # pyright: ignore
    term.fit(batches[1:])
    assert all(torch.equal(before[name], tensor) for name, tensor in term.objective.views.state_dict().items())  # pyright: ignore


def test_a_loss_that_counts_nothing_is_not_computed():
    def never() -> Any:
        raise AssertionError

    run = Run(schedule=JointSchedule(pretrain=1))
    assert run.term.loss(BATCHES[0], task=never, epoch=0).task is None
    with pytest.raises(ValueError, match="both losses have weight 0"):
        LossWeights(0.0, 0.0).combine(never, never)
