"""Draw the series of analyses in the form that their cards name: lines, maps or points.

Of each row one run is drawn, that of the first trial with the highest in-domain score. Training domains stand beside
held-out ones, on one scale. matplotlib is imported only inside functions, because it is an extra and takes a second.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dgbench.core.cards import SeriesCard
from dgbench.core.errors import UserError
from dgbench.core.wording import group_values, printable, unknown_name
from dgbench.report.figures.panels import Drawing, Panel, Tips
from dgbench.report.figures.style import INK, SERIES, color_of, mark_of
from dgbench.report.series import Series, one_series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Columns: TypeAlias = Mapping[str, Sequence[Any]]
"""Column of a series -> its values in one view."""
MOST_NAMED = 12
"""Most lines or groups of points that a legend names."""
MOST_ROWS = 6
"""Most rows that a figure draws, as each may have a panel for each domain."""
_LEVELS = 24
"""Steps of color of a map."""


def series_drawings(found: Iterable[Series]) -> Iterator[Drawing]:
    """Yield the figures of series: one for each data set, analysis, series and held-out domains."""
    of_series = group_values(((one.dataset, one.analysis, one.name), one) for one in found)
    for (dataset, analysis, name), series in of_series.items():
        folds = group_values((one.held_out, one) for one in series)
        for held_out, own in folds.items():
            card, every = own[0].card, _chosen(own)
            chosen = dict(islice(every.items(), MOST_ROWS))
            where = f", {held_out} held out" if len(folds) > 1 else ""
            several = " Of each row, the run of the first trial with the highest in-domain score." if own[1:] else ""
            several += f" Drawn are the first {MOST_ROWS} of {len(every)} rows." if len(every) > MOST_ROWS else ""
            shown = _Shown(card, chosen)
            # Below a decade a logarithmic axis has hardly a number on it.
            wide = tuple(name for name in card.logarithmic if shown.limits(name)[1] > 10 * shown.limits(name)[0])
            drawing = _FORMS[card.drawing](replace(shown, card=replace(card, logarithmic=wide)))
            id = re.sub(r"[^\w-]+", "-", f"{analysis}-{name}{f'-{held_out}' if len(folds) > 1 else ''}")
            yield Drawing(
                name=id,
                dataset=dataset,
                title=f"{analysis}: {card.title}{where}",
                caption=f"{card.caption or card.title + '.'}{several}",
                **drawing,
            )


def series_drawing(
    found: Iterable[Series], analysis: str, name: str | None, dataset: str | None, held_out: str | None
) -> Drawing:
    """Return the figure of one series on one data set with the same domains held out.

    Args:
        found: All series.
        analysis: The analysis.
        name: The series' name; None if the analysis has a single one.
        dataset: The data set; None if there is a single one.
        held_out: The held-out domains, joined by `+`; None if there are no others.

    Raises:
        UserError: There is none, or a name is unknown or must be given.
    """
    own = one_series(found, analysis, name)
    for given, what in ((dataset, "dataset"), (held_out, "held_out")):
        known = dict.fromkeys(str(getattr(one, what)) for one in own)
        if given is None and len(known) > 1:
            raise UserError(f"a figure shows one of several: {what}= {', '.join(known)}")
        if given is not None and given not in known:
            raise UserError(unknown_name(what, given, known))
        own = [one for one in own if given in (None, getattr(one, what))]
    (drawing,) = series_drawings(own)
    return drawing


def _chosen(found: Sequence[Series]) -> dict[str, Series]:
    """Return row -> the run that is drawn."""

    def order(one: Series) -> tuple[int, float]:
        score = one.of.scores[0]
        return one.of.trial, math.inf if math.isnan(score) else -score

    return {row: min(own, key=order) for row, own in group_values((one.row, one) for one in found).items()}


@dataclass(frozen=True)
class _Shown:
    """The runs of one figure."""

    card: SeriesCard
    runs: Mapping[str, Series]
    """Row -> its run."""

    @property
    def views(self) -> list[str]:
        """Return the views with panels: those that train and are tested, or if there are none all."""
        found = dict.fromkeys(view for run in self.runs.values() for view in run.views)
        folds = [run.of.fold for run in self.runs.values()]
        wanted = ["", *(str(view) for fold in folds for view in (*fold.train, *fold.test))]
        return [view for view in dict.fromkeys(wanted) if view in found] or list(found)

    def title(self, view: str) -> str:
        """Return the domain of a view and its role."""
        run = next(run for run in self.runs.values() if view in run.views)
        return f"{view.partition('/')[0]}, {run.of.role(view)}" if view else ""

    def limits(self, column: str) -> tuple[float, float]:
        """Return the least and the largest finite value of a column in all panels; 0 and 1 if there is none."""
        shown = [run.views[view][column] for run in self.runs.values() for view in self.views if view in run.views]
        values = np.concatenate([np.asarray(values, float) for values in shown])
        values = values[np.isfinite(values) & ((values > 0) | (column not in self.card.logarithmic))]
        return (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)


def _lines(shown: _Shown) -> dict[str, Any]:
    """Lay out lines: a panel for each value and view, and for each row if its lines have names of their own."""
    card, views = shown.card, shown.views
    groups = [{row: run} for row, run in shown.runs.items()] if card.by else [shown.runs]
    names = list(dict.fromkeys(name for run in shown.runs.values() for view in views for name in _names(run, view)))
    panels = [
        Panel(
            _panel_name(value, view, rows if card.by else {}, shown),
            partial(_draw_lines, card, value, {row: run.views.get(view) for row, run in rows.items()}, names, shown),
            _title(shown, view, rows if card.by else {}),
        )
        for rows in groups
        for value in card.values
        for view in views
    ]
    return {"panels": tuple(panels), "legend": True, "share_x": True, **_layout(len(views), 2.6, 2.1)}


def _names(run: Series, view: str) -> list[str]:
    columns = run.views.get(view, {})
    return [", ".join(parts) for parts in zip(*(columns.get(name, ()) for name in run.card.by), strict=True)]


def _draw_lines(
    card: SeriesCard, value: str, rows: Mapping[str, Columns | None], names: Sequence[str], shown: _Shown, axes: Axes
) -> Tips:
    """Draw the lines of one panel; colors are those of rows, or of `names` where the card has some."""
    all_rows = list(shown.runs)
    for row, columns in ((row, columns) for row, columns in rows.items() if columns):
        x, y = np.asarray(columns[card.x], float), np.asarray(columns[value], float)
        if not card.by:
            axes.plot(x, y, color=color_of(all_rows.index(row)), label=printable(row))
            continue
        texts = np.array([", ".join(parts) for parts in zip(*(columns[name] for name in card.by), strict=True)])
        for name in dict.fromkeys(texts.tolist()):
            look: dict[str, Any] = {"color": SERIES[0], "alpha": 0.4, "linewidth": 0.8}
            if len(names) <= MOST_NAMED:
                look = {"color": color_of(names.index(name)), "label": printable(name)}
            axes.plot(x[texts == name], y[texts == name], **look)
    _scale(axes, card, card.x, value)
    low, high = shown.limits(value)
    if value not in card.logarithmic:
        low, high = low - 0.04 * (high - low), high + 0.04 * (high - low)
    if high > low:
        axes.set_ylim(low, high)
    return {}


def _maps(shown: _Shown) -> dict[str, Any]:
    """Lay out maps: a panel for each row, value and view."""
    panels = [
        Panel(
            _panel_name(value, view, {row: run}, shown),
            partial(_draw_map, shown.card, value, run.views[view], shown.limits(value)),
            _title(shown, view, {row: run}),
        )
        for row, run in shown.runs.items()
        for value in shown.card.values
        for view in shown.views
        if view in run.views
    ]
    return {"panels": tuple(panels), **_layout(len(shown.views), 2.5, 2.3)}


def _draw_map(card: SeriesCard, value: str, columns: Columns, limits: tuple[float, float], axes: Axes) -> Tips:
    """Draw one map with its contours and its marked points."""
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.patheffects import withStroke

    x, y, z = (np.asarray(columns[name], float) for name in (card.x, card.y, value))
    marks = np.array(columns[card.by[0]]) if card.by else np.full(len(x), "")
    low, high = limits
    logarithmic = value in card.logarithmic and 0 < low < high
    high = high if high > low else low + 1
    norm = (LogNorm if logarithmic else Normalize)(low, high)
    on = (marks == "") & np.isfinite(z)
    if on.sum() > 2:
        spaced = np.geomspace if logarithmic else np.linspace
        levels: NDArray[np.float64] = spaced(low, high, _LEVELS + 1)
        filled = axes.tricontourf(x[on], y[on], z[on], levels=levels, norm=norm, cmap="viridis", extend="both")
        filled.set_rasterized(True)
        axes.tricontour(x[on], y[on], z[on], levels=levels[::4], colors=INK, linewidths=0.35, alpha=0.7)
        spot = axes.get_subplotspec()
        if spot is None or spot.is_last_col():
            bar = axes.inset_axes((1.04, 0.0, 0.05, 1.0))
            label = printable(card.labels[value])
            axes.figure.colorbar(filled, cax=bar, label=label, format="%.2g", ticks=levels[::6].tolist())
            bar.grid(False)
    for number, name in enumerate(dict.fromkeys(marks[marks != ""].tolist())):
        own = marks == name
        look: dict[str, Any] = {"linestyle": "none", "marker": mark_of(number), "markeredgecolor": "white"}
        axes.plot(x[own], y[own], color=INK, markersize=5.5, markeredgewidth=0.8, **look)
        near: dict[str, Any] = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center", "fontsize": 7.5}
        for place in zip(x[own].tolist(), y[own].tolist(), strict=True):
            text = axes.annotate(printable(name), place, **near)
            text.set_path_effects([withStroke(linewidth=2, foreground="white")])  # legible on any color
    axes.set_xlabel(printable(card.labels[card.x]))
    axes.set_ylabel(printable(card.labels[card.y]))
    axes.grid(False)
    return {}


def _points(shown: _Shown) -> dict[str, Any]:
    """Lay out points: a panel for each row, view and column that colors them."""
    panels = [
        Panel(
            ": ".join(filter(None, (by, _panel_name("", view, {row: run}, shown)))),
            partial(_draw_points, shown.card, by, run.views[view]),
            ", ".join(filter(None, (_title(shown, view, {row: run}), printable(shown.card.labels.get(by, ""))))),
        )
        for row, run in shown.runs.items()
        for view in shown.views
        if view in run.views
        for by in shown.card.by or ("",)
    ]
    return {"panels": tuple(panels), **_layout(max(1, len(shown.card.by)), 3.4, 3.0), "share_y": False}


def _draw_points(card: SeriesCard, by: str, columns: Columns, axes: Axes) -> Tips:
    """Draw one panel of points, colored by a column of texts."""
    x, y = np.asarray(columns[card.x], float), np.asarray(columns[card.y], float)
    texts = np.array(columns[by] if by else np.full(len(x), ""))
    names = list(dict.fromkeys(texts.tolist()))
    for number, name in enumerate(names):
        own, label = texts == name, printable(name) or None
        # As an image: a mark each of thousands of points would make a page of many megabytes.
        look: dict[str, Any] = {
            "linestyle": "none",
            "markersize": 3,
            "markeredgewidth": 0,
            "alpha": 0.7,
            "rasterized": True,
        }
        mark = mark_of(number // len(SERIES))
        axes.plot(x[own], y[own], color=color_of(number), marker=mark, label=label, **look)
    if 1 < len(names) <= MOST_NAMED:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handletextpad=0.1, markerscale=1.6)
    _scale(axes, card, card.x, card.y)
    return {}


_FORMS = {"lines": _lines, "map": _maps, "points": _points}
"""Form on a card -> what lays its panels out."""


def _layout(columns: int, width: float, height: float) -> dict[str, Any]:
    return {"columns": columns, "width": width, "height": height, "share_y": "row"}


def _panel_name(value: str, view: str, rows: Mapping[str, Any], shown: _Shown) -> str:
    """Return the name of a panel among those of its figure."""
    row = next(iter(rows), "") if len(shown.runs) > 1 else ""
    return ": ".join(filter(None, (row, value, view))) or shown.card.title


def _title(shown: _Shown, view: str, rows: Mapping[str, Any]) -> str:
    """Return the title of a panel: row if there are several, domain and role."""
    row = next(iter(rows), "") if len(shown.runs) > 1 else ""
    return ": ".join(filter(None, (row, shown.title(view))))


def _scale(axes: Axes, card: SeriesCard, x: str, y: str) -> None:
    """Label both axes, and give those a logarithmic scale that the card says."""
    axes.set_xlabel(printable(card.labels[x]))
    axes.set_ylabel(printable(card.labels[y]))
    for name, scale, axis in ((x, axes.set_xscale, axes.xaxis), (y, axes.set_yscale, axes.yaxis)):
        if name in card.logarithmic:
            scale("log")
            axis.set_major_formatter(lambda value, _: f"{value:g}")  # matplotlib's own are formulas
            axis.set_minor_formatter(lambda *_: "")
