"""Describe how the numbers of a table were made: the signature, warnings about unequal runs, runs without a result.

Every fact is a text under a key, in the order in which it is printed. A fact that differs between rows names the rows
that it holds for; one that holds for all rows names none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import TypeAlias

from dgbench.core.halving import add_up
from dgbench.core.protocol import VALIDATION, FixedSplit
from dgbench.core.run import ALL_TRIALS
from dgbench.core.version import __version__
from dgbench.core.wording import format_ranges, group_values
from dgbench.report.origin import Kind
from dgbench.report.results import WARNING, Candidate, Gap, Results, Series
from dgbench.report.select import Selector


def signature(results: Results, selector: Selector, datasets: Sequence[str]) -> dict[str, str]:
    """Return the facts that decide the numbers of a table, as text by key; facts that don't apply are left out.

    Args:
        results: The sweep.
        selector: The selector of the table.
        datasets: The data sets that the table is over.
    """
    metrics = {results.metric(dataset) for dataset in datasets}
    models = {row: _count_models(results, selector, row, datasets) for row in results.rows}
    fields = {
        "protocol": results.protocol,
        "metric": ", ".join(f"{name} x 100" for name in metrics - {"accuracy"}),
        "selector": selector.name,
        "reported": results.reports,
        "validation": _validation(results, datasets),
        "preset": results.preset,
        "beside the preset": ", ".join(results.provenance.asked),
        "trials": _trials(results, datasets, models),
        "+/-": f"std over trials / sqrt(trials), ddof {results.ddof}" if _repeated(models) else "",
        "chosen once": f"{', '.join(row for row in results.rows if row in results.repeated)}: the hyperparameters that "
        f"{selector.name} chose in the search, repeated in each trial"
        if results.repeated
        else "",
        "not tested": _untested(results, datasets),
        "no example of": _missing_classes(results, datasets),
        "one model of all trials": _of_all_trials(results, datasets),
        "hparams": _hparams(results, models),
        "search": _search(results, datasets),
        "evaluated steps": _evaluated(results, selector, models),
        "runs": _runs(results, selector, datasets),
        "diverged": _diverged(results, selector, datasets),
        "shown of the test domain": _join_rows(results.provenance.shown),
        "taught by": _join_rows(results.provenance.taught),
        "folders": "; ".join(f"{folder}: {', '.join(rows)}" for folder, rows in results.folders.items()),
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
        "kinds of machines": _kinds(results, selector, datasets),
        "collected by": f"dgbench {__version__}",
    }
    return {key: value for key, value in fields.items() if value}


def _validation(results: Results, datasets: Sequence[str]) -> str:
    """Name the validation set that is read, for data sets with splits of their own; empty for others."""
    if results.protocol != FixedSplit.name:
        return ""
    folds = [results.folds[position] for dataset in datasets for position in results.reported(dataset)]
    parts = {view.part for fold in folds for view in fold.validation}
    read = " and ".join(f"{name} ({part})" for name, part in VALIDATION.items() if part in parts)
    apart = any(fold.source_val and fold.target_val for fold in folds)  # of sweeps before there was one for all
    return f"{read} for {'averages, members, teachers and adapters' if apart else 'all that is chosen'}"


def disagreements(results: Results, datasets: Sequence[str]) -> tuple[str, ...]:
    """Return a warning for each way in which the runs of a table differ in their data, code or arguments."""
    found = [(f"on different data of {name}", results.origin.fingerprints.get(name, Counter())) for name in datasets]
    found += [("by different versions", results.origin.versions), ("at different commits", results.origin.commits)]
    found += [(f"by different versions of {name}", counts) for name, counts in results.origin.sources.items()]
    for name in datasets:
        arguments = results.origin.arguments.get(name, {})
        found += [(f"with different {argument} on {name}", counts) for argument, counts in arguments.items()]
    return tuple(
        f"{WARNING}its runs were made {differing}: " + ", ".join(f"{value} ({n} runs)" for value, n in counts.items())
        for differing, counts in found
        if len(counts) > 1
    )


def describe_gaps(gaps: Iterable[Gap]) -> Iterator[str]:
    """Yield lines that name every run without a result, similar ones together.

    A line reads `ERM [C] [L], trials 0-2, hparams 3: failed (out of memory)`.
    """
    by_fold = group_values(((gap.method, gap.state, gap.why, gap.held_out), gap) for gap in gaps)
    folds = group_values(
        ((method, state, why, _describe_draws(own)), f"[{'+'.join(held_out)}]")
        for (method, state, why, held_out), own in by_fold.items()
    )
    for (method, state, why, draws), names in folds.items():
        yield f"{method} {' '.join(names)}, {draws}: {state}{f' ({why})' if why else ''}"


def _describe_draws(gaps: Sequence[Gap]) -> str:
    """Name the hyperparameter seeds of gaps by trial, joining trials that lack the same seeds."""
    by_trial = group_values((gap.trial, gap.hparams_seed) for gap in gaps)
    trials = group_values((format_ranges(seeds), trial) for trial, seeds in by_trial.items())
    return "; ".join(f"{_describe_trials(alike)} hparams {seeds}" for seeds, alike in trials.items())


def _describe_trials(trials: Sequence[int]) -> str:
    """Name some trials, or all of them for runs that merge trials."""
    if ALL_TRIALS in trials:
        return "all trials"
    return f"trial{'s' if len(trials) > 1 else ''} {format_ranges(trials)}"


def _untested(results: Results, datasets: Sequence[str]) -> str:
    """List domains without a column, as where a sweep tests some of its domains only; averages leave them out."""
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
    """List rows with one model for all trials, for which nothing is selected and no error estimated."""
    rows = [row for row in results.rows if results.of_all_trials(row, datasets)]
    return f"{', '.join(rows)}: nothing was selected" if rows else ""


def _diverged(results: Results, selector: Selector, datasets: Sequence[str]) -> str:
    """Count, by row, the runs that ended with a loss or metric that is NaN or infinite."""
    texts = []
    for row in results.rows:
        read = [c for dataset in datasets for c in _read_candidates(results, selector, row, dataset)]
        ended = {candidate.run: candidate.diverged for candidate in read if isinstance(candidate, Series)}
        if any(ended.values()):
            texts.append((f"{sum(ended.values())} of {len(ended)} runs", row))
    return "; ".join(f"{text} ({', '.join(rows)})" for text, rows in group_values(texts).items())


def _join_rows(texts: Mapping[str, str]) -> str:
    """Format {row: text} as `row1, row2: text; ...`, joining rows of equal text."""
    rows = group_values((text, row) for row, text in texts.items())
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in rows.items())


def _count_models(
    results: Results, selector: Selector, row: str, datasets: Sequence[str]
) -> Mapping[tuple[str, int, int, int], int]:
    """Return (data set, fold, trial, hyperparameter seed) -> number of models compared, 0 if a run is lacking."""
    found = {}
    for dataset in datasets:
        reported = set(results.reported(dataset))
        for (fold, trial), seeds in results.candidates.get((row, dataset), {}).items():
            for seed in seeds if fold in reported else ():
                if (n := selector.models(results, row, dataset, fold, trial, seed)) is not None:
                    found[dataset, fold, trial, seed] = n
    return found


ModelCounts: TypeAlias = Mapping[str, Mapping[tuple[str, int, int, int], int]]
"""Row -> the result of `_count_models`."""


def _trials(results: Results, datasets: Sequence[str], models: ModelCounts) -> str:
    """List each row's trials; a trial counts if every column has a hyperparameter seed to choose in it."""
    texts = []
    for row, found in models.items():
        # By column: a trial in which one column has nothing to choose from is not complete.
        columns = group_values(((trial, dataset, fold), n) for (dataset, fold, trial, _), n in found.items())
        planned = {trial for trial, *_ in columns} - {ALL_TRIALS}
        incomplete = {trial for (trial, *_), n in columns.items() if not any(n)}
        if planned:
            texts.append((_complete(planned - incomplete, planned, counted=True), row))
    return by_row(texts)


