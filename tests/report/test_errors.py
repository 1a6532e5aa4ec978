"""What ± is, by name: against the formulas, over whole tables, and refused where trials are too few."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import dgbench
from dgbench.collect import main as collect
from dgbench.core.errors import UserError
from dgbench.core.protocol import Explicit, FixedSplit
from dgbench.report.differences import with_differences
from dgbench.report.domainbed.folder import RunArgs, write_run
from dgbench.report.errors import KINDS, SAMPLING, STYLES, WILDS, default_kind, with_errors
from dgbench.report.results import Candidate, Results, Series
from dgbench.report.selectors import SELECTORS
from dgbench.report.statistics import ERRORS, bootstrap_interval
from dgbench.report.tables import build
from tests.support.places import SUPPORT

OWN: dict[str, Any] = runpy.run_path(str(SUPPORT / "own_sweep.py"))
SET = "ColoredMNIST"
FORMULAS = {
    "t-interval": lambda values: stats.t.ppf(0.975, len(values) - 1) * stats.sem(values),
    "std": lambda values: np.std(values, ddof=1),
    "bootstrap-interval": lambda values: bootstrap_interval(values).error,
}


def test_every_kind_has_a_function_and_a_line() -> None:
    assert set(KINDS) == {*ERRORS, WILDS, SAMPLING}
    assert set(STYLES.values()) <= set(KINDS)


@pytest.mark.parametrize("kind", FORMULAS)
def test_errors_of_every_cell(kind: str, tmp_path: Path) -> None:
    OWN["make"](tmp_path, trials=4)
    results = dgbench.load_results(tmp_path)
    plain, frame = results.table("oracle"), results.table("oracle", style=kind)
    assert frame["mean"].tolist() == plain["mean"].tolist()
    picks = results.picks("oracle")
    for row in results.results.rows:
        scores = 100 * picks[picks.row == row].pivot(index="trial", columns="held_out", values="score")
        mine = frame[frame.row == row].set_index(["dataset", "column"])["error"]
        for column in scores.columns:
            assert mine[SET, column] == pytest.approx(FORMULAS[kind](scores[column].to_numpy()))
        for where in ((SET, "Avg"), ("Averages", SET), ("Averages", "Avg")):
            assert mine[where] == pytest.approx(FORMULAS[kind](scores.mean(axis=1).to_numpy()))


def test_the_styles_of_suites(tmp_path: Path) -> None:
    OWN["make"](tmp_path, trials=3)
    results = dgbench.load_results(tmp_path)
    assert results.table(style="domainbed").equals(results.table())
    assert results.table(style="standard-error").equals(results.table())
    assert (
        results.table(style="wilds")
        .query("column != 'Avg' and dataset != 'Averages'")
        .equals(results.table(style="std").query("column != 'Avg' and dataset != 'Averages'"))
    )
    with pytest.raises(UserError, match="unknown style 'wild': did you mean 'wilds'"):
        results.table(style="wild")


def test_single_test_domains_have_their_own_error(tmp_path: Path) -> None:
    OWN["make"](tmp_path, domains="abcd", protocol=Explicit(train=("a", "b"), test=("c", "d")), trials=3)
    results = dgbench.load_results(tmp_path)
    frame = results.table("oracle", style="std").query("dataset == @SET and row == 'ERM'").set_index("column")
    records = results.records
    picks = results.picks("oracle").query("row == 'ERM'")
    for domain in "cd":
        values = []
        for pick in picks.itertuples():
            mine = records[(records.run == pick.run) & (records.predictor == "model") & (records.step == pick.step)]
            (value,) = mine[(mine.domain == domain) & (mine.part == "in") & (mine.metric == "accuracy")]["value"]
            values.append(100 * value)
        assert frame.loc[domain, "error"] == pytest.approx(np.std(values, ddof=1))
    assert frame.loc["Avg", "error"] == pytest.approx(frame.loc["c+d", "error"])


def test_too_few_trials_are_refused_with_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    OWN["make"](tmp_path, trials=2)
    assert collect([str(tmp_path), "--selector", "oracle", "--error", "t-interval"]) == 0
    said = capsys.readouterr().out
    assert "+/- " not in said.split("#")[0]
    assert "# ERM, ERM+SWAD, ERM+DiWA: no +/-, 2 trials, of 3 that it takes" in said
    assert dgbench.load_results(tmp_path).table("oracle", style="t-interval")["error"].isna().all()


def test_collect_says_what_its_error_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    OWN["make"](tmp_path, trials=3)
    for kind, line in KINDS.items():
        assert collect([str(tmp_path), "--selector", "oracle", "--error", kind]) == 0
        said = capsys.readouterr().out
        assert f"| +/-: {line}" in said
        (row,) = [text for text in said.splitlines() if text.startswith("ERM+SWAD ")][:1]
        assert row.count("+/-") == (3 if kind == "standard-error" else 4), "Avg has one too"


def test_the_sampling_error_is_binomial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    OWN["make"](tmp_path, trials=3)  # of ten examples each
    results = dgbench.load_results(tmp_path)
    picks = results.picks("oracle").query("row == 'ERM'")
    variance = (picks["score"] * (1 - picks["score"]) / 10).groupby(picks["held_out"], observed=True).mean()
    found = results.table("oracle", style="sampling").query("dataset == @SET and row == 'ERM'").set_index("column")
    for column, value in variance.items():
        assert found.loc[column, "error"] == pytest.approx(100 * np.sqrt(value))
    average = 100 * np.sqrt(variance.sum()) / len(variance)
    assert found.loc["Avg", "error"] == pytest.approx(average)
    assert results.statistics("oracle").set_index("row").loc["ERM", "sampling"] == pytest.approx(average)
    assert collect([str(tmp_path), "--selector", "oracle", "--error", "sampling"]) == 0
    assert "binomial standard error of test sets of this size" in capsys.readouterr().out


def test_the_sampling_error_needs_accuracies_and_sizes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for env in range(2):
        record = {f"env{i}_{part}_acc": 0.5 for i in range(2) for part in ("in", "out")}
        write_run(tmp_path, RunArgs("VLCS", "ERM", (env,), 0, 0).to_json(1, 0.2), {}, [{"step": 0, **record}])
    assert collect([str(tmp_path), "--selector", "oracle", "--error", "sampling"]) == 0
    said = capsys.readouterr().out
    assert "# ERM: no +/-, the numbers of test examples are not recorded, or the metric is no accuracy" in said
    table = results_of({"D": (0.5,)}, metric="F1")
    (cell, *_) = with_errors(build(table, [SELECTORS["validation-domain"]]), "sampling").tables[0].rows["ERM"]
    assert cell.estimate
    assert cell.estimate.error is None


def results_of(values: dict[str, tuple[float, ...]], metric: str = "accuracy") -> Results:
    """One row on one data set with a fixed split: way of splitting -> score of each trial."""
    folds = tuple(FixedSplit().folds(tuple(values), parts=("train", "id_val", "val", "test")))
    spots: dict[tuple[int, int], dict[int, Candidate]] = {}
    for position, (fold, scores) in enumerate(zip(folds, values.values(), strict=True)):
        for trial, score in enumerate(scores):
            table = np.full((1, len(fold.evaluated)), score)
            spots[position, trial] = {0: Series(f"r{position}{trial}", (0,), fold.evaluated, table)}
    places = {"PovertyMap": tuple(range(len(folds)))}
    candidates = {("ERM", "PovertyMap"): spots}
    name = FixedSplit.name
    return Results(name, "dgbench", 1, ("ERM",), places, folds, candidates, metrics={"PovertyMap": metric})


FOLDS = {"A": 0.39, "B": 0.42, "C": 0.45, "D": 0.51, "E": 0.53}
"""Correlations of a model on PovertyMap: 46.0 with a standard deviation of 5.9 over folds."""


@pytest.mark.parametrize("seeds", [(0.0,), (-0.006, 0.006), (-0.01, 0.0, 0.01)])
def test_poverty_map_is_reported_as_wilds_does(seeds: tuple[float, ...]) -> None:
    """The spread is that of the five folds, whether each has one seed or several."""
    results = results_of({fold: tuple(value + seed for seed in seeds) for fold, value in FOLDS.items()}, "r_wg")
    assert default_kind(results) == WILDS
    report = with_errors(build(results, [SELECTORS["validation-domain"]], once=True), WILDS)
    table = report.tables[0]
    assert str(table.rows["ERM"][-1]) == "46.0 +/- 5.9"
    expected = f"39.0 +/- {100 * np.std(seeds, ddof=1):.1f}" if len(seeds) > 1 else "39.0"
    assert str(table.rows["ERM"][0]) == expected
    assert not any("no +/-" in note for note in table.notes)
    assert table.signature["+/-"].startswith("std over replicates, ddof 1")


def test_a_single_way_of_splitting_is_replicated_by_trials() -> None:
    results = results_of({"official": (0.70, 0.76, 0.82)})
    table = with_errors(build(results, [SELECTORS["validation-domain"]]), WILDS).tables[0]
    assert [str(cell) for cell in table.rows["ERM"]] == ["76.0 +/- 6.0", "76.0 +/- 6.0"]
    once = results_of({"official": (0.7,)})
    table = with_errors(build(once, [SELECTORS["validation-domain"]]), WILDS).tables[0]
    assert table.notes == ("ERM: no +/-, 1 trial, of 2 that it takes",)


def test_differences_on_ways_of_splitting_are_paired_by_them() -> None:
    plain = results_of({fold: (value,) for fold, value in FOLDS.items()}, "r_wg")
    better = results_of({fold: (value + 0.02,) for fold, value in FOLDS.items()}, "r_wg")
    spots = {("ERM", "PovertyMap"): plain.candidates["ERM", "PovertyMap"]}
    spots["SAM", "PovertyMap"] = better.candidates["ERM", "PovertyMap"]
    both = replace(plain, rows=("ERM", "SAM"), candidates=spots)
    table = with_differences(build(both, [SELECTORS["validation-domain"]])).tables[0]
    assert table.differences
    assert table.differences.text("SAM") == "+2.0 [+2.0, +2.0]"
    assert table.signature["Δ"].endswith("over ways of splitting]")
