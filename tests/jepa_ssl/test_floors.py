"""The floors of the house: imports point down, rooms of one floor do not know each other."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jepa_ssl

ROOT = Path(jepa_ssl.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# The floor of each room; a room is a file, or a folder whose files may import each other.
FLOORS = {
    "protocols": 0,
    "checks": 0,
    "instances": 0,
    "segments": 0,
    "seeds": 0,
    "names": 0,
    "processes": 0,
    "freezing": 0,
    "schedules": 1,
    "joint": 2,
    "maskers": 1,
    "teachers": 2,
    "predictors": 1,
    "losses": 1,
    "regularizers": 1,
    "diagnostics": 1,
    "collapse": 1,
    "lp": 2,
    "monitor": 2,
    "balance": 2,
    "encoders": 2,
    "objective": 2,
    "contrib": 3,
    "recipes": 3,
    "term": 3,
    "testing": 4,
    "integrations": 4,
    "__init__": 5,
}


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The modules that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            names.add(node.module or "")
    return names


def rooms_imported(path: Path) -> set[str]:
    ours = {name for name in imported(path) if name.split(".")[0] == "jepa_ssl"}
    return {name.split(".")[1] if "." in name else "__init__" for name in ours}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path):
    here = room(path)
    assert here in FLOORS, f"{path.name} is a new room: give it a floor in this test and in the design"
    for other in rooms_imported(path) - {here}:
        below = FLOORS[other] < FLOORS[here]
        ground = FLOORS[other] == FLOORS[here] == 0 and here != "protocols"
        assert below or ground, f"{here} (floor {FLOORS[here]}) imports {other} (floor {FLOORS[other]})"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_outside_libraries_are_torch_and_einops_except_in_integrations(path: Path):
    outside = {name.split(".")[0] for name in imported(path)} - set(sys.stdlib_module_names) - {"jepa_ssl"}
    assert outside <= {"torch", "einops"} or room(path) == "integrations"


def test_importing_the_package_loads_torch_and_einops_alone():
    code = """
import sys, torch, einops
before = {name.split(".")[0] for name in sys.modules}
import jepa_ssl
print(*({name.split(".")[0] for name in sys.modules} - before - set(sys.stdlib_module_names)))
print("torch_geometric" in sys.modules)
"""
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["jepa_ssl", "False"]


def test_public_names_exist_and_say_what_they_are():
    assert sorted(jepa_ssl.__all__) == jepa_ssl.__all__
    for name in jepa_ssl.__all__:
        thing = getattr(jepa_ssl, name)
        if name != "Embeddings":  # an alias, which can only be described beside its definition
            assert thing.__doc__, f"{name} has no docstring"
            assert not thing.__doc__.startswith(f"{name}("), f"{name} has only the docstring that dataclass wrote"


# The rooms that every step passes through. What asks for numbers in other words is found on the meta device, in
# test_objective.py; draws on a CPU and checks of a batch as it is built may look at numbers.
HOT = ["objective.py", "losses.py", "predictors.py", "regularizers.py", "joint.py", "balance.py", "diagnostics.py"]
HOT += ["processes.py"]
HOT += [f"teachers/{name}.py" for name in ("ema", "encoder", "network", "tensors", "watch")]
HOT += [
    "maskers/flat.py",
    "maskers/graph.py",
    "maskers/fill.py",
    "seeds.py",
    *(f"integrations/pyg/{name}.py" for name in ("bipartite", "hetero", "offsets")),
]
HOT += ["maskers/combine.py", "maskers/share.py", "lp/maskers.py"]
WAITING = {"item", "tolist", "cpu", "numpy", "nonzero", "masked_select", "synchronize"}


@pytest.mark.parametrize("name", HOT)
def test_nothing_waits_for_the_device(name: str):
    calls = [
        node.func.attr
        for node in ast.walk(ast.parse((ROOT / name).read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    assert not WAITING & set(calls)
