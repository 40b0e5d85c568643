"""`make docs` builds these pages as a site, in results/site, with Sphinx. Nothing is fetched when it is read.

Sphinx fixes the names of this file's variables: https://www.sphinx-doc.org/en/master/usage/configuration.html
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import suny  # noqa: E402

project = "SUNY benchmark"
copyright = "2026, the SUNY benchmark authors"
release = version = suny.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "README"
myst_heading_anchors = 4
html_theme = "furo"
html_title = f"SUNY benchmark {release}"
html_copy_source = False
html_show_sourcelink = False

# Signatures as the source has them: resolved, a batch's shape and a tensor's long name would hide each other.
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
napoleon_use_ivar = True

_OUTSIDE = re.compile(r"\[([^\]]*)\]\(\.\./[^)]*\)")


def without_links_outside(text: str) -> str:
    """A page without its links to files of the checkout, which the site does not have.

    >>> without_links_outside("[`run.py`](../run.py), [usage](usage.md)")
    '`run.py`, [usage](usage.md)'
    """
    return _OUTSIDE.sub(r"\1", text)


def with_contents(text: str) -> str:
    """The index with what Sphinx needs for its menu: the pages of each section's table.

    >>> print(with_contents("## Start\\n\\n| [a.md](a.md) | What? |\\n"))
    ## Start
    <BLANKLINE>
    | [a.md](a.md) | What? |
    <BLANKLINE>
    <BLANKLINE>
    ```{toctree}
    :hidden:
    :caption: Start
    <BLANKLINE>
    a
    ```
    """
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        pages = re.findall(r"^\| \[\w+\.md\]\((\w+)\.md\)", section, re.MULTILINE)
        text += "\n\n```{toctree}\n:hidden:\n:caption: " + section.partition("\n")[0] + "\n\n" + "\n".join(pages) + "\n```"
    return text


def setup(app: Sphinx) -> None:
    """Sphinx calls this once before it reads the pages."""

    def read(_app: Sphinx, name: str, text: list[str]) -> None:
        text[0] = without_links_outside(with_contents(text[0]) if name == root_doc else text[0])

    app.connect("source-read", read)
