"""The list of all names that `jepa_ssl` exports, each with the first paragraph of its docstring."""

from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).parents[2]
HERE = "<!-- names -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    return markdown.replace(HERE, _table()) if HERE in markdown else markdown


def _table() -> str:
    package = griffe.load("jepa_ssl", search_paths=[ROOT], resolve_aliases=True)
    rows = [f"| [`{name}`][jepa_ssl.{name}] | {_first(package[name])} |" for name in map(str, package.exports or ())]
    return "\n".join(["| name | |", "|---|---|", *rows])


def _first(thing: griffe.Object | griffe.Alias) -> str:
    text = "" if thing.docstring is None else thing.docstring.value
    return text.partition("\n\n")[0].replace("\n", " ").replace("|", "\\|")
