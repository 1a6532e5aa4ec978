"""Frozen dataclasses from plain JSON, whose arrays are tuples here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def revive(cls: type[T], data: Mapping[str, Any]) -> T:
    """A dataclass of scalars and arrays from its fields as JSON gave them."""
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in data.items()})
