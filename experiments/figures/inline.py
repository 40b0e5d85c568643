"""Figures as elements of a page: SVG whose text is text, in the page's own colours."""

from __future__ import annotations

import html
import io
import re
from typing import Any

import matplotlib.pyplot as plt


def inline(figure: Any, name: str, label: str) -> str:
    """A figure as an SVG element; black becomes the colour of the page's text, white that of the page.

    Args:
        figure: of matplotlib, drawn in the style of the figures (text stays text); it is closed.
        name: prefix of the ids in it, which have to be unique in a page.
        label: what a screen reader says.
    """
    content = io.StringIO()
    figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    text = content.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    # a rule for everything in it would be one for the whole page
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.S)
    used = set(re.findall(r"""(?:href="#|url\(#)([^")]+)""", text))
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r"""(href="#|url\(#)([^")]+)""", lambda m: f"{m[1]}{name}-{m[2]}", text)
    for black, white in (("#000000", "#ffffff"), ("black", "white")):
        text = re.sub(rf"((?:fill|stroke): ){black}\b", r"\1currentColor", text)
        text = re.sub(rf"((?:fill|stroke): ){white}\b", r"\1var(--paper, #fff)", text)
    return re.sub(r"<svg ", f'<svg class="figure" role="img" aria-label="{html.escape(label)}" ', text, count=1)
