"""Draw the scores of rows: by domain, in and out of domain, by selector, and against their cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from dgbench.core.stats import Estimate, average
from dgbench.core.wording import format_duration, group_values, printable
from dgbench.report.comparison import RowStatistics
from dgbench.report.cost import costs
from dgbench.report.figures.curves import Curve
from dgbench.report.figures.panels import Drawing, Panel, Tips, marks, name_rows, scale_by_decades
from dgbench.report.figures.style import INK, LINE, SERIES, SOFT, color_of
from dgbench.report.figures.subject import Subject, means_of, shown_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def accuracy(subject: Subject) -> Drawing | None:
    """Draw the numbers of the first selector's table: a panel a column, a line a row, bars for the errors."""
    table = subject.table
    rows = [row for row in subject.rows if any(cell.estimate for cell in table.rows[row])]
    if not rows:
        return None
    panels = []
    for name in shown_columns(table):
        place = table.columns.index(name)
        pairs = [(table.rows[row][place].estimate, subject.intervals.rows[row][place].estimate) for row in rows]
        panels.append(Panel(name, partial(_draw_column, subject, name, rows, pairs), name))
    caption = (
        f"Each row on each column of the table; selection: {table.selector.label}. The thick bar is one standard error "
        "over trials to each side, the thin one Student's 95 % interval; both are absent where trials are too few. "
        "Rows of a trial share splits and initial weights, so that differences between rows are surer than these bars "
        "say. A vertical line marks the highest value."
    )
    return Drawing(
        "accuracy",
        subject.dataset,
        "Accuracy by domain",
        caption,
        tuple(panels),
        columns=5 if len(panels) != 6 else 3,
        width=(2.3 if len(panels) < 5 else 2.0) if len(panels) > 1 else 5.4,
        height=0.23 * len(rows) + 0.75,
        share_y=True,
    )


def _draw_column(
    subject: Subject,
    name: str,
    rows: Sequence[str],
    pairs: Sequence[tuple[Estimate | None, Estimate | None]],
    axes: Axes,
) -> Tips:
    """Draw one column of a table; `pairs` has each row's number with its standard error and with its interval."""
    name_rows(axes, rows)
    shown = [(y, one, other) for y, (one, other) in enumerate(pairs) if one and np.isfinite(one.mean)]
    axes.axvline(max((one.mean for _, one, _ in shown), default=0.0), color=LINE, linewidth=1, zorder=0)
    gid, tips = f"marks-{name}", []
    for y, one, other in shown:
        for estimate, width in ((other, 0.9), (one, 3.2)):
            if estimate and estimate.error is not None:
                ends = [one.mean - estimate.error, one.mean + estimate.error]
                axes.plot(ends, [y, y], color=SERIES[0], linewidth=width, alpha=0.5, solid_capstyle="butt")
        interval = f", 95 % ± {other.error:.1f}" if other and other.error is not None else ""
        tips.append(f"{rows[y]} on {name}: {one}{interval}")
    marks(axes, [one.mean for _, one, _ in shown], [y for y, *_ in shown], gid, color=SERIES[0], markersize=5)
    axes.set_xlabel(subject.metric)
    return {gid: tips}


def differences(subject: Subject) -> Drawing | None:
    """Draw each row's paired difference from the first row, with its interval over trials."""
    found = [row for row in subject.statistics.rows if row.delta and np.isfinite(row.delta.difference)]
    if not found:
        return None
    reference = subject.statistics.reference
    caption = (
        f"Each row minus {reference} within trials, which share splits, initial weights and minibatches, mean over "
        f"columns; selection: {subject.table.selector.label}. The bar is Student's 95 % interval over trials, absent "
        "for fewer than three. A bar that crosses the dashed line leaves open which of the two is better."
    )
    panel = Panel("difference", partial(_draw_differences, found, reference))
    height = 0.23 * len(found) + 0.75
    return Drawing(
        "differences", subject.dataset, f"Difference from {printable(reference)}", caption, (panel,), height=height
    )


