"""Draw how the value of a merged row grows with the number of its members."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from dgbench.core.wording import count_nouns, group_values, printable
from dgbench.report.figures.panels import Drawing, Panel, Tips, marks
from dgbench.report.figures.subject import Subject
from dgbench.report.members import Point, curve, reads_own_folds

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def members(subject: Subject) -> Drawing | None:
    """Draw the mean against the number of members, a line a row, with a band as wide as draws of members differ."""
    results = subject.sweep.results
    chosen = (table.selector for table in subject.tables.values())
    selector = next((one for one in chosen if reads_own_folds(results, one, subject.dataset)), None)
    if not results.curves or selector is None:
        return None
    points = [point for point in curve(results, selector, subject.dataset) if math.isfinite(point.mean.mean)]
    lines = {row: own for row, own in group_values((p.row, p) for p in points).items() if len(own) > 1}
    if not lines:
        return None
    caption = (
        f"Mean over columns of models that are merged from so many runs; selection: {selector.label}. One member is a "
        "run by itself. A band is one standard deviation over draws of the members to each side; draws of many members "
        "share most of them, so that it narrows by itself, and it is no error of the line."
    )
    panel = Panel("members", partial(_draw, subject, lines))
    title = "Value by number of members"
    return Drawing("members", subject.dataset, title, caption, (panel,), height=3.0, legend=True)


def _draw(subject: Subject, lines: Mapping[str, Sequence[Point]], axes: Axes) -> Tips:
    """Draw the lines of all rows."""
    tips = {}
    for row, found in lines.items():
        own = sorted(found, key=lambda point: point.members)
        x = [point.members for point in own]
        y = np.array([100 * point.mean.mean for point in own])
        half = np.array([100 * point.between_draws for point in own])
        look = subject.look_of(row)
        axes.fill_between(x, y - half, y + half, color=look["color"], alpha=0.15, linewidth=0)
        axes.plot(x, y, color=look["color"])
        marks(axes, x, list(y), f"members-{row}", markersize=5, label=printable(row), **look)
        tips[f"members-{row}"] = [
            f"{row}: {count_nouns(point.members, 'member')}, {value:.1f}, {count_nouns(point.draws, 'draw')}"
            for point, value in zip(own, y, strict=True)
        ]
    numbers = sorted({point.members for own in lines.values() for point in own})
    axes.set_xscale("log")
    axes.set_xticks(numbers, [str(number) for number in numbers])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("members")
    axes.set_ylabel(subject.metric)
    return tips
