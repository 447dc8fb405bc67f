"""Convert an example to a notebook and run it: python examples/as_notebook.py examples/flat_vector.py

The docstring becomes text, and each definition becomes a code cell. A last cell calls `main([])`, so it shows what the
example prints and the figure that it returns. The notebook is saved next to the script, with its outputs.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook


def notebook(script: str) -> nbformat.NotebookNode:
    """The script's notebook, before it has run. Its last stretch, which runs it as a program, is left out."""
    first, *definitions, _ = script.strip().split("\n\n\n")
    _, docstring, imports = first.split('"""')
    title, usage, text = docstring.split("\n\n", 2)
    code = [f"%matplotlib inline\n\n{imports.strip()}", *definitions, "main([])"]
    cells = [
        new_markdown_cell(f"# {title.rstrip('.')}\n\n`{usage}`\n\n{text}".strip()),
        *(new_code_cell(part.strip()) for part in code),
    ]
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"  # not at random, so that the same script gives the same file
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def run(made: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with its outputs; the files that it writes are thrown away.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell does.
    """
    with tempfile.TemporaryDirectory() as folder:
        return NotebookClient(
            made, resources={"metadata": {"path": folder}}, record_timing=False, coalesce_streams=True
        ).execute()


def main(argv: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(prog="as_notebook.py", description="Convert an example to a notebook and run it.")
    p.add_argument("script", type=Path, help="convert this script, whose main returns a figure")
    args = p.parse_args(argv)
    nbformat.write(run(notebook(args.script.read_text())), args.script.with_suffix(".ipynb"))


if __name__ == "__main__":
    main()
