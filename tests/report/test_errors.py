"""What ± is, by name: against the formulas, over whole tables, and refused where trials are too few."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import dgbench
from dgbench.collect import main as collect
from dgbench.core.errors import UserError
from dgbench.core.protocol import Explicit
from dgbench.report.errors import KINDS, STYLES
from dgbench.report.statistics import ERRORS, bootstrap_interval
from tests.support.places import SUPPORT

OWN: dict[str, Any] = runpy.run_path(str(SUPPORT / "own_sweep.py"))
SET = "ColoredMNIST"
FORMULAS = {
    "t-interval": lambda values: stats.t.ppf(0.975, len(values) - 1) * stats.sem(values),
    "std": lambda values: np.std(values, ddof=1),
    "bootstrap-interval": lambda values: bootstrap_interval(values).error,
}


def test_every_kind_has_a_function_and_a_line() -> None:
    assert set(KINDS) == set(ERRORS)
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
    assert results.table(style="wilds").equals(results.table(style="std"))
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
