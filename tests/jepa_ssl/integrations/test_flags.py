"""The flags of a JEPA term for any command line, and the term they ask for."""

from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from jepa_ssl import (
    CosineSchedule,
    EMATeacher,
    EntryMasker,
    GradientBalance,
    ModelEncoder,
    NodeMasker,
    SharedTeacher,
    SIGReg,
    StopGradTeacher,
    later_state,
    smooth_l1_loss,
)
from jepa_ssl.integrations.flags import add_jepa_arguments, from_args
from jepa_ssl.lp import DenseLP
from jepa_ssl.protocols import Teacher

configargparse = pytest.importorskip("configargparse")

SPECIFIED = {
    "use_jepa": False,
    "jepa_mode": "ema",
    "jepa_weight": 0.2,
    "jepa_pretrain_epochs": 0,
    "jepa_mask_ratio_entries": 0.5,
    "jepa_mask_ratio_nodes": 0.3,
    "ema_momentum": 0.996,
}


def parsed(*flags: str, parser: Any = None) -> Namespace:
    parser = parser or ArgumentParser()
    add_jepa_arguments(parser)
    return parser.parse_args(flags)


def encoder(**dims: int) -> Any:
    dims = dims or {"instance": 4}
    made = ModelEncoder(nn.Linear(6, 8), {"instance": 8}, dim=4)
    made.dims = dims
    return made


def term(*flags: str, **kwargs: Any) -> Any:
    return from_args(parsed("--use_jepa", *flags), kwargs.pop("encoder", encoder()), **kwargs)


@pytest.mark.parametrize("parser", [ArgumentParser, configargparse.ArgumentParser])
def test_names_and_defaults_are_those_of_the_specification(parser: Any):
    args = vars(parsed(parser=parser()))
    assert {name: args[name] for name in SPECIFIED} == SPECIFIED


def test_a_config_file_holds_the_flags(tmp_path: Path):
    (tmp_path / "run.yaml").write_text("use_jepa: true\njepa_mode: simsiam\njepa_weight: 0.5\n")
    parser = configargparse.ArgumentParser(config_file_parser_class=configargparse.YAMLConfigFileParser)
    parser.add_argument("--config", is_config_file=True)
    args = parsed("--config", str(tmp_path / "run.yaml"), "--jepa_weight", "0.4", parser=parser)
    assert (args.use_jepa, args.jepa_mode, args.jepa_weight) == (True, "simsiam", 0.4)


def test_the_flags_may_be_split_over_two_groups(capsys: pytest.CaptureFixture[str]):
    parser = ArgumentParser()
    plain, beyond = parser.add_argument_group("training"), parser.add_argument_group("beyond")
    add_jepa_arguments(plain, beyond=beyond)
    assert {action.dest for action in plain._group_actions} == SPECIFIED.keys()
    assert "jepa_loss" in {action.dest for action in beyond._group_actions}


def test_the_plain_recipe_is_that_of_the_specification():
    made = term()
    assert isinstance(made.objective.views, EntryMasker)
    assert isinstance(made.objective.teacher, EMATeacher)
    assert (made.objective.views.ratio, made.objective.teacher.momentum) == (0.5, 0.996)
    assert made.objective.regularizer is None
    assert (made.schedule.jepa_weight, made.schedule.pretrain) == (0.2, 0)
    made = term("--jepa_mask_ratio_nodes", "0.4", encoder=encoder(constraint=4, variable=4))
    assert isinstance(made.objective.views, NodeMasker)
    assert made.objective.views.ratio == 0.4


@pytest.mark.parametrize(
    ("mode", "teacher"), [("ema", EMATeacher), ("simsiam", StopGradTeacher), ("shared", SharedTeacher)]
)
def test_the_mode_names_the_teacher(mode: str, teacher: type[Teacher]):
    assert type(term("--jepa_mode", mode, "--jepa_regularizer", "vicreg").objective.teacher) is teacher


