"""What a person asks of a sweep, by a TOML file, by flags, or both (flags win), made ready for planning."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.rows import Row, parse_rows, stands_on
from dgbench.catalogue.sources import open_dataset, split_datasets
from dgbench.core.cards import DatasetCard
from dgbench.core.errors import Problems, UserError
from dgbench.core.machine import check_precision, pick_device
from dgbench.core.protocol import AllDomains, Explicit, FixedSplit, LeaveOneDomainOut, Protocol, SingleSource
from dgbench.core.setting import FIELD_NAMES, setting
from dgbench.core.site import Site
from dgbench.core.space import Draw, HparamSpec, Value, check_draw, check_fixed, check_value
from dgbench.core.wording import unknown, with_article
from dgbench.data.facts import DatasetFacts, facts_of, resolve_setting
from dgbench.networks.backbones import check_backbone
from dgbench.networks.start import check_start
from dgbench.plan.declaration import Declaration
from dgbench.plan.request import Overrides, Request

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")

KEYS: Mapping[str, type] = {
    "algorithms": list,
    "datasets": list,
    "n_hparams": int,
    "n_hparams_from": int,
    "n_trials": int,
    "n_trials_from": int,
    "single_test_envs": bool,
    "single_source": bool,
    "all_domains": bool,
    "test_envs": list,
    "train_domains": list,
    "val_domains": list,
    "test_domains": list,
    "preset": str,
    "setting": dict,
    "hparams": dict,
    "space": dict,
}
"""What a sweep file may say; flags of the same names win over it."""
_DOMAIN_KEYS = ("test_envs", "train_domains", "val_domains", "test_domains")
"""Lists of domains, by name or by number."""
_NOT_OF_FIXED_SPLITS = (
    "single_test_envs",
    "single_source",
    "all_domains",
    "train_domains",
    "val_domains",
    "test_domains",
)

_TABLES = ("setting", "hparams")


def read_sweep_file(path: Path) -> dict[str, Any]:
    """A sweep declared in TOML; raises `UserError` with every key that is unknown or of the wrong type."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"--sweep {path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"--sweep {path} can't be read: {error}") from None
    problems = Problems()
    for key, value in content.items():
        if key not in KEYS:
            problems.add(f"{path}: {unknown('key', key, KEYS)}")
        elif type(value) is not KEYS[key]:
            problems.add(f"{path}: {key} is {with_article(KEYS[key].__name__)}, not {value!r}")
        elif isinstance(value, list):
            for item in value:
                if not isinstance(item, str) and not (key in _DOMAIN_KEYS and type(item) is int):
                    problems.add(f"{path}: {key} is a list of names, {item!r} is none")
    problems.raise_if_any()
    return content


