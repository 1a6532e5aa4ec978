"""Rows compared within trials: the numbers of the tables taken apart, the frames of it, and what is printed."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import dgbench
from dgbench import cli
from dgbench.collect import main as collect
from dgbench.core.errors import UserError
from dgbench.report.comparison import compare_rows, scores_of, table_statistics
from dgbench.report.frames import SweepResults
from dgbench.report.selectors import SELECTORS
from tests.support.places import SUPPORT

OWN: dict[str, Any] = runpy.run_path(str(SUPPORT / "own_sweep.py"))
SET = "ColoredMNIST"
TRAINING, ORACLE = SELECTORS["training-domain"], SELECTORS["oracle"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("own")
    OWN["make"](root, trials=4, seed=3)
    return root


@pytest.fixture(scope="module")
def loaded(root: Path) -> SweepResults:
    return dgbench.load_results(root)


@pytest.fixture(scope="module")
def three_sets(tmp_path_factory: pytest.TempPathFactory) -> SweepResults:
    folders = [tmp_path_factory.mktemp(name) for name in "abc"]
    for seed, (folder, dataset) in enumerate(zip(folders, ("PACS", "VLCS", SET), strict=True)):
        OWN["make"](folder, dataset=dataset, domains=("a", "b", "c"), trials=3, seed=seed)
    return dgbench.load_results(*folders)


def by_hand(loaded: SweepResults, row: str, selector: str = "training-domain") -> np.ndarray[Any, Any]:
    """Scores of a row, (trials, folds), from the frame of picks."""
    picks = loaded.picks(selector)
    return picks[picks.row == row].pivot(index="trial", columns="held_out", values="score").to_numpy()


def test_scores_are_those_of_the_picks(loaded: SweepResults) -> None:
    for row in loaded.results.rows:
        found = scores_of(loaded.results, TRAINING, row, SET)
        assert list(found) == [0, 1, 2, 3]
        assert np.array(list(found.values())).tolist() == by_hand(loaded, row).tolist()


def test_the_average_has_the_error_of_the_averages_table(loaded: SweepResults) -> None:
    """The table over data sets gives its column the paired, trial-wise error, by DomainBed's formula."""
    cells = loaded.table("training-domain").query("dataset == 'Averages' and column == @SET").set_index("row")
    for found in table_statistics(loaded.results, TRAINING, SET).rows:
        own = by_hand(loaded, found.row).mean(axis=1)
        assert 100 * found.average.mean == pytest.approx(cells.loc[found.row, "mean"])
        assert 100 * stats.sem(own, ddof=0) == pytest.approx(cells.loc[found.row, "error"])
        assert found.average.error == pytest.approx(stats.t.ppf(0.975, 3) * stats.sem(own))


def test_differences_are_taken_within_trials(loaded: SweepResults) -> None:
    ours, theirs = by_hand(loaded, "ERM+SWAD"), by_hand(loaded, "ERM")
    found = compare_rows(loaded.results, TRAINING, "ERM+SWAD", "ERM", SET)
    assert found
    assert found.difference == pytest.approx((ours - theirs).mean())
    assert found.p == pytest.approx(stats.wilcoxon((ours - theirs).ravel()).pvalue)
    (line,) = loaded.compare("ERM+SWAD", "ERM", "training-domain").itertuples()
    assert line.difference == pytest.approx(100 * found.difference)
    assert (line.low, line.high) == (pytest.approx(100 * found.by_trial.low), pytest.approx(100 * found.by_trial.high))
    assert (line.pairs, line.trials, line.p_holm, line.refused) == (12, 4, line.p, "")
    assert line.low < line.difference < line.high


def test_statistics_of_every_row(loaded: SweepResults) -> None:
    frame = loaded.statistics("training-domain").set_index("row")
    assert list(frame.index) == ["ERM", "ERM+SWAD", "ERM+DiWA"]
    assert math.isnan(frame.loc["ERM", "delta"])
    for row in ("ERM+SWAD", "ERM+DiWA"):
        difference = by_hand(loaded, row).mean() - by_hand(loaded, "ERM").mean()
        assert frame.loc[row, "delta"] == pytest.approx(100 * difference)
        lost = by_hand(loaded, row, "oracle") - by_hand(loaded, row)
        assert frame.loc[row, "lost"] == pytest.approx(100 * lost.mean(), abs=1e-9)
    assert frame["candidates"].tolist() == [6, 2, 1]
    assert frame.loc["ERM", "worst"] == pytest.approx(100 * by_hand(loaded, "ERM").mean(axis=0).min())
    other = loaded.statistics("training-domain", reference="ERM+SWAD").set_index("row")
    assert other.loc["ERM", "delta"] == pytest.approx(-frame.loc["ERM+SWAD", "delta"])


def test_incomplete_trials_are_left_out(tmp_path: Path) -> None:
    table = OWN["make"](tmp_path, trials=4)
    folder = OWN["folder"](tmp_path, table, kind="train", hparams_seed=1, trial=2, held_out=("+80%",))
    (folder.path / "done").unlink()
    loaded = dgbench.load_results(tmp_path)
    assert list(scores_of(loaded.results, TRAINING, "ERM", SET)) == [0, 1, 3]
    assert list(scores_of(loaded.results, TRAINING, "ERM+DiWA", SET)) == [0, 1, 2, 3]
    (line,) = loaded.compare("ERM", "ERM+DiWA").itertuples()
    assert line.trials == 3


