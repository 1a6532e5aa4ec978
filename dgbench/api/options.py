"""Read keyword arguments as the options of a command, and word errors in their names."""

from __future__ import annotations

import inspect
import numbers
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dgbench.core.errors import Problems, UserError
from dgbench.core.setting import FIELD_NAMES
from dgbench.core.wording import shorten, unknown_name, with_article
from dgbench.plan.grid import flatten
from dgbench.plan.options import OPTIONS, Groups, Option

_FLAG = re.compile(r"(?<![\w-])--(\w+)")
_MORE = ("algorithm", "dataset", "test", "output_dir", "sweep", "draws")
"""Names of flags, besides those of options, that are names of arguments too."""


def read_options(given: Mapping[str, Any], groups: Groups, tables: Sequence[str] = ("setting",)) -> dict[str, Any]:
    """Check the names and types of keyword arguments.

    Args:
        given: Name -> value: options, fields of `Setting`, and `tables`; None stands for no value.
        groups: The options of the command that does the same.
        tables: Further names, of tables of a sweep file, whose values are mappings.

    Returns:
        Option -> value as `launchers.values` takes it; fields of `Setting` without an option are in `setting`.

    Raises:
        UserError: Names are unknown or values of the wrong type; all are listed.
    """
    options = {option.name: option for own in groups.values() for option in own}
    problems, found, fields = Problems(), dict[str, Any](), dict[str, Any]()
    for name, value in given.items():
        if value is None:
            continue
        with problems.collecting():
            if name in options:
                found[name] = _converted(options[name], value)
            elif name in tables:
                found[name] = _mapping(name, value)
            elif name in FIELD_NAMES and name not in OPTIONS:
                fields[name] = value
            else:
                raise UserError(unknown_name("argument", name, sorted({*options, *tables, *FIELD_NAMES})))
    problems.raise_if_any()
    if fields:
        found["setting"] = {**found.get("setting", {}), **fields}
    return found


def _converted(option: Option, value: Any) -> Any:
    """Return a value in the form that its flag has; raise UserError if it is of another type."""
    if option.choices and value not in option.choices and not (option.alone and isinstance(value, bool)):
        raise UserError(unknown_name(f"value of {option.name}", shorten(str(value), 100), option.choices))
    if isinstance(value, bool):
        if option.alone:
            return option.alone if value else ""
        if option.type is not bool:
            raise _unfit(option, value)
        # A flag that isn't given is None; only settings, whose presets may say yes, tell no from nothing.
        return value if value or option.part == "setting" else None
    if option.name in ("set", "grid") and isinstance(value, Mapping):
        values = flatten(value) if option.name == "grid" else {name: [str(item)] for name, item in value.items()}
        return [f"{name}={','.join(texts)}" for name, texts in values.items()]
    if option.type is dict:
        return value if isinstance(value, str) else _mapping(option.name, value)
    if option.type is list:
        return _words(option, value)
    if option.type is Path and isinstance(value, str | os.PathLike):
        return os.fspath(value)
    if option.type is int and isinstance(value, numbers.Integral):
        return int(value)
    if option.type is float and isinstance(value, numbers.Real):
        return float(value)
    if option.type is str and isinstance(value, str):
        return value
    raise _unfit(option, value)


def _words(option: Option, value: Any) -> list[str]:
    """Return one or several words as the list that a flag of several words has."""
    several = value if isinstance(value, list | tuple | range) else [value]
    for item in several:
        if not isinstance(item, str | os.PathLike | numbers.Integral) or isinstance(item, bool):
            raise UserError(f"{option.name} is a list of names, {shorten(repr(item), 100)} is none")
    return [os.fspath(item) if isinstance(item, os.PathLike) else str(item) for item in several]


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{name} is a dict by name, not {shorten(repr(value), 100)}")
    return dict(value)


def _unfit(option: Option, value: object) -> UserError:
    kind = "path" if option.type is Path else option.type.__name__
    return UserError(f"{option.name} is {with_article(kind)}, not {shorten(repr(value), 100)}")


@contextmanager
def in_words_of_python() -> Iterator[None]:
    """Word the flags in problems of a `UserError` as arguments: `--steps` is `steps`; quoted commands stay."""
    try:
        yield
    except UserError as error:
        raise UserError(*map(_as_argument, error.problems)) from None


def _as_argument(problem: str) -> str:
    parts = problem.split("`")
    for place in range(0, len(parts), 2):  # the others stand between backticks
        parts[place] = _FLAG.sub(_name, parts[place])
    return "`".join(parts)


def _name(flag: re.Match[str]) -> str:
    name = flag[1]
    return name if name in OPTIONS or name in _MORE else flag[0]


def with_options(function: Callable[..., Any], groups: Groups, leave_out: Sequence[str] = ()) -> None:
    """Show the options of a function of `**options` in its signature, for completion in notebooks."""
    kept = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    names = [option.name for own in groups.values() for option in own if option.name not in leave_out]
    taken = {parameter.name for parameter in kept}
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in names if name not in taken
    ]
    rest = [p for p in inspect.signature(function).parameters.values() if p.kind is p.VAR_KEYWORD]
    vars(function)["__signature__"] = inspect.Signature([*kept, *more, *rest])
