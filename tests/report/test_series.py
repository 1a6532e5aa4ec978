"""Figures of the series that analyses find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from dgbench.core.cards import SeriesCard
from dgbench.core.errors import UserError
from dgbench.core.protocol import Fold, View
from dgbench.report.analyses import Analyzed
from dgbench.report.figures.series import MOST_NAMED, MOST_ROWS, series_drawing, series_drawings
from dgbench.report.series import Series, series_frame

FOLD = Fold(("c",), train=(View("a", "in"), View("b", "in")), source_val=(View("a", "out"),), test=(View("c", "in"),))
LABELS = {"x": "position", "y": "height", "loss": "loss", "name": "name", "kind": "kind"}
LINES = SeriesCard(title="Curve", drawing="lines", labels=LABELS, x="x", values=("loss",), logarithmic=("loss",))
MAP = SeriesCard(title="Plane", drawing="map", labels=LABELS, x="x", y="y", values=("loss",), by=("name",))
POINTS = SeriesCard(title="Dots", drawing="points", labels=LABELS, x="x", y="y", by=("name", "kind"))


def columns(times: float = 1.0, names: Sequence[str] = ("",)) -> dict[str, list[Any]]:
    x, y = (grid.ravel().tolist() for grid in np.meshgrid([0.0, 1.0, 2.0], [0.0, 1.0, 2.0]))
    text = [names[i % len(names)] for i in range(9)]
    return {
        "x": x,
        "y": y,
        "loss": [times * (1 + a + b) for a, b in zip(x, y, strict=True)],
        "name": text,
        "kind": text,
    }


def found(
    card: SeriesCard, views: Mapping[str, dict[str, list[Any]]], row: str = "ERM", trial: int = 0, score: float = 0.5
) -> Series:
    place = (row, "Mine", "D", "c", f"run of {row}", "model", trial, 0, 1)
    return Series(card.title, card, Analyzed(place, FOLD, {}, (score, 0.4)), views)


def test_training_domains_stand_beside_the_held_out_one_on_one_scale() -> None:
    views = {"a/in": columns(), "a/out": columns(50), "b/in": columns(2), "c/in": columns(9)}
    for card in (LINES, MAP):
        (drawing,) = series_drawings([found(card, views)])
        assert [panel.title for panel in drawing.panels] == ["a, training", "b, training", "c, held out"]
        axes = drawing.render().axes
        if card is LINES:
            assert {one.get_ylim() for one in axes} == {(1.0, 45.0)}
            assert {one.get_yscale() for one in axes} == {"log"}
            assert axes[2].lines[0].get_ydata() == pytest.approx(views["c/in"]["loss"])
        else:
            scales = {(one.collections[0].norm.vmin, one.collections[0].norm.vmax) for one in axes}
            assert scales == {(1.0, 45.0)}
            assert [len(one.child_axes) for one in axes] == [0, 0, 1], "one bar tells what colors mean"


def test_of_each_row_the_best_run_of_the_first_trial_is_drawn() -> None:
    series = [
        found(LINES, {"a/in": columns(7)}, trial=1, score=0.9),
        found(LINES, {"a/in": columns(3)}, score=0.2),
        found(LINES, {"a/in": columns(5)}, score=0.7),
        found(LINES, {"a/in": columns(4)}, row="SAM", score=float("nan")),
    ]
    (drawing,) = series_drawings(series)
    (axes,) = drawing.render().axes
    assert {line.get_label(): line.get_ydata()[0] for line in axes.lines} == {"ERM": 5, "SAM": 4}
    assert "the run of the first trial with the highest in-domain score" in drawing.caption
    assert set(series_frame(series, "Mine")["trial"]) == {0, 1}


def test_of_many_rows_the_first_are_drawn_and_the_caption_says_so() -> None:
    rows = [found(LINES, {"c/in": columns()}, row=f"R{i}") for i in range(MOST_ROWS + 1)]
    (some,), (all_but_one,) = (list(series_drawings(rows[:number])) for number in (MOST_ROWS, MOST_ROWS + 1))
    assert "Drawn are" not in some.caption
    assert all_but_one.caption.endswith("Drawn are the first 6 of 7 rows.")
    labels = [line.get_label() for line in all_but_one.render().axes[0].lines]
    assert "R5" in labels
    assert "R6" not in labels


def test_named_points_are_marked_on_a_map_and_color_points() -> None:
    marked = {"a/in": columns(names=["", "", "ERM", ""])}
    (drawing,) = series_drawings([found(MAP, marked)])
    (axes,) = drawing.render().axes
    assert [text.get_text() for text in axes.texts] == ["ERM"] * 2
    (dots,) = series_drawings([found(POINTS, {"": columns(names=["one", "two", "three"])})])
    assert [panel.name for panel in dots.panels] == ["name: Dots", "kind: Dots"]
    assert [len(one.lines) for one in dots.render().axes] == [3, 3]


def test_lines_with_names_of_their_own_have_a_panel_for_each_row() -> None:
    card = SeriesCard(title="Named", drawing="lines", labels=LABELS, x="x", values=("loss",), by=("name",))
    rows = [found(card, {"a/in": columns(names=["p", "q"])}, row=row) for row in ("ERM", "SAM")]
    (drawing,) = series_drawings(rows)
    rendered = drawing.render()
    assert [panel.title for panel in drawing.panels] == ["ERM: a, training", "SAM: a, training"]
    assert [[line.get_label() for line in one.lines] for one in rendered.axes] == [["p", "q"]] * 2
    many = columns(names=[str(i) for i in range(9)])
    more = {name: values * 2 for name, values in many.items()} | {"name": [str(i) for i in range(18)]}
    assert len(set(more["name"])) > MOST_NAMED
    (crowded,) = series_drawings([found(card, {"a/in": more})])
    assert {line.get_color() for line in crowded.render().axes[0].lines} == {"#2f6fd0"}


def test_what_is_not_there_is_refused() -> None:
    series = [found(LINES, {"a/in": columns()}), found(MAP, {"a/in": columns()})]
    with pytest.raises(UserError, match="unknown analysis that found a series 'Min': did you mean 'Mine'"):
        series_frame(series, "Min")
    with pytest.raises(UserError, match="Mine found several series, name one: Curve, Plane"):
        series_frame(series, "Mine")
    with pytest.raises(UserError, match="unknown series of Mine 'Plan': did you mean 'Plane'"):
        series_drawing(series, "Mine", "Plan", None, None)
    with pytest.raises(UserError, match="unknown held_out 'd'"):
        series_drawing(series, "Mine", "Plane", None, "d")
