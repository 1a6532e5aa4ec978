"""Read presets: published settings under a name, each a TOML file in `dgbench/presets/`.

A preset has the form of a sweep file, so it may hold fixed hyperparameters, search spaces, rows and numbers of trials
beside its settings. A table named after a data set, such as `[setting.PACS]`, holds for that data set alone. A preset
also says what it stands for and where each value is from.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_FOLDER = Path(__file__).parents[1] / "presets"
DEFAULT = "dgbench"
"""Name of the preset of sweeps that name none."""
TABLES = ("setting", "hparams", "space")
"""Tables of values, in presets as in sweep files."""


@dataclass(frozen=True)
class Preset:
    """A preset as its file declares it."""

    name: str
    title: str
    """What it stands for, in a few words."""
    about: str = ""
    """What a reader should know before using it."""
    unknown: tuple[str, ...] = ()
    """What could not be found out about the published runs, or can't be said in settings; a sentence each."""
    asked: Mapping[str, Any] = field(default_factory=dict)
    """Key of a sweep file -> value, for launches that give it no other: `algorithms`, `n_trials`."""
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name in `TABLES` -> its content. Tables of data sets stand in it by the data set's name."""
    source: Mapping[str, str] = field(default_factory=dict)
    """Dotted place of values, such as `setting` or `hparams.PACS.lr` -> where they are from. The longest place leading
    to a value counts.
    """

    @property
    def setting(self) -> dict[str, Any]:
        """Fields of the setting -> values, for all data sets."""
        return {name: value for name, value in self.tables["setting"].items() if not isinstance(value, Mapping)}

    def setting_on(self, dataset: str) -> dict[str, Any]:
        """Return field -> value of those fields that differ on a data set from `setting`."""
        found: dict[str, Any] = self.tables["setting"].get(dataset, {})
        return found

    def values(self) -> Iterator[tuple[str, Any]]:
        """Yield (dotted place, value) for each value that the preset gives."""
        yield from self.asked.items()
        yield from _leaves("", self.tables)

    def source_of(self, place: str) -> str:
        """Return where the value in a place is from, of the longest place that leads to it; empty: no one said."""
        parts = place.split(".")
        leading = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
        return next((self.source[found] for found in leading if found in self.source), "")


def _leaves(place: str, table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _leaves(f"{place}{name}.", value)
        else:
            yield f"{place}{name}", value


@cache
def preset_names() -> tuple[str, ...]:
    """Return the names of all presets: the default, DomainBed's, then the others by name."""
    found = sorted(file.stem for file in _FOLDER.glob("*.toml"))
    return tuple(sorted(found, key=lambda name: (name != DEFAULT, not name.startswith("domainbed-"))))


@cache
def read_preset(name: str) -> Preset:
    """Read a preset; raise KeyError if there is none of that name."""
    if name not in preset_names():
        raise KeyError(name)
    content = tomllib.loads((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    tables = {table: content.pop(table, {}) for table in TABLES}
    own = {key: content.pop(key) for key in ("title", "about", "source") if key in content}
    return Preset(name, unknown=tuple(content.pop("unknown", ())), asked=content, tables=tables, **own)