def test_too_few_trials_get_a_line_and_no_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    OWN["make"](tmp_path, trials=2)
    (line,) = dgbench.load_results(tmp_path).compare("ERM", "ERM+SWAD").itertuples()
    assert line.refused == "2 trials, of 3 that it takes"
    assert all(map(math.isnan, (line.low, line.high, line.bootstrap_low, line.p)))
    assert collect([str(tmp_path), "--statistics", "--selector", "training-domain"]) == 0
    said = capsys.readouterr().out
    assert "# ERM: no interval and no test, 2 trials, of 3 that it takes" in said
    (row,) = (line for line in said.splitlines() if line.startswith("ERM+SWAD † "))
    assert row.split()[3:6] == ["-", row.split()[4], "-"]


def test_collect_prints_statistics(root: Path, loaded: SweepResults, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(root), "--selector", "training-domain"]
    words += ["--reference", "ERM+SWAD"]
    assert collect(words) == 0
    plain = capsys.readouterr().out
    assert collect([*words, "--statistics"]) == 0
    said = capsys.readouterr().out
    assert set(plain.splitlines()) <= set(said.splitlines()), "the tables stay as they are"
    (header,) = (line for line in said.splitlines() if "Δ ERM+SWAD" in line and "candidates" in line)
    assert header.split() == [
        "Algorithm",
        "Avg",
        "95",
        "%",
        "Δ",
        "ERM+SWAD",
        "95",
        "%",
        "p",
        "worst",
        "std",
        "sampling",
        "lost",
        "candidates",
    ]
    frame = loaded.statistics("training-domain", reference="ERM+SWAD").set_index("row")
    (line,) = (line for line in said.splitlines() if line.startswith("ERM ") and " to " in line)
    assert f"{frame.loc['ERM', 'delta']:+.1f}" in line
    assert f"{frame.loc['ERM', 'low']:.1f} to {frame.loc['ERM', 'high']:.1f}" in line
    assert "more trials would settle a difference of 1 point from ERM+SWAD" in said
    for style, part in {
        "markdown": "| Δ ERM+SWAD | 95 % |",
        "json": '"settled_by"',
        "latex": r"& $\Delta$ ERM+SWAD & 95 \% & p &",
    }.items():
        assert collect([*words, "--statistics", "--format", style]) == 0
        assert part in capsys.readouterr().out
    assert cli.run(collect, [*words, "--statistics", "--format", "csv"]) == 2
    assert "--statistics goes with --format text, markdown, latex, json, not csv" in capsys.readouterr().err
    assert cli.run(collect, [*words, "--statistics", "--reference", "ERN"]) == 2
    assert "unknown row 'ERN': did you mean 'ERM'" in capsys.readouterr().err


def test_ranks_over_data_sets_and_over_folds(loaded: SweepResults, three_sets: SweepResults) -> None:
    one = loaded.ranks("oracle")
    assert one.attrs["voters"] == ["+90%", "+80%", "-90%"]
    found = three_sets.ranks("oracle")
    assert found.attrs["voters"] == ["PACS", "VLCS", SET]
    assert sorted(found["kemeny"]) == [1, 2, 3]
    assert found["mean_rank"].is_monotonic_increasing
    assert found["mean_rank"].sum() == pytest.approx(6)
    assert set(found.attrs["winners"]) >= {"Borda", "Kemeny", "mean rank"}
    assert 0 <= found.attrs["friedman"]["p"] <= 1
    table = three_sets.table("oracle").query("dataset == 'Averages' and column == 'Avg'").set_index("row")
    for line in found.itertuples():
        assert line.mean_score == pytest.approx(table.loc[line.row, "mean"])


def test_selection_correlations_and_search(loaded: SweepResults) -> None:
    selection = loaded.selection()
    assert set(selection["selector"]) == {"training-domain", "leave-one-domain-out", "oracle"}
    assert (selection["best"] >= selection[["score", "oracle"]].max(axis=1)).all()
    assert (selection.query("selector == 'oracle'")["lost"] == 0).all()
    assert len(selection.query("selector == 'training-domain'")) == 3 * 3 * 4
    correlations = loaded.correlations().query("row == 'ERM'")
    records = loaded.records
    mine = records[(records.row == "ERM") & (records.held_out == "+90%") & (records.metric == "accuracy")]
    runs = ["trial", "hparams_seed", "step"]
    validation = mine[(mine.domain != "+90%") & (mine.part == "out")].groupby(runs)["value"].mean()
    test = mine[(mine.domain == "+90%") & (mine.part == "in")].set_index(runs)["value"]
    expected = np.corrcoef(validation.sort_index(), test.sort_index())[0, 1]
    assert correlations.set_index("held_out").loc["+90%", "pearson"] == pytest.approx(expected)
    search = loaded.search("training-domain").query("row == 'ERM'")
    picks = loaded.picks("training-domain").query("row == 'ERM'").groupby("held_out", observed=True)["score"].mean()
    for line in search.query("draws == 2").itertuples():
        assert line.mean == pytest.approx(100 * picks[line.held_out])
    assert loaded.search("training-domain").query("row == 'ERM+DiWA'")["draws"].max() == 1


def test_wrong_rows_and_selectors_are_refused(loaded: SweepResults) -> None:
    with pytest.raises(UserError, match="unknown row 'ERN': did you mean 'ERM'"):
        loaded.compare("ERN", "ERM")
    with pytest.raises(UserError, match="unknown row"):
        loaded.statistics(reference="SAM")
    with pytest.raises(UserError, match="validation-domain on ColoredMNIST: not available"):
        loaded.statistics("validation-domain")
