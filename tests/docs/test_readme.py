"""The documents lead somewhere; that their code runs, test_docs_blocks.py tells."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_links_lead_somewhere():
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        prose = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#:]+)\)", prose):
            assert (document.parent / target).exists(), f"{document.name} points to {target}"
