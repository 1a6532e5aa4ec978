"""Find the line of an author's file that a problem is about, where no exception tells it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import suppress
from types import FunctionType

from dgbench.catalogue.entry import CatalogueEntry


def place_of(entry: CatalogueEntry, names: Sequence[str]) -> str:
    """Return `FILE:LINE, NAME` of the first of these attributes that the entry's own file defines.

    Args:
        entry: The entry.
        names: Names of methods and nested classes.

    Returns:
        The place; that of the class if its file defines none of them; empty if that isn't known either.
    """
    cls, file = entry.load(), entry.file
    for name in names:
        for owner in inspect.getmro(cls):
            if (line := _line(vars(owner).get(name), file)) is not None:
                return f"{file}:{line}, {name}"
    line = _line(cls, file)
    return "" if line is None else f"{file}:{line}, {cls.__name__}"


def _line(value: object, file: str) -> int | None:
    """Return the line at which a function or class of a file begins; None if it is of another file, or unknown."""
    if isinstance(value, FunctionType):
        return value.__code__.co_firstlineno if value.__code__.co_filename == file else None
    if isinstance(value, type):
        with suppress(OSError, TypeError):  # no source, as of a class that was made in memory
            if inspect.getsourcefile(value) == file:
                return inspect.getsourcelines(value)[1]
    return None
