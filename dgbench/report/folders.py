"""Open the folders of sweeps, each by itself or several as one result.

Rows of several folders stand in one table only if everything that decides a number is equal: `combine` refuses folders
whose protocols, presets, settings of a common data set, or runs differ, and names each difference. Differences that
leave numbers comparable (commits, machines, draws) are printed below the table, as for a single folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dgbench.core.errors import Problems, UserError
from dgbench.core.plain import fields_of
from dgbench.core.protocol import Fold
from dgbench.core.wording import group_values, printable
from dgbench.plan import planfile
from dgbench.plan.provenance import Provenance
from dgbench.report.domainbed.folder import RECORDS
from dgbench.report.domainbed.reader import is_sweep, read_sweep
from dgbench.report.origin import add_up
from dgbench.report.predictions.kept import KeptPredictions
from dgbench.report.reader import read_results
from dgbench.report.results import WARNING, Candidate, Gap, Results, Series, Spot

_SHOWN = 6
"""Folders that a message lists."""


def open_results(root: Path | str, *, all_metrics: bool = False) -> Results:
    """Read the results in a sweep's folder, dgbench's or DomainBed's.

    Args:
        root: The folder.
        all_metrics: As for `read_results`.

    Raises:
        UserError: The folder holds neither.
    """
    root = Path(root)
    check_sweep(root)
    return read_results(root, all_metrics=all_metrics) if (root / planfile.FILE).exists() else read_sweep(root)


def check_sweep(root: Path) -> None:
    """Raise UserError if a folder holds no sweep, dgbench's or DomainBed's, with advice if one is near."""
    if not root.is_dir():
        raise UserError(f"{root}: there is no such folder")
    if _is_sweep(root):
        return
    if hint := _hint(root):
        raise UserError(f"{root} holds no sweep itself: {hint}")
    raise UserError(f"{root} holds no sweep: neither a {planfile.FILE} nor folders with {RECORDS} in them")


def _hint(root: Path) -> str:
    """Return advice on a folder that lies in a sweep's, or above it; empty if it has nothing to do with one."""
    place = root.resolve()
    if (root / RECORDS).exists():
        return f"it is the output of one run of DomainBed, name the folder above, {place.parent}"
    for above in list(place.parents)[:2]:
        if (above / planfile.FILE).exists():
            return f"it lies in the folder of a sweep, name that, {above}"
    found = [path for path in sorted(root.iterdir()) if path.is_dir() and _is_sweep(path)]
    # A folder of folders of sweeps, as of several projects.
    found = found or [path for path in sorted(root.glob("*/*")) if path.is_dir() and _is_sweep(path)]
    shown = ", ".join(printable(str(path)) for path in found[:_SHOWN])
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"it is above folders of sweeps, name one or several of them: {shown}{more}" if found else ""


def _is_sweep(root: Path) -> bool:
    return (root / planfile.FILE).exists() or is_sweep(root)


def open_each(roots: Iterable[Path | str], *, all_metrics: bool = False) -> dict[str, Results]:
    """Read several folders.

    Returns:
        Folder -> results.

    Raises:
        UserError: Everything that is wrong with any of them.
    """
    problems, found = Problems(), {}
    for root in roots:
        with problems.collecting():
            found[str(root)] = open_results(root, all_metrics=all_metrics)
    problems.raise_if_any()
    return found


