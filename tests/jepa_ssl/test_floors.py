"""The floors of the house: imports point down, rooms of one floor do not import each other, files and functions are
short, and nothing that every step passes through waits for a device."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jepa_ssl

ROOT = Path(jepa_ssl.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))

# A room is a file, or a folder whose files may import each other. The same table stands in docs/design.md.
ROOMS = [
    "protocols instances segments seeds splitmix checks names processes schedules freezing diagnostics files",
    "maskers teachers predictors losses regularizers prediction joint monitor balance sharing",
    "objective encoders lp",
    "recipes term evaluation contrib",
    "integrations testing",
    "__init__",
]
FLOORS = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms.split()}


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


@every_file
def test_imports_point_down(path: Path):
    here = room(path)
    assert here in FLOORS, f"{path.name} is a new room: give it a floor in this test and in docs/design.md"
    for other in rooms_imported(path) - {here}:
        below = FLOORS[other] < FLOORS[here] or FLOORS[other] == FLOORS[here] == 0
        assert below, f"{here} (floor {FLOORS[here]}) imports {other} (floor {FLOORS[other]})"
    assert here != "protocols" or not rooms_imported(path), "a contract needs no other room"


def test_no_import_chain_is_longer_than_the_house_is_high():
    imports: dict[str, set[str]] = {}
    for path in FILES:
        imports.setdefault(room(path), set()).update(rooms_imported(path) - {room(path)})

    def height(here: str) -> int:
        return 1 + max(map(height, imports[here]), default=0)

    assert height("__init__") <= len(ROOMS) == 6


@every_file
def test_outside_libraries_are_torch_and_einops_except_in_integrations(path: Path):
    outside = {name.split(".")[0] for name in imported(path)} - set(sys.stdlib_module_names) - {"jepa_ssl"}
    optional = {"matplotlib", "tqdm"} if room(path) == "evaluation" else set()  # for the figure and the progress bar
    assert outside <= {"torch", "einops", *optional} or room(path) == "integrations"


@every_file
def test_files_and_functions_are_short(path: Path):
    assert len(path.read_text().splitlines()) <= 300
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and node.end_lineno:
            first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
            signature = node.body[0].lineno - node.lineno
            assert signature + node.end_lineno - first.lineno + 1 <= 40, f"{node.name} has more than 40 lines of code"


@every_file
def test_nothing_is_asked_of_an_object_that_no_contract_names(path: Path):
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    guessed = [
        call.lineno
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "getattr" and len(call.args) == 3
    ]
    assert not guessed or room(path) in ("integrations", "testing"), "name the attribute in protocols.py"


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


PUBLIC = (
    "BipartiteGraph BlockMasker CollapseMonitor ComposeMaskers CosineSchedule EMATeacher EdgeMasker Encoded "
    "EntryMasker FlatVectors GradientBalance Graph JEPAObjective JEPATerm JointSchedule LinearSchedule MLPPredictor "
    "MLPProjector ModelEncoder MultiView NodeMasker SIGReg Seeds SharedTeacher StopGradTeacher TargetNetwork VICReg "
    "Views cosine_loss later_state smooth_l1_loss"
)


def test_public_names_are_these_and_say_what_they_are():
    assert jepa_ssl.__all__ == sorted(jepa_ssl.__all__) == PUBLIC.split()
    assert len(jepa_ssl.__all__) <= 32
    for name in jepa_ssl.__all__:
        thing = getattr(jepa_ssl, name)
        assert thing.__doc__, f"{name} has no docstring"
        assert not thing.__doc__.startswith(f"{name}("), f"{name} has only the docstring that dataclass wrote"


# The rooms that every step passes through. What asks for numbers in other words is found on the meta device, in
# test_objective.py; draws on a CPU and checks of a batch as it is built may look at numbers.
HOT = ["objective.py", "losses.py", "predictors.py", "regularizers.py", "joint.py", "balance.py", "diagnostics.py"]
HOT += ["processes.py", "prediction.py", "sharing.py"]
HOT += [f"teachers/{name}.py" for name in ("ema", "encoder", "network", "tensors", "watch")]
HOT += [
    "maskers/flat.py",
    *(
        f"maskers/{name}.py"
        for name in ("base", "graph", "nodes", "edges", "blocks", "draw", "fill", "combine", "share")
    ),
    "seeds.py",
    "segments.py",
    *(f"integrations/pyg/{name}.py" for name in ("graphs", "views")),
    "lp/maskers.py",
]
WAITING = {"item", "tolist", "cpu", "numpy", "nonzero", "masked_select", "synchronize"}


@pytest.mark.parametrize("name", HOT)
def test_nothing_waits_for_the_device(name: str):
    calls = [
        node.func.attr
        for node in ast.walk(ast.parse((ROOT / name).read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    assert not WAITING & set(calls)
