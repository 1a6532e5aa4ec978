"""The command `analyze`."""

from __future__ import annotations

from pathlib import Path

import pytest

from dgbench import analyze, cli
from dgbench.core.errors import UserError
from tests.support.in_process import execute_all, sweep_of


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


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path / "runs", "ERM")
    sweep.write()
    with pytest.raises(UserError) as raised:
        analyze.main(["Sharpnes", str(sweep.root), "--rows", "SAM", "--csv", str(tmp_path / "none" / "x.csv")])
    name, row, csv = raised.value.problems
    assert "Sharpness" in name
    assert "SAM" in row
    assert csv.endswith(f"there is no folder {tmp_path / 'none'}")