def test_the_flags_beyond_the_plain_recipe_are_heard():
    flags = "--jepa_loss smooth_l1 --jepa_regularizer sigreg --jepa_regularize embeddings --jepa_regularizer_weight 0.7"
    rows: list[Any] = []
    own = encoder()
    made = term(*flags.split(), "--jepa_balance", "--ema_schedule", "cosine", "--monitor_every", "2",
                encoder=own, trunk=own.model, updates=100, log=lambda row, step: rows.append(step))  # fmt: skip
    objective = made.objective
    assert objective.loss is smooth_l1_loss
    assert isinstance(objective.regularizer, SIGReg)
    assert objective.regularizer.on_sphere
    assert (objective.regularize, objective.regularizer_weight) == ("embeddings", 0.7)
    assert isinstance(made.balance, GradientBalance)
    assert objective.teacher.momentum == CosineSchedule(0.996, 1.0, 100)
    assert objective.monitor.every == 2
    assert term("--monitor_every", "0").objective.monitor is None
    assert [term("--jepa_every", "4", **given).schedule.every for given in ({}, {"steps_per_epoch": 3})] == [4, 4]


def test_without_use_jepa_the_loop_is_that_of_the_task():
    made = from_args(parsed(), nn.Linear(6, 8))
    joint = made.loss(torch.zeros(4, 6), task=torch.tensor(2.0), epoch=3)
    made.fit([])
    made.update()
    assert joint.total == 2.0
    assert joint.terms["loss_jepa"].isnan()
    assert list(made.parameters()) == [] == list(made.state_dict())


def test_a_model_becomes_an_encoder_by_its_widths():
    model = nn.Sequential(nn.Linear(6, 16), nn.SELU(), nn.Linear(16, 3))
    made: Any = from_args(parsed("--use_jepa"), model, {"instance": 16}, captured={"instance": "1"}, dim=4)
    assert (made.encoder.model, made.encoder.dims) == (model, {"instance": 4})
    made.loss(torch.randn(4, 6), task=torch.tensor(0.0)).total.backward()
    assert model[0].weight.grad is not None
    default: Any = from_args(parsed("--use_jepa"), model, {"instance": 3})
    assert default.encoder.dims == {"instance": 3}
    with pytest.raises(TypeError, match=r"model is a Sequential.*widths is None; give from_args the widths"):
        from_args(parsed("--use_jepa"), model)


def test_the_recommended_recipe_is_one_flag():
    lp_of = partial(DenseLP.of_vectors, m=2, n=2)
    flat = torch.tensor([[1.0, 2, 3, 1, 4, 6, -1, -1], [2.0, 1, 1, 3, 5, 4, -1, -2]])
    model = nn.Linear(8, 16)
    made: Any = from_args(
        parsed("--use_jepa", "--jepa_views", "solver_state"), model, {"instance": 16}, lp_of=lp_of, numbers=8
    )
    plain = later_state({"instance": 16}, lp_of=lp_of, numbers=8)
    assert str(made.objective.views) == str(plain.views)
    assert type(made.objective.teacher) is type(plain.teacher)
    assert (made.objective.loss, made.objective.regularizer_weight) == (plain.loss, plain.regularizer_weight)
    assert made.objective.monitor.every == 10
    made.fit([flat])
    made.loss(flat, task=torch.tensor(0.0)).total.backward()
    with pytest.raises(ValueError, match="--jepa_views is solver_state, but lp_of is None"):
        term("--jepa_views", "solver_state")
    with pytest.raises(ValueError, match="--jepa_mode is simsiam, but --jepa_views solver_state sets this itself"):
        term("--jepa_views", "solver_state", "--jepa_mode", "simsiam", lp_of=lp_of)


def test_epochs_may_be_counted_by_the_term_itself():
    made = term("--jepa_pretrain_epochs", "2", steps_per_epoch=3)
    for step in range(8):
        joint = made.loss(torch.randn(4, 6), task=torch.tensor(1.0))
        assert set(joint.parts) == ({"jepa"} if step < 6 else {"task", "jepa"})
        made.update()


