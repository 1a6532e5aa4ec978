"""Define requests, and the changes to hyperparameters that hold for a whole sweep."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

from dgbench.catalogue.entry import CatalogueEntry
from dgbench.catalogue.rows import Row
from dgbench.core.cards import AlgorithmCard
from dgbench.core.protocol import Protocol
from dgbench.core.run import ResolvedEntry
from dgbench.core.setting import Setting
from dgbench.core.space import Draw, Value
from dgbench.data.facts import DatasetFacts, resolve_batch_norm, traits_of

T = TypeVar("T")
Resolve = Callable[[int, int], ResolvedEntry]
"""(hyperparameter seed, trial that draws) -> an entry with its values."""
Values = Callable[[str, str, str, Setting], Resolve]
"""(kind of an entry, its name, data set, resolved setting) -> the function that draws the entry's values there."""


_NOT_DRAWN = " (not drawn)"
"""Ending of a value in place of draws."""
MOST_RUNS = 1_000_000
"""Most runs of one request on one data set. Planning so many takes a minute; the largest published sweep has 58,800."""


@dataclass(frozen=True)
class Repeat:
    """The origin of a draw of hyperparameters that a search chose, and that further trials train again."""

    selector: str
    """Name of the selector that chose it."""
    drawn_in: int
    """The trial of the search in which it was drawn: each trial draws afresh."""


@dataclass(frozen=True)
class Request:
    """One launch, or a part of it: rows x data sets x folds x trials x hyperparameter seeds.

    The requests of a sweep are planned as one, so a launch that asks for more trials or methods adds to the runs that
    exist. An average is part of the runs that it watches: asking for one later makes those runs anew, under new ids.
    """

    rows: tuple[Row, ...]
    """Rows of the tables."""
    datasets: tuple[str, ...]
    """Names of data sets."""
    protocol: Protocol
    """Yields the folds of each data set."""
    hparams_seeds: tuple[int, ...]
    """Hyperparameter seeds; 0 stands for the defaults."""
    trials: tuple[int, ...]
    """Trials, counted from 0."""
    repeats: Repeat | None = None
    """The choice of a search that all trials repeat; None: this is a search, and each trial draws by itself."""
    members: tuple[int, ...] = ()
    """Numbers of runs that rows with a merger are also merged from, for a curve over members; empty: none."""

    def drawn_in(self, trial: int) -> int:
        """Return the trial whose draws of hyperparameters a trial trains with."""
        return self.repeats.drawn_in if self.repeats else trial


def setting_below(hparams: Mapping[str, Value], facts: DatasetFacts, setting: Setting) -> Setting:
    """Return the setting of the runs that teach an algorithm's run, given the student's hyperparameters.

    Only the network may differ, where `teacher_backbone` names another: both see the same images.

    Args:
        hparams: Hyperparameters of the student's run.
        facts: Facts of its data set, which resolve the backbone `auto`.
        setting: The student's setting, resolved.
    """
    backbone = facts.network(str(hparams["teacher_backbone"]) or setting.backbone)
    if backbone == setting.backbone:
        return setting
    return resolve_batch_norm(dataclasses.replace(setting, backbone=backbone, weights=""), facts)


def setting_of(card: AlgorithmCard, setting: Setting) -> Setting:
    """Return the setting of an algorithm's runs: the sweep's, but for what the algorithm's card decides.

    Args:
        card: The algorithm's.
        setting: Of the sweep on a data set, resolved.
    """
    # One step, after which it is evaluated; warm-up and schedules then mean nothing.
    length: dict[str, Any] = {} if card.learns else {"steps": 1, "checkpoint_freq": 1}
    return dataclasses.replace(setting, **card.setting, **length) if card.setting or length else setting


def _beside(values: Mapping[str, T], usual: Mapping[str, T]) -> dict[str, T]:
    return {name: value for name, value in values.items() if name not in usual or usual[name] != value}


@dataclass(frozen=True)
class Overrides:
    """Changes to hyperparameters that hold for a whole sweep, from `--hparams` and from a sweep file's `[space]`."""

    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Hyperparameter -> value at every seed, for all algorithms that have it."""
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Entry -> the same for this entry alone: `{"SWAD": {"tolerance_ratio": 0.2}}`."""
    draws: Mapping[str, Draw] = field(default_factory=dict)
    """Hyperparameter -> distribution in place of the declared one, for all algorithms that have it."""

    def joined_with(self, above: Overrides) -> Overrides:
        """Return these changes and those of `above`, which win where both give a value."""
        parts = {
            name: {**self.parts.get(name, {}), **above.parts.get(name, {})} for name in (*self.parts, *above.parts)
        }
        return Overrides({**self.fixed, **above.fixed}, parts, {**self.draws, **above.draws})

    def beside(self, usual: Overrides) -> Overrides:
        """Return the changes that are not the same in `usual`."""
        mine = {name: _beside(values, usual.parts.get(name, {})) for name, values in self.parts.items()}
        return Overrides(
            _beside(self.fixed, usual.fixed),
            {name: values for name, values in mine.items() if values or not self.parts[name]},
            _beside(self.draws, usual.draws),
        )

    def resolver(self, entry: CatalogueEntry, facts: DatasetFacts, setting: Setting) -> Resolve:
        """Return the function that resolves an entry's values in each draw on a data set.

        `fixed` and `draws` apply to algorithms, and there to the names that the algorithm has; `parts` applies to any
        entry. Values that the row's name has (`SAM:rho=0.1`) win over all of them.

        Args:
            entry: The algorithm, average, merger or adapter.
            facts: Facts of the data set, by whose name and traits defaults and draws vary.
            setting: Its resolved setting, by whose network they vary too.

        Returns:
            The function; each trial draws afresh. It raises UserError if an overridden value conflicts with the others.
        """
        of_all = self if entry.kind == "algorithm" else Overrides()
        fixed = {name: value for name, value in of_all.fixed.items() if entry.takes(name)}
        draws = {name: draw for name, draw in of_all.draws.items() if entry.takes(name)}
        for word in entry.words:
            fixed |= self.parts.get(word, {})
        fixed |= entry.values
        traits = traits_of(facts, setting)

        # Refusals, teachers and runs all ask for the same draws, most of them many times.
        @cache
        def resolve(seed: int, trial: int) -> ResolvedEntry:
            hparams = entry.resolve(facts.name, traits=traits, hparams_seed=seed, trial=trial, fixed=fixed, draws=draws)
            # The check may import the entry's class, and torch with it. Values from its own space need none.
            if fixed or draws:
                entry.check(hparams)
            return ResolvedEntry(entry.name, hparams)

        return resolve

    def describe(self, entries: Iterable[CatalogueEntry]) -> Iterator[str]:
        """Yield each change in words: `batch_size 32 (not drawn)`, `SWAD form paper`, `lr ~ 10^U(-5, -3)`.

        Args:
            entries: The sweep's algorithms, and the entries of `parts`; they decide which values would be drawn.
        """
        entries = tuple(entries)
        for name, value in self.fixed.items():
            drawn = any(entry.kind == "algorithm" and entry.draws(name) for entry in entries)
            yield f"{name} {value}{_NOT_DRAWN if drawn else ''}"
        for part, own in self.parts.items():
            for name, value in own.items():
                drawn = any(entry.name == part and entry.draws(name) for entry in entries)
                yield f"{part} {name} {value}{_NOT_DRAWN if drawn else ''}"
        yield from (f"{name} ~ {draw}" for name, draw in self.draws.items())
