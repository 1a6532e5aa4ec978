"""A sweep written for DomainBed gives the same tables when it is read back."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from dgbench import cli
from dgbench.core.protocol import LeaveOneDomainOut, SingleSource
from dgbench.export import main
from dgbench.report.folders import open_results
from dgbench.report.selectors import default_selectors
from dgbench.report.tables import build
from tests.support.places import SUPPORT

OWN: dict[str, Any] = runpy.run_path(str(SUPPORT / "own_sweep.py"))


def export(source: Path, target: Path) -> int:
    return main(["--format", "domainbed", "--input_dir", str(source), "--output_dir", str(target)])


def cells(root: Path) -> dict[tuple[str, ...], str]:
    results = open_results(root)
    return {
        (table.title, row, cell.column): str(cell)
        for table in build(results, default_selectors(results)).tables
        for row, found in table.rows.items()
        for cell in found
    }


def test_round_trip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "own", tmp_path / "out"
    source.mkdir()
    OWN["make"](source, trials=3)
    assert export(source, target) == 0
    assert capsys.readouterr().out == f"wrote {6 * 3 * 5} runs to {target}\n"
    expected = cells(source)
    assert len(expected) == 3 * 3 * (4 + 2)
    assert cells(target) == expected


@pytest.mark.parametrize("pairs", [False, True])
def test_round_trip_of_one_test_domain(tmp_path: Path, pairs: bool) -> None:
    source, target = tmp_path / "own", tmp_path / "out"
    source.mkdir()
    OWN["make"](source, protocol=LeaveOneDomainOut(pairs=pairs, only=("-90%",)))
    export(source, target)
    expected = cells(source)
    assert {column for _, _, column in expected} == {"-90%", "Avg", "ColoredMNIST"}
    assert cells(target) == expected
    assert all(said[0].isdigit() for said in expected.values())


def test_records_are_domainbeds(tmp_path: Path) -> None:
    source, target = tmp_path / "own", tmp_path / "out"
    source.mkdir()
    OWN["make"](source, trials=1, hparams=1)
    export(source, target)
    assert all((folder / "done").read_text() == "done" for folder in target.iterdir())
    files = [
        [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
        for folder in target.iterdir()
    ]
    (records,) = (f for f in files if f[0]["args"]["algorithm"] == "ERM" and f[0]["args"]["test_envs"] == [0, 2])
    assert [record["step"] for record in records] == [0, 5, 9]
    keys = {f"env{i}_out_acc" for i in range(3)} | {"env0_in_acc", "env2_in_acc"}
    assert all(set(record) == {"args", "hparams", "step", *keys} for record in records)
    assert records[0]["hparams"] == {"lr": 1e-3}
    assert records[0]["args"]["dataset"] == "ColoredMNIST"
    assert (records[0]["args"]["steps"], records[0]["args"]["holdout_fraction"]) == (10, 0.2)
    assert {f[0]["args"]["algorithm"] for f in files} == {"ERM", "ERM+SWAD", "ERM+DiWA"}


def test_only_finished_runs_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "own", tmp_path / "out"
    source.mkdir()
    table = OWN["make"](source, trials=1, hparams=1)
    (OWN["folder"](source, table, kind="train", held_out=("+90%",)).path / "done").unlink()
    assert export(source, target) == 0
    assert f"wrote {6 * 3 - 2} runs" in capsys.readouterr().out
    assert len(list(target.iterdir())) == 6 * 3 - 2


def test_data_sets_that_domainbed_lacks_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "own", tmp_path / "out"
    source.mkdir()
    OWN["make"](source, trials=1, hparams=1, dataset="Mine")
    assert export(source, target) == 0
    assert "DomainBed has no data set called Mine" in capsys.readouterr().out
    assert sorted(cells(target)) == sorted(
        (title, row, {"+90%": "env0", "+80%": "env1", "-90%": "env2"}.get(column, column))
        for title, row, column in cells(source)
    )


def test_everything_wrong_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    words = ["--format", "domainbad", "--input_dir", str(tmp_path / "no"), "--output-dir", str(tmp_path / "full")]
    assert cli.run(main, words) == 2
    said = capsys.readouterr().err
    assert "did you mean 'domainbed'?" in said
    assert "holds something already" in said
    assert "no: there is no such folder" in said
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["file"]


def test_other_protocols_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "own", tmp_path / "out"
    source.mkdir()
    OWN["make"](source, trials=1, hparams=1, protocol=SingleSource())
    words = ["--format", "domainbed", "--input_dir", str(source), "--output_dir", str(target)]
    assert cli.run(main, words) == 2
    assert "single-source" in capsys.readouterr().err
    assert not target.exists()
