"""The first sentence of each docstring says what the thing does or is, to a reader who has never seen the project.

The form (a summary line, sections of Google style) is ruff's to hold; this holds the openings that make riddles.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.places import ROOT

RIDDLES = re.compile(r"\b(who|what|nobody|somebody|told|said|asked|here)\b", re.IGNORECASE)
"""Words that stand for something which the reader doesn't know yet."""
FILES = sorted(
    path.relative_to(ROOT)
    for folder in ("dgbench", "examples", "docs/_pages")
    for path in (ROOT / folder).rglob("*.py")
)


def first_sentences(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, first sentence) of the docstrings of a module: its own, and those of its classes and functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                yield getattr(node, "lineno", 1), re.split(r"(?<=[.:])\s", docstring)[0]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_first_sentences_are_no_riddles(path: Path) -> None:
    found = [
        f"{path}:{line}: {sentence}"
        for line, sentence in first_sentences((ROOT / path).read_text())
        if RIDDLES.search(re.sub(r"`[^`]*`", "", sentence))
    ]
    assert not found, "\n".join(found)


def test_a_riddle_is_found() -> None:
    source = '"""What is told of rows."""\ndef f(x):\n    """Whatever it was: here. Return it."""\n'
    assert [sentence for _, sentence in first_sentences(source) if RIDDLES.search(sentence)] == [
        "What is told of rows."
    ]