def combine(results: Mapping[str, Results]) -> Results:
    """Join the results of several folders: all of their rows, data sets, folds, trials and draws.

    A run that is in several folders counts once: the first folder's, unless it is finished only in a later one.

    Args:
        results: Folder -> its results. With a single one, that is returned as it is.

    Raises:
        UserError: The folders differ in what decides a number; each difference is named, with both values.
    """
    if len(results) == 1:
        return next(iter(results.values()))
    problems = list(differences(results))
    folds: dict[str, dict[Fold, int]] = {}
    for found in results.values():
        for dataset, positions in found.datasets.items():
            known = folds.setdefault(dataset, {})
            for position in positions:
                known.setdefault(found.folds[position], len(known))
    starts = dict(zip(folds, np.cumsum([0, *map(len, folds.values())]).tolist(), strict=False))
    places = {(name, fold): starts[name] + i for name, known in folds.items() for fold, i in known.items()}
    joined = _Joined(places)
    for folder, found in results.items():
        joined.add(folder, found)
    problems += joined.conflicts()
    again = {selector: _Joined(places) for found in results.values() for selector in found.repeats}
    for selector, also in again.items():
        for folder, found in results.items():
            also.add(folder, replace(found, candidates=found.repeats.get(selector, {})))
        problems += also.conflicts()
    if problems:
        raise UserError(*problems, "folders that differ make no common table: collect them one by one")
    first = next(iter(results.values()))
    return replace(
        first,
        rows=tuple(dict.fromkeys(row for found in results.values() for row in found.rows)),
        datasets={name: tuple(starts[name] + i for i in known.values()) for name, known in folds.items()},
        folds=tuple(fold for known in folds.values() for fold in known),
        candidates=joined.candidates,
        repeats={selector: also.candidates for selector, also in again.items()},
        curves={},
        records=sum(found.records for found in results.values()),
        members=_union(found.members for found in results.values()),
        pooled=frozenset[str]().union(*(found.pooled for found in results.values())),
        adapted=frozenset[str]().union(*(found.adapted for found in results.values())),
        provenance=_provenance({folder: found.provenance for folder, found in results.items()}),
        origin=add_up([found.origin for found in results.values()]),
        search={place: spent for found in results.values() for place, spent in found.search.items()},
        notes=(*joined.notes, *(_placed(folder, note) for folder, found in results.items() for note in found.notes)),
        metrics=_union(found.metrics for found in results.values()),
        missing_classes=_union(found.missing_classes for found in results.values()),
        settings=_union(found.settings for found in results.values()),
        facts=_union(found.facts for found in results.values()),
        kept=KeptPredictions(*(root for found in results.values() for root in found.kept.roots)),
        folders={folder: found.rows for folder, found in results.items()},
    )


def _placed(folder: str, note: str) -> str:
    """Return a note with the folder that it is about."""
    warning = WARNING if note.startswith(WARNING) else ""
    return f"{warning}{printable(folder)}: {note.removeprefix(warning)}"


def differences(results: Mapping[str, Results], but: Sequence[str] = ()) -> Iterator[str]:
    """Yield each difference that decides numbers, as `the folders differ in steps of PACS: 300 in a, 5001 in b`.

    Args:
        results: Folder -> its results.
        but: Names of what may differ.
    """
    described = {folder: dict(_deciding(found_in)) for folder, found_in in results.items()}
    different = []
    for place in dict.fromkeys(place for found in described.values() for place in found if place[0] not in but):
        values = group_values((str(found[place]), folder) for folder, found in described.items() if place in found)
        if len(values) > 1:
            pairs = (f"{value or 'none'} in {', '.join(map(printable, folders))}" for value, folders in values.items())
            different.append(((place[0], ", ".join(pairs)), place[1]))
    for (name, each), datasets in group_values(different).items():
        of = f" of {', '.join(datasets)}" if any(datasets) else ""
        yield f"the folders differ in {name}{of}: {each}"


_OF_TRIALS = ("ddof", "init", "data_order")
"""Fields of the setting that the lines below tables describe, errors and trials, for all data sets at once."""


def _deciding(results: Results) -> Iterator[tuple[tuple[str, str], Any]]:
    """Yield ((name, data set), value) for everything that must be equal where two folders both have it.

    The data set is empty for all that holds for whole tables. A data set that one folder alone has needs no agreement.
    """
    yield ("protocol", ""), results.protocol
    yield ("preset", ""), results.preset
    yield from (((name, ""), results.setting[name]) for name in _OF_TRIALS if name in results.setting)
    for dataset in results.datasets:
        if results.setting:
            fields = fields_of(results.settings[dataset]).items()
            yield from (((name, dataset), value) for name, value in fields if name not in ("preset", *_OF_TRIALS))
        yield ("the metric", dataset), results.metric(dataset)
        for argument, values in results.origin.arguments.get(dataset, {}).items():
            yield (argument, dataset), " or ".join(sorted(values))
    for row in results.rows:
        yield (f"the number of runs that {row} merges", ""), results.members.get(row, "")
        yield (f"what {row} is shown of the test domain", ""), results.provenance.shown.get(row, "")
        yield (f"what teaches {row}", ""), results.provenance.taught.get(row, "")


