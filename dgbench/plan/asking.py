"""Turn the values of flags and sweep files into a declaration, and open its data sets.

The values are those of `sweep_file.KEYS`. `declare` checks all that can be checked without data, by names and cards;
`open_facts` then opens the data. Each collects all problems before it raises, so a user sees at once everything that
has to be changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.rows import Row, parse_rows, runs_alone, teacher_rows
from dgbench.catalogue.sources import open_dataset, split_datasets
from dgbench.core.errors import Problems, UserError
from dgbench.core.halving import RANDOM
from dgbench.core.machine import check_precision, pick_device
from dgbench.core.presets import DEFAULT, read_preset
from dgbench.core.row_names import words_of
from dgbench.core.setting import FIELD_NAMES, OF_SWEEP, PRESETS, setting
from dgbench.core.site import Site
from dgbench.core.space import Draw, HparamSpec, Value, check_draw, check_fixed, check_undeclared, check_value
from dgbench.core.wording import format_value, unknown_name
from dgbench.data.facts import DatasetFacts, facts_of, resolve_setting
from dgbench.networks.backbones import check_backbone
from dgbench.networks.start import check_start
from dgbench.plan.brackets import refuse_search
from dgbench.plan.changes import apply_changes
from dgbench.plan.declaration import Declaration
from dgbench.plan.grid import with_points
from dgbench.plan.layers import (
    EVERYWHERE,
    Changes,
    Layer,
    changes_on,
    everywhere,
    layer_of_preset,
    split_by_dataset,
    stack,
)
from dgbench.plan.networks import with_full_names
from dgbench.plan.options import OPTIONS
from dgbench.plan.protocols import protocol_of
from dgbench.plan.request import MOST_RUNS, Overrides, Request
from dgbench.plan.sweep_file import NOT_QUICK, PROTOCOL_KEYS

T = TypeVar("T")


def declare(
    asked: Mapping[str, Any], catalogue: Catalogue, below: Layer | None = None
) -> tuple[Declaration, dict[str, str]]:
    """Make a declaration from values by `KEYS`.

    Args:
        asked: The values.
        catalogue: Holds the entries that they name.
        below: Settings and hyperparameters that they lie over; None: those of their preset.

    Returns:
        The declaration, and data set -> path for the data sets that were named with a path.

    Raises:
        UserError: The values are wrong, as far as that can be seen without the data; all problems are listed.
    """
    problems, paths = Problems(), dict[str, str]()
    rows: tuple[Row, ...] = ()
    preset = str(asked.get("preset", DEFAULT))
    asked = {**_keys_of_preset(preset, asked, catalogue), **asked}
    with problems.collecting():
        asked = with_full_names(asked, catalogue)
    with problems.collecting():
        asked = with_points(asked, catalogue)
    for key in ("algorithms", "datasets"):
        if not asked.get(key):
            problems.add(f"name at least one of --{key}")
    with problems.collecting():
        rows = parse_rows(asked.get("algorithms", ()), catalogue)
    with problems.collecting():
        paths = split_datasets(asked.get("datasets", ()), catalogue)
    own = _layer(asked, rows, catalogue, problems)
    with problems.collecting():
        seeds, trials = _seeds(asked)
    layer = own
    with problems.collecting():
        if preset not in PRESETS:
            setting(preset, **everywhere(own).setting)
        layer = stack(layer_of_preset(preset, catalogue) if below is None else below, own)
        _check_settings(preset, layer, paths)
    with problems.collecting():
        protocol = protocol_of(asked, {name: catalogue.get("dataset", name.partition(":")[0]).card for name in paths})
    members: tuple[int, ...] = ()
    with problems.collecting():
        members = _members(asked.get("members", ()))
    with problems.collecting():
        refuse_search(search := asked.get("search", RANDOM))
    problems.raise_if_any()
    request = Request(rows, tuple(paths), protocol, tuple(seeds), tuple(trials), members=members)
    found, of_datasets = everywhere(layer), {name: own for name, own in layer.items() if name != EVERYWHERE}
    declaration = Declaration(setting(preset, **found.setting), found.overrides, (request,), search, of_datasets)
    return declaration, {name: path for name, path in paths.items() if path}


def _keys_of_preset(preset: str, asked: Mapping[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    """Return the values that a preset has for keys beside settings and hyperparameters, where nothing speaks against.

    Its protocol counts where no other is asked for and data have no splits of their own.
    """
    if preset not in PRESETS:
        return {}
    found = dict(read_preset(preset).asked)
    entries = (catalogue.entries.get(str(name).partition(":")[0]) for name in asked.get("datasets", ()))
    split = any(entry is not None and entry.kind == "dataset" and entry.card.parts for entry in entries)
    if split or any(asked.get(key) for key in PROTOCOL_KEYS):
        found = {key: value for key, value in found.items() if key not in PROTOCOL_KEYS}
    if asked.get("quick"):
        found = {key: value for key, value in found.items() if key not in NOT_QUICK}
    return found


def _layer(asked: Mapping[str, Any], rows: Sequence[Row], catalogue: Catalogue, problems: Problems) -> Layer:
    """Return the settings and hyperparameters that a launch asks for; add the problems that the rows' cards show.

    Where hyperparameters have problems, the settings of the same table are returned without them.
    """
    found = dict[str, Changes]()
    hparams = apply_changes(asked.get("hparams", {}), asked.get("set", {}), rows, catalogue)
    for name, own in split_by_dataset({**asked, "hparams": hparams}, catalogue).items():
        found[name] = Changes(own["setting"])
        own_problems = Problems()
        for field in () if name == EVERYWHERE else (*own["setting"], *own["hparams"]):
            if field in OF_SWEEP:
                own_problems.add(f"{field} has one value for all data sets of a sweep")
        with own_problems.collecting():
            overrides, from_hparams = _overrides(own["hparams"], own["space"], rows, catalogue)
            found[name] = Changes(from_hparams | own["setting"], overrides)
        for problem in own_problems.found:
            problems.add(problem if name == EVERYWHERE else f"on {name}: {problem}")
    return found


def _check_settings(preset: str, layer: Layer, datasets: Iterable[str]) -> None:
    """Raise UserError for settings that are invalid everywhere, or on a data set that has own ones."""
    problems = Problems()
    for name in (EVERYWHERE, *(name for name in dict.fromkeys((*layer, *datasets)) if name != EVERYWHERE)):
        own = Problems()
        fields = changes_on(layer, name).setting
        with own.collecting():
            setting(preset, **fields)
        if isinstance(backbone := fields.get("backbone", PRESETS[preset].backbone), str):
            with own.collecting():
                check_backbone(backbone)
        for problem in own.found:
            if problem not in problems.found:
                problems.add(problem if name == EVERYWHERE else f"on {name}: {problem}")
    problems.raise_if_any()


def _seeds(asked: Mapping[str, Any]) -> tuple[range, range]:
    """Return the hyperparameter seeds and the trials; raise UserError if either range is empty, invalid or too long."""
    problems = Problems()
    if asked.get("quick"):
        if given := [f"--{name}" for name in NOT_QUICK if name in asked]:
            problems.add(
                f"--quick is one run of each row in each fold, with its defaults: leave out {', '.join(given)}"
            )
        problems.raise_if_any()
        return range(1), range(1)
    for name in NOT_QUICK:
        if wrong := OPTIONS[name].problem(asked.get(name, 0)):
            problems.add(wrong)
    problems.raise_if_any()
    seeds = range(asked.get("n_hparams_from", 0), asked.get("n_hparams", 20))
    if not seeds:
        problems.add(
            f"--n_hparams {seeds.stop} leaves no hyperparameter seed: it is the end of a range from {seeds.start}"
        )
    trials = range(asked.get("n_trials_from", 0), asked.get("n_trials", 3))
    if not trials:
        problems.add(f"--n_trials {trials.stop} leaves no trial: it ends a range from {trials.start}")
    problems.raise_if_any()
    # Before the ranges become tuples: a range takes no memory however long it is.
    if (runs := (seeds[-1] - seeds[0] + 1) * (trials[-1] - trials[0] + 1)) > MOST_RUNS:
        raise UserError(
            f"--n_trials and --n_hparams ask for {runs:,} runs of each row in each fold, more than {MOST_RUNS:,}"
        )
    return seeds, trials


def _members(given: Iterable[str | int]) -> tuple[int, ...]:
    """Return the numbers of members, rising and each once; raise UserError with all that are no positive integers."""
    problems = Problems()
    for word in given:
        if not re.fullmatch(r"0*[1-9]\d{0,8}", str(word)):
            problems.add(f"--members {word} is no number of runs: give integers from 1")
    problems.raise_if_any()
    return tuple(sorted({int(word) for word in given}))


def count_training_runs(declaration: Declaration, catalogue: Catalogue) -> int | None:
    """Return the number of training runs that a declaration comes to, from the cards of its data sets alone.

    Returns:
        The number; None if only planning can tell, because files decide the domains or a row has a teacher.

    Raises:
        UserError: A data set can't follow the protocol.
    """
    count = 0
    for request in declaration.requests:
        cards = [catalogue.get("dataset", name.partition(":")[0]).card for name in request.datasets]
        taught = any(catalogue.get("algorithm", row.algorithm).card.taught for row in request.rows)
        if taught or not all(card.domains for card in cards):
            return None
        # Averages that only watch share the run of the plain row; those that feed back have runs of their own.
        trained = {
            (row.algorithm, row.average)
            if row.average and runs_alone(catalogue.get("average", row.average))
            else (row.algorithm, "")
            for row in request.rows
        }
        folds = sum(
            len(list(request.protocol.folds(card.domains, parts=tuple(card.parts), tested=card.tested)))
            for card in cards
        )
        draws = sum(
            len(request.hparams_seeds) if catalogue.get("algorithm", algorithm).card.learns else 1
            for algorithm, _ in trained
        )
        count += draws * folds * len(request.trials)
    return count


def open_facts(declaration: Declaration, site: Site, catalogue: Catalogue) -> dict[str, DatasetFacts]:
    """Open every data set and return its facts by name.

    Args:
        declaration: The sweep's declaration.
        site: Paths and device of this machine.
        catalogue: Holds the data sets.

    Raises:
        UserError: A data set, the network or the device has a problem; all of them are listed.
    """
    problems, facts = Problems(), dict[str, DatasetFacts]()
    for name in dict.fromkeys(name for request in declaration.requests for name in request.datasets):
        asked = declaration.setting_on(name)
        if asked.precision != "fp32":
            with problems.collecting():
                check_precision(asked, pick_device(site.device))
        with problems.collecting():
            dataset = open_dataset(name, site, catalogue, asked.image_size, asked.backbone)
            facts[name] = facts_of(name, dataset)
            resolved = resolve_setting(asked, facts[name])
            check_start(resolved, dataset.input_shape, site.backbone_weights, dataset.input_kind)
    problems.raise_if_any()
    return facts


def _overrides(
    hparams: Mapping[str, Any], space: Mapping[str, Any], rows: Sequence[Row], catalogue: Catalogue
) -> tuple[Overrides, dict[str, Any]]:
    """Split `--hparams` into hyperparameters of algorithms, those of other entries, and changes of the setting.

    A name that both an algorithm and the setting have changes both.
    """
    problems = Problems()
    rows = [*rows, *_teachers(rows, hparams, catalogue)]
    algorithms = [catalogue.get("algorithm", name) for name in dict.fromkeys(row.algorithm for row in rows)]
    spaces: dict[str, dict[str, HparamSpec]] = {}
    for entry in algorithms:
        for spec in entry.space:
            spaces.setdefault(spec.name, {})[entry.name] = spec
    typed = [name for row in rows for name in (row.name, row.average) if name]
    words = dict.fromkeys((*(entry.name for entry in algorithms), *(word for name in typed for word in words_of(name))))
    entries = {word: catalogue.method(word) for word in words}
    fixed: dict[str, Value] = {}
    parts: dict[str, Mapping[str, Value]] = {}
    changes: dict[str, Any] = {}
    for name, value in hparams.items():
        if isinstance(value, Mapping):
            if name not in entries:
                problems.add(unknown_name("entry in --hparams or --set", name, entries))
                continue
            with problems.collecting():
                check_fixed(entries[name].space, value, name, more=entries[name].open)
            parts[name] = value
            continue
        for problem in _problems_of(name, value, spaces, [entry.name for entry in algorithms if entry.open]):
            problems.add(problem)
        if any(entry.takes(name) for entry in algorithms):
            fixed[name] = value
        if name in FIELD_NAMES:
            changes[name] = value
        elif name not in fixed:
            owners = [entry.name for entry in entries.values() if entry.kind != "algorithm" and entry.takes(name)]
            problems.add(
                f"{name} is a hyperparameter of {owners[0]}: --set {owners[0]}.{name}={format_value(value)}"
                if owners
                else unknown_name("hyperparameter", name, [*spaces, *FIELD_NAMES])
            )
    draws: dict[str, Draw] = {}
    with problems.collecting():
        draws = _draws(space, spaces)
    # Without valid rows every name is unknown. The problems of the rows are reported by the caller, and suffice.
    if rows:
        problems.raise_if_any()
    return Overrides(fixed, parts, draws), changes


def _teachers(rows: Sequence[Row], hparams: Mapping[str, Any], catalogue: Catalogue) -> Iterator[Row]:
    """Yield the rows that teach others, but for invalid ones, which planning refuses."""
    for row in rows:
        entry = catalogue.get("algorithm", row.algorithm)
        own = hparams.get(entry.name)
        values = {spec.name: spec.default for spec in entry.space}
        given = {**(own if isinstance(own, Mapping) else {}), **entry.values}
        with suppress(UserError):
            yield from teacher_rows(row.algorithm, {**values, **given}, catalogue)


def _problems_of(
    name: str, value: object, spaces: Mapping[str, Mapping[str, HparamSpec]], takes_any: Sequence[str]
) -> Iterator[str]:
    """Yield the problems of a value, for each algorithm that declares the name and for those that take any name."""
    for owners, wrong in _find_problems(check_value, spaces.get(name, {}), value):
        yield f"{owners}: {name} {wrong}"
    if takes_any and (undeclared := check_undeclared(value)):
        yield f"{', '.join(takes_any)}: {name} {undeclared}"


def _find_problems(
    check: Callable[[HparamSpec, T], str | None], specs: Mapping[str, HparamSpec], value: T
) -> Iterator[tuple[str, str]]:
    """Yield (names, problem) of a value for several methods, grouped by problem."""
    owners: dict[str, list[str]] = {}
    for name, spec in specs.items():
        if wrong := check(spec, value):
            owners.setdefault(wrong, []).append(name)
    yield from ((", ".join(names), wrong) for wrong, names in owners.items())


def _draws(space: Mapping[str, Any], spaces: Mapping[str, Mapping[str, HparamSpec]]) -> dict[str, Draw]:
    """Parse the distributions of a sweep file, by hyperparameter.

    Raises:
        UserError: A name or a distribution is invalid, or values that it draws are.
    """
    problems, draws = Problems(), dict[str, Draw]()
    for name, text in space.items():
        if name not in spaces:
            problems.add(unknown_name("hyperparameter in [space]", name, spaces))
            continue
        if not isinstance(text, str):
            problems.add(f"[space] {name} is a draw in quotes, such as 'U(0, 1)', not {format_value(text)}")
            continue
        try:
            draws[name] = Draw.parse(text)
        except ValueError as error:
            problems.add(f"[space] {name}: {error}")
        else:
            for owners, wrong in _find_problems(check_draw, spaces[name], draws[name]):
                problems.add(f"[space] {owners}: {name} {wrong}, as {text} draws it")
    problems.raise_if_any()
    return draws
