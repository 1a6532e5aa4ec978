"""Dataclasses and plain JSON: what `orjson.dumps` made of one is read back by the types of its fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cache
from types import UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


def from_plain(kind: type[T], data: Mapping[str, Any]) -> T:
    """Build a dataclass from its fields as JSON holds them, at any depth.

    Args:
        kind: The dataclass. Its fields may be dataclasses, tuples and mappings of these, and unions with scalars.
        data: Field -> value. Arrays become tuples and objects dataclasses; dataclasses stay as they are.

    Returns:
        The dataclass; its values are not checked.

    Raises:
        TypeError: A field is unknown or missing, or a dataclass is to be made from other than an object.
    """
    built: T = _builder(cast(Any, kind))(data)
    return built


def fields_of(instance: Any) -> dict[str, Any]:
    """Return field -> value of a dataclass, as they are and without its cached properties."""
    return {f.name: getattr(instance, f.name) for f in dataclasses.fields(instance)}


@cache
def _builder(kind: Any) -> Callable[[Any], Any]:
    """Make the function from JSON's values to those of a type; `_same` where they are the same."""
    if dataclasses.is_dataclass(kind):
        return _dataclass_builder(kind)
    origin, parts = get_origin(kind), get_args(kind)
    inner = [_builder(part) for part in parts if part is not Ellipsis]
    if all(build is _same for build in inner):
        return tuple if origin is tuple else _same
    if origin is tuple and parts[-1] is Ellipsis:
        return lambda values: tuple(map(inner[0], values))
    if origin is tuple:
        return lambda values: tuple(build(value) for build, value in zip(inner, values, strict=True))
    if origin is Mapping:
        return lambda values: {key: inner[1](value) for key, value in values.items()}
    assert origin in (Union, UnionType), f"no way from JSON to a {kind}"
    (build_some,) = (build for build in inner if build is not _same)  # of two, JSON doesn't say which
    return lambda value: build_some(value) if isinstance(value, Mapping | list) else value


def _dataclass_builder(kind: Any) -> Callable[[Any], Any]:
    hints = get_type_hints(kind)
    builders = {f.name: build for f in dataclasses.fields(kind) if (build := _builder(hints[f.name])) is not _same}

    def build_dataclass(data: Any) -> Any:
        if isinstance(data, kind):
            return data
        if not isinstance(data, Mapping):
            raise TypeError(f"{kind.__name__} is made from an object, not from {data!r}")
        return kind(**{name: builders[name](value) if name in builders else value for name, value in data.items()})

    return build_dataclass


def _same(value: Any) -> Any:
    return value
