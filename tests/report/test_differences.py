"""The column of differences: against the trials' own scores, left out where trials are too few, chosen by flags."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import dgbench
from dgbench import cli
from dgbench.collect import main as collect
from dgbench.core.protocol import Explicit
from dgbench.report.differences import reference_row, with_coverage, with_differences
from dgbench.report.selectors import SELECTORS
from dgbench.report.statistics import coverage
from dgbench.report.tables import build
from tests.support.places import SUPPORT

OWN: dict[str, Any] = runpy.run_path(str(SUPPORT / "own_sweep.py"))
SET, OTHER = "ColoredMNIST", "PACS"
ORACLE = ["--selector", "oracle"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("own")
    OWN["make"](root, trials=4, seed=3)
    return root


def means(results: Any, row: str) -> np.ndarray[Any, Any]:
    """The mean score over data sets, and over folds before, of each trial, from the frame of picks."""
    picks = results.picks("oracle")
    by_set = picks[picks.row == row].groupby(["trial", "dataset"], observed=True)["score"].mean()
    return by_set.groupby("trial").mean().to_numpy()


@pytest.mark.parametrize("sets", [(SET,), (SET, OTHER)])
def test_the_interval_is_of_the_differences_of_trials(root: Path, sets: tuple[str, ...], tmp_path: Path) -> None:
    folders = [root]
    if OTHER in sets:
        OWN["make"](tmp_path, dataset=OTHER, domains=("a", "b", "c", "d"), trials=4, seed=5)
        folders.append(tmp_path)
    loaded = dgbench.load_results(*folders)
    report = with_differences(build(loaded.results, [SELECTORS["oracle"]]))
    found = report.tables[-1].differences  # of the averages over all data sets
    assert found
    assert found.reference == "ERM"
    assert set(found.rows) == {"ERM+SWAD", "ERM+DiWA"}
    for row, interval in found.rows.items():
        own = means(loaded, row) - means(loaded, "ERM")
        low, high = stats.t.interval(0.95, len(own) - 1, own.mean(), stats.sem(own))
        assert interval.mean == pytest.approx(own.mean())
        assert (interval.low, interval.high) == (pytest.approx(low), pytest.approx(high))


def test_the_column_is_the_last_of_every_table(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = dgbench.load_results(root).statistics("oracle").set_index("row").loc["ERM+SWAD"]
    cell = f"{frame.delta:+.1f} [{frame.delta_low:+.1f}, {frame.delta_high:+.1f}]"
    assert collect([str(root), *ORACLE]) == 0
    lines = capsys.readouterr().out.splitlines()
    (header,) = (line for line in lines if line.startswith("Algorithm"))
    assert header.endswith("Avg   Δ ERM")
    assert [line.split()[-1] for line in lines if line.startswith("ERM  ")] == ["-"]
    (swad,) = (line for line in lines if line.startswith("ERM+SWAD "))
    assert swad.endswith(cell)
    assert "# Δ: mean difference from ERM within trials [Student's 95 % interval over trials]" in lines
    varied = "splits, initial weights, minibatches and draws of hyperparameters (rows of a trial share splits)"
    assert f"# trials vary: {varied}" in lines, "the preset is DomainBed's, whose seeds are a run's own"
    assert any(line.endswith("covers the true mean in 55 % of cases with 4 trials") for line in lines)
    assert collect([str(root), *ORACLE, "--format", "markdown"]) == 0
    printed = capsys.readouterr().out
    assert f"| {cell.replace('[', chr(92) + '[').replace(']', chr(92) + ']')} |" in printed
    # Markdown takes lines for a table only where each has as many cells.
    assert len({line.count(" | ") for line in printed.splitlines() if line.startswith("| ")}) == 1
    assert collect([str(root), *ORACLE, "--format", "latex"]) == 0
    assert f"& {cell.replace('[', '{[}').replace(']', '{]}')} " in capsys.readouterr().out
    assert collect([str(root), *ORACLE, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["tables"][0]["differences"]
    assert 100 * found["rows"]["ERM+SWAD"]["mean"] == pytest.approx(frame.delta)
    for plain in ("domainbed", "csv"):
        assert collect([str(root), *ORACLE, "--format", plain]) == 0
        assert "Δ" not in capsys.readouterr().out


def test_another_reference_and_some_columns(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert collect([str(root), *ORACLE, "--reference", "ERM+DiWA", "--rows", "ERM", "--columns", "Avg", "delta"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].split() == ["Algorithm", "Avg", "Δ", "ERM+DiWA"]
    assert lines[4].startswith("ERM "), "the reference need not be shown"
    assert collect([str(root), *ORACLE, "--columns", "Avg"]) == 0
    assert "Δ ERM" not in capsys.readouterr().out
    assert collect([str(root), *ORACLE, "--sort", "delta"]) == 0
    lines = capsys.readouterr().out.splitlines()
    heights = [0.0 if line.endswith(" -") else float(line.split("[")[0].split()[-1]) for line in lines[4:7]]
    assert heights == sorted(heights, reverse=True)
    assert cli.run(collect, [str(root), *ORACLE, "--reference", "ERN"]) == 2
    assert "--reference: unknown row 'ERN': did you mean 'ERM'?" in capsys.readouterr().err
    assert cli.run(collect, [str(root), "--format", "csv", "--reference", "ERM"]) == 2
    assert "--reference goes with --format text, markdown, latex, json, not csv" in capsys.readouterr().err


def test_too_few_trials_leave_the_column_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    OWN["make"](tmp_path, trials=2)
    assert collect([str(tmp_path), *ORACLE]) == 0
    said = capsys.readouterr().out
    assert "Δ ERM" not in said
    assert "# Δ: left out, 2 trials, of 3 that it takes" in said
    assert collect([str(tmp_path), *ORACLE, "--rows", "ERM", "--columns", "Avg"]) == 0


def test_a_row_that_lacks_trials_has_no_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = OWN["make"](tmp_path, trials=3)
    folder = OWN["folder"](tmp_path, table, kind="merge", trial=2, held_out=("+80%",))
    (folder.path / "done").unlink()
    assert collect([str(tmp_path), *ORACLE]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "# ERM+DiWA: no interval of Δ, 2 trials, of 3 that it takes" in lines
    (row,) = (line for line in lines if line.startswith("ERM+DiWA "))
    assert not row.endswith("]")
    (row,) = (line for line in lines if line.startswith("ERM+SWAD "))
    assert row.endswith("]")


def test_folds_of_several_test_domains_count_once(tmp_path: Path) -> None:
    OWN["make"](tmp_path, domains="abcd", protocol=Explicit(train=("a", "b"), test=("c", "d")), trials=3)
    loaded = dgbench.load_results(tmp_path)
    report = with_differences(build(loaded.results, [SELECTORS["oracle"]]))
    frame = loaded.statistics("oracle").set_index("row")
    found = report.tables[0].differences
    assert found
    assert 100 * found.rows["ERM+SWAD"].mean == pytest.approx(frame.loc["ERM+SWAD", "delta"])


def test_the_baseline_is_the_reference_where_none_is_named() -> None:
    assert reference_row(("SAM", "ERM"), None) == "ERM"
    assert reference_row(("SAM", "CORAL"), None) == "SAM"
    assert reference_row(("SAM", "ERM"), "SAM") == "SAM"


def test_what_a_standard_error_covers() -> None:
    """By simulation, for both degrees of freedom; the numbers of three trials are known."""
    assert coverage(3) == pytest.approx(1 / np.sqrt(3))
    assert coverage(3, ddof=0) == pytest.approx(0.5)
    values = np.random.default_rng(0).normal(size=(200_000, 4))
    for ddof in (0, 1):
        errors = values.std(axis=1, ddof=ddof) / 2
        assert coverage(4, ddof) == pytest.approx((abs(values.mean(axis=1)) < errors).mean(), abs=0.005)


def test_a_single_trial_has_nothing_to_cover(tmp_path: Path) -> None:
    OWN["make"](tmp_path, trials=1)
    results = dgbench.load_results(tmp_path).results
    report = with_coverage(build(results, [SELECTORS["oracle"]]), results.ddof)
    assert all("+/-" not in table.signature for table in report.tables)
