"""Draw the figures of a sweep from its tables and curves, each with a caption that says how to read it.

`draw_all` is the entry. Each figure is drawn once, in one style (`style`), and is then part of a page or a file for a
paper. matplotlib is imported only inside functions, because it is an extra and takes a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dgbench.core.stats import average
from dgbench.core.wording import format_duration, group_values, printable
from dgbench.report.frames import SweepResults
from dgbench.report.page import cost
from dgbench.report.page.curves import Curve, read_curves
from dgbench.report.page.sensitivity import Sensitivity, sensitivities
from dgbench.report.page.style import INK, LINE, SERIES, SETTINGS, SOFT, color_of, mark_of
from dgbench.report.tables import AVERAGE, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Drawing:
    """A drawn figure of one data set."""

    name: str
    """Its name in ids and file names."""
    dataset: str
    title: str
    caption: str
    """What is drawn and how to read it; also its text alternative."""
    figure: Figure
    tips: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Group id of an artist -> the text for each of its marks."""


@dataclass(frozen=True)
class Subject:
    """One data set of a sweep, with all that its figures are drawn from."""

    results: SweepResults
    dataset: str
    tables: Mapping[str, Table]
    """Name of a selector -> its table of this data set."""

    @property
    def table(self) -> Table:
        """Return the table of the first selector."""
        return next(iter(self.tables.values()))

    @property
    def metric(self) -> str:
        """Return the axis label of a value in percent."""
        name = self.results.results.metric(self.dataset)
        return "accuracy (%)" if name == "accuracy" else f"{name} × 100"

    @cached_property
    def curves(self) -> tuple[Curve, ...]:
        """Return the curves of all finished runs that tables count."""
        return tuple(read_curves(self.results.results, self.dataset))

    @property
    def rows(self) -> tuple[str, ...]:
        """Return the rows that this data set has."""
        return tuple(row for row in self.results.results.rows if (row, self.dataset) in self.results.results.candidates)

    def look_of(self, row: str) -> dict[str, Any]:
        """Return color and mark of a row, the same in all figures of a sweep."""
        position = self.results.results.rows.index(row)
        return {"color": color_of(position), "marker": mark_of(position)}


def draw_all(subject: Subject) -> Iterator[Drawing]:
    """Draw the figures of a data set one by one, in the order of the report; those without data are left out."""
    import matplotlib  # imported only inside functions, as the module says

    for draw in FIGURES:
        with matplotlib.rc_context(SETTINGS):
            drawing = draw(subject)
        if drawing:
            yield drawing


