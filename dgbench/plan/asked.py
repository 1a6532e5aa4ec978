"""Give the rules of planning one request on one data set, with the entries and draws that it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from typing import Any

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.entry import CatalogueEntry
from dgbench.catalogue.rows import Row
from dgbench.core.errors import UserError
from dgbench.core.setting import Setting
from dgbench.core.space import Value
from dgbench.data.facts import DatasetFacts
from dgbench.plan.request import Request, Values, setting_of


@dataclass(frozen=True)
class Asked:
    """One request restricted to one data set, with the setting resolved: the input of every rule of `refusals`."""

    request: Request
    facts: DatasetFacts
    setting: Setting
    catalogue: Catalogue
    values: Values

    def algorithm(self, row: Row) -> CatalogueEntry:
        """Return the entry of a row's algorithm."""
        return self.catalogue.get("algorithm", row.algorithm)

    def setting_of(self, entry: CatalogueEntry) -> Setting:
        """Return the setting of an entry's runs, of which an algorithm may decide some fields."""
        return setting_of(entry.card, self.setting) if entry.kind == "algorithm" else self.setting

    def settings(self) -> dict[Setting, None]:
        """Return the settings of all rows' runs, each once."""
        return dict.fromkeys(self.setting_of(self.algorithm(row)) for row in self.request.rows)

    def of_domains(self) -> list[CatalogueEntry]:
        """Return the entries that may need several training domains: each row's algorithm, and its analysis."""
        rows = self.request.rows
        analyses = dict.fromkeys(row.analysis for row in rows if row.analysis)
        return [*map(self.algorithm, rows), *(self.catalogue.get("analysis", name) for name in analyses)]

    def entries(self) -> list[CatalogueEntry]:
        """Return the entries that the rows are made of, each once."""
        names = dict.fromkeys(entry for row in self.request.rows for entry in row.entries)
        return [self.catalogue.get(kind, name) for kind, name in names]

    def mergers(self) -> list[tuple[Row, Any]]:
        """Return (row, card of its merger) for each row that merges."""
        return [(row, self.catalogue.get("merger", row.merger).card) for row in self.request.rows if row.merger]

    def draw(self, entry: CatalogueEntry) -> list[Mapping[str, Value]]:
        """Return an entry's hyperparameters in each draw; raise UserError at the first draw with invalid values."""
        draws = product(self.request.hparams_seeds, dict.fromkeys(map(self.request.drawn_in, self.request.trials)))
        resolve = self.values(entry.kind, entry.name, self.facts.name, self.setting)
        return [resolve(seed, trial).hparams for seed, trial in draws]

    def drawn(self, entry: CatalogueEntry) -> list[Mapping[str, Value]]:
        """Return the same, or none if any values are invalid, which `_invalid_values` reports."""
        with suppress(UserError):
            return self.draw(entry)
        return []
