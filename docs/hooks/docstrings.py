"""What the reference shows, and what our docstrings write shorter than Markdown and Google's style have it."""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from griffe import Alias, Extension, Module, Object

DOCTEST = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)  # in Markdown `>>>` is a quotation in a quotation
SEVERAL = re.compile(r"^    (\w+(?:, \w+)+):((?:.*\n?)(?: {8}.*\n?)*)", re.MULTILINE)  # `rows, columns: how many.`


class Docstrings(Extension):
    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            text = DOCTEST.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)
            obj.docstring.value = SEVERAL.sub(_one_by_one, text)

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        """Show what a folder exports of a file in it, or every public name if the folder exports nothing of it.

        The package itself exports a short list. This list does not restrict what the reference shows.
        """
        exported: defaultdict[str, list[str]] = defaultdict(list)
        for folder in _modules(pkg):
            for name in map(str, folder.exports or ()):
                member = folder.members.get(name)
                if folder is not pkg and isinstance(member, Alias) and member.target_path.startswith(f"{folder.path}."):
                    exported[member.target_path.rpartition(".")[0]].append(name)
        for path, names in exported.items():
            if (home := pkg.modules_collection[path]).exports is None:
                home.exports = names


def _one_by_one(found: re.Match[str]) -> str:
    return "".join(f"    {name}:{found[2].rstrip()}\n" for name in found[1].split(", "))


def _modules(module: Module) -> Iterator[Module]:
    yield module
    for inner in module.modules.values():
        yield from _modules(inner)
