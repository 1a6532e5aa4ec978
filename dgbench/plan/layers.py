"""Stack changes of settings and hyperparameters: those of a preset, of the sweep so far, and of a launch.

A layer says what holds everywhere and what holds on single data sets. Within a layer the data set's own value wins. Of
two layers the upper one wins: `--steps 100` also replaces the steps that a preset has for VLCS alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.presets import TABLES, read_preset
from dgbench.core.space import Draw
from dgbench.plan.request import Overrides


@dataclass(frozen=True)
class Changes:
    """Values in place of those below them, for all data sets or for one."""

    setting: Mapping[str, Any] = field(default_factory=dict)
    """Field of the setting -> value."""
    overrides: Overrides = field(default_factory=Overrides)
    """Changes to hyperparameters."""

    @property
    def names(self) -> frozenset[str]:
        """Names of all values: `steps`, `lr`, and `SAM.rho` for those of one entry."""
        own = (f"{entry}.{name}" for entry, values in self.overrides.parts.items() for name in values)
        return frozenset((*self.setting, *self.overrides.fixed, *self.overrides.draws, *own))

    def without(self, names: frozenset[str]) -> Changes:
        """Return the changes without those values; a name such as `rho` also removes each entry's `rho`."""
        parts = {
            entry: kept
            for entry, values in self.overrides.parts.items()
            if (kept := {n: value for n, value in values.items() if n not in names and f"{entry}.{n}" not in names})
        }
        return Changes(
            _without(self.setting, names),
            Overrides(_without(self.overrides.fixed, names), parts, _without(self.overrides.draws, names)),
        )

    def over(self, below: Changes) -> Changes:
        """Return these changes and those of `below` that they don't replace."""
        low = below.without(self.names)
        return Changes({**low.setting, **self.setting}, low.overrides.joined_with(self.overrides))


def _without(values: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


Layer: TypeAlias = Mapping[str, Changes]
"""Data set -> its own changes; `EVERYWHERE` -> those that hold for all."""
EVERYWHERE = ""


def everywhere(layer: Layer) -> Changes:
    """Return the changes of a layer that hold for all data sets."""
    return layer.get(EVERYWHERE, Changes())


def stack(below: Layer, above: Layer) -> dict[str, Changes]:
    """Return the layer that has the values of two: the upper one's, and those of the lower that it doesn't replace."""
    said = everywhere(above).names
    return {
        name: above.get(name, Changes()).over(below.get(name, Changes()).without(said))
        for name in dict.fromkeys((EVERYWHERE, *below, *above))
    }


def changes_on(layer: Layer, dataset: str) -> Changes:
    """Return the changes of a layer that hold on a data set."""
    return layer.get(dataset, Changes()).over(everywhere(layer))


def split_by_dataset(tables: Mapping[str, Any], catalogue: Catalogue) -> dict[str, dict[str, dict[str, Any]]]:
    """Take the tables of data sets out of the tables of a sweep file or a preset.

    Args:
        tables: Name in `TABLES` -> its content; other names are left out.
        catalogue: Knows which names are data sets'.

    Returns:
        Data set, or `EVERYWHERE` -> the three tables with its own values.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {EVERYWHERE: {table: {} for table in TABLES}}
    for table in TABLES:
        for name, value in tables.get(table, {}).items():
            if isinstance(value, Mapping) and is_dataset(name, catalogue):
                found.setdefault(name, {each: {} for each in TABLES})[table] = dict(value)
            else:
                found[EVERYWHERE][table][name] = value
    return found


def is_dataset(name: str, catalogue: Catalogue) -> bool:
    """Return whether a name is that of a data set, such as `PACS` or `folder:birds`."""
    entry = catalogue.entries.get(name.partition(":")[0])
    return entry is not None and entry.kind == "dataset"


def layer_of_preset(preset: str, catalogue: Catalogue) -> dict[str, Changes]:
    """Return the changes of a preset beside its setting for all data sets, which `PRESETS` has."""
    found = split_by_dataset(read_preset(preset).tables, catalogue)
    found[EVERYWHERE]["setting"] = {}
    return {name: Changes(own["setting"], _overrides(own["hparams"], own["space"])) for name, own in found.items()}


def overrides_of_preset(preset: str, dataset: str) -> Overrides:
    """Return the changes to hyperparameters that a preset has on a data set; needs no catalogue.

    Among those of entries stand tables of other data sets, which no entry reads.
    """
    hparams, space = (read_preset(preset).tables[name] for name in ("hparams", "space"))
    draws = {name: text for name, text in space.items() if isinstance(text, str)}
    usual = Changes({}, _overrides({name: own for name, own in hparams.items() if name != dataset}, draws))
    return Changes({}, _overrides(hparams.get(dataset, {}), space.get(dataset, {}))).over(usual).overrides


def _overrides(hparams: Mapping[str, Any], space: Mapping[str, str]) -> Overrides:
    """Return the changes to hyperparameters that tables of a preset declare; its test has checked them."""
    parts = {name: value for name, value in hparams.items() if isinstance(value, Mapping)}
    fixed = {name: value for name, value in hparams.items() if name not in parts}
    return Overrides(fixed, parts, {name: Draw.parse(text) for name, text in space.items()})