def _repeated(models: ModelCounts) -> bool:
    """Return whether some row has several trials, so that there is an error to explain."""
    return any(len({trial for _, _, trial, _ in found}) > 1 for found in models.values())


def _hparams(results: Results, models: ModelCounts) -> str:
    """List the hyperparameter seeds that selection chooses among: those that are complete in all columns and trials."""
    texts = []
    for row, found in models.items():
        planned = {seed for *_, seed in found}
        incomplete = {seed for (*_, seed), n in found.items() if not n}
        if planned:
            merged = row in results.pooled
            texts.append(("all of them merged" if merged else _complete(planned - incomplete, planned), row))
    return by_row(texts)


def _search(results: Results, datasets: Sequence[str]) -> str:
    """List the budget that each row's search has spent; empty if every draw of all rows is trained to its end."""
    found = {row: [s for dataset in datasets for s in results.search.get((row, dataset), ())] for row in results.rows}
    if not any(found.values()):
        return ""
    return by_row((", ".join(map(str, add_up(own))) or "random", row) for row, own in found.items())


def _complete(done: Set[int], planned: Set[int], *, counted: bool = False) -> str:
    """Write numbers in short: `0-2`, or `3 (0-2)` if counted, or `0 complete of 0-2` if some aren't done."""
    whole = f"{len(planned)} ({format_ranges(planned)})" if counted else format_ranges(planned)
    found = str(len(done)) if counted else format_ranges(done) or "none"
    return whole if done == planned else f"{found} complete of {whole}"