def test_a_term_from_flags_trains():
    made = term("--monitor_every", "0")
    x = torch.randn(4, 6)
    made.loss(x, task=lambda: made.encoder.model(x).square().mean(), epoch=0).total.backward()
    made.update()
    assert made.objective.teacher.updates == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--jepa_mask_ratio_entries 1", "--jepa_mask_ratio_entries is 1.0, but must be strictly between 0 and 1"),
        ("--jepa_mask_ratio_nodes 0", "--jepa_mask_ratio_nodes is 0.0"),
        ("--ema_momentum 1.1", "--ema_momentum is 1.1, but must be in"),
        ("--jepa_weight nan", "--jepa_weight is nan, but must be finite"),
        ("--jepa_every 0", "--jepa_every is 0, but must be at least 1"),
        ("--jepa_pretrain_epochs -1", "--jepa_pretrain_epochs is -1, but must be at least 0"),
        ("--jepa_weight 0", "so JEPA has no effect"),
        ("--jepa_mode shared", "would collapse to one point; add --jepa_regularizer"),
        ("--jepa_mode simsiam --ema_schedule linear", "--jepa_mode simsiam has no momentum"),
        ("--jepa_regularizer vicreg --jepa_regularizer_weight 0", "--jepa_regularizer has no effect"),
        ("--jepa_regularize embeddings", "needs a regulariser"),
        ("--jepa_balance", "trunk is None; give from_args the part"),
        ("--jepa_balance --jepa_weight 0 --jepa_pretrain_epochs 1", "--jepa_weight is 0; leave it out"),
        ("--ema_schedule cosine", "updates is None; give from_args the number"),
    ],
)
def test_what_cannot_be_is_refused_by_the_name_of_the_flag(flags: str, message: str):
    with pytest.raises(ValueError, match=message):
        term(*flags.split())


@pytest.mark.parametrize(
    ("flags", "given", "message"),
    [
        ("", {"widths": 8}, r"widths is 8, but must be a mapping.*give \{'instance': 64\}"),
        ("", {"widths": {}}, r"widths is \{\}, but must be a mapping"),
        ("", {"widths": {"instance": 8}, "dim": 0}, "size of stream 'instance' is 0"),
        ("", {"captured": {"instance": "0"}, "dim": 4}, r"\['captured', 'dim'\] is given without widths"),
        ("--jepa_balance", {"trunk": "body"}, "trunk is 'body', but must be an nn.Module"),
        ("--jepa_balance", {"trunk": nn.Linear(2, 2)}, "trunk is a Linear without a parameter of the model"),
        ("--jepa_views solver_state", {"lp_of": len, "teacher": StopGradTeacher()}, "teacher is a StopGradTeacher"),
    ],
)
def test_what_is_given_in_vain_or_is_something_else_is_refused(flags: str, given: dict[str, Any], message: str):
    with pytest.raises((ValueError, TypeError), match=message):
        term(*flags.split(), **given)


@pytest.mark.parametrize("args", [ArgumentParser().parse_args([]), vars(parsed())])
def test_arguments_without_the_flags_are_named(args: Any):
    with pytest.raises(TypeError, match=r"without use_jepa.*before parser.parse_args\(\)"):
        from_args(args, encoder())


@pytest.mark.parametrize(
    "flags", ["--jepa_pretrain_epochs 2", "--jepa_loss squared", "--jepa_balance", "--jepa_every 2"]
)
def test_flags_of_a_term_that_is_off_are_refused(flags: str):
    with pytest.raises(ValueError, match="but JEPA is off; add --use_jepa"):
        from_args(parsed(*flags.split()), encoder())


def test_streams_and_modes_of_your_own_need_parts_of_your_own():
    with pytest.raises(ValueError, match=r"names the streams \['objective'\].*give from_args views"):
        term(encoder=encoder(objective=4))
    views = EntryMasker(0.25)
    assert term(encoder=encoder(objective=4), views=views).objective.views is views
    parser = ArgumentParser()
    add_jepa_arguments(parser, modes={"ema": "a copy", "mine": "a teacher of mine"})
    args = parser.parse_args(["--use_jepa", "--jepa_mode", "mine"])
    with pytest.raises(ValueError, match="--jepa_mode is mine, but from_args has no such teacher"):
        from_args(args, encoder())
    only = ArgumentParser()
    add_jepa_arguments(only, modes={"mine": "a teacher of mine"})
    assert only.parse_args([]).jepa_mode == "mine"
    mine = StopGradTeacher()
    made: Any = from_args(args, encoder(), teacher=mine)
    assert made.objective.teacher is mine
