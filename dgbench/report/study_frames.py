"""Make frames of studies of a sweep's rows and of selection: comparisons, ranks, losses, searches.

pandas is imported only inside functions, because this file is also imported where no frame is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from dgbench.core.errors import UserError
from dgbench.report import ranks, scrutiny
from dgbench.report.comparison import RowStatistics, check_row, compare_rows, scores_of, table_statistics
from dgbench.report.results import Results
from dgbench.report.select import Selector
from dgbench.report.statistics import holm

if TYPE_CHECKING:
    import pandas as pd


def able_datasets(results: Results, selector: Selector) -> list[str]:
    """Return the data sets on which a selector can answer; raise `UserError` with the reasons if it can on none."""
    why = {dataset: selector.unavailable(results, dataset) for dataset in results.datasets}
    able = [dataset for dataset, reason in why.items() if not reason]
    if not able:
        raise UserError(*(f"{selector.name} on {dataset}: not available, {reason}" for dataset, reason in why.items()))
    return able


def comparison(results: Results, selector: Selector, first: str, second: str) -> pd.DataFrame:
    """Make the frame of `SweepResults.compare`."""
    import pandas as pd

    for row in (first, second):
        check_row(results, row)
    lines = []
    for dataset in able_datasets(results, selector):
        found = compare_rows(results, selector, first, second, dataset)
        if found is None:
            lines.append({"dataset": dataset, "pairs": 0, "trials": 0, "refused": "no complete trial in common"})
            continue
        lines.append(
            {
                "dataset": dataset,
                "difference": 100 * found.difference,
                "low": 100 * found.by_trial.low,
                "high": 100 * found.by_trial.high,
                "bootstrap_low": 100 * found.resampled.low,
                "bootstrap_high": 100 * found.resampled.high,
                "p": found.p,
                "pairs": found.pairs,
                "trials": found.trials,
                "refused": found.refused,
            }
        )
    numbers = ("difference", "low", "high", "bootstrap_low", "bootstrap_high", "p")
    frame = pd.DataFrame(lines, columns=["dataset", *numbers, "pairs", "trials", "refused"])
    frame = frame.astype(dict.fromkeys(numbers, "float64"))
    frame.insert(7, "p_holm", holm(frame["p"]))
    return frame


def statistics(results: Results, selector: Selector, reference: str | None) -> pd.DataFrame:
    """Make the frame of `SweepResults.statistics`."""
    import pandas as pd

    lines = [
        {"dataset": dataset, **_statistics_line(found)}
        for dataset in able_datasets(results, selector)
        for found in table_statistics(results, selector, dataset, reference).rows
    ]
    return pd.DataFrame(lines, columns=["dataset", *_STATISTICS])


_STATISTICS = (
    "row", "mean", "low", "high", "trials", "delta", "delta_low", "delta_high", "p_holm", "tied", "settled_by", "worst",
    "across", "sampling", "candidates", "lost", "refused",
)  # fmt: skip


def _statistics_line(found: RowStatistics) -> dict[str, Any]:
    average, delta = found.average, found.delta
    difference = (delta.difference, delta.by_trial.low, delta.by_trial.high) if delta else (np.nan,) * 3
    values = [100 * value for value in (average.mean, average.low, average.high)]
    differences = [100 * value for value in difference]
    rest = [
        100 * found.worst,
        100 * found.across,
        100 * found.sampling,
        found.candidates,
        100 * found.lost,
        average.refused,
    ]
    line = [found.row, *values, average.n, *differences, found.p, found.tied, found.settled_by, *rest]
    return dict(zip(_STATISTICS, line, strict=True))


def ranking(results: Results, selector: Selector) -> pd.DataFrame:
    """Make the frame of `SweepResults.ranks`."""
    import pandas as pd

    voters, rows, scores = _votes(results, selector)
    test = ranks.friedman(scores)
    few = len(rows) <= ranks.MOST_ROWS
    order = ranks.kemeny(scores) if few else ()
    frame = pd.DataFrame(
        {
            "row": rows,
            "mean_score": 100 * scores.mean(axis=0),
            "mean_rank": ranks.mean_ranks(scores),
            "borda": ranks.borda(scores),
            "copeland": ranks.copeland(scores),
            "minimax": ranks.minimax(scores),
            "kemeny": [order.index(i) + 1 if few else None for i in range(len(rows))],
            "bradley_terry": ranks.bradley_terry(scores),
        }
    ).astype({"kemeny": "Int64"})
    frame.attrs = {
        "voters": voters,
        "friedman": asdict(test),
        "winners": {rule: [rows[i] for i in won] for rule, won in ranks.winners(scores).items()},
        "groups": [] if test.refused else [[rows[i] for i in group] for group in _groups(frame["mean_rank"], test)],
        "notes": [] if few else [f"Kemeny's order is computed for at most {ranks.MOST_ROWS} rows"],
    }
    return frame.sort_values("mean_rank", kind="stable", ignore_index=True)


def _groups(mean_ranks: Any, test: ranks.Friedman) -> list[tuple[int, ...]]:
    return ranks.groups(np.asarray(mean_ranks, float), test.critical_difference)


def _votes(results: Results, selector: Selector) -> tuple[list[str], list[str], Any]:
    """Return voters, rows, and the mean score of each row for each voter, for rows that have one everywhere.

    Data sets vote; of results on a single data set, its folds do.
    """
    datasets = able_datasets(results, selector)
    means: dict[str, dict[str, float]] = {}
    for row in results.rows:
        for dataset in datasets:
            trials = scores_of(results, selector, row, dataset).values()
            by_fold = np.mean(list(trials), axis=0) if trials else ()
            names = ["+".join(results.folds[position].held_out) for position in results.reported(dataset)]
            if len(by_fold):
                by_name = (
                    {dataset: float(np.mean(by_fold))} if len(datasets) > 1 else dict(zip(names, by_fold, strict=True))
                )
                means.setdefault(row, {}).update(by_name)
    voters = list(dict.fromkeys(name for found in means.values() for name in found))
    rows = [row for row, found in means.items() if len(found) == len(voters)]
    if not rows:
        raise UserError("no row has a complete trial on every data set, so there is nothing to rank")
    return voters, rows, np.array([[means[row][voter] for row in rows] for voter in voters])


def selection(results: Results, selectors: Sequence[Selector]) -> pd.DataFrame:
    """Make the frame of `SweepResults.selection`."""
    import pandas as pd

    lines = [
        (selector.name, found.row, found.dataset, _held_out(results, found.fold), found.trial, *_percents(found))
        for selector in selectors
        for dataset in results.datasets
        for found in scrutiny.losses(results, selector, dataset)
    ]
    columns = ["selector", "row", "dataset", "held_out", "trial", "score", "oracle", "best", "lost"]
    return pd.DataFrame(lines, columns=columns)


def _held_out(results: Results, position: int) -> str:
    return "+".join(results.folds[position].held_out)


def _percents(found: scrutiny.Loss) -> tuple[float, float, float, float]:
    return 100 * found.score, 100 * found.oracle, 100 * found.best, 100 * (found.oracle - found.score)


def correlations(results: Results) -> pd.DataFrame:
    """Make the frame of `SweepResults.correlations`."""
    import pandas as pd

    lines = []
    for row, dataset, position in _cells(results):
        found = scrutiny.correlation(*scrutiny.model_scores(results, row, dataset, position))
        lines.append({"row": row, "dataset": dataset, "held_out": _held_out(results, position), **asdict(found)})
    return pd.DataFrame(lines, columns=["row", "dataset", "held_out", "pearson", "spearman", "models", "refused"])


def search(results: Results, selector: Selector) -> pd.DataFrame:
    """Make the frame of `SweepResults.search`."""
    import pandas as pd

    able = able_datasets(results, selector)
    lines = []
    for row, dataset, position in _cells(results):
        curves = []
        for trial in scrutiny.trials_at(results, row, dataset, position) if dataset in able else ():
            rated = scrutiny.draws(results, selector, row, dataset, position, trial)
            curves.append(scrutiny.search_curve([pick.value for pick in rated], [pick.score for pick in rated]))
        draws = min((len(curve.mean) for curve in curves), default=0)
        for n in range(draws):
            found = [100 * np.mean([getattr(curve, what)[n] for curve in curves]) for what in ("mean", "std")]
            lines.append((row, dataset, _held_out(results, position), n + 1, *found, len(curves)))
    return pd.DataFrame(lines, columns=["row", "dataset", "held_out", "draws", "mean", "std", "trials"])


def _cells(results: Results) -> Iterator[tuple[str, str, int]]:
    """Yield (row, data set, fold) for each cell of the tables, means left out."""
    for dataset in results.datasets:
        for row in results.rows:
            yield from ((row, dataset, position) for position in results.reported(dataset))
