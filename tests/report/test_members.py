"""The curve of a merged row over its number of members: planned once, executed as runs, and added up by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from dgbench import collect, load_results
from dgbench.core.errors import UserError
from dgbench.core.run import MODEL
from dgbench.launchers.reconcile import Sweep
from dgbench.plan.derived import MEMBER_DRAWS, TrainedRun, draw_members
from dgbench.report.members import curve
from dgbench.report.reader import read_results
from dgbench.report.selectors import SELECTORS
from dgbench.store import removal
from tests.support.in_process import execute_all, records_of, sweep_of

ROWS = ("ERM", "ERM+DiWA")
SETTING = {"steps": 4}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Three runs a trial, merged from one, two and all of them."""
    root = tmp_path_factory.mktemp("members")
    return execute_all(sweep_of(root, *ROWS, n_hparams=3, n_trials=2, members=["3", "1", "2"], setting=SETTING))


def test_the_rows_runs_are_those_of_a_sweep_without_a_curve(sweep: Sweep, tmp_path: Path) -> None:
    plain = sweep_of(tmp_path, *ROWS, n_hparams=3, n_trials=2, setting=SETTING)
    assert plain.plan.candidates == sweep.plan.candidates
    assert {run.id for run in plain.plan.runs} < {run.id for run in sweep.plan.runs}


def test_one_run_a_draw_is_planned_and_shared_where_it_is_there_anyway(sweep: Sweep) -> None:
    curves = sweep.plan.curves
    assert {members for _, _, members in curves} == {1, 2, 3}
    whole = [made.run.id for made in curves["ERM+DiWA", "RotatedDigits", 3]]
    assert whole == [made.run.id for made in sweep.plan.candidates["ERM+DiWA", "RotatedDigits"]]
    alone = curves["ERM+DiWA", "RotatedDigits", 1]
    assert {made.run.kind for made in alone} == {"train"}
    pairs = [made.run for made in curves["ERM+DiWA", "RotatedDigits", 2]]
    assert all(len(run.inputs) == 2 for run in pairs)
    assert len({run.inputs for run in pairs}) == len(pairs) >= 4
    for trial in (0, 1):
        trained = [made.run for made in sweep.plan.candidates["ERM", "RotatedDigits"] if made.run.trial == trial]
        first = {run.id for run in trained[:2]}
        assert any({source.run for source in run.inputs} == first for run in pairs if run.trial == trial)


def test_adapters_adapt_each_merged_model(sweep: Sweep, tmp_path: Path) -> None:
    more = sweep_of(tmp_path, "ERM+DiWA+T3A", n_hparams=3, n_trials=2, members=["1", "2"], setting=SETTING).plan.curves
    merged = sweep.plan.curves["ERM+DiWA", "RotatedDigits", 2]
    adapted = [made.run for made in more["ERM+DiWA+T3A", "RotatedDigits", 2]]
    assert {run.inputs[0].run for run in adapted} == {made.run.id for made in merged}
    assert {made.run.kind for made in more["ERM+DiWA+T3A", "RotatedDigits", 1]} == {"adapt"}


def test_draws_are_seeded_and_a_larger_one_contains_the_smaller(sweep: Sweep) -> None:
    run = sweep.plan.candidates["ERM", "RotatedDigits"][0].run
    runs = [TrainedRun(run, number) for number in range(20)]
    small, large = (draw_members(runs, number) for number in (4, 9))
    assert small == draw_members(runs, 4)
    assert len(small) == len(large) == MEMBER_DRAWS
    assert [number for _, number in small[0]] == [0, 1, 2, 3]
    assert all({n for _, n in few} < {n for _, n in many} for few, many in zip(small, large, strict=True))
    assert len(draw_members(runs, 20)) == 1


