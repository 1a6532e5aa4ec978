"""Types and limits of values, declared beside the fields that they hold for, and the words for what breaks them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from dgbench.core.wording import format_value, with_article

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
_INTERVAL = re.compile(rf"(?P<open>[\[(])(?P<low>{NUMBER}), (?P<high>{NUMBER}|inf)(?P<close>[\])])")
_TYPES: dict[str, Any] = {"bool": bool, "int": int, "float": int | float, "number": int | float, "str": str}


_LARGEST = 2**63 - 1
"""Runs are hashed and stored as JSON, whose integers have 64 bits."""


@dataclass(frozen=True)
class Limit:
    """A condition on the values of a field, beyond their type."""

    allows: Callable[[Any], bool]
    words: str
    """The message between the field's name and a value that breaks it: `must be at least 1`."""


@cache
def interval(text: str) -> Limit:
    """Make the limit of numbers to an interval: `[0, 1)`, `(0, inf)`."""
    match = _INTERVAL.fullmatch(text)
    assert match, f"write the interval {text!r} as '[0, 1)' or '(0, inf)'"
    low, high = float(match["low"]), float(match["high"])
    opened, closed = match["open"] == "[", match["close"] == "]"

    def allows(value: float) -> bool:
        return (low <= value if opened else low < value) and (value <= high if closed else value < high)

    at_least = f"must be {'at least' if opened else 'above'} {match['low']}"
    return Limit(allows, at_least if match["high"] == "inf" else f"must lie in {text}")


def one_of(options: tuple[Any, ...]) -> Limit:
    """Make the limit to values that can be listed; 1 is not True, nor, where options are ints, 1.0."""

    def allows(value: object) -> bool:
        return any(value == option and has_type(value, type(option).__name__) for option in options)

    return Limit(allows, f"is one of {', '.join(map(str, options))}")


def has_type(value: object, kind: str) -> bool:
    """Test whether a value is of a type by name: an int is a fine float, a bool is no number; other names are any."""
    return kind not in _TYPES or (isinstance(value, _TYPES[kind]) and isinstance(value, bool) == (kind == "bool"))


def find_problem(value: object, kind: str, limits: Iterable[Limit]) -> str | None:
    """Describe the problem with a value, to be read behind its name: `is a float, not 'fast'`; None if it is fine."""
    if not has_type(value, kind):
        return f"is {with_article(kind)}, not {format_value(value)}"
    if isinstance(value, int) and abs(value) > _LARGEST:
        return f"must fit in 64 bits, not {format_value(value)}"
    return next((f"{limit.words}, not {format_value(value)}" for limit in limits if not limit.allows(value)), None)
