"""Check what is shipped: the files of sdist and wheel, the types in them, the versions and extras that it needs."""

import json
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.metadata import Metadata
from packaging.requirements import Requirement

import jepa_ssl

ROOT = Path(__file__).parents[2]
# What `make test`, `make lint` and `make docs` need beside the folders.
FILES = {
    "Makefile",
    "pyproject.toml",
    "constraints.txt",
    "constraints-oldest.txt",
    "mkdocs.yml",
    ".pre-commit-config.yaml",
}
FILES |= {"README.md", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "SECURITY.md"}
EXTRAS = {"graph", "export", "lightning", "examples", "branching", "docs", "test", "dev"}

# A repository that uses us. Lines that end in the name of a rule are wrong by it, all others right.
CLIENT = """# pyright: strict
from torch import Tensor, nn
from torch.optim import Adam

from jepa_ssl import BipartiteGraph, EMATeacher, JEPAObjective, MLPPredictor, NodeMasker
from jepa_ssl.protocols import JEPALoss


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.constraint, self.variable = nn.Linear(3, 8), nn.Linear(2, 8)

    def forward(self, graph: BipartiteGraph) -> dict[str, Tensor]:
        rows, columns = graph.constraint_features, graph.variable_features
        return {"constraint": self.constraint(rows), "variable": self.variable(columns)}


def plain(graph: BipartiteGraph) -> dict[str, Tensor]:
    return {"constraint": graph.constraint_features}


def of_vectors(values: Tensor) -> dict[str, Tensor]:
    return {"instance": values}


def without_streams(graph: BipartiteGraph) -> Tensor:
    return graph.constraint_features


def train(graph: BipartiteGraph, encoder: Encoder) -> Tensor:
    teacher = EMATeacher(encoder, momentum=0.996)
    predictor = MLPPredictor({"constraint": 8, "variable": 8})
    jepa = JEPAObjective[BipartiteGraph](NodeMasker(ratio=0.3), predictor, teacher)
    Adam([*encoder.parameters(), *jepa.parameters()])
    jepa.update(encoder)
    loss: JEPALoss = jepa(encoder, graph)
    loss = jepa.forward(plain, graph)
    jepa.forward(of_vectors, graph)  # reportArgumentType
    jepa.forward(without_streams, graph)  # reportArgumentType
    jepa.forward(plain, "graph")  # reportArgumentType
    JEPAObjective[BipartiteGraph](NodeMasker(ratio=0.3), predictor, "ema")  # reportArgumentType
    EMATeacher(plain)  # reportArgumentType
    NodeMasker(0.3, share=0.3)  # reportCallIssue
    loss.total = loss.total / 2  # reportAttributeAccessIssue
    return loss.total
"""

STEP = """
import torch
from jepa_ssl import EMATeacher, EntryMasker, JEPAObjective, MLPPredictor, MLPProjector

class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.projector = torch.nn.Linear(6, 8), MLPProjector({"instance": 8}, dim=4)
    def forward(self, flat):
        return self.projector({"instance": self.trunk(flat)})

torch.manual_seed(0)  # one start in fifty has a predictor so small that no ReLU of it passes a gradient
encoder = Encoder()
jepa = JEPAObjective(EntryMasker(0.5), MLPPredictor({"instance": 4}), EMATeacher(encoder))
optimizer = torch.optim.SGD([*encoder.parameters(), *jepa.parameters()], lr=0.1)
before = encoder.trunk.weight.detach().clone()
jepa(encoder, torch.randn(8, 6)).total.backward()
optimizer.step()
jepa.update(encoder)
assert not torch.equal(encoder.trunk.weight, before)
"""


WITHOUT_EXTRAS = f"""
import sys
from importlib import import_module
from pathlib import Path
sys.modules.update(dict.fromkeys(["torch_geometric", "safetensors", "lightning"]))  # None: not to be found
{STEP}
import jepa_ssl
folder = Path(jepa_ssl.__file__).parent
for path in folder.rglob("*.py"):
    if "integrations" not in path.parts:
        import_module(".".join(path.relative_to(folder.parent).with_suffix("").parts).removesuffix(".__init__"))
for name, extra in ("pyg", "graph"), ("export", "export"), ("lightning", "lightning"):
    try:
        import_module("jepa_ssl.integrations." + name)
    except ImportError as error:
        assert f"pip install 'jepa_ssl[{{extra}}]'" in str(error), error
    else:
        raise AssertionError(name)
print(folder)
"""


