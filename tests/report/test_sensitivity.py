"""Rows that name values, side by side: their numbers are those of the tables."""

from __future__ import annotations

import math
import runpy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from dgbench.core.errors import UserError
from dgbench.core.run import MODEL
from dgbench.report.figures.curves import Curve
from dgbench.report.figures.draws import drawn_hparams
from dgbench.report.folders import open_each
from dgbench.report.frames import SweepResults
from dgbench.report.results import Gap
from dgbench.report.sensitivity import check_grid, in_order, points, sensitivity_sections, split_row
from tests.support.places import SUPPORT

mpl.use("agg")

OWN: dict[str, Any] = runpy.run_path(str(SUPPORT / "own_sweep.py"))
SET = "ColoredMNIST"
DRAW_OF = {"SAM:rho=0.01": 0, "SAM:rho=1": 1, "SAM:rho=0.1": 2, "ASAM:rho=0.1": 3}
"""Row -> the draw of the toy sweep whose runs it has here."""


def results_with(found: SweepResults, draw_of: Mapping[str, int]) -> SweepResults:
    """Results in which further rows, each with one draw, have the runs of draws of ERM."""
    spots = found.results.candidates["ERM", SET]
    cells = {(row, SET): {spot: {0: seeds[draw]} for spot, seeds in spots.items()} for row, draw in draw_of.items()}
    rows = (*found.results.rows, *draw_of)
    return SweepResults(
        found.parts, replace(found.results, rows=rows, candidates={**found.results.candidates, **cells})
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> SweepResults:
    root: Path = tmp_path_factory.mktemp("own")
    OWN["make"](root, trials=3, hparams=4)
    parts = open_each([root])
    return SweepResults(parts, parts[str(root)])


@pytest.fixture(scope="module")
def results(plain: SweepResults) -> SweepResults:
    return results_with(plain, DRAW_OF)


@pytest.mark.parametrize(
    ("row", "split"),
    [
        ("ERM", ("ERM", {})),
        ("SAM:rho=0.1,lr=1e-3+SWAD", ("SAM+SWAD", {"rho": 0.1, "lr": 0.001})),
        ("SAM:rho=1+SWAD:n_tolerance=4", ("SAM+SWAD", {"rho": 1, "n_tolerance": 4})),
        ("SAM:x=1+SWAD:x=2", ("SAM+SWAD", {"SAM.x": 1, "SWAD.x": 2})),
        ("KD:teacher=SAM", ("KD", {"teacher": "SAM"})),
    ],
)
def test_a_row_is_a_method_and_values(row: str, split: tuple[str, dict[str, Any]]) -> None:
    assert split_row(row) == split


def test_points_have_the_numbers_of_the_table_and_of_hand_made_means(results: SweepResults) -> None:
    frame = results.sensitivity("training-domain")
    table = results.table("training-domain").astype({"dataset": str, "row": str, "column": str})
    of_table = table[table["dataset"] == SET].set_index(["row", "column"])
    picks = results.picks("training-domain")
    assert list(frame["row"].unique()) == ["SAM:rho=0.01", "SAM:rho=0.1", "SAM:rho=1", "ASAM:rho=0.1"]
    assert frame["method"].tolist() == ["SAM"] * 12 + ["ASAM"] * 4
    assert frame["hparams.rho"].tolist() == [rho for rho in (0.01, 0.1, 1.0, 0.1) for _ in range(4)]
    for line in frame.to_dict("records"):
        cell = of_table.loc[(line["row"], line["column"])]
        assert line["out_of_domain"] == pytest.approx(cell["mean"])
        own = picks[(picks["row"] == line["row"]) & ((picks["held_out"] == line["column"]) | (line["column"] == "Avg"))]
        for name, what in (("out_of_domain", "score"), ("in_domain", "in_domain")):
            by_trial = 100 * own.groupby("trial")[what].mean().to_numpy()
            error = "error" if what == "score" else "in_domain_error"
            assert line[name] == pytest.approx(by_trial.mean())
            assert line[error] == pytest.approx(by_trial.std(ddof=results.results.ddof) / math.sqrt(3))
        assert (line["n"], line["lacking"]) == (3, 0)


def test_a_point_without_all_its_runs_has_no_number(plain: SweepResults) -> None:
    results = results_with(plain, {"SAM:rho=0.1": 0, "SAM:rho=0.2": 1})
    candidates = dict(results.results.candidates)
    (spot, seeds), *_ = candidates["SAM:rho=0.2", SET].items()
    lost = Gap(seeds[0].run, "SAM", SET, ("+90%",), 0, spot[1], "failed")
    candidates["SAM:rho=0.2", SET] = {**candidates["SAM:rho=0.2", SET], spot: {0: lost}}
    found = SweepResults(results.parts, replace(results.results, candidates=candidates))
    frame = found.sensitivity("oracle").set_index(["row", "column"])
    held_out = "+".join(found.results.folds[spot[0]].held_out)
    assert frame.loc["SAM:rho=0.2"]["out_of_domain"].isna().tolist() == [
        name in (held_out, "Avg") for name in frame.loc["SAM:rho=0.2"].index
    ]
    assert set(frame.loc["SAM:rho=0.2"]["lacking"]) == {1}
    (section,) = sensitivity_sections(found.report("oracle"), 1)
    assert section.cells[0][:3] == ("method", "rho", "in-domain")
    assert [cells[:2] for cells in section.cells[1:]] == [("SAM", "0.1"), ("SAM", "0.2")]
    assert section.cells[2][2] == "-"
    assert section.cells[2][-1] == "1 run failed"


def test_a_sweep_without_values_has_no_section_and_says_why(plain: SweepResults) -> None:
    report = plain.report("oracle")
    assert list(sensitivity_sections(report, 1)) == []
    assert plain.sensitivity("oracle").empty
    with pytest.raises(UserError, match="launch some with --grid"):
        check_grid(report)
    check_grid(results_with(plain, DRAW_OF).report("oracle"))


def test_curves_stand_where_the_frame_says(results: SweepResults) -> None:
    frame = results.sensitivity("training-domain").set_index(["method", "column"])
    axes = results.plot.sensitivity(selector="training-domain")
    assert [one.get_title() for one in axes] == ["+90%", "+80%", "-90%", "Avg"]
    for one in axes:
        assert one.get_xlabel() == "rho"
        assert one.get_xscale() == "log"
        marked = {line.get_label(): line for line in one.lines if line.get_gid()}
        assert list(marked) == ["SAM", "ASAM"]
        for method, line in marked.items():
            own = frame.loc[[(method, one.get_title())]]
            np.testing.assert_allclose(np.column_stack(line.get_data()), own[["hparams.rho", "out_of_domain"]])
    mpl.pyplot.close("all")


def test_of_two_names_one_is_the_axis_and_the_other_tells_curves_apart(plain: SweepResults) -> None:
    names = [f"SAM:rho={rho},adaptive={flag}" for rho in (0, 0.5) for flag in ("true", "false")]
    found = results_with(plain, {name: place for place, name in enumerate(names)})
    ordered = in_order(points(found.report("oracle").tables[0], 1))
    assert [tuple(point.values.values()) for point in ordered] == [
        (0, "false"),
        (0, "true"),
        (0.5, "false"),
        (0.5, "true"),
    ]
    axes = found.plot.sensitivity(selector="oracle", panel="rho, adaptive: Avg")
    assert axes.get_xscale() == "linear"
    assert [line.get_label() for line in axes.lines if line.get_gid()] == ["SAM, adaptive false", "SAM, adaptive true"]
    mpl.pyplot.close("all")


def test_a_grid_of_two_names_is_a_map_with_the_numbers_of_the_table(plain: SweepResults) -> None:
    names = [f"SAM:rho={rho},adaptive={flag}" for rho in (0.5, 2, 10) for flag in ("true", "false")]
    found = results_with(plain, {name: place % 4 for place, name in enumerate(names[:-1])})
    axes = found.plot.sensitivity_map(selector="oracle", panel="SAM, rho, adaptive: Avg")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.5", "2", "10"], "as numbers rise"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["false", "true"]
    frame = found.sensitivity("oracle")
    means = frame[frame["column"] == "Avg"].set_index(["hparams.rho", "hparams.adaptive"])["out_of_domain"]
    assert {text.get_position(): text.get_text().partition("\n")[0] for text in axes.texts} == {
        ((0.5, 2, 10).index(rho), ("false", "true").index(flag)): f"{mean:.1f}" for (rho, flag), mean in means.items()
    }
    assert len(axes.texts) == 5, "one pair of the six has no runs"
    shade = {patch.get_xy(): patch.get_alpha() for patch in axes.patches}
    (lightest, *_, darkest) = sorted(means.index, key=lambda pair: means[pair])
    places = [((0.5, 2, 10).index(rho), ("false", "true").index(flag)) for rho, flag in (lightest, darkest)]
    assert [shade[x - 0.5, y - 0.5] for x, y in places] == [0, max(shade.values())]
    mpl.pyplot.close("all")


def test_a_map_takes_two_names(results: SweepResults) -> None:
    with pytest.raises(UserError, match=r"sensitivity_map has nothing to draw .* differ in two values"):
        results.plot.sensitivity_map()


def test_values_of_rows_are_no_draws() -> None:
    def curve(row: str, run: int) -> Curve:
        return Curve(row, "75", 0, 0, str(run), MODEL, (0,), None, np.array([float(run)]))

    curves = [*(curve("SAM", run) for run in range(8)), *(curve(f"SAM:rho={run}", run) for run in range(4, 16))]
    runs = pd.DataFrame({"run": [str(n) for n in range(16)], "kind": "train", "method": "SAM"})
    sweep: Any = SimpleNamespace(runs=runs.assign(**{"hparams.rho": np.arange(16.0)}))
    (found,) = drawn_hparams(sweep, "any", curves)
    assert found.runs == [str(n) for n in range(8)]
