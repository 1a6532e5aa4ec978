"""Give the figures of the report to notebooks: `dgbench.load_results("runs/a").plot.accuracy()`.

They are the report's own drawings, in its style. matplotlib is imported only inside functions, because it is an extra
and takes a second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from dgbench.core.errors import UserError
from dgbench.core.wording import unknown_name
from dgbench.report import tables
from dgbench.report.figures import gallery
from dgbench.report.figures.panels import Drawing
from dgbench.report.figures.ranking import ranks
from dgbench.report.figures.subject import Subject, Sweep, subjects
from dgbench.report.select import Selector
from dgbench.report.selectors import default_selectors, selectors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Drawn: TypeAlias = Axes | NDArray[np.object_]
    """The axes of a figure of one panel; an array, (panels,), of those of several."""


class Plots:
    """The figures of a sweep as methods, each of which returns axes of matplotlib; made as `SweepResults.plot`.

    All take the same arguments:

    * `dataset`: the data set; None where there is a single one.
    * `selector`: the selector's name; None for the first of `dgbench collect`.
    * `ax`: axes to draw on, which keep their size; None for a new figure of pyplot.
    * `panel`: of a figure of several panels, the one to draw on `ax`: a column, a row, or `METHOD: HYPERPARAMETER`.

    Axes are returned where there is one panel, else an array of them. `UserError` is raised without matplotlib, for
    unknown names, and where there is nothing to draw.
    """

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep

    def accuracy(
        self,
        dataset: str | None = None,
        selector: str | None = None,
        *,
        ax: Axes | None = None,
        panel: str | None = None,
    ) -> Drawn:
        """Draw each row on each column of the table, with standard errors and 95 % intervals over trials."""
        return self._draw("accuracy", dataset, selector, ax, panel)

    def differences(
        self,
        dataset: str | None = None,
        selector: str | None = None,
        *,
        ax: Axes | None = None,
        panel: str | None = None,
    ) -> Drawn:
        """Draw each row's difference from the first within trials, with its 95 % interval."""
        return self._draw("differences", dataset, selector, ax, panel)

    def in_against_out(
        self,
        dataset: str | None = None,
        selector: str | None = None,
        *,
        ax: Axes | None = None,
        panel: str | None = None,
    ) -> Drawn:
        """Draw each run at its last step: the training domains' validation parts against the held-out domain."""
        return self._draw("in_against_out", dataset, selector, ax, panel)

    def selection(
        self,
        dataset: str | None = None,
        selector: str | None = None,
        *,
        ax: Axes | None = None,
        panel: str | None = None,
    ) -> Drawn:
        """Draw the mean by each selector, or by one, against the best model that there was."""
        return self._draw("selection", dataset, selector, ax, panel)

    def ranks(self, selector: str | None = None, *, ax: Axes | None = None) -> Drawn:
        """Draw mean ranks over data sets, or over the folds of a single one, with the critical difference."""
        _check_matplotlib()
        (chosen, *_) = self._selectors(selector)
        drawing = ranks(self._sweep, chosen)
        if drawing is None:
            raise UserError(f"plot.ranks has nothing to draw: it takes {gallery.RANKS_NEED}")
        return _show(drawing, ax, None)

    def learning(
        self,
        dataset: str | None = None,
        selector: str | None = None,
        *,
        ax: Axes | None = None,
        panel: str | None = None,
    ) -> Drawn:
        """Draw values during training, a panel a row: in the training domains, and on each held-out one."""
        return self._draw("learning", dataset, selector, ax, panel)

    def hyperparameters(
        self,
        dataset: str | None = None,
        selector: str | None = None,
        *,
        ax: Axes | None = None,
        panel: str | None = None,
    ) -> Drawn:
        """Draw each hyperparameter that was drawn against the value on the held-out domain."""
        return self._draw("hyperparameters", dataset, selector, ax, panel)

    def cost(
        self,
        dataset: str | None = None,
        selector: str | None = None,
        *,
        ax: Axes | None = None,
        panel: str | None = None,
    ) -> Drawn:
        """Draw the mean over domains against the time of all runs that a row needs."""
        return self._draw("cost", dataset, selector, ax, panel)

    def confusion(
        self,
        dataset: str | None = None,
        selector: str | None = None,
        *,
        ax: Axes | None = None,
        panel: str | None = None,
    ) -> Drawn:
        """Draw the confusion matrix of each row's chosen models, from their kept predictions."""
        return self._draw("confusion", dataset, selector, ax, panel)

    def reliability(
        self,
        dataset: str | None = None,
        selector: str | None = None,
        *,
        ax: Axes | None = None,
        panel: str | None = None,
    ) -> Drawn:
        """Draw accuracy against confidence of each row's chosen models, from their kept predictions."""
        return self._draw("reliability", dataset, selector, ax, panel)

    def _draw(self, name: str, dataset: str | None, selector: str | None, ax: Axes | None, panel: str | None) -> Drawn:
        """Draw a figure of the gallery."""
        _check_matplotlib()
        subject = self._subject(dataset, self._selectors(selector))
        entry = gallery.FIGURES[name]
        drawing = entry.make(subject)
        if drawing is None:
            raise UserError(f"plot.{name} has nothing to draw for {subject.dataset}: it takes {entry.needs}")
        return _show(drawing, ax, panel)

    def _subject(self, dataset: str | None, chosen: tuple[Selector, ...]) -> Subject:
        """Return the data set of this name, or the only one."""
        results = self._sweep.results
        names = list(results.datasets)
        if dataset is None and len(names) > 1:
            raise UserError(f"a figure shows one data set: dataset= {', '.join(names)}")
        name = dataset if dataset is not None else names[0]
        if name not in names:
            raise UserError(unknown_name("data set", name, names))
        report = tables.build(results, chosen)
        found = {subject.dataset: subject for subject in subjects(self._sweep, report)}
        if name not in found:
            raise UserError(*(report.absent or [f"{name} has no table"]))
        return found[name]

    def _selectors(self, name: str | None) -> tuple[Selector, ...]:
        return tuple(selectors([name])) if name else tuple(default_selectors(self._sweep.results))


def _show(drawing: Drawing, ax: Axes | None, panel: str | None) -> Drawn:
    """Draw on given axes, or on a new figure of pyplot, which notebooks show."""
    if ax is not None:
        drawing.draw_on(ax, panel)
        return ax
    if panel is not None:
        drawing = drawing.only(panel)
    from matplotlib import pyplot

    make: Callable[..., Figure] = pyplot.figure
    axes = drawing.render(make).axes
    return axes[0] if len(axes) == 1 else np.array(axes, dtype=object)


def _check_matplotlib() -> None:
    """Raise `UserError` with the extra's name if matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError("plots need the package matplotlib: pip install 'dgbench[plots]'") from error
