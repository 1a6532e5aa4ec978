from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dgbench.store import folder as folder_module
from dgbench.store.folder import Store
from dgbench.store.run_folder import RunFolder
from dgbench.store.state import State
from dgbench.store.verified import FILE, forget
from tests.store.test_run_folder import TOY

SUMMARY = {"fingerprint": "", "versions": {}, "commit": "", "sources": {}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A finished run of a minute ago, by the clock of the server."""
    folder = RunFolder(tmp_path, TOY.id)
    folder.create(TOY)
    folder.append_records([{"step": 1}])
    folder.finish(SUMMARY)
    monkeypatch.setattr(folder_module, "file_clock", lambda root: time.time() + 60)
    return folder


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the runs whose files were read."""
    found: list[str] = []
    real = RunFolder.damage
    monkeypatch.setattr(RunFolder, "damage", lambda self, rung=None: found.append(self.id) or real(self, rung))
    return found


def state(root: Path) -> State:
    (found,) = Store(root).states([TOY.id], 0, thorough=True).values()
    return found


def test_files_are_read_once_until_the_server_says_otherwise_of_one(
    tmp_path: Path, folder: RunFolder, read: list[str]
) -> None:
    assert [state(tmp_path) for _ in range(3)] == [State.DONE] * 3
    assert len(read) == 1
    for name in ("run.json", "records.jsonl", "done"):
        os.utime(folder.path / name)
        assert [state(tmp_path) for _ in range(2)] == [State.DONE] * 2
    assert len(read) == 4


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("run.json", b'"trial": 0', b'"trial": 7'),
        ("records.jsonl", b'"step":1', b'"step":7'),
        ("done", b'"sha256"', b'"sha257"'),
    ],
)
@pytest.mark.parametrize("same_dates", [False, True])
def test_a_changed_byte_is_damage_at_the_next_look(
    tmp_path: Path, folder: RunFolder, name: str, old: bytes, new: bytes, same_dates: bool
) -> None:
    assert state(tmp_path) is State.DONE
    path = folder.path / name
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    if same_dates:  # as a program that copies files keeps them; the date of the change itself can't be set
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert state(tmp_path) is State.DAMAGED
    assert state(tmp_path) is State.DAMAGED


@pytest.mark.parametrize("name", ["run.json", "records.jsonl"])
def test_a_file_that_is_gone_or_a_folder_is_damage_at_the_next_look(
    tmp_path: Path, folder: RunFolder, name: str
) -> None:
    assert state(tmp_path) is State.DONE
    (folder.path / name).unlink()
    assert state(tmp_path) is State.DAMAGED
    (folder.path / name).mkdir()
    assert state(tmp_path) is State.DAMAGED


def test_what_may_change_again_within_a_tick_of_the_clock_is_not_remembered(
    tmp_path: Path, folder: RunFolder, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "file_clock", lambda root: time.time() + 1)
    assert [state(tmp_path) for _ in range(3)] == [State.DONE] * 3
    assert len(read) == 3
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b'{"format": 1, "ru'),
        lambda path: path.write_bytes(b"[]"),
        lambda path: path.write_bytes(path.read_bytes().replace(b'"format":1', b'"format":2')),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: forget(path.parent),
    ],
)
def test_without_a_memory_that_can_be_read_everything_is_read(
    tmp_path: Path, folder: RunFolder, read: list[str], spoil: Callable[[Path], object]
) -> None:
    assert state(tmp_path) is State.DONE
    spoil(tmp_path / FILE)
    assert state(tmp_path) is State.DONE
    assert len(read) == 2


def test_a_copy_of_the_folder_is_read_anew(tmp_path: Path, folder: RunFolder, read: list[str]) -> None:
    assert state(tmp_path) is State.DONE
    for path in folder.path.iterdir():
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    assert state(tmp_path) is State.DONE
    assert len(read) == 2
