"""The command `analyze`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dgbench import analyze, cli
from dgbench.core.errors import UserError
from dgbench.launchers.reconcile import Sweep
from dgbench.plan.planfile import read_plan
from dgbench.report.analyses import analyses_frame
from tests.support.in_process import execute, execute_all, sweep_of


def test_it_executes_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = execute_all(sweep_of(tmp_path / "runs", "ERM", "SAM", n_hparams=2, setting={"steps": 5})).root
    words = ["Alignment", str(root), "--rows", "ERM", "--csv", str(tmp_path / "found.csv")]
    assert cli.run(analyze.main, [*words, "--device", "cpu", "--jobs", "1"]) == 0
    printed = capsys.readouterr().out
    assert "Alignment: mean over 2 runs" in printed
    assert "coherence: squared length of the mean gradient" in printed
    assert len((tmp_path / "found.csv").read_text().splitlines()) == 1 + 2 * 4
    assert cli.run(analyze.main, ["Alignment", str(root), "--shown"]) == 0
    assert "Alignment: mean over 2 runs" in capsys.readouterr().out
    assert cli.run(analyze.main, ["Sharpness", str(root), "--shown"]) == 1


def test_values_of_an_analysis_are_runs_beside_those_of_other_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analyze, "execute", _execute)
    root = execute_all(sweep_of(tmp_path / "runs", "ERM", setting={"steps": 5}, hparams={})).root
    here = ["--device", "cpu", "--jobs", "1"]
    assert cli.run(analyze.main, ["Alignment:batch_size=4", str(root), *here, "--set", "Alignment.examples=8"]) == 0
    assert "Alignment:examples=8,batch_size=4: mean over 1 runs" in capsys.readouterr().out
    before = {run.id for run in read_plan(root).runs}
    assert cli.run(analyze.main, ["Alignment", str(root), *here, "--set", "Alignment.examples=4"]) == 0
    (new,) = {run.id for run in read_plan(root).runs} - before
    assert json.loads((root / "runs" / new / "run.json").read_text())["method"]["hparams"]["examples"] == 4
    found = analyses_frame([root])
    assert set(found["analysis"]) == {"Alignment:examples=8,batch_size=4", "Alignment:examples=4"}
    assert found.groupby("analysis", observed=True)["run"].nunique().tolist() == [1, 1]


def _execute(sweep: Sweep, launcher: object) -> int:
    """Execute a sweep in this process."""
    sweep.write()
    for run in sweep.plan.runs:
        assert sweep.states()[run.id].settled or execute(sweep, run) == 0
    return 0


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path / "runs", "ERM")
    sweep.write()
    with pytest.raises(UserError) as raised:
        analyze.main(["Sharpnes", str(sweep.root), "--rows", "SAM", "--csv", str(tmp_path / "none" / "x.csv")])
    name, row, csv = raised.value.problems
    assert "Sharpness" in name
    assert "SAM" in row
    assert csv.endswith(f"there is no folder {tmp_path / 'none'}")
    with pytest.raises(UserError) as raised:
        analyze.main(["Sharpness:m=x", "Curvature", str(sweep.root), "--set", "SAM.rho=1", "m=1", "Curvature.k=1"])
    rule, bare = raised.value.problems
    assert rule == "--set SAM.rho=1: write Sharpness.NAME=VALUE or Curvature.NAME=VALUE"
    assert bare == "--set m=1: write Sharpness.NAME=VALUE or Curvature.NAME=VALUE"
    with pytest.raises(UserError) as raised:
        analyze.main(["Sharpness:m=x", "Curvature", str(sweep.root), "--set", "Curvature.k=1"])
    assert len(raised.value.problems) == 2
