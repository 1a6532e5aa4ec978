"""A method's docstring as Markdown: its summary, its text with formulas, and its sections by title."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

_TITLE = re.compile(r"(?P<title>References?|DomainBed|Departures?[^:.$]{0,60}): ?(?P<rest>.*)")
_SPECIAL = re.compile(r"[\\*_|$<&\[]")
_ENTITIES = {"<": "&lt;", "&": "&amp;", "[": "&#91;"}


@dataclass(frozen=True)
class Doc:
    """The parts of a docstring, each of them Markdown."""

    summary: str
    text: str = ""
    """All between the summary and the first section: the formula, and what its symbols are."""
    sections: dict[str, str] = field(default_factory=dict)
    """Title (`Reference`, `Departures from the paper`) -> text."""

    @property
    def whole(self) -> str:
        """The summary and the text."""
        return f"{self.summary}\n\n{self.text}".strip()


def parse(docstring: str) -> Doc:
    """Split a docstring at its titles; the text is taken for Markdown if it has a formula or a `Reference:`."""
    cleaned = inspect.cleandoc(docstring)
    first, _, rest = cleaned.partition("\n\n")
    is_markdown = "$$" in cleaned or re.search(r"^References?:", cleaned, re.MULTILINE)
    titles = {"": list[str]()}
    title, in_formula = "", False
    for line in rest.splitlines():
        in_formula ^= line.strip() == "$$"
        match = None if in_formula else _TITLE.fullmatch(line)
        if match:
            title, line = match["title"], match["rest"]
        titles.setdefault(title, []).append(line)
    as_markdown = {title: inspect.cleandoc("\n".join(lines)).strip() for title, lines in titles.items()}
    shown = _listed if is_markdown else escaped
    as_markdown = {title: shown(text) for title, text in as_markdown.items()}
    text = as_markdown.pop("")
    return Doc(inline(" ".join(first.split())), text, as_markdown)


def _listed(text: str) -> str:
    """Put the empty line before a list that Markdown demands and docstrings often leave out."""
    return re.sub(r"^((?![-*] |  ).+)\n(?=[-*] )", r"\1\n\n", text, flags=re.MULTILINE)


def escaped(text: str) -> str:
    """Return Markdown that shows the text as it is, but for code between backticks."""
    pieces = text.split("`")
    if len(pieces) % 2 == 0:  # a backtick without a partner
        pieces = ["\\`".join(pieces)]
    pieces[::2] = [_SPECIAL.sub(lambda match: _ENTITIES.get(match[0], f"\\{match[0]}"), piece) for piece in pieces[::2]]
    return "`".join(pieces)


def inline(text: str) -> str:
    """Return one line of plain text as Markdown, for a cell of a table too."""
    return escaped(" ".join(text.split()))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """Format a table of Markdown cells, in which no bare `|` may stand.

    Args:
        head: The titles of the columns.
        rows: The cells, as many a row as there are titles.
        kind: A class of assets/site.css: `facts`, `hparams` or `sortable`.
    """
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ("---",) * len(head), *rows)]
    return "\n".join([f'<div class="{kind}" markdown>', "", *lines, "", "</div>"] if kind else lines)


def indented(text: str) -> str:
    """Return Markdown as the content of an admonition."""
    return textwrap.indent(text, "    ")
