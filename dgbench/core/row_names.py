"""Read and write the names of rows: words joined by `+`, each with values of hyperparameters of its own if it has any.

`SAM:rho=0.1,lr=0.001+SWAD` has the words `SAM`, with two values, and `SWAD`, with none. A shell takes such a name
without quotes. Whether words and values exist is decided by the catalogue.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from dgbench.core.errors import Problems
from dgbench.core.space import Value
from dgbench.core.wording import shorten

_JOINT = re.compile(r"\+(?!\d)")
"""What joins words. No name begins with a digit, so `+` before one is part of a number: `1e+3`."""


def split_name(name: str) -> list[tuple[str, str | None]]:
    """Split the name of a row into its words, each with the text of its values, or None without.

    >>> split_name("SAM:rho=0.1+SWAD")
    [('SAM', 'rho=0.1'), ('SWAD', None)]
    """
    parts = (part.partition(":") for part in _JOINT.split(name))
    return [(word, text if colon else None) for word, colon, text in parts]


def words_of(name: str) -> list[str]:
    """Return the words of a row's name without their values."""
    return [word for word, _ in split_name(name)]


def read_assignments(text: str, where: str) -> dict[str, str]:
    """Split `rho=0.1,lr=0.001` into name -> text of its value.

    Args:
        text: The values of a word, at least one.
        where: The word, for messages.

    Raises:
        UserError: A part has another form, or a name has two values.
    """
    problems, found = Problems(), dict[str, str]()
    for part in text.split(","):
        name, _, value = part.partition("=")
        if not (name and value):
            problems.add(f"{shorten(where, 100)!r}: write NAME=VALUE behind the colon, not {shorten(part, 100)!r}")
        elif name in found:
            problems.add(f"{shorten(where, 100)!r} gives {name} twice: {found[name]} and {value}")
        found.setdefault(name, value)
    problems.raise_if_any()
    return found


def join_word(word: str, values: Mapping[str, Value], floats: Collection[str] = ()) -> str:
    """Return a word with its values, of which each has one way to be written.

    Args:
        word: The word.
        values: Its values; empty: none.
        floats: Names of the values that are always floats, and need no `.0` to tell.

    Raises:
        UserError: A text has characters by which names are split.

    >>> join_word("SAM", {"rho": 1.0, "lr": 1e22}, {"rho", "lr"})
    'SAM:rho=1,lr=1e22'
    """
    problems, texts = Problems(), dict[str, str]()
    for name, value in values.items():
        texts[name] = _text_of(value).removesuffix(".0") if name in floats else _text_of(value)
        if not texts[name] or "," in texts[name] or _JOINT.search(texts[name]):
            shown = shorten(texts[name], 100)
            problems.add(f"{name} {shown!r} can't stand in a row's name: give it by --set {word}.{name}=")
    problems.raise_if_any()
    return f"{word}:{','.join(f'{name}={text}' for name, text in texts.items())}" if texts else word


def _text_of(value: object) -> str:
    """Return the text of a value that `read_value` reads."""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value).replace("e+", "e") if isinstance(value, float) else str(value)


def read_value(text: str, kind: str = "", options: Sequence[Any] = ()) -> Any:
    """Convert a text to the type of a value, or leave it as it is if it doesn't fit.

    Args:
        text: The text.
        kind: `bool`, `int`, `float`, `str`, or `number` for a float that may be an int; empty: whatever JSON reads.
        options: The values that exist, of which a text may name one; empty: any.
    """
    for option in options:
        if text.lower() == str(option).lower():
            return option
    if not kind and not options:  # a class of another suite may take any name
        with suppress(ValueError):
            return json.loads(text)
        return text
    readers = {"int": (int,), "float": (float,), "number": (int, float)}.get(kind, ())
    for reader in readers:
        with suppress(ValueError):
            return reader(text)
    return {"true": True, "false": False}.get(text.lower(), text) if kind == "bool" else text
