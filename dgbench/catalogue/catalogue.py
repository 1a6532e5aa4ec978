"""The catalogue: which algorithms, averages, mergers, adapters and data sets there are.

An entry is a class found in one of three places: the package's own folders; a module that an installed package names as
an entry point, in a group for each kind such as `dgbench.algorithms`; or a file that the user includes (`file.py`, or
`file.py:Name` for a class written for DomainBed). All come through `Catalogue`.

Planning and `list` need an entry's card and search space only. These are kept in a small index file, keyed by the hash
of the entry's source (`index`), so that neither imports torch; the class is imported when a run needs it. Of classes
written for another suite nothing is kept, as their hyperparameters come from code that may change elsewhere.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from dgbench.catalogue.composed import ComposedEntry, compose
from dgbench.catalogue.entry import KINDS, CatalogueEntry, forget_if_changed
from dgbench.catalogue.index import entries_of, package_entries
from dgbench.core.errors import Problems, UserError
from dgbench.core.paths import check_path
from dgbench.core.site import split_include
from dgbench.core.wording import unknown_name
from dgbench.networks.backbones import ALIASES, SMALL
from dgbench.networks.own import add_source, classes_of, full_name

if TYPE_CHECKING:
    from dgbench.data.dataset import Dataset

OF_YOURS = "a class of yours needs --include FILE.py"
"""Advice in messages about unknown names of entries."""


class Catalogue:
    """All entries by name, and the data sets opened so far.

    Names are unique over all kinds, so that each word of `SAM+SWAD` has one meaning. Finding the entries reads about a
    hundred files, so a command makes one catalogue and hands it on.
    """

    def __init__(self, include: Sequence[str | Path] = ()) -> None:
        """Check the paths of included files; entries are found when they are first needed.

        Args:
            include: Files with further entries, as `file.py` or `file.py:Name`.

        Raises:
            UserError: All paths that are not valid, or all that don't exist.
        """
        split, problems = [split_include(str(path)) for path in include], Problems()
        for file, _ in split:
            with problems.collecting():
                check_path(file, "--include")
        problems.raise_if_any()
        files = [(Path(file).resolve(), name) for file, name in split]
        self.include = tuple(f"{file}:{name}" if name else str(file) for file, name in files)
        missing = [str(file) for file, _ in files if not file.is_file()]
        if missing:
            raise UserError(*(f"--include {path}: there is no such file" for path in missing))
        for path, _ in files:
            forget_if_changed(path)
        self._digests = [add_source(file) for file, _ in files]
        self._stepped: dict[str, CatalogueEntry] = {}
        self._with_values: dict[tuple[str, str], CatalogueEntry] = {}
        self.opened: dict[tuple[object, ...], Dataset] = {}
        """Data sets that `sources.open_dataset` has opened; of two catalogues, each may have a class of one name."""

    def including(self, include: Sequence[str | Path]) -> Catalogue:
        """Return the catalogue with these included files and no others, which is this one if it has the same."""
        other = Catalogue(include)
        return self if other.include == self.include else other

    @cached_property
    def entries(self) -> dict[str, CatalogueEntry]:
        """The entries by name, sorted without regard to case.

        Raises:
            UserError: Two files claim one name.
        """
        found: dict[str, CatalogueEntry] = {}
        for entry in self._find():
            if entry.name in found and found[entry.name].file != entry.file:
                raise UserError(f"two files claim the name {entry.name!r}: {found[entry.name].file} and {entry.file}")
            found[entry.name] = entry
        for entry in [entry for entry in found.values() if getattr(entry.card, "rule", "")]:
            rule = found.get(entry.card.rule)
            if rule is None or rule.kind != "rule":
                rules = [name for name, other in found.items() if other.kind == "rule"]
                raise UserError(f"{entry.file}: card of {entry.name}: {unknown_name('rule', entry.card.rule, rules)}")
            found[entry.name] = compose(entry, rule, entry.name, _shared(found.values()))
        return dict(sorted(found.items(), key=lambda item: item[0].lower()))

    def of_kind(self, kind: str) -> dict[str, CatalogueEntry]:
        """Return the entries of one kind by name."""
        return {name: entry for name, entry in self.entries.items() if entry.kind == kind}

    def _is_rule(self, name: str) -> bool:
        return name in self.entries and self.entries[name].kind == "rule"

    @property
    def algorithms(self) -> dict[str, CatalogueEntry]:
        """Every algorithm by name, step rules alone among them, which are of the baseline."""
        names = (name for name, entry in self.entries.items() if entry.kind in ("algorithm", "rule"))
        return {name: self.get("algorithm", name) for name in names}

    def get(self, kind: str, name: str) -> CatalogueEntry:
        """Return the entry of that kind and name.

        An algorithm may be named with the step rule that takes its steps, `CORAL+SAM`; a rule alone is one, too. A name
        of a method may end in values of its hyperparameters, `CORAL+SAM:rho=0.1`.

        Raises:
            UserError: There is none (the message suggests the nearest match), the rule can't step the algorithm, or the
                values are invalid.
        """
        if ":" in name and kind != "dataset":
            if (kind, name) not in self._with_values:
                plain, _, text = name.partition(":")
                self._with_values[kind, name] = self.get(kind, plain).with_values(text)
            return self._with_values[kind, name]
        if kind == "algorithm" and ("+" in name or self._is_rule(name)):
            if name not in self._stepped:
                algorithm, _, rule = name.partition("+") if "+" in name else ("", "", name)
                self._stepped[name] = self._with_rule(algorithm, rule, name)
            return self._stepped[name]
        entry = self.entries.get(name)
        if entry is None or entry.kind != kind:
            what = "data set" if kind == "dataset" else kind
            raise UserError(unknown_name(what, name, self.of_kind(kind), OF_YOURS))
        return entry

    @cached_property
    def baseline(self) -> str:
        """Name of the algorithm that a bare average, merger or adapter applies to, such as ERM.

        Raises:
            UserError: Several cards claim to be the baseline.
        """
        found = [entry for entry in self.of_kind("algorithm").values() if entry.card.baseline]
        if len(found) > 1:
            claims = " and ".join(f"{entry.name} in {entry.file}" for entry in found)
            raise UserError(f"one algorithm is the baseline, but these cards claim it: {claims}")
        return found[0].name

    def network(self, name: str) -> str:
        """Return the full name of a network, `Class@digest`, if an included file defines it; else the name as it is.

        Raises:
            UserError: Several files define it, or one of dgbench's networks has its name.
        """
        return full_name(name, self._digests, (*ALIASES, *SMALL))

    @property
    def networks(self) -> dict[str, Path]:
        """Full name of each class of included files that may be a network -> its file; other entries are left out."""
        found = classes_of(self._digests)
        return {name: file for name, file in found.items() if name.partition("@")[0] not in self.entries}

    def __contains__(self, name: str) -> bool:
        """Return whether a name is an entry's, or that of an algorithm with a rule."""
        return all(word in self.entries for word in name.split("+"))

    def method(self, name: str) -> CatalogueEntry:
        """Return the entry of a run's method by its name, whichever its kind; raise UserError if there is none."""
        entry = self.entries.get(name)
        return entry if entry is not None and entry.kind != "rule" else self.get("algorithm", name)

    def _with_rule(self, algorithm: str, rule: str, name: str) -> CatalogueEntry:
        """Return the entry of an algorithm whose steps a rule takes; of none, that of the rule alone."""
        entry = self.get("rule", rule)
        if not algorithm:
            return dataclasses.replace(entry, kind="algorithm")
        stepped = self.get("algorithm", algorithm)
        bare = stepped.parts[0] if isinstance(stepped, ComposedEntry) else stepped
        return compose(bare, entry, name, _shared(self.entries.values()))

    def _find(self) -> Iterator[CatalogueEntry]:
        """Yield the entries of the package, of entry points and of included files, in this order."""
        yield from package_entries()
        installed = entry_points()  # reads the metadata of every installed package, at each call
        for point in (point for kind in KINDS for point in installed.select(group=f"dgbench.{kind}s")):
            try:
                # Finds the module's file without importing it: the index may know its entries already.
                spec = importlib.util.find_spec(point.module)
            except ModuleNotFoundError:  # a package above the module is missing
                spec = None
            if spec is None or spec.origin is None:
                raise UserError(f"entry point {point.name} of group {point.group}: there is no module {point.module}")
            yield from entries_of(point.module, Path(spec.origin))
        for path in self.include:
            included, name = split_include(path)
            if name:
                from dgbench.catalogue.foreign import foreign_entry  # hardly any catalogue has one, so not at start-up

                yield foreign_entry(Path(included), name)
            else:
                yield from entries_of("", Path(included))


def _shared(entries: Iterable[CatalogueEntry]) -> frozenset[str]:
    """Return the hyperparameters that every algorithm has: those of the baseline."""
    (baseline, *_) = (entry for entry in entries if entry.kind == "algorithm" and entry.card.baseline)
    return frozenset(spec.name for spec in baseline.space)


@cache
def shared_catalogue(include: tuple[str, ...]) -> Catalogue:
    """Return the catalogue that the runs of this process share, made at the first call.

    The fork server makes it before it forks (`dgbench.execute.job.preload`), so that the runs' processes inherit its
    entries and the data sets that it opened. Commands make their own instead: in a notebook, a file may change between
    two of them.
    """
    return Catalogue(include)
