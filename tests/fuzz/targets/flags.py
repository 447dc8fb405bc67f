"""The command line and the YAML of train.py, for `options.parse`."""

import io
import math
import tempfile
from argparse import Namespace
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st
from loop.options import check, parse, parser

from ..judging import Input
from .pool import Draw, below, chance, made_by, one

WORDS = """
0 1 2 8 -1 0.5 0.3 1.0 1.5 nan inf -inf 1e999 1e-400 1e308 -0 00 0x10 1_000 1e3 99999999999999999999
9223372036854775807 9223372036854775808 -9223372036854775809 true false yes None null ~ cpu cuda cuda:0 gpu auto ema
simsiam frozen learned shared nodes entries edges solver_state structure blocks vicreg sigreg none linear cosine squared
smooth_l1 random set_cover auction [] {} [1] [1,2] {a:1} !!python/object:os.system *a &a - -- --- --lr --epochs=2
--config = == \u0663 \u00bd \u00b2 \u4e94 \u00e9 \ud83d
"""
BLANKS = ("", " ", "\n", "a\nb", "\0", "\t", "1 ", " 1", "x" * 10_000, "9" * 5000, "%s", "%(prog)s", "{0}", "\x1b[31m")
VALUES = (*WORDS.split(), *BLANKS)
DOCUMENTS = (
    "",
    "---\n---\n",
    "- a\n- b\n",
    "lr: 1\nlr: 2\n",
    "? [a, b]\n: c\n",
    "? {a: b}\n: c\n",
    "lr: &a [*a]\n",
    "&a {lr: *a}\n",
    "*a : 1\n",
    "lr: !!python/object/apply:os.system ['true']\n",
    "lr: !!binary aGVsbG8=\n",
    "lr: 2020-01-01\n",
    "lr: 0o17\nepochs: 0b11\nbatch_size: 1:30\n",
    "<<: {lr: 1}\n",
    "<<: [1]\n",
    "<<: *a\n",
    "lr: !!set {a, b}\n",
    "lr: !!omap [a: 1]\n",
    "lr: |\n  text\n  more\n",
    "null: 1\n",
    "true: 1\n",
    "1.5: 1\n",
    "? \n: 1\n",
    "problems: [random, [set_cover]]\n",
    "problems: {random: 1}\n",
    "problems: random\n",
    "problems: []\n",
    "random_size: [3]\n",
    "random_size: [[3, 4]]\n",
    "random_size: 3 4\n",
    "%YAML 9.9\n---\nlr: 1\n",
    "lr: 1\n...\nepochs: 2\n",
    "\ufeffepochs: 2\n",
    "a: " + "[" * 2000 + "]" * 2000,
    "a: " + "{a: " * 900 + "1" + "}" * 900,
    "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)),
    "a0: &a0 {x: 1}\n"
    + "".join(f"a{i}: &a{i} {{{','.join(f'k{j}: *a{i - 1}' for j in range(9))}}}\n" for i in range(1, 12)),
    "".join(f"key{i}: 1\n" for i in range(3000)),
)


SCALARS = st.sampled_from((*VALUES, 0, 1, -1, 0.5, 10**30, math.nan, math.inf, True, False, None))
KEYS = st.sampled_from(("a", "lr", 1, None))
NESTED = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(KEYS, SCALARS | st.lists(SCALARS), max_size=1)


def inputs() -> st.SearchStrategy[Input]:
    defaults = {f"--{action.dest}": action.default for action in parser()._actions}
    defaults["--seen_steps"] = [10, 30]  # by default there are none
    del defaults["--help"]
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))

    def make(draw: Draw) -> Input:
        argv = _command_line(draw, defaults) if chance(draw, 60) else []
        said = f"{argv}"[:300]
        if not argv or chance(draw, 30):
            path, text = folder / "run.yaml", _document(draw, sorted(defaults))
            path.write_bytes(text)
            said += f" with {text[:300]!r}"
            argv = ["--config", str(path), *argv]
        return Input(said, lambda: _parse(argv), refuses=lambda error: isinstance(error, SystemExit))

    return made_by(make)


def _command_line(draw: Draw, defaults: dict[str, Any]) -> list[str]:
    argv: list[str] = []
    for _ in range(1 + below(draw, 4)):
        flag = one(draw, sorted(defaults))
        if defaults[flag] not in (None, False) and chance(draw, 85):  # else almost nothing would be accepted
            argv += [flag, *map(str, defaults[flag] if isinstance(defaults[flag], list) else [defaults[flag]])]
            continue
        flag = _misspelt(draw, flag)
        values = draw(st.lists(st.sampled_from(VALUES), max_size=3))
        joined = [f"{flag}={''.join(values)}"]
        argv += one(draw, (*([flag, *values],) * 7, joined, joined, values))
    return [argument for argument in argv if argument not in ("-h", "--help")]


def _misspelt(draw: Draw, flag: str) -> str:
    if not chance(draw, 15):
        return flag
    place, letter = below(draw, len(flag)), one(draw, "abz_-=. \0é")
    ways = (flag[:place] + flag[place + 1 :], flag[:place] + letter + flag[place:], flag[:place])
    return one(draw, (*ways, flag.upper(), flag.replace("_", "-"), flag.removeprefix("-")))


def _document(draw: Draw, flags: list[str]) -> bytes:
    if chance(draw, 30):
        text = one(draw, DOCUMENTS)
    else:
        names = draw(st.lists(st.sampled_from(flags), min_size=1, max_size=5))
        items = {_misspelt(draw, name.removeprefix("--")): draw(NESTED) for name in names}
        text = yaml.safe_dump(items) if draw(st.booleans()) else "".join(f"{k}: {v}\n" for k, v in items.items())
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(one(draw, (0, 0, 1, 3)) if data else 0):
        data[below(draw, len(data))] = below(draw, 256)
    return bytes(data)


def _parse(argv: list[str]) -> None:
    """Check that accepted options are in order, and that a refusal is one line."""
    with redirect_stderr(io.StringIO()) as said:
        try:
            args = parse(argv)
        except SystemExit as stopped:
            _check_refusal(stopped.code, said.getvalue())
            raise
    assert not said.getvalue(), "accepted, with a message"
    _check_ranges(args)


def _check_refusal(code: object, said: str) -> None:
    assert code == 2, f"exit code {code}"
    assert said.startswith("train.py: error: "), f"said {said[:80]!r}"
    assert said.count("\n") == 1, "more than one line"
    assert len(said) < 100_000, "a message without end"


def _check_ranges(args: Namespace) -> None:
    check(args)  # what was accepted once is accepted again
    types = {action.dest: (action.type, action.nargs) for action in parser()._actions}
    for name, value in vars(args).items():
        if value is None:
            continue
        kind, nargs = types[name]
        for part in value if nargs not in (None, 0) else [value]:
            if kind in (int, float):
                assert type(part) is kind, f"--{name} is {part!r}"
                assert math.isfinite(part), f"--{name} is {part}"
                assert part >= 0, f"--{name} is {part}"
                assert kind is float or part < 2**63, f"--{name} is {part}, more than an int64"
