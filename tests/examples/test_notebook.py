"""The notebook of flat_vector.py: its code is the script's, its outputs are there, and running it gives them again."""

import re
from pathlib import Path

import as_notebook
import nbformat
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPT, NOTEBOOK = EXAMPLES / "flat_vector.py", EXAMPLES / "flat_vector.ipynb"


def sources(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def shown(notebook: nbformat.NotebookNode) -> tuple[str, str]:
    """What the last cell printed, and the figure, encoded."""
    printed, figure = notebook.cells[-1].outputs
    return printed.text, figure.data["image/png"]


def test_the_file_holds_the_script_as_it_stands():
    committed = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(committed)
    made = as_notebook.notebook(SCRIPT.read_text())
    assert sources(committed) == sources(made), "run `python examples/as_notebook.py examples/flat_vector.py`"
    code = "\n\n\n".join(cell.source for cell in made.cells if cell.cell_type == "code")
    assert all(line in code for line in SCRIPT.read_text().split('"""', 2)[2].split("if __name__")[0].splitlines())


def test_the_file_holds_what_the_script_says_and_draws():
    committed = nbformat.read(NOTEBOOK, as_version=4)
    said, figure = shown(committed)
    assert said.startswith("R2 of the hidden causes")
    assert "The monitor's alarms: none." in said
    assert len(figure) > 10_000
    assert not any(cell.outputs for cell in committed.cells[:-1] if cell.cell_type == "code")
    assert not re.search(r"/(home|tmp|root|work)/", NOTEBOOK.read_text())


@pytest.mark.slow
def test_running_it_gives_the_outputs_again():
    committed = nbformat.read(NOTEBOOK, as_version=4)
    said, figure = shown(as_notebook.run(as_notebook.notebook(SCRIPT.read_text())))
    expected, _ = shown(committed)
    numbers = [[float(number) for number in re.findall(r"\d+\.\d+", text)] for text in (said, expected)]
    assert len(numbers[0]) == 16
    assert numbers[0] == pytest.approx(numbers[1], abs=0.03)  # rounding differs from one machine to another
    words = [re.sub(r"\d+(\.\d+)?", "#", text).split() for text in (said, expected)]
    assert words[0] == words[1]
    assert len(figure) > 10_000
