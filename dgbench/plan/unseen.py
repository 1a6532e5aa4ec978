"""Check for every run of a plan that its evaluated examples are unseen, by its own training and by that of the runs
below it: merged members, teachers, adapted models, and the inputs of any further kind of run.

The answer follows from how examples are dealt to domains and divided into parts (`data.splits`), so that no kind of run
needs a rule of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

from dgbench.core.cards import GENERATED
from dgbench.core.protocol import View
from dgbench.core.run import Run, evaluated_views
from dgbench.data.facts import DatasetFacts


class Draw(NamedTuple):
    """The trial and seed that decide which examples the views of a run hold."""

    trial: int
    data_seed: int
    """0 of data that draw nothing."""


class Trained(NamedTuple):
    """The views that a run was trained on, or that the linear probe was fitted to that it started from."""

    views: tuple[View, ...]
    draw: Draw
    probe: bool = False
    """Whether it is a probe that all trials share, who validate on some of its examples: see `Setting`."""


_Seen: TypeAlias = tuple[View, Draw, Trained]


def examples_of(run: Run, facts: DatasetFacts) -> Draw:
    """Return the draw that decides which examples the views of a training run hold."""
    return Draw(run.trial, run.data_seed if GENERATED in facts.traits else 0)


def may_share(facts: DatasetFacts, one: tuple[View, Draw], other: tuple[View, Draw]) -> bool:
    """Return whether two views, each under its draw, can hold the same example, or the same identity."""
    (view, draw), (other_view, other_draw) = one, other
    if draw.data_seed != other_draw.data_seed:
        return True  # each deals the examples of all domains anew
    if facts.parts:  # whose domains are ways of splitting the same examples, alike in all trials
        divided_alike = view.domain == other_view.domain
    elif view.domain != other_view.domain and not facts.shared_identities:
        return False
    else:
        divided_alike = draw.trial == other_draw.trial
    return view.part == other_view.part or not divided_alike


def seen_before(
    runs: Iterable[Run], cells: Iterable[tuple[str, Run]], facts: Mapping[str, DatasetFacts]
) -> Iterator[str]:
    """Yield a problem for each row with a run evaluated on examples that it, or a run below it, trained on.

    Args:
        runs: Those of a plan, each after its inputs.
        cells: Row and run of each predictor that may stand in a table.
        facts: Data set -> its facts.
    """
    found, told = _seen(runs, facts), set[tuple[str, str]]()
    for row, run in cells:
        if run.id in found and (row, run.dataset) not in told:
            told.add((row, run.dataset))
            yield f"{row}: {_why(run, facts[run.dataset], *found[run.id])}"


def _seen(runs: Iterable[Run], facts: Mapping[str, DatasetFacts]) -> dict[str, _Seen]:
    """Return run id -> a view that it is evaluated on, its draw, and a training on some of the same examples.

    Runs that are evaluated on nothing seen are left out.
    """
    draws: dict[str, Draw] = {}
    trained: dict[str, frozenset[Trained]] = {}
    known: dict[tuple[object, ...], _Seen | None] = {}
    seen = {}
    for run in runs:
        own = examples_of(run, facts[run.dataset])
        if run.kind == "train":
            below = frozenset((Trained(run.fold.train, own),))
            if run.setting.classifier_init == "linear_probe" and run.setting.init == "sweep":
                below |= {Trained(run.fold.train, examples_of(run.probed, facts[run.dataset]), probe=True)}
        else:
            # It is evaluated on the data of the first run that it stands on, divided by its own trial.
            own, below = Draw(run.trial, draws[run.inputs[0].run].data_seed), frozenset()
        draws[run.id] = own
        trained[run.id] = below.union(*(trained[source.run] for source in run.inputs))
        asked = (run.dataset, id(run.fold), own, trained[run.id])
        if asked not in known:
            known[asked] = _first_seen(run, own, trained[run.id], facts[run.dataset])
        if first := known[asked]:
            seen[run.id] = first
    return seen


def _first_seen(run: Run, own: Draw, trained: Iterable[Trained], facts: DatasetFacts) -> _Seen | None:
    for view in evaluated_views(run.fold, run.trial):
        for training in sorted(trained):
            if training.probe and view in run.fold.source_val:
                continue
            if any(may_share(facts, (view, own), (other, training.draw)) for other in training.views):
                return view, own, training
    return None


def _why(run: Run, facts: DatasetFacts, view: View, own: Draw, training: Trained) -> str:
    """Explain why examples of a view are seen, and the way out."""
    if own.data_seed != training.draw.data_seed:
        alike = "sweep" if own.trial != training.draw.trial else "trial"
        below = "the linear probe that all trials share has" if training.probe else "runs that it stands on have"
        return (
            f"{facts.name} is drawn anew for each {run.setting.generated_data}, so {below} trained "
            f'on what it is evaluated on. Add --hparams \'{{"generated_data": "{alike}"}}\''
        )
    if training.probe:
        return (
            f"each trial divides {facts.name} anew, so the linear probe that all trials share has trained on what it "
            f'is evaluated on ({view}). Add --hparams \'{{"init": "trial"}}\''
        )
    way_out = ", or let no tested domain train" if view.domain in run.fold.training_domains else ""
    return (
        f"each trial divides {facts.name} anew, so runs of other trials, on which it stands, have trained on what it "
        f"is evaluated on ({view}). Leave it out{way_out}"
    )
