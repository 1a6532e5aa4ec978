"""The steps of a launch: they look at a sweep's folder, and mend it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from dgbench.store import lease as leases
from dgbench.store.holder import Holder
from dgbench.store.process import Process
from tests.support.in_process import sweep_of


def test_runs_that_a_dead_machine_left_damaged_are_mended_after_one_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder elsewhere is gone at the second look, and all of them are looked at together first."""
    sweep = sweep_of(tmp_path / "sweep", "ERM", n_hparams=3)
    for run in sweep.plan.runs:
        folder = sweep.store.folder(run.id)
        folder.create(run)
        (folder.path / "run.json").write_text("{")
        lease = folder.path / "lease-0001"
        lease.write_bytes(Holder(Process("n1", "another kernel", 7, 7), beat=0.2, ttl=10).to_json())
        os.utime(lease, (time.time() - 60,) * 2)
    sleep, waits = time.sleep, list[float]()
    monkeypatch.setattr(leases.time, "sleep", lambda seconds: (waits.append(seconds), sleep(seconds)))
    assert sweep.repair() == 3
    assert len(waits) == 1