def _draw_differences(found: Sequence[RowStatistics], reference: str, axes: Axes) -> Tips:
    """Draw the differences of rows that have one, in points."""
    name_rows(axes, [row.row for row in found])
    axes.axvline(0, color=SOFT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    means, tips = [], []
    for y, row in enumerate(found):
        if not row.delta:
            continue
        means.append(100 * row.delta.difference)
        interval, text = row.delta.by_trial, f"{row.row}: {means[-1]:+.1f}"
        if not interval.refused:
            ends = [100 * interval.low, 100 * interval.high]
            axes.plot(ends, [y, y], color=SERIES[0], linewidth=1.6, alpha=0.55)
            text += f", 95 % {ends[0]:+.1f} to {ends[1]:+.1f}"
        if not math.isnan(row.p):
            text += f", p = {row.p:.3f}"
        tips.append(text)
    marks(axes, means, range(len(means)), "difference", color=SERIES[0], markersize=5)
    axes.set_xlabel(f"points above {printable(reference)}")
    return {"difference": tips}


def scatter(subject: Subject) -> Drawing | None:
    """Draw the last step of each run: its value on the training domains against that on the held-out domain."""
    curves = group_values((curve.row, curve) for curve in subject.curves if curve.inside is not None)
    if not curves:
        return None
    caption = (
        "A point for each run and row at the last evaluated step. On the dashed line a model would be as good out of "
        "its training domains as in them. Point at a mark to read which run it is."
    )
    panel = Panel("in-against-out", lambda axes: _draw_scatter(subject, curves, axes))
    title = "In-domain against out-of-domain"
    return Drawing("in-against-out", subject.dataset, title, caption, (panel,), height=3.8, legend=True)


def _draw_scatter(subject: Subject, curves: dict[str, list[Curve]], axes: Axes) -> Tips:
    """Draw the runs of each row."""
    tips = {}
    for number, (row, found) in enumerate(curves.items()):
        points = [(float(c.inside[-1]), float(c.outside[-1]), c) for c in found if c.inside is not None]
        points = [point for point in points if np.isfinite(point[:2]).all()]
        gid = f"points-{number}"
        x, y = [inside for inside, _, _ in points], [outside for _, outside, _ in points]
        marks(axes, x, y, gid, label=printable(row), markersize=4.5, alpha=0.65, **subject.look_of(row))
        tips[gid] = [f"{c.name}, step {c.steps[-1]}: in {a:.1f}, out {b:.1f} ({c.run})" for a, b, c in points]
    axes.axline((50, 50), slope=1, color=SOFT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    axes.set_xlabel(f"training domains (validation parts), {subject.metric}")
    axes.set_ylabel(f"held-out domain, {subject.metric}")
    axes.margins(0.05)
    return tips


def selection(subject: Subject) -> Drawing | None:
    """Draw the mean over domains by each selector, and that of the best models that there were to choose from."""
    rows = [row for row in subject.rows if any(table.rows[row][-1].estimate for table in subject.tables.values())]
    limits = _best_of_all(subject.curves)
    if not rows or (len(subject.tables) < 2 and not limits):
        return None
    caption = (
        "What selection costs: the mean over domains of the models that each selector chose, and of the step and draw "
        "that are best on the held-out domain itself, which no selector may know. Long lines mean that it matters."
    )
    panel = Panel("selection", lambda axes: _draw_selection(subject, rows, limits, axes))
    height = 0.23 * len(rows) + 0.9
    return Drawing("selection", subject.dataset, "Selection gap", caption, (panel,), height=height, legend=True)


def _draw_selection(subject: Subject, rows: Sequence[str], limits: dict[str, float], axes: Axes) -> Tips:
    """Draw the means of each row; `limits` has the best that there was."""
    name_rows(axes, rows)
    tips, lowest = {}, dict(limits)
    for number, (name, table) in enumerate(subject.tables.items()):
        shift = 0.2 * (number - (len(subject.tables) - 1) / 2)  # so that equal values don't cover each other
        means = means_of(table, rows)
        lowest |= {row: min(lowest[row], mean) for row, mean in means.items()}
        gid, mark = f"selector-{number}", "osDv"[number % 4]
        places = [rows.index(row) + shift for row in means]
        marks(axes, list(means.values()), places, gid, label=name, markersize=5, color=color_of(number), marker=mark)
        tips[gid] = [f"{row} by {name}: {m:.1f}, {limits[row] - m:.1f} below the best" for row, m in means.items()]
    ends, places = [limits[row] for row in rows], [float(y) for y in range(len(rows))]
    look = {"marker": "|", "color": INK, "markersize": 13, "markeredgewidth": 1.6}
    marks(axes, ends, places, "best", label="best there was", **look)
    tips["best"] = [f"{row}: {limits[row]:.1f} is the best that could have been chosen" for row in rows]
    axes.hlines(places, [lowest[row] for row in rows], ends, color=SOFT, linewidth=0.8, zorder=0)
    axes.set_xlabel(f"mean over domains, {subject.metric}")
    return tips


def _best_of_all(curves: Iterable[Curve]) -> dict[str, float]:
    """Return row -> highest value of any draw and step, mean over trials and then over folds."""
    best: dict[str, dict[str, dict[int, float]]] = {}
    for curve in curves:
        trials = best.setdefault(curve.row, {}).setdefault(curve.held_out, {})
        finite = curve.outside[np.isfinite(curve.outside)]
        trials[curve.trial] = max([trials.get(curve.trial, -np.inf), *finite.tolist()])
    return {row: average([average(list(trials.values())) for trials in folds.values()]) for row, folds in best.items()}


def cost_against_accuracy(subject: Subject) -> Drawing | None:
    """Draw the mean over domains against the time of all runs that a row needs."""
    found = costs(subject.sweep.results, subject.sweep.parts, [subject.dataset])
    seconds = {cost.row: cost.seconds for cost in found}
    means = means_of(subject.table, subject.rows)
    rows = [row for row in means if seconds.get(row)]
    if len(rows) < 2:
        return None
    caption = (
        "The time of all runs behind a row against its mean over domains. Merged and adapted models count with their "
        "inputs; rows that share runs each count them in full. Times are those of the machines that ran them, under "
        "their load."
    )
    times = {row: seconds[row] for row in rows}
    panel = Panel("cost", lambda axes: _draw_cost(subject, times, means, axes))
    return Drawing("cost", subject.dataset, "Cost against accuracy", caption, (panel,), height=3.5, legend=True)


def _draw_cost(subject: Subject, seconds: dict[str, float], means: dict[str, float], axes: Axes) -> Tips:
    """Draw a mark a row; the unit of time fits the longest."""
    unit, name = next(
        (unit, name)
        for unit, name in ((3600, "hours"), (60, "minutes"), (1, "seconds"))
        if max(seconds.values()) >= 2 * unit or unit == 1
    )
    tips = {}
    for number, (row, found) in enumerate(seconds.items()):
        gid = f"cost-{number}"
        marks(axes, [found / unit], [means[row]], gid, label=printable(row), markersize=7, **subject.look_of(row))
        tips[gid] = [f"{row}: {means[row]:.1f} in {format_duration(found)}"]
    axes.margins(0.08)
    if max(seconds.values()) > 20 * min(seconds.values()):
        scale_by_decades(axes)
    axes.set_xlabel(f"{name} of all runs that the row needs")
    axes.set_ylabel(f"mean over domains, {subject.metric}")
    return tips
