"""Examine a class at hand, such as one that a notebook or a test defines, instead of an entry of the catalogue."""

from __future__ import annotations

from dataclasses import dataclass, fields
from types import FunctionType
from typing import Any

import torch

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.entry import CatalogueEntry
from dgbench.catalogue.index import entry_of_class
from dgbench.conformance.rehearsal import Subject
from dgbench.core.errors import UserError
from dgbench.core.machine import open_device


@dataclass(frozen=True)
class ClassEntry(CatalogueEntry):
    """An entry whose class is at hand, wherever it was defined."""

    cls: Any
    """The class."""

    def load(self) -> Any:
        """Return the class."""
        return self.cls


def subject_of(algorithm: type | str, device: str) -> Subject:
    """Return the subject that an algorithm is examined as.

    Args:
        algorithm: A class, or the name of an entry of the catalogue.
        device: A name of `--device`.

    Raises:
        UserError: There is no such algorithm or device, or the class has no card.
    """
    where = torch.device(open_device(device))
    if isinstance(algorithm, str):
        return Subject(Catalogue().get("algorithm", algorithm), where)
    if not isinstance(algorithm, type):
        raise UserError(f"{algorithm!r} is neither a class nor the name of an algorithm")
    found = entry_of_class(algorithm, file_of(algorithm))
    if found is None or found.kind not in ("algorithm", "rule"):
        raise UserError(f"{algorithm.__name__} is no algorithm: it does not extend dgbench.Algorithm")
    values = {field.name: getattr(found, field.name) for field in fields(found)}
    return Subject(ClassEntry(**values, cls=algorithm), where)


def file_of(cls: type) -> str:
    """Return the name of the file or notebook cell that defines a class, as tracebacks have it; empty if unknown."""
    own = (value for value in vars(cls).values() if isinstance(value, FunctionType))
    return next((function.__code__.co_filename for function in own), "")
