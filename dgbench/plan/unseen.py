"""Check that runs are evaluated on unseen examples: on none that they, or the runs below them, were trained on.

The runs below a run are its inputs, their inputs and so on: merged members, teachers, adapted models. Each was trained
on some views, whose examples depend on how a trial divides domains into parts and, for data that are drawn, on a seed.
`may_share` decides from these alone whether two views can hold the same example. New kinds of runs need no rule: it is
enough that they name their inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

from dgbench.core.data_cards import GENERATED
from dgbench.core.protocol import View
from dgbench.core.run import Run, evaluated_views
from dgbench.data.facts import DatasetFacts


class Draw(NamedTuple):
    """The numbers that decide which examples the views of a run hold."""

    trial: int
    """Trial, which seeds the split of domains into parts."""
    data_seed: int
    """Seed of data sets that draw noise or membership; 0 for all other data."""


class Trained(NamedTuple):
    """One training that a run depends on: its own, that of a run below it, or that of a linear probe."""

    views: tuple[View, ...]
    """Views that it was trained on."""
    draw: Draw
    """The numbers that decided their examples."""
    probe: bool = False
    """Whether it is a linear probe shared by all trials, some of whose examples validate in other trials by design (see
    `Setting.classifier_init`).
    """


_Seen: TypeAlias = tuple[View, Draw, Trained]
"""A view that is evaluated, its draw, and a training on some of the same examples."""


class _Examined(NamedTuple):
    """The answer for a run, and for all like it."""

    draw: Draw
    """The draw of the examples that it is evaluated on."""
    trained: tuple[Trained, ...]
    """All trainings that it depends on."""
    seen: _Seen | None
    """The first view whose evaluation holds examples that were trained on."""


def examples_of(run: Run, facts: DatasetFacts) -> Draw:
    """Return the draw that decides the examples of a training run's views."""
    return Draw(run.trial, run.data_seed if GENERATED in facts.traits else 0)


def may_share(facts: DatasetFacts, one: tuple[View, Draw], other: tuple[View, Draw]) -> bool:
    """Return whether two views, each with its draw, can hold the same example or the same identity."""
    (view, draw), (other_view, other_draw) = one, other
    if draw.data_seed != other_draw.data_seed:
        return True  # each deals the examples of all domains anew
    if facts.parts:  # the domains are ways of splitting the same examples, and no trial changes them
        divided_alike = view.domain == other_view.domain
    elif view.domain != other_view.domain and not facts.shared_identities:
        return False
    else:
        divided_alike = draw.trial == other_draw.trial
    return view.part == other_view.part or not divided_alike


def seen_before(
    runs: Iterable[Run], cells: Iterable[tuple[str, Run]], facts: Mapping[str, DatasetFacts]
) -> Iterator[str]:
    """Yield one problem for each row and data set with runs that are evaluated on examples seen in training.

    Args:
        runs: All runs of a plan, each after its inputs.
        cells: (row, run) of each predictor that may stand in a table.
        facts: Data set -> its facts.
    """
    found, told = _seen(runs, facts), set[tuple[str, str]]()
    for row, run in cells if found else ():
        if run.id in found and (row, run.dataset) not in told:
            told.add((row, run.dataset))
            yield f"{row}: {_why(run, facts[run.dataset], *found[run.id])}"


def _seen(runs: Iterable[Run], facts: Mapping[str, DatasetFacts]) -> dict[str, _Seen]:
    """Return run id -> the first view whose evaluation holds examples that were trained on; other runs are left out."""
    found: dict[str, _Examined] = {}
    known: dict[tuple[object, ...], _Examined] = {}
    clean = set[tuple[str, int]]()
    generated = {name for name, fact in facts.items() if GENERATED in fact.traits}
    seen = {}
    for run in runs:
        below = [found[source.run] for source in run.inputs] if run.inputs else []
        if run.kind == "train":
            setting, data_seed = id(run.setting), run.data_seed if run.dataset in generated else 0
        else:  # evaluated on the data of its first input, divided by its own trial
            setting, data_seed = 0, below[0].draw.data_seed
        # Thousands of runs share a fold and a trial, so the answer is looked up. Objects are compared by identity,
        # since hashing their views costs more than the answer; equal ones that are two objects only miss a look-up.
        asked = (run.dataset, id(run.fold), setting, run.trial, data_seed, *map(id, below))
        if (examined := known.get(asked)) is None:
            examined = known[asked] = _examine(run, Draw(run.trial, data_seed), below, facts[run.dataset], clean)
        found[run.id] = examined
        if examined.seen:
            seen[run.id] = examined.seen
    return seen


def _examine(
    run: Run, own: Draw, below: Iterable[_Examined], facts: DatasetFacts, clean: set[tuple[str, int]]
) -> _Examined:
    """Return the answer for a run.

    Args:
        run: The run.
        own: The draw of the examples that it is evaluated on.
        below: The answers for its inputs.
        facts: Facts of its data set.
        clean: (data set, identity of the fold) of folds known to evaluate nothing that the same draw has trained on,
            which holds for every draw if it does for one; the run's is added if that is so.
    """
    others = tuple(dict.fromkeys(training for other in below for training in other.trained))
    if run.kind != "train":
        return _Examined(own, others, _first_seen(run, own, others, facts))
    if run.setting.classifier_init == "linear_probe" and run.setting.init == "sweep":
        others = (*others, Trained(run.fold.train, examples_of(run.probed, facts), probe=True))
    trained, place = (*others, Trained(run.fold.train, own)), (run.dataset, id(run.fold))
    if place not in clean and not _first_seen(run, own, trained[-1:], facts):
        clean.add(place)
    return _Examined(own, trained, _first_seen(run, own, others if place in clean else trained, facts))


def _first_seen(run: Run, own: Draw, trained: Iterable[Trained], facts: DatasetFacts) -> _Seen | None:
    """Return the first view of a run that shares examples with a training, or None."""
    trainings = sorted(trained)
    for view in evaluated_views(run.fold, run.trial) if trainings else ():
        for training in trainings:
            if training.probe and view in run.fold.source_val:
                continue  # documented and accepted: validation of a shared probe is optimistic, its test is not
            if any(may_share(facts, (view, own), (other, training.draw)) for other in training.views):
                return view, own, training
    return None


def _why(run: Run, facts: DatasetFacts, view: View, own: Draw, training: Trained) -> str:
    """Explain why examples of a view were seen, and how to avoid it."""
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
