"""Draw kept predictions of the chosen models: confusion matrices and reliability curves.

matplotlib is imported only inside functions, because it is an extra and takes a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from dgbench.core.wording import printable
from dgbench.report.figures.panels import Drawing, Panel, Tips, marks
from dgbench.report.figures.style import SERIES, SOFT, color_of
from dgbench.report.figures.subject import Subject
from dgbench.report.predictions.metrics import LackingError
from dgbench.report.predictions.tally import Tally, tally_of
from dgbench.report.select import Selector

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_NAMED = 12
"""Most classes whose names stand beside a confusion matrix."""
MOST_PANELS = 48
"""Most confusion matrices in a figure; with more, those of the first selector alone are drawn."""
_LONGEST = 14
"""Most letters of a class' name beside a matrix."""


def confusion(subject: Subject) -> Drawing | None:
    """Draw the confusion matrix of each row's chosen models: a line a row, a column a selector."""
    found = _tallies(subject)
    selectors = list(dict.fromkeys(selector for _, selector in found))
    if len(found) > MOST_PANELS:
        selectors = selectors[:1]
    shown = {place: tally for place, tally in found.items() if place[1] in selectors}
    if not shown:
        return None
    several = len(selectors) > 1
    panels = tuple(
        Panel(f"{row}: {name}" if several else row, partial(_draw_matrix, tally, name if several else ""), row)
        for (row, name), tally in shown.items()
    )
    (row, name), tally = next(iter(shown.items()))
    label, taken, share = tally.most_confused
    caption = (
        "Each line of a matrix is a class, each column what its examples are taken for; the darker, the larger the "
        "share of the class, so that a perfect model has a dark diagonal alone. Answers of the chosen models on the "
        f"held-out domains, all folds and trials together{'' if several else f'; selection: {name}'}. Most often "
        f"{row} ({name}) takes {printable(label)} for {printable(taken)}: {share:.0%} of that class."
    )
    return Drawing(
        "confusion",
        subject.dataset,
        "Confusion matrices",
        caption,
        panels,
        columns=2 * len(selectors) if len(selectors) in (2, 3) else 4,
        width=2.1,
        height=2.2,
        share_x=True,
        share_y=True,
    )


def reliability(subject: Subject) -> Drawing | None:
    """Draw accuracy against confidence: a panel a row, a line a selector."""
    found = _tallies(subject)
    rows = list(dict.fromkeys(row for row, _ in found))
    if not rows:
        return None
    by_row = {row: {name: tally for (of, name), tally in found.items() if of == row} for row in rows}
    caption = (
        "Accuracy of the predictions in each of 15 bins of confidence, all held-out domains and trials together. On "
        "the dashed line confidence would be right; below it the model is overconfident. Bars: share of predictions in "
        "the bin, of the first selector. Bins with fewer than ten predictions are left out."
    )
    order = list(subject.tables)
    return Drawing(
        "reliability",
        subject.dataset,
        "Reliability curves",
        caption,
        tuple(Panel(row, partial(_draw_reliability, row, of, order), row) for row, of in by_row.items()),
        columns=4,
        width=2.5,
        height=2.2,
        share_x=True,
        share_y=True,
        legend=True,
    )


def _tallies(subject: Subject) -> dict[tuple[str, str], Tally]:
    """Return (row, selector) -> counts, for those of whose choices all predictions are kept."""
    found = {}
    for row in subject.rows:
        for table in subject.tables.values():
            if tally := _tally(subject, row, table.selector):
                found[row, table.selector.name] = tally
    return found


def _tally(subject: Subject, row: str, selector: Selector) -> Tally | None:
    try:
        return tally_of(subject.sweep.results, selector, row, subject.dataset)
    except LackingError:
        return None


def _draw_matrix(tally: Tally, corner: str, axes: Axes) -> Tips:
    """Draw a confusion matrix as an image of one pixel a cell, with a text in its upper right corner."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    color = to_rgb(SERIES[0])
    clear_to_full = LinearSegmentedColormap.from_list("share", [(*color, 0.0), (*color, 1.0)])
    axes.imshow(tally.shares, cmap=clear_to_full, vmin=0, vmax=1, interpolation="none")
    axes.text(0.97, 0.97, corner, transform=axes.transAxes, ha="right", va="top", fontsize=7, color=SOFT)
    axes.grid(False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("class")
    n = len(tally.classes)
    if n <= MOST_NAMED:
        names = [printable(name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…") for name in tally.classes]
        axes.set_xticks(range(n), names, rotation=90)
        axes.set_yticks(range(n), names)
    axes.tick_params(length=0)
    return {}


def _draw_reliability(row: str, tallies: Mapping[str, Tally], order: Sequence[str], axes: Axes) -> Tips:
    """Draw the curves of one row."""
    axes.plot([0, 100], [0, 100], color=SOFT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    tips = {}
    for place, (name, tally) in enumerate(tallies.items()):
        counts, confidence, right = tally.bins
        if place == 0:
            edges = 100 * np.arange(len(counts)) / len(counts)
            shares = 100 * counts / max(1, counts.sum())
            axes.bar(edges, shares, 100 / len(counts), align="edge", color=SOFT, alpha=0.3, linewidth=0, zorder=0)
        shown = counts >= 10
        x, y = 100 * confidence[shown] / counts[shown], 100 * right[shown] / counts[shown]
        number = order.index(name)
        gid, look = f"bins-{row}-{name}", {"color": color_of(number), "marker": "osDv"[number % 4]}
        axes.plot(x, y, color=color_of(number), linewidth=1.2)
        marks(axes, x.tolist(), y.tolist(), gid, label=name, markersize=3.5, **look)
        tips[gid] = [
            f"{row} by {name}: {n:.0f} predictions, confidence {c:.1f}, accuracy {a:.1f}"
            for n, c, a in zip(counts[shown], x, y, strict=True)
        ]
    axes.set(xlim=(0, 100), ylim=(0, 100), xlabel="confidence (%)", ylabel="accuracy (%)")
    return tips