def run(*command: str | Path, folder: Path) -> str:
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An sdist of this tree, and a wheel built from it, by their suffixes; nothing is downloaded."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, folder=ROOT)
    return {path.suffix: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def python(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel, and all that this environment has except the tree itself."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin/python"
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--no-deps",
        "--no-index",
        built[".whl"],
        folder=ROOT,
    )
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=folder).strip()
    # The .pth files of a folder that is named in a .pth file are not read: the editable install stays unknown.
    (Path(site) / "outer.pth").write_text(sysconfig.get_path("purelib"))
    return python


def sources(*folders: str, suffixes: tuple[str, ...] = (".py", ".md", ".typed")) -> set[str]:
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    return {path.relative_to(ROOT).as_posix() for path in paths if path.suffix in suffixes}


@pytest.mark.slow
def test_the_sdist_holds_what_its_tests_need(built: dict[str, Path]):
    with tarfile.open(built[".gz"]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert sources("jepa_ssl", "tests", "examples", "docs") | FILES <= names
    assert not {name for name in names if "__pycache__" in name or name.startswith((".venv", ".git/", "dist"))}


@pytest.mark.slow
def test_the_wheel_holds_the_package_alone(built: dict[str, Path]):
    with zipfile.ZipFile(built[".whl"]) as wheel:
        names = set(wheel.namelist())
    about = {name for name in names if name.startswith(f"jepa_ssl-{jepa_ssl.__version__}.dist-info/")}
    assert names - about == sources("jepa_ssl")
    assert "jepa_ssl/py.typed" in names
    assert {Path(name).name for name in about} == {"METADATA", "WHEEL", "RECORD", "LICENSE"}


@pytest.mark.slow
def test_the_metadata_is_valid_and_complete(built: dict[str, Path]):
    with zipfile.ZipFile(built[".whl"]) as wheel:
        text = wheel.read(f"jepa_ssl-{jepa_ssl.__version__}.dist-info/METADATA")
    metadata = Metadata.from_email(text, validate=True)
    assert (metadata.name, str(metadata.version)) == ("jepa_ssl", jepa_ssl.__version__)
    assert (metadata.license_expression, metadata.license_files) == ("MIT", ["LICENSE"])
    assert metadata.description_content_type == "text/markdown"
    assert set(metadata.provides_extra or []) == EXTRAS
    always = {r.name for r in metadata.requires_dist or [] if r.marker is None}
    assert always == {"torch", "einops", "numpy"}  # without numpy, torch starts with a warning


@pytest.mark.slow
def test_installed_without_extras_it_trains_and_the_integrations_name_their_extra(python: Path, tmp_path: Path):
    # -I: PYTHONPATH may lead to the tree
    where = run(python, "-I", "-W", "error", "-c", WITHOUT_EXTRAS, folder=tmp_path)
    assert Path(where.strip()).is_relative_to(python.parent.parent)


@pytest.mark.slow
def test_a_type_checker_knows_right_use_from_wrong(python: Path, tmp_path: Path):
    (tmp_path / "client.py").write_text(CLIENT)
    command = [sys.executable, "-m", "pyright", "--pythonpath", python, "--outputjson", "client.py"]
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True)
    found = {(d["range"]["start"]["line"], d["rule"]) for d in json.loads(done.stdout)["generalDiagnostics"]}
    wrong = ((i, re.search(r"# (report\w+)$", line)) for i, line in enumerate(CLIENT.splitlines()))
    assert found == {(i, rule[1]) for i, rule in wrong if rule}


def test_the_oldest_versions_are_those_that_pyproject_allows():
    project = project_table()
    extras = {name: needs for name, needs in project["optional-dependencies"].items() if name != "dev"}
    needs = [Requirement(text) for text in chain(project["dependencies"], *extras.values())]
    floors = {need.name: str(need.specifier).replace(">=", "==") for need in needs if need.name != "jepa_ssl"}
    lines = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    assert floors == {pin.name: str(pin.specifier) for pin in pins}


def test_each_python_that_is_promised_is_tested():
    project, tox = project_table(), pyproject()["tool"]["tox"]
    name = "Programming Language :: Python :: "
    promised = [c.removeprefix(name) for c in project["classifiers"] if c.startswith(f"{name}3.")]
    assert promised == [environment.partition("-")[0] for environment in tox["env_list"]]
    assert project["requires-python"] == f">={promised[0]}"


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == jepa_ssl.__version__
    assert citation["license"] == project_table()["license"]


def pyproject() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read TOML")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def project_table() -> dict[str, Any]:
    return pyproject()["project"]
