"""Draw how scores came about: learning curves, and hyperparameters against scores."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from dgbench.core.wording import group_values, printable
from dgbench.report.figures.curves import Curve
from dgbench.report.figures.draws import DrawnHparams, Hparam, drawn_hparams
from dgbench.report.figures.panels import Drawing, Panel, Tips, marks, scale_by_decades
from dgbench.report.figures.style import SERIES, SOFT, color_of
from dgbench.report.figures.subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def learning(subject: Subject) -> Drawing | None:
    """Draw values against steps: a panel a row, a line for the training domains and one for each held-out domain."""
    curves = group_values((curve.row, curve) for curve in subject.curves if len(curve.steps) > 1 and not curve.adapted)
    if not curves:
        return None
    domains = list(dict.fromkeys(curve.held_out for found in curves.values() for curve in found))
    caption = (
        "Values during training, mean over trials and draws; a band spans the middle 80 % of runs. Dashed: validation "
        "parts of the training domains. Solid: each held-out domain, from the runs that did not train on it. Rows that "
        "are made once, at the end of a run, have no curve, and draws that a search has dropped are left out."
    )
    return Drawing(
        "learning",
        subject.dataset,
        "Learning curves",
        caption,
        tuple(Panel(row, partial(_draw_row, subject.metric, found, domains), row) for row, found in curves.items()),
        columns=5 if len(curves) != 6 else 3,
        width=2.0 if len(curves) > 3 else 2.6,
        height=1.9,
        share_x=True,
        share_y=True,
        legend=True,
    )


def _draw_row(metric: str, found: Sequence[Curve], domains: Sequence[str], axes: Axes) -> Tips:
    """Draw the curves of one row."""
    lines = [(curve.steps, curve.inside) for curve in found if curve.inside is not None]
    _band(axes, lines, SOFT, "training domains (validation parts)", "--")
    for number, domain in enumerate(domains):
        own = [(curve.steps, curve.outside) for curve in found if curve.held_out == domain]
        _band(axes, own, color_of(number), f"{printable(domain)} held out", "-")
    axes.set_xlabel("step")
    axes.set_ylabel(metric)
    return {}


def _band(axes: Axes, lines: Sequence[tuple[Sequence[int], Any]], color: str, label: str, style: str) -> None:
    """Draw the mean of the curves that go furthest, of those over the steps that most share, and a band for 80 %."""
    if not lines:
        return
    groups = group_values((tuple(steps), values) for steps, values in lines)
    steps, found = max(groups.items(), key=lambda group: (group[0][-1], len(group[1])))
    values = np.stack(found)
    axes.plot(steps, np.nanmean(values, axis=0), style, color=color, label=label)
    if len(found) > 2:
        low, high = np.nanquantile(values, (0.1, 0.9), axis=0)
        axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)


def hyperparameters(subject: Subject) -> Drawing | None:
    """Draw each drawn hyperparameter against the value on the held-out domain, the most important first."""
    found = list(drawn_hparams(subject.sweep, subject.dataset, subject.curves))
    panels = []
    for one in found:
        for hparam in one.hparams:
            name = f"{one.method}: {hparam.name}"
            title = f"{one.method} ({hparam.importance:.0%})"
            panels.append(Panel(name, partial(_draw_hparam, one, hparam), title))
    if not panels:
        return None
    caption = (
        "Value on the held-out domain at the last step that all runs have against each hyperparameter that was drawn, "
        "a point for each run; the mean of runs on the same domain is subtracted. In brackets: the hyperparameter's "
        "share of importance for the method in a random forest, which says little where runs are few."
    )
    return Drawing(
        "hyperparameters",
        subject.dataset,
        "Drawn hyperparameters",
        caption,
        tuple(panels),
        columns=4,
        width=2.5,
        height=1.9,
    )


def _draw_hparam(one: DrawnHparams, hparam: Hparam, axes: Axes) -> Tips:
    """Draw one hyperparameter of one method."""
    gid = f"marks-{one.method}-{hparam.name}"
    axes.axhline(0, color=SOFT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    marks(axes, hparam.values.tolist(), one.scores.tolist(), gid, color=SERIES[0], markersize=3.5, alpha=0.6)
    if hparam.logarithmic:
        scale_by_decades(axes)
    axes.set_xlabel(printable(hparam.name))
    axes.set_ylabel("points above mean")
    texts = [
        f"{run}: {hparam.name} {value:.4g}, {score:+.1f}"
        for run, value, score in zip(one.runs, hparam.values, one.scores, strict=True)
    ]
    return {gid: texts}
