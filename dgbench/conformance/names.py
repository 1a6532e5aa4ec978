"""Find the entries that have questions of their own by name, without torch."""

from __future__ import annotations

from dgbench.catalogue.catalogue import OF_YOURS, Catalogue
from dgbench.catalogue.entry import CatalogueEntry
from dgbench.core.errors import UserError
from dgbench.core.wording import unknown_name

EXAMINED = ("algorithm", "merger", "adapter")
"""Kinds of methods that questions are put to, in the order of tables."""


def examined_entries(catalogue: Catalogue) -> dict[str, CatalogueEntry]:
    """Return all entries of the kinds that questions are put to, by name, kind by kind."""
    return {**catalogue.algorithms, **catalogue.of_kind("merger"), **catalogue.of_kind("adapter")}


def find_examined(name: str, catalogue: Catalogue) -> CatalogueEntry:
    """Return an algorithm (also with a step rule, `CORAL+SAM`), merger or adapter by name.

    Raises:
        UserError: There is none of that name.
    """
    if "+" in name:
        return catalogue.get("algorithm", name)
    found = examined_entries(catalogue)
    if name in found:
        return found[name]
    if (other := catalogue.entries.get(name)) and other.kind != "dataset":
        raise UserError(
            f"{name} is an entry of kind {other.kind}, which has no questions: name algorithms, mergers or adapters"
        )
    raise UserError(unknown_name("method", name, found, OF_YOURS))
