"""Formulas become MathML while the site is built, so that no page loads a script to show them."""

import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(html: str, **_: Any) -> str:
    return FORMULA.sub(lambda found: convert(found[2], display="block" if found[1] == "div" else "inline"), html)
