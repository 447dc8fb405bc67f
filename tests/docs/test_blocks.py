"""Run the Python blocks of each document in order, in one namespace, and follow its links."""

import re
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch.distributed as dist
from runs import free_port

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```", re.DOTALL | re.MULTILINE)  # in tabs they are indented
# method.md shows lines of the reader's own loop. test_sharded.py runs sharded.md in a group of processes.
ELSEWHERE = {"method.md", "sharded.md"}
DOCUMENTS = [
    path
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if path.name not in ELSEWHERE and BLOCK.search(path.read_text())
]
QUICK = {"README.md", "adopt.md", "alarm.md", "recipes.md", "views.md"}


@pytest.fixture
def alone_in_a_group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The environment of `torchrun --nproc_per_node=1`, in an empty folder."""
    group = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    for name, value in {**group, "MASTER_PORT": str(free_port())}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.mark.usefixtures("alone_in_a_group")
@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*isinstance.treespec, LeafSpec")
@pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training")
@pytest.mark.parametrize(
    "document",
    [pytest.param(path, id=path.name, marks=[] if path.name in QUICK else pytest.mark.slow) for path in DOCUMENTS],
)
def test_python_blocks_run(document: Path):
    text = document.read_text()
    namespace: dict[str, Any] = {"__name__": document.stem}
    for block in BLOCK.finditer(text):
        above = text.count("\n", 0, block.start(2))  # with these blank lines an error names the document's own line
        exec(compile("\n" * above + dedent(block[2]), document, "exec"), namespace)


def test_links_lead_somewhere():
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        prose = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#:]+)\)", prose):
            assert (document.parent / target).exists(), f"{document.name} points to {target}"
