"""Examine a class at hand, such as one that a notebook or a test defines, instead of an entry of the catalogue."""

from __future__ import annotations

from dataclasses import dataclass, fields
from types import FunctionType
from typing import Any

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.entry import CatalogueEntry
from dgbench.catalogue.index import entry_of_class
from dgbench.conformance.names import EXAMINED, find_examined
from dgbench.core.errors import UserError


@dataclass(frozen=True)
class ClassEntry(CatalogueEntry):
    """An entry whose class is at hand, wherever it was defined."""

    cls: Any
    """The class."""

    def load(self) -> Any:
        """Return the class."""
        return self.cls


def entry_at_hand(method: type | str) -> CatalogueEntry:
    """Return the entry of an algorithm, merger or adapter.

    Args:
        method: A class, or the name of an entry of the catalogue.

    Raises:
        UserError: There is no such method, or the class has no card.
    """
    if isinstance(method, str):
        return find_examined(method, Catalogue())
    if not isinstance(method, type):
        raise UserError(f"{method!r} is neither a class nor the name of a method")
    found = entry_of_class(method, file_of(method))
    if found is None or found.kind not in (*EXAMINED, "rule"):
        raise UserError(f"{method.__name__} extends none of dgbench.Algorithm, dgbench.Merger and dgbench.Adapter")
    values = {field.name: getattr(found, field.name) for field in fields(found)}
    return ClassEntry(**values, cls=method)


def file_of(cls: type) -> str:
    """Return the name of the file or notebook cell that defines a class, as tracebacks have it; empty if unknown."""
    own = (value for value in vars(cls).values() if isinstance(value, FunctionType))
    return next((function.__code__.co_filename for function in own), "")