def _panels(n: int, columns: int, width: float, height: float, **shared: Any) -> tuple[Figure, list[Axes]]:
    """Make a figure of `n` panels, each of a width and height in inches, at most `columns` side by side."""
    from matplotlib.figure import Figure

    columns = min(n, columns)
    lines = -(-n // columns)
    figure = Figure(figsize=(max(width * columns, 3.4), height * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, **shared)
    panels = list(grid.ravel())
    for unused in panels[n:]:
        unused.remove()
    return figure, panels[:n]


def _name_rows(axes: Axes, rows: Sequence[str]) -> None:
    """Put the names of rows on a vertical axis, the first on top."""
    axes.set_yticks(range(len(rows)), [printable(row) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)


def _marks(axes: Axes, x: Sequence[float], y: Sequence[float], gid: str, **look: Any) -> None:
    """Draw marks that no line joins, as a group that can be given texts to show on hover."""
    axes.plot(x, y, gid=gid, **{"linestyle": "none", "marker": "o", "markeredgewidth": 0, **look})


def _scale_by_decades(axes: Axes) -> None:
    """Give the horizontal axis a logarithmic scale with plain numbers at powers of ten."""
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")  # matplotlib's own need its markup for formulas
    axes.xaxis.set_minor_formatter(lambda value, _: "")


def _means(table: Table, rows: Iterable[str]) -> dict[str, float]:
    """Return row -> mean over columns, for the rows that have one."""
    means = {row: cells[-1].estimate for row, cells in table.rows.items() if row in rows}
    return {row: found.mean for row, found in means.items() if found and np.isfinite(found.mean)}


def _legend(figure: Figure, axes: Axes) -> None:
    """Put the legend of some axes below the figure, as wide as the figure allows, and make room for it."""
    handles, names = axes.get_legend_handles_labels()
    longest = max(map(len, names), default=1)
    columns = max(1, int(figure.get_figwidth() / (0.085 * longest + 0.45)))
    figure.set_figheight(figure.get_figheight() + 0.19 * -(-len(names) // columns))
    figure.legend(handles, names, loc="outside lower center", ncols=min(columns, len(names)), handlelength=1.4)


def accuracy(subject: Subject) -> Drawing | None:
    """Draw the numbers of the first selector's table: a panel a column, a line a row, a bar for the error."""
    table, rows = subject.table, subject.rows
    cells = {row: table.rows[row] for row in rows}
    if not any(cell.estimate for line in cells.values() for cell in line):
        return None
    names = [name for name in table.columns if len(table.columns) > 2 or name != AVERAGE]
    figure, panels = _panels(len(names), 4, 2.3 if len(names) > 1 else 5.4, 0.23 * len(rows) + 0.75, sharey=True)
    tips = {}
    for number, (axes, name) in enumerate(zip(panels, names, strict=True)):
        _name_rows(axes, rows)
        axes.set_title(printable(name))
        found = [(y, cells[row][table.columns.index(name)].estimate) for y, row in enumerate(rows)]
        shown = [(y, e) for y, e in found if e and np.isfinite(e.mean)]
        best = max((e.mean for _, e in shown), default=0.0)
        axes.axvline(best, color=LINE, linewidth=1, zorder=0)
        for y, e in shown:
            if e.error is not None:
                axes.plot([e.mean - e.error, e.mean + e.error], [y, y], color=SERIES[0], linewidth=1.6, alpha=0.55)
        means, gid = [e.mean for _, e in shown], f"means-{number}"
        axes.plot(means, [y for y, _ in shown], "o", color=SERIES[0], markersize=5, gid=gid)
        tips[gid] = [f"{rows[y]} on {name}: {e}" for y, e in shown]
        axes.set_xlabel(subject.metric)
    caption = (
        f"Each row on each column of the table; selection: {table.selector.label}. A bar is one standard error "
        "over trials to each side, absent for a single trial and for means of columns. A vertical line marks the "
        "highest value."
    )
    return Drawing("accuracy", subject.dataset, "Accuracy by domain", caption, figure, tips)


def scatter(subject: Subject) -> Drawing | None:
    """Draw the last step of each run: its value on the training domains against that on the held-out domain."""
    curves = group_values((curve.row, curve) for curve in subject.curves if curve.inside is not None)
    if not curves:
        return None
    figure, (axes,) = _panels(1, 1, 5.4, 3.8)
    tips = {}
    for number, (row, found) in enumerate(curves.items()):
        points = [(float(c.inside[-1]), float(c.outside[-1]), c) for c in found if c.inside is not None]
        points = [point for point in points if np.isfinite(point[:2]).all()]
        gid, look = f"points-{number}", {"label": printable(row), "markersize": 4.5, "alpha": 0.65}
        x, y = [inside for inside, _, _ in points], [outside for _, outside, _ in points]
        _marks(axes, x, y, gid, **look, **subject.look_of(row))
        tips[gid] = [f"{c.name}, step {c.steps[-1]}: in {a:.1f}, out {b:.1f} ({c.run})" for a, b, c in points]
    axes.axline((50, 50), slope=1, color=SOFT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    axes.set_xlabel(f"training domains (validation parts), {subject.metric}")
    axes.set_ylabel(f"held-out domain, {subject.metric}")
    axes.margins(0.05)
    _legend(figure, axes)
    caption = (
        "A point for each run and row at the last evaluated step. On the dashed line a model would be as good out of "
        "its training domains as in them. Point at a mark to read which run it is."
    )
    return Drawing("in-against-out", subject.dataset, "In-domain against out-of-domain", caption, figure, tips)


def selection(subject: Subject) -> Drawing | None:
    """Draw the mean over domains by each selector, and that of the best models that were there to be chosen."""
    rows = [row for row in subject.rows if any(table.rows[row][-1].estimate for table in subject.tables.values())]
    limits = _best_of_all(subject.curves)
    if not rows or (len(subject.tables) < 2 and not limits):
        return None
    figure, (axes,) = _panels(1, 1, 5.4, 0.23 * len(rows) + 0.9)
    _name_rows(axes, rows)
    tips, lowest = {}, dict(limits)
    for number, (name, table) in enumerate(subject.tables.items()):
        shift = 0.2 * (number - (len(subject.tables) - 1) / 2)  # so that equal values don't cover each other
        means = _means(table, rows)
        lowest |= {row: min(lowest[row], mean) for row, mean in means.items()}
        gid, look = f"selector-{number}", {"color": color_of(number), "marker": "osDv"[number % 4]}
        places = [rows.index(row) + shift for row in means]
        _marks(axes, list(means.values()), places, gid, label=name, markersize=5, **look)
        tips[gid] = [f"{row} by {name}: {m:.1f}, {limits[row] - m:.1f} below the best" for row, m in means.items()]
    ends, places = [limits[row] for row in rows], [float(y) for y in range(len(rows))]
    _marks(
        axes, ends, places, "best", marker="|", color=INK, markersize=15, markeredgewidth=1.6, label="best there was"
    )
    tips["best"] = [f"{row}: {limits[row]:.1f} is the best that could have been chosen" for row in rows]
    axes.hlines(places, [lowest[row] for row in rows], ends, color=SOFT, linewidth=0.8, zorder=0)
    axes.set_xlabel(f"mean over domains, {subject.metric}")
    _legend(figure, axes)
    caption = (
        "What selection costs: the mean over domains of the models that each selector chose, and of the step and draw "
        "that are best on the held-out domain itself, which no selector may know. Long lines mean that it matters."
    )
    return Drawing("selection", subject.dataset, "Selection gap", caption, figure, tips)


def _best_of_all(curves: Iterable[Curve]) -> dict[str, float]:
    """Return row -> highest value of any draw and step, mean over trials and then over folds."""
    best: dict[str, dict[str, dict[int, float]]] = {}
    for curve in curves:
        trials = best.setdefault(curve.row, {}).setdefault(curve.held_out, {})
        finite = curve.outside[np.isfinite(curve.outside)]
        trials[curve.trial] = max([trials.get(curve.trial, -np.inf), *finite.tolist()])
    return {row: average([average(list(trials.values())) for trials in folds.values()]) for row, folds in best.items()}


def learning(subject: Subject) -> Drawing | None:
    """Draw values against steps: a panel a row, a line for the training domains and one for each held-out domain."""
    curves = group_values((curve.row, curve) for curve in subject.curves if len(curve.steps) > 1 and not curve.adapted)
    if not curves:
        return None
    figure, panels = _panels(len(curves), 5, 2.0 if len(curves) > 3 else 2.6, 1.9, sharex=True, sharey=True)
    domains = list(dict.fromkeys(curve.held_out for found in curves.values() for curve in found))
    for axes, (row, found) in zip(panels, curves.items(), strict=True):
        axes.set_title(printable(row))
        lines = [((curve.steps, curve.inside), "training domains") for curve in found if curve.inside is not None]
        _band(axes, [line for line, _ in lines], SOFT, "training domains (validation parts)", "--")
        for number, domain in enumerate(domains):
            own = [(curve.steps, curve.outside) for curve in found if curve.held_out == domain]
            _band(axes, own, color_of(number), f"{printable(domain)} held out", "-")
    for axes in panels[-5:]:
        axes.set_xlabel("step")
        axes.tick_params(labelbottom=True)  # matplotlib hides them above a place without a panel
    for axes in panels[::5]:
        axes.set_ylabel(subject.metric)
    _legend(figure, panels[0])
    caption = (
        "Values during training, mean over trials and draws; a band spans the middle 80 % of runs. Dashed: validation "
        "parts of the training domains. Solid: each held-out domain, from the runs that did not train on it. Rows that "
        "are made once, at the end of a run, have no curve."
    )
    return Drawing("learning", subject.dataset, "Learning curves", caption, figure)


def _band(axes: Axes, lines: Sequence[tuple[Sequence[int], Any]], color: str, label: str, style: str) -> None:
    """Draw the mean of some curves over the steps that most share, and a band for 80 % of them."""
    if not lines:
        return
    groups = group_values((tuple(steps), values) for steps, values in lines)
    steps, found = max(groups.items(), key=lambda group: len(group[1]))
    values = np.stack(found)
    axes.plot(steps, np.nanmean(values, axis=0), style, color=color, label=label)
    if len(found) > 2:
        low, high = np.nanquantile(values, (0.1, 0.9), axis=0)
        axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)


def sensitivity(subject: Subject) -> Drawing | None:
    """Draw each drawn hyperparameter against the value on the held-out domain, the most important first."""
    found = list(sensitivities(subject.results, subject.dataset, subject.curves))
    if not found:
        return None
    columns = max(len(one.hparams) for one in found)
    figure, panels = _panels(len(found) * columns, columns, 2.3, 1.9)
    tips: dict[str, list[str]] = {}
    for line, one in enumerate(found):
        for place, axes in enumerate(panels[line * columns : (line + 1) * columns]):
            if place < len(one.hparams):
                _draw_hparam(axes, one, place, f"hparam-{line}-{place}", tips)
            else:
                axes.remove()
        panels[line * columns].set_ylabel("points above mean")
    caption = (
        "Value on the held-out domain at the last step against each hyperparameter that was drawn, a point for each "
        "run; the mean of runs on the same domain is subtracted. In brackets: the hyperparameter's share of importance "
        "in a random forest, which says little where runs are few."
    )
    return Drawing("hyperparameters", subject.dataset, "Hyperparameter sensitivity", caption, figure, tips)


def _draw_hparam(axes: Axes, one: Sensitivity, place: int, gid: str, tips: dict[str, list[str]]) -> None:
    """Draw one hyperparameter of one method."""
    hparam = one.hparams[place]
    axes.axhline(0, color=SOFT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    _marks(axes, hparam.values.tolist(), one.scores.tolist(), gid, color=SERIES[0], markersize=3.5, alpha=0.6)
    if hparam.logarithmic:
        _scale_by_decades(axes)
    axes.set_title(f"{printable(one.method)}: {printable(hparam.name)} ({hparam.importance:.0%})", fontsize=8.5)
    tips[gid] = [
        f"{run}: {hparam.name} {value:.4g}, {score:+.1f}"
        for run, value, score in zip(one.runs, hparam.values, one.scores, strict=True)
    ]


def cost_against_accuracy(subject: Subject) -> Drawing | None:
    """Draw the mean over domains against the time of all runs that a row needs."""
    seconds = cost.seconds_of_rows(subject.results, subject.dataset)
    means = _means(subject.table, subject.rows)
    rows = [row for row in means if seconds.get(row)]
    if len(rows) < 2:
        return None
    figure, (axes,) = _panels(1, 1, 5.4, 3.5)
    tips = {}
    for number, row in enumerate(rows):
        gid, look = f"cost-{number}", subject.look_of(row)
        _marks(axes, [seconds[row] / 60], [means[row]], gid, label=printable(row), markersize=7, **look)
        tips[gid] = [f"{row}: {means[row]:.1f} in {format_duration(seconds[row])}"]
    if max(seconds[row] for row in rows) > 20 * min(seconds[row] for row in rows):
        _scale_by_decades(axes)
    axes.margins(0.08)
    axes.set_xlabel("minutes of all runs that the row needs")
    axes.set_ylabel(f"mean over domains, {subject.metric}")
    _legend(figure, axes)
    caption = (
        "The time of all runs behind a row against its mean over domains. Merged and adapted models count with their "
        "inputs; rows that share runs each count them in full. Times are those of the machines that ran them, under "
        "their load."
    )
    return Drawing("cost", subject.dataset, "Cost against accuracy", caption, figure, tips)


FIGURES: tuple[Callable[[Subject], Drawing | None], ...] = (
    accuracy,
    scatter,
    selection,
    learning,
    sensitivity,
    cost_against_accuracy,
)
"""The figures of a data set in the order of the report; each gives None where there is nothing to draw."""
