"""Hold the declaration of a sweep, the input of planning, and write and read it as `sweep.json`.

A sweep folder holds one `Declaration`. Its setting and overrides never change, and its requests grow with every launch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.rows import parse_rows
from dgbench.core.errors import Problems
from dgbench.core.halving import HALVING, RANDOM
from dgbench.core.plain import fields_of, from_plain
from dgbench.core.protocol import AllDomains, Explicit, FixedSplit, LeaveOneDomainOut, Protocol, SingleSource
from dgbench.core.setting import FIELD_NAMES, LEFT_OPEN, OF_DATASET, PRESETS, Setting, setting
from dgbench.core.site import Site
from dgbench.core.space import Draw
from dgbench.data.facts import DatasetFacts
from dgbench.plan.layers import EVERYWHERE, Changes, Layer, changes_on, overrides_of_preset
from dgbench.plan.plan import Plan
from dgbench.plan.planner import plan
from dgbench.plan.provenance import word_setting
from dgbench.plan.request import Overrides, Request
from dgbench.store.files import read_object, reading_sweep_json, write_json

FILE = "sweep.json"
"""Name of the file in the sweep's folder."""
FORMAT = 1
"""Version of the file's format."""
MEND = "remove it, and launch with the words of the first launch again: what is done stays"
"""Advice in the message about a damaged file."""
_PROTOCOLS: Mapping[str, type[Protocol]] = {
    cls.name: cls for cls in (LeaveOneDomainOut, SingleSource, AllDomains, Explicit, FixedSplit)
}
"""Name -> class of each protocol."""


@dataclass(frozen=True)
class Declaration:
    """A sweep as flags and files declare it, checked as far as that is possible without the data."""

    setting: Setting
    """Setting of all runs, before data sets fill it in."""
    overrides: Overrides
    """Changes to hyperparameters."""
    requests: tuple[Request, ...]
    """The launches so far, at least one."""
    search: str = RANDOM
    """`random` or `halving`: whether each draw of hyperparameters is trained to its end."""
    of_datasets: Layer = field(default_factory=dict)
    """Data set -> its own values in place of `setting` and `overrides`; the sweep need not have asked for it yet."""

    @property
    def layer(self) -> Layer:
        """All settings and hyperparameters that differ from the defaults of their preset and methods."""
        preset = PRESETS[self.setting.preset]
        changes = {name: mine for name in FIELD_NAMES if (mine := getattr(self.setting, name)) != getattr(preset, name)}
        return {EVERYWHERE: Changes(changes, self.overrides), **self.of_datasets}

    def setting_on(self, dataset: str) -> Setting:
        """Return the setting of the runs on a data set, before the data set fills it in."""
        return setting(self.setting.preset, **changes_on(self.layer, dataset).setting)

    def overrides_on(self, dataset: str) -> Overrides:
        """Return the changes to hyperparameters that hold on a data set."""
        return changes_on(self.layer, dataset).overrides

    @property
    def searches(self) -> tuple[Request, ...]:
        """Return the requests that repeat no choice."""
        return tuple(request for request in self.requests if request.repeats is None)

    @property
    def protocol(self) -> str:
        """Name of the protocol, which all requests share."""
        return self.requests[0].protocol.name

    @property
    def validation(self) -> str:
        """`ood` or `id` for data published with fixed splits (see `FixedSplit`); empty for all other data."""
        protocol = self.requests[0].protocol
        return protocol.validation if isinstance(protocol, FixedSplit) else ""

    def plan(self, facts: Mapping[str, DatasetFacts], catalogue: Catalogue) -> Plan:
        """Plan everything that is requested.

        Args:
            facts: Data set -> its facts, for every data set of the requests.
            catalogue: Holds the entries that the rows are made of.

        Raises:
            UserError: Something can't be done; the message lists all problems.
        """
        settings = {name: self.setting_on(name) for name in facts}
        overrides = {name: self.overrides_on(name) for name in facts}
        return plan(self.requests, facts, settings, catalogue, overrides, halving=self.search == HALVING)

    def changes(self, plan: Plan, catalogue: Catalogue) -> Iterator[str]:
        """Yield changes in words, given the sweep's plan: `lr 0.1`, and of single data sets `steps 300 on PACS`.

        Left out are what the preset says, and fields of the setting on all data sets (`Setting.departures`).
        """
        algorithms = dict.fromkeys(run.method.name for run in plan.runs if run.kind == "train")

        def words(dataset: str) -> Iterator[str]:
            own = self.overrides_on(dataset).beside(overrides_of_preset(self.setting.preset, dataset))
            names = dict.fromkeys((*algorithms, *own.parts))
            return own.describe(catalogue.method(name) for name in names if name in catalogue)

        said = [*words(EVERYWHERE)]
        yield from said
        said += [word_setting(name, value) for name, value in self.setting.departures().items()]
        for name in plan.datasets:
            fields = self.setting_on(name).departures(name)
            own = [*(word_setting(field, value) for field, value in fields.items()), *words(name)]
            yield from (f"{text} on {name}" for text in own if text not in said)

    def extended_with(self, other: Declaration, root: Path) -> Declaration:
        """Return the declaration with the requests of another added.

        Args:
            other: The declaration of a later launch.
            root: The sweep's folder, for messages.

        Raises:
            UserError: The other has another setting, protocol or overrides, so that its numbers could not share a
                table.
        """
        problems = Problems()
        mine, theirs = dataclasses.asdict(self.setting), dataclasses.asdict(other.setting)
        # A sweep that began with an explicit value is continued by a launch that doesn't mention it.
        theirs |= {name: mine[name] for name in LEFT_OPEN if theirs[name] == "auto"}
        for name in (name for name in mine if mine[name] != theirs[name]):
            here, asked = (
                "the data set's own" if name in OF_DATASET and not values[name] else repr(values[name])
                for values in (mine, theirs)
            )
            problems.add(f"{root} holds a sweep with {name} {here}, not {asked}: use another folder")
        if self.overrides != other.overrides:
            problems.add(f"{root} holds a sweep with other --hparams or space: use another folder")
        mine_on, theirs_on = self.of_datasets, other.of_datasets
        if unlike := [name for name in {**mine_on, **theirs_on} if mine_on.get(name) != theirs_on.get(name)]:
            problems.add(f"{root} holds a sweep with other values on {', '.join(unlike)}: use another folder")
        if self.protocol != other.protocol:
            problems.add(f"{root} holds a {self.protocol} sweep, not {other.protocol}: use another folder")
        elif self.validation != other.validation:
            here, asked = self.validation, other.validation
            problems.add(f"{root} holds a sweep with --validation {here}, not {asked}: use another folder")
        for problem in self._unlike_search(other):
            problems.add(f"{root} holds {problem}")
        problems.raise_if_any()
        requests = tuple(dict.fromkeys((*self.requests, *other.requests)))
        return dataclasses.replace(self, requests=requests, search=other.search)

    def _unlike_search(self, other: Declaration) -> Iterator[str]:
        """Yield the reasons why a search can't go on as another launch declares it."""
        if other.search == HALVING and self.search != HALVING:
            yield "a sweep that trains every draw to its end: for --search halving use another folder"
        elif other.search == HALVING:
            mine = {request.hparams_seeds for request in self.searches}
            if more := {request.hparams_seeds for request in other.searches} - mine:
                here, asked = (" and ".join(f"{len(seeds)}" for seeds in sorted(draws)) for draws in (mine, more))
                yield (
                    f"a search by halving with {here} draws, not {asked}: other draws would change which runs were "
                    f"dropped. Use another folder, or --search {RANDOM} to train all draws to their ends"
                )


