"""Words that many messages share: articles, the nearest name, ranges, times."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Hashable, Iterable
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 100, 100


def format_value(value: object) -> str:
    """Write a value as Python would, cut where it is long or deep: it may be anything that a file holds."""
    return _SHORT.repr(value)


def shorten(text: str, most: int = 1_500) -> str:
    """Cut the middle of a text that is longer than `most` characters, and say how much is gone."""
    head, tail = most * 2 // 3, most // 3
    return text if len(text) <= most else f"{text[:head]} [... {len(text) - head - tail:,} more ...] {text[-tail:]}"


def with_article(noun: str) -> str:
    """`a float`, `an int`."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def unknown_name(what: str, name: str, options: Iterable[str]) -> str:
    """Word the message for an unknown name, with the nearest that exists."""
    options = sorted(options)
    by_lower = {option.lower(): option for option in options}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    if near:
        return f"unknown {what} {name!r}: did you mean {by_lower[near[0]]!r}?"
    return f"unknown {what} {name!r}: there are {', '.join(options) or 'none'}"


def group_values(pairs: Iterable[tuple[K, V]]) -> dict[K, list[V]]:
    """Group the values of (key, value) pairs by key, in the order of first occurrence.

    >>> grouped([("ok", "SAM"), ("slow", "HGP"), ("ok", "ERM")])
    {'ok': ['SAM', 'ERM'], 'slow': ['HGP']}
    """
    found: dict[K, list[V]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found


def format_duration(seconds: float) -> str:
    """Write seconds as minutes and seconds, with hours where there are any.

    >>> clock(75), clock(3675)
    ('1:15', '1:01:15')
    """
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def format_ranges(numbers: Iterable[int]) -> str:
    """Numbers in short.

    >>> ranges([0, 1, 2, 5])
    '0-2, 5'
    """
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, part)) for part in parts)


def printable(text: str) -> str:
    """Escape the unprintable characters of a text: control characters, and bytes of a file's name that are no UTF-8.

    >>> printable("caf\\udce9\\n\\x1b[31mred")
    'caf\\\\xe9\\\\n\\\\x1b[31mred'
    """
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def printable_lines(text: str) -> str:
    """Escape the unprintable characters of a text, but for its line ends."""
    return "\n".join(map(printable, text.split("\n")))


def _escaped(char: str) -> str:
    # Python reads a byte 0xE9 that it can't decode as the lone surrogate U+DCE9.
    return f"\\x{ord(char) - 0xDC00:02x}" if "\udc80" <= char <= "\udcff" else char.encode("unicode_escape").decode()
