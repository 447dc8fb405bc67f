"""The flags of a run, read from the command line and a YAML file, and checked before the run starts."""

import argparse
import difflib
import math
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any, NoReturn

import yaml
from data.generators import FAMILIES, unknown

from jepa_ssl.integrations.flags import MODES, add_jepa_arguments, check_jepa_arguments, require

READERS = {"frozen": "a random network that reads solver states", "learned": "a network that learns to read them"}
VIEWS = {
    "entries": "hidden entries, the default of the MLP",
    "structure": "hidden rows and columns (MLP)",
    "nodes": "hidden nodes, the default of the GNN",
    "edges": "hidden coefficients (GNN)",
    "blocks": "hidden neighbourhoods (GNN)",
    "solver_state": "the state after some solver steps",
}
TRUNKS = {"convolutions": "two rounds of half-convolutions", "solver": "rounds shaped like a solver's steps"}
TRUNKS_SAID = ", ".join(f"{name} ({meaning})" for name, meaning in TRUNKS.items())
FLAT_VIEWS, GRAPH_VIEWS = ("entries", "structure", "solver_state"), ("nodes", "edges", "blocks", "solver_state")
PRECISIONS = ("fp32", "bf16")
KKT_WEIGHTS = ("primal_weight", "dual_weight", "stationarity_weight", "complementary_slackness_weight")
STEPS, FOLDER, PIECES = ({"metavar": name} for name in ("STEPS", "FOLDER", "PIECES"))
SEEN, FAMILY, PATHS = ({"nargs": "+", "metavar": name} for name in ("STEPS", "FAMILY", "PATH"))
# Group -> flag -> default (which gives the type), help, and further arguments for argparse.
FLAGS: dict[str, dict[str, tuple[Any, ...]]] = {
    "": {
        "jepa_solver_steps": (100, "predict the state after this many steps (views solver_state)", STEPS),
        "jepa_solver_restart": (0, "restart the solver after this many steps (0: never)", STEPS),
    },
    "optimisation": {
        "epochs": (30, "train for this many epochs"),
        "batch_size": (8, "use this many LPs per step"),
        "lr": (1e-3, "set Adam's learning rate"),
        "seed": (0, "seed the weights, the order of the LPs and the masks"),
        "primal_weight": (0.1, "multiply the primal term of the KKT (Karush-Kuhn-Tucker) loss by this"),
        "dual_weight": (0.1, "multiply the dual term by this"),
        "stationarity_weight": (0.6, "multiply the stationarity term by this"),
        "complementary_slackness_weight": (0.2, "multiply the complementary slackness term by this"),
    },
    "model": {
        "use_bipartite_graphs": (False, "train GNNPolicy instead of KKTNetMLP"),
        "embedding_size": (64, "set the width of GNNPolicy"),
        "trunk": ("convolutions", f"choose the trunk of GNNPolicy: {TRUNKS_SAID}", {"choices": TRUNKS}),
        "rounds": (8, "set the number of rounds of --trunk solver"),
        "hidden_size": (256, "set the width of KKTNetMLP"),
        "seen_steps": (None, "append PDHG states after these step counts to the input features", {"type": int, **SEEN}),
    },
    "data": {
        "problems": (list(FAMILIES), f"generate LPs of these families: {', '.join(FAMILIES)}", FAMILY),
        "train_instances": (512, "train on this many LPs"),
        "val_instances": (64, "validate on this many LPs"),
        "test_instances": (64, "hold out this many LPs for evaluate.py"),
        "data_seed": (0, "seed the generated LPs, independently of --seed"),
        "data_root": ("~/.cache/jepa_ssl/kkt_nets", "store generated LPs in this folder", FOLDER),
        "lp_files": (None, "train on these .mps, .mps.gz or .lp files instead of generated LPs", PATHS),
        "ruiz_iterations": (10, "rescale the LPs with this many Ruiz iterations (0: off)"),
    },
    "run": {
        "devices": ("0", "compute on the GPU of this number, or on cpu; without a GPU the CPU is used"),
        "num_threads": (1, "use this many CPU threads; more than one helps only large networks"),
        "precision": ("fp32", "compute the networks in this precision; weights stay in fp32", {"choices": PRECISIONS}),
        "accumulate": (1, "split a step into this many pieces; regulariser and balance see one at a time", PIECES),
        "checkpoint_activations": (False, "recompute the trunk's activations instead of storing them"),
        "compile": (False, "compile the step with torch.compile; worthwhile in long runs"),
        "num_workers": (0, "prepare batches in this many worker processes"),
        "log_every": (10, "log every N steps", {"metavar": "N"}),
        "output_dir": (None, "write into this folder; default: exps/<run>, or the folder of --resume", FOLDER),
        "checkpoint_every": (0, "write last.pt every N steps (0: after each epoch)", {"metavar": "N"}),
        "resume": (
            None,
            "continue from this checkpoint; auto: the run in --output_dir, if any",
            {"metavar": "CHECKPOINT"},
        ),
    },
}


