"""Plan the runs that train nothing: those that merge, adapt or analyze the models of training runs.

A cell of a table asks for a row on a data set. The planner trains the row's algorithm there, once for each fold, trial
and draw of hyperparameters, and `DerivedRuns` builds on those runs what the rest of the row's name says:

    training runs ──▶ the row's average, or the model ──▶ merger ──▶ adapter ──▶ the predictors of the cell
                                                                                        └──▶ analyses of them

A merger of many takes all runs of a fold and trial and leaves one predictor. A merger of each run, an adapter and most
analyses take predictors one by one. The same inputs, method and draw give the same run: rows that share a prefix of
their names share the runs of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal, NamedTuple, TypeAlias

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.rows import Row
from dgbench.core.cards import MergerCard
from dgbench.core.protocol import Fold
from dgbench.core.run import ALL_TRIALS, MODEL, Input, Run
from dgbench.core.seeding import numpy_stream, seed_hash
from dgbench.core.wording import group_values
from dgbench.plan.request import Values

MEMBER_DRAWS = 5
"""Draws of members for each point of a curve over their number."""
_ENTRIES = {"merge": "merger", "adapt": "adapter", "analyze": "analysis"}
"""Kind of a run that trains nothing -> the kind of its catalogue entry."""


class PlannedPredictor(NamedTuple):
    """A predictor that a selector may choose for a cell of a table."""

    run: Run
    """The run that yields it."""
    predictor: str
    """Its name in that run: `MODEL`, or an average."""

    @property
    def source(self) -> Input:
        """This predictor as an input of another run."""
        return Input(self.run.id, self.predictor)


class TrainedRun(NamedTuple):
    """A training run, as the runs see it that stand on it."""

    run: Run
    """The run."""
    drawn_in: int
    """The trial whose draw of hyperparameters it has: its own, unless it repeats a choice."""


Trained: TypeAlias = Mapping[tuple[Fold, int], Sequence[TrainedRun]]
"""(fold, trial) -> the training runs of all draws there."""


def draw_members(trained: Sequence[TrainedRun], number: int) -> list[list[TrainedRun]]:
    """Draw some of the runs of one fold and trial, several times; each draw continues that of a smaller number.

    Args:
        trained: The runs.
        number: How many runs a draw takes; the first draw takes the first ones.

    Returns:
        At most `MEMBER_DRAWS` draws, no two alike, each in the order of `trained`.
    """
    first = trained[0].run
    draws: dict[tuple[int, ...], None] = {}
    for draw in range(MEMBER_DRAWS):
        stream = numpy_stream(seed_hash(first.dataset, list(first.fold.held_out), first.trial), "members", str(draw))
        order = stream.permutation(len(trained)) if draw else range(len(trained))
        draws[tuple(sorted(int(place) for place in order[:number]))] = None
    return [[trained[place] for place in places] for places in draws]


@dataclass
class DerivedRuns:
    """Makes merge, adapt and analyze runs, each once; the planner has one."""

    catalogue: Catalogue
    values: Values
    streams: Mapping[str, str]
    """Data set -> the stream of its adapters."""
    runs: list[Run]
    """The planner's runs, to which new ones are added."""
    made: dict[tuple[object, ...], Run] = field(default_factory=dict)
    """(kind, method, data set, inputs, trial that draws) -> the run."""

    def joins(self, row: Row) -> bool:
        """Return whether a row's merger makes one predictor of several runs, so that their number matters."""
        card = self._merger(row)
        return card is not None and not card.each

    def predictors(self, row: Row, trained: Trained) -> tuple[PlannedPredictor, ...]:
        """Return the predictors of a row on a data set; make the merge and adapt runs that are new.

        Args:
            row: The row.
            trained: Its training runs on the data set.
        """
        return tuple(made for trial, runs in self._pooled(row, trained) for made in self.of_pool(row, trial, runs))

    def of_pool(self, row: Row, trial: int, trained: Sequence[TrainedRun]) -> list[PlannedPredictor]:
        """Return the predictors of a row that stand on some training runs; make the merge and adapt runs that are new.

        Args:
            row: The row.
            trial: The runs' trial, or `ALL_TRIALS`.
            trained: The training runs.
        """
        predictor = self.catalogue.get("average", row.average).name if row.average else MODEL
        found = [PlannedPredictor(run, predictor) for run, _ in trained]
        drawn_in = [each.drawn_in for each in trained] if row.merger or row.adapter else []
        if self.joins(row):
            # A merger of runs of several hyperparameter seeds belongs to none of them. It takes the number 0, and the
            # first run only lends what is the same for all: data set, fold and setting.
            base = dataclasses.replace(trained[0].run, hparams_seed=0, trial=trial)
            found, drawn_in = [self._derive("merge", row.merger, base, trial, found)], [trial]
        elif row.merger:
            found = self._derive_each("merge", row.merger, found, drawn_in)
        return self._derive_each("adapt", row.adapter, found, drawn_in) if row.adapter else found

    def point_of_curve(self, row: Row, trained: Trained, number: int) -> tuple[PlannedPredictor, ...]:
        """Return the predictors of a merged row from `number` of its runs, for a few draws of them; make new runs.

        Args:
            row: The row; it `joins`.
            trained: Its training runs on the data set.
            number: How many of each fold and trial are merged.
        """
        # One run is no merge: its own model is the beginning of the curve.
        own = dataclasses.replace(row, merger="") if number == 1 else row
        found: dict[tuple[str, str], PlannedPredictor] = {}
        for trial, runs in self._pooled(row, trained):
            for chosen in draw_members(runs, number):
                found |= {(made.run.id, made.predictor): made for made in self.of_pool(own, trial, chosen)}
        return tuple(found.values())

    def analyses(self, analysis: str, measured: Sequence[PlannedPredictor]) -> list[Run]:
        """Return the runs that measure predictors, one each or one for each fold and trial; make those that are new.

        Args:
            analysis: Name of the analysis; its card says whether it takes the models of a fold and trial together.
            measured: The predictors of a row on a data set.
        """
        if self.catalogue.get("analysis", analysis).card.takes == "model":
            return [self._derive("analyze", analysis, one.run, one.run.trial, [one]).run for one in measured]
        pools = group_values(((each.run.fold, each.run.trial), each) for each in measured).values()
        # As with a merger, what runs share is the first's, and of several draws none has the number.
        bases = [dataclasses.replace(pool[0].run, hparams_seed=0) for pool in pools]
        return [
            self._derive("analyze", analysis, base, base.trial, pool).run
            for base, pool in zip(bases, pools, strict=True)
        ]

    def analyses_across(self, analysis: str, measured: Sequence[Sequence[PlannedPredictor]]) -> list[Run]:
        """Return the runs that compare rows, one for each fold, trial and draw; make those that are new.

        Args:
            analysis: Name of the analysis.
            measured: The predictors of each row on a data set. A row with a single one in a fold and trial, because it
                merges its draws or learns nothing, enters each comparison there.
        """
        rows = [group_values(((one.run.fold, one.run.trial), one) for one in predictors) for predictors in measured]
        found = []
        for spot in (spot for spot in rows[0] if all(spot in row for row in rows)):
            pools = [{one.run.hparams_seed: one for one in row[spot]} for row in rows]
            draws = [pool for pool in pools if len(pool) > 1] or pools[:1]
            for seed in (seed for seed in draws[0] if all(seed in pool for pool in draws)):
                models = [pool[seed] if len(pool) > 1 else next(iter(pool.values())) for pool in pools]
                base = dataclasses.replace(models[0].run, hparams_seed=seed)
                found.append(self._derive("analyze", analysis, base, base.trial, models).run)
        return found

    def _merger(self, row: Row) -> MergerCard | None:
        return self.catalogue.get("merger", row.merger).card if row.merger else None

    def _pooled(self, row: Row, trained: Trained) -> list[tuple[int, Sequence[TrainedRun]]]:
        """Return (trial, training runs) for each set of runs that a row treats together.

        These are the runs of a fold and trial, or of a fold if the row's merger takes all trials, whose trial is then
        `ALL_TRIALS`.
        """
        card = self._merger(row)
        if card is None or not card.all_trials:
            return [(trial, runs) for (_, trial), runs in trained.items()]
        of_fold = group_values((fold, runs) for (fold, _), runs in trained.items())
        return [(ALL_TRIALS, [*chain.from_iterable(runs)]) for runs in of_fold.values()]

    def _derive_each(
        self,
        kind: Literal["merge", "adapt"],
        method: str,
        sources: Sequence[PlannedPredictor],
        drawn_in: Sequence[int],
    ) -> list[PlannedPredictor]:
        """Return `_derive` of each source by itself."""
        return [
            self._derive(kind, method, source.run, trial, [source])
            for source, trial in zip(sources, drawn_in, strict=True)
        ]

    def _derive(
        self,
        kind: Literal["merge", "adapt", "analyze"],
        method: str,
        base: Run,
        drawn_in: int,
        sources: Sequence[PlannedPredictor],
    ) -> PlannedPredictor:
        """Return the run that merges, adapts or analyzes `sources`, made if it is new.

        Its hyperparameters are drawn with the seed of `base` in the trial `drawn_in`; other fields are those of `base`,
        and an adapter's setting holds the stream.
        """
        inputs = tuple(source.source for source in sources)
        # The inputs' ids stand for all else: fold, trial, setting and the members' hyperparameters.
        key = (kind, method, base.dataset, inputs, drawn_in)
        if key not in self.made:
            part = self.values(_ENTRIES[kind], method, base.dataset, base.setting)(base.hparams_seed, drawn_in)
            stream = self.streams[base.dataset] if kind == "adapt" else ""
            same = base.setting.stream == stream
            setting = base.setting if same else dataclasses.replace(base.setting, stream=stream)
            self.made[key] = dataclasses.replace(
                base, kind=kind, method=part, setting=setting, averages=(), inputs=inputs
            )
            self.runs.append(self.made[key])
        return PlannedPredictor(self.made[key], MODEL)
