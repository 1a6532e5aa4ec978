"""What stands below a table: how its numbers were made, what they were made from, and which runs are lacking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import TypeAlias

from dgbench.core.protocol import VALIDATION, FixedSplit
from dgbench.core.run import ALL_TRIALS
from dgbench.core.version import __version__
from dgbench.core.wording import format_ranges, group_values
from dgbench.report.results import WARNING, Candidate, Gap, Results, Series
from dgbench.report.select import Selector


def signature(results: Results, selector: Selector, datasets: Sequence[str]) -> dict[str, str]:
    """What decides the numbers of a table over `datasets`, by what it is called there; nothing empty."""
    metrics = {results.metric(dataset) for dataset in datasets}
    models = {row: _models(results, selector, row, datasets) for row in results.rows}
    fields = {
        "protocol": results.protocol,
        "metric": ", ".join(f"{name} x 100" for name in metrics - {"accuracy"}),
        "selector": selector.name,
        "validation": _validation(results, datasets),
        "preset": results.preset,
        "beside the preset": ", ".join(results.provenance.asked),
        "trials": _trials(results, datasets, models),
        "+/-": f"std over trials / sqrt(trials), ddof {results.ddof}" if _repeated(models) else "",
        "not tested": _untested(results, datasets),
        "no example of": _missing_classes(results, datasets),
        "one model of all trials": _of_all_trials(results, datasets),
        "hparams": _hparams(results, models),
        "evaluated steps": _evaluated(results, selector, models),
        "runs": _runs(results, selector, datasets),
        "diverged": _diverged(results, selector, datasets),
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
        "on": "|".join(results.origin.machines),
        "collected by": f"dgbench {__version__}",
    }
    return {key: value for key, value in fields.items() if value}


def _validation(results: Results, datasets: Sequence[str]) -> str:
    """Say which of the validation sets of data with splits of their own is read; nothing of other data."""
    if results.protocol != FixedSplit.name:
        return ""
    folds = [results.folds[position] for dataset in datasets for position in results.reported(dataset)]
    parts = {view.part for fold in folds for view in fold.validation}
    read = " and ".join(f"{name} ({part})" for name, part in VALIDATION.items() if part in parts)
    apart = any(fold.source_val and fold.target_val for fold in folds)  # of sweeps before there was one for all
    return f"{read} for {'averages, members, teachers and adapters' if apart else 'all that is chosen'}"


def disagreements(results: Results, datasets: Sequence[str]) -> tuple[str, ...]:
    """Warn where runs of one table stand on different data or were made by different code or arguments."""
    found = [(f"on different data of {name}", results.origin.fingerprints.get(name, Counter())) for name in datasets]
    found += [("by different versions", results.origin.versions), ("at different commits", results.origin.commits)]
    found += [(f"by different versions of {name}", counts) for name, counts in results.origin.sources.items()]
    for name in datasets:
        arguments = results.origin.arguments.get(name, {})
        found += [(f"with different {argument} on {name}", counts) for argument, counts in arguments.items()]
    return tuple(
        f"{WARNING}its runs were made {what}: " + ", ".join(f"{value} ({n} runs)" for value, n in counts.items())
        for what, counts in found
        if len(counts) > 1
    )


def lacking(gaps: Iterable[Gap]) -> Iterator[str]:
    """The exact runs, those of one kind on one line: `ERM [C] [L], trials 0-2, hparams 3: failed (out of memory)`."""
    by_fold = group_values(((gap.method, gap.state, gap.why, gap.held_out), gap) for gap in gaps)
    folds = group_values(
        ((method, state, why, _draws(own)), f"[{'+'.join(held_out)}]")
        for (method, state, why, held_out), own in by_fold.items()
    )
    for (method, state, why, draws), names in folds.items():
        yield f"{method} {' '.join(names)}, {draws}: {state}{f' ({why})' if why else ''}"


def _draws(gaps: Sequence[Gap]) -> str:
    """Hyperparameter seeds by trial; trials that have the same together."""
    by_trial = group_values((gap.trial, gap.hparams_seed) for gap in gaps)
    trials = group_values((format_ranges(seeds), trial) for trial, seeds in by_trial.items())
    return "; ".join(f"{_trials_alike(alike)} hparams {seeds}" for seeds, alike in trials.items())


def _trials_alike(trials: Sequence[int]) -> str:
    if ALL_TRIALS in trials:
        return "all trials"
    return f"trial{'s' if len(trials) > 1 else ''} {format_ranges(trials)}"


def _untested(results: Results, datasets: Sequence[str]) -> str:
    """Domains without a column, and that they are in no average; a sweep may test some domains alone."""
    found = [f"{dataset} {', '.join(names)}" for dataset in datasets if (names := results.untested(dataset))]
    return f"{'; '.join(found)} (averages are over the other domains)" if found else ""


def _missing_classes(results: Results, datasets: Sequence[str]) -> str:
    """List classes that domains lack: those domains train and are scored on the others."""
    found = [
        f"{', '.join(classes)} in {dataset} {domain}"
        for dataset in datasets
        for domain, classes in results.missing_classes.get(dataset, {}).items()
    ]
    return f"{'; '.join(found)} (trained and scored on what there is)" if found else ""


def _of_all_trials(results: Results, datasets: Sequence[str]) -> str:
    """Rows without a choice and without an error."""
    rows = [row for row in results.rows if results.of_all_trials(row, datasets)]
    return f"{', '.join(rows)}: nothing was selected" if rows else ""


def _diverged(results: Results, selector: Selector, datasets: Sequence[str]) -> str:
    """Word how many of a row's finished runs ended with a loss or metric that is no number."""
    told = []
    for row in results.rows:
        read = [c for dataset in datasets for c in _read(results, selector, row, dataset)]
        ended = {candidate.run: candidate.diverged for candidate in read if isinstance(candidate, Series)}
        if any(ended.values()):
            told.append((f"{sum(ended.values())} of {len(ended)} runs", row))
    return "; ".join(f"{said} ({', '.join(rows)})" for said, rows in group_values(told).items())


