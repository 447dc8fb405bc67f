"""The flags of a run, from the command line and from a YAML file, checked before anything is made."""

import difflib
import math
from argparse import Action, Namespace
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import configargparse
import yaml
from generators import FAMILIES

from jepa_ssl.integrations.flags import MODES, add_jepa_arguments, check_jepa_arguments, require

READERS = {
    "frozen": "a random network that reads solver states",
    "learned": "a network that learns to read solver states",
}
VIEWS = {
    "entries": "hidden entries (MLP)",
    "structure": "hidden rows and columns (MLP)",
    "nodes": "hidden nodes (GNN)",
    "edges": "hidden coefficients (GNN)",
    "blocks": "hidden neighbourhoods (GNN)",
    "solver_state": "what a few solver steps reach",
}
FLAT_VIEWS, GRAPH_VIEWS = ("entries", "structure", "solver_state"), ("nodes", "edges", "blocks", "solver_state")
PRECISIONS = ("fp32", "bf16")
MOST_KEYS = 200  # of a config, more than there are flags; thousands would take minutes


class _Parser(configargparse.ArgumentParser):
    """Says what is wrong in one line; the usage of some forty flags would push it off the screen."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")

    def convert_item_to_command_line_arg(self, action: Action | None, key: str, value: str | list[Any]) -> list[str]:
        if action is not None and action.nargs == 0 and isinstance(value, list):
            self.error(f"{key} is {value}, but must be true or false")
        return super().convert_item_to_command_line_arg(action, key, value)


class _PlainYAML(yaml.SafeLoader):
    """Refuses a key that is given twice, of which the parent takes the last in silence; and aliases."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):  # a few lines of them stand for more text than there is memory
            raise yaml.YAMLError("it has an alias, an asterisk and a name; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if name in seen:
                raise yaml.YAMLError(f"it gives {name} twice; keep one of the two")
            seen.add(name)
        return super().construct_mapping(node, deep)


class _YAMLFile(configargparse.YAMLConfigFileParser):
    """Passes each key on, those without a value too, which the parent drops in silence."""

    def parse(self, stream: Any) -> OrderedDict[str, str | list[Any]]:
        try:
            items = yaml.load(stream, _PlainYAML)
        except RecursionError as error:
            raise configargparse.ConfigFileParserException(
                f"--config {stream.name} is nested too deeply; write one `name: value` a line."
            ) from error
        except (yaml.YAMLError, ValueError, TypeError) as error:  # the latter two of dates, numbers, and bytes
            raise configargparse.ConfigFileParserException(f"--config {stream.name} is no YAML: {error}") from error
        if not isinstance(items, dict):
            raise configargparse.ConfigFileParserException(
                f"--config {stream.name} holds no flags; write one `name: value` a line."
            )
        if len(items) > MOST_KEYS:
            raise configargparse.ConfigFileParserException(
                f"--config {stream.name} has {len(items)} keys, more than there are flags; --help lists them all."
            )
        if "config" in items:
            raise configargparse.ConfigFileParserException(
                f"--config {stream.name} names another config, which would not be read; drop the key config."
            )
        return OrderedDict((str(key), _text_of(value)) for key, value in items.items())


def _text_of(value: Any) -> str | list[Any]:
    if isinstance(value, list) and len(value) > 1:
        return value
    (single,) = value or [""] if isinstance(value, list) else [value]  # the parent takes no list of one
    return "" if single is None else str(single)


def parser() -> configargparse.ArgumentParser:
    """Every flag with its default; a YAML file (`--config`) holds the same names, the command line wins."""
    p = _Parser(
        prog="train.py",
        description="Train a KKT net on LPs, with or without a JEPA term.",
        config_file_parser_class=_YAMLFile,
        formatter_class=configargparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument("--config", is_config_file=True, metavar="YAML", help="file with flags, one `name: value` a line")

    training = p.add_argument_group("training")
    beyond = p.add_argument_group("JEPA beyond the plain recipe")
    add_jepa_arguments(training, beyond=beyond, modes={**MODES, **READERS})
    beyond.add_argument(
        "--jepa_views", choices=VIEWS, help=f"what is predicted: {_said(VIEWS)}; default: entries (MLP), nodes (GNN)"
    )
    beyond.add_argument("--jepa_solver_steps", type=int, default=100, help="of the solver, views solver_state")
    beyond.add_argument(
        "--jepa_solver_restart", type=int, default=0, metavar="STEPS", help="restart the solver so often; 0 is never"
    )

    optimisation = p.add_argument_group("optimisation")
    optimisation.add_argument("--epochs", type=int, default=30)
    optimisation.add_argument("--batch_size", type=int, default=8)
    optimisation.add_argument("--lr", type=float, default=1e-3, help="of Adam")
    optimisation.add_argument("--seed", type=int, default=0, help="of weights, order and masks")
    optimisation.add_argument("--primal_weight", type=float, default=0.1)
    optimisation.add_argument("--dual_weight", type=float, default=0.1)
    optimisation.add_argument("--stationarity_weight", type=float, default=0.6)
    optimisation.add_argument("--complementary_slackness_weight", type=float, default=0.2)

    model = p.add_argument_group("model")
    model.add_argument("--use_bipartite_graphs", action="store_true", help="GNNPolicy instead of KKTNetMLP")
    model.add_argument("--embedding_size", type=int, default=64, help="width of GNNPolicy")
    model.add_argument("--hidden_size", type=int, default=256, help="width of KKTNetMLP")
    model.add_argument(
        "--seen_steps", type=int, nargs="+", metavar="STEPS", help="show the network what a solver reaches in so many"
    )

    data = p.add_argument_group("data")
    data.add_argument("--problems", nargs="+", default=list(FAMILIES), metavar="FAMILY", help=", ".join(FAMILIES))
    for name, family in FAMILIES.items():
        names = tuple(size_name.upper() for size_name in family.size_names)
        data.add_argument(
            f"--{name}_size", type=int, nargs=len(names), metavar=names, default=list(family.default_size)
        )
    data.add_argument("--train_instances", type=int, default=512)
    data.add_argument("--val_instances", type=int, default=64)
    data.add_argument("--test_instances", type=int, default=64, help="kept for evaluate.py")
    data.add_argument("--data_seed", type=int, default=0, help="of the generated LPs, apart from --seed")
    data.add_argument("--data_root", default=str(Path("~/.cache/jepa_ssl/kkt_nets").expanduser()), metavar="FOLDER")
    data.add_argument("--lp_files", nargs="+", metavar="PATH", help="train on these .mps, .mps.gz or .lp files instead")
    data.add_argument("--ruiz_iterations", type=int, default=10, help="of rescaling the LPs; 0 leaves them as they are")

    run = p.add_argument_group("run")
    run.add_argument("--devices", default="0", help="a GPU's number, or cpu; without a GPU always the cpu")
    run.add_argument("--num_threads", type=int, default=1, help="of torch on a CPU; more pay for large networks alone")
    run.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the networks; weights stay in fp32")
    run.add_argument(
        "--accumulate",
        type=int,
        default=1,
        metavar="PIECES",
        help="compute each step in so many pieces; --jepa_regularizer and --jepa_balance see one at a time",
    )
    run.add_argument(
        "--checkpoint_activations", action="store_true", help="of the trunk: compute them twice, and keep none of them"
    )
    run.add_argument("--compile", action="store_true", help="the step, by torch.compile; pays for long runs")
    run.add_argument("--num_workers", type=int, default=0, help="processes that prepare batches")
    run.add_argument("--log_every", type=int, default=10, metavar="STEPS")
    run.add_argument("--output_dir", metavar="FOLDER", help="default: exps/<run>, or the folder of --resume")
    run.add_argument(
        "--checkpoint_every", type=int, default=0, metavar="STEPS", help="write last.pt so often; 0 is after each epoch"
    )
    run.add_argument(
        "--resume", metavar="CHECKPOINT", help="continue this run; auto: that of --output_dir, if it holds one"
    )
    return p


def _said(choices: dict[str, str]) -> str:
    return ", ".join(f"{name} ({meaning})" for name, meaning in choices.items())


def parse(argv: Sequence[str] | None = None) -> Namespace:
    """The options of a run; an unknown flag or key, or a value out of range, exits with 2 and says what to do."""
    p = parser()
    args, unknown = p.parse_known_args(argv)
    if unknown:
        p.error(_unknown(unknown[0], known=[name for name in vars(args) if name != "config"]))
    for name, value in vars(args).items():
        if value == []:  # argparse takes the value -- for the end of the flags
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
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean --{close[0]}?" if close else "--help lists them all."
    return f"unknown flag or config key {name!r}: {hint}"


def check(args: Namespace) -> None:
    """Raises ValueError for the first option that is out of range."""
    check_jepa_arguments(args)
    weights = ("primal", "dual", "stationarity", "complementary_slackness")
    for name in (*(f"{weight}_weight" for weight in weights), "lr"):
        require(args, name, "finite and at least 0", lambda value: math.isfinite(value) and value >= 0)
    counts = (
        "epochs",
        "batch_size",
        "embedding_size",
        "hidden_size",
        "log_every",
        "num_threads",
        "accumulate",
        "jepa_solver_steps",
    )
    for name in (*counts, "train_instances", "val_instances", "test_instances"):
        require(args, name, "at least 1 and below 2**31", lambda value: 1 <= value < 2**31)
    for name in ("num_workers", "ruiz_iterations", "jepa_solver_restart", "checkpoint_every"):
        require(args, name, "at least 0 and below 2**31", lambda value: 0 <= value < 2**31)
    seen = args.seen_steps or []
    if any(steps < 1 or steps >= 2**31 for steps in seen) or sorted(set(seen)) != seen:
        raise ValueError(
            f"--seen_steps is {' '.join(map(str, seen))}, but must be numbers of steps, each at least 1 and larger "
            f"than the one before, such as 10 30 100."
        )
    if args.resume == "auto" and not args.output_dir:
        raise ValueError("--resume is auto, but --output_dir is not given, where it would look; name a folder.")
    for name in ("seed", "data_seed"):
        require(args, name, "at least 0 and below 2**63", lambda value: 0 <= value < 2**63)
    require(args, "devices", "cpu or one GPU's number", lambda value: value == "cpu" or value.isdecimal())
    if args.jepa_pretrain_epochs > args.epochs:
        raise ValueError(
            f"--jepa_pretrain_epochs is {args.jepa_pretrain_epochs}, but the run has {args.epochs} epochs in all; "
            f"raise --epochs."
        )
    _check_recipe(args)
    for family in args.problems:
        if family not in FAMILIES:
            close = difflib.get_close_matches(family, FAMILIES, n=1)
            hint = f"did you mean {close[0]}?" if close else f"choose among {', '.join(FAMILIES)}."
            raise ValueError(f"--problems names the unknown family {family!r}: {hint}")
        if args.problems.count(family) > 1:
            raise ValueError(f"--problems names {family} twice; name each family once.")
    for name, family in FAMILIES.items():
        size = getattr(args, f"{name}_size")
        if not all(least <= given < 2**31 for given, least in zip(size, family.smallest_size, strict=True)):
            pairs = zip(family.size_names, family.smallest_size, strict=True)
            expected = ", ".join(f"{size_name} >= {least}" for size_name, least in pairs) + ", all below 2**31"
            raise ValueError(f"--{name}_size is {' '.join(map(str, size))}, but must have {expected}.")


def _check_recipe(args: Namespace) -> None:
    """Refuses flags that contradict each other, and flags that would silently do nothing."""
    path, known = ("GNN", GRAPH_VIEWS) if args.use_bipartite_graphs else ("MLP", FLAT_VIEWS)
    if args.jepa_views not in known:
        raise ValueError(
            f"--jepa_views is {args.jepa_views}, but the {path} has {', '.join(known)}; choose among them."
        )
    if not args.use_jepa:
        given = ["jepa_solver_restart"] if args.jepa_solver_restart else []
        given += ["jepa_views"] if args.jepa_views != known[0] else []
        if given:
            raise ValueError(f"--{given[0]} is of the JEPA term, but JEPA is off; add --use_jepa.")
        return
    reads_states = args.jepa_mode in READERS
    if reads_states != (args.jepa_views == "solver_state"):
        raise ValueError(
            f"--jepa_mode is {args.jepa_mode} and --jepa_views {args.jepa_views}, but solver states are read by a "
            f"network of their own, and by nothing else; give --jepa_views solver_state with --jepa_mode frozen or "
            f"learned, or neither."
        )
    if args.jepa_solver_restart and not reads_states:
        raise ValueError("--jepa_solver_restart is of --jepa_views solver_state; add it, or leave this out.")
    if args.jepa_mode == "learned" and args.jepa_regularizer == "none":
        raise ValueError(
            "--jepa_mode is learned, where both sides learn and would agree on one point; add --jepa_regularizer "
            "vicreg or sigreg."
        )
    if args.jepa_balance and args.jepa_pretrain_epochs == args.epochs:
        raise ValueError("--jepa_balance weighs JEPA against KKT, but no epoch trains both; leave it out.")