def _evaluated(results: Results, selector: Selector, models: ModelCounts) -> str:
    """Count the models of a run that the selector compares, by row if rows differ."""
    texts = []
    for row, found in models.items():
        if counts := set(found.values()) - {0}:
            counted = (
                f"last of {format_ranges(counts)}" if selector.last_only and max(counts) > 1 else format_ranges(counts)
            )
            both = "best model and last" if max(counts) > 1 else "best model, which is the last"
            texts.append((f"{counted}: {both}" if row in results.adapted else counted, row))
    return by_row(texts)


def by_row(pairs: Iterable[tuple[str, str]]) -> str:
    """Join (text, row) pairs as `text1 (row1, row2); text2 (row3)`.

    A text that holds for all rows stands alone, without their names.
    """
    rows = group_values(pairs)
    return "; ".join(text if len(rows) == 1 else f"{text} ({', '.join(names)})" for text, names in rows.items())


def _read_candidates(results: Results, selector: Selector, row: str, dataset: str) -> Iterator[Candidate]:
    """Yield the candidates of a row that the selector reads."""
    read = set(selector.folds_read(results, dataset))
    for (fold, _), seeds in results.candidates.get((row, dataset), {}).items():
        yield from seeds.values() if fold in read else ()


def _kinds(results: Results, selector: Selector, datasets: Sequence[str]) -> str:
    """Name the kinds of machines of each row, if there are several: hardware, and the versions that differ."""
    found = {
        row: {
            candidate.kind
            for dataset in datasets
            for candidate in _read_candidates(results, selector, row, dataset)
            if isinstance(candidate, Series)
        }
        for row in results.rows
    }
    kinds = set().union(*found.values())
    if len(kinds) < 2:
        return ""
    same = set.intersection(*(set(kind.versions.split(", ")) for kind in kinds))
    unknown = "not recorded" if any(kind.hardware for kind in kinds) else ""

    def name(kind: Kind) -> str:
        own = (version for version in kind.versions.split(", ") if version not in same)
        return ", ".join(filter(None, (kind.hardware or unknown, *own)))

    return by_row(("|".join(sorted(map(name, own))), row) for row, own in found.items() if own)


def _runs(results: Results, selector: Selector, datasets: Sequence[str]) -> str:
    """Count the runs that the selector reads in all rows together, each once, by state."""
    counted: set[str] = set()
    gaps: dict[object, str] = {}
    for dataset in datasets:
        for row in results.rows:
            for candidate in _read_candidates(results, selector, row, dataset):
                if isinstance(candidate, Gap):
                    # Rows share runs, which count once. Runs inferred from a DomainBed folder have no id: the gap
                    # stands for itself.
                    gaps[candidate.run or candidate] = candidate.state
                else:
                    counted.add(candidate.run)
    states = {"missing": 0, "failed": 0, **Counter(gaps.values())}
    return ", ".join([f"{len(counted)} counted", *(f"{n} {state}" for state, n in states.items())])
