"""Choose hyperparameters once for all trials of a search, so that further trials can repeat them, as WILDS does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from dgbench.core.errors import Problems, UserError
from dgbench.core.run import ALL_TRIALS
from dgbench.plan.declaration import FILE
from dgbench.plan.planner import Drawn
from dgbench.plan.repeating import Choice
from dgbench.report.reader import read_results
from dgbench.report.results import Gap, Results
from dgbench.report.scrutiny import trials_at
from dgbench.report.select import Selector
from dgbench.report.selectors import default_selectors, selectors
from dgbench.report.signature import describe_gaps


class Chosen(NamedTuple):
    """All choices of a selector in a folder."""

    selector: str
    """Its name."""
    choices: list[Choice]
    left: list[str]
    """Rows without a choice (`unrepeatable`)."""


def read_choices(root: Path, trials: int | None, selector: str | None, *, alone: bool = True) -> Chosen:
    """Read the search in a folder, and choose once for all of its trials.

    Args:
        root: The sweep's folder.
        trials: Number of trials that are to repeat each choice; None if it was not given.
        selector: Name of the selector; None for the first of `dgbench collect`.
        alone: Whether nothing else is asked for.

    Raises:
        UserError: A value is wrong, there is no complete search, or the selector can't answer.
    """
    problems = Problems()
    if trials is None:
        problems.add("--selector chooses for --repeat_best N: give that too")
    elif trials < 1:
        problems.add(f"--repeat_best {trials} repeats nothing: it is a number of trials")
    if not alone:
        problems.add("--repeat_best adds to the search that the folder holds: leave out what asks for other runs")
    if not (root / FILE).is_file():
        problems.add(f"--repeat_best: {root} holds no sweep")
    named: tuple[Selector, ...] = ()
    with problems.collecting():
        named = selectors([selector] if selector else [])
    problems.raise_if_any()
    results = read_results(root)
    (chosen, *_) = named or default_selectors(results)
    return Chosen(chosen.name, choose_once(results, chosen), unrepeatable(results))


def choose_once(results: Results, selector: Selector) -> list[Choice]:
    """Return the draw that a selector rates highest over all trials of a search, for each row, data set and fold.

    Of draws that tie, the one of the earliest trial is chosen. Rows whose models are merged over draws have none to
    choose, and are left out (`unrepeatable`).

    Args:
        results: The search.
        selector: The selector.

    Raises:
        UserError: The selector can't answer, or a run that it reads is lacking; each is named.
    """
    why = {dataset: selector.unavailable(results, dataset) for dataset in results.datasets}
    if problems := [f"{selector.name} on {name}: not available, {reason}" for name, reason in why.items() if reason]:
        raise UserError(*problems)
    found, gaps = [], dict[Gap, None]()
    for row in (row for row in results.rows if row not in unrepeatable(results)):
        for dataset in results.datasets:
            for position in results.reported(dataset):
                best = None
                for trial in trials_at(results, row, dataset, position):
                    outcome = selector.choose(results, row, dataset, position, trial)
                    gaps |= dict.fromkeys(outcome.gaps)
                    if outcome.pick and (best is None or outcome.pick.value > best[0]):
                        best = outcome.pick.value, Drawn(outcome.pick.hparams_seed, trial)
                if best:
                    found.append(Choice(row, dataset, results.folds[position], best[1]))
    if gaps:
        raise UserError(*_lacking(tuple(gaps)))
    if not found:
        raise UserError("no row of the sweep has hyperparameters to choose: more trials of a merger are --n_trials")
    return found


def unrepeatable(results: Results) -> list[str]:
    """Return the rows whose models are merged over draws or trials, so that no hyperparameters are chosen."""
    merged = {row for (row, _), spots in results.candidates.items() if any(trial == ALL_TRIALS for _, trial in spots)}
    return [row for row in results.rows if row in results.pooled or row in merged]


def _lacking(gaps: Sequence[Gap]) -> Iterator[str]:
    yield "--repeat_best repeats what a complete search chose, and this one is not complete: launch it to its end first"
    yield from describe_gaps(gaps)
