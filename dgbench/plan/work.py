"""Count the work of each run of a plan, in steps and examples, by the cards of its methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.cards import MODELS
from dgbench.core.halving import outlooks
from dgbench.core.protocol import IN, NEW, View
from dgbench.core.run import Run
from dgbench.data.facts import DatasetFacts
from dgbench.data.splits import NEW_SHARE
from dgbench.plan.plan import Plan

STATISTICS = 500
"""Most minibatches on which batch-norm statistics are measured; a run of fewer steps has fewer."""


class Work(NamedTuple):
    """The work of one run. Of a run that a search may drop, the part that it is expected to do."""

    steps: float = 0.0
    """Optimizer steps."""
    passes: float = 0.0
    """Examples trained on, weighted by the passes of their method so that ERM's count 1. A forward pass counts 1/3 and
    a backward pass 2/3.
    """
    evaluations: float = 0.0
    """Times that records, and a checkpoint where there is one, are written."""
    evaluated: float = 0.0
    """Examples predicted, over all predictors and evaluations. A model that is both best and last counts twice."""
    analyzed: float = 0.0
    """Examples that an analysis passes through models, by what its card says; a backward pass counts as two."""
    further: float = 0.0
    """Further forward passes of evaluated examples: those of an ensemble's other members, and of adapters that pass
    an example several times or back.
    """
    measured: float = 0.0
    """Minibatches of all training domains passed forward to measure batch-norm statistics, if batch norm is live."""

    @property
    def forwards(self) -> float:
        """Examples passed forward outside of training steps."""
        return self.evaluated + self.further + self.analyzed

    @property
    def all(self) -> float:
        """All of it, in examples passed forward and backward; to predict one is a third of that."""
        return self.passes + self.forwards / 3


@dataclass
class Workload:
    """The work of the runs of one plan. It remembers sizes of views, so make one for many runs."""

    plan: Plan
    catalogue: Catalogue
    _sizes: dict[tuple[str, int], int] = field(default_factory=dict, init=False)
    """(data set, identity of the fold) -> examples in the views that its runs evaluate."""
    _shares: dict[str, float] = field(init=False)
    """Id of a run that a search may drop -> the share of its work that it is expected to do."""

    def __post_init__(self) -> None:
        outlook = ((id, found) for bracket in self.plan.brackets for id, found in outlooks(bracket, {}).items())
        self._shares = {id: found.goal for id, found in outlook}

    def examples(self, run: Run) -> int:
        """Return the number of examples in the views that a run evaluates."""
        # By identity of the fold, which is slow to hash: a plan may have a million runs and has few folds.
        place = (run.dataset, id(run.fold))
        if place not in self._sizes:
            self._sizes[place] = evaluated_examples(self.plan.datasets[run.dataset], run)
        return self._sizes[place]

    def of(self, run: Run) -> Work:
        """Return the work of a run of the plan."""
        share = self._shares[run.id] if self._shares and run.id in self._shares else 1.0
        views, steps = self.examples(run), run.setting.steps
        if run.kind == "train":
            card = self.catalogue.get("algorithm", run.method.name).card
            domains = self.plan.datasets[run.dataset].domains_in_step(run.fold, run.setting)
            examples = domains * int(run.method.hparams["batch_size"]) * steps
            # A backward pass computes gradients of both weights and activations, so it costs about two forward passes.
            passes = examples * (card.forwards + 2 * card.backwards) / 3
            evaluations, averages = run.setting.evaluations, self._of_averages(run)
            found = Work(
                steps=steps,
                passes=passes,
                evaluations=evaluations,
                evaluated=views * (evaluations + sum(count for count, _ in averages)),
                measured=min(STATISTICS, steps) * sum(count for count, measured in averages if measured),
            )
            return found if share == 1 else Work(*(share * each for each in found))
        if run.kind == "analyze":
            return Work(analyzed=share * _analyzed(self.plan.datasets[run.dataset], run, self.catalogue))
        if run.kind == "adapt":
            card = self.catalogue.get("adapter", run.method.name).card
            further = max(0.0, card.forwards + 2 * card.backwards - 1)
            return Work(evaluations=2 * share, evaluated=2 * share * views, further=2 * share * views * further)
        card = self.catalogue.get("merger", run.method.name).card
        others = len(run.inputs) - 1 if card.ensemble else 0
        measured = 0 if card.ensemble else min(STATISTICS, steps)
        return Work(
            evaluations=share, evaluated=share * views, further=share * views * others, measured=share * measured
        )

    def _of_averages(self, run: Run) -> Sequence[tuple[int, bool]]:
        """Return for each average of a run how often it is evaluated, and whether its statistics are measured then."""
        cards = (self.catalogue.get("average", average.name).card for average in run.averages)
        return [
            (run.setting.evaluations if card.when == "always" else 1, card.batch_norm == "measured") for card in cards
        ]


def _analyzed(facts: DatasetFacts, run: Run, catalogue: Catalogue) -> float:
    """Return the number of examples that an analysis passes through models, with training and evaluated views."""
    entry = catalogue.get("analysis", run.method.name)
    # Of optional hyperparameters that the run doesn't name, the default.
    values = {spec.name: spec.default for spec in entry.space} | dict(run.method.hparams) | {MODELS: len(run.inputs)}
    most = float(values[entry.card.examples]) if entry.card.examples else math.inf
    views = dict.fromkeys((*run.fold.train, *run.views))
    examples = sum(min(most, view_size(facts, view, run.setting.holdout_fraction)) for view in views)
    passes = sum(
        math.prod(float(values[each]) if isinstance(each, str) else each for each in product)
        for product in entry.card.passes
    )
    return examples * passes


def evaluated_examples(facts: DatasetFacts, run: Run) -> int:
    """Return the number of examples in the views that a run evaluates."""
    return sum(view_size(facts, view, run.setting.holdout_fraction) for view in run.views)


def view_size(facts: DatasetFacts, view: View, holdout_fraction: float) -> int:
    """Return the number of examples of a view.

    It is exact unless groups decide the split (the data set's examples share identities, patients, ...), where it is
    close.

    Args:
        facts: Facts of the data set.
        view: The view.
        holdout_fraction: Share of each domain that is its `out` part.
    """
    if facts.parts:
        return facts.parts[str(view)]
    n = facts.counts[facts.domains.index(view.domain)]
    if facts.shared_identities:
        new = int(n * NEW_SHARE)
        if view.part == NEW:
            return new
        n -= new
    # Truncated as in `data.splits`, so that the estimate is exact for domains without groups.
    out = int(n * holdout_fraction)
    return n - out if view.part == IN else out
