"""The toy runs are importable here and in every process that a test starts."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)


@pytest.fixture(autouse=True)
def _toys(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [HERE, str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    """Waits for a condition; only one that never comes about fails, however busy the machine is."""

    def wait(condition: Callable[[], object]) -> None:
        end = time.monotonic() + 300
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.01)

    return wait


@pytest.fixture
def children() -> Callable[[int], set[int]]:
    """The living processes below one, by /proc."""

    def parents() -> dict[int, int]:
        found = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    state, parent = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[:2]
                except OSError:
                    continue
                if state not in "ZX":
                    found[int(entry)] = int(parent)
        return found

    def below(pid: int) -> set[int]:
        parent = parents()
        found, size = {pid}, 0
        while len(found) > size:
            size = len(found)
            found |= {child for child, its in parent.items() if its in found}
        return found - {pid}

    return below