def test_points_are_means_over_draws_then_trials(sweep: Sweep) -> None:
    found = curve(read_results(sweep.root), SELECTORS["oracle"], "RotatedDigits")
    points = {(point.row, point.members): point for point in found}
    for members in (1, 2, 3):
        values: dict[int, list[float]] = {0: [], 1: []}
        for made in sweep.plan.curves["ERM+DiWA", "RotatedDigits", members]:
            (*_, last) = records_of(sweep.store.folder(made.run.id), MODEL)
            values[made.run.trial].append(last["views"][str(made.run.fold.test[0])]["accuracy"])
        point = points["ERM+DiWA", members]
        assert point.mean.mean == pytest.approx(np.mean([np.mean(each) for each in values.values()]), abs=1e-12)
        assert point.by_fold == (pytest.approx(point.mean.mean),)
        assert point.draws == max(map(len, values.values()))
        several = [np.var(each, ddof=1) for each in values.values() if len(each) > 1]
        if several:
            assert point.between_draws == pytest.approx(np.sqrt(np.mean(several)), abs=1e-12)
        else:
            assert np.isnan(point.between_draws)


def test_collect_shows_the_curve_below_the_tables(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(sweep.root)
    assert collect.main([root]) == 0
    plain = capsys.readouterr().out
    assert collect.main([root, "--members", "1", "3", "--rows", "ERM*DiWA"]) == 0
    shown = capsys.readouterr().out
    assert "-------- Members on RotatedDigits, model selection method: training-domain validation set" in shown
    assert "-------- Members" not in plain
    assert "no interval: 2 trials, of 3 that it takes" in shown
    assert collect.main([root, "--members", "--format", "json"]) == 0
    sections = json.loads(capsys.readouterr().out)["sections"]
    assert [p["members"] for p in sections[0]["points"]] == [1, 2, 3]


def test_the_curve_is_drawn_with_a_band_over_draws(sweep: Sweep) -> None:
    results = load_results(sweep.root)
    axes = results.plot.members(selector="oracle")
    points = {p.members: p for p in curve(results.results, SELECTORS["oracle"], "RotatedDigits")}
    (dots,) = (line for line in axes.lines if line.get_gid() == "members-ERM+DiWA")
    assert dots.get_label() == "ERM+DiWA"
    assert list(dots.get_xdata()) == [1, 2, 3]
    assert list(dots.get_ydata()) == pytest.approx([100 * points[n].mean.mean for n in (1, 2, 3)])
    (band,) = axes.collections
    highest = np.nanmax(band.get_paths()[0].vertices[:, 1])
    assert highest == pytest.approx(max(100 * (points[n].mean.mean + points[n].between_draws) for n in (1, 2)))
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "3"]


def test_costs_count_the_runs_of_the_curve(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    results = load_results(sweep.root)
    runs = results.cost().set_index("row").runs
    assert runs["ERM+DiWA"] == 8
    drawn = {made.run.id for cell in sweep.plan.curves.values() for made in cell}
    assert runs["ERM+DiWA, by members"] == len(drawn | {run.id for run in sweep.plan.runs if run.kind == "train"})
    assert runs["all rows"] == len(sweep.plan.runs)
    assert collect.main([str(sweep.root), "--cost", "--rows", "ERM+DiWA"]) == 0
    assert f"ERM+DiWA, by members  {runs['ERM+DiWA, by members']} " in capsys.readouterr().out


def test_missing_runs_are_named_in_place_of_a_number(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    run = sweep.plan.curves["ERM+DiWA", "RotatedDigits", 2][0].run
    removal.reset(sweep.store.folder(run.id), done_too=True)
    assert collect.main([str(sweep.root), "--members", "2", "--rows", "ERM+DiWA", "--selector", "oracle"]) == 0
    assert re.search(r"ERM\+DiWA +2 +1 run (missing|waiting)", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--members", "5"], "--members 5: the sweep has 1, 2, 3"),
        (["--members", "--format", "csv"], "--members goes with --format"),
    ],
)
def test_what_can_not_be_shown_is_refused(sweep: Sweep, words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        collect.main([str(sweep.root), *words])


@pytest.mark.parametrize(
    ("rows", "members", "said"),
    [
        (["ERM+T3A"], ["1"], "no row of this launch merges several runs"),
        (["ERM+DiWA", "ERM+WiSEFT"], ["2", "4"], r"ERM\+DiWA can't be merged from 4 runs: --n_hparams gives 3 of them"),
        (["ERM+DiWA"], ["0", "x"], "--members 0 is no number of runs"),
    ],
)
def test_what_can_not_be_merged_is_refused(tmp_path: Path, rows: list[str], members: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        sweep_of(tmp_path, *rows, n_hparams=3, members=members)
