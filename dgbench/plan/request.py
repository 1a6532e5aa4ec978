"""Requests, the changes to hyperparameters that go with them, and the values that both give an entry."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dgbench.catalogue.entry import CatalogueEntry
from dgbench.catalogue.rows import Row
from dgbench.core.protocol import Protocol
from dgbench.core.run import ResolvedEntry
from dgbench.core.setting import Setting
from dgbench.core.space import Draw, Value
from dgbench.data.facts import DatasetFacts, resolve_batch_norm, traits_of

Values = Callable[[str, str, str, Setting, int, int], ResolvedEntry]
"""Kind and name of an entry, data set, its setting (resolved), hyperparameter seed, trial -> entry with its values."""


MOST_RUNS = 1_000_000
"""Of one request on one data set. Planning so many takes a minute; the largest published sweep has 58,800."""


@dataclass(frozen=True)
class Request:
    """One `launch`: rows x data sets x folds x trials x hyperparameter seeds."""

    rows: tuple[Row, ...]
    datasets: tuple[str, ...]
    protocol: Protocol
    hparams_seeds: tuple[int, ...]
    trials: tuple[int, ...]


def setting_below(hparams: Mapping[str, Value], facts: DatasetFacts, setting: Setting) -> Setting:
    """Return the setting of the runs that an algorithm's run stands on (`stands_on`), by its hyperparameters.

    It differs in the network alone, where `teacher_backbone` names another: a teacher is shown the same images.

    Args:
        hparams: The hyperparameters of the run above.
        facts: Its data set, which says what `auto` stands for.
        setting: Its own setting, resolved.
    """
    backbone = facts.network(str(hparams["teacher_backbone"]) or setting.backbone)
    if backbone == setting.backbone:
        return setting
    return resolve_batch_norm(dataclasses.replace(setting, backbone=backbone, weights=""), facts)


@dataclass(frozen=True)
class Overrides:
    """Changes to the hyperparameter spaces that hold for a whole sweep."""

    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Values for every algorithm that has the name, whatever the hyperparameter seed."""
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The same for one entry: `{"SWAD": {"tolerance_ratio": 0.2}}`."""
    draws: Mapping[str, Draw] = field(default_factory=dict)
    """Distributions in place of the declared ones, for every algorithm that has the name."""

    def resolve(
        self, entry: CatalogueEntry, facts: DatasetFacts, setting: Setting, seed: int, trial: int
    ) -> ResolvedEntry:
        """Return an entry with its values of one draw; overrides of all algorithms touch only names that it has.

        Args:
            entry: The algorithm, average, merger or adapter.
            facts: The data set, by whose name and traits defaults and draws vary.
            setting: Its setting, resolved, by whose network they vary too.
            seed: The hyperparameter seed.
            trial: The trial, of which draws depend as well.

        Raises:
            UserError: Values that were overridden don't go together with the others.
        """
        of_all = self if entry.kind == "algorithm" else Overrides()
        fixed = {name: value for name, value in of_all.fixed.items() if entry.takes(name)}
        draws = {name: draw for name, draw in of_all.draws.items() if entry.takes(name)}
        fixed |= self.parts.get(entry.name, {})
        traits = traits_of(facts, setting)
        hparams = entry.resolve(facts.name, traits=traits, hparams_seed=seed, trial=trial, fixed=fixed, draws=draws)
        if fixed or draws:
            entry.check(hparams)
        return ResolvedEntry(entry.name, hparams)

    def describe(self) -> Iterator[str]:
        """Each in words: `batch_size 32`, `SWAD tolerance_ratio 0.2`, `lr ~ 10^U(-5, -3)`."""
        yield from (f"{name} {value}" for name, value in self.fixed.items())
        yield from (f"{entry} {name} {value}" for entry, own in self.parts.items() for name, value in own.items())
        yield from (f"{name} ~ {draw}" for name, draw in self.draws.items())
