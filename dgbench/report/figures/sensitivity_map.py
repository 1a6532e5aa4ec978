"""Draw how much two hyperparameters matter together: a map of each method over the values of a grid.

matplotlib is imported only inside functions, because it is an extra and takes a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from dgbench.core.stats import Estimate
from dgbench.core.wording import group_values, printable
from dgbench.report.figures.panels import Drawing, Panel, Tips
from dgbench.report.figures.style import INK, SERIES, SOFT
from dgbench.report.figures.subject import Subject
from dgbench.report.sensitivity import Point, in_order, points, rising, shown_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STRONGEST = 0.75
"""Opacity of the highest value of a map, through which its number can still be read."""


def sensitivity_map(subject: Subject) -> Drawing | None:
    """Draw the out-of-domain values of grids over two hyperparameters, a panel for each method and column."""
    found = [point for point in points(subject.table, subject.sweep.results.ddof) if any(point.by_column.values())]
    panels = [panel for own in group_values(((p.method, p.names), p) for p in found).values() for panel in _maps(own)]
    if not panels:
        return None
    caption = (
        "Each method at the pairs of values of a grid, all else equal: on the held-out domain, the darker the higher "
        "among the numbers of a panel. Each number is a row of the tables, and +/- one standard error over trials; "
        f"selection within it: {subject.table.selector.label}. An empty place is a pair without all of its runs."
    )
    return Drawing(
        "sensitivity_map",
        subject.dataset,
        "Sensitivity to two hyperparameters",
        caption,
        tuple(panels),
        columns=3 if len(panels) > 1 else 1,
        width=4.0 if len(panels) > 1 else 5.4,
        height=3.0 if len(panels) > 1 else 3.6,
    )


def _maps(own: Sequence[Point]) -> Iterator[Panel]:
    """Yield a panel for each column of a method's points, if exactly two hyperparameters have several values."""
    varied = [name for name in own[0].names if len({point.values[name] for point in own}) > 1]
    # With a third, several points would lie at one place.
    if len(varied) == 2:
        across, up = sorted(varied, key=lambda name: len({point.values[name] for point in own}), reverse=True)
        for column in shown_columns(own):
            name = f"{own[0].method}, {', '.join(own[0].names)}: {column}"
            yield Panel(name, partial(_draw, in_order(own), column, across, up), f"{own[0].method}: {column}")


def _draw(own: Sequence[Point], column: str, across: str, up: str, axes: Axes) -> Tips:
    """Draw one map: a rectangle and a number for each point.

    Args:
        own: The points of a method.
        column: The column of the table.
        across: The hyperparameter of the horizontal axis.
        up: The hyperparameter of the vertical axis.
        axes: Where.
    """
    from matplotlib.patches import Rectangle

    places = {name: rising(point.values[name] for point in own) for name in (across, up)}
    known = [(point, one) for point in own if (one := point.by_column[column])]
    low, high = (limit((one.mean for _, one in known), default=0.0) for limit in (min, max))
    for point, one in known:
        x, y = (places[name].index(point.values[name]) for name in (across, up))
        share = (one.mean - low) / (high - low) if high > low else 0.5
        strength = _STRONGEST * share
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=SERIES[0], alpha=strength, linewidth=0))
        axes.text(x, y, _number(one), ha="center", va="center", fontsize=8, color=INK)
    for axis, name in ((axes.xaxis, across), (axes.yaxis, up)):
        axis.set_ticks(range(len(places[name])), [printable(str(value)) for value in places[name]])
    axes.set(xlim=(-0.5, len(places[across]) - 0.5), ylim=(-0.5, len(places[up]) - 0.5))
    axes.set_xlabel(printable(across))
    axes.set_ylabel(printable(up))
    axes.grid(False)
    axes.tick_params(length=0, color=SOFT)
    return {}


def _number(one: Estimate) -> str:
    """Return an estimate on two lines, its error below."""
    return f"{one.mean:.1f}" + (f"\n± {one.error:.1f}" if one.error is not None else "")
