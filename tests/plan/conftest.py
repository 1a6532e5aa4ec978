"""A launch through the real command that must be refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dgbench import cli
from dgbench.launchers.reconcile import Sweep
from tests.support.commands import sweep

Refused = Callable[..., list[str]]


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """A folder that nobody made."""
    return tmp_path / "new"


@pytest.fixture
def refused(new: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Launch with some flags; every line of what was said, having seen that it was refused and nothing written."""
    monkeypatch.setattr(Sweep, "execute", lambda self, *args, **jobs: 0)

    def launch(*words: str, output_dir: Path = new) -> list[str]:
        named = [word for word in ("--algorithms", "--datasets") if word in words or "--sweep" in words]
        basic = {"--algorithms": ["ERM"], "--datasets": ["RotatedDigits"]}
        missing = [part for flag, value in basic.items() if flag not in named for part in (flag, *value)]
        before = files(output_dir)
        code = cli.run(sweep.main, ["launch", *missing, *words, "--output_dir", str(output_dir)])
        said = capsys.readouterr()
        assert code == 2, said
        assert not said.out or output_dir != new, "only a disk is found out once it is said what is launched"
        assert files(output_dir) == before
        lines = said.err.splitlines()
        assert all(line.startswith("dgbench: error: ") for line in lines), said.err
        return [line.removeprefix("dgbench: error: ") for line in lines]

    return launch


def files(folder: Path) -> dict[str, bytes] | None:
    """All that a folder holds; None if there is none."""
    if not os.path.isdir(folder):  # of a name that is too long, `Path.is_dir` raises
        return None
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
