"""Draw the ranks of rows with the critical difference of Nemenyi's test, as papers on many data sets do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dgbench.core.errors import UserError
from dgbench.core.wording import count_nouns, printable
from dgbench.report.figures.panels import Drawing, Panel, Tips, marks
from dgbench.report.figures.style import INK, SOFT, color_of, mark_of
from dgbench.report.figures.subject import Sweep
from dgbench.report.select import Selector
from dgbench.report.study_frames import ranking

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def ranks(sweep: Sweep, selector: Selector) -> Drawing | None:
    """Draw the mean rank of each row over data sets, or over the folds of a single one."""
    try:
        frame = ranking(sweep.results, selector)
    except UserError:
        return None
    friedman: Mapping[str, Any] = frame.attrs["friedman"]
    if friedman["refused"]:
        return None
    datasets = list(sweep.results.datasets)
    where = "data sets" if len(datasets) > 1 else "held-out domains"
    left_out = len(sweep.results.rows) - len(frame)
    missing = f" {count_nouns(left_out, 'row')} without a complete trial everywhere left out." if left_out else ""
    caption = (
        f"Mean rank of each row over {len(frame.attrs['voters'])} {where}, 1 is best; selection: {selector.label}. "
        f"Friedman's test that all rank alike: p = {friedman['p']:.3g}. Bars join rows whose ranks differ by less than "
        f"Nemenyi's critical difference, {friedman['critical_difference']:.2f} at the level 0.05: these {where} can't "
        f"part them.{missing} {_winners(frame.attrs['winners'])}"
    )
    half = (len(frame) + 1) // 2
    height = 0.2 * half + 0.09 * len(frame.attrs["groups"]) + 0.75
    panel = Panel("ranks", lambda axes: _draw_ranks(sweep, frame, axes))
    dataset = datasets[0] if len(datasets) == 1 else ""
    return Drawing("ranks", dataset, "Ranks and critical difference", caption, (panel,), height=height)


def _winners(winners: Mapping[str, list[str]]) -> str:
    """Return a sentence on the rows that each rule puts first."""
    by_row: dict[str, list[str]] = {}
    for rule, rows in winners.items():
        by_row.setdefault(" and ".join(rows), []).append(rule)
    if len(by_row) == 1:
        return f"Every rule puts {next(iter(by_row))} first."
    found = "; ".join(f"{rows} by {', '.join(rules)}" for rows, rules in by_row.items())
    return f"The winner depends on the rule: {found}."


def _draw_ranks(sweep: Sweep, frame: pd.DataFrame, axes: Axes) -> Tips:
    """Draw the axis of ranks on top, a line from each rank to its row's name, and bars that join groups."""
    rows, found = frame["row"].tolist(), frame["mean_rank"].tolist()
    groups, difference = frame.attrs["groups"], frame.attrs["friedman"]["critical_difference"]
    low, high = math.floor(min(found)), math.ceil(max(found))
    high += low == high
    first, half = 0.55 + 0.45 * len(groups), (len(rows) + 1) // 2
    for place, (row, rank) in enumerate(zip(rows, found, strict=True)):
        left = place < half
        y = first + (place if left else len(rows) - 1 - place)
        end, side = (low, "right") if left else (high, "left")
        axes.plot([rank, rank, end], [0, y, y], color=SOFT, linewidth=0.8, solid_joinstyle="miter", clip_on=False)
        text = f"{printable(row)}, {rank:.2f}" if left else f"{rank:.2f}, {printable(row)}"
        place_at: dict[str, Any] = {
            "xytext": (-4 if left else 4, 0),
            "textcoords": "offset points",
            "annotation_clip": False,
        }
        axes.annotate(text, (end, y), ha=side, va="center", fontsize=8.5, **place_at)
    for number, group in enumerate(groups):
        ends = [found[rows.index(row)] for row in (group[0], group[-1])]
        y = 0.45 + 0.45 * number
        axes.plot(ends, [y, y], color=INK, linewidth=3, alpha=0.75, solid_capstyle="round")
    _draw_difference(axes, low, high, difference)
    tips = {}
    for row, rank in zip(rows, found, strict=True):
        position, gid = sweep.results.rows.index(row), f"rank-{row}"
        look = {"color": color_of(position), "marker": mark_of(position)}
        marks(axes, [rank], [0.0], gid, markersize=6, clip_on=False, zorder=3, **look)
        tips[gid] = [f"{row}: mean rank {rank:.2f}"]
    axes.set_xlim(low, high)
    axes.set_ylim(first + half - 0.4, -1.3)
    axes.set_yticks([])
    axes.set_xticks(range(low, high + 1))
    axes.xaxis.tick_top()
    axes.grid(False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.spines["top"].set_visible(True)
    axes.spines["top"].set_position(("data", 0))
    return tips


def _draw_difference(axes: Axes, low: float, high: float, difference: float) -> None:
    """Draw the length of the critical difference above the axis, or tell that it is longer than the axis."""
    y, text = -1.25, f"critical difference {difference:.2f}"
    if difference > high - low:
        axes.text((low + high) / 2, y, f"{text}: more than all ranks differ", ha="center", va="center", fontsize=8.5)
        return
    axes.plot([low, low + difference], [y, y], color=INK, linewidth=1.4, marker="|", markersize=6, clip_on=False)
    axes.text(low + difference / 2, y - 0.2, text, ha="center", va="bottom", fontsize=8.5)
