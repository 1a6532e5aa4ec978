"""Show how the value of a row that merges runs grows with their number: a section of `collect --members`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dgbench.core.errors import UserError
from dgbench.core.stats import average
from dgbench.report.results import Candidate, Gap, Results, Spot
from dgbench.report.select import Selector
from dgbench.report.statistics import Interval, t_interval
from dgbench.report.tables import Section, shortfall

BELOW = (
    "members: runs that a model is merged from, drawn several times from those of its trial; 1 is such a run by itself",
    "mean: over folds and trials, of the mean over draws; the interval is Student's, over trials",
    "draws: models of a fold and trial; sd of draws: their standard deviation, which is no error: draws share members",
)
"""Lines below the section."""


@dataclass(frozen=True)
class Point:
    """The values of a row merged from one number of runs, accuracies in [0, 1]."""

    row: str
    members: int
    by_fold: tuple[float, ...]
    """Mean over trials and draws on each reported fold; NaN where a run is lacking."""
    mean: Interval
    """Mean over folds, trials and draws, with its interval over trials."""
    draws: int
    """Most draws of members in a fold and trial."""
    between_draws: float
    """Standard deviation over draws, pooled over folds and trials; NaN with one draw each."""
    gaps: tuple[Gap, ...]
    """Runs that are lacking; with any, `mean` is NaN."""


def check_members(results: Results, numbers: Sequence[int]) -> None:
    """Raise UserError for numbers of members of which the sweep has no runs."""
    planned = sorted({members for _, _, members in results.curves})
    if not planned:
        raise UserError(
            "--members: the sweep has merged no row from fewer runs: launch it with --members 1 2 5, which reads the "
            "weights that are kept"
        )
    if lacking := [number for number in numbers if number not in planned]:
        raise UserError(
            f"--members {' '.join(map(str, lacking))}: the sweep has {', '.join(map(str, planned))}; launch it with "
            "--members for others"
        )


def reads_own_folds(results: Results, selector: Selector, dataset: str) -> bool:
    """Return whether a selector can choose a step of each model by itself: by views of the folds that are reported."""
    if selector.unavailable(results, dataset):
        return False
    return len(selector.folds_read(results, dataset)) <= len(results.reported(dataset))


def curve(results: Results, selector: Selector, dataset: str, numbers: Sequence[int] = ()) -> list[Point]:
    """Return the points of all rows of a data set that are merged from several numbers of runs.

    Args:
        results: The results.
        selector: Chooses the step of each model: among those of a run, or the candidates of a merger. It must read
            views of the model's own run.
        dataset: The data set.
        numbers: Numbers of members; none: all that there are.
    """
    found = []
    for (row, name, members), draws in results.curves.items():
        if name == dataset and (not numbers or members in numbers):
            found.append(_point(results, selector, (row, dataset), members, draws))
    return found


def member_sections(
    results: Results, chosen: Sequence[Selector], rows: Sequence[str], numbers: Sequence[int]
) -> Iterator[Section]:
    """Yield a section for each data set and selector.

    Args:
        results: The results.
        chosen: The selectors.
        rows: The rows to show.
        numbers: Numbers of members; none: all that there are.
    """
    for selector in chosen:
        for dataset in results.datasets:
            shown = {row for row, name, _ in results.curves if name == dataset and row in rows}
            if not shown or selector.unavailable(results, dataset):
                continue
            title = f"Members on {dataset}, model selection method: {selector.label}"
            content: dict[str, Any] = {"dataset": dataset, "selector": selector.name, "points": []}
            if not reads_own_folds(results, selector, dataset):
                yield Section(title, (), ("not available: members are drawn within each fold by itself",), content)
                continue
            points = [point for point in curve(results, selector, dataset, numbers) if point.row in shown]
            folds = ["+".join(results.folds[position].held_out) for position in results.reported(dataset)]
            head = ("row", "members", *folds, "mean", "95 % interval", "draws", "sd of draws")
            yield Section(
                title,
                (head, *map(_cells, points)),
                (*BELOW, *dict.fromkeys(_lacks(points))),
                {**content, "points": points},
            )


def _point(
    results: Results,
    selector: Selector,
    place: tuple[str, str],
    members: int,
    draws: Sequence[tuple[Spot, Candidate]],
) -> Point:
    """Choose a step of each draw's model, and average draws, then folds, then trials."""
    by_spot: dict[Spot, list[float]] = {}
    gaps: dict[Gap, None] = {}
    folds = results.reported(place[1])
    for spot, candidate in draws:
        if spot[0] not in folds:
            continue
        scores = by_spot.setdefault(spot, [])
        # As if this draw alone were the row: what the selector then picks is its step.
        alone: Mapping[Spot, Mapping[int, Candidate]] = {spot: {0: candidate}}
        outcome = selector.choose(replace(results, candidates={place: alone}), *place, *spot)
        gaps |= dict.fromkeys(outcome.gaps)
        scores += [outcome.pick.score] if outcome.pick else []
    trials = sorted({trial for _, trial in by_spot})
    means = {spot: average(scores) if scores else math.nan for spot, scores in by_spot.items()}
    by_fold = [[means[fold, trial] for trial in trials if (fold, trial) in means] for fold in folds]
    over_folds = [average([means.get((fold, trial), math.nan) for fold in folds]) for trial in trials]
    if gaps:
        by_fold, over_folds = [[math.nan] for _ in folds], [math.nan]
    several = [np.var(scores, ddof=1) for scores in by_spot.values() if len(scores) > 1]
    return Point(
        row=place[0],
        members=members,
        by_fold=tuple(average(values) for values in by_fold),
        mean=t_interval(over_folds),
        draws=max(map(len, by_spot.values()), default=0),
        between_draws=math.sqrt(np.mean(several)) if several and not gaps else math.nan,
        gaps=tuple(gaps),
    )


def _cells(point: Point) -> tuple[str, ...]:
    """Format a point as texts, in percent."""
    if point.gaps:
        return (point.row, str(point.members), *("" for _ in point.by_fold), shortfall(point.gaps), "", "", "")
    interval = "" if point.mean.refused else f"[{100 * point.mean.low:.1f}, {100 * point.mean.high:.1f}]"
    spread = "" if math.isnan(point.between_draws) else f"{100 * point.between_draws:.1f}"
    values = (f"{100 * value:.1f}" for value in (*point.by_fold, point.mean.mean))
    return (point.row, str(point.members), *values, interval, str(point.draws), spread)


def _lacks(points: Sequence[Point]) -> Iterator[str]:
    """Say why there are no intervals."""
    for point in points:
        if point.mean.refused and not point.gaps:
            yield f"no interval: {point.mean.refused}"
