"""Write dataclasses as plain JSON and read them back: `from_plain` inverts `orjson.dumps`, guided by fields' types.

A reader is built once for each type and cached, because a sweep reads thousands of runs at every launch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cache, cached_property
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import orjson

T = TypeVar("T")


def from_plain(kind: type[T], data: Mapping[str, Any]) -> T:
    """Build a dataclass from its fields as JSON holds them, at any depth.

    Args:
        kind: The dataclass. Its fields may be dataclasses, tuples and mappings of these, and unions with scalars.
        data: Field -> value. Arrays become tuples and objects dataclasses; dataclasses stay as they are.

    Returns:
        The dataclass, with values of its fields' types. An int is accepted for a float and kept as it is.

    Raises:
        TypeError: A field is unknown or missing, or a value has another type; the message gives its place.
    """
    built: T = _builder(cast(Any, kind))(data)
    return built


def fields_of(instance: Any) -> dict[str, Any]:
    """Return field -> value of a dataclass, one level deep and without cached properties."""
    return {name: getattr(instance, name) for name in _names(cast(Any, type(instance)))}


class Canonical:
    """Base of frozen dataclasses that many runs share: each writes the JSON that ids hash once, not once a run."""

    @property
    def canonical(self) -> orjson.Fragment:
        """The instance as a part of JSON: its fields in their order, the keys of dicts sorted at every depth."""
        return self._canonical

    @cached_property
    def _canonical(self) -> orjson.Fragment:
        # The underscore keeps the value out of the JSON itself: orjson writes all attributes but those that begin so.
        return orjson.Fragment(self._write())

    def _write(self) -> bytes:
        return orjson.dumps(self, option=orjson.OPT_SORT_KEYS)

    def __getstate__(self) -> dict[str, Any]:
        # Without the fragment, which can't be pickled.
        return fields_of(self)


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(kind))


_SCALARS = (str, int, float, bool, type(None))


@cache
def _builder(kind: Any) -> Callable[[Any], Any]:
    """Return the function that turns JSON values into values of type `kind`; `_same` if any value is allowed."""
    if dataclasses.is_dataclass(kind):
        return _dataclass_builder(kind)
    if kind in _SCALARS:
        return _scalar_builder((kind,))
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return _literal_builder(parts)
    if origin is tuple and parts[-1] is Ellipsis:
        return _tuple_builder(_builder(parts[0]))
    if origin is tuple:
        return _fixed_tuple_builder([_builder(part) for part in parts])
    if origin is Mapping:
        return _mapping_builder(_builder(parts[1]))
    if origin in (Union, UnionType):
        return _union_builder(parts)
    return _same


def _scalar_builder(kinds: tuple[type, ...]) -> Callable[[Any], Any]:
    # Types are compared, not by `isinstance`: a bool is an instance of int, and `true` must not pass for a number.
    allowed = {*kinds, int} if float in kinds else set(kinds)
    words = " or ".join(kind.__name__ for kind in kinds)

    def build_scalar(value: Any) -> Any:
        if type(value) not in allowed:
            raise TypeError(f"{value!r} is not {words}")
        return value

    return build_scalar


def _literal_builder(options: tuple[Any, ...]) -> Callable[[Any], Any]:
    def build_literal(value: Any) -> Any:
        if not any(value == option and type(value) is type(option) for option in options):
            raise TypeError(f"{value!r} is none of {', '.join(map(repr, options))}")
        return value

    return build_literal


def _tuple_builder(build: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def build_tuple(values: Any) -> Any:
        return tuple(map(build, _array(values)))

    return build_tuple


def _fixed_tuple_builder(builders: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def build_tuple(values: Any) -> Any:
        if len(_array(values)) != len(builders):
            raise TypeError(f"{values!r} has {len(values)} values, not {len(builders)}")
        return tuple(build(value) for build, value in zip(builders, values, strict=True))

    return build_tuple


def _array(values: Any) -> Any:
    if not isinstance(values, list | tuple):
        raise TypeError(f"{values!r} is not an array")
    return values


def _mapping_builder(build: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def build_mapping(values: Any) -> Any:
        if not isinstance(values, Mapping):
            raise TypeError(f"{values!r} is not an object")
        return {key: _at(str(key), build, value) for key, value in values.items()}

    return build_mapping


def _union_builder(parts: tuple[Any, ...]) -> Callable[[Any], Any]:
    scalars = tuple(part for part in parts if part in _SCALARS)
    others = [part for part in parts if part not in _SCALARS]
    build_scalar = _scalar_builder(scalars)
    if not others:
        return build_scalar
    (other,) = others  # of two non-scalars, JSON doesn't say which it holds, so such unions are not supported
    build_other = _builder(other)
    return lambda value: build_scalar(value) if type(value) in _SCALARS else build_other(value)


def _dataclass_builder(kind: Any) -> Callable[[Any], Any]:
    hints = get_type_hints(kind)
    builders = {f.name: _builder(hints[f.name]) for f in dataclasses.fields(kind)}

    def build_dataclass(data: Any) -> Any:
        if isinstance(data, kind):
            return data
        if not isinstance(data, Mapping):
            raise TypeError(f"{kind.__name__} is made from an object, not from {data!r}")
        return kind(**{name: _at(name, builders.get(name, _same), value) for name, value in data.items()})

    return build_dataclass


def _at(place: str, build: Callable[[Any], Any], value: Any) -> Any:
    try:
        return build(value)
    except TypeError as error:
        raise TypeError(f"{place}: {error}") from None


def _same(value: Any) -> Any:
    return value