def write_declaration(root: Path, declaration: Declaration, site: Site) -> None:
    """Write `sweep.json` to the sweep's folder `root`, with the options of this machine beside the declaration."""
    of_datasets = {
        name: {"setting": own.setting, "overrides": _plain(own.overrides)}
        for name, own in declaration.of_datasets.items()
    }
    content = {
        "format": FORMAT,
        "setting": declaration.setting,
        "search": declaration.search,
        "overrides": _plain(declaration.overrides),
        "of_datasets": of_datasets,
        "requests": [
            fields_of(request)
            | {
                "rows": [row.name for row in request.rows],
                "protocol": fields_of(request.protocol) | {"name": request.protocol.name},
            }
            for request in declaration.requests
        ],
        "site": site,
    }
    write_json(root / FILE, content)


def _plain(overrides: Overrides) -> dict[str, Any]:
    """Return the content of overrides as the file holds it."""
    return fields_of(overrides) | {"draws": {name: str(draw) for name, draw in overrides.draws.items()}}


def _with_draws(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of overrides in the file with distributions in the place of their texts."""
    return {**overrides, "draws": {name: Draw.parse(text) for name, text in overrides["draws"].items()}}


def asked_beside_preset(root: Path, dataset: str) -> Overrides:
    """Return the changes to hyperparameters on a data set that are not the preset's, from `sweep.json`.

    Raises:
        FileNotFoundError: There is no such file.
        CorruptFile: It is damaged.
        KeyError: It lacks a part.
    """
    data = read_object(root / FILE)
    of_dataset = data.get("of_datasets", {}).get(dataset, {})
    found = [from_plain(Overrides, _with_draws(held["overrides"])) for held in (data, of_dataset) if held]
    layer = {name: Changes({}, own) for name, own in zip((EVERYWHERE, dataset), found, strict=False)}
    return changes_on(layer, dataset).overrides.beside(overrides_of_preset(data["setting"]["preset"], dataset))


def read_site(root: Path) -> Site:
    """Read the machine's options of the last launch; errors are those of `read_declaration`."""
    with reading_sweep_json(root, FILE, FORMAT, MEND) as data:
        return Site.from_json(data["site"])


def read_declaration(
    root: Path, catalogue: Catalogue | None = None, include: Sequence[str] = ()
) -> tuple[Declaration, Site]:
    """Read `sweep.json`.

    Args:
        root: The sweep's folder.
        catalogue: Holds the entries that rows name; None: the package's and the included files'.
        include: Files to include besides those of the last launch.

    Returns:
        The declaration, and the machine's options of the last launch.

    Raises:
        UserError: There is no such file, it has another format, or it is damaged.
    """
    with reading_sweep_json(root, FILE, FORMAT, MEND) as data:
        # The site comes first: its included files may define the entries that rows name.
        site = Site.from_json(data["site"]).including(include)
        catalogue = catalogue or Catalogue(site.include)
        of_datasets = data.get("of_datasets", {})  # earlier versions had none
        for holder in (data, *of_datasets.values()):
            holder["overrides"] = _with_draws(holder["overrides"])
        for request in data["requests"]:
            protocol = _PROTOCOLS[request["protocol"].pop("name")]
            request["protocol"] = from_plain(protocol, request["protocol"])
            request["rows"] = parse_rows(request["rows"], catalogue)
        fields = {name: data[name] for name in ("setting", "overrides", "requests")}
        found = from_plain(Declaration, {**fields, "search": data.get("search", RANDOM), "of_datasets": of_datasets})
        if not found.requests:
            raise ValueError("it requests nothing")
    return found, site
