"""Plan a search that drops runs on the way: which runs compete, and what can't be searched so.

A dropped run has no last model, so a row fits such a search only if each of its predictors stands on one training run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.errors import UserError
from dgbench.core.halving import HALVING, RANDOM, Bracket, rungs
from dgbench.core.run import Run
from dgbench.core.setting import Setting
from dgbench.core.wording import unknown_name
from dgbench.plan.request import Request


def refuse_search(name: str) -> None:
    """Raise UserError unless `name` is a search."""
    if name == "asha":
        raise UserError(
            "--search asha promotes runs in the order in which they happen to end, so two machines would print two "
            f"tables; --search {HALVING} has the same rungs and waits for all runs of a bracket"
        )
    if name not in (RANDOM, HALVING):
        raise UserError(unknown_name("--search", name, (RANDOM, HALVING)))


def unfit_for_halving(
    requests: Sequence[Request], settings: Mapping[str, Setting], catalogue: Catalogue
) -> Iterator[str]:
    """Yield the reasons why requests can't be searched by successive halving.

    Args:
        requests: The requests of the sweep; those that repeat a choice drop nothing and fit always.
        settings: Data set -> its setting, resolved.
        catalogue: Holds the entries of the rows.
    """
    searches = [request for request in requests if not request.repeats]
    if fewest := min((len(r.hparams_seeds) for r in searches if len(r.hparams_seeds) < 2), default=0):
        yield f"--search halving compares draws of hyperparameters, and there is {fewest}: give --n_hparams 2 or more"
    for dataset in dict.fromkeys(name for request in searches for name in request.datasets):
        if not rungs(settings[dataset].evaluation_steps, 2):
            yield (
                f"--search halving compares runs between their first and last evaluation, and on {dataset} there is "
                f"none: give a lower --checkpoint_freq"
            )
    for row in dict.fromkeys(row for request in searches for row in request.rows):
        merges = row.merger and not catalogue.get("merger", row.merger).card.each
        learns = catalogue.get("algorithm", row.algorithm).card.taught
        measures = bool(row.analysis) and catalogue.get("analysis", row.analysis).card.takes != "model"
        for does in ["merges"] * bool(merges) + ["learns from"] * bool(learns) + ["compares"] * measures:
            yield f"{row.name} {does} the runs of all draws, most of which --search halving ends early: leave it out"


def bracket_of(trained: Sequence[Run]) -> Bracket:
    """Return the bracket of the training runs of one cell, which differ in their draws alone."""
    evaluated, steps = trained[0].setting.evaluation_steps, trained[0].setting.steps
    return Bracket(tuple(run.id for run in trained), rungs(evaluated, len(trained)), steps)


def complete(brackets: Iterable[Bracket], runs: Sequence[Run], repeated: Iterable[Run]) -> tuple[Bracket, ...]:
    """Add to brackets the runs that stand on theirs, and those that train to their ends whatever their scores.

    Args:
        brackets: The brackets.
        runs: All runs, each after its inputs.
        repeated: Runs that repeat a choice; one of them may also be a draw of a search.
    """
    found = tuple(brackets)
    if not found:
        return ()
    trained: dict[str, str] = {}
    """Run -> the training run that it is or stands on."""
    readers: dict[str, list[str]] = {}
    for run in runs:
        trained[run.id] = trained[run.inputs[0].run] if run.inputs else run.id
        if run.inputs:
            readers.setdefault(trained[run.id], []).append(run.id)
    whole = {trained[run.id] for run in repeated}
    return tuple(
        replace(
            bracket,
            readers={run: tuple(readers[run]) for run in bracket.runs if run in readers},
            whole=tuple(run for run in bracket.runs if run in whole),
        )
        for bracket in found
    )
