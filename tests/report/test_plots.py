"""Figures in notebooks: the report's own, on axes of their own or of the caller."""

from __future__ import annotations

import inspect
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest

from dgbench import load_results
from dgbench.core.errors import UserError
from dgbench.report.figures.gallery import FIGURES
from dgbench.report.frames import SweepResults
from dgbench.report.plots import Plots
from tests.support.places import SUPPORT

OWN: dict[str, Any] = runpy.run_path(str(SUPPORT / "own_sweep.py"))
DOMAINS = ["+90%", "+80%", "-90%"]
ANALYZED = {"agreement", "measures", "gaps"}
EMPTY = {"members", "streams", "sensitivity", "sensitivity_map", "hyperparameters", "cost", *ANALYZED}
EMPTY |= {"confusion", "reliability"}
"""Figures of which the toy sweep has nothing: no curve over members, no stream, no grid, one value of a hyperparameter,
no times, no predictions, no analyses."""

mpl.use("agg")
from matplotlib import pyplot  # noqa: E402  (after the choice of its display)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> SweepResults:
    root: Path = tmp_path_factory.mktemp("own")
    OWN["make"](root, trials=3, hparams=2)
    return load_results(root)


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    pyplot.close("all")


def test_every_figure_of_the_gallery_can_be_called(results: SweepResults) -> None:
    for name in FIGURES:
        if name in EMPTY:
            with pytest.raises(UserError, match=f"plot.{name} has nothing to draw for ColoredMNIST: it takes "):
                getattr(results.plot, name)()
        else:
            axes = np.atleast_1d(getattr(results.plot, name)())
            assert all(isinstance(one, pyplot.Axes) for one in axes)
            assert axes[0].figure.number in pyplot.get_fignums(), "pyplot knows it, so a notebook shows it"
    assert {name for name in vars(Plots) if not name.startswith("_")} == {*FIGURES, "ranks", "series"}


def test_a_figure_is_documented_with_its_arguments(results: SweepResults) -> None:
    words = results.plot.learning.__doc__ or ""
    assert words.startswith("Values during training, a panel a row")
    assert all(f"\n    {name}: " in words for name in inspect.signature(results.plot.learning).parameters)


def test_axes_show_the_table(results: SweepResults) -> None:
    cells = results.table("training-domain")
    table = cells[cells.dataset == "ColoredMNIST"].set_index(["column", "row"])["mean"]
    axes = results.plot.accuracy(selector="training-domain")
    assert [one.get_title() for one in axes] == [*DOMAINS, "Avg"]
    for one in axes:
        (marks,) = (line for line in one.lines if line.get_gid())
        assert marks.get_xdata() == pytest.approx(table[one.get_title()].to_numpy())
        (thick, thin) = ([line for line in one.lines if line.get_linewidth() == width] for width in (3.2, 0.9))
        assert len(thin) == len(one.get_yticks()) == 3
        assert len(thick) == (0 if one.get_title() == "Avg" else 3), "the mean of columns has no standard error"


def test_one_panel_goes_on_given_axes(results: SweepResults) -> None:
    figure, (left, right) = pyplot.subplots(1, 2)
    assert results.plot.learning(ax=left, panel="ERM") is left
    assert results.plot.selection(ax=right) is right
    assert left.get_title() == "ERM"
    assert right.get_legend()
    assert figure.axes == [left, right]
    assert results.plot.accuracy(panel="-90%").get_title() == "-90%"


def test_ranks_stand_on_the_axis(results: SweepResults) -> None:
    frame = results.ranks("training-domain")
    axes = results.plot.ranks("training-domain")
    marks = {line.get_gid(): line.get_xdata()[0] for line in axes.lines if line.get_gid()}
    assert marks == {f"rank-{row}": rank for row, rank in zip(frame["row"], frame["mean_rank"], strict=True)}
    assert len([line for line in axes.lines if line.get_linewidth() == 3]) == len(frame.attrs["groups"])


def test_what_can_not_be_drawn_is_refused(results: SweepResults, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="accuracy has 4 panels, and axes hold one: panel= "):
        results.plot.accuracy(ax=pyplot.figure().subplots())
    with pytest.raises(UserError, match=r"accuracy has no panel 'art'; it has \+90%"):
        results.plot.accuracy(panel="art")
    with pytest.raises(UserError, match="ColoredMNIST"):
        results.plot.cost("ColorMNIST")
    OWN["make"](tmp_path, dataset="RotatedMNIST", domains=("0", "15"), trials=1, hparams=1)
    with pytest.raises(UserError, match="ranks has nothing to draw: it takes three rows"):
        load_results(tmp_path).plot.ranks()


def test_without_matplotlib_the_extra_is_named(results: SweepResults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in (results.plot.accuracy, results.plot.ranks):
        with pytest.raises(UserError, match=r"need the package matplotlib: pip install 'dgbench\[plots\]'"):
            draw()
