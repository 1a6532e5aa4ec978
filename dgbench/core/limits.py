"""Declare types and limits of values beside the fields that they hold for, and word the message for a value outside."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from dgbench.core.wording import format_value, with_article

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
"""Regular expression of a decimal number."""
_INTERVAL = re.compile(rf"(?P<open>[\[(])(?P<low>{NUMBER}), (?P<high>{NUMBER}|inf)(?P<close>[\])])")
_TYPES: dict[str, Any] = {"bool": bool, "int": int, "float": int | float, "number": int | float, "str": str}


_LARGEST = 2**63 - 1
"""Largest integer that a run may hold: runs are hashed and stored as JSON by orjson, whose integers have 64 bits."""


@dataclass(frozen=True)
class Limit:
    """A condition on the values of a field, beyond their type."""

    allows: Callable[[Any], bool]
    """Returns whether a value meets the condition."""
    words: str
    """Text of the message between the field's name and the offending value: `must be at least 1`."""


@cache
def interval(text: str) -> Limit:
    """Return the limit of numbers to an interval, written `[0, 1)` or `(0, inf)`."""
    match = _INTERVAL.fullmatch(text)
    assert match, f"write the interval {text!r} as '[0, 1)' or '(0, inf)'"
    low, high = float(match["low"]), float(match["high"])
    opened, closed = match["open"] == "[", match["close"] == "]"

    def allows(value: float) -> bool:
        return (low <= value if opened else low < value) and (value <= high if closed else value < high)

    at_least = f"must be {'at least' if opened else 'above'} {match['low']}"
    return Limit(allows, at_least if match["high"] == "inf" else f"must lie in {text}")


def one_of(options: tuple[Any, ...]) -> Limit:
    """Return the limit to listed options. A value must have its option's type: 1 is not True, and not 1.0."""

    def allows(value: object) -> bool:
        return any(value == option and has_type(value, type(option).__name__) for option in options)

    return Limit(allows, f"is one of {', '.join(map(str, options))}")


def has_type(value: object, kind: str) -> bool:
    """Return whether `value` has the type named `kind`.

    An int passes as a float, a bool as neither. Names other than `bool`, `int`, `float`, `number` and `str` accept any
    value.
    """
    return kind not in _TYPES or (isinstance(value, _TYPES[kind]) and isinstance(value, bool) == (kind == "bool"))


def find_problem(value: object, kind: str, limits: Iterable[Limit]) -> str | None:
    """Return the problem with a value, worded to follow its name (`is a float, not 'fast'`), or None.

    Args:
        value: Any value, also one of a wrong type.
        kind: The type's name, as `has_type` takes it.
        limits: Conditions beyond the type; the first that fails is reported.
    """
    if not has_type(value, kind):
        return f"is {with_article(kind)}, not {format_value(value)}"
    if isinstance(value, int) and abs(value) > _LARGEST:
        return f"must fit in 64 bits, not {format_value(value)}"
    return next((f"{limit.words}, not {format_value(value)}" for limit in limits if not limit.allows(value)), None)
