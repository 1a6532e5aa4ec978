"""Tables of sweeps that drop the worse draws on the way."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

import dgbench
from dgbench import cli, collect
from dgbench.launchers import here
from dgbench.launchers.here import Here
from dgbench.launchers.reconcile import Sweep
from dgbench.report import __main__ as report
from dgbench.report.cost import costs
from dgbench.report.figures.curves import read_curves
from dgbench.report.figures.draws import _centered
from dgbench.report.figures.training import _band
from dgbench.report.folders import combine, open_each
from dgbench.report.reader import read_results
from dgbench.report.results import Candidate, Series
from dgbench.report.selectors import SELECTORS
from dgbench.store.run_folder import RECORDS
from dgbench.store.state import State
from tests.support.in_process import execute, sweep_of

LENGTH = {"steps": 11, "checkpoint_freq": 5}
SEARCH = "successive halving (eta 3, rungs at steps 5)"


def collected(root: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.run(collect.main, [str(root), "--selector", "training-domain"]) in (0, 1)
    return capsys.readouterr().out


@pytest.fixture
def searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.setattr(here, "usable_cores", lambda: 1)
    return sweep_of(tmp_path / "searched", "ERM", "ERM+SWAD", search="halving", n_hparams=3, setting=LENGTH)


def test_the_budget_stands_below_each_table(
    searched: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(searched, searched.plan.runs[0])
    execute(searched, searched.plan.runs[1])
    before = collected(searched.root, capsys)
    assert f"# search: {SEARCH}: 12 of 33 steps trained (36 %), 0 of 3 runs to the end" in before
    assert "ERM [75], trial 0 hparams 0-1: paused" in before
    assert "ERM [75], trial 0 hparams 2: missing" in before
    assert Here().execute(searched) == 0
    capsys.readouterr()
    after = collected(searched.root, capsys)
    assert f"# search: {SEARCH}: 23 of 33 steps trained (70 %), 1 of 3 runs to the end" in after
    assert "missing, 0 failed" in after
    assert "0-2 (ERM);" in after, "dropped draws are candidates"
    assert re.search(r"# evaluated steps: 2-3 \(ERM\); 1 \(ERM\+SWAD\)", after)

    results = read_results(searched.root)
    states = searched.states()
    (ended,) = [run for run in searched.plan.runs if states[run.id] is State.DONE]
    (spot,) = results.candidates["ERM", "RotatedDigits"].values()
    steps = {seed: series.steps for seed, series in spot.items() if isinstance(series, Series)}
    assert steps == {seed: (0, 5, 10) if seed == ended.hparams_seed else (0, 5) for seed in range(3)}
    (swad,) = results.candidates["ERM+SWAD", "RotatedDigits"].values()
    assert list(swad) == [ended.hparams_seed], "what comes at a run's end is no candidate of a dropped one"

    frame = dgbench.load_results(searched.root).runs
    assert dict(zip(frame["run"], frame["state"], strict=True)) == {id: state.value for id, state in states.items()}
    cost = costs(results, {str(searched.root): results})[0]
    assert (cost.runs, cost.untimed) == (3, 0)

    # Beside a sweep of another row that trains every draw to its end.
    other = sweep_of(tmp_path / "other", "SAM", n_hparams=1, setting=LENGTH)
    assert Here().execute(other) == 0
    joined = combine(open_each([searched.root, other.root]))
    assert joined.search == results.search
    capsys.readouterr()
    assert cli.run(collect.main, [str(searched.root), str(other.root), "--selector", "training-domain"]) == 0
    assert f"{SEARCH}: 23 of 33 steps trained (70 %), 1 of 3 runs to the end (ERM, ERM+SWAD); random (SAM)" in (
        capsys.readouterr().out
    )


def test_the_oracle_reads_a_dropped_run_at_the_rung_where_it_ended(searched: Sweep) -> None:
    """It reads the last model of each run, and that of a dropped one is of its rung."""
    assert Here().execute(searched) == 0
    results, place = read_results(searched.root), ("ERM", "RotatedDigits")
    (((fold, trial), found),) = results.candidates[place].items()
    for chosen, series in found.items():
        assert isinstance(series, Series)
        # Best at the last step of this run, and better still at a step that the oracle doesn't read.
        values = np.full_like(series.values, 0.75)
        values[0] = 1.0
        changed = {**found, chosen: replace(series, values=values)}
        others = {**results.candidates, place: {(fold, trial): _scaled(changed, but=chosen)}}
        outcome = SELECTORS["oracle"].choose(replace(results, candidates=others), *place, fold, trial)
        assert outcome.pick
        assert (outcome.pick.hparams_seed, outcome.pick.step) == (chosen, series.steps[-1])
        assert (outcome.pick.value, outcome.pick.score, outcome.complete) == (0.75, 0.75, 3)
    assert sorted(series.steps[-1] for series in found.values() if isinstance(series, Series)) == [5, 5, 10]


def test_figures_don_t_mix_draws_that_were_trained_for_long_and_for_short(
    searched: Sweep, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert Here().execute(searched) == 0
    curves = [curve for curve in read_curves(read_results(searched.root), "RotatedDigits") if curve.row == "ERM"]
    assert sorted(curve.steps for curve in curves) == [(0, 5), (0, 5), (0, 5, 10)]
    at_rung = np.array([curve.outside[1] for curve in curves])
    assert _centered(curves).tolist() == pytest.approx((at_rung - at_rung.mean()).tolist())
    axes = Figure().add_subplot()
    _band(axes, [(curve.steps, curve.outside) for curve in curves], "black", "", "-")
    (line,) = axes.lines
    assert list(line.get_xdata()) == [0, 5, 10], "of the draw that was trained to its end"
    assert cli.run(report.main, [str(searched.root), "-o", str(tmp_path / "page.html")]) == 0
    page = " ".join((tmp_path / "page.html").read_text().split())
    assert "1 of 3 runs are finished, 2 were dropped by the search." in page


def _scaled(found: dict[int, Candidate], but: int) -> dict[int, Candidate]:
    """Bring the values of all series but one below a half."""
    return {
        seed: series if seed == but or not isinstance(series, Series) else replace(series, values=series.values / 2)
        for seed, series in found.items()
    }


def test_damage_of_a_dropped_run_is_no_result(searched: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert Here().execute(searched) == 0
    capsys.readouterr()
    dropped = next(run for run in searched.plan.runs if searched.states()[run.id] is State.DROPPED)
    path = searched.store.folder(dropped.id).path / RECORDS
    path.write_bytes(path.read_bytes().replace(b'"step":5', b'"step":4'))
    assert f"hparams {dropped.hparams_seed}: damaged" in collected(searched.root, capsys)
