"""The declarations in sweeps/ say what their comments say."""

from __future__ import annotations

from pathlib import Path

import pytest

from dgbench import cli, sweep
from dgbench.catalogue import Catalogue

SWEEPS = Path(__file__).parent.parent / "sweeps"


def rows(file: Path) -> list[str]:
    text = file.read_text().partition("algorithms = [")[2].partition("]")[0]
    return [word.strip().strip('"') for word in text.split(",") if word.strip()]


def test_the_catalogue_sweep_names_every_algorithm(catalogue: Catalogue) -> None:
    assert sorted(rows(SWEEPS / "catalogue.toml")) == sorted(catalogue.of_kind("algorithm"))


@pytest.mark.parametrize("file", sorted(SWEEPS.glob("*.toml")), ids=lambda file: file.stem)
def test_every_declaration_can_be_planned(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["launch", "--sweep", str(file), "--output_dir", str(tmp_path / "out"), "--dry_run"]
    assert cli.run(sweep.main, words) == 0
    assert " runs\n" in capsys.readouterr().out
