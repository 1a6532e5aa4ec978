"""What stands below a table: how its numbers were made, what they were made from, and which runs are lacking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from dgbench.core.run import ALL_TRIALS
from dgbench.core.version import __version__
from dgbench.core.wording import grouped, ranges
from dgbench.report.results import Candidate, Gap, Results, Series
from dgbench.report.select import Selector


def signature(results: Results, selector: Selector, datasets: Sequence[str]) -> dict[str, str]:
    """What decides the numbers of a table over `datasets`, by what it is called there; nothing empty."""
    metrics = {results.metric(dataset) for dataset in datasets}
    trials = {trial for dataset in datasets for trial in results.trials(dataset)}
    fields = {
        "protocol": results.protocol,
        "metric": ", ".join(f"{name} x 100" for name in metrics - {"accuracy"}),
        "selector": selector.name,
        "preset": results.preset,
        "beside the preset": ", ".join(results.provenance.asked),
        "trials": f"{len(trials)} ({ranges(trials)})",
        "+/-": f"std over trials / sqrt(trials), ddof {results.ddof}" if len(trials) > 1 else "",
        "not tested": _untested(results, datasets),
        "one model of all trials": _of_all_trials(results, datasets),
        "hparams": _hparams(results, datasets),
        "evaluated steps": _evaluated(results, datasets),
        "runs": _runs(results, selector, datasets),
        "diverged": _diverged(results, datasets),
        "shown of the test domain": _alike(results.provenance.shown),
        "taught by": _alike(results.provenance.taught),
        "merged": ", ".join(f"{row} from {n}" for row, n in results.members.items()),
        "data": ", ".join(
            f"{dataset} {'|'.join(fingerprint[:12] for fingerprint in found)}"
            for dataset in datasets
            if (found := results.origin.fingerprints.get(dataset))
        ),
        "commit": "|".join(results.origin.commits),
        "methods from": ", ".join(f"{name}: {'|'.join(found)}" for name, found in results.origin.sources.items()),
        "run by": "|".join(results.origin.versions),
        "collected by": f"dgbench {__version__}",
    }
    return {key: value for key, value in fields.items() if value}


def disagreements(results: Results, datasets: Sequence[str]) -> tuple[str, ...]:
    """Warnings where runs of one table stand on different data or were made by different code."""
    found = [(f"on different data of {name}", results.origin.fingerprints.get(name, Counter())) for name in datasets]
    found += [("by different versions", results.origin.versions), ("at different commits", results.origin.commits)]
    found += [(f"by different versions of {name}", counts) for name, counts in results.origin.sources.items()]
    return tuple(
        f"WARNING: its runs were made {what}: " + ", ".join(f"{value} ({n} runs)" for value, n in counts.items())
        for what, counts in found
        if len(counts) > 1
    )


def lacking(gaps: Iterable[Gap]) -> Iterator[str]:
    """The exact runs, those of one kind on one line: `ERM [C] [L], trials 0-2, hparams 3: failed (out of memory)`."""
    by_fold = grouped(((gap.method, gap.state, gap.why, gap.held_out), gap) for gap in gaps)
    folds = grouped(
        ((method, state, why, _draws(own)), f"[{'+'.join(held_out)}]")
        for (method, state, why, held_out), own in by_fold.items()
    )
    for (method, state, why, draws), names in folds.items():
        yield f"{method} {' '.join(names)}, {draws}: {state}{f' ({why})' if why else ''}"


def _draws(gaps: Sequence[Gap]) -> str:
    """Hyperparameter seeds by trial; trials that have the same together."""
    by_trial = grouped((gap.trial, gap.hparams_seed) for gap in gaps)
    trials = grouped((ranges(seeds), trial) for trial, seeds in by_trial.items())
    return "; ".join(f"{_trials(alike)} hparams {seeds}" for seeds, alike in trials.items())


def _trials(trials: Sequence[int]) -> str:
    if ALL_TRIALS in trials:
        return "all trials"
    return f"trial{'s' if len(trials) > 1 else ''} {ranges(trials)}"


def _untested(results: Results, datasets: Sequence[str]) -> str:
    """Domains without a column, and that they are in no average; a sweep may test some domains alone."""
    found = [f"{dataset} {', '.join(names)}" for dataset in datasets if (names := results.untested(dataset))]
    return f"{'; '.join(found)} (averages are over the other domains)" if found else ""


def _of_all_trials(results: Results, datasets: Sequence[str]) -> str:
    """Rows without a choice and without an error."""
    rows = [
        row
        for row in results.rows
        if any(trial == ALL_TRIALS for name in datasets for _, trial in results.candidates.get((row, name), {}))
    ]
    return f"{', '.join(rows)}: nothing was selected" if rows else ""


def _diverged(results: Results, datasets: Sequence[str]) -> str:
    """Methods with finished runs that ended with a loss or metric that is no number, and how many."""
    runs = Counter[str]()
    for (method, dataset), n in results.diverged.items():
        runs[method] += n if dataset in datasets else 0
    return ", ".join(f"{n} of {method}" for method, n in runs.items() if n)


def _alike(told: Mapping[str, str]) -> str:
    """What is told of rows, those of which the same is told together."""
    rows = grouped((what, row) for row, what in told.items())
    return "; ".join(f"{', '.join(names)}: {what}" for what, names in rows.items())


def _hparams(results: Results, datasets: Sequence[str]) -> str:
    """The hyperparameter seeds that selection chooses among; by row where rows differ."""
    seeds = {row: {seed for spot in _spots(results, row, datasets) for seed in spot} for row in results.rows}
    return _by_row((ranges(own), row) for row, own in seeds.items() if own)


def _evaluated(results: Results, datasets: Sequence[str]) -> str:
    """How many models of a run a selector can choose among; by row where rows differ."""
    told = []
    for row in results.rows:
        candidates = (found for spot in _spots(results, row, datasets) for found in spot.values())
        if steps := {len(found.steps) for found in candidates if isinstance(found, Series)}:
            both = "best model and last" if max(steps) > 1 else "best model, which is the last"
            told.append((f"{ranges(steps)}: {both}" if row in results.adapted else ranges(steps), row))
    return _by_row(told)


def _spots(results: Results, row: str, datasets: Sequence[str]) -> Iterator[Mapping[int, Candidate]]:
    for dataset in datasets:
        yield from results.candidates.get((row, dataset), {}).values()


def _by_row(told: Iterable[tuple[str, str]]) -> str:
    """Texts and rows: each text with the rows that it is told of, if they are not all."""
    rows = grouped(told)
    return "; ".join(told if len(rows) == 1 else f"{told} ({', '.join(names)})" for told, names in rows.items())


def _runs(results: Results, selector: Selector, datasets: Sequence[str]) -> str:
    """How many runs the selector reads in all rows together, each once, by what became of them."""
    counted: set[str] = set()
    gaps: dict[object, str] = {}
    for dataset in datasets:
        read = set(selector.folds_read(results, dataset))
        for row in results.rows:
            for (fold, _), seeds in results.candidates.get((row, dataset), {}).items():
                for candidate in seeds.values() if fold in read else ():
                    if isinstance(candidate, Gap):
                        gaps[candidate.run or candidate] = candidate.state
                    else:
                        counted.add(candidate.run)
    states = {"missing": 0, "failed": 0, **Counter(gaps.values())}
    return ", ".join([f"{len(counted)} counted", *(f"{n} {state}" for state, n in states.items())])
