"""The README says nothing that was not run: its algorithm is the file that these tests train."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dgbench import cli, train
from dgbench import list as list_command
from dgbench.__main__ import COMMANDS
from dgbench.list import KINDS
from tests.support.places import ROOT, SHOWN

README = (ROOT / "README.md").read_text()
EXAMPLE = SHOWN / "smooth.py"


def test_the_algorithm_shown_is_the_one_that_is_run() -> None:
    assert EXAMPLE.read_text() in README


def test_the_algorithm_shown_trains(tmp_path: Path) -> None:
    words = ["--include", str(EXAMPLE), "--algorithm", "Smooth+SWAD", "--dataset", "RotatedDigits", "--test", "75"]
    code = cli.run(train.main, [*words, "--steps", "30", "--threads", "1", "--output_dir", str(tmp_path / "out")])
    assert code == 0


@pytest.mark.parametrize("what", KINDS)
def test_the_tables_of_methods_and_data_are_those_of_the_cards(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert list_command.main([what, "--markdown"]) == 0
    assert capsys.readouterr().out in README


def test_every_sweep_and_file_that_is_named_exists() -> None:
    for path in re.findall(r"\b(?:sweeps|benchmarks|results|tests)/[\w/.]+\.\w+", README):
        assert (ROOT / path).exists(), path


def test_every_command_is_named() -> None:
    for command in COMMANDS:
        assert re.search(rf"dgbench[. ]{command}\b", README), command
