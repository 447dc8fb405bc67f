"""Build the site strictly: it lists every public name and loads nothing from another host.

test_blocks.py runs the code of the pages.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mkdocstrings")
import griffe
import yaml
from mkdocstrings import Inventory

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
# Files deeper than these are private, or their folder exports what is public of them.
ROOM = re.compile(r"jepa_ssl(\.integrations|\.contrib)?(\.\w+)?")
PRIVATE = {"jepa_ssl.checks", "jepa_ssl.contrib", "jepa_ssl.integrations", "jepa_ssl.splitmix"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_COLOR": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def reference(site: Path) -> Inventory:
    with (site / "objects.inv").open("rb") as file:
        return Inventory.parse_sphinx(file)


@pytest.fixture(scope="module")
def documented() -> dict[str, bool]:
    """Every public name, and whether it has a docstring; read from the source, so that nothing is imported."""
    package = griffe.load("jepa_ssl", search_paths=[ROOT], resolve_aliases=True)
    return {
        f"{module.path}.{name}": module[name].has_docstring for module in modules(package) for name in public(module)
    }


def modules(module: Any) -> Iterator[Any]:
    yield module
    for inner in module.modules.values():
        yield from modules(inner)


def public(module: Any) -> list[str]:
    """The names in `__all__`; without one, all that the module defines itself."""
    if not ROOM.fullmatch(module.path) or module.path in PRIVATE:
        return []
    own = [name for name in (*module.functions, *module.classes) if not module[name].is_alias]
    return [name for name in map(str, own if module.exports is None else module.exports) if not name.startswith("_")]


def menu(entries: Any) -> Iterator[str]:
    """The pages of the menu, however deep."""
    for entry in entries:
        for page in entry.values() if isinstance(entry, dict) else [entry]:
            yield from [page] if isinstance(page, str) else menu(page)


@pytest.mark.slow
def test_every_document_is_in_the_menu_and_on_the_site(site):
    pages = list(menu(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    documents = [page.relative_to(DOCS).as_posix() for page in PAGES[1:]]
    assert sorted(pages) == sorted([*documents, "index.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"])
    assert "<h1" in (site / "index.html").read_text()  # the README
    assert all((site / page).with_suffix(".html").is_file() for page in pages)


def test_every_public_name_says_what_it_is(documented):
    assert len(documented) > 80
    assert not [name for name, has_docstring in documented.items() if not has_docstring]


@pytest.mark.slow
def test_every_public_name_is_in_the_reference(documented, reference):
    missing = [name for name in documented if name not in reference]
    assert not missing, "add `::: <its module>` to a page of docs/api"


@pytest.mark.slow
def test_every_name_that_a_page_imports_is_in_the_reference(reference):
    imports = [
        f"{module}.{name.strip()}"
        for page in PAGES
        for module, names in re.findall(r"^from (jepa_ssl[\w.]*) import ([\w, ]+)$", page.read_text(), re.MULTILINE)
        for name in names.split(",")
    ]
    assert len(imports) > 50
    assert not [name for name in imports if name not in reference]


@pytest.mark.slow
def test_the_site_loads_nothing_from_another_host(site):
    pages, styles = list(site.rglob("*.html")), list(site.rglob("*.css"))
    assert len(pages) > 40
    assert styles
    loaded = re.compile(r"<(?:script|img|link|iframe|source|object)\b[^>]*?(?:src|href|data)=[\"']?(?:https?:)?//")
    for page in pages:
        assert not loaded.search(page.read_text()), page
    for style in styles:
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import", style.read_text()), style


@pytest.mark.slow
def test_formulas_are_mathml_and_doctests_are_code(site):
    assert "<math" in (site / "method.html").read_text()
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert 'class="arithmatex"' not in text, page
        assert not re.search(r"<blockquote>\s*<blockquote>", text), page


@pytest.mark.slow
def test_links_out_of_the_documents_lead_to_the_line_of_the_function(site):
    target = re.search(
        r'href="(source/tests/kkt_nets/loop/test_options\.py\.html)#([\w-]+)"', (site / "spec.html").read_text()
    )
    assert target
    linked = (site / target[1]).read_text()
    line = linked[linked.index(f'name="{target[2]}"') :].partition("\n")[0]
    assert "test_the_defaults_are_those_of_the_specification" in line


def test_the_tests_that_the_pages_name_exist():
    named = [
        (page, name, page.parent / file)
        for page in PAGES
        for name, file in re.findall(r"\[`(test_\w+)`\]\(([^)]+)\)", page.read_text())
    ]
    assert len(named) > 50
    for page, name, file in named:
        assert re.search(rf"^def {name}\(", file.read_text(), re.MULTILINE), f"{page.name} names {name} of {file.name}"


@pytest.mark.parametrize("item", range(1, 8))
def test_each_acceptance_item_is_shown_by_tests_of_its_number(item):
    row = re.search(rf"^\| {item} \|.*$", (DOCS / "spec.md").read_text(), re.MULTILINE)
    assert row
    assert set(re.findall(r"\[`(test_\d)_\w+`\]", row[0])) == {f"test_{item}"}
