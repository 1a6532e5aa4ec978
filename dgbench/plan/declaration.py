"""The declaration of a sweep, ready for planning, and its file `sweep.json`.

A sweep folder holds one `Declaration`: its setting and overrides never change, its requests grow with every launch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.rows import parse_rows
from dgbench.core.errors import Problems
from dgbench.core.plain import fields_of, from_plain
from dgbench.core.protocol import AllDomains, Explicit, FixedSplit, LeaveOneDomainOut, Protocol, SingleSource
from dgbench.core.setting import LEFT_OPEN, OF_DATASET, Setting
from dgbench.core.site import Site
from dgbench.core.space import Draw
from dgbench.data.facts import DatasetFacts
from dgbench.plan.planner import Plan, plan
from dgbench.plan.request import Overrides, Request
from dgbench.store.files import reading_sweep_json, write_json

FILE = "sweep.json"
FORMAT = 1
MEND = "remove it, and launch with the words of the first launch again: what is done stays"
"""The way out when the file is damaged."""
_PROTOCOLS: Mapping[str, type[Protocol]] = {
    cls.name: cls for cls in (LeaveOneDomainOut, SingleSource, AllDomains, Explicit, FixedSplit)
}


@dataclass(frozen=True)
class Declaration:
    """A sweep as flags and files declare it, checked as far as that needs no data."""

    setting: Setting
    overrides: Overrides
    requests: tuple[Request, ...]

    @property
    def protocol(self) -> str:
        """Return the name of its protocol; a sweep has one."""
        return self.requests[0].protocol.name

    @property
    def validation(self) -> str:
        """Return the validation set of data with splits of their own, `ood` or `id`; empty for all other data."""
        protocol = self.requests[0].protocol
        return protocol.validation if isinstance(protocol, FixedSplit) else ""

    def plan(self, facts: Mapping[str, DatasetFacts], catalogue: Catalogue) -> Plan:
        """Plan everything that it requests."""
        return plan(self.requests, facts, self.setting, catalogue, self.overrides)

    def extended_with(self, other: Declaration, root: Path) -> Declaration:
        """Add the requests of another; raises `UserError` if that would train the same things in another way."""
        problems = Problems()
        mine, theirs = dataclasses.asdict(self.setting), dataclasses.asdict(other.setting)
        theirs |= {name: mine[name] for name in LEFT_OPEN if theirs[name] == "auto"}
        for name in (name for name in mine if mine[name] != theirs[name]):
            here, asked = (
                "the data set's own" if name in OF_DATASET and not values[name] else repr(values[name])
                for values in (mine, theirs)
            )
            problems.add(f"{root} holds a sweep with {name} {here}, not {asked}: use another folder")
        if self.overrides != other.overrides:
            problems.add(f"{root} holds a sweep with other --hparams or space: use another folder")
        if self.protocol != other.protocol:
            problems.add(f"{root} holds a {self.protocol} sweep, not {other.protocol}: use another folder")
        elif self.validation != other.validation:
            here, asked = self.validation, other.validation
            problems.add(f"{root} holds a sweep with --validation {here}, not {asked}: use another folder")
        problems.raise_if_any()
        return dataclasses.replace(self, requests=tuple(dict.fromkeys((*self.requests, *other.requests))))


def write_declaration(root: Path, declaration: Declaration, site: Site) -> None:
    """Write `sweep.json`."""
    draws = {name: str(draw) for name, draw in declaration.overrides.draws.items()}
    content = {
        "format": FORMAT,
        "setting": declaration.setting,
        "overrides": fields_of(declaration.overrides) | {"draws": draws},
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


def read_site(root: Path) -> Site:
    """Read the options of this machine as of the last launch; raises `UserError` as `read_declaration`."""
    with reading_sweep_json(root, FILE, FORMAT, MEND) as data:
        return Site.from_json(data["site"])


def read_declaration(
    root: Path, catalogue: Catalogue | None = None, include: Sequence[str] = ()
) -> tuple[Declaration, Site]:
    """Read `sweep.json`.

    Args:
        root: The sweep's folder.
        catalogue: What rows name; by default the package's and the included files'.
        include: Files to include beside those of the last launch.

    Returns:
        The declaration, and the options of this machine as of the last launch.

    Raises:
        UserError: There is no such file, it has another format, or it is damaged.
    """
    with reading_sweep_json(root, FILE, FORMAT, MEND) as data:
        site = Site.from_json(data["site"]).including(include)
        catalogue = catalogue or Catalogue(site.include)
        data["overrides"]["draws"] = {name: Draw.parse(text) for name, text in data["overrides"]["draws"].items()}
        for request in data["requests"]:
            protocol = _PROTOCOLS[request["protocol"].pop("name")]
            request["protocol"] = from_plain(protocol, request["protocol"])
            request["rows"] = parse_rows(request["rows"], catalogue)
        found = from_plain(Declaration, {name: data[name] for name in ("setting", "overrides", "requests")})
        if not found.requests:
            raise ValueError("it requests nothing")
    return found, site