class _Joined:
    """The candidates of several folders, joined one folder after the other."""

    def __init__(self, places: Mapping[tuple[str, Fold], int]) -> None:
        self.candidates: dict[tuple[str, str], dict[Spot, dict[int, Candidate]]] = {}
        self.notes: list[str] = []
        self._places = places
        """(data set, fold) -> index of the fold among all."""
        self._owners: dict[tuple[str, str], str] = {}
        """(row, data set) -> the first folder that has it."""
        self._clashes: Counter[tuple[str, str, str, str]] = Counter()
        self._repeats: Counter[tuple[str, str, str]] = Counter()

    def add(self, folder: str, results: Results) -> None:
        """Add a folder's candidates to those that are there."""
        for (row, dataset), spots in results.candidates.items():
            joined = self.candidates.setdefault((row, dataset), {})
            owner = self._owners.setdefault((row, dataset), folder)
            for (position, trial), seeds in spots.items():
                place = self._places[dataset, results.folds[position]]
                by_seed = joined.setdefault((place, trial), {})
                for seed, candidate in seeds.items():
                    known = by_seed.get(seed)
                    if known is None or self._is_news(known, candidate, (row, dataset, owner, folder)):
                        by_seed[seed] = candidate

    def _is_news(self, known: Candidate, other: Candidate, where: tuple[str, str, str, str]) -> bool:
        """Return whether a candidate replaces the known one: it is finished, and the known one isn't."""
        if known.run != other.run and not _alike(known, other):
            self._clashes[where] += 1
        elif isinstance(known, Series) and isinstance(other, Series) and not _alike(known, other):
            self._repeats[where[1:]] += 1
        return isinstance(known, Gap) and isinstance(other, Series)

    def conflicts(self) -> Iterator[str]:
        """Yield the rows that are in two folders with different runs; put those of equal runs among the notes."""
        for (dataset, owner, folder), n in self._repeats.items():
            self.notes.append(
                f"{WARNING}{n} predictors on {dataset} are in {printable(owner)} and {printable(folder)} "
                "with other values; the former count"
            )
        for (row, dataset, owner, folder), n in self._clashes.items():
            yield (
                f"{row} on {dataset} is in {printable(owner)} and {printable(folder)}, "
                f"and {n} of its runs differ: hyperparameters, averages or steps of the data set are others"
            )


def _alike(one: Candidate, other: Candidate) -> bool:
    """Return whether two candidates have the same values, or one of them is an inferred run without an id."""
    if isinstance(one, Gap) or isinstance(other, Gap):
        return "" in (one.run, other.run)
    return (
        one.steps == other.steps
        and one.views == other.views
        and np.array_equal(one.values, other.values, equal_nan=True)
    )


def _union(mappings: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Join mappings; the first counts where several have a key."""
    found: dict[str, Any] = {}
    for mapping in mappings:
        found = {**found, **{key: value for key, value in mapping.items() if key not in found}}
    return found


def _provenance(provenances: Mapping[str, Provenance]) -> Provenance:
    """Join the provenance of folders; a departure that only some folders have is followed by their names."""
    folders_of = group_values((text, folder) for folder, provenance in provenances.items() for text in provenance.asked)
    everywhere = len(provenances)
    departures = (
        text if len(folders) == everywhere else f"{text} (in {', '.join(map(printable, folders))})"
        for text, folders in folders_of.items()
    )
    return Provenance(
        shown=_union(provenance.shown for provenance in provenances.values()),
        taught=_union(provenance.taught for provenance in provenances.values()),
        asked=tuple(departures),
    )
