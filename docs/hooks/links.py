"""Links that lead out of docs/ work on the site as they do on a code host: each file that they name has a page there.

A Markdown file is a page as it is, any other a page of its text. A link whose text is the name of a function of the
file leads to its line, and may be broken at each underscore.
"""

import re
from os.path import relpath
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
LINK = re.compile(r"\]\(([^)#:\s]+)\)")
TO_SOURCE = re.compile(r'(href="[^"#]*source/([^"#]+)\.html)("><code>)(\w+)</code>')
IN_THE_MENU = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    files.append(File.generated(config, "index.md", abs_src_path=str(ROOT / "README.md")))  # one source for both
    for name in IN_THE_MENU:
        files.append(_page_of(ROOT / name, config))
    for page in files.documentation_pages():
        for target in LINK.findall(page.content_string):
            linked = _moved(page, target)
            if (
                linked is not None
                and not linked.is_relative_to(DOCS)
                and files.get_file_from_path(_on_site(linked)) is None
            ):
                files.append(_page_of(linked, config))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    def on_site(found: re.Match[str]) -> str:
        linked = _moved(page.file, found[1])
        return found[0] if linked is None else f"]({relpath(_on_site(linked), Path(page.file.src_uri).parent)})"

    return LINK.sub(on_site, markdown)


def on_page_content(html: str, **_: Any) -> str:
    def to_line(found: re.Match[str]) -> str:
        start, file, between, name = found.groups()
        return f"{start}{_line(ROOT / file, name)}{between}{name.replace('_', '_<wbr>')}</code>"

    return TO_SOURCE.sub(to_line, html)


def _moved(page: File, target: str) -> Path | None:
    """The file of the repository that a link of the page means, unless it stands on the site as it does beside it."""
    if page.abs_src_path is None:
        return None
    source = Path(page.abs_src_path)
    file = (source.parent / target).resolve()
    both_in_docs = file.is_relative_to(DOCS) and source.is_relative_to(DOCS)
    return file if file.is_file() and file.is_relative_to(ROOT) and not both_in_docs else None


def _on_site(file: Path) -> str:
    if file.is_relative_to(DOCS):
        return file.relative_to(DOCS).as_posix()
    name = file.relative_to(ROOT).as_posix()
    return "index.md" if name == "README.md" else name if name.endswith(".md") else f"source/{name}.md"


def _page_of(file: Path, config: MkDocsConfig) -> File:
    name = file.relative_to(ROOT).as_posix()
    if file.suffix == ".md":
        return File(name, str(ROOT), config.site_dir, config.use_directory_urls)
    language = "python" if file.suffix == ".py" else "text"
    front = "---\nsearch:\n  exclude: true\nhide: [toc]\n---\n"
    text = f"{front}# `{name}`\n\n~~~~{language}\n{file.read_text()}~~~~\n"
    return File.generated(config, _on_site(file), content=text)


def _line(file: Path, name: str) -> str:
    """The anchor of the function or class of this name, if the file has one."""
    source = file.read_text()
    start = re.search(rf"^(?:def|class) {name}\b", source, re.MULTILINE)
    return "" if start is None else f"#__codelineno-0-{source.count(chr(10), 0, start.start()) + 1}"
