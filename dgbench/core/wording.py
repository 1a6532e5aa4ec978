"""Format pieces that many messages share: articles, nearest names, ranges, durations, unprintable text."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


_DURATION = re.compile(
    r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", re.ASCII
)
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 100, 100


def format_value(value: object) -> str:
    """Return `repr(value)`, cut where it is long or deeply nested, as a value from a user's file may be."""
    return _SHORT.repr(value)


def shorten(text: str, most: int = 1_500) -> str:
    """Cut the middle out of a text longer than `most` characters, and write how many are gone."""
    head, tail = most * 2 // 3, most // 3
    return text if len(text) <= most else f"{text[:head]} [... {len(text) - head - tail:,} more ...] {text[-tail:]}"


def with_article(noun: str) -> str:
    """Put the indefinite article before a noun: `a float`, `an int`, `an AlgorithmCard`."""
    return f"{'an' if noun[0] in 'aeiouAEIOU' else 'a'} {noun}"


def count_nouns(number: int, noun: str) -> str:
    """Put a number before a noun, in the plural unless it is 1.

    >>> count_nouns(1, "run"), count_nouns(1200, "run")
    ('1 run', '1,200 runs')
    """
    return f"{number:,} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """Return the plural of a regular noun.

    >>> plural("run"), plural("class")
    ('runs', 'classes')
    """
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def unknown_name(what: str, name: str, options: Iterable[str], hint: str = "") -> str:
    """Return the message for an unknown name, with the nearest that exists, or with all of them if none is near.

    Args:
        what: The kind of name: `data set`, `hyperparameter of ERM`.
        name: As typed.
        options: All names that exist.
        hint: Advice for where none is near; empty: none.
    """
    options = sorted(options)
    by_lower = {option.lower(): option for option in options}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    if near:
        return f"unknown {what} {name!r}: did you mean {by_lower[near[0]]!r}?"
    # Before the names, after which it would be overlooked: there may be a hundred.
    return f"unknown {what} {name!r}: {hint and hint + '; '}there are {', '.join(options) or 'none'}"


def group_values(pairs: Iterable[tuple[K, V]]) -> dict[K, list[V]]:
    """Group the values of (key, value) pairs by key, in the order of first occurrence.

    >>> group_values([("ok", "SAM"), ("slow", "HGP"), ("ok", "ERM")])
    {'ok': ['SAM', 'ERM'], 'slow': ['HGP']}
    """
    found: dict[K, list[V]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found


def format_scalars(values: Mapping[str, float]) -> str:
    """Format named numbers with four digits.

    >>> format_scalars({"loss": 0.123456, "accuracy": 1.0})
    'loss 0.1235, accuracy 1'
    """
    return ", ".join(f"{printable(name)} {value:.4g}" for name, value in values.items())


def format_duration(seconds: float) -> str:
    """Format seconds as minutes and seconds, with hours where there are any.

    >>> format_duration(75), format_duration(3675)
    ('1:15', '1:01:15')
    """
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def format_bytes(number: float) -> str:
    """Format a size: `12.3 MB`, and in GB from a tenth of one."""
    return f"{number / 1e9:,.1f} GB" if number >= 1e8 else f"{number / 1e6:,.1f} MB"


def parse_duration(text: str) -> float:
    """Return the seconds of a duration: a number of seconds, or numbers with the units `d`, `h`, `m` and `s`.

    Raises:
        ValueError: It is neither.

    >>> parse_duration("3h50m"), parse_duration("90")
    (13800.0, 90.0)
    """
    match = _DURATION.fullmatch(text)
    if not text or not match:
        raise ValueError(f"is a duration such as 3h50m, 45m or 90s, not {text!r}")
    return sum(float(number) * size for number, size in zip(match.groups("0"), (86400, 3600, 60, 1), strict=True))


def format_ranges(numbers: Iterable[int]) -> str:
    """Format a set of integers as sorted ranges.

    >>> format_ranges([0, 1, 2, 5])
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
    r"""Escape the unprintable characters of a text: control characters, and bytes of a file name that are not UTF-8.

    >>> printable("caf\udce9\n\x1b[31mred")
    'caf\\xe9\\n\\x1b[31mred'
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def printable_lines(text: str) -> str:
    """Escape the unprintable characters of a text but for its line ends."""
    return "\n".join(map(printable, text.split("\n")))


def _escaped(char: str) -> str:
    # Python decodes an undecodable byte 0xE9 as the lone surrogate U+DCE9; show it as the byte that it was.
    """Return the escape sequence of an unprintable character."""
    return f"\\x{ord(char) - 0xDC00:02x}" if "\udc80" <= char <= "\udcff" else char.encode("unicode_escape").decode()