def _alike(told: Mapping[str, str]) -> str:
    """What is told of rows, those of which the same is told together."""
    rows = group_values((what, row) for row, what in told.items())
    return "; ".join(f"{', '.join(names)}: {what}" for what, names in rows.items())


def _models(
    results: Results, selector: Selector, row: str, datasets: Sequence[str]
) -> Mapping[tuple[str, int, int, int], int]:
    """Count the models that a selector compares, by (data set, fold, trial, hyperparameter seed), 0 while runs lack."""
    found = {}
    for dataset in datasets:
        reported = set(results.reported(dataset))
        for (fold, trial), seeds in results.candidates.get((row, dataset), {}).items():
            for seed in seeds if fold in reported else ():
                if (n := selector.models(results, row, dataset, fold, trial, seed)) is not None:
                    found[dataset, fold, trial, seed] = n
    return found


Models: TypeAlias = Mapping[str, Mapping[tuple[str, int, int, int], int]]
"""Row -> what `_models` counts."""


def _trials(results: Results, datasets: Sequence[str], models: Models) -> str:
    """Word each row's trials; those count that have a hyperparameter seed to choose in every column."""
    told = []
    for row, found in models.items():
        columns = group_values(((trial, dataset, fold), n) for (dataset, fold, trial, _), n in found.items())
        asked = {trial for trial, *_ in columns} - {ALL_TRIALS}
        lacking = {trial for (trial, *_), n in columns.items() if not any(n)}
        if asked:
            told.append((_complete(asked - lacking, asked, counted=True), row))
    return by_row(told)


def _repeated(models: Models) -> bool:
    """Test whether some row has more than one trial to take a spread over."""
    return any(len({trial for _, _, trial, _ in found}) > 1 for found in models.values())


def _hparams(results: Results, models: Models) -> str:
    """Word the hyperparameter seeds that selection chooses among: those that are complete everywhere."""
    told = []
    for row, found in models.items():
        asked = {seed for *_, seed in found}
        lacking = {seed for (*_, seed), n in found.items() if not n}
        if asked:
            merged = row in results.pooled
            told.append(("all of them merged" if merged else _complete(asked - lacking, asked), row))
    return by_row(told)


def _complete(done: Set[int], asked: Set[int], *, counted: bool = False) -> str:
    """Write numbers in short: `0-2`, or `3 (0-2)`; where some of those asked for are not done, `0 complete of 0-2`."""
    whole = f"{len(asked)} ({format_ranges(asked)})" if counted else format_ranges(asked)
    found = str(len(done)) if counted else format_ranges(done) or "none"
    return whole if done == asked else f"{found} complete of {whole}"


def _evaluated(results: Results, selector: Selector, models: Models) -> str:
    """Word how many models of a run a selector compares, by row where rows differ."""
    told = []
    for row, found in models.items():
        if counts := set(found.values()) - {0}:
            shown = (
                f"last of {format_ranges(counts)}" if selector.last_only and max(counts) > 1 else format_ranges(counts)
            )
            both = "best model and last" if max(counts) > 1 else "best model, which is the last"
            told.append((f"{shown}: {both}" if row in results.adapted else shown, row))
    return by_row(told)


def by_row(told: Iterable[tuple[str, str]]) -> str:
    """Join (text, row) pairs: each text with the rows that it is true of, unless one is true of all."""
    rows = group_values(told)
    return "; ".join(told if len(rows) == 1 else f"{told} ({', '.join(names)})" for told, names in rows.items())


def _read(results: Results, selector: Selector, row: str, dataset: str) -> Iterator[Candidate]:
    """Yield the candidates of a row that a selector reads."""
    read = set(selector.folds_read(results, dataset))
    for (fold, _), seeds in results.candidates.get((row, dataset), {}).items():
        yield from seeds.values() if fold in read else ()


def _runs(results: Results, selector: Selector, datasets: Sequence[str]) -> str:
    """How many runs the selector reads in all rows together, each once, by what became of them."""
    counted: set[str] = set()
    gaps: dict[object, str] = {}
    for dataset in datasets:
        for row in results.rows:
            for candidate in _read(results, selector, row, dataset):
                if isinstance(candidate, Gap):
                    gaps[candidate.run or candidate] = candidate.state
                else:
                    counted.add(candidate.run)
    states = {"missing": 0, "failed": 0, **Counter(gaps.values())}
    return ", ".join([f"{len(counted)} counted", *(f"{n} {state}" for state, n in states.items())])
