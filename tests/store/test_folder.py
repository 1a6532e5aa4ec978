from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dgbench.store import folder as folder_module
from dgbench.store.folder import Store
from dgbench.store.state import State


def test_states_take_one_listing_a_run_and_read_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that those of ten thousand runs take a second."""
    store = Store(tmp_path)
    ids = [f"{i:020x}" for i in range(100)]
    for i, id in enumerate(ids):
        path = store.folder(id).path
        path.mkdir(parents=True)
        for name in ("run.json", "lease-0001", "lease-0001.released", "records.jsonl", "done")[: 5 - i % 2]:
            (path / name).touch()
    assert store.ids() == ids
    listed: list[str] = []
    real = os.listdir
    with monkeypatch.context() as patched:
        patched.setattr(os, "listdir", lambda path: listed.append(path) or real(path))
        patched.setattr(Path, "read_bytes", None)
        patched.setattr(Path, "stat", None)
        states = store.states(ids, 1)
    assert list(states.values()) == [State.DONE, State.WAITING] * 50
    assert listed == [str(store.folder(id).path) for id in ids]


def test_states_ask_the_file_server_for_its_time_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(folder_module, "file_clock", lambda root: asked.append(1) or time.time())
    ids = [f"{i:020x}" for i in range(3)]
    for id in ids:
        (tmp_path / "runs" / id).mkdir(parents=True)
        (tmp_path / "runs" / id / "lease-0001").touch()
    assert set(Store(tmp_path).states(ids, 0).values()) == {State.RUNNING}
    assert len(asked) == 1


@pytest.mark.parametrize("date", [-5, 1_000_000])
def test_cancel_is_seen_by_whoever_began_before(tmp_path: Path, date: float) -> None:
    """Whatever dates its files have, and however coarse the server's clock is."""
    store = Store(tmp_path)
    marks = [store.cancel_mark()]
    for _ in range(2):
        store.request_cancel()
        os.utime(tmp_path / "cancel", (1e9 + date,) * 2)
        marks.append(store.cancel_mark())
        assert store.cancel_mark() == marks[-1]
    assert marks[0] is None
    assert len(set(marks)) == 3


def test_none_of_it_imports_torch() -> None:
    modules = ("store.folder", "core.progress", "launchers.progress", "launchers.local", "launchers.forkserver")
    imports = "; ".join(f"import dgbench.{name}" for name in modules)
    subprocess.run([sys.executable, "-c", f"import sys; {imports}; assert 'torch' not in sys.modules"], check=True)
