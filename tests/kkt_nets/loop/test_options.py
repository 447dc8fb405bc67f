"""The flags of a run: their defaults, the command line, the config."""

import shlex
from pathlib import Path

import pytest
import train
import yaml
from data.generators import FAMILIES
from loop.options import check, parse, parser

SPECIFIED = {
    "use_jepa": False,
    "jepa_mode": "ema",
    "jepa_weight": 0.2,
    "jepa_pretrain_epochs": 0,
    "jepa_mask_ratio_entries": 0.5,
    "jepa_mask_ratio_nodes": 0.3,
    "ema_momentum": 0.996,
    "use_bipartite_graphs": False,
    "primal_weight": 0.1,
    "dual_weight": 0.1,
    "stationarity_weight": 0.6,
    "complementary_slackness_weight": 0.2,
    "output_dir": None,
    "resume": None,
    "lp_files": None,
}
ITS_OWN = shlex.split(
    "devices batch_size epochs lr num_workers seed log_every problems data_root embedding_size config "
    "set_cover_size auction_size independent_set_size facility_size random_size"
)


def test_the_defaults_are_those_of_the_specification():
    args = vars(parse([]))
    assert {name: args[name] for name in SPECIFIED} == SPECIFIED
    assert set(ITS_OWN) <= args.keys()
    assert args["problems"] == list(FAMILIES)
    assert {name: args[f"{name}_size"] for name in FAMILIES} == {
        name: list(family.default_size) for name, family in FAMILIES.items()
    }


def test_the_jepa_flags_are_in_a_group_of_their_own():
    (group,) = (group for group in parser()._action_groups if group.title == "JEPA")
    names = {action.dest for action in group._group_actions}
    assert set(list(SPECIFIED)[:7]) <= names


def test_the_recommended_recipe_is_a_config():
    args = parse(["--config", str(Path(train.__file__).with_name("later_state.yaml"))])
    assert (args.jepa_mode, args.jepa_views, args.jepa_loss, args.trunk) == (
        "frozen",
        "solver_state",
        "smooth_l1",
        "solver",
    )
    assert (args.seen_steps, args.jepa_solver_steps, args.jepa_weight) == ([10, 30, 100], 300, 0)


def test_a_config_holds_the_names_of_the_flags_and_the_command_line_wins(tmp_path):
    config = {"use_jepa": True, "lr": 0.01, "problems": ["auction", "random"], "auction_size": [4, 6], "resume": None}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config) + "use_bipartite_graphs: false\nepochs: 7\n")
    args = parse(["--config", str(tmp_path / "run.yaml"), "--lr", "0.5", "--epochs=9"])
    assert (args.use_jepa, args.use_bipartite_graphs) == (True, False)
    assert (args.lr, args.epochs) == (0.5, 9)
    assert (args.problems, args.auction_size) == (["auction", "random"], [4, 6])
    assert not args.resume


def test_every_flag_may_stand_in_a_config(tmp_path):
    given = {name: value for name, value in vars(parse([])).items() if value is not None and name != "config"}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(given))
    assert {**vars(parse(["--config", str(tmp_path / "run.yaml")])), "config": None} == vars(parse([]))


def test_help_names_every_flag_and_its_default(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(["--help"])
    assert stopped.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())  # argparse breaks lines
    assert all(f"--{name}" in shown for name in vars(parse([])))
    assert "(default: 0.996)" in " ".join(shown.split())


@pytest.mark.parametrize("flags", [
    ["--jepa_weight", "0"], ["--ema_momentum", "0"], ["--ema_momentum", "1"], ["--jepa_mask_ratio_nodes", "0.999"],
    ["--use_jepa", "--epochs", "3", "--jepa_pretrain_epochs", "3"], ["--devices", "cpu"], ["--devices", "3"],
    ["--seed", str(2**63 - 1)], ["--ruiz_iterations", "0"],
], ids=" ".join)  # fmt: skip
def test_the_ends_of_the_ranges_are_allowed(flags):
    parse(flags)


def test_check_raises_the_line_that_parse_prints():
    args = parse([])
    args.ema_momentum = 2.0
    with pytest.raises(ValueError, match=r"^--ema_momentum is 2.0, but must be in \[0, 1\].$"):
        check(args)
