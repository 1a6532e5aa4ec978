"""Removal of results: what goes and in which order, and that a lost lease stops it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dgbench.core.protocol import Fold, View
from dgbench.core.run import ResolvedEntry, Run
from dgbench.core.setting import setting
from dgbench.store import removal
from dgbench.store.lease import lease_name
from dgbench.store.run_folder import RECORDS, RunFolder
from dgbench.store.state import State

FOLD = Fold(("b",), (View("a", "in"),), (View("a", "out"),), (View("b", "in"),))
TOY = Run("train", ResolvedEntry("Toy", {"lr": 0.1}), "Data", FOLD, 0, 0, setting())


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path, TOY.id)
    folder.create(TOY)
    return folder


def test_reset_removes_all_but_the_run_and_the_lease_numbers(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = folder.claim()
    assert lease is not None
    folder.append_records([{"i": 0}])
    (folder.path / "models").mkdir()
    (folder.path / "models" / "model.safetensors").touch()
    folder.fail({}, 1)
    folder.finish({})
    assert not removal.reset(folder, done_too=True), "somebody executes it"
    assert folder.state(0) is State.DONE
    lease.release()
    assert not removal.reset(folder), "it has finished"
    assert folder.state(0) is State.DONE
    removed: list[str] = []
    real = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path, **options: (removed.append(path.name), real(path, **options))[1])
    assert removal.reset(folder, done_too=True)
    removed = [name for name in removed if not name.startswith(".lease-")]
    assert removed[0] == "done", "while something is missing, nothing says that the run is done"
    left = {name for name in os.listdir(folder.path) if not name.startswith("lease-")}
    assert left == {"run.json"}
    assert folder.state(0) is State.WAITING
    again = folder.claim()
    assert again is not None
    assert again.number == 3


@pytest.mark.parametrize("what", ["reset", "repair", "remove"])
def test_a_removal_that_another_process_has_taken_for_dead_stops(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    for name in ("checkpoint.pt", "log.txt", RECORDS):
        (folder.path / name).write_text(name)
    removed: list[Path] = []

    def slowly(path: Path) -> None:
        removed.append(path)
        (folder.path / lease_name(2)).touch()
        path.unlink()

    monkeypatch.setattr("dgbench.store.removal.remove_path", slowly)
    assert getattr(removal, what)(folder, *[TOY] * (what == "repair")) is False
    assert len(removed) == 1
    assert len([name for name in ("checkpoint.pt", "log.txt", RECORDS) if (folder.path / name).exists()]) == 2