class _Parser(argparse.ArgumentParser):
    """Report an error in one line, because the usage of all flags would push it off the screen."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


class _PlainYAML(yaml.SafeLoader):
    """Refuse aliases and repeated keys; the parent class silently takes the last value."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):  # a few lines of aliases can expand beyond the memory
            raise yaml.YAMLError("it has an alias (an asterisk and a name); write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise yaml.YAMLError(f"it gives {name} twice; keep one of the two")
        return super().construct_mapping(node, deep)


def _config(p: argparse.ArgumentParser, path: str) -> list[str]:
    """Convert the flags of a YAML file to a command line."""
    actions = {action.dest: action for action in p._actions if action.dest not in ("help", "config")}
    try:
        with open(path, "rb") as stream:
            items = yaml.load(stream, _PlainYAML)
    except OSError as error:
        p.error(f"--config {path} cannot be read ({error.strerror}); name a file of `name: value` lines.")
    except RecursionError:
        p.error(f"--config {path} is nested too deeply; write one `name: value` per line.")
    except (yaml.YAMLError, ValueError, TypeError) as error:  # dates, numbers and bytes raise the latter two
        p.error(f"--config {path} is not YAML: {error}")
    if not isinstance(items, dict):
        p.error(f"--config {path} holds no flags; write one `name: value` per line.")
    argv: list[str] = []
    for name, value in items.items():
        if name not in actions:
            p.error(_unknown(str(name), list(actions)))
        takes = actions[name].nargs
        if (takes == 0) != isinstance(value, bool):
            p.error(f"{name} is {value}, but must be {'true or false' if takes == 0 else 'a value of its flag'}.")
        if takes is None and isinstance(value, list):
            p.error(f"{name} is the list {value}, but must be one value.")
        if isinstance(value, list):
            argv += [f"--{name}", *map(str, value)]
        elif value is not False:
            argv.append(f"--{name}" if value is True else f"--{name}={'' if value is None else value}")
    return argv


def parser() -> argparse.ArgumentParser:
    """Build the parser. A YAML file (`--config`) may hold the same flags; the command line takes precedence."""
    about, form = "Train a KKT net on LPs, with or without a JEPA term.", argparse.ArgumentDefaultsHelpFormatter
    p = _Parser(prog="train.py", description=about, formatter_class=form, allow_abbrev=False)
    p.add_argument("--config", metavar="YAML", help="read flags from a file of `name: value` lines")
    jepa, beyond = (p.add_argument_group(title) for title in ("JEPA", "JEPA, further options"))
    add_jepa_arguments(jepa, beyond=beyond, modes={**MODES, **READERS}, views=VIEWS)
    p.set_defaults(jepa_views=None)  # the default depends on the network
    for title, flags in FLAGS.items():
        group = p.add_argument_group(title) if title else beyond
        for name, (default, meaning, *more) in flags.items():
            kind: dict[str, Any] = {"type": type(default), "default": default}
            if isinstance(default, bool):
                kind = {"action": "store_true"}
            elif default is None or isinstance(default, list):
                kind = {"default": default}
            group.add_argument(f"--{name}", help=meaning, **{**kind, **dict(*more)})
    for name, family in FAMILIES.items():
        names = tuple(size_name.upper() for size_name in family.size_names)
        size: dict[str, Any] = {"nargs": len(names), "metavar": names, "default": list(family.default_size)}
        p.add_argument(f"--{name}_size", type=int, help=f"set the size of the {name} LPs", **size)
    return p


def parse(argv: Sequence[str] | None = None) -> Namespace:
    """Parse the options of a run. For an unknown flag or a bad value, print what to do and exit with 2."""
    p = parser()
    args, unknown = p.parse_known_args(argv)
    if args.config is not None:
        given = sys.argv[1:] if argv is None else argv
        args, unknown = p.parse_known_args([*_config(p, args.config), *given])
    if unknown:
        p.error(_unknown(unknown[0], known=[name for name in vars(args) if name != "config"]))
    for name, value in vars(args).items():
        if value == []:  # argparse reads the value -- as the end of the flags
            p.error(f"--{name} has no value; give it one.")
    if args.jepa_views is None:
        args.jepa_views = "nodes" if args.use_bipartite_graphs else "entries"
    try:
        check(args)
    except ValueError as error:
        p.error(str(error))
    return args


def _unknown(argument: str, known: list[str]) -> str:
    name = argument.split("=")[0].removeprefix("--")
    near = difflib.get_close_matches(name, known, n=1)
    return f"unknown flag or config key {name!r}: {f'did you mean --{near[0]}?' if near else '--help lists them all.'}"


def check(args: Namespace) -> None:
    """Raise a ValueError for the first option that is out of range."""
    check_jepa_arguments(args)
    for name, (default, *_) in (item for flags in FLAGS.values() for item in flags.items()):
        least, most = 1 if default and name != "ruiz_iterations" else 0, 63 if "seed" in name else 31
        if type(default) is float:
            require(args, name, "finite and at least 0", lambda value: math.isfinite(value) and value >= 0)
        elif type(default) is int:
            expected = f"at least {least} and below 2**{most}"
            require(args, name, expected, lambda value, least=least, most=most: least <= value < 2**most)
    require(args, "devices", "cpu or one GPU's number", lambda value: value == "cpu" or value.isdecimal())
    seen = args.seen_steps or []
    if any(steps < 1 or steps >= 2**31 for steps in seen) or sorted(set(seen)) != seen:
        said = "numbers of steps, each at least 1 and larger than the one before, such as 10 30 100."
        raise ValueError(f"--seen_steps is {' '.join(map(str, seen))}, but must be {said}")
    if args.resume == "auto" and not args.output_dir:
        raise ValueError("--resume is auto, but --output_dir is not given; name the folder of the run.")
    if args.jepa_pretrain_epochs > args.epochs:
        said = f"the run has {args.epochs} epochs in all; raise --epochs."
        raise ValueError(f"--jepa_pretrain_epochs is {args.jepa_pretrain_epochs}, but {said}")
    if args.trunk == "solver" and not args.use_bipartite_graphs:
        raise ValueError("--trunk is solver, but the MLP has no such trunk; add --use_bipartite_graphs.")
    if args.trunk == "solver" and args.compile and args.checkpoint_activations:
        raise ValueError(
            "--checkpoint_activations is on, but torch cannot compile it with --trunk solver, whose rounds share their "
            "weights; leave out --compile or --checkpoint_activations."
        )
    if args.rounds != FLAGS["model"]["rounds"][0] and args.trunk != "solver":
        raise ValueError(f"--rounds is {args.rounds}, but --trunk {args.trunk} always has two; add --trunk solver.")
    _check_recipe(args)
    for name in args.problems:
        if name not in FAMILIES:
            raise ValueError(f"--problems is {' '.join(args.problems)}, but {unknown(name)}")
        if args.problems.count(name) > 1:
            raise ValueError(f"--problems names {name} twice; name each family once.")
    for name, family in FAMILIES.items():
        size = getattr(args, f"{name}_size")
        if not family.takes(size):
            raise ValueError(f"--{name}_size is {' '.join(map(str, size))}, but must have {family.expected}.")


def _check_recipe(args: Namespace) -> None:
    """Refuse flags that contradict each other, and flags that would silently have no effect."""
    path, known = ("GNN", GRAPH_VIEWS) if args.use_bipartite_graphs else ("MLP", FLAT_VIEWS)
    if args.jepa_views not in known:
        raise ValueError(f"--jepa_views is {args.jepa_views}, but the {path} has {', '.join(known)}; choose one.")
    if not args.use_jepa:
        given = ["jepa_solver_restart"] if args.jepa_solver_restart else []
        given += ["jepa_views"] if args.jepa_views != known[0] else []
        if given:
            raise ValueError(f"--{given[0]} belongs to the JEPA term, but JEPA is off; add --use_jepa.")
        return
    reads_states = args.jepa_mode in READERS
    if reads_states != (args.jepa_views == "solver_state"):
        raise ValueError(
            f"--jepa_mode is {args.jepa_mode} and --jepa_views {args.jepa_views}, but the modes frozen and learned "
            f"embed solver states, and nothing else does; give --jepa_views solver_state with --jepa_mode frozen or "
            f"learned, or neither."
        )
    if args.jepa_solver_restart and not reads_states:
        raise ValueError(
            "--jepa_solver_restart belongs to --jepa_views solver_state; add that flag, or leave this one out."
        )
    if args.jepa_mode == "learned" and args.jepa_regularizer == "none":
        both = "both sides learn and would collapse to one point; add --jepa_regularizer vicreg or sigreg."
        raise ValueError(f"--jepa_mode is learned, so {both}")
    if args.jepa_balance and args.jepa_pretrain_epochs == args.epochs:
        raise ValueError("--jepa_balance balances JEPA and KKT, but no epoch trains both; leave it out.")