def overlaid(asked: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """What a sweep file asks for with what flags say put over it, value by value in `setting` and `hparams`."""
    said = {**flags.get("hparams", {}), **flags.get("setting", {})}
    below = {key: {name: value for name, value in asked.get(key, {}).items() if name not in said} for key in _TABLES}
    return {**asked, **flags, **{key: {**below[key], **flags.get(key, {})} for key in _TABLES}}


def declare(asked: Mapping[str, Any], catalogue: Catalogue) -> tuple[Declaration, dict[str, str]]:
    """A declaration from the values of `KEYS`, and the paths of its data sets.

    Everything that can be checked without the data is, and told at once.
    """
    problems, paths = Problems(), dict[str, str]()
    rows: tuple[Row, ...] = ()
    for key in ("algorithms", "datasets"):
        if not asked.get(key):
            problems.add(f"name at least one of --{key}")
    with problems.collecting():
        rows = parse_rows(asked.get("algorithms", ()), catalogue)
    with problems.collecting():
        paths = split_datasets(asked.get("datasets", ()), catalogue)
    changes, overrides = dict(asked.get("setting", {})), Overrides()
    with problems.collecting():
        overrides, from_hparams = _overrides(asked.get("hparams", {}), asked.get("space", {}), rows, catalogue)
        changes = from_hparams | changes
    seeds = range(asked.get("n_hparams_from", 0), asked.get("n_hparams", 20))
    if not seeds:
        problems.add(
            f"--n_hparams {seeds.stop} leaves no hyperparameter seed: it is the end of a range from {seeds.start}"
        )
    trials = range(asked.get("n_trials_from", 0), asked.get("n_trials", 3))
    if not trials:
        problems.add(f"--n_trials {trials.stop} leaves no trial: it ends a range from {trials.start}")
    chosen = None
    with problems.collecting():
        chosen = setting(asked.get("preset", "dgbench"), **changes)
        check_backbone(chosen.backbone)
    protocol: Protocol = LeaveOneDomainOut()
    with problems.collecting():
        protocol = _protocol(asked, {name: catalogue.get("dataset", name.partition(":")[0]).card for name in paths})
    problems.raise_if_any()
    assert chosen is not None
    request = Request(rows, tuple(paths), protocol, tuple(seeds), tuple(trials))
    return Declaration(chosen, overrides, (request,)), {name: path for name, path in paths.items() if path}


def open_facts(declaration: Declaration, site: Site, catalogue: Catalogue) -> dict[str, DatasetFacts]:
    """Look at the files of every data set; raises `UserError` with everything wrong with any."""
    problems, facts = Problems(), dict[str, DatasetFacts]()
    if declaration.setting.precision != "fp32":
        with problems.collecting():
            check_precision(declaration.setting, pick_device(site.device))
    for request in declaration.requests:
        for name in request.datasets:
            with problems.collecting():
                asked = declaration.setting
                dataset = open_dataset(name, site, catalogue, asked.image_size, asked.backbone)
                facts[name] = facts_of(name, dataset)
                resolved = resolve_setting(asked, facts[name])
                check_start(resolved, dataset.input_shape, site.backbone_weights, dataset.input_kind)
    problems.raise_if_any()
    return facts


def _protocol(asked: Mapping[str, Any], cards: Mapping[str, DatasetCard]) -> Protocol:
    """The one that was asked for; where none was, that of the data sets. Raises `UserError` if they have several."""
    own = [name for name, card in cards.items() if card.parts]
    if others := [name for name in cards if name not in own] if own else []:
        raise UserError(
            f"a sweep has one protocol: {', '.join(own)} can only be had in splits of their own, {', '.join(others)} "
            "not; launch them as two sweeps, in two folders"
        )
    if own:
        if wrong := [f"--{key}" for key in _NOT_OF_FIXED_SPLITS if asked.get(key)]:
            raise UserError(f"{', '.join(own)} can only be had in splits of their own: leave out {', '.join(wrong)}")
        return FixedSplit(only=tuple(map(str, asked.get("test_envs", ()))))
    train, val, test, only = (
        tuple(map(str, asked.get(key, ()))) for key in ("train_domains", "val_domains", "test_domains", "test_envs")
    )
    if train or val or test:
        if asked.get("single_test_envs") or asked.get("single_source") or asked.get("all_domains") or only:
            raise UserError(
                "--train_domains, --val_domains and --test_domains say it all: leave out the other protocol flags"
            )
        return Explicit(train, test, val)
    if asked.get("all_domains"):
        if asked.get("single_source"):
            raise UserError("--all_domains trains on every domain, --single_source on one: leave out one of them")
        return AllDomains(only)
    if asked.get("single_source"):
        if only:
            raise UserError("--single_source tests all domains but the one that trains: leave out --test_envs")
        return SingleSource()
    return LeaveOneDomainOut(pairs=not asked.get("single_test_envs", False), only=only)


def _overrides(
    hparams: Mapping[str, Any], space: Mapping[str, Any], rows: Sequence[Row], catalogue: Catalogue
) -> tuple[Overrides, dict[str, Any]]:
    """Split what `--hparams` says into hyperparameters of algorithms, of other entries, and changes of the setting.

    A name that algorithms and the setting have in common is said of both.
    """
    problems = Problems()
    rows = [*rows, *_teachers(rows, hparams, catalogue)]
    algorithms = [catalogue.get("algorithm", name) for name in dict.fromkeys(row.algorithm for row in rows)]
    spaces: dict[str, dict[str, HparamSpec]] = {}
    for entry in algorithms:
        for spec in entry.space:
            spaces.setdefault(spec.name, {})[entry.name] = spec
    entries = {word: catalogue.entries[word] for row in rows for word in (*row.name.split("+"), row.average) if word}
    fixed: dict[str, Value] = {}
    parts: dict[str, Mapping[str, Value]] = {}
    changes: dict[str, Any] = {}
    for name, value in hparams.items():
        if isinstance(value, Mapping):
            if name not in entries:
                problems.add(unknown("entry in --hparams", name, entries))
                continue
            if not entries[name].open:
                with problems.collecting():
                    check_fixed(entries[name].space, value, name)
            parts[name] = value
            continue
        for owners, wrong in _wrong(check_value, spaces.get(name, {}), value):
            problems.add(f"{owners}: {name} {wrong}")
        if any(entry.takes(name) for entry in algorithms):
            fixed[name] = value
        if name in FIELD_NAMES:
            changes[name] = value
        elif name not in fixed:
            problems.add(unknown("hyperparameter", name, [*spaces, *FIELD_NAMES]))
    draws: dict[str, Draw] = {}
    with problems.collecting():
        draws = _draws(space, spaces)
    if rows:
        problems.raise_if_any()
    return Overrides(fixed, parts, draws), changes


def _teachers(rows: Sequence[Row], hparams: Mapping[str, Any], catalogue: Catalogue) -> Iterator[Row]:
    """The rows that teach others; planning tells what is wrong with any."""
    for row in rows:
        own = hparams.get(row.algorithm)
        values = {spec.name: spec.default for spec in catalogue.get("algorithm", row.algorithm).space}
        with suppress(UserError):
            yield from stands_on(row.algorithm, {**values, **(own if isinstance(own, Mapping) else {})}, catalogue)


def _wrong(
    check: Callable[[HparamSpec, T], str | None], specs: Mapping[str, HparamSpec], value: T
) -> Iterator[tuple[str, str]]:
    """What is wrong with a value for each of several methods: (all of which that is true, what it is)."""
    owners: dict[str, list[str]] = {}
    for name, spec in specs.items():
        if wrong := check(spec, value):
            owners.setdefault(wrong, []).append(name)
    yield from ((", ".join(names), wrong) for wrong, names in owners.items())


def _draws(space: Mapping[str, Any], spaces: Mapping[str, Mapping[str, HparamSpec]]) -> dict[str, Draw]:
    """The distributions that a sweep file declares; each must draw values that the hyperparameter may have."""
    problems, draws = Problems(), dict[str, Draw]()
    for name, text in space.items():
        if name not in spaces:
            problems.add(unknown("hyperparameter in [space]", name, spaces))
            continue
        try:
            draws[name] = Draw.parse(str(text))
        except ValueError as error:
            problems.add(f"[space] {name}: {error}")
        else:
            for owners, wrong in _wrong(check_draw, spaces[name], draws[name]):
                problems.add(f"[space] {owners}: {name} {wrong}, as {text} draws it")
    problems.raise_if_any()
    return draws
